//! A report for people: text, tables and figures as one HTML page and as Markdown.
//!
//! Plain data goes in, [`Report::write`] makes `report.html` (self-contained, no script, nothing loaded),
//! `report.md` and one `.svg` file per figure. Nothing here measures or computes a prediction.
//!
//! Invariants: the same series name has the same colour and marker in every figure of a report; text is
//! escaped, whatever it is; numbers that no axis can show are left out and the caption says how many;
//! output depends on the report alone, so the same numbers give the same bytes.
//!
//! ```
//! use mutualstore_testnet::report::{Axis, Figure, Panel, Point, Report, Section, Spread, Table};
//!
//! let panel = Panel::new(
//!     "N = 12",
//!     Axis::count("Peers killed", "peers"),
//!     Axis::log("Files lost", "fraction").range(1e-4, 1.0),
//! )
//! .curve("random", vec![(3.0, 0.018), (4.0, 0.07), (6.0, 0.32)])
//! .points("random", Spread::Confidence95, vec![Point::new(4.0, 0.08).between(0.04, 0.15)]);
//! let loss = Figure::new("loss", "Files lost when peers are killed at once")
//!     .caption("Measured on real daemons, over the closed forms.")
//!     .command("mutualstore testnet experiment loss --seed 1")
//!     .panel(panel);
//! let table = Table::new("Loss begins here")
//!     .text("Policy")
//!     .number("Killed", "peers")
//!     .row(["random", "3"]);
//! let report = Report::new("Placement policies, measured")
//!     .series_order(["successors", "random", "copysets", "buddies"])
//!     .setup("Daemons", "12")
//!     .section(
//!         Section::new("Loss")
//!             .paragraph("`random` loses files as soon as three peers die.")
//!             .figure(loss)
//!             .table(table),
//!     );
//! let dir = tempfile::tempdir().unwrap();
//! let written = report.write(dir.path()).unwrap();
//! assert!(written.html.ends_with("report.html"));
//! ```
//!
//! Fields are public: a loop may as well push to `panel.series`, `figure.panels` or `section.blocks`.

pub mod figure;
mod markdown;
mod markup;
mod page;
mod palette;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod ticks;
mod write;

use std::collections::BTreeSet;

pub use figure::{Axis, Bar, Figure, Histogram, Panel, Point, Scale, Series, Spread};
use palette::Palette;
pub use write::{WriteError, Written};

/// A whole report. Strings are plain text; what stands between backticks is shown as code.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What was measured on: name and value.
    pub setup: Vec<(String, String)>,
    /// Its parts.
    pub sections: Vec<Section>,
    /// Series names that take the first colours, so that reports of single experiments look like the whole
    /// one; other names follow as they appear.
    pub series_order: Vec<String>,
}

/// A part of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Heading.
    pub heading: String,
    /// Content in order.
    pub blocks: Vec<Block>,
    /// Parts of this part, after its blocks.
    pub sections: Vec<Section>,
}

/// What a section consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Text.
    Paragraph(String),
    /// Items, each with a bullet.
    List(Vec<String>),
    /// Numbers.
    Table(Table),
    /// A drawing.
    Figure(Figure),
}

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// What stands at its top, unit included.
    pub heading: String,
    /// Numbers are set flush at the decimal point, text at the left.
    pub numeric: bool,
}

/// A table. Rows shorter than its head are filled up with empty cells; longer ones are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Its head.
    pub columns: Vec<Column>,
    /// Its cells.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// An empty one.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a line to the set-up.
    #[must_use]
    pub fn setup(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.setup.push((name.into(), value.into()));
        self
    }

    /// Adds a section.
    #[must_use]
    pub fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }

    /// Sets [`Report::series_order`].
    #[must_use]
    pub fn series_order<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.series_order = names.into_iter().map(Into::into).collect();
        self
    }

    /// All figures, in order.
    pub fn figures(&self) -> Vec<&Figure> {
        fn collect<'a>(sections: &'a [Section], into: &mut Vec<&'a Figure>) {
            for section in sections {
                into.extend(section.blocks.iter().filter_map(|block| match block {
                    Block::Figure(figure) => Some(figure),
                    Block::Paragraph(_) | Block::List(_) | Block::Table(_) => None,
                }));
                collect(&section.sections, into);
            }
        }
        let mut figures = Vec::new();
        collect(&self.sections, &mut figures);
        figures
    }

    fn palette(&self) -> Palette {
        let drawn = self.figures().into_iter().flat_map(Figure::names);
        Palette::new(self.series_order.iter().map(String::as_str).chain(drawn))
    }
}

impl Section {
    /// An empty one.
    pub fn new(heading: impl Into<String>) -> Self {
        Self {
            heading: heading.into(),
            ..Self::default()
        }
    }

    /// Adds text.
    #[must_use]
    pub fn paragraph(mut self, text: impl Into<String>) -> Self {
        self.blocks.push(Block::Paragraph(text.into()));
        self
    }

    /// Adds a list.
    #[must_use]
    pub fn list<S: Into<String>>(mut self, items: impl IntoIterator<Item = S>) -> Self {
        let items = items.into_iter().map(Into::into).collect();
        self.blocks.push(Block::List(items));
        self
    }

    /// Adds a table.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.blocks.push(Block::Table(table));
        self
    }

    /// Adds a figure.
    #[must_use]
    pub fn figure(mut self, figure: Figure) -> Self {
        self.blocks.push(Block::Figure(figure));
        self
    }

    /// Adds a part.
    #[must_use]
    pub fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }
}

impl Table {
    /// An empty one.
    pub fn new(caption: impl Into<String>) -> Self {
        Self {
            caption: caption.into(),
            ..Self::default()
        }
    }

    /// Adds a column of text.
    #[must_use]
    pub fn text(mut self, heading: impl Into<String>) -> Self {
        self.columns.push(Column {
            heading: heading.into(),
            numeric: false,
        });
        self
    }

    /// Adds a column of numbers; an empty unit is left out.
    #[must_use]
    pub fn number(mut self, heading: &str, unit: &str) -> Self {
        let heading = figure::with_unit(heading, unit);
        self.columns.push(Column {
            heading,
            numeric: true,
        });
        self
    }

    /// Adds a row.
    #[must_use]
    pub fn row<S: Into<String>>(mut self, cells: impl IntoIterator<Item = S>) -> Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// Rows as wide as the head, with the decimal points of numeric columns below each other.
    fn aligned(&self) -> Vec<Vec<String>> {
        // Digits after the point of the longest, when the cell is a plain number.
        let decimals = |cell: &str| {
            cell.parse::<f64>().ok()?;
            Some(cell.split_once('.').map_or(0, |(_, digits)| digits.len() + 1))
        };
        let column = |at: usize| self.rows.iter().filter_map(move |row| row.get(at));
        let longest: Vec<usize> = (0..self.columns.len())
            .map(|at| column(at).filter_map(|cell| decimals(cell)).max().unwrap_or(0))
            .collect();
        let cell = |row: &Vec<String>, at: usize, head: &Column, longest: usize| {
            let mut cell = row.get(at).cloned().unwrap_or_default();
            if let Some(has) = decimals(&cell).filter(|_| head.numeric) {
                let mut missing = longest.saturating_sub(has);
                if has == 0 && missing > 0 {
                    // Punctuation space: as wide as the point.
                    cell.push('\u{2008}');
                    missing -= 1;
                }
                // Figure space: as wide as a digit.
                cell.extend(std::iter::repeat_n('\u{2007}', missing));
            }
            cell
        };
        let whole = |row: &Vec<String>| {
            let heads = self.columns.iter().zip(&longest).enumerate();
            heads
                .map(|(at, (head, longest))| cell(row, at, head, *longest))
                .collect()
        };
        self.rows.iter().map(whole).collect()
    }
}

/// Names that are safe in a URL fragment and as a file name, each given out once.
#[derive(Default)]
struct Anchors(BTreeSet<String>);

impl Anchors {
    fn unique(&mut self, text: &str) -> String {
        let mut slug = String::new();
        for letter in text.chars() {
            if letter.is_ascii_alphanumeric() {
                slug.push(letter.to_ascii_lowercase());
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        let slug: String = slug.trim_end_matches('-').chars().take(80).collect();
        let slug = if slug.is_empty() { "part".to_owned() } else { slug };
        let mut name = slug.clone();
        let mut number = 2_u32;
        while !self.0.insert(name.clone()) {
            name = format!("{slug}-{number}");
            number += 1;
        }
        name
    }
}

/// Pieces of a text: plain, and code (between backticks; one without partner is plain).
fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('`') {
        let Some((code, after)) = after.split_once('`') else {
            break;
        };
        pieces.push((false, before));
        pieces.push((true, code));
        rest = after;
    }
    pieces.push((false, rest));
    pieces.retain(|(_, piece)| !piece.is_empty());
    pieces
}
