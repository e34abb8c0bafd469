//! Figures as SVG: panels on a grid, one legend above them.
//!
//! Own drawing rather than the crate `plotters`: its SVG backend (0.3.7) rounds places to whole pixels, knows
//! fixed colours alone (no `currentColor`, hence no dark scheme), no title for screen readers, no small ticks
//! on log axes and no legend outside of a panel; what would be left of it is less than what is here.
//!
//! Colours are attributes and text is `currentColor`, so that a viewer without style sheets shows the light
//! scheme. What is drawn between the axes is cut there by arithmetic, not by a clip path.

mod frame;
mod marks;

use super::figure::{Figure, Panel, Series, Spread};
use super::markup::Element;
use super::palette::Palette;
use super::text;
use marks::Swatch;

pub(super) const FONT: &str =
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif";
/// Of a figure that is a file of its own; the page brings the same colours.
const STYLE: &str = "svg{color:#1b1f24}.paper{fill:#fff}\
    @media screen and (prefers-color-scheme:dark){svg{color:#e4e6e9}.paper{fill:#15181c}}";
const LEGEND_SIZE: f64 = 12.0;
const LEGEND_LINE: f64 = 20.0;
const GAP: f64 = 14.0;

/// Size of a panel and of its letters, in pixels.
#[derive(Clone, Copy, Debug)]
struct Format {
    width: f64,
    height: f64,
    title: f64,
    label: f64,
    tick: f64,
}

/// How many panels stand beside each other.
pub(super) fn columns(figure: &Figure) -> usize {
    let count = figure.panels.len().max(1);
    let usual = match count {
        1..=3 => count,
        4 => 2,
        5 | 6 | 9 => 3,
        _ => 4,
    };
    figure.columns.unwrap_or(usual).clamp(1, count)
}

fn format(figure: &Figure) -> Format {
    let (width, height, letters) = match columns(figure) {
        1 => (640.0, 340.0, 13.0),
        2 => (473.0, 310.0, 12.5),
        3 => (310.0, 270.0, 12.0),
        _ => (229.0, 190.0, 11.0),
    };
    Format {
        width,
        height,
        title: letters,
        label: letters - 0.5,
        tick: letters - 1.0,
    }
}

/// The panels, each an `svg` of its own, for a page that lays them out.
pub(super) fn panels(figure: &Figure, palette: &Palette) -> Vec<Element> {
    let format = format(figure);
    let margins = frame::margins(&figure.panels, format);
    let one = |panel: &Panel| {
        let title = [figure.title.as_str(), panel.title.as_str()].join(" – ");
        let label = format!(
            "{}: {} against {}",
            title.trim_end_matches(" – "),
            panel.y.text(),
            panel.x.text()
        );
        root(format.width, format.height, &label).child(frame::draw(panel, palette, format, margins))
    };
    figure.panels.iter().map(one).collect()
}

/// The entries of the legend, each an `svg` of its own.
pub(super) fn legend(figure: &Figure, palette: &Palette) -> Vec<Element> {
    let one = |entry: Entry| {
        let label = entry.label.clone();
        root(entry.width(), LEGEND_LINE, &label)
            .at("width", entry.width())
            .at("height", LEGEND_LINE)
            .child(entry.draw(0.0, 0.0))
    };
    entries(figure, palette).into_iter().map(one).collect()
}

/// The whole figure as a document.
pub(super) fn document(figure: &Figure, palette: &Palette) -> String {
    let format = format(figure);
    let columns = columns(figure);
    let real = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let width = (real(columns) * (format.width + GAP) + GAP).max(2.0 * GAP + 320.0);
    let mut body = Vec::new();
    let mut top = GAP;
    for line in text::wrap(&figure.title, 16.5, width - 2.0 * GAP) {
        top += 16.0;
        let heading = Element::new("text").at("x", GAP).at("y", top);
        body.push(heading.set("font-size", 15).set("font-weight", 600).text(line));
        top += 4.0;
    }
    top += 6.0;
    let mut left = GAP;
    for entry in entries(figure, palette) {
        if left > GAP && left + entry.width() > width - GAP {
            left = GAP;
            top += LEGEND_LINE;
        }
        body.push(entry.draw(left, top));
        left += entry.width() + GAP;
    }
    top += LEGEND_LINE + 6.0;
    let margins = frame::margins(&figure.panels, format);
    for row in figure.panels.chunks(columns) {
        for (at, panel) in row.iter().enumerate() {
            let left = GAP + real(at) * (format.width + GAP);
            let place = format!("translate({left} {top})");
            let drawing = frame::draw(panel, palette, format, margins);
            body.push(Element::new("g").set("transform", place).child(drawing));
        }
        top += format.height + GAP;
    }
    let paper = Element::new("rect").set("class", "paper").set("fill", "#fff");
    root(width, top, &figure.title)
        .at("width", width)
        .at("height", top)
        .child(Element::new("style").text(STYLE))
        .child(paper.at("width", width).at("height", top))
        .children(body)
        .to_string()
}

fn root(width: f64, height: f64, label: &str) -> Element {
    let view = format!("0 0 {} {}", super::markup::px(width), super::markup::px(height));
    Element::new("svg")
        .set("xmlns", "http://www.w3.org/2000/svg")
        .set("viewBox", view)
        .set("role", "img")
        .set("aria-label", label)
        .set("font-family", FONT)
        .set("fill", "currentColor")
        .child(Element::new("title").text(label))
}

/// A line of the legend: how something looks and what it is.
struct Entry {
    swatch: Swatch,
    label: String,
}

impl Entry {
    fn width(&self) -> f64 {
        marks::SWATCH_WIDTH + 7.0 + text::width(&self.label, LEGEND_SIZE)
    }

    fn draw(&self, left: f64, top: f64) -> Element {
        let place = format!(
            "translate({} {})",
            super::markup::px(left),
            super::markup::px(top)
        );
        let label = Element::new("text")
            .at("x", marks::SWATCH_WIDTH + 7.0)
            .at("y", LEGEND_LINE / 2.0 + LEGEND_SIZE * 0.35)
            .at("font-size", LEGEND_SIZE)
            .text(self.label.as_str());
        Element::new("g")
            .set("class", "legend")
            .set("transform", place)
            .child(self.swatch.draw(LEGEND_LINE))
            .child(label)
    }
}

/// One entry per name, then what lines, points and intervals mean in general.
fn entries(figure: &Figure, palette: &Palette) -> Vec<Entry> {
    let all: Vec<&Series> = figure.panels.iter().flat_map(|panel| &panel.series).collect();
    let mut entries: Vec<Entry> = Vec::new();
    let mut both = false;
    for series in &all {
        let name = series.name();
        if entries.iter().any(|entry| entry.label == name) {
            continue;
        }
        let mut swatch = Swatch {
            look: Some(palette.look(name)),
            ..Swatch::default()
        };
        for same in all.iter().filter(|other| other.name() == name) {
            match same {
                Series::Curve { .. } => swatch.line = true,
                Series::Points { joined, .. } => {
                    swatch.marker = true;
                    swatch.dotted |= joined;
                }
                Series::Histogram { .. } | Series::Bars { .. } => swatch.filled = true,
            }
        }
        both |= swatch.line && swatch.marker;
        let label = name.to_owned();
        entries.push(Entry { swatch, label });
    }
    let beyond = figure.panels.iter().any(marks::has_beyond);
    entries.extend(keys(&all, both, beyond));
    entries
}

/// What marks mean whatever their colour; `both`: some name has a curve and points.
fn keys(all: &[&Series], both: bool, beyond: bool) -> Vec<Entry> {
    let spread = |wanted: Spread| {
        all.iter().any(|series| {
            matches!(series, Series::Points { spread, values, .. }
                if *spread == wanted && values.iter().any(|point| point.interval.is_some()))
        })
    };
    let histogram = all
        .iter()
        .any(|series| matches!(series, Series::Histogram { .. }));
    let expected = all.iter().any(
        |series| matches!(series, Series::Bars { bars, .. } if bars.iter().any(|bar| bar.expected.is_some())),
    );
    let mut keys = Vec::new();
    let mut key = |shown: bool, label: &str, mark: fn(&mut Swatch)| {
        if shown {
            let mut swatch = Swatch::default();
            mark(&mut swatch);
            let label = label.to_owned();
            keys.push(Entry { swatch, label });
        }
    };
    key(both, "predicted", |swatch| swatch.line = true);
    key(both, "measured", |swatch| swatch.marker = true);
    key(
        spread(Spread::Confidence95),
        "95 % confidence interval",
        |swatch| swatch.interval = true,
    );
    key(spread(Spread::Quartiles), "median and quartiles", |swatch| {
        swatch.interval = true;
    });
    key(beyond, "beyond the axis (0 on a log axis)", |swatch| {
        swatch.hollow = true;
    });
    key(histogram, "mean", |swatch| swatch.upright = true);
    key(histogram, "median", |swatch| {
        (swatch.upright, swatch.dotted) = (true, true);
    });
    key(expected, "expected", |swatch| swatch.expected = true);
    keys
}
