use std::collections::BTreeSet;

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// SIGTERM, later a start.
    Restart,
    /// Members that do not hear each other.
    Partition,
    /// Members that clients do not reach.
    ClientCut,
    /// Packets that are lost.
    Loss,
    /// Packets that come late.
    Delay,
    /// Connections that carry nothing any more and do not say so.
    HalfOpen,
    /// No space left on a disk.
    DiskFull,
    /// Syncs that fail, on a disk that goes on.
    FsyncErrors,
    /// A disk that writes slowly.
    SlowDisk,
    /// A system call that fails.
    Eio,
    /// SIGKILL in the middle of a system call.
    KillAtCall,
    /// SIGKILL right before an installed snapshot becomes the live store.
    KillAtInstall,
    /// The disk as it is when power goes.
    PowerCut,
    /// Bits that change in files that nobody writes.
    BitRot,
    /// A member more, and removed again.
    Grow,
    /// A member less, and a new one in its place.
    Shrink,
    /// A member replaced by a new one with an empty disk.
    Replace,
    /// Leadership handed on.
    Transfer,
    /// A collection ordered.
    Gc,
    /// A purge of the log ordered.
    Purge,
    /// Gc or a purge right before a kill, a power cut or a transfer.
    Burst,
}

/// Kinds by their subject, for `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Of processes.
    Process,
    /// Of the network.
    Network,
    /// Of disks.
    Disk,
    /// Of members.
    Membership,
    /// Calls of the API, which any cluster takes.
    Api,
}

use Group::{Api, Disk, Membership, Network, Process};

/// Kind, name, group, what it does.
const TABLE: [(Kind, &str, Group, &str); 23] = [
    (
        Kind::Kill,
        "kill",
        Process,
        "SIGKILL: one, the leader, a minority, a majority, all",
    ),
    (Kind::Pause, "pause", Process, "SIGSTOP and SIGCONT, of the same"),
    (Kind::Restart, "restart", Process, "SIGTERM and start"),
    (
        Kind::Partition,
        "partition",
        Network,
        "halves, isolated leader, bridge, one-way",
    ),
    (
        Kind::ClientCut,
        "client-cut",
        Network,
        "clients do not reach a member, members do",
    ),
    (Kind::Loss, "loss", Network, "packets lost, 5 to 40 %"),
    (Kind::Delay, "delay", Network, "delay and jitter up to 300 ms"),
    (
        Kind::HalfOpen,
        "half-open",
        Network,
        "connections that carry nothing and stay open",
    ),
    (Kind::DiskFull, "disk-full", Disk, "no space left"),
    (
        Kind::FsyncErrors,
        "fsync-errors",
        Disk,
        "fsync fails with EIO; restarted on a sound disk",
    ),
    (Kind::SlowDisk, "slow-disk", Disk, "writes throttled"),
    (Kind::Eio, "eio", Disk, "EIO at the N-th write or sync"),
    (
        Kind::KillAtCall,
        "kill-at-call",
        Process,
        "SIGKILL at the N-th write, sync, rename or unlink",
    ),
    (
        Kind::KillAtInstall,
        "kill-at-install",
        Process,
        "a member that was down gets a snapshot, and SIGKILL right before that becomes its live store",
    ),
    (
        Kind::PowerCut,
        "power-cut",
        Disk,
        "what was not synced is gone: of one, a majority, all at once",
    ),
    (
        Kind::BitRot,
        "bit-rot",
        Disk,
        "bits of cold files flipped, on one member, which is replaced afterwards",
    ),
    (
        Kind::Grow,
        "grow",
        Membership,
        "a new member joins, and is removed again",
    ),
    (
        Kind::Shrink,
        "shrink",
        Membership,
        "a member is removed, a new one takes its place later",
    ),
    (
        Kind::Replace,
        "replace",
        Membership,
        "a member is removed, a new one takes its place at once",
    ),
    (Kind::Transfer, "transfer", Api, "leadership handed on"),
    (Kind::Gc, "gc", Api, "collections ordered from all members"),
    (
        Kind::Purge,
        "purge",
        Api,
        "purges of the log ordered from all members",
    ),
    (
        Kind::Burst,
        "burst",
        Process,
        "gc or purge right before a kill, a power cut or a transfer",
    ),
];

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Kind> {
        TABLE.iter().map(|row| row.0)
    }

    /// Its name, the same everywhere.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its subject.
    pub fn group(self) -> Group {
        self.row().2
    }

    /// What it does, for people.
    pub fn about(self) -> &'static str {
        self.row().3
    }

    fn row(self) -> &'static (Kind, &'static str, Group, &'static str) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has every kind: see the test")
    }

    /// The kinds that `names` asks for: names of kinds or groups, separated by commas; `all`, `none`.
    ///
    /// Errors: a name that is none.
    pub fn named(names: &str) -> Result<Vec<Kind>, String> {
        let mut chosen = BTreeSet::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let before = chosen.len();
            chosen.extend(TABLE.iter().filter(|row| row.1 == name).map(|row| row.0));
            chosen.extend(TABLE.iter().filter(|row| row.2.name() == name).map(|row| row.0));
            match name {
                "all" => chosen.extend(Kind::all()),
                "none" => {}
                _ if chosen.len() == before && !Kind::is_name(name) => {
                    let known: Vec<&str> = TABLE.iter().map(|row| row.1).collect();
                    return Err(format!(
                        "no fault {name:?}; there are {}, the groups process, network, disk, membership and api, \
                         all and none",
                        known.join(", ")
                    ));
                }
                _ => {}
            }
        }
        Ok(chosen.into_iter().collect())
    }

    fn is_name(name: &str) -> bool {
        TABLE.iter().any(|row| row.1 == name || row.2.name() == name)
    }
}

impl Group {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Process => "process",
            Network => "network",
            Disk => "disk",
            Membership => "membership",
            Api => "api",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_row_at_its_place() {
        for (place, kind) in Kind::all().enumerate() {
            assert_eq!(kind as usize, place);
        }
        assert_eq!(Kind::Burst as usize + 1, TABLE.len());
    }

    #[test]
    fn names_and_groups_select() {
        assert_eq!(
            Kind::named("kill,partition").unwrap(),
            [Kind::Kill, Kind::Partition]
        );
        assert_eq!(
            Kind::named("api").unwrap(),
            [Kind::Transfer, Kind::Gc, Kind::Purge]
        );
        assert_eq!(Kind::named("api, gc,gc").unwrap().len(), 3);
        assert_eq!(Kind::named("all").unwrap().len(), TABLE.len());
        assert!(Kind::named("none").unwrap().is_empty());
        assert!(Kind::named("kil").unwrap_err().contains("kill, pause"));
    }
}
