//! Planted bugs, and which run makes each of them likely to show.
//!
//! A recipe is a set of ordinary options of a run. A control run of each recipe without its bug has to be green.

use std::path::Path;

use super::Options;
use crate::workload::MIXED;

/// A planted bug and its recipe.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Value of `NEZHA_PLANTED_BUG`.
    pub bug: &'static str,
    /// What is missing.
    pub about: &'static str,
    /// Workloads.
    pub workload: &'static str,
    /// Faults.
    pub only: &'static str,
    /// Options of the members.
    pub kvd: &'static [&'static str],
    /// Operations per second.
    pub rate: u32,
}

/// Small segments, so that there is something to collect and purge, and cold files.
const SMALL: &[&str] = &["--log-segment-bytes=1MiB", "--space-floor-bytes=8MiB"];
/// Small segments, and so little log for those who lag that they get snapshots.
pub const SNAPSHOTS: &[&str] = &[
    "--log-segment-bytes=1MiB",
    "--space-floor-bytes=8MiB",
    "--lagging-log-bytes-max=1MiB",
];

/// Every bug that `kvd` can be built with, but `vote-unordered`: it cannot be seen from outside, since Raft waits for each
/// vote before it submits anything else. The log's own crash tests catch it.
pub const RECIPES: [Recipe; 14] = [
    Recipe {
        bug: "ack-before-fsync",
        about: "writes are acknowledged before they are synced",
        workload: "register,set",
        only: "power-cut",
        kvd: &[],
        rate: 800,
    },
    Recipe {
        bug: "skip-crc",
        about: "the checksum of a value is not compared",
        workload: "large,churn",
        only: "bit-rot",
        kvd: SMALL,
        rate: 400,
    },
    Recipe {
        bug: "apply-before-commit",
        about: "entries are applied as soon as they are appended",
        workload: "register,set,scan",
        only: "partition,pause,kill",
        kvd: &[],
        rate: 800,
    },
    Recipe {
        bug: "flush-without-log",
        about: "the index is flushed without waiting for the log's sync",
        workload: "register,set",
        only: "power-cut",
        kvd: &[],
        rate: 800,
    },
    Recipe {
        bug: "purge-past-flushed",
        about: "the log is purged beyond what the index has flushed",
        workload: "register,churn",
        only: "purge,burst,kill,power-cut",
        kvd: SMALL,
        rate: 800,
    },
    Recipe {
        bug: "relocate-without-compare",
        about: "a collection re-points keys that were written meanwhile",
        workload: "large,churn",
        only: "gc",
        kvd: SMALL,
        rate: 1500,
    },
    Recipe {
        bug: "unlink-before-flush",
        about: "files go before the index that drops them is flushed",
        workload: "churn",
        only: "burst,kill,power-cut,gc",
        kvd: SMALL,
        rate: 1000,
    },
    Recipe {
        bug: "unlink-pinned",
        about: "files go while readers still need them",
        workload: "scan,churn",
        only: "gc",
        kvd: SMALL,
        rate: 1500,
    },
    Recipe {
        bug: "install-not-atomic",
        about: "CURRENT is removed before the new one is written",
        workload: "churn,large",
        only: "kill-at-install",
        kvd: SNAPSHOTS,
        rate: 800,
    },
    Recipe {
        bug: "stale-read-deposed",
        about: "a deposed leader answers reads from its own state",
        workload: "register",
        only: "partition,pause",
        kvd: &[],
        rate: 1000,
    },
    Recipe {
        bug: "read-index-reused",
        about: "a read is answered at the read index of an earlier one",
        workload: "register",
        only: "transfer,partition",
        kvd: &[],
        rate: 1500,
    },
    Recipe {
        bug: "write-lost-on-transfer",
        about: "a write is acknowledged and lost when leadership is handed on",
        workload: "register,set",
        only: "transfer,partition",
        kvd: &[],
        rate: 1500,
    },
    Recipe {
        bug: "snapshot-misses-last",
        about: "a snapshot lacks its last entries",
        workload: "register,churn",
        only: "purge,pause,kill,replace",
        kvd: SNAPSHOTS,
        rate: 1000,
    },
    Recipe {
        bug: "scan-two-revisions",
        about: "a scan is not at one revision",
        workload: "scan",
        only: "none",
        kvd: &[],
        rate: 1500,
    },
];

impl Recipe {
    /// The run: with the bug, or the control without it.
    pub fn options(&self, kvd: &Path, dir: &Path, seed: u64, seconds: u64, planted: bool) -> Options {
        Options {
            seconds,
            nodes: 3,
            seed: Some(seed),
            only: Some(self.only.to_owned()),
            workload: self.workload.to_owned(),
            rate: self.rate,
            clients: 24,
            kvd: Some(kvd.to_owned()),
            kvd_option: self.kvd.iter().map(ToString::to_string).collect(),
            kvd_env: match planted {
                true => vec![format!("NEZHA_PLANTED_BUG={}", self.bug)],
                false => Vec::new(),
            },
            disk_mib: 512,
            dir: dir.to_owned(),
            endpoints: Vec::new(),
            keep: false,
            quiet: true,
        }
    }
}

/// The recipes that `names` asks for, separated by commas; all if there is none.
///
/// Errors: a name that is none.
pub fn named(names: Option<&str>) -> Result<Vec<Recipe>, String> {
    let Some(names) = names else {
        return Ok(RECIPES.to_vec());
    };
    let find = |name: &str| {
        let found = RECIPES.iter().find(|recipe| recipe.bug == name).copied();
        found.ok_or_else(|| {
            let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.bug).collect();
            format!("no planted bug {name:?}; there are {}", known.join(", "))
        })
    };
    names.split(',').map(str::trim).map(find).collect()
}

/// A run of everything without a bug.
pub fn control(kvd: &Path, dir: &Path, seed: u64, seconds: u64) -> Options {
    Options {
        only: Some("all".to_owned()),
        workload: MIXED.to_owned(),
        kvd_option: SMALL.iter().map(ToString::to_string).collect(),
        ..RECIPES[0].options(kvd, dir, seed, seconds, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn every_recipe_is_a_run_that_can_be_done() {
        let mut names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.bug).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RECIPES.len());
        for recipe in RECIPES {
            let options = recipe.options(Path::new("kvd"), Path::new("dir"), 1, 30, true);
            assert!(options.kinds().is_ok(), "{}", recipe.bug);
            assert!(workload::named(&options.workload).is_ok(), "{}", recipe.bug);
            let env = options.env().unwrap();
            assert_eq!(env, [("NEZHA_PLANTED_BUG".to_owned(), recipe.bug.to_owned())]);
            let control = recipe.options(Path::new("kvd"), Path::new("dir"), 1, 30, false);
            assert!(control.env().unwrap().is_empty());
        }
    }

    #[test]
    fn bugs_are_found_by_name() {
        assert_eq!(named(None).unwrap().len(), RECIPES.len());
        assert_eq!(named(Some("skip-crc, unlink-pinned")).unwrap().len(), 2);
        assert!(named(Some("skip-crd")).unwrap_err().contains("skip-crc"));
    }
}
