//! A report for people: text, tables and figures as one HTML page and as Markdown.
//!
//! Plain data goes in, [`Report::write`] makes `report.html` (self-contained, no script, nothing loaded),
//! `report.md` and one `.svg` file per figure. Nothing here measures or computes a prediction.
//!
//! Invariants: the same series name has the same colour and marker in every figure of a report; text is
//! escaped, whatever it is; numbers that no axis can show are left out and the caption says how many;
//! output depends on the report alone, so the same numbers give the same bytes.

pub mod figure;
mod markdown;
mod page;
mod palette;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod ticks;
mod write;

use std::collections::BTreeSet;

use itertools::Itertools;

use crate::findings::Table;
pub use figure::{Axis, Drawn, Figure, Histogram, Panel, Scale, Spread};
use palette::Palette;
pub use write::{WriteError, Written};

/// A whole report. Strings are plain text; what stands between backticks is shown as code.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// What the reader should take away, before anything else.
    pub opening: Section,
    /// What was measured on: name and value.
    pub setup: Vec<(String, String)>,
    /// Its parts.
    pub sections: Vec<Section>,
    /// Series names that take the first colours, so that reports of single experiments look like the whole
    /// one; other names follow as they appear.
    pub series_order: Vec<&'static str>,
}

/// A part of a report.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// What stands above it and in the contents.
    pub heading: String,
    /// Content in order.
    pub blocks: Vec<Block>,
    /// Parts of this part, after its blocks.
    pub sections: Vec<Section>,
}

/// What a section consists of.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph of text.
    Paragraph(String),
    /// Items, each with a bullet.
    List(Vec<String>),
    /// Names and values: a table without a number.
    Pairs(Vec<(String, String)>),
    /// A numbered table.
    Table(Table),
    /// A numbered drawing.
    Figure(Figure),
}

impl Report {
    fn palette(&self) -> Palette {
        let blocks = self.sections.iter().flat_map(|section| &section.blocks);
        let figures = blocks.filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            Block::Paragraph(_) | Block::List(_) | Block::Pairs(_) | Block::Table(_) => None,
        });
        let order = self.series_order.iter().copied();
        Palette::new(order.chain(figures.flat_map(Figure::names)))
    }

    /// What was measured on, as a part.
    fn setup(&self) -> Section {
        Section {
            heading: "Set-up".to_owned(),
            blocks: vec![Block::Pairs(self.setup.clone())],
            sections: Vec::new(),
        }
    }

    /// All parts, the set-up behind the opening.
    fn parts<'a>(&'a self, setup: &'a Section) -> impl Iterator<Item = &'a Section> {
        [&self.opening, setup].into_iter().chain(&self.sections)
    }
}

/// The cells of a table, the decimal points of numeric columns below each other.
fn aligned(table: &Table) -> Vec<Vec<String>> {
    // Digits after the point of the longest, when the cell is a plain number.
    let decimals = |cell: &str| {
        cell.parse::<f64>().ok()?;
        Some(cell.split_once('.').map_or(0, |(_, digits)| digits.len() + 1))
    };
    let mut rows = table.cells();
    for at in (0..table.columns.len()).filter(|at| table.is_numeric(*at)) {
        let column = rows.iter().filter_map(|row| decimals(row.get(at)?));
        let longest = column.max().unwrap_or(0);
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(at)) {
            let Some(has) = decimals(cell) else { continue };
            let mut missing = longest - has;
            if has == 0 && missing > 0 {
                // Punctuation space: as wide as the point.
                cell.push('\u{2008}');
                missing -= 1;
            }
            // Figure space: as wide as a digit.
            cell.extend(std::iter::repeat_n('\u{2007}', missing));
        }
    }
    rows
}

/// Markup without the characters that XML has no way to write.
fn legible(markup: &str) -> String {
    let illegible = |letter: char| {
        letter.is_control() && !['\n', '\t'].contains(&letter) || ['\u{fffe}', '\u{ffff}'].contains(&letter)
    };
    markup.replace(illegible, "\u{fffd}")
}

/// Names that are safe in a URL fragment and as a file name, each given out once.
#[derive(Default)]
struct Anchors(BTreeSet<String>);

impl Anchors {
    fn unique(&mut self, text: &str) -> String {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
        let slug = words
            .filter(|word| !word.is_empty())
            .join("-")
            .to_ascii_lowercase();
        let slug: String = slug.chars().take(80).collect();
        let slug = if slug.is_empty() { "part".to_owned() } else { slug };
        let numbered = (2_u32..).map(|number| format!("{slug}-{number}"));
        let mut names = std::iter::once(slug.clone()).chain(numbered);
        names.find(|name| self.0.insert(name.clone())).unwrap_or_default()
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
