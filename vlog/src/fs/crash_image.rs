//! What a power cut leaves of a [`super::CrashFs`].

use super::crash_disk::{BLOCK_LEN, Disk, Inode};

/// A small generator of numbers from a seed (splitmix64); the same everywhere and forever.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `max`, both included.
    fn up_to(&mut self, max: u64) -> u64 {
        match max.checked_add(1) {
            Some(bound) => self.next() % bound,
            None => self.next(),
        }
    }

    /// True `percent` times out of 100.
    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// How much of what was not synced survives. Extremes come often: they are what orders of writes hide behind.
fn survival(chance: &mut Chance) -> u64 {
    match chance.up_to(4) {
        0 => 0,
        1 => 100,
        _ => chance.up_to(100),
    }
}

/// The disk after a power cut.
pub(super) fn crash_image(disk: &Disk, seed: u64) -> Disk {
    let mut chance = Chance::new(seed);
    let mut image = Disk {
        dirs: disk.dirs.clone(),
        next_inode: disk.next_inode,
        capacity: disk.capacity,
        ..Disk::default()
    };
    let percent = survival(&mut chance);
    let mut names = disk.durable_names.clone();
    for change in &disk.name_changes {
        if chance.percent(percent) {
            change.apply(&mut names);
        }
    }
    for inode in names.values() {
        if let Some(from) = disk.inodes.get(inode) {
            let mut survivor = from.clone();
            lose(&mut survivor, &mut chance);
            image.inodes.insert(*inode, survivor);
        }
    }
    // A name that is back, because its removal was lost, has its directories back too.
    let parents = names.keys().flat_map(|path| path.ancestors().skip(1));
    image.dirs.extend(parents.map(std::path::Path::to_path_buf));
    image.names = names.clone();
    image.durable_names = names;
    image
}

/// Keeps some of the unsynced blocks and some length; then cache and disk are the same again.
fn lose(inode: &mut Inode, chance: &mut Chance) {
    let percent = survival(chance);
    let (old, new) = (inode.durable.len() as u64, inode.bytes.len() as u64);
    let len = if !inode.len_dirty {
        // Also after a failed sync, which marks a length clean that the disk never got.
        old
    } else {
        match chance.up_to(3) {
            0 => old,
            1 => new,
            // Anywhere between: a torn end.
            2 => old.min(new) + chance.up_to(old.abs_diff(new)),
            // At a block's edge.
            _ => (old.min(new) + chance.up_to(old.abs_diff(new))) / BLOCK_LEN * BLOCK_LEN,
        }
        .clamp(old.min(new), old.max(new))
    };
    inode.durable.resize(len as usize, 0);
    let dirty: Vec<u64> = std::mem::take(&mut inode.dirty).into_iter().collect();
    let last = dirty.last().copied();
    for block in dirty {
        if chance.percent(percent) {
            // The last block may have been interrupted inside.
            let torn = Some(block) == last && chance.percent(25);
            let end = if torn {
                block * BLOCK_LEN + chance.up_to(BLOCK_LEN)
            } else {
                u64::MAX
            };
            inode.write_back(block, usize::try_from(end).unwrap_or(usize::MAX));
        }
    }
    inode.bytes = inode.durable.clone();
    inode.len_dirty = false;
}
