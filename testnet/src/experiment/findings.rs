//! What an experiment found, as plain data: tables and the points of figures, for the screen, JSON and
//! reports.

use std::fmt;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table as Drawn};
use serde::Serialize;

/// One entry of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Datum {
    /// Words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A measured or computed number.
    Number(f64),
    /// There is none.
    Nothing,
}

impl Datum {
    /// A number, where there is one.
    pub fn number(value: Option<f64>) -> Self {
        value.map_or(Self::Nothing, Self::Number)
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Datum {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Datum {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Datum {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// Three significant digits, as people write them.
impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => write!(f, "{count}"),
            Self::Number(number) => {
                let digits = match number.abs() {
                    size if size >= 100.0 => 0,
                    size if size >= 10.0 => 1,
                    size if size >= 1.0 || size == 0.0 => 2,
                    _ => 3,
                };
                write!(f, "{number:.digits$}")
            }
            Self::Nothing => Ok(()),
        }
    }
}

/// A table; rows have as many entries as there are columns.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Column heads, units included.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<Datum>>,
}

impl Table {
    /// An empty table.
    pub fn new<const N: usize>(title: impl Into<String>, columns: [&str; N]) -> Self {
        Self {
            title: title.into(),
            columns: columns.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut drawn = Drawn::new();
        drawn.load_style(UTF8_FULL_CONDENSED);
        drawn.set_header(&self.columns);
        for row in &self.rows {
            drawn.add_row(row.iter().map(Datum::to_string));
        }
        let words = |index: usize| {
            let mut column = self.rows.iter().filter_map(|row| row.get(index));
            column.any(|datum| matches!(datum, Datum::Text(_)))
        };
        for (index, column) in drawn.column_iter_mut().enumerate() {
            if !words(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{}\n{drawn}", self.title)
    }
}

/// One point of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Along the axis.
    pub x: f64,
    /// Measured or computed.
    pub y: f64,
    /// Lowest and highest measured, or the ends of an interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
}

/// What belongs together in a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Its entry in the legend.
    pub name: String,
    /// Computed or published rather than measured.
    pub is_reference: bool,
    /// Its points, by x.
    pub points: Vec<Point>,
}

/// The data of a figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it shows.
    pub title: String,
    /// The horizontal axis, with its unit.
    pub x_label: String,
    /// The vertical axis, with its unit.
    pub y_label: String,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// Values of which a histogram can be drawn.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// What they are of.
    pub title: String,
    /// Their unit.
    pub unit: String,
    /// All of them, in the order of measuring.
    pub values: Vec<f64>,
}

/// What an experiment found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Tables, the most telling first.
    pub tables: Vec<Table>,
    /// Figures.
    pub figures: Vec<Figure>,
    /// What has to be known to read them, a sentence or two each.
    pub notes: Vec<String>,
}

/// The middle of some values; of an even number, the mean of the two in the middle.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    match sorted.len() % 2 {
        1 => Some(*upper),
        _ => Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, *upper)),
    }
}

/// The value that a part `at` of all lies below, from 0 to 1; between two, as far along (Hyndman and Fan
/// 1996, type 7).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list"
)]
pub(super) fn quantile(values: &[f64], at: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = sorted.len().checked_sub(1)? as f64 * at.clamp(0.0, 1.0);
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// Decimal, as sizes of files are published: `10 MB`.
pub(super) fn decimal(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    let Some((factor, unit)) = units.into_iter().find(|(factor, _)| bytes >= *factor) else {
        return format!("{bytes} B");
    };
    match bytes % factor / (factor / 10) {
        0 => format!("{} {unit}", bytes / factor),
        tenths => format!("{}.{tenths} {unit}", bytes / factor),
    }
}

/// The mean of some values.
#[expect(clippy::cast_precision_loss, reason = "a mean")]
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Different values in the order in which they come.
pub(super) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
        assert_eq!(distinct([2, 1, 2, 3, 1]), [2, 1, 3]);
    }

    #[test]
    fn quantiles_lie_between() {
        assert_eq!(quantile(&[], 0.5), None);
        let values = [5.0, 1.0, 4.0, 2.0];
        let found = [0.0, 0.5, 0.9, 1.0].map(|at| quantile(&values, at).unwrap());
        assert_eq!(found[..2], [1.0, 3.0]);
        assert!((found[2] - 4.7).abs() < 1e-9);
        assert!((found[3] - 5.0).abs() < 1e-12);
    }

    #[test]
    fn sizes_are_decimal() {
        let shown = [10_000, 10_000_000, 1_500_000_000, 12].map(decimal);
        assert_eq!(shown, ["10 kB", "10 MB", "1.5 GB", "12 B"]);
    }

    #[test]
    fn tables_align_numbers_and_words() {
        let mut table = Table::new("speed", ["code", "put s"]);
        table.rows.push(vec!["copies:1".into(), 0.1234.into()]);
        table.rows.push(vec!["auto".into(), 123.4.into()]);
        table.rows.push(vec!["none".into(), Datum::Nothing]);
        let text = table.to_string();
        assert!(text.contains("│ copies:1 ┆ 0.123 │"), "{text}");
        assert!(text.contains("│ auto     ┆   123 │"), "{text}");
        assert!(text.starts_with("speed\n"), "{text}");
    }
}
