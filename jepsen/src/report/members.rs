//! The timeline of members: a row for each, with bars for the faults that are in force on it. Pure.

use super::bands::{family, span};
use super::plots::{BOTTOM, LEFT, time_axis, time_scale};
use super::svg::{drawing, duration, line, moment, rect, rows, text, text_width};
use crate::history::Fault;

/// Faults that are drawn at most; a page stays small.
const DRAWN_MAX: usize = 3000;
/// Lanes of a row: so many faults at once on one member are seen side by side.
const LANES_MAX: usize = 8;
const LANE: f64 = 17.0;

/// What a tooltip says of a fault.
pub(super) fn describe(fault: &Fault) -> String {
    let when = match fault.ended {
        Some(ended) => {
            format!(
                "from {} for {}",
                moment(fault.began),
                duration(ended.saturating_sub(fault.began))
            )
        }
        None => format!("at {}", moment(fault.began)),
    };
    let who = if fault.members.is_empty() {
        "cluster".to_string()
    } else {
        fault.members.join(" ")
    };
    let detail = if fault.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", fault.detail)
    };
    format!("{} on {who}, {when}{detail}", fault.kind)
}

/// Members in the order given, then others that faults name; faults that name none belong to the cluster.
fn names(members: &[String], faults: &[Fault]) -> Vec<String> {
    let mut names = members.to_vec();
    for name in faults.iter().flat_map(|fault| &fault.members) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if faults.iter().any(|fault| fault.members.is_empty()) {
        names.push("cluster".to_string());
    }
    names
}

/// The drawing, and how many faults it leaves out.
pub(super) fn timeline(members: &[String], faults: &[Fault], seconds: f64) -> (String, usize) {
    let shown = &faults[..faults.len().min(DRAWN_MAX)];
    let x = time_scale(seconds);
    let mut content = String::new();
    let mut y = 4.0;
    for name in names(members, shown) {
        let mut own: Vec<&Fault> = shown
            .iter()
            .filter(|f| f.members.contains(&name) || (f.members.is_empty() && name == "cluster"))
            .collect();
        own.sort_by_key(|fault| fault.began);
        let spans: Vec<(f64, f64)> = own.iter().map(|fault| span(fault, &x)).collect();
        // What has no free lane is drawn over the last one rather than not at all.
        let lanes: Vec<usize> = rows(&spans, 1.0, LANES_MAX)
            .into_iter()
            .map(|lane| lane.unwrap_or(LANES_MAX - 1))
            .collect();
        let height = (lanes.iter().max().map_or(0, |lane| lane + 1).max(1)) as f64 * LANE + 8.0;
        content.push_str(&line("grid", LEFT, y + height, x.high, y + height));
        content.push_str(&text("name end", LEFT - 8.0, y + height / 2.0 + 4.0, &name));
        for (i, fault) in own.iter().enumerate() {
            let ((from, to), top) = (spans[i], y + 4.0 + lanes[i] as f64 * LANE);
            let class = format!("bar f-{}", family(&fault.kind));
            content.push_str(&rect(&class, from, top, to - from, LANE - 3.0, &describe(fault)));
            let next = (i + 1..own.len())
                .find(|j| lanes[*j] == lanes[i])
                .map_or(x.high, |j| spans[j].0);
            let width = text_width(&fault.kind);
            let room = |at: f64, until: f64| at + width + 4.0 <= until;
            if room(from + 4.0, to) {
                content.push_str(&text("label", from + 4.0, top + 11.0, &fault.kind));
            } else if room(to + 3.0, next) {
                content.push_str(&text("label", to + 3.0, top + 11.0, &fault.kind));
            }
        }
        y += height;
    }
    content.push_str(&time_axis(seconds, y));
    (
        drawing("Faults in force on each member over time", y + BOTTOM, &content),
        faults.len() - shown.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: &str, members: &[&str], began: u64, ended: Option<u64>) -> Fault {
        Fault {
            kind: kind.into(),
            members: members.iter().map(ToString::to_string).collect(),
            detail: "<&>".into(),
            began,
            ended,
        }
    }

    #[test]
    fn every_member_has_a_row() {
        let faults = [fault("join", &["n4"], 1, None), fault("gc", &[], 2, None)];
        assert_eq!(
            names(&["n1".into(), "n2".into()], &faults),
            ["n1", "n2", "n4", "cluster"]
        );
    }

    #[test]
    fn bars_say_what_they_are() {
        let faults = [fault("kill", &["n1", "n2"], 1_000_000_000, Some(9_000_000_000))];
        let (svg, left_out) = timeline(&["n1".into(), "n2".into()], &faults, 10.0);
        assert_eq!(left_out, 0);
        assert_eq!(svg.matches(r#"<rect class="bar f-process""#).count(), 2, "{svg}");
        assert_eq!(svg.matches(">kill</text>").count(), 2, "{svg}");
        assert!(
            svg.contains("kill on n1 n2, from 1.000000 s for 8 s: &lt;&amp;&gt;"),
            "{svg}"
        );
    }

    #[test]
    fn too_many_faults_are_counted_not_drawn() {
        let faults = vec![fault("kill", &["n1"], 0, Some(1)); DRAWN_MAX + 5];
        assert_eq!(timeline(&[], &faults, 1.0).1, 5);
    }
}
