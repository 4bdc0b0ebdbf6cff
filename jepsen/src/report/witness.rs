//! The witness of a violation as a drawing: one lane per process, a bar from each invocation to its answer, the faults
//! around it above. Pure.
//!
//! What matters is the order of events, and they may be microseconds or minutes apart. So the axis is not to scale: each
//! event has a place of its own, and the room between two grows with the logarithm of the time between them.

use super::bands::family;
use super::members::describe;
use super::svg::{WIDTH, count, drawing, duration, line, moment, rect, rows, shorten, text, text_width};
use super::verdict::WitnessLine;
use crate::history::{Fault, Outcome};

/// Operations that are drawn at most; the table below has more.
pub(super) const DRAWN_MAX: usize = 40;
const LABEL_CHARACTERS: usize = 64;
const FAULT_ROWS_MAX: usize = 8;
const LEFT: f64 = 132.0;
const HIGH: f64 = WIDTH - 40.0;
const OPERATION_ROW: f64 = 34.0;
const FAULT_ROW: f64 = 18.0;

/// Places of events on the axis.
struct Places {
    /// Times in nanoseconds with their coordinates, both ascending.
    places: Vec<(u64, f64)>,
}

impl Places {
    fn new(mut times: Vec<u64>, low: f64, high: f64) -> Places {
        times.sort_unstable();
        times.dedup();
        let weight = |gap: u64| 1.0 + (1.0 + gap as f64 / 1000.0).log10();
        let weights: Vec<f64> = times.windows(2).map(|pair| weight(pair[1] - pair[0])).collect();
        let total: f64 = weights.iter().sum::<f64>().max(1.0);
        let mut at = low;
        let mut places = Vec::with_capacity(times.len());
        for (i, time) in times.into_iter().enumerate() {
            if i > 0 {
                at += weights[i - 1] / total * (high - low);
            }
            places.push((time, at));
        }
        Places { places }
    }

    /// Times between two events lie between them; those outside lie at the ends.
    fn at(&self, time: u64) -> f64 {
        let after = self.places.partition_point(|(place, _)| *place < time);
        match (
            after.checked_sub(1).and_then(|i| self.places.get(i)),
            self.places.get(after),
        ) {
            (_, Some((place, x))) if *place == time => *x,
            (Some((before, x)), Some((place, next))) => {
                x + (next - x) * (time - before) as f64 / (place - before) as f64
            }
            (None, Some((_, x))) | (Some((_, x)), None) => *x,
            (None, None) => LEFT,
        }
    }
}

/// Faults in force at any time between the first invocation and the last answer.
pub(super) fn around<'a>(lines: &[WitnessLine], faults: &'a [Fault]) -> Vec<&'a Fault> {
    let (from, to) = extent(lines);
    faults
        .iter()
        .filter(|f| f.began <= to && f.ended.unwrap_or(f.began) >= from)
        .collect()
}

/// The fault that ended last before the first invocation, if any: violations often show only later.
pub(super) fn before<'a>(lines: &[WitnessLine], faults: &'a [Fault]) -> Option<&'a Fault> {
    let (from, _) = extent(lines);
    faults
        .iter()
        .filter(|f| f.ended.unwrap_or(f.began) < from)
        .max_by_key(|f| f.ended.unwrap_or(f.began))
}

fn extent(lines: &[WitnessLine]) -> (u64, u64) {
    let from = lines.iter().map(|l| l.operation.invoked).min().unwrap_or(0);
    let to = lines
        .iter()
        .map(|l| l.operation.ended.unwrap_or(l.operation.invoked))
        .max()
        .unwrap_or(0);
    (from, to)
}

/// Draws a witness.
pub(super) fn draw(lines: &[WitnessLine], faults: &[Fault]) -> String {
    let lines = &lines[..lines.len().min(DRAWN_MAX)];
    let (first, last) = extent(lines);
    let faults = around(lines, faults);
    let drawn = &faults[..faults.len().min(FAULT_ROWS_MAX)];
    let times = lines
        .iter()
        .flat_map(|l| [Some(l.operation.invoked), l.operation.ended])
        .chain(drawn.iter().flat_map(|f| [Some(f.began), f.ended]))
        .flatten()
        .filter(|time| (first..=last).contains(time))
        .collect();
    // Room at both ends shows what began before the first event, and what goes on after the last.
    let places = Places::new(times, LEFT + 24.0, HIGH - 24.0);
    let top = if drawn.is_empty() {
        4.0
    } else {
        drawn.len() as f64 * FAULT_ROW + 10.0
    };
    let (lanes, bottom) = lanes(lines, &places, top);
    let mut content = String::new();
    for (row, fault) in drawn.iter().enumerate() {
        let from = if fault.began < first {
            LEFT
        } else {
            places.at(fault.began)
        };
        let to = match fault.ended {
            Some(ended) if ended > last => HIGH,
            Some(ended) => places.at(ended),
            None => from,
        };
        let width = (to - from).max(3.0);
        let y = row as f64 * FAULT_ROW + 4.0;
        let family = family(&fault.kind);
        content.push_str(&rect(&format!("band f-{family}"), from, y, width, bottom - y, ""));
        content.push_str(&rect(
            &format!("bar f-{family}"),
            from,
            y,
            width,
            FAULT_ROW - 4.0,
            &describe(fault),
        ));
        let words = shorten(
            &format!("{} {}", fault.kind, fault.members.join(" ")),
            LABEL_CHARACTERS,
        );
        content.push_str(&text("label", label_at(from + 4.0, &words), y + 11.0, &words));
    }
    content.push_str(&axis(&places, top, bottom));
    content.push_str(&lanes);
    drawing(
        "Operations of the witness and the faults around them",
        bottom + 24.0,
        &content,
    )
}

/// Where a label begins that should begin at `x`, so that it ends within the drawing.
fn label_at(x: f64, words: &str) -> f64 {
    x.min(WIDTH - 8.0 - text_width(words)).max(LEFT)
}

/// A hair line at each event, with its time where there is room.
fn axis(places: &Places, top: f64, bottom: f64) -> String {
    let mut out = line("axis", LEFT, bottom, HIGH, bottom);
    let mut free = 0.0;
    for (time, x) in &places.places {
        out.push_str(&line("hair", *x, top, *x, bottom));
        let words = moment(*time);
        let half = text_width(&words) / 2.0;
        if x - half > free {
            out.push_str(&text("tick middle", *x, bottom + 16.0, &words));
            free = x + half + 10.0;
        }
    }
    out
}

/// The lanes of all processes below `top`, and where they end.
fn lanes(lines: &[WitnessLine], places: &Places, top: f64) -> (String, f64) {
    let mut processes: Vec<u64> = Vec::new();
    for line in lines {
        if !processes.contains(&line.operation.process) {
            processes.push(line.operation.process);
        }
    }
    let mut out = String::new();
    let mut y = top;
    for process in processes {
        let mut bars: Vec<Bar> = lines
            .iter()
            .filter(|l| l.operation.process == process)
            .map(|l| Bar::of(l, places))
            .collect();
        bars.sort_by(|a, b| a.from.total_cmp(&b.from));
        let extents: Vec<(f64, f64)> = bars
            .iter()
            .map(|bar| {
                (
                    bar.from.min(bar.label_x),
                    bar.to.max(bar.label_x + text_width(&bar.label)),
                )
            })
            .collect();
        let rows: Vec<usize> = rows(&extents, 12.0, usize::MAX)
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();
        let height = rows.iter().max().map_or(1, |row| row + 1) as f64 * OPERATION_ROW + 6.0;
        out.push_str(&text(
            "name end",
            LEFT - 8.0,
            y + height / 2.0 + 4.0,
            &format!("process {process}"),
        ));
        for (bar, row) in bars.iter().zip(rows) {
            out.push_str(&bar.draw(y + row as f64 * OPERATION_ROW));
        }
        y += height;
        out.push_str(&line("grid", LEFT, y, HIGH, y));
    }
    (out, y)
}

/// An operation in its lane.
struct Bar {
    from: f64,
    to: f64,
    label: String,
    label_x: f64,
    class: &'static str,
    /// It may take effect at any later time.
    open: bool,
    tooltip: String,
}

impl Bar {
    fn of(line: &WitnessLine, places: &Places) -> Bar {
        let operation = &line.operation;
        let (class, open) = match operation.outcome {
            Outcome::Ok { .. } => ("ok", false),
            Outcome::Fail { .. } => ("failed", false),
            Outcome::Unknown { .. } => ("open", true),
        };
        let words = format!("{} → {}", operation.call, operation.outcome);
        let from = places.at(operation.invoked);
        let to = operation
            .ended
            .map_or(HIGH, |ended| places.at(ended))
            .max(from + 3.0);
        let label = shorten(&words, LABEL_CHARACTERS);
        let label_x = label_at(from, &label);
        let took = operation.ended.map_or("no answer".to_string(), |e| {
            duration(e.saturating_sub(operation.invoked))
        });
        let tooltip = format!("#{} {words}, {took}", count(line.position as u64));
        Bar {
            from,
            to,
            label,
            label_x,
            class,
            open,
            tooltip: shorten(&tooltip, 400),
        }
    }

    fn draw(&self, y: f64) -> String {
        let mut out = text("label", self.label_x, y + 14.0, &self.label);
        out.push_str(&rect(
            &format!("operation {}", self.class),
            self.from,
            y + 19.0,
            self.to - self.from,
            11.0,
            &self.tooltip,
        ));
        if self.open && self.to < HIGH {
            out.push_str(&line("later", self.to, y + 24.5, HIGH, y + 24.5));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Call, Operation};

    fn write(
        position: usize,
        process: u64,
        invoked: u64,
        ended: Option<u64>,
        outcome: Outcome,
    ) -> WitnessLine {
        let call = Call::Write {
            key: "k".into(),
            value: format!("<v{position}>"),
        };
        let operation = Operation {
            process,
            invoked,
            ended,
            endpoint: "n1".into(),
            call,
            outcome,
        };
        WitnessLine { position, operation }
    }

    fn ok() -> Outcome {
        Outcome::Ok {
            answer: Answer::Written { revision: Some(7) },
        }
    }

    fn fault(began: u64, ended: Option<u64>) -> Fault {
        Fault {
            kind: "kill".into(),
            members: vec!["n1".into()],
            detail: String::new(),
            began,
            ended,
        }
    }

    #[test]
    fn places_keep_the_order_of_events_however_far_apart() {
        let times = vec![5_000_000_000, 1_000, 0, 60_000_000_000, 1_001, 0];
        let places = Places::new(times, 0.0, 1000.0);
        let xs: Vec<f64> = places.places.iter().map(|(_, x)| *x).collect();
        assert_eq!((xs.len(), xs[0]), (5, 0.0));
        assert!((xs[4] - 1000.0).abs() < 1e-6);
        assert!(
            xs.windows(2).all(|pair| pair[1] - pair[0] > 40.0),
            "each gap is seen: {xs:?}"
        );
        let between = places.at(500);
        assert!(xs[0] < between && between < xs[1]);
        assert_eq!((places.at(u64::MAX), places.at(0)), (xs[4], 0.0));
    }

    #[test]
    fn a_lane_for_each_process_and_a_bar_for_each_operation() {
        let timeout = Outcome::Unknown {
            why: "timeout".into(),
        };
        let lines = [
            write(3, 1, 100, Some(200), ok()),
            write(4, 2, 150, Some(400), timeout),
            write(5, 1, 300, Some(350), ok()),
        ];
        let svg = draw(&lines, &[fault(50, Some(120)), fault(500, None)]);
        assert_eq!(svg.matches(">process ").count(), 2, "{svg}");
        assert_eq!(svg.matches(r#"class="operation ok""#).count(), 2, "{svg}");
        assert_eq!(svg.matches(r#"class="operation open""#).count(), 1, "{svg}");
        assert_eq!(
            svg.matches(r#"class="later""#).count(),
            1,
            "it may take effect later: {svg}"
        );
        assert_eq!(
            svg.matches(r#"class="bar f-process""#).count(),
            1,
            "only what was in force: {svg}"
        );
        assert!(
            svg.contains("write k &quot;&lt;v3&gt;&quot; → done at 7"),
            "{svg}"
        );
    }

    #[test]
    fn faults_around_and_before() {
        let lines = [write(0, 1, 100, Some(200), ok())];
        let faults = [
            fault(10, Some(20)),
            fault(30, None),
            fault(90, Some(101)),
            fault(150, None),
            fault(201, None),
        ];
        let began = |faults: Vec<&Fault>| faults.iter().map(|f| f.began).collect::<Vec<_>>();
        assert_eq!(began(around(&lines, &faults)), [90, 150]);
        assert_eq!(before(&lines, &faults).map(|f| f.began), Some(30));
    }

    #[test]
    fn an_operation_without_an_end_is_drawn_to_the_edge() {
        let svg = draw(
            &[write(0, 1, 100, None, Outcome::Unknown { why: "lost".into() })],
            &[],
        );
        assert!(!svg.contains("NaN") && !svg.contains("class=\"later\""), "{svg}");
        assert!(
            svg.contains(r#"<rect class="operation open" x="156" y="23" width="924""#),
            "{svg}"
        );
    }
}
