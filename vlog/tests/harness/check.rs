//! Reading a log and comparing it with what it must hold.

use nezha_vlog::{Entry, Head, HeadPayload, Log, Payload, RecoveryCase};

/// Whether the case removes bytes.
pub fn cuts(case: RecoveryCase) -> bool {
    use RecoveryCase::*;
    matches!(
        case,
        FooterTorn | ZeroTail | GroupHeaderTorn | GroupCut | GroupTorn
    )
}

/// All entries, in small reads.
pub fn read_all(log: &Log) -> Vec<Entry> {
    let end = log.last_log_id().map_or(0, |last| last.index + 1);
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = log.first_index();
    while next < end {
        let read = log.entries(next..end, 50_000).expect("no damage");
        let Some(last) = read.last() else { break };
        next = last.log_id.index + 1;
        entries.extend(read);
    }
    entries
}

pub fn read_heads(log: &Log) -> Vec<Head> {
    let end = log.last_log_id().map_or(0, |last| last.index + 1);
    log.heads(log.first_index()..end, 64).expect("no damage")
}

/// Compares a head with its entry, and reads its values.
pub fn check_head(log: &Log, head: &Head, entry: &Entry) {
    assert_eq!(head.log_id, entry.log_id);
    match (&head.payload, &entry.payload) {
        (HeadPayload::Blank, Payload::Blank) => {}
        (HeadPayload::Membership(a), Payload::Membership(b)) => assert_eq!(a, b),
        (HeadPayload::Command(ops), Payload::Command(command)) => {
            for (op, expected) in ops.iter().zip(command.ops()) {
                assert_eq!(
                    (op.kind, op.precondition, &op.key),
                    (expected.kind, expected.precondition, &expected.key)
                );
                assert_eq!(op.place.value_len as usize, expected.value.len());
                if let Some(inline) = &op.inline {
                    assert_eq!(*inline, expected.value);
                }
                let value = log
                    .read_value(op.place, &op.key, command.revision())
                    .expect("no damage");
                assert_eq!(value, expected.value);
            }
        }
        other => panic!("{other:?}"),
    }
}
