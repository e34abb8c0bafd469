//! What an experiment found, as plain data: tables and the points of figures, for the screen, JSON and
//! reports.

use std::fmt;
use std::ops::Deref;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table as Drawn, TableStyle};
use itertools::Itertools;
use serde::Serialize;

/// One entry of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Datum {
    /// Some words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A measured or computed number.
    Number(f64),
    /// There is none.
    Nothing,
}

macro_rules! data {
    ($($from:ty: $value:ident => $datum:expr;)*) => {
        $(impl From<$from> for Datum {
            fn from($value: $from) -> Self {
                $datum
            }
        })*
    };
}

data! {
    &str: text => Self::Text(text.to_owned());
    String: text => Self::Text(text);
    u64: count => Self::Count(count);
    usize: count => Self::Count(count as u64);
    f64: number => Self::Number(number);
}

impl<T: Into<Self>> From<Option<T>> for Datum {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
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

/// A table with a row for each item: the title, the items, and of each column the head, unit included, and
/// the entry for an item.
macro_rules! table {
    ($title:expr, $items:expr, |$item:pat_param| { $($head:expr => $entry:expr,)* }) => {{
        #[allow(unused_variables, reason = "few columns need all parts of an item")]
        let table = $crate::findings::Table::of($title, $items, &[
            $(($head, &|$item| $crate::findings::Datum::from($entry)),)*
        ]);
        table
    }};
}
pub(super) use table;

/// A column of a table: its head, unit included, and its entry for an item.
pub(super) type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> Datum);

impl Table {
    /// An empty table.
    #[cfg(test)]
    pub(crate) fn new<const N: usize>(title: &str, columns: [&str; N]) -> Self {
        Self {
            title: title.into(),
            columns: columns.map(str::to_owned).into(),
            rows: Vec::new(),
        }
    }

    /// A row for each item.
    pub(super) fn of<T>(
        title: impl Into<String>,
        items: impl IntoIterator<Item = T>,
        columns: &[Column<'_, T>],
    ) -> Self {
        let row = |item: T| columns.iter().map(|(_, entry)| entry(&item)).collect();
        Self {
            title: title.into(),
            columns: columns.iter().map(|(head, _)| (*head).to_owned()).collect(),
            rows: items.into_iter().map(row).collect(),
        }
    }

    /// Whether a column holds no words.
    pub(crate) fn is_numeric(&self, column: usize) -> bool {
        let mut data = self.rows.iter().filter_map(|row| row.get(column));
        !data.any(|datum| matches!(datum, Datum::Text(_)))
    }

    /// Its entries as people read them.
    pub(crate) fn cells(&self) -> Vec<Vec<String>> {
        let cells = |row: &Vec<Datum>| row.iter().map(Datum::to_string).collect();
        self.rows.iter().map(cells).collect()
    }

    /// These heads and cells in a style of `comfy_table`, numeric columns flush right.
    pub(crate) fn drawn(&self, style: TableStyle, heads: Vec<String>, cells: Vec<Vec<String>>) -> String {
        let mut drawn = Drawn::new();
        drawn.load_style(style);
        drawn.set_header(heads);
        drawn.add_rows(cells);
        for (index, column) in drawn.column_iter_mut().enumerate() {
            if self.is_numeric(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        drawn.to_string()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = self.drawn(UTF8_FULL_CONDENSED, self.columns.clone(), self.cells());
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
#[derive(Clone, Debug, PartialEq, Serialize)]
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

impl Point {
    /// One without a range.
    pub(super) fn new(x: f64, y: f64) -> Self {
        Self { x, y, range: None }
    }
}

impl Series {
    /// Computed or published values.
    pub(crate) fn reference(name: impl Into<String>, points: impl IntoIterator<Item = Point>) -> Self {
        Self {
            is_reference: true,
            ..Self::measured(name, points)
        }
    }

    /// Measured values.
    pub(crate) fn measured(name: impl Into<String>, points: impl IntoIterator<Item = Point>) -> Self {
        let mut points: Vec<Point> = points.into_iter().collect();
        points.sort_by(|one, other| one.x.total_cmp(&other.x));
        Self {
            name: name.into(),
            is_reference: false,
            points,
        }
    }
}

impl Figure {
    /// A figure of these series, `labels` being those of x and y.
    pub(super) fn new(title: impl Into<String>, labels: [&str; 2], series: Vec<Series>) -> Self {
        let [x_label, y_label] = labels.map(str::to_owned);
        Self {
            title: title.into(),
            x_label,
            y_label,
            series,
        }
    }
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
    /// The data of its figures.
    pub figures: Vec<Figure>,
    /// What has to be known to read them, a sentence or two each.
    pub notes: Vec<String>,
    /// The few findings to take away, for the opening page of the report.
    #[serde(skip)]
    pub summary: Vec<String>,
    /// What to do about them, for the same page.
    #[serde(skip)]
    pub advice: Vec<String>,
}

/// The middle of some values; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted: Vec<f64> = values.into_iter().sorted_by(f64::total_cmp).collect();
    let lower = sorted.get(sorted.len().checked_sub(1)? / 2)?;
    let upper = sorted.get(sorted.len() / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The value that a part `at` of all lies below, from 0 to 1; between two, as far along (Hyndman and Fan
/// 1996, type 7).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place in a list"
)]
pub(crate) fn quantile(values: &[f64], at: f64) -> Option<f64> {
    let sorted: Vec<f64> = values.iter().copied().sorted_by(f64::total_cmp).collect();
    let place = real(sorted.len().checked_sub(1)?) * at.clamp(0.0, 1.0);
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
pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / real(values.len()))
}

/// A count as a real number.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) fn real(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

/// The least and the greatest of some values.
pub(super) fn ends(values: &[f64]) -> Option<(f64, f64)> {
    values.iter().copied().minmax().into_option()
}

/// Items that have something in common, at least one; all say of it what the first says.
pub(super) struct Group<'a, T> {
    first: &'a T,
    /// In the order in which they come.
    pub(super) all: Vec<&'a T>,
}

impl<T> Deref for Group<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.first
    }
}

impl<T> Group<'_, T> {
    /// What `value` says of each.
    pub(super) fn values(&self, value: impl Fn(&T) -> f64) -> Vec<f64> {
        self.all.iter().map(|item| value(item)).collect()
    }

    /// The mean of that.
    pub(super) fn mean(&self, value: impl Fn(&T) -> f64) -> Option<f64> {
        mean(&self.values(value))
    }
}

/// Items with the same key, groups and items in the order in which they come.
pub(super) fn grouped<'a, T, K: PartialEq>(
    items: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> Vec<Group<'a, T>> {
    let mut groups: Vec<(K, Group<'a, T>)> = Vec::new();
    for first in items {
        let key = key(first);
        match groups.iter_mut().rev().find(|(other, _)| *other == key) {
            Some((_, group)) => group.all.push(first),
            None => groups.push((
                key,
                Group {
                    first,
                    all: vec![first],
                },
            )),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
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
    fn median_mean_and_distinct_of_few_values_are_known() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
        assert_eq!(distinct([2, 1, 2, 3, 1]), [2, 1, 3]);
    }

    #[test]
    fn quantiles_of_few_values_lie_between_them() {
        assert_eq!(quantile(&[], 0.5), None);
        let values = [5.0, 1.0, 4.0, 2.0];
        let found = [0.0, 0.5, 0.9, 1.0].map(|at| quantile(&values, at).unwrap());
        assert_eq!(found[..2], [1.0, 3.0]);
        assert!((found[2] - 4.7).abs() < 1e-9);
        assert!((found[3] - 5.0).abs() < 1e-12);
    }

    #[test]
    fn sizes_of_bytes_are_decimal() {
        let shown = [10_000, 10_000_000, 1_500_000_000, 12].map(decimal);
        assert_eq!(shown, ["10 kB", "10 MB", "1.5 GB", "12 B"]);
    }

    #[test]
    fn table_aligns_numbers_and_words() {
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
