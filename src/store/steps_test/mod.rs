//! Goal: a crash at any step of a job, of a transfer, of an install or of the opening after it loses nothing, mixes
//! nothing and leaves nothing (I4, I5, I6). Method: file system and index report each step that changes what is
//! durable; before and after each one the process is killed, and the power cut, in copies: of what was not synced any part
//! is left, of the index any prefix of its unflushed commits. Each copy is opened, compared with a model and with the
//! files that it needs, collected, and written to. The kinds of steps are listed below: one that is not reached fails the
//! test, and so does one that is not listed.

mod model;
mod ports;
mod recorder;

use std::ops::ControlFlow;

use nezha_gc::plan::Job;
use nezha_vlog::encode_record;
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::model::{Installed, Subject, add, write};
use self::recorder::{Action, Counts, Phase, Step, What};
use super::collect_test::{inputs, job, purge};
use super::staging_test::{meta, snapshot, stage};
use super::store_test::Node;
use super::*;
use crate::index::{ScanItem, ScanRange};
use crate::seed::{Named, seeds};

/// Kinds of steps of one phase.
type Listed = (Phase, &'static [(Action, What)]);

const APPEND: &[(Action, What)] = &[
    (Action::Write, What::LogSegment),
    (Action::Sync, What::LogSegment),
];
const APPLY: &[(Action, What)] = &[(Action::Commit, What::ApplyBatch)];
/// A write that begins the next segment of the log.
const ROTATE: &[(Action, What)] = &[
    (Action::Create, What::LogSegment),
    (Action::SyncDir, What::LogDir),
];
const CREATE: &[(Action, What)] = &[(Action::Create, What::ValueTemporary)];
const COMPLETE: &[(Action, What)] = &[
    (Action::Write, What::ValueTemporary),
    (Action::Sync, What::ValueTemporary),
    (Action::Rename, What::ValueSegment),
    (Action::SyncDir, What::ValuesDir),
];
const RELOCATE: &[(Action, What)] = &[(Action::Commit, What::RelocationBatch)];
const FLUSH: &[(Action, What)] = &[(Action::Flush, What::Index)];
const UNLINK_LOG: &[(Action, What)] = &[
    (Action::Unlink, What::LogSegment),
    (Action::SyncDir, What::LogDir),
];
const UNLINK_VALUES: &[(Action, What)] = &[
    (Action::Unlink, What::ValueSegment),
    (Action::SyncDir, What::ValuesDir),
];
const SWITCH: &[(Action, What)] = &[
    (Action::Create, What::CurrentTemporary),
    (Action::Write, What::CurrentTemporary),
    (Action::Sync, What::CurrentTemporary),
    (Action::Rename, What::Current),
    (Action::SyncDir, What::DataDir),
];
const REMOVE_STORE: &[(Action, What)] = &[
    (Action::RemoveTree, What::StoreDir),
    (Action::Forget, What::Index),
];
/// What an opening does in any case.
const RECOVER: &[(Action, What)] = &[
    (Action::SyncDir, What::DataDir),
    (Action::Write, What::LogSegment),
    (Action::Sync, What::LogSegment),
    (Action::SyncDir, What::LogDir),
    (Action::MakeDir, What::ValuesDir),
];
const UNLINK_TEMPORARY: &[(Action, What)] = &[(Action::Unlink, What::ValueTemporary)];
const UNLINK_CURRENT_TEMPORARY: &[(Action, What)] = &[(Action::Unlink, What::CurrentTemporary)];

const JOB_STEPS: &[Listed] = &[
    (Phase::Purge, FLUSH),
    (Phase::Purge, APPEND),
    (Phase::CollectLog, CREATE),
    (Phase::CollectLog, COMPLETE),
    (Phase::CollectLog, RELOCATE),
    (Phase::CollectLog, APPEND),
    (Phase::CollectLog, APPLY),
    (Phase::CollectLog, ROTATE),
    (Phase::CollectLog, FLUSH),
    (Phase::SweepLog, UNLINK_LOG),
    (Phase::CollectSorted, CREATE),
    (Phase::CollectSorted, COMPLETE),
    (Phase::CollectSorted, RELOCATE),
    (Phase::CollectSorted, APPEND),
    (Phase::CollectSorted, APPLY),
    (Phase::CollectSorted, ROTATE),
    (Phase::CollectSorted, FLUSH),
    (Phase::SweepSorted, UNLINK_VALUES),
    (Phase::SweepSorted, UNLINK_LOG),
    (Phase::Reopen, RECOVER),
    (Phase::Reopen, UNLINK_TEMPORARY),
    (Phase::Reopen, UNLINK_VALUES),
    (Phase::Reopen, UNLINK_LOG),
];

const TRANSFER_STEPS: &[Listed] = &[
    (Phase::Send, FLUSH),
    (Phase::Send, &[(Action::Send, What::Chunk)]),
    (Phase::CollectWhileSending, CREATE),
    (Phase::CollectWhileSending, COMPLETE),
    (Phase::CollectWhileSending, RELOCATE),
    (Phase::CollectWhileSending, FLUSH),
    (Phase::SweepAfterSending, UNLINK_LOG),
    (Phase::Stage, &[(Action::MakeDir, What::ValuesDir)]),
    (Phase::Stage, CREATE),
    (Phase::Stage, COMPLETE),
    (Phase::Stage, &[(Action::Commit, What::StagingBatch)]),
    (Phase::Finish, COMPLETE),
    (Phase::Finish, &[(Action::Commit, What::StagingBatch)]),
    (Phase::Finish, FLUSH),
    (
        Phase::Finish,
        &[
            (Action::SyncDir, What::StoreDir),
            (Action::SyncDir, What::DataDir),
            (Action::MakeDir, What::ValuesDir),
        ],
    ),
    (Phase::Install, SWITCH),
    (Phase::PurgeInstalled, APPEND),
    (Phase::SweepReplaced, REMOVE_STORE),
    (Phase::GoOn, APPEND),
    (Phase::GoOn, APPLY),
    (Phase::Reopen, RECOVER),
    (Phase::Reopen, UNLINK_TEMPORARY),
    (Phase::Reopen, UNLINK_VALUES),
    (Phase::Reopen, UNLINK_LOG),
    (Phase::Reopen, UNLINK_CURRENT_TEMPORARY),
    (Phase::Reopen, REMOVE_STORE),
];

const REPLACED_STEPS: &[Listed] = &[
    (Phase::CollectReplaced, CREATE),
    (Phase::CollectReplaced, COMPLETE),
    (Phase::CollectReplaced, RELOCATE),
    (Phase::CollectReplaced, SWITCH),
    (Phase::PurgeInstalled, APPEND),
    (Phase::SweepReplaced, REMOVE_STORE),
    (Phase::GoOn, APPEND),
    (Phase::GoOn, APPLY),
    (Phase::Reopen, RECOVER),
    (Phase::Reopen, UNLINK_TEMPORARY),
    (Phase::Reopen, UNLINK_VALUES),
    (Phase::Reopen, UNLINK_LOG),
    (Phase::Reopen, UNLINK_CURRENT_TEMPORARY),
    (Phase::Reopen, REMOVE_STORE),
];

/// Runs `job` while clients write; returns how many of its keys they overtook.
fn collect_while_writing(subject: &mut Subject, job: &Job, rng: &mut StdRng) -> u64 {
    let Subject { node, model, .. } = subject;
    let Node { store, writer, .. } = node;
    let store = &*store;
    let (mut records, segments) = (0, store.log().segments().len());
    let mut pace = |_| {
        records += 1;
        if records % 3 == 0 {
            write(store, writer, model, rng);
        }
        // Once, so many that the log goes on in another segment.
        while records == 3 && store.log().segments().len() == segments {
            write(store, writer, model, rng);
        }
        Pace::Go
    };
    let done = store.collect(job, store.view().number, &mut pace).unwrap();
    assert!(done.finished);
    done.overtaken
}

/// A job over the log, and one over what it made and the log since. Returns the steps, and how many keys clients overtook.
fn run_jobs(seed: u64) -> (Counts, u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut subject = Subject::new(seed);
    subject.fill(4, &mut rng);
    subject.recorder.enter(Phase::Purge);
    purge(&mut subject.node);
    let mut overtaken = 0;
    for (collect, sweep, level) in [
        (Phase::CollectLog, Phase::SweepLog, 1),
        (Phase::CollectSorted, Phase::SweepSorted, 2),
    ] {
        subject.recorder.enter(collect);
        let job = job(inputs(&subject.node), level);
        overtaken += collect_while_writing(&mut subject, &job, &mut rng);
        subject.recorder.enter(sweep);
        let swept = subject.node.store.sweep().unwrap();
        assert_eq!((swept.held, swept.files), (0, job.inputs.len() as u64));
        subject.recorder.enter(None);
        assert_eq!(subject.node.rows(), subject.model().rows());
        subject.fill(4, &mut rng);
        purge(&mut subject.node);
    }
    (subject.counts(), overtaken)
}

#[test]
fn a_crash_at_any_step_of_a_job_loses_nothing_and_leaves_nothing() {
    let (mut total, mut overtaken) = (Counts::new(), 0);
    for seed in seeds(6) {
        let _named = Named(seed);
        let (counts, moved) = run_jobs(seed);
        add(&mut total, counts);
        overtaken += moved;
    }
    assert_enumerated(&total, JOB_STEPS);
    assert!(overtaken > 0, "no write overtook a job");
}

/// Sends the view of one node to another, chunk by chunk, while a job runs at the sender; the receiver stages it.
fn send(sender: &Subject, receiver: &Subject) -> Staging {
    sender.recorder.enter(Phase::Send);
    sender.node.store.flush().unwrap();
    let view = sender.node.store.view();
    receiver.recorder.enter(Phase::Stage);
    let mut staging = receiver.node.store.stage().unwrap();
    let (mut rows, mut meanwhile) = (0, Swept::default());
    let mut visit = |item| {
        let ScanItem::Row { key, entry } = item else {
            return ControlFlow::Continue(());
        };
        if rows % 5 == 0 {
            sender.recorder.step(Action::Send, What::Chunk, || ());
        }
        if rows == 5 {
            sender.recorder.enter(Phase::CollectWhileSending);
            let (node, number) = (&sender.node, view.number);
            let job = job(inputs(node), 1);
            let done = node.store.collect(&job, number, &mut |_| Pace::Go).unwrap();
            assert!(done.finished);
            meanwhile = node.store.sweep().unwrap();
            sender.recorder.enter(Phase::Send);
        }
        rows += 1;
        let record = match view.read_record(&entry, &key).unwrap() {
            Some(record) => record,
            None => encode_record(entry.mod_revision, &key, &view.read(&entry, &key).unwrap()),
        };
        staging
            .push(entry.create_revision, entry.version, record)
            .unwrap();
        ControlFlow::Continue(())
    };
    view.index().scan(&ScanRange::all(), &mut visit).unwrap();
    assert_eq!(
        (meanwhile.held, meanwhile.files),
        (1, 0),
        "the view was being sent"
    );
    drop(view);
    sender.recorder.enter(Phase::SweepAfterSending);
    let swept = sender.node.store.sweep().unwrap();
    assert!(swept.held == 0 && swept.files > 0, "{swept:?}");
    staging
}

/// A receiver with log and sorted segments of its own.
fn receiver(seed: u64, rng: &mut StdRng) -> Subject {
    let mut receiver = Subject::new(seed);
    receiver.fill(3, rng);
    purge(&mut receiver.node);
    let job = job(inputs(&receiver.node), 1);
    collect_while_writing(&mut receiver, &job, rng);
    receiver.node.store.sweep().unwrap();
    receiver
}

fn install(store: &Store, staged: Staged, model: &std::sync::Mutex<model::Model>) {
    let set = |installed| model.lock().unwrap().installed = installed;
    set(Installed::Maybe);
    store.install(staged).unwrap();
    set(Installed::Yes);
}

/// What follows an install.
fn go_on(receiver: &mut Subject, at: LogId, rng: &mut StdRng) {
    receiver.recorder.enter(Phase::PurgeInstalled);
    receiver
        .node
        .store
        .log()
        .purge(at, Box::new(|done| done.unwrap()))
        .unwrap();
    receiver.node.step();
    receiver.recorder.enter(Phase::SweepReplaced);
    assert_eq!(receiver.node.store.sweep().unwrap().held, 0);
    receiver.recorder.enter(Phase::GoOn);
    for _ in 0..3 {
        receiver.write(rng);
    }
    receiver.recorder.enter(None);
    assert_eq!(receiver.node.rows(), receiver.model().rows());
}

#[test]
fn a_crash_at_any_step_of_a_transfer_leaves_the_old_store_or_the_new_one() {
    let mut total = Counts::new();
    for seed in seeds(6) {
        let _named = Named(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut receiver = receiver(seed, &mut rng);
        let mut sender = Subject::new(seed);
        while sender.node.last() <= receiver.node.last() {
            sender.fill(4, &mut rng);
            sender.write(&mut rng);
        }
        purge(&mut sender.node);
        let at = sender.node.store.log().last_log_id().unwrap();
        receiver.model().new.insert(at.index, sender.model().rows());
        let staging = send(&sender, &receiver);
        receiver.recorder.enter(Phase::Finish);
        let staged = staging
            .finish(SnapshotMeta {
                last_log_id: at,
                ..meta()
            })
            .unwrap();
        receiver.recorder.enter(Phase::Install);
        install(&receiver.node.store, staged, &receiver.model);
        go_on(&mut receiver, at, &mut rng);
        add(&mut total, sender.counts());
        add(&mut total, receiver.counts());
    }
    assert_enumerated(&total, TRANSFER_STEPS);
}

/// An install cancels the job that runs in the replaced store.
#[test]
fn a_crash_at_any_step_of_a_job_that_an_install_cancels() {
    let mut total = Counts::new();
    for seed in seeds(6) {
        let _named = Named(seed);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut receiver = receiver(seed, &mut rng);
        purge(&mut receiver.node);
        let rows = snapshot(seed, 20);
        let mut staged = Some(stage(&receiver.node.store, &rows).unwrap());
        let at = meta().last_log_id;
        receiver.model().new.insert(at.index, rows);
        receiver.recorder.enter(Phase::CollectReplaced);
        let (store, model) = (&receiver.node.store, &receiver.model);
        let mut records = 0;
        let mut pace = |_| {
            records += 1;
            if records == 9 {
                install(store, staged.take().unwrap(), model);
            }
            Pace::Go
        };
        let job = job(inputs(&receiver.node), 2);
        let done = store.collect(&job, store.view().number, &mut pace).unwrap();
        assert!(!done.finished && done.records >= 9, "{done:?}");
        go_on(&mut receiver, at, &mut rng);
        add(&mut total, receiver.counts());
    }
    assert_enumerated(&total, REPLACED_STEPS);
}

/// Every kind of step that is listed was taken, and no other.
fn assert_enumerated(counts: &Counts, listed: &[Listed]) {
    for ((phase, action, what), count) in counts {
        println!("{phase:?}: {action:?} {what:?}: {count}");
    }
    let listed = listed.iter().flat_map(|(phase, steps)| {
        let of_phase = |&(action, what): &(Action, What)| (*phase, action, what);
        steps.iter().map(of_phase)
    });
    let listed: std::collections::BTreeSet<Step> = listed.collect();
    let never: Vec<&Step> = listed.iter().filter(|step| !counts.contains_key(step)).collect();
    let unlisted: Vec<&Step> = counts.keys().filter(|step| !listed.contains(step)).collect();
    assert!(never.is_empty(), "never reached: {never:?}");
    assert!(unlisted.is_empty(), "reached, but not listed: {unlisted:?}");
}
