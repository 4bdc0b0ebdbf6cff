//! Goal: what is refused, by which reason, and what a scan's bounds become. Method: tables.

use std::ops::Bound;

use nezha_api::errors::{ApiError, Reason};

use super::*;

fn reason(status: &Status) -> Option<Reason> {
    ApiError::from_status(status).reason
}

#[test]
fn keys_and_values_are_held_to_their_limits() {
    assert!(key(b"k").is_ok() && key(&[0; 8 << 10]).is_ok());
    assert_eq!(reason(&key(b"").unwrap_err()), Some(Reason::KeyEmpty));
    let error = ApiError::from_status(&key(&[0; (8 << 10) + 1]).unwrap_err());
    assert_eq!(
        (error.reason, error.limit),
        (Some(Reason::KeyTooLarge), Some(8 << 10))
    );
    assert!(error.message.contains("8193"), "{}", error.message);
    assert!(value(&[0; 16], 16).is_ok() && value(b"", 16).is_ok());
    let error = ApiError::from_status(&value(&[0; 17], 16).unwrap_err());
    assert_eq!(
        (error.reason, error.limit),
        (Some(Reason::ValueTooLarge), Some(16))
    );
}

#[test]
fn preconditions_that_mean_nothing_are_refused_by_field() {
    let wire = |condition| WirePrecondition { condition };
    assert_eq!(precondition(None).unwrap(), Precondition::None);
    assert_eq!(
        precondition(Some(&wire(Some(precondition::Condition::Absent(true))))).unwrap(),
        Precondition::Absent
    );
    assert_eq!(
        precondition(Some(&wire(Some(precondition::Condition::ModRevision(7))))).unwrap(),
        Precondition::ModRevision(7)
    );
    for (condition, field) in [
        (
            Some(precondition::Condition::Absent(false)),
            "precondition.absent",
        ),
        (
            Some(precondition::Condition::ModRevision(0)),
            "precondition.mod_revision",
        ),
        (None, "precondition"),
    ] {
        let error = ApiError::from_status(&precondition(Some(&wire(condition))).unwrap_err());
        assert_eq!(error.reason, Some(Reason::InvalidRequest));
        assert_eq!(error.violations[0].0, field);
    }
}

#[test]
fn unknown_read_levels_are_refused() {
    assert!(!is_stale(0).unwrap() && !is_stale(1).unwrap() && is_stale(2).unwrap());
    assert_eq!(reason(&is_stale(9).unwrap_err()), Some(Reason::InvalidRequest));
}

fn scan(
    prefix: &'static str,
    start: &'static str,
    end: &'static str,
    resume: &'static str,
    reverse: bool,
) -> ScanRequest {
    ScanRequest {
        prefix: prefix.into(),
        start: start.into(),
        end: end.into(),
        resume_key: resume.into(),
        reverse,
        ..ScanRequest::default()
    }
}

fn bound(bound: &Bound<Bytes>) -> String {
    match bound {
        Bound::Unbounded => "-".to_owned(),
        Bound::Included(key) => format!("[{}", key.escape_ascii()),
        Bound::Excluded(key) => format!("({}", key.escape_ascii()),
    }
}

#[test]
fn bounds_of_a_scan() {
    for (request, start, end) in [
        (scan("", "", "", "", false), "-", "-"),
        (scan("", "b", "", "", false), "[b", "-"),
        (scan("", "", "d", "", false), "-", "(d"),
        (scan("b", "", "", "", false), "[b", "(c"),
        (scan("b", "ba", "bz", "", false), "[ba", "(bz"),
        (scan("b", "a", "z", "", false), "[b", "(c"),
        (scan("b", "", "", "bm", false), "(bm", "(c"),
        (scan("b", "", "", "bm", true), "[b", "(bm"),
        (scan("", "", "", "m", true), "-", "(m"),
    ] {
        let range = range(&request).unwrap();
        assert_eq!(
            (bound(&range.start).as_str(), bound(&range.end).as_str()),
            (start, end),
            "{request:?}"
        );
        assert_eq!(range.reverse, request.reverse);
    }
    let ff = ScanRequest {
        prefix: Bytes::from_static(b"a\xff\xff"),
        ..ScanRequest::default()
    };
    assert_eq!(bound(&range(&ff).unwrap().end), "(b");
    let last = ScanRequest {
        prefix: Bytes::from_static(b"\xff"),
        ..ScanRequest::default()
    };
    assert_eq!(bound(&range(&last).unwrap().end), "-");
}

#[test]
fn ranges_that_hold_no_key_are_refused_by_field() {
    for (request, field) in [
        (scan("", "b", "a", "", false), "end"),
        (scan("", "b", "b", "", false), "end"),
        (scan("b", "c", "", "", false), "prefix"),
        (scan("b", "", "a", "", false), "prefix"),
        (scan("b", "", "", "c", false), "resume_key"),
        (scan("b", "", "", "a", true), "resume_key"),
    ] {
        let error = ApiError::from_status(&range(&request).unwrap_err());
        assert_eq!(error.reason, Some(Reason::InvalidRange), "{request:?}");
        assert_eq!(error.violations[0].0, field, "{request:?}");
    }
    let long = ScanRequest {
        prefix: vec![1; (8 << 10) + 2].into(),
        ..ScanRequest::default()
    };
    assert_eq!(reason(&range(&long).unwrap_err()), Some(Reason::InvalidRange));
}
