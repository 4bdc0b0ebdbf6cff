//! Plots over the time of a run, with faults as bands behind them. Pure.

use super::bands::{bands, labels};
use super::stats::{Bucket, Buckets, KINDS};
use super::svg::{
    Scale, WIDTH, count, drawing, escape, line, path, rect, text, ticks, time_label, time_ticks, trimmed,
};
use crate::history::Fault;

/// Left edge of the plots; labels of the other axis stand before it.
pub(super) const LEFT: f64 = 72.0;
/// Height of the time axis.
pub(super) const BOTTOM: f64 = 24.0;
const RIGHT: f64 = 28.0;
const HEIGHT: f64 = 190.0;
const LABEL_ROWS: usize = 3;
const LABEL_ROW: f64 = 14.0;

/// Where the times of a run lie in all drawings of its page.
pub(super) fn time_scale(seconds: f64) -> Scale {
    Scale {
        from: 0.0,
        to: seconds,
        low: LEFT,
        high: WIDTH - RIGHT,
    }
}

/// The time axis below `y`.
pub(super) fn time_axis(seconds: f64, y: f64) -> String {
    let x = time_scale(seconds);
    let mut out = line("axis", x.low, y, x.high, y);
    for tick in time_ticks(seconds, 12) {
        let at = x.at(tick);
        out.push_str(&line("axis", at, y, at, y + 4.0));
        out.push_str(&text("tick middle", at, y + 17.0, &time_label(tick, seconds)));
    }
    out
}

/// A line of a plot: a value for each bucket, or none where there was nothing to measure.
pub(super) struct Series {
    /// What the legend says.
    pub name: &'static str,
    /// Class of its colour.
    pub class: String,
    /// Values by bucket.
    pub values: Vec<Option<f64>>,
}

/// How values become heights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// From zero.
    PerSecond,
    /// Of nanoseconds, by powers of ten.
    Latency,
}

/// Acknowledged operations per second, by kind; kinds that never occur have no line.
pub(super) fn rates(buckets: &Buckets) -> Vec<Series> {
    (0..KINDS.len())
        .filter(|kind| buckets.buckets.iter().any(|bucket| bucket.ok[*kind] > 0))
        .map(|kind| {
            per_second(buckets, KINDS[kind], &format!("k-{}", KINDS[kind]), |bucket| {
                bucket.ok[kind]
            })
        })
        .collect()
}

/// Failures and unknown outcomes per second.
pub(super) fn losses(buckets: &Buckets) -> Vec<Series> {
    vec![
        per_second(buckets, "fail", "k-fail", |bucket| bucket.fail),
        per_second(buckets, "unknown", "k-unknown", |bucket| bucket.unknown),
    ]
}

/// Latencies of what was acknowledged.
pub(super) fn latencies(buckets: &Buckets) -> Vec<Series> {
    let series = |name: &'static str, get: fn(&super::stats::Latency) -> u64| Series {
        name,
        class: format!("k-{name}"),
        values: buckets
            .buckets
            .iter()
            .map(|b| b.latency.as_ref().map(|l| get(l) as f64))
            .collect(),
    };
    vec![
        series("max", |l| l.max),
        series("p99", |l| l.p99),
        series("median", |l| l.median),
    ]
}

fn per_second(buckets: &Buckets, name: &'static str, class: &str, get: impl Fn(&Bucket) -> u64) -> Series {
    let values = buckets
        .buckets
        .iter()
        .map(|b| Some(get(b) as f64 / b.span.max(1e-9)))
        .collect();
    Series {
        name,
        class: class.to_string(),
        values,
    }
}

/// The range of values, and the labelled ticks in it.
fn value_axis(axis: Axis, series: &[Series]) -> (f64, f64, Vec<(f64, String)>) {
    let values = series.iter().flat_map(|s| s.values.iter().flatten().copied());
    match axis {
        Axis::PerSecond => {
            let ticks = ticks(values.fold(0.0, f64::max), 4);
            let top = ticks.last().copied().unwrap_or(1.0);
            (
                0.0,
                top,
                ticks.into_iter().map(|tick| (tick, rate_label(tick))).collect(),
            )
        }
        Axis::Latency => {
            let (low, high) = values.fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
            // Powers of ten around all values; something to look at even when there are none.
            let (low, high) = if high == 0.0 {
                (1e6, 1e6)
            } else {
                (low.max(1.0), high)
            };
            let from = (low.log10() + 1e-9).floor() as i32;
            let to = ((high.log10() - 1e-9).ceil() as i32).max(from + 1);
            let ticks = (from..=to)
                .map(|power| (f64::from(power), power_label(power)))
                .collect();
            (f64::from(from), f64::from(to), ticks)
        }
    }
}

fn rate_label(value: f64) -> String {
    if value >= 1000.0 {
        format!("{}k", trimmed(value / 1000.0, 2))
    } else {
        trimmed(value, 2)
    }
}

/// A power of ten of nanoseconds.
fn power_label(power: i32) -> String {
    let (shift, unit) = match power {
        ..3 => (0, "ns"),
        3..6 => (3, "µs"),
        6..9 => (6, "ms"),
        _ => (9, "s"),
    };
    format!("{} {unit}", 10f64.powi(power - shift))
}

/// One plot. Faults lie behind the lines; hovering over a bucket tells its values.
pub(super) fn plot(
    name: &str,
    axis: Axis,
    buckets: &Buckets,
    series: &[Series],
    faults: &[Fault],
    seconds: f64,
) -> String {
    let x = time_scale(seconds);
    let labels = labels(faults, &x, LABEL_ROWS);
    let label_rows = labels.iter().map(|label| label.row + 1).max().unwrap_or(0);
    let top = label_rows as f64 * LABEL_ROW + 8.0;
    let bottom = top + HEIGHT;
    let (from, to, ticks) = value_axis(axis, series);
    let y = Scale {
        from,
        to,
        low: bottom,
        high: top,
    };
    let height_of = |value: f64| match axis {
        Axis::PerSecond => y.at(value),
        Axis::Latency => y.at(value.max(1.0).log10()),
    };

    let mut content = String::new();
    for band in bands(faults, &x) {
        let class = format!("band f-{}", band.family);
        content.push_str(&rect(&class, band.from, top, band.to - band.from, HEIGHT, ""));
    }
    for label in labels {
        let row = (label_rows - 1 - label.row) as f64;
        content.push_str(&text("label", label.x, row * LABEL_ROW + 12.0, &label.words));
    }
    for (tick, words) in ticks {
        content.push_str(&line("grid", x.low, y.at(tick), x.high, y.at(tick)));
        content.push_str(&text("tick end", x.low - 6.0, y.at(tick) + 4.0, &words));
    }
    for one in series {
        let points: Vec<Option<(f64, f64)>> = buckets
            .buckets
            .iter()
            .zip(&one.values)
            .map(|(bucket, value)| value.map(|v| (x.at(bucket.from + bucket.span / 2.0), height_of(v))))
            .collect();
        content.push_str(&path(&format!("series {}", one.class), &points));
    }
    content.push_str(&time_axis(seconds, bottom));
    for (i, bucket) in buckets.buckets.iter().enumerate() {
        let values: Vec<String> = series.iter().filter_map(|one| told(axis, one, i)).collect();
        let words = format!("{}: {}", time_label(bucket.from, seconds), values.join(", "));
        let from = x.at(bucket.from);
        content.push_str(&rect(
            "hover",
            from,
            top,
            x.at(bucket.from + bucket.span) - from,
            HEIGHT,
            &words,
        ));
    }
    drawing(name, bottom + BOTTOM, &content)
}

fn told(axis: Axis, series: &Series, bucket: usize) -> Option<String> {
    let value = (*series.values.get(bucket)?)?;
    let words = match axis {
        Axis::PerSecond => format!("{}/s", count(value.round() as u64)),
        Axis::Latency => super::svg::duration(value as u64),
    };
    Some(format!("{} {words}", series.name))
}

/// The legend of a plot's lines.
pub(super) fn legend(series: &[Series]) -> String {
    let entries: String = series
        .iter()
        .map(|one| {
            let mark = format!(
                r#"<svg class="mark" viewBox="0 0 20 8" aria-hidden="true"><path class="series {}" d="M0 4h20"/></svg>"#,
                one.class
            );
            format!("<span>{mark}{}</span>", escape(one.name))
        })
        .collect();
    format!(r#"<p class="legend">{entries}</p>"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    fn buckets(ok: &[u64]) -> Buckets {
        let buckets = ok
            .iter()
            .enumerate()
            .map(|(i, n)| Bucket {
                from: i as f64,
                span: 1.0,
                ok: [*n, 0, 0, 0, 0, 0],
                ..Bucket::default()
            })
            .collect();
        Buckets { width: 1.0, buckets }
    }

    #[test]
    fn a_plot_scales_values_and_shades_faults() {
        let buckets = buckets(&[0, 50, 100]);
        let fault = Fault {
            kind: "kill".into(),
            members: vec![],
            detail: String::new(),
            began: 0,
            ended: Some(1_500_000_000),
        };
        let svg = plot("rate", Axis::PerSecond, &buckets, &rates(&buckets), &[fault], 3.0);
        // Time runs from 72 to 1092, values from 212 (none) up to 22 (100 a second), below one row of labels.
        assert!(
            svg.contains(r#"<rect class="band f-process" x="72" y="22" width="510" height="190"/>"#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<path class="series k-read" d="M242 212L582 117L922 22"/>"#),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<text class="tick end" x="66" y="26">100</text>"#),
            "{svg}"
        );
        assert!(svg.contains("<title>1 s: read 50/s</title>"), "{svg}");
        assert!(
            svg.contains(r#"<text class="label" x="72" y="12">kill</text>"#),
            "{svg}"
        );
    }

    #[test]
    fn latencies_have_powers_of_ten() {
        let series = |values: Vec<Option<f64>>| {
            [Series {
                name: "max",
                class: String::new(),
                values,
            }]
        };
        let (from, to, ticks) = value_axis(Axis::Latency, &series(vec![Some(2e5), None, Some(1.5e9)]));
        assert_eq!((from, to), (5.0, 10.0));
        let words: Vec<String> = ticks.into_iter().map(|(_, words)| words).collect();
        assert_eq!(words, ["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert_eq!(
            value_axis(Axis::Latency, &series(vec![None])).0,
            6.0,
            "nothing was acknowledged"
        );
    }

    #[test]
    fn an_empty_run_has_plots() {
        let buckets = Buckets::of(&History::default(), u64::MAX);
        assert!(rates(&buckets).is_empty());
        let svg = plot("x", Axis::Latency, &buckets, &latencies(&buckets), &[], 0.0);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(
            [0.0, 0.5, 200.0, 1500.0, 20_000.0].map(rate_label),
            ["0", "0.5", "200", "1.5k", "20k"]
        );
    }
}
