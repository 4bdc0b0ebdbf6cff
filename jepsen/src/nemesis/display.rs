//! Schedules and what is in them, for people.

use std::fmt;

use super::schedule::{Behind, Blow, Calls, Cut, Force, Parameters, Planned, Schedule, Shape, Target};

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {} faults", self.seed, self.faults.len())?;
        for planned in &self.faults {
            writeln!(f, "{planned}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Planned {
            at,
            kind,
            target,
            duration,
            parameters,
        } = self;
        let at = at.as_secs_f64();
        write!(f, "{at:7.2} s  {:<13} {target}", kind.name())?;
        if !duration.is_zero() {
            write!(f, " for {:.1} s", duration.as_secs_f64())?;
        }
        match parameters {
            Parameters::None => Ok(()),
            _ => write!(f, ": {parameters}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::One { .. } => "one",
            Target::Leader => "the leader",
            Target::Minority { .. } => "a minority",
            Target::Majority { .. } => "a majority",
            Target::All => "all",
        })
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parameters::None => Ok(()),
            Parameters::Cut(cut) => write!(f, "{cut}"),
            Parameters::Partition(shape) => write!(f, "{shape}"),
            Parameters::Loss { percent } => write!(f, "{percent} %"),
            Parameters::Delay { delay, jitter } => {
                write!(f, "{} ms, jitter {} ms", delay.as_millis(), jitter.as_millis())
            }
            Parameters::Call { calls, nth } => write!(f, "at {calls} {nth}"),
            Parameters::Throttle { bytes_per_second } => write!(f, "{} kB/s", bytes_per_second / 1000),
            Parameters::Burst { first, blow, pause } => {
                write!(f, "{first}, {} ms later {blow}", pause.as_millis())
            }
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.stall.as_millis();
        match self.behind {
            Behind::Nothing => write!(f, "of disks that keep up")?,
            Behind::Disks => write!(f, "of disks that have been silent for {ms} ms")?,
            Behind::Logs => write!(f, "of logs that have not been synced for {ms} ms")?,
        }
        match self.leader_last {
            true => write!(f, ", the leader keeps up and comes back last"),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shape::Halves => "halves",
            Shape::Isolated => "isolated",
            Shape::Bridge => "bridge",
            Shape::Mute => "one-way, not heard",
            Shape::Deaf => "one-way, deaf",
        })
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Calls::Write => "write",
            Calls::Sync => "sync",
            Calls::Name => "rename or unlink",
        })
    }
}

impl fmt::Display for Force {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Force::Gc => "gc",
            Force::Purge => "purge",
        })
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blow::Kill => "kill",
            Blow::PowerCut(_) => "power cut",
            Blow::Transfer => "transfer",
        })
    }
}
