//! What must be reached.

use comfy_table::{Table, presets};
use serde::Serialize;

/// A figure and the bar it has to stay under.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What was measured.
    pub what: String,
    /// The figure.
    pub measured: f64,
    /// The bar, as it is written: `≤ 6` or `< 3`.
    pub bar: String,
    /// Whether the figure keeps it.
    pub met: bool,
}

impl Bar {
    /// The figure may be as large as the bar.
    #[must_use]
    pub fn at_most(what: impl Into<String>, measured: f64, bar: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bar: format!("≤ {bar}"),
            met: measured <= bar,
        }
    }

    /// The figure may be as small as the bar.
    #[must_use]
    pub fn at_least(what: impl Into<String>, measured: f64, bar: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bar: format!("≥ {bar}"),
            met: measured >= bar,
        }
    }

    /// The figure has to be smaller than the bar.
    #[must_use]
    pub fn below(what: impl Into<String>, measured: f64, bar: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bar: format!("< {bar}"),
            met: measured < bar,
        }
    }
}

/// How many bars are missed.
#[must_use]
pub fn missed(bars: &[Bar]) -> usize {
    bars.iter().filter(|bar| !bar.met).count()
}

/// The bars for people: each with its figure and whether it is met.
#[must_use]
pub fn table(bars: &[Bar]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(["bar", "", "measured", ""]);
    for bar in bars {
        let measured = (bar.measured * 100.0).round() / 100.0;
        let verdict = if bar.met { "met" } else { "MISSED" };
        table.add_row([&bar.what, &bar.bar, &measured.to_string(), verdict]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_kept_up_to_and_including_or_not() {
        assert!(Bar::at_most("events", 6.0, 6.0).met);
        assert!(!Bar::below("adoptions", 3.0, 3.0).met);
        assert!(Bar::at_least("ratio", 0.5, 0.5).met);
        assert!(!Bar::at_least("nothing", f64::NAN, 0.5).met);
        assert!(!Bar::at_most("nothing", f64::NAN, 6.0).met);
        assert_eq!(Bar::at_most("ratio", 1.0, 1.2).bar, "≤ 1.2");
        let bars = [Bar::below("a", 1.0, 1.0), Bar::below("b", 0.0, 1.0)];
        assert_eq!(missed(&bars), 1);
    }
}
