//! How a log ends, and what it must hold when it is opened again.

use std::sync::Arc;

use nezha_vlog::fs::{FailKind, FailWith};
use nezha_vlog::{Error, Log, Recovered, Writer, inspect};
use rand::RngExt;

use super::super::check::{check_head, cuts, read_all, read_heads};
use super::super::model::Model;
use super::History;

impl History {
    /// The power goes in the middle of a write.
    pub(super) fn power_cut(&mut self) {
        self.append();
        if self.rng.random_bool(0.3) {
            self.vote();
        }
        // A group takes two operations, a rotation six more.
        let skip = if self.rng.random_bool(0.7) {
            self.rng.random_range(0..3)
        } else {
            self.rng.random_range(0..11)
        };
        self.fs.halt_after(skip);
        while let Ok(Some(_)) = self.step() {}
        self.crash("power cuts");
    }

    /// The process dies, after a failed operation or just so; the page cache survives, or not.
    pub(super) fn kill(&mut self) {
        if self.rng.random_bool(0.7) {
            self.append();
            let with = [FailWith::Eio, FailWith::Enospc][self.rng.random_range(0..2)];
            let kinds = [
                FailKind::Any,
                FailKind::Write,
                FailKind::Sync,
                FailKind::SyncDir,
                FailKind::Create,
            ];
            let kind = kinds[self.rng.random_range(0..kinds.len())];
            self.fs.fail(kind, self.rng.random_range(0..4), with);
            while !self.log().is_poisoned() && self.fs.operations() < u64::MAX {
                match self.step() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(Error::Poisoned { .. }) => self.tally.count("poisoned by a failed operation"),
                    Err(e) => panic!("{e}"),
                }
            }
            self.fs.disarm();
            if self.log().is_poisoned() {
                // Nothing is retried, nothing is taken any more (I7).
                assert!(matches!(
                    self.log.as_mut().unwrap().1.step(),
                    Err(Error::Poisoned { .. })
                ));
                assert!(matches!(
                    self.log().append(vec![], self.done(0)),
                    Err(Error::Poisoned { .. })
                ));
            }
        }
        if self.rng.random_bool(0.5) {
            self.crash("power cuts after a failed operation or an idle moment");
        } else {
            self.log = None;
            self.acks.lock().unwrap().clear();
            self.fs = self.fs.fork();
            self.tally.count("kills");
        }
    }

    fn crash(&mut self, what: &'static str) {
        self.tally.count(what);
        if self.fs.unsynced() > 0 {
            self.tally.count("crashes with unsynced bytes or names");
            self.torn = true;
        }
        self.fs = self.fs.crash(self.rng.random());
        self.log = None;
        self.acks.lock().unwrap().clear();
    }

    /// Opens, with more crashes and failures on the way, and compares with the model.
    pub(super) fn reopen(&mut self) {
        while self.rng.random_bool(0.3) {
            if self.rng.random_bool(0.6) {
                self.fs.halt_after(self.rng.random_range(0..20));
                self.open_under_faults();
                self.fs = self.fs.crash(self.rng.random());
                self.tally.count("crashes during recovery");
            } else {
                let with = [FailWith::Eio, FailWith::Enospc][self.rng.random_range(0..2)];
                self.fs.fail(FailKind::Any, self.rng.random_range(0..20), with);
                self.open_under_faults();
                self.fs.disarm();
                self.tally.count("failures during recovery");
            }
        }
        let (log, writer, recovered) = self.open().unwrap_or_else(|e| panic!("after a crash: {e}"));
        self.tally.case(recovered.case);
        recovered.notes.iter().for_each(|note| self.tally.case(*note));
        assert_eq!(recovered.cut.is_some(), cuts(recovered.case), "{recovered:?}");
        self.log = Some((log, writer));
        self.adopt();
        assert_eq!(
            (recovered.vote, recovered.purged),
            (self.acked.vote, self.acked.purged)
        );
        assert_eq!(
            (recovered.last, recovered.committed),
            (self.acked.last, self.acked.committed)
        );
    }

    fn open(&self) -> Result<(Log, Writer, Recovered), Error> {
        Log::open(Arc::new(self.fs.clone()), &self.dir, self.options.clone())
    }

    /// Opens and closes; a planned fault may be met, and nothing else.
    fn open_under_faults(&self) {
        let opened = self.open();
        assert!(
            opened.is_ok() || matches!(opened, Err(Error::Io { .. })),
            "{:?}",
            opened.err()
        );
    }

    /// Finds the prefix of the submissions that survived; everything acknowledged must be in it.
    fn adopt(&mut self) {
        let log = self.log();
        let found = Model {
            vote: log.vote(),
            purged: log.purged(),
            committed: log.committed(),
            last: log.last_log_id(),
            entries: read_all(log)
                .into_iter()
                .map(|entry| (entry.log_id.index, entry))
                .collect(),
        };
        let mut candidate = self.acked.clone();
        let mut pending = self.pending.drain(..);
        while candidate.reopened() != found {
            let Some((_, submission)) = pending.next() else {
                panic!(
                    "no prefix of the submissions explains what is left: vote {:?} purged {:?} committed {:?} last {:?}, \
                     acknowledged: vote {:?} purged {:?} committed {:?} last {:?}",
                    found.vote,
                    found.purged,
                    found.committed,
                    found.last,
                    self.acked.vote,
                    self.acked.purged,
                    self.acked.committed,
                    self.acked.last
                );
            };
            candidate.apply(&submission);
        }
        drop(pending);
        self.acked = candidate.reopened();
        self.submitted = self.acked.clone();
        let durable = self.log().durable_log_id();
        assert_eq!(durable, self.acked.last, "what was recovered is durable");
        for (head, entry) in read_heads(self.log()).iter().zip(self.acked.entries.values()) {
            check_head(self.log(), head, entry);
        }
        let walked = inspect::walk(&self.fs, &self.dir, &mut |_| ()).expect("readable");
        assert!(walked.is_sound(), "a recovered log is sound: {walked:?}");
    }
}
