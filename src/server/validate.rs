//! What a request must be before anything is done for it. Every refusal names the field, the limit and what was sent.

use std::ops::Bound;

use bytes::Bytes;
use nezha_api::errors;
use nezha_api::v1::{Consistency, GetRequest, Precondition as WirePrecondition, ScanRequest, precondition};
use nezha_vlog::Precondition;
use tonic::Status;

use crate::config::KEY_BYTES_MAX;
use crate::index::ScanRange;

/// Checks the key of a point operation: 1 byte to [`KEY_BYTES_MAX`].
pub fn key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() {
        return Err(errors::key_empty());
    }
    if key.len() as u64 > KEY_BYTES_MAX {
        return Err(errors::key_too_large(key.len(), KEY_BYTES_MAX as usize));
    }
    Ok(())
}

/// Checks a value against the configured limit.
pub fn value(value: &[u8], value_bytes_max: u64) -> Result<(), Status> {
    if value.len() as u64 > value_bytes_max {
        return Err(errors::value_too_large(value.len(), value_bytes_max as usize));
    }
    Ok(())
}

/// Translates a precondition.
pub fn precondition(wire: Option<&WirePrecondition>) -> Result<Precondition, Status> {
    let Some(wire) = wire else {
        return Ok(Precondition::None);
    };
    match wire.condition {
        Some(precondition::Condition::Absent(true)) => Ok(Precondition::Absent),
        Some(precondition::Condition::Absent(false)) => Err(errors::invalid_request(
            "precondition.absent",
            "false has no meaning; leave the precondition out, or ask for a mod_revision",
        )),
        Some(precondition::Condition::ModRevision(0)) => Err(errors::invalid_request(
            "precondition.mod_revision",
            "0 is the revision of no key; ask for absent instead",
        )),
        Some(precondition::Condition::ModRevision(revision)) => Ok(Precondition::ModRevision(revision)),
        None => Err(errors::invalid_request(
            "precondition",
            "is there but empty; set absent or mod_revision",
        )),
    }
}

/// Translates a read level. True: stale.
pub fn is_stale(consistency: i32) -> Result<bool, Status> {
    match Consistency::try_from(consistency) {
        Ok(Consistency::Unspecified | Consistency::Linearizable) => Ok(false),
        Ok(Consistency::Stale) => Ok(true),
        Err(_) => Err(errors::invalid_request(
            "consistency",
            &format!("{consistency} is not a level of this version"),
        )),
    }
}

/// Checks a Get. True: stale.
pub fn get(request: &GetRequest) -> Result<bool, Status> {
    key(&request.key)?;
    is_stale(request.consistency)
}

/// Translates prefix, bounds and resume key of a Scan to the part of the key space that is left to visit.
pub fn range(request: &ScanRequest) -> Result<ScanRange, Status> {
    // One more than a key: the end of the range that holds exactly one longest key is that key and a zero byte.
    let longest = KEY_BYTES_MAX as usize + 1;
    let fields = [
        ("prefix", &request.prefix),
        ("start", &request.start),
        ("end", &request.end),
        ("resume_key", &request.resume_key),
    ];
    for (name, bytes) in fields {
        if bytes.len() > longest {
            return Err(errors::invalid_range(
                name,
                &format!("has {} bytes; a key has at most {KEY_BYTES_MAX}", bytes.len()),
            ));
        }
    }
    if !request.end.is_empty() && request.start >= request.end {
        return Err(errors::invalid_range(
            "end",
            "is not above start; the range [start, end) holds no key",
        ));
    }
    // An empty bound is no bound; the prefix is the range [prefix, successor).
    let start = request.start.clone().max(request.prefix.clone());
    let end = match (&request.end, prefix_end(&request.prefix)) {
        (end, None) => end.clone(),
        (end, Some(prefix_end)) if end.is_empty() => prefix_end,
        (end, Some(prefix_end)) => end.clone().min(prefix_end),
    };
    if !end.is_empty() && start >= end {
        return Err(errors::invalid_range(
            "prefix",
            "no key with this prefix lies in [start, end)",
        ));
    }
    let resume = &request.resume_key;
    if !resume.is_empty() && (*resume < start || (!end.is_empty() && *resume >= end)) {
        return Err(errors::invalid_range(
            "resume_key",
            "lies outside of the range; it belongs to another scan",
        ));
    }
    let mut range = ScanRange {
        start: if start.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(start)
        },
        end: if end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(end)
        },
        reverse: request.reverse,
    };
    if !resume.is_empty() {
        match request.reverse {
            false => range.start = Bound::Excluded(resume.clone()),
            true => range.end = Bound::Excluded(resume.clone()),
        }
    }
    Ok(range)
}

/// The first key above all keys with `prefix`; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    if let Some(byte) = end.last_mut() {
        *byte += 1;
    }
    Some(end.into())
}

#[cfg(test)]
#[path = "validate_test.rs"]
mod tests;
