//! Planted bug: a missing line that the proofs must notice. Test-only (feature `planted-bugs`).

use std::ops::{Bound, ControlFlow};
use std::sync::OnceLock;

use super::{Scan, Stop};
use crate::index::{IndexError, ScanItem, ScanRange};
use crate::store::Reader;

/// Whether `scan-two-revisions` is switched on by `NEZHA_PLANTED_BUG`; the environment is read once.
pub(super) fn scan_two_revisions() -> bool {
    static CHOSEN: OnceLock<bool> = OnceLock::new();
    *CHOSEN.get_or_init(|| std::env::var("NEZHA_PLANTED_BUG").as_deref() == Ok("scan-two-revisions"))
}

impl Scan {
    /// `scan-two-revisions`: the view is not kept beyond a chunk that was sent; the header stays that of the first one.
    pub(super) fn visit_by_chunks(&mut self, range: &ScanRange) -> (Result<(), IndexError>, Option<Stop>) {
        let mut range = range.clone();
        let mut first = true;
        loop {
            let view = self.context.store.view();
            self.reader = self.reader.take().map(|_| Reader::new(view.clone()));
            let sent_before = self.sent_key.clone();
            let (mut stop, mut sent) = (None, false);
            let visited = view.index().scan(&range, &mut |item| {
                if !first && matches!(item, ScanItem::View(_)) {
                    return ControlFlow::Continue(());
                }
                stop = self.visit(&view, item).err();
                sent = self.sent_key != sent_before;
                match stop.is_some() || sent {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            if visited.is_err() || stop.is_some() || !sent {
                return (visited, stop);
            }
            // The values of what was visited, from the view in which it was.
            if let Err(why) = self.take_rest() {
                return (Ok(()), Some(why));
            }
            let rest = Bound::Excluded(self.last_key.clone());
            match range.reverse {
                true => range.end = rest,
                false => range.start = rest,
            }
            first = false;
        }
    }
}
