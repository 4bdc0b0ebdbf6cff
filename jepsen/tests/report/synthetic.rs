//! Made-up runs: a store that is right, and one read of it that is not.

use std::collections::BTreeMap;

use nezha_jepsen::history::{Answer, Call, Expected, Fault, Found, History, Operation, Outcome, Row, Stamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// A run of `seconds` with about `rate` operations a second: faults at random, slow and failing operations under kills
/// and partitions. With `stale`, the last read of a key that was written twice tells the older value.
pub fn history(seconds: u64, rate: u64, stale: bool) -> History {
    let mut rng = StdRng::seed_from_u64(seconds * 1000 + rate);
    let faults = faults(seconds, &mut rng);
    let mut store = Store::default();
    let mut operations = Vec::new();
    let mut clients: Vec<Client> = Vec::new();
    let mut processes = 0..;
    let mut now = 0;
    while now < seconds * SECOND {
        // Operations take effect one after the other at their middle, and overlap the ones beside them.
        now += rng.random_range(SECOND / rate / 2..SECOND / rate * 3 / 2);
        let hurt = faults.iter().find(|fault| {
            ["kill", "partition", "power-cut"].contains(&fault.kind.as_str())
                && fault.began <= now
                && now < (fault.began + 1500 * MILLISECOND).min(fault.ended.unwrap_or(now))
        });
        let (answered, latency) = match hurt {
            Some(_) => (rng.random_bool(0.05), rng.random_range(200..900) * MILLISECOND),
            None => (true, MILLISECOND + rng.random_range(0..1000u64).pow(2) * 6),
        };
        let (call, outcome) = if answered {
            let call = store.choose(operations.len(), &mut rng);
            let answer = store.apply(&call);
            (call, Outcome::Ok { answer })
        } else if rng.random_bool(0.5) {
            let call = store.choose(operations.len(), &mut rng);
            (
                call,
                Outcome::Fail {
                    why: "no leader <evil>".into(),
                },
            )
        } else {
            let call = store.choose(operations.len(), &mut rng);
            store.apply(&call);
            (
                call,
                Outcome::Unknown {
                    why: "deadline".into(),
                },
            )
        };
        let (invoked, ended) = (now.saturating_sub(latency / 2), now + latency / 2);
        let free = clients
            .iter()
            .position(|client| client.free_at < invoked)
            .unwrap_or_else(|| {
                clients.push(Client {
                    process: processes.next().expect("endless"),
                    free_at: 0,
                });
                clients.len() - 1
            });
        clients[free].free_at = ended;
        let process = clients[free].process;
        let endpoint = format!("n{}", process % 3 + 1);
        if matches!(outcome, Outcome::Unknown { .. }) {
            clients[free].process = processes.next().expect("endless");
        }
        operations.push(Operation {
            process,
            invoked,
            ended: Some(ended),
            endpoint,
            call,
            outcome,
        });
    }
    if stale {
        add_stale_read(&mut operations, &mut store, now);
    }
    let mut history = History { operations, faults };
    history.sort();
    history
}

/// One operation at a time.
struct Client {
    process: u64,
    free_at: u64,
}

/// Two writes, one after the other, and then a read of the first.
fn add_stale_read(operations: &mut Vec<Operation>, store: &mut Store, now: u64) {
    let key = "stale<evil>".to_string();
    let mut at = now + 3 * SECOND;
    for (process, value) in [(1000001, "older"), (1000002, "newer")] {
        let call = Call::Write {
            key: key.clone(),
            value: value.into(),
        };
        let answer = store.apply(&call);
        let outcome = Outcome::Ok { answer };
        operations.push(Operation {
            process,
            invoked: at,
            ended: Some(at + 2 * MILLISECOND),
            endpoint: "n1".into(),
            call,
            outcome,
        });
        at += 40 * MILLISECOND;
    }
    let stamp = Some(Stamp {
        created: store.revision - 1,
        revision: store.revision - 1,
        version: 1,
    });
    let found = Some(Found {
        value: "older".into(),
        stamp,
    });
    operations.push(Operation {
        process: 1000003,
        invoked: at,
        ended: Some(at + MILLISECOND),
        endpoint: "n3".into(),
        call: Call::Read { key },
        outcome: Outcome::Ok {
            answer: Answer::Read {
                found,
                at: Some(store.revision),
            },
        },
    });
}

fn faults(seconds: u64, rng: &mut StdRng) -> Vec<Fault> {
    const KINDS: [(&str, bool); 9] = [
        ("kill", true),
        ("pause", true),
        ("partition", true),
        ("delay", true),
        ("slow-disk", true),
        ("power-cut", true),
        ("transfer", false),
        ("gc", false),
        ("kill", true),
    ];
    let mut faults = Vec::new();
    let mut at = 2 * SECOND;
    // In turn, so that no page is without a kind.
    while at + 5 * SECOND < seconds * SECOND {
        let (kind, lasts) = KINDS[faults.len() % KINDS.len()];
        let members = match kind {
            "partition" => vec!["n1".to_string(), "n2".to_string()],
            "gc" => vec![],
            "kill" => vec!["n1".to_string()],
            _ => vec![format!("n{}", rng.random_range(1..4))],
        };
        let ended = lasts.then(|| at + rng.random_range(SECOND..5 * SECOND));
        faults.push(Fault {
            kind: kind.into(),
            members,
            detail: format!("detail <evil> of {kind}"),
            began: at,
            ended,
        });
        at += rng.random_range(SECOND / 2..4 * SECOND);
    }
    faults
}

#[derive(Default)]
struct Store {
    revision: u64,
    keys: BTreeMap<String, (String, Stamp)>,
}

impl Store {
    fn choose(&self, number: usize, rng: &mut StdRng) -> Call {
        let key = format!("k{}", rng.random_range(0..40u64));
        match rng.random_range(0..10) {
            0..4 => Call::Read { key },
            4..7 => Call::Write {
                key,
                value: format!("v{number}"),
            },
            7 => {
                let expected = self
                    .keys
                    .get(&key)
                    .map_or(Expected::Absent, |(_, s)| Expected::Revision(s.revision));
                Call::Cas {
                    key,
                    expected,
                    value: format!("v{number}"),
                }
            }
            8 => Call::Delete { key, expected: None },
            _ => Call::Scan {
                start: "k1".into(),
                end: "k2".into(),
                reverse: false,
                limit: 0,
            },
        }
    }

    fn put(&mut self, key: &str, value: &str) -> Answer {
        self.revision += 1;
        let revision = self.revision;
        let stamp = match self.keys.get(key) {
            Some((_, old)) => Stamp {
                revision,
                version: old.version + 1,
                ..*old
            },
            None => Stamp {
                created: revision,
                revision,
                version: 1,
            },
        };
        self.keys.insert(key.to_string(), (value.to_string(), stamp));
        Answer::Written {
            revision: Some(revision),
        }
    }

    fn apply(&mut self, call: &Call) -> Answer {
        match call {
            Call::Read { key } => {
                let found = self.keys.get(key).map(|(value, stamp)| Found {
                    value: value.clone(),
                    stamp: Some(*stamp),
                });
                Answer::Read {
                    found,
                    at: Some(self.revision),
                }
            }
            // The expectations of conditional writes come from the store itself, so they always hold.
            Call::Write { key, value } | Call::Cas { key, value, .. } => self.put(key, value),
            Call::Delete { key, .. } => {
                self.revision += 1;
                let existed = self.keys.remove(key).is_some();
                Answer::Deleted {
                    existed,
                    revision: Some(self.revision),
                }
            }
            Call::Scan { start, end, .. } => {
                let rows = self
                    .keys
                    .range(start.clone()..end.clone())
                    .map(|(key, (value, stamp))| Row {
                        key: key.clone(),
                        value: value.clone(),
                        stamp: Some(*stamp),
                    })
                    .collect();
                Answer::Rows {
                    rows,
                    at: Some(self.revision),
                    more: false,
                }
            }
            Call::Append { .. } => unreachable!("this store has no appends"),
        }
    }
}
