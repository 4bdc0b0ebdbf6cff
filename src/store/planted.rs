//! Planted bugs: missing lines that the proofs must notice. Test-only (feature `planted-bugs`).

/// A bug that the environment variable `NEZHA_PLANTED_BUG` can switch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// `relocate-without-compare`: a key is relocated also when it has moved on meanwhile.
    RelocateWithoutCompare,
    /// `unlink-before-flush`: the index is not flushed between relocating and unlinking.
    UnlinkBeforeFlush,
    /// `unlink-pinned`: views that are held keep no file.
    UnlinkPinned,
    /// `install-not-atomic`: CURRENT is removed before the new one is written.
    InstallNotAtomic,
}

/// Whether `bug` is switched on; the environment is read once.
#[cfg(feature = "planted-bugs")]
pub(super) fn planted(bug: Bug) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| match std::env::var("NEZHA_PLANTED_BUG").as_deref() {
        Ok("relocate-without-compare") => Some(Bug::RelocateWithoutCompare),
        Ok("unlink-before-flush") => Some(Bug::UnlinkBeforeFlush),
        Ok("unlink-pinned") => Some(Bug::UnlinkPinned),
        Ok("install-not-atomic") => Some(Bug::InstallNotAtomic),
        _ => None,
    });
    *chosen == Some(bug)
}

/// No bug is planted in an ordinary build.
#[cfg(not(feature = "planted-bugs"))]
pub(super) const fn planted(_: Bug) -> bool {
    false
}
