//! Figures as SVG: panels on a grid, one legend above them.
//!
//! Own drawing rather than the crate `plotters`: its SVG backend (0.3.7) rounds places to whole pixels, knows
//! fixed colours alone (no `currentColor`, hence no dark scheme), no title for screen readers, no small ticks
//! on log axes and no legend outside of a panel; what would be left of it is less than what is here.
//!
//! Colours are attributes and text is `currentColor`, so that a viewer without style sheets shows the light
//! scheme. Elements are never closed by omission: XML and HTML parsers read the same.

mod frame;
mod marks;

use itertools::Itertools;
use maud::{Markup, PreEscaped, html};

use super::figure::{Drawn, Figure, Panel, Spread};
use super::palette::{Look, NEUTRAL, Palette};
use super::{legible, text};
use crate::findings::real;
use frame::Margins;
use marks::Mark;

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
    margins: Margins,
}

/// A length to a hundredth, as short as can be.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

/// How many panels stand beside each other.
pub(super) fn columns(figure: &Figure) -> usize {
    figure.panels.len().clamp(1, 3)
}

fn format(figure: &Figure) -> Format {
    let (width, height, letters) = match columns(figure) {
        1 => (640.0, 340.0, 13.0),
        2 => (473.0, 310.0, 12.5),
        _ => (310.0, 270.0, 12.0),
    };
    let format = Format {
        width,
        height,
        title: letters,
        label: letters - 0.5,
        tick: letters - 1.0,
        margins: Margins::default(),
    };
    Format {
        margins: frame::margins(&figure.panels, format),
        ..format
    }
}

/// The panels, each an `svg` of its own, for a page that lays them out.
pub(super) fn panels(figure: &Figure, palette: &Palette) -> Markup {
    let format = format(figure);
    let label = |panel: &Panel| {
        let title = [figure.title.as_str(), panel.title.as_str()].join(" – ");
        let title = title.trim_end_matches(" – ");
        format!("{title}: {} against {}", panel.y.text(), panel.x.text())
    };
    html! {
        @for panel in &figure.panels {
            (root(format.width, format.height, false, &label(panel), &html! {
                (frame::draw(panel, palette, figure.spread, format))
            }))
        }
    }
}

/// The entries of the legend, each an `svg` of its own.
pub(super) fn legend(figure: &Figure, palette: &Palette) -> Markup {
    html! {
        @for entry in entries(figure, palette) {
            (root(entry.width(), LEGEND_LINE, true, &entry.label, &entry.draw(0.0, 0.0)))
        }
    }
}

/// The whole figure as a document.
pub(super) fn document(figure: &Figure, palette: &Palette) -> String {
    let format = format(figure);
    let columns = columns(figure);
    let width = (real(columns) * (format.width + GAP) + GAP).max(2.0 * GAP + 320.0);
    let mut body: Vec<Markup> = Vec::new();
    let mut top = GAP;
    for line in text::wrap(&figure.title, 16.5, width - 2.0 * GAP) {
        top += 16.0;
        body.push(html! { text x=(px(GAP)) y=(px(top)) font-size="15" font-weight="600" { (line) } });
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
    for row in figure.panels.chunks(columns) {
        for (at, panel) in row.iter().enumerate() {
            let left = GAP + real(at) * (format.width + GAP);
            let drawing = frame::draw(panel, palette, figure.spread, format);
            body.push(html! { g transform={ "translate(" (left) " " (top) ")" } { (drawing) } });
        }
        top += format.height + GAP;
    }
    let body = html! {
        style { (PreEscaped(STYLE)) }
        rect.paper fill="#fff" width=(px(width)) height=(px(top)) {}
        @for part in body { (part) }
    };
    legible(&root(width, top, true, &figure.title, &body).into_string())
}

/// An `svg` element; `sized` where nothing else gives it a size.
fn root(width: f64, height: f64, sized: bool, label: &str, body: &Markup) -> Markup {
    let (width, height) = (px(width), px(height));
    html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (width) " " (height) } role="img"
            aria-label=(label) font-family=(FONT) fill="currentColor"
            width=[sized.then_some(&width)] height=[sized.then_some(&height)] {
            title { (label) }
            (body)
        }
    }
}

/// A line of the legend: how something looks and what it is.
struct Entry {
    look: Look,
    marks: Vec<Mark>,
    label: String,
}

impl Entry {
    fn width(&self) -> f64 {
        marks::SWATCH_WIDTH + 7.0 + text::width(&self.label, LEGEND_SIZE)
    }

    fn draw(&self, left: f64, top: f64) -> Markup {
        let (x, y) = (marks::SWATCH_WIDTH + 7.0, LEGEND_LINE / 2.0 + LEGEND_SIZE * 0.35);
        html! {
            g.legend transform={ "translate(" (px(left)) " " (px(top)) ")" } {
                (marks::swatch(self.look, &self.marks, LEGEND_LINE))
                text x=(px(x)) y=(px(y)) font-size=(px(LEGEND_SIZE)) { (self.label) }
            }
        }
    }
}

/// One entry per name, then what lines, points and intervals mean in general.
fn entries(figure: &Figure, palette: &Palette) -> Vec<Entry> {
    let entry = |look, label: &str, marks: &[(bool, Mark)]| {
        let shown = marks.iter().filter(|(shown, _)| *shown);
        let (marks, label) = (shown.map(|(_, mark)| *mark).collect(), label.to_owned());
        Entry { look, marks, label }
    };
    let mut entries: Vec<Entry> = Vec::new();
    let mut both = false;
    for name in figure.names().unique() {
        let is = |reference| {
            figure
                .series()
                .any(|series| series.name == name && series.is_reference == reference)
        };
        let (curve, points) = (is(true), is(false));
        let dots = !curve && points && figure.spread == Spread::Quartiles;
        both |= curve && points;
        let bar = !curve && !points;
        let marks = [
            (bar, Mark::Bar),
            (curve, Mark::Curve),
            (dots, Mark::Dots),
            (points, Mark::Marker),
        ];
        entries.push(entry(palette.look(name), name, &marks));
    }
    let measured = figure.series().filter(|series| !series.is_reference);
    let mut values = measured.flat_map(|series| &series.points);
    let spread = values.any(|point| point.range.is_some());
    let is_histogram = |panel: &Panel| matches!(panel.drawn, Drawn::Histogram(..));
    let histogram = figure.panels.iter().any(is_histogram);
    let meaning = match figure.spread {
        Spread::Confidence95 => "95 % confidence interval",
        Spread::Quartiles => "median and quartiles",
    };
    // What marks mean whatever their colour, where there are such.
    let keys = [
        (both, "predicted", Mark::Curve),
        (both, "measured", Mark::Marker),
        (spread, meaning, Mark::Interval),
        (histogram, "mean", Mark::Mean),
        (histogram, "median", Mark::Median),
    ];
    let keys = keys.into_iter().filter(|(shown, ..)| *shown);
    entries.extend(keys.map(|(shown, label, mark)| entry(NEUTRAL, label, &[(shown, mark)])));
    entries
}
