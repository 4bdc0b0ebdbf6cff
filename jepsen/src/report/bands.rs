//! Faults in drawings: which colour, where their bands lie, and which labels have room.

use super::svg::{Scale, rows, seconds, text_width};
use crate::history::Fault;

/// What a fault hurts: it gives the colour. The word is also the end of its CSS class, `f-process`.
pub(super) const FAMILIES: [&str; 5] = ["process", "network", "disk", "power", "operation"];

/// The family of a kind of fault, by the words in its name. What no word tells is an `operation`: something that an
/// operator could do, such as a change of members.
pub(super) fn family(kind: &str) -> &'static str {
    const WORDS: [(&str, &[&str]); 4] = [
        ("power", &["power"]),
        (
            "disk",
            &["disk", "fsync", "rot", "eio", "enospc", "inject", "syscall"],
        ),
        (
            "network",
            &[
                "partition",
                "isolat",
                "bridge",
                "one-way",
                "link",
                "loss",
                "delay",
                "half-open",
                "cut",
                "halves",
            ],
        ),
        (
            "process",
            &["kill", "pause", "restart", "stop", "terminat", "crash"],
        ),
    ];
    WORDS
        .iter()
        .find(|(_, words)| words.iter().any(|word| kind.contains(word)))
        .map_or("operation", |(family, _)| family)
}

/// Where the faults of one family are in force, in coordinates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Band {
    pub family: &'static str,
    pub from: f64,
    pub to: f64,
}

/// The bands of all faults, by family. Bands that touch are one, so that their number is bounded by the width of the
/// drawing. What needs no undoing is two units wide, to be seen.
pub(super) fn bands(faults: &[Fault], x: &Scale) -> Vec<Band> {
    let mut out = Vec::new();
    for family_word in FAMILIES {
        let mut spans: Vec<(f64, f64)> = faults
            .iter()
            .filter(|fault| family(&fault.kind) == family_word)
            .map(|fault| span(fault, x))
            .collect();
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut merged: Vec<(f64, f64)> = Vec::new();
        for (from, to) in spans {
            match merged.last_mut() {
                Some(last) if from <= last.1 + 0.5 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        out.extend(merged.into_iter().map(|(from, to)| Band {
            family: family_word,
            from,
            to,
        }));
    }
    out
}

/// From where to where a fault is in force, in coordinates; at least two units.
pub(super) fn span(fault: &Fault, x: &Scale) -> (f64, f64) {
    let from = x.at(seconds(fault.began));
    let to = fault.ended.map_or(from, |ended| x.at(seconds(ended)));
    (from, to.max(from + 2.0))
}

/// A label above a plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Label {
    pub words: String,
    pub x: f64,
    pub row: usize,
}

/// The kinds of the faults at their begins, in at most `rows_max` rows. Those without room are left out: the timeline
/// of members and the list of faults have them all. Where most have no room there are none.
pub(super) fn labels(faults: &[Fault], x: &Scale, rows_max: usize) -> Vec<Label> {
    let mut sorted: Vec<&Fault> = faults.iter().collect();
    sorted.sort_by_key(|fault| fault.began);
    let intervals: Vec<(f64, f64)> = sorted
        .iter()
        .map(|fault| {
            let width = text_width(&fault.kind);
            let from = x.at(seconds(fault.began)).min(x.high - width);
            (from, from + width)
        })
        .collect();
    let rows = rows(&intervals, 8.0, rows_max);
    let placed: Vec<Label> = sorted
        .iter()
        .zip(intervals)
        .zip(rows)
        .filter_map(|((fault, (x, _)), row)| {
            row.map(|row| Label {
                words: fault.kind.clone(),
                x,
                row,
            })
        })
        .collect();
    // A few words out of a crowd mislead more than they tell.
    if placed.len() * 2 < faults.len() {
        Vec::new()
    } else {
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn fault(kind: &str, began: u64, ended: Option<u64>) -> Fault {
        let ended = ended.map(|seconds| seconds * SECOND);
        Fault {
            kind: kind.into(),
            members: vec![],
            detail: String::new(),
            began: began * SECOND,
            ended,
        }
    }

    const X: Scale = Scale {
        from: 0.0,
        to: 100.0,
        low: 50.0,
        high: 1050.0,
    };

    #[test]
    fn kinds_have_families() {
        let kinds = [
            "kill",
            "pause",
            "partition-halves",
            "delay",
            "slow-disk",
            "bit-rot",
            "power-cut",
            "gc",
            "what",
        ];
        let families = [
            "process",
            "process",
            "network",
            "network",
            "disk",
            "disk",
            "power",
            "operation",
            "operation",
        ];
        assert_eq!(kinds.map(family), families);
    }

    #[test]
    fn bands_lie_where_faults_are_in_force() {
        let faults = [
            fault("kill", 10, Some(20)),
            fault("pause", 15, Some(30)),
            fault("loss", 12, Some(13)),
            fault("kill", 40, Some(41)),
            fault("gc", 50, None),
        ];
        let expected = [
            ("process", 150.0, 350.0),
            ("process", 450.0, 460.0),
            ("network", 170.0, 180.0),
        ];
        let got: Vec<_> = bands(&faults, &X)
            .into_iter()
            .map(|b| (b.family, b.from, b.to))
            .collect();
        assert_eq!(got[..3], expected);
        assert_eq!(
            got[3..],
            [("operation", 550.0, 552.0)],
            "what needs no undoing is seen"
        );
    }

    #[test]
    fn bands_do_not_grow_with_the_faults() {
        let faults: Vec<Fault> = (0..100)
            .flat_map(|i| vec![fault("kill", i, Some(i + 1)); 100])
            .collect();
        assert_eq!(
            bands(&faults, &X),
            [Band {
                family: "process",
                from: 50.0,
                to: 1050.0
            }]
        );
    }

    #[test]
    fn labels_do_not_overlap_nor_leave_the_drawing() {
        let faults = [
            fault("kill", 10, None),
            fault("kill", 11, None),
            fault("kill", 12, None),
            fault("pause", 100, None),
        ];
        let got: Vec<_> = labels(&faults, &X, 2)
            .into_iter()
            .map(|l| (l.words, l.x, l.row))
            .collect();
        let end = 1050.0 - text_width("pause");
        let expected = [
            ("kill".to_string(), 150.0, 0),
            ("kill".to_string(), 160.0, 1),
            ("pause".to_string(), end, 0),
        ];
        assert_eq!(got, expected);
    }
}
