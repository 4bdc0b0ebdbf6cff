//! Planted bugs: missing lines that the proofs must notice. Test-only (feature `planted-bugs`).

/// A bug that the environment variable `NEZHA_PLANTED_BUG` can switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// `ack-before-fsync`: callbacks run before the sync.
    AckBeforeFsync,
    /// `vote-unordered`: a vote does not keep its place in the queue.
    VoteUnordered,
    /// `skip-crc`: the CRC of a value record is not compared.
    SkipCrc,
}

/// Whether `bug` is switched on; the environment is read once.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: Bug) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("NEZHA_PLANTED_BUG").as_deref() {
        Ok("ack-before-fsync") => Some(Bug::AckBeforeFsync),
        Ok("vote-unordered") => Some(Bug::VoteUnordered),
        Ok("skip-crc") => Some(Bug::SkipCrc),
        _ => None,
    });
    *chosen == Some(bug)
}

/// No bug is planted in an ordinary build.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
