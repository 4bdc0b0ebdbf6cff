//! What the state must be: committed entries, one after the other, applied to an ordered map. Written for itself: it
//! shares no code with what it judges.

use std::collections::BTreeMap;

use bytes::Bytes;
use nezha::index::IndexEntry;
use nezha_vlog::{LogId, OpKind, Payload, Precondition};

/// A key's value, and its history as far as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    value: Bytes,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
}

impl Row {
    /// What an index and a read of its place say of a key.
    pub fn of(entry: &IndexEntry, value: Bytes) -> Row {
        Row {
            value,
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
        }
    }

    /// In a few words.
    pub fn told(&self) -> String {
        format!(
            "{} bytes with CRC {:08x}, created at {}, written at {} as version {}",
            self.value.len(),
            crc32fast::hash(&self.value),
            self.create_revision,
            self.mod_revision,
            self.version
        )
    }
}

/// The state after all committed entries that were seen.
#[derive(Default)]
pub struct Model {
    rows: BTreeMap<Bytes, Row>,
    /// Ids of the entries that it has applied; the one of index 1 comes first.
    applied: Vec<LogId>,
}

impl Model {
    /// Index of the last entry that was applied; 0 if none was.
    pub fn applied(&self) -> u64 {
        self.applied.len() as u64
    }

    /// Id of the committed entry of `index`, once it was applied.
    pub fn committed(&self, index: u64) -> Option<LogId> {
        self.applied.get(index.checked_sub(1)? as usize).copied()
    }

    /// Id of the last committed entry of a leader before `node` in `term`.
    pub fn last_before(&self, term: u64, node: u64) -> Option<LogId> {
        // Leaders of committed entries never descend.
        let count = self
            .applied
            .partition_point(|id| (id.term, id.node) < (term, node));
        self.committed(count as u64)
    }

    /// The keys and what they must hold.
    pub fn rows(&self) -> &BTreeMap<Bytes, Row> {
        &self.rows
    }

    /// Applies the next entry.
    pub fn apply(&mut self, id: LogId, payload: &Payload) {
        assert_eq!(id.index, self.applied() + 1, "entries come in their order");
        self.applied.push(id);
        let Payload::Command(command) = payload else {
            return;
        };
        for op in command.ops() {
            let now = self.rows.get(&op.key);
            let holds = match op.precondition {
                Precondition::None => true,
                Precondition::Absent => now.is_none(),
                Precondition::ModRevision(revision) => now.is_some_and(|row| row.mod_revision == revision),
            };
            if !holds {
                continue;
            }
            if op.kind == OpKind::Delete {
                self.rows.remove(&op.key);
                continue;
            }
            let (create_revision, version) = match now {
                Some(row) => (row.create_revision, row.version + 1),
                None => (id.index, 1),
            };
            let row = Row {
                value: op.value,
                create_revision,
                mod_revision: id.index,
                version,
            };
            self.rows.insert(op.key, row);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use nezha_vlog::Draft;

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(term, 1, index)
    }

    #[test]
    fn writes_deletes_and_preconditions() {
        let mut model = Model::default();
        let mut write = |term, draft: Draft| {
            let index = model.applied() + 1;
            model.apply(id(term, index), &Payload::Command(draft.seal(index)));
            model.rows().get(&b"k"[..]).map(Row::told)
        };
        let put = |value: &[u8], precondition| Draft::put(b"k", value, precondition);
        let delete = |precondition| Draft::delete(b"k", precondition);
        assert_eq!(write(1, put(b"a", Precondition::ModRevision(1))), None);
        let created = write(1, put(b"b", Precondition::Absent)).unwrap();
        assert!(
            created.contains("created at 2, written at 2 as version 1"),
            "{created}"
        );
        assert_eq!(write(1, put(b"c", Precondition::Absent)), Some(created));
        let changed = write(3, put(b"cc", Precondition::ModRevision(2))).unwrap();
        assert!(changed.contains("2 bytes") && changed.contains("created at 2, written at 4 as version 2"));
        assert_eq!(write(3, delete(Precondition::ModRevision(2))), Some(changed));
        assert_eq!(write(3, delete(Precondition::None)), None);
        let again = write(3, put(b"d", Precondition::None)).unwrap();
        assert!(
            again.contains("created at 7, written at 7 as version 1"),
            "{again}"
        );
        model.apply(id(5, 8), &Payload::Blank);
        assert_eq!((model.applied(), model.rows().len()), (8, 1));
        assert_eq!(model.committed(3), Some(id(1, 3)));
        assert_eq!((model.committed(0), model.committed(9)), (None, None));
        let before = [1, 2, 3, 4, 5, 6].map(|term| model.last_before(term, 1));
        let (one, three) = (Some(id(1, 3)), Some(id(3, 7)));
        assert_eq!(before, [None, one, one, three, three, Some(id(5, 8))]);
        assert_eq!(model.last_before(3, 2), three);
    }

    #[test]
    #[should_panic(expected = "in their order")]
    fn an_entry_that_is_missing_is_not_passed_over() {
        Model::default().apply(id(1, 2), &Payload::Blank);
    }
}
