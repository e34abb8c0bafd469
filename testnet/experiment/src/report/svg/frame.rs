//! A panel: title, axes, ticks, and the rectangle between them.

use maud::{Markup, html};

use super::super::figure::{Axis, Drawn, Panel, Scale, Spread};
use super::super::palette::Palette;
use super::super::text;
use super::super::ticks::{self, Room, Tick};
use super::{Format, marks, px};
use crate::findings::real;

const LINE: f64 = 1.25;
const TICK: f64 = 4.0;
const EDGE: f64 = 4.0;
/// How much wider bold letters are.
const BOLD: f64 = 1.1;

/// Space around the rectangle between the axes, the same for all panels of a figure so that they align.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Margins {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// Where values of an axis lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection {
    log: bool,
    low: f64,
    high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// The rectangle between the axes and where values lie in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) x: Projection,
    pub(super) y: Projection,
}

impl Projection {
    fn new(axis: &Axis, (low, high): (f64, f64), from: f64, to: f64) -> Self {
        Self {
            log: axis.scale == Scale::Log,
            low,
            high,
            from,
            to,
        }
    }

    /// The pixel of a value; infinite where a log axis has none.
    pub(super) fn place(self, value: f64) -> f64 {
        let share = match self.log {
            true if value <= 0.0 => f64::NEG_INFINITY,
            true => (value / self.low).log10() / (self.high / self.low).log10(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share * (self.to - self.from)
    }

    /// The same, or the end of the axis that is nearest.
    pub(super) fn inside(self, value: f64) -> f64 {
        self.clamp(self.place(value))
    }

    /// A pixel, or the end of the axis that is nearest to it.
    pub(super) fn clamp(self, place: f64) -> f64 {
        place.clamp(self.from.min(self.to), self.from.max(self.to))
    }
}

fn letters(axis: &Axis, range: (f64, f64), length: f64, per_tick: f64) -> Vec<Tick> {
    // As many as have room, between 2 and 8.
    let most = (2..=8).rev().find(|count| real(*count) * per_tick <= length);
    ticks::ticks(axis, range, most.unwrap_or(2))
}

fn widest(ticks: &[Tick], size: f64) -> f64 {
    let labels = ticks.iter().filter_map(|tick| tick.label.as_deref());
    labels.map(|label| text::width(label, size)).fold(0.0, f64::max)
}

/// Ranges of both axes, from what is drawn.
fn ranges(panel: &Panel) -> ((f64, f64), (f64, f64)) {
    let (mut across, mut up) = (Vec::new(), Vec::new());
    let (x_room, y_room) = match &panel.drawn {
        Drawn::Histogram(_, histogram) => {
            across.extend(histogram.bins.iter().flat_map(|bin| [bin.0, bin.1]));
            up.extend(histogram.bins.iter().map(|bin| f64::from(bin.2)));
            (Room::Tight, Room::FromZero)
        }
        Drawn::Series(series) => {
            for point in series.iter().flat_map(|series| &series.points) {
                across.push(point.x);
                up.push(point.y);
                up.extend(point.range.into_iter().flat_map(|(low, high)| [low, high]));
            }
            let measured = panel.measured().next().is_some();
            (if measured { Room::Padded } else { Room::Tight }, Room::Ticked)
        }
    };
    (
        ticks::range(&panel.x, &across, x_room),
        ticks::range(&panel.y, &up, y_room),
    )
}

/// Lines below the title: of a histogram, the numbers that its marks show.
fn heads(panel: &Panel, format: Format) -> (Vec<String>, Vec<String>) {
    let width = format.width - 2.0 * EDGE;
    let title = text::wrap(&panel.title, format.title * BOLD, width);
    let Drawn::Histogram(_, histogram) = &panel.drawn else {
        return (title, Vec::new());
    };
    let (mean, median) = (text::short(histogram.mean), text::short(histogram.median));
    let note = format!("n = {} · mean {mean} · median {median}", histogram.count);
    (title, text::wrap(&note, format.tick, width))
}

fn lines(count: usize, size: f64) -> f64 {
    real(count) * size * LINE
}

/// Height of what stands between the x axis and its label.
fn below(format: Format) -> f64 {
    TICK + 3.0 + format.tick + 4.0
}

/// The margins that the neediest panel needs.
pub(super) fn margins(panels: &[Panel], format: Format) -> Margins {
    let mut all = Margins::default();
    for panel in panels {
        let (title, notes) = heads(panel, format);
        let top =
            EDGE + lines(title.len(), format.title) + lines(notes.len(), format.tick) + format.tick * 0.8;
        let (x_range, y_range) = ranges(panel);
        // The other margins are not known yet; these are usual.
        let (across, up) = (format.width * 0.75, format.height * 0.6);
        let y_ticks = letters(&panel.y, y_range, up, format.tick * 2.2);
        let y_label = text::wrap(&panel.y.text(), format.label, format.height * 0.62).len();
        let left = EDGE + lines(y_label, format.label) + 6.0 + widest(&y_ticks, format.tick) + TICK + 3.0;
        let x_ticks = letters(&panel.x, x_range, across, format.tick * 3.2);
        let x_label = text::wrap(&panel.x.text(), format.label, across).len();
        let right = EDGE + (widest(&x_ticks, format.tick) / 2.0).min(24.0);
        let bottom = below(format) + lines(x_label, format.label) + EDGE;
        all = Margins {
            left: all.left.max(left),
            right: all.right.max(right),
            top: all.top.max(top),
            bottom: all.bottom.max(bottom),
        };
    }
    all
}

/// The panel, its upper left corner at 0, 0.
pub(super) fn draw(panel: &Panel, palette: &Palette, spread: Spread, format: Format) -> Markup {
    let (x_range, y_range) = ranges(panel);
    let margins = format.margins;
    let (right, bottom) = (format.width - margins.right, format.height - margins.bottom);
    let area = Area {
        x: Projection::new(&panel.x, x_range, margins.left, right),
        y: Projection::new(&panel.y, y_range, bottom, margins.top),
    };
    html! {
        g.panel {
            (head(panel, format))
            g.y-axis { (y_axis(panel, format, area, y_range)) }
            g.x-axis { (x_axis(panel, format, area, x_range)) }
            g.marks { (marks::draw(panel, palette, spread, area)) }
            g.axes {
                (stroke(area.x.from, area.y.from, area.x.to, area.y.from, 1.0))
                (stroke(area.x.from, area.y.from, area.x.from, area.y.to, 1.0))
            }
        }
    }
}

fn head(panel: &Panel, format: Format) -> Markup {
    let (title, notes) = heads(panel, format);
    let title = title.into_iter().map(|text| (text, format.title, "600", 1.0));
    let notes = notes.into_iter().map(|text| (text, format.tick, "400", 0.8));
    let mut top = EDGE;
    let placed = title.chain(notes).map(|(text, size, weight, opacity)| {
        top += size * LINE;
        (text, size, weight, opacity, top - size * 0.3)
    });
    html! {
        @for (line, size, weight, opacity, y) in placed {
            text x=(px(format.width / 2.0)) y=(px(y)) font-size=(px(size)) font-weight=(weight)
                text-anchor="middle" opacity=(px(opacity)) { (line) }
        }
    }
}

fn stroke(x1: f64, y1: f64, x2: f64, y2: f64, opacity: f64) -> Markup {
    html! {
        line x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) stroke="currentColor"
            stroke-opacity=(px(opacity)) {}
    }
}

/// The number beside a tick.
fn number(label: &str, anchor: &str, format: Format, x: f64, y: f64) -> Markup {
    html! { text.tick text-anchor=(anchor) font-size=(px(format.tick)) x=(px(x)) y=(px(y)) { (label) } }
}

fn y_axis(panel: &Panel, format: Format, area: Area, range: (f64, f64)) -> Markup {
    let (left, right) = (area.x.from, area.x.to);
    let middle = f64::midpoint(area.y.from, area.y.to);
    let titles = text::wrap(&panel.y.text(), format.label, format.height * 0.62);
    html! {
        @for tick in letters(&panel.y, range, area.y.from - area.y.to, format.tick * 2.2) {
            @let y = area.y.inside(tick.value);
            @if let Some(label) = &tick.label {
                (stroke(left, y, right, y, 0.13))
                (stroke(left - TICK, y, left, y, 1.0))
                (number(label, "end", format, left - TICK - 3.0, y + format.tick * 0.35))
            } @else {
                (stroke(left - TICK / 2.0, y, left, y, 0.7))
            }
        }
        @for (number, line) in (1..).zip(titles) {
            @let x = EDGE + f64::from(number) * format.label * LINE - format.label * 0.4;
            // Centred on the axis, unless that would leave the drawing.
            @let half = (text::width(&line, format.label) / 2.0).min(format.height / 2.0);
            @let y = middle.clamp(half, format.height - half);
            text.label text-anchor="middle" font-size=(px(format.label))
                transform={ "translate(" (px(x)) " " (px(y)) ") rotate(-90)" } { (line) }
        }
    }
}

fn x_axis(panel: &Panel, format: Format, area: Area, range: (f64, f64)) -> Markup {
    let base = area.y.from;
    let middle = f64::midpoint(area.x.from, area.x.to);
    let titles = text::wrap(&panel.x.text(), format.label, format.width * 0.75);
    // Labels that would touch the last one are left out.
    let mut free = f64::NEG_INFINITY;
    let mut fits = |label: &str, x: f64| {
        let half = text::width(label, format.tick) / 2.0;
        let fits = x - half >= free;
        if fits {
            free = x + half + format.tick * 0.5;
        }
        fits
    };
    html! {
        @for tick in letters(&panel.x, range, area.x.to - area.x.from, format.tick * 3.2) {
            @let x = area.x.inside(tick.value);
            @if let Some(label) = &tick.label {
                (stroke(x, base, x, base + TICK, 1.0))
                @if fits(label, x) {
                    (number(label, "middle", format, x, base + TICK + 3.0 + format.tick * 0.75))
                }
            } @else {
                (stroke(x, base, x, base + TICK / 2.0, 0.7))
            }
        }
        @for (number, line) in (1..).zip(titles) {
            @let low = base + below(format) + lines(number, format.label);
            text.label text-anchor="middle" font-size=(px(format.label)) x=(px(middle))
                y=(px(low - format.label * 0.3)) { (line) }
        }
    }
}
