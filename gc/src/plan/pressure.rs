//! How near the store is to its bound on space, and what follows for gc and for writes.

use std::fmt;

use super::{Limits, SegmentStat, Usage, portion, share};

/// What the space taken asks for. Each state includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpaceState {
    /// Nothing: gc yields to the foreground.
    Calm,
    /// Gc has priority: no throttle by foreground latency.
    Urgent,
    /// Writes are slowed, see [`Pressure::write_per_mille`].
    Slow,
    /// Writes are refused until gc has freed space.
    Refuse,
}

/// Space of the store against its bound. All sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// What to do.
    pub state: SpaceState,
    /// Files of log and values, a running job's outputs included.
    pub file_bytes: u64,
    /// Value records that the index refers to.
    pub live_bytes: u64,
    /// `file_bytes` per 1000 live bytes; `u64::MAX` without live bytes.
    pub amplification_per_mille: u64,
    /// The bound: live bytes and the garbage allowed beside them.
    pub bound_bytes: u64,
    /// From here on gc has priority.
    pub urgent_bytes: u64,
    /// From here on writes are slowed.
    pub slow_bytes: u64,
    /// From here on writes are refused: below the bound by the room that a small job needs.
    pub refuse_bytes: u64,
    /// Garbage in files that may not be collected now: pinned, in use by a job, or log that Raft still needs.
    pub held_garbage_bytes: u64,
    /// Writes to admit, per 1000 of an unslowed rate: 1000 up to `slow_bytes`, falling evenly to 0 at `refuse_bytes`.
    pub write_per_mille: u64,
}

impl Pressure {
    /// Garbage that the bound allows.
    pub fn allowed_bytes(&self) -> u64 {
        self.bound_bytes - self.live_bytes
    }

    /// Room below the bound.
    pub fn headroom_bytes(&self) -> u64 {
        self.bound_bytes.saturating_sub(self.file_bytes)
    }

    /// The same bounds when the files have `file_bytes`.
    pub fn at(self, file_bytes: u64) -> Pressure {
        let state = match file_bytes {
            bytes if bytes >= self.refuse_bytes => SpaceState::Refuse,
            bytes if bytes >= self.slow_bytes => SpaceState::Slow,
            bytes if bytes >= self.urgent_bytes => SpaceState::Urgent,
            _ => SpaceState::Calm,
        };
        Pressure {
            state,
            file_bytes,
            amplification_per_mille: share(file_bytes, self.live_bytes),
            write_per_mille: match state {
                SpaceState::Calm | SpaceState::Urgent => 1000,
                SpaceState::Slow => share(
                    self.refuse_bytes - file_bytes,
                    self.refuse_bytes - self.slow_bytes,
                )
                .max(1),
                SpaceState::Refuse => 0,
            },
            ..self
        }
    }
}

/// Compares the store's size with its bound.
///
/// The bound is `live * space_amplification_max`, or `live + space_floor_bytes` if that is more. The states begin at 65,
/// 85 and about 94 percent of the garbage allowed (a little earlier near the floor): a job of an eighth, started as soon
/// as gc has priority, still ends below the line where writes are slowed. With 70 the simulated zipfian overwrites were
/// slowed at one write in a hundred, with 60 and 65 never, and write amplification stayed the same.
pub fn pressure(stats: &[SegmentStat], usage: Usage, limits: &Limits) -> Pressure {
    let Usage {
        file_bytes,
        live_bytes,
    } = usage;
    let over = u64::from(limits.space_amplification_max_per_mille.max(1100)) - 1000;
    let allowed = portion(live_bytes, over).max(limits.space_floor_bytes);
    // A small job, of one log segment, must find room below the bound when writes have stopped.
    let reserve = (allowed / 16).max(limits.segment_bytes.saturating_mul(2).min(allowed / 4));
    let refuse_bytes = live_bytes + (allowed - reserve);
    let slow_bytes = live_bytes + portion(allowed, 850).min(portion(allowed - reserve, 950));
    let urgent_bytes = live_bytes + portion(allowed, 650);
    let held = stats.iter().filter(|stat| !stat.eligible);
    let empty = Pressure {
        state: SpaceState::Calm,
        file_bytes: 0,
        live_bytes,
        amplification_per_mille: 0,
        bound_bytes: live_bytes + allowed,
        urgent_bytes,
        slow_bytes,
        refuse_bytes,
        held_garbage_bytes: held.map(SegmentStat::garbage_bytes).sum(),
        write_per_mille: 1000,
    };
    empty.at(file_bytes)
}

impl fmt::Display for SpaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpaceState::Calm => "calm",
            SpaceState::Urgent => "urgent",
            SpaceState::Slow => "slow",
            SpaceState::Refuse => "refuse",
        })
    }
}

/// One sentence for an operator or a refused client.
impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consequence = match self.state {
            SpaceState::Calm => "nothing to do",
            SpaceState::Urgent => "gc has priority",
            SpaceState::Slow => "writes are slowed until gc has freed space",
            SpaceState::Refuse => "writes are refused until gc has freed space",
        };
        write!(
            f,
            "log and values take {} bytes for {} live bytes, the bound is {} bytes: {consequence}; {} bytes of garbage \
             are in files that may not be collected now",
            self.file_bytes, self.live_bytes, self.bound_bytes, self.held_garbage_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use nezha_vlog::SegmentId;

    use super::*;

    #[test]
    fn pressure_rises_in_steps() {
        let limits = Limits {
            space_floor_bytes: 0,
            segment_bytes: 10,
            ..Limits::default()
        };
        let at = |file_bytes| {
            pressure(
                &[],
                Usage {
                    file_bytes,
                    live_bytes: 1000,
                },
                &limits,
            )
        };
        let states = [
            (0, SpaceState::Calm, 1000),
            (1649, SpaceState::Calm, 1000),
            (1650, SpaceState::Urgent, 1000),
            (1849, SpaceState::Urgent, 1000),
            (1850, SpaceState::Slow, 1000),
            (1894, SpaceState::Slow, 500),
            (1937, SpaceState::Slow, 11),
            (1938, SpaceState::Refuse, 0),
            (9000, SpaceState::Refuse, 0),
        ];
        for (file_bytes, state, write_per_mille) in states {
            let now = at(file_bytes);
            assert_eq!(
                (now.state, now.write_per_mille),
                (state, write_per_mille),
                "{file_bytes}"
            );
            assert_eq!((now.bound_bytes, now.allowed_bytes()), (2000, 1000));
        }
        assert_eq!(at(1500).headroom_bytes(), 500);
        assert_eq!(at(1500).amplification_per_mille, 1500);
        let text = at(1938).to_string();
        assert!(
            text.contains("writes are refused") && text.contains("1938 bytes for 1000 live bytes"),
            "{text}"
        );
        // Without live bytes there is still the floor, and what is held is named.
        let limits = Limits {
            space_floor_bytes: 5000,
            ..limits
        };
        let held = SegmentStat {
            id: SegmentId::new(1),
            level: super::super::LEVEL_LOG,
            bytes: 1000,
            live_bytes: 0,
            overhead_bytes: 0,
            keys: None,
            eligible: false,
        };
        let empty = pressure(
            &[held],
            Usage {
                file_bytes: 1000,
                live_bytes: 0,
            },
            &limits,
        );
        assert_eq!(
            (empty.state, empty.bound_bytes, empty.held_garbage_bytes),
            (SpaceState::Calm, 5000, 1000)
        );
    }
}
