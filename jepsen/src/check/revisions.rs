//! What answers say of revisions: no answer is of an older state than one that was there before the call, and the
//! metadata of a key tells one story: created once, one version more with each write, until it is deleted.

use rustc_hash::FxHashMap;

use super::facts::{Facts, Floor, answer, proven};
use super::timeline::{Seen, Timeline};
use super::{Findings, Options};
use crate::history::{Answer, Stamp};

pub(super) fn check(facts: &Facts<'_>, options: &Options) -> Findings {
    let mut findings = Findings::new("revisions", options);
    claims(facts, &mut findings);
    let mut owners: FxHashMap<u64, &str> = FxHashMap::default();
    for line in &facts.lines {
        owners.extend(line.effects.iter().map(|effect| (effect.revision, line.key)));
    }
    for line in &facts.lines {
        let deletes = Deletes::of(line);
        let mut last: Option<&(Stamp, &str, usize)> = None;
        for entry in &line.stamps {
            let (stamp, value, position) = entry;
            if let Some((same, same_value, other)) = last
                && same.revision == stamp.revision
            {
                if same != stamp || same_value != value {
                    let text = format!(
                        "{} at revision {} was told in two ways: {}, and {}",
                        line.key,
                        stamp.revision,
                        told(same_value, same),
                        told(value, stamp)
                    );
                    findings.add(text, [*other, *position]);
                }
                continue;
            }
            last = Some(entry);
            if let Some(what) = contradiction(line, &deletes, &owners, *stamp) {
                let writer = line.effect(stamp.revision).and_then(|effect| effect.operation);
                let text = format!("{} was {}: {what}", line.key, told(value, stamp));
                findings.add(text, writer.into_iter().chain([*position]));
            }
        }
    }
    findings
}

/// What an answer says that it reflects never lies behind what others were told before. Scans say it exactly, which
/// `witness` looks at.
fn claims(facts: &Facts<'_>, findings: &mut Findings) {
    let answers = facts.operations.iter().enumerate();
    let floor = Floor::new(
        answers
            .filter_map(|(position, operation)| Some((operation.ended?, proven(operation, true), position))),
    );
    for (position, operation) in facts.operations.iter().enumerate() {
        let Some(Answer::Read { at: Some(at), .. }) = answer(operation) else {
            continue;
        };
        let (reached, by) = floor.before(operation.invoked);
        if *at < reached {
            let text = format!(
                "a read reflects revision {at}, but revision {reached} was told before it was invoked"
            );
            findings.add(text, by.into_iter().chain([position]));
        }
    }
}

fn told(value: &str, stamp: &Stamp) -> String {
    let Stamp {
        created,
        revision,
        version,
    } = stamp;
    format!("{value:?} (revision {revision}, created {created}, version {version})")
}

/// Deletes of one key, by revision.
struct Deletes(Vec<u64>);

impl Deletes {
    fn of(line: &Timeline<'_>) -> Deletes {
        let deletes = line.effects.iter().filter(|effect| effect.value.is_none());
        Deletes(deletes.map(|effect| effect.revision).collect())
    }

    fn up_to(&self, revision: u64) -> usize {
        self.0.partition_point(|delete| *delete <= revision)
    }
}

/// What is wrong with a stamp, given the writes that are known.
fn contradiction(
    line: &Timeline<'_>,
    deletes: &Deletes,
    owners: &FxHashMap<u64, &str>,
    stamp: Stamp,
) -> Option<String> {
    let Stamp {
        created,
        revision,
        version,
    } = stamp;
    if created > revision || version == 0 || (version == 1) != (created == revision) {
        return Some("that is no history of a key".to_owned());
    }
    for told in [revision, created] {
        if let Some(owner) = owners.get(&told).filter(|owner| **owner != line.key) {
            return Some(format!("revision {told} is a write of {owner}"));
        }
    }
    if !line.fits(Seen::Absent, created.saturating_sub(1)) {
        return Some("it existed before it was created".to_owned());
    }
    let loose_puts_by = |revision: u64| {
        let puts = line.loose.iter().filter(|loose| loose.value.is_some());
        puts.filter(|loose| loose.from <= revision).count() as u64
    };
    match line.effect(created) {
        Some(effect) if effect.value.is_some() => {}
        None if loose_puts_by(created) > 0 => {}
        _ => return Some(format!("nobody wrote it at revision {created}")),
    }
    if deletes.up_to(revision) > deletes.up_to(created) {
        return Some("it was deleted in between".to_owned());
    }
    // Gaps count the effects up to a revision.
    let known = 1 + (line.gap(revision) - line.gap(created)) as u64;
    let most = known + loose_puts_by(revision);
    if version < known || version > most {
        return Some(format!("between {known} and {most} writes made it"));
    }
    None
}
