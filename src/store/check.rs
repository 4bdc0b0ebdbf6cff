//! Whether index and log belong together (I3, I4). Judged before Raft sees either: openraft would purge over a hole
//! without a word.

use nezha_vlog::{LogId, SegmentId};

use crate::identity::REPLACE_NODE;
use crate::index::AppliedState;

/// What the check needs to know about the durable log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Last purged entry.
    pub purged: Option<LogId>,
    /// Last entry, or else the purged one.
    pub last: Option<LogId>,
    /// The entry at the index's applied log index, if the log still has it.
    pub at_applied: Option<LogId>,
    /// The log holds a vote. One that a snapshot was received into always does: the sender's.
    pub has_vote: bool,
}

/// Why index and log cannot be used together. None of these can be repaired from this node's files alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The index holds writes that the log has lost: places in it may point nowhere, and acknowledged entries are gone.
    #[error("the index has applied {applied} but the log ends at {}: acknowledged log bytes were lost (I3). To go on, {REPLACE_NODE}", shown(*last))]
    IndexAhead {
        /// Applied id of the index.
        applied: LogId,
        /// Last id of the log.
        last: Option<LogId>,
    },
    /// The log has another entry where the index has applied one.
    #[error(
        "the index has applied {applied} but the log holds {log} there: they do not belong together (I3). To go on, {REPLACE_NODE}"
    )]
    IndexDisagrees {
        /// Applied id of the index.
        applied: LogId,
        /// Id in the log at the same log index.
        log: LogId,
    },
    /// Entries between the index and the start of the log are gone, so the index cannot be brought up to date.
    #[error("the index has applied {} but the log is purged up to {purged}: the index was lost or rolled back (I4). To go on, {REPLACE_NODE}", shown(*applied))]
    IndexBehindPurge {
        /// Applied id of the index.
        applied: Option<LogId>,
        /// Last purged id of the log.
        purged: LogId,
    },
    /// The index counts live bytes in a segment that is not there, or not long enough.
    #[error(
        "the index places {live} live bytes in {segment}, which has {bytes}: a file was lost or cut (I5). To go on, {REPLACE_NODE}"
    )]
    SegmentLost {
        /// The segment.
        segment: SegmentId,
        /// Live bytes in it as the index counts them.
        live: u64,
        /// Its length in bytes; 0 if there is no such file.
        bytes: u64,
    },
}

fn shown(log_id: Option<LogId>) -> String {
    log_id.map_or_else(|| "nothing".to_owned(), |log_id| log_id.to_string())
}

/// Judges the order `purged <= flushed applied <= durable log`, with the one exception of an index that was installed
/// from a snapshot and has applied nothing since.
pub fn check_order(state: &AppliedState, log: &LogFacts) -> Result<(), Breach> {
    let Some(applied) = state.applied else {
        return match log.purged {
            Some(purged) => Err(Breach::IndexBehindPurge {
                applied: None,
                purged,
            }),
            None => Ok(()),
        };
    };
    if let Some(purged) = log.purged {
        if purged.index > applied.index {
            return Err(Breach::IndexBehindPurge {
                applied: Some(applied),
                purged,
            });
        }
        if purged.index == applied.index && purged != applied {
            return Err(Breach::IndexDisagrees { applied, log: purged });
        }
    }
    if let Some(log) = log.at_applied.filter(|log| *log != applied) {
        return Err(Breach::IndexDisagrees { applied, log });
    }
    let ahead = log.last.is_none_or(|last| last.index < applied.index);
    // Without a vote the log itself is gone, and this node might vote a second time in a term.
    let excused = state.installed_at == Some(applied) && log.has_vote;
    if ahead && !excused {
        return Err(Breach::IndexAhead {
            applied,
            last: log.last,
        });
    }
    Ok(())
}

/// Judges the segments that the index counts on: `bytes_of` answers the length of one that exists.
pub fn check_segments(
    live_bytes: impl IntoIterator<Item = (SegmentId, u64)>,
    bytes_of: impl Fn(SegmentId) -> Option<u64>,
) -> Result<(), Breach> {
    for (segment, live) in live_bytes {
        let bytes = bytes_of(segment).unwrap_or(0);
        if bytes < live {
            return Err(Breach::SegmentLost { segment, live, bytes });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: every relation between index and log is judged, and only the installed-at marker excuses a short log.
    //! Method: all combinations of small log ids against a model of the rule.

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, node: 1, index }
    }

    fn ids() -> Vec<Option<LogId>> {
        let mut ids = vec![None];
        for term in 1..=2 {
            ids.extend((1..=4).map(|index| Some(id(term, index))));
        }
        ids
    }

    #[test]
    fn all_combinations() {
        let mut judged = [0; 5];
        for applied in ids() {
            for installed_at in [None, applied] {
                for purged in ids() {
                    for last in ids() {
                        if purged.map(|p| p.index) > last.map(|l| l.index) {
                            continue;
                        }
                        for at_applied in ids() {
                            let has = |a: LogId| {
                                purged.is_none_or(|p| p.index < a.index)
                                    && last.is_some_and(|l| l.index >= a.index)
                            };
                            match (applied, at_applied) {
                                (Some(a), Some(at)) if has(a) && at.index == a.index => {}
                                (Some(a), None) if !has(a) => {}
                                (None, None) => {}
                                _ => continue,
                            }
                            let state = AppliedState {
                                applied,
                                installed_at,
                                ..AppliedState::default()
                            };
                            let facts = LogFacts {
                                purged,
                                last,
                                at_applied,
                                has_vote: true,
                            };
                            let verdict = check_order(&state, &facts);
                            let i = |x: Option<LogId>| x.map_or(0, |x| x.index);
                            let case = match verdict {
                                Ok(()) => {
                                    assert!(i(purged) <= i(applied));
                                    assert!(i(applied) <= i(last) || installed_at == applied);
                                    assert!(at_applied.is_none() || at_applied == applied);
                                    0
                                }
                                Err(Breach::IndexAhead { .. }) => {
                                    assert!(i(applied) > i(last) && installed_at.is_none());
                                    1
                                }
                                Err(Breach::IndexDisagrees { log, .. }) => {
                                    assert!(Some(log) != applied && log.index == i(applied));
                                    2
                                }
                                Err(Breach::IndexBehindPurge { .. }) => {
                                    assert!(i(purged) > i(applied));
                                    3
                                }
                                Err(Breach::SegmentLost { .. }) => unreachable!("not judged here"),
                            };
                            judged[case] += 1;
                        }
                    }
                }
            }
        }
        assert!(judged[..4].iter().all(|count| *count >= 20), "{judged:?}");
    }

    #[test]
    fn the_marker_does_not_excuse_a_log_that_is_gone() {
        let applied = Some(id(2, 4));
        let state = AppliedState {
            applied,
            installed_at: applied,
            ..AppliedState::default()
        };
        let gone = check_order(&state, &LogFacts::default());
        assert_eq!(
            gone,
            Err(Breach::IndexAhead {
                applied: id(2, 4),
                last: None
            })
        );
        assert_eq!(
            check_order(
                &state,
                &LogFacts {
                    has_vote: true,
                    ..LogFacts::default()
                }
            ),
            Ok(())
        );
    }

    #[test]
    fn lost_and_cut_segments_are_named() {
        let bytes_of = |segment: SegmentId| (segment.get() == 1).then_some(100);
        let (one, two) = (SegmentId::new(1), SegmentId::new(2));
        assert_eq!(check_segments([(one, 100)], bytes_of), Ok(()));
        let cut = Breach::SegmentLost {
            segment: one,
            live: 101,
            bytes: 100,
        };
        assert_eq!(check_segments([(one, 101)], bytes_of), Err(cut));
        let lost = Breach::SegmentLost {
            segment: two,
            live: 1,
            bytes: 0,
        };
        assert_eq!(check_segments([(one, 100), (two, 1)], bytes_of), Err(lost));
        assert!(lost.to_string().contains("kvctl member remove"));
    }
}
