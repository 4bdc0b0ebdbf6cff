//! What every drawing and table needs: escaping, scales, ticks, words for numbers. Pure.

/// Width of a drawing in its own units; the page scales it to its column.
pub(super) const WIDTH: f64 = 1120.0;
/// Width of a character of a label: 11 units of a monospaced font.
pub(super) const CHARACTER: f64 = 6.7;

/// Makes text safe inside elements and inside quoted attributes.
///
/// Control characters other than line breaks become U+FFFD: they are not allowed in a page, and would hide.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Cuts text to `characters_max`, with an ellipsis as the last of them.
pub(super) fn shorten(text: &str, characters_max: usize) -> String {
    if text.chars().count() <= characters_max {
        return text.to_string();
    }
    let mut out: String = text.chars().take(characters_max.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// Width of a label in units.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// A coordinate, to a tenth of a unit: finer is not seen, and costs bytes.
pub(super) fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" {
        "0".to_string()
    } else {
        text.to_string()
    }
}

/// Maps a range of values to a range of coordinates, by a straight line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub from: f64,
    pub to: f64,
    pub low: f64,
    pub high: f64,
}

impl Scale {
    /// The coordinate of `value`, kept within the range.
    pub(super) fn at(&self, value: f64) -> f64 {
        if self.to <= self.from {
            return self.low;
        }
        let share = ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        self.low + share * (self.high - self.low)
    }
}

/// Ticks from 0 in steps of 1, 2 or 5 times a power of ten, about `wanted` of them; the last is at or above `max`.
pub(super) fn ticks(max: f64, wanted: usize) -> Vec<f64> {
    let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
    let rough = max / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .iter()
        .map(|m| m * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let count = (max / step - 1e-9).ceil() as usize;
    (0..=count).map(|i| i as f64 * step).collect()
}

/// Ticks of a time axis within `seconds`, in steps that clocks know, at most `wanted` of them and the zero.
pub(super) fn time_ticks(seconds: f64, wanted: usize) -> Vec<f64> {
    const STEPS: [f64; 19] = [
        0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0,
        1800.0, 3600.0,
    ];
    let rough = seconds / wanted.max(1) as f64;
    let step = STEPS
        .iter()
        .copied()
        .find(|step| *step >= rough)
        .unwrap_or_else(|| (rough / 3600.0).ceil().max(1.0) * 3600.0);
    let count = (seconds / step + 1e-9).floor().max(0.0) as usize;
    (0..=count).map(|i| i as f64 * step).collect()
}

/// A time on the axis of a run of `seconds`: `12 s` in short ones, `2:05` in longer ones, `1:02:05` beyond an hour.
pub(super) fn time_label(time: f64, seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{} s", trimmed(time, 2));
    }
    let whole = time.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if seconds < 3600.0 {
        format!("{minutes}:{rest:02}")
    } else {
        format!("{hours}:{minutes:02}:{rest:02}")
    }
}

/// A number with at most `decimals` decimals, without zeros at its end.
pub(super) fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A count with a comma between groups of three digits.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration with the unit that suits it, to three digits.
pub(super) fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let (value, unit) = match nanoseconds {
        0..1_000 => (value, "ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{} {unit}", trimmed(value, decimals))
}

/// A point of time of a run in seconds, to the microsecond: what a reader searches in logs.
pub(super) fn moment(nanoseconds: u64) -> String {
    format!("{:.6} s", seconds(nanoseconds))
}

/// Nanoseconds as seconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Milliseconds since 1970 as date and time in UTC.
pub(super) fn utc(unix_ms: u64) -> String {
    let whole = unix_ms / 1000;
    let (days, rest) = (whole / 86_400, whole % 86_400);
    // Days to a civil date, by eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A filled rectangle, with a tooltip if there is one to show.
pub(super) fn rect(class: &str, x: f64, y: f64, width: f64, height: f64, tooltip: &str) -> String {
    let [x, y, width, height] = [x, y, width, height].map(coordinate);
    let start = format!(r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}""#);
    if tooltip.is_empty() {
        start + "/>"
    } else {
        format!("{start}><title>{}</title></rect>", escape(tooltip))
    }
}

/// A straight line.
pub(super) fn line(class: &str, x1: f64, y1: f64, x2: f64, y2: f64) -> String {
    let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(coordinate);
    format!(r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#)
}

/// A label; the class says where its anchor is.
pub(super) fn text(class: &str, x: f64, y: f64, words: &str) -> String {
    format!(
        r#"<text class="{class}" x="{}" y="{}">{}</text>"#,
        coordinate(x),
        coordinate(y),
        escape(words)
    )
}

/// A drawing of the page's width, with its name for those who do not see it.
pub(super) fn drawing(name: &str, height: f64, content: &str) -> String {
    format!(
        r#"<svg class="drawing" viewBox="0 0 {} {}" role="img" aria-label="{}">{content}</svg>"#,
        coordinate(WIDTH),
        coordinate(height),
        escape(name)
    )
}

/// A line through points; where a value is missing it breaks. A point with none beside it becomes a dash.
pub(super) fn path(class: &str, points: &[Option<(f64, f64)>]) -> String {
    let mut commands = String::new();
    let mut before = false;
    for (i, point) in points.iter().enumerate() {
        let Some((x, y)) = point else {
            before = false;
            continue;
        };
        let after = points.get(i + 1).is_some_and(Option::is_some);
        let (x_text, y_text) = (coordinate(*x), coordinate(*y));
        if before {
            commands.push_str(&format!("L{x_text} {y_text}"));
        } else if after {
            commands.push_str(&format!("M{x_text} {y_text}"));
        } else {
            commands.push_str(&format!("M{} {y_text}h3", coordinate(x - 1.5)));
        }
        before = true;
    }
    format!(r#"<path class="{class}" d="{commands}"/>"#)
}

/// Puts intervals into as few rows as their order allows, so that none overlap within a row. `None`: none of the
/// `rows_max` rows was free.
pub(super) fn rows(intervals: &[(f64, f64)], gap: f64, rows_max: usize) -> Vec<Option<usize>> {
    let mut ends: Vec<f64> = Vec::new();
    intervals
        .iter()
        .map(|(from, to)| {
            if let Some(row) = ends.iter().position(|end| *end + gap <= *from) {
                ends[row] = *to;
                return Some(row);
            }
            if ends.len() == rows_max {
                return None;
            }
            ends.push(*to);
            Some(ends.len() - 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_would_be_markup_or_hidden() {
        assert_eq!(
            escape(r#"<a href="x">'&"#),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;"
        );
        assert_eq!(escape("a\u{0}\u{1b}b\nc"), "a\u{fffd}\u{fffd}b\nc");
        assert_eq!(
            text("label", 1.0, 2.0, "</text>"),
            r#"<text class="label" x="1" y="2">&lt;/text&gt;</text>"#
        );
    }

    #[test]
    fn shortens_by_characters() {
        assert_eq!(shorten("äöüß", 4), "äöüß");
        assert_eq!(shorten("äöüßx", 4), "äöü…");
    }

    #[test]
    fn scales_within_the_range() {
        let scale = Scale {
            from: 0.0,
            to: 10.0,
            low: 100.0,
            high: 0.0,
        };
        assert_eq!(
            [-5.0, 0.0, 2.5, 10.0, 99.0].map(|v| scale.at(v)),
            [100.0, 100.0, 75.0, 0.0, 0.0]
        );
        assert_eq!(
            Scale {
                from: 3.0,
                to: 3.0,
                low: 7.0,
                high: 9.0
            }
            .at(3.0),
            7.0,
            "an empty range"
        );
    }

    #[test]
    fn ticks_are_round_and_reach_the_maximum() {
        assert_eq!(ticks(10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(1234.0, 4), [0.0, 500.0, 1000.0, 1500.0]);
        assert_eq!(ticks(0.0, 4), ticks(1.0, 4), "an empty plot has an axis");
        assert_eq!(ticks(1.0, 1), [0.0, 1.0]);
    }

    #[test]
    fn time_ticks_are_those_of_clocks() {
        assert_eq!(time_ticks(60.0, 6), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(time_ticks(299.0, 6), [0.0, 60.0, 120.0, 180.0, 240.0]);
        assert_eq!(time_ticks(0.0, 6), [0.0]);
        assert_eq!(time_ticks(100.0 * 3600.0, 10).len(), 11);
        assert_eq!(time_label(0.5, 5.0), "0.5 s");
        assert_eq!(time_label(125.0, 300.0), "2:05");
        assert_eq!(time_label(3725.0, 7200.0), "1:02:05");
    }

    #[test]
    fn numbers_have_words() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [7, 1_500, 12_340_000, 999_000_000, 2_000_000_000].map(duration),
            ["7 ns", "1.5 µs", "12.3 ms", "999 ms", "2 s"]
        );
        assert_eq!(coordinate(-0.04), "0");
        assert_eq!(coordinate(12.25), "12.2");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_767_225_599_999), "2025-12-31 23:59:59 UTC");
    }

    #[test]
    fn a_path_breaks_where_nothing_was_measured() {
        let points = [Some((0.0, 1.0)), Some((2.0, 3.0)), None, Some((6.0, 7.0))];
        assert_eq!(
            path("line", &points),
            r#"<path class="line" d="M0 1L2 3M4.5 7h3"/>"#
        );
    }

    #[test]
    fn rows_do_not_overlap() {
        let intervals = [(0.0, 10.0), (5.0, 8.0), (9.0, 12.0), (9.5, 11.0), (12.0, 13.0)];
        assert_eq!(
            rows(&intervals, 1.0, 2),
            [Some(0), Some(1), Some(1), None, Some(0)]
        );
    }
}
