//! A panel: title, axes, ticks, and the rectangle between them.

use super::super::figure::{Axis, Panel, Scale, Series};
use super::super::markup::Element;
use super::super::palette::Palette;
use super::super::text;
use super::super::ticks::{self, Room, Tick};
use super::{Format, marks};

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
    /// Places of `low` and `high`, pixels.
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
    /// The place of a value, which may lie outside; infinite for 0 on a log axis.
    pub(super) fn place(self, value: f64) -> f64 {
        let share = if self.log {
            if value <= 0.0 {
                f64::NEG_INFINITY
            } else {
                (value / self.low).log10() / (self.high / self.low).log10()
            }
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share * (self.to - self.from)
    }

    /// The same, moved to the nearer end if outside.
    pub(super) fn inside(self, value: f64) -> f64 {
        self.place(value)
            .clamp(self.from.min(self.to), self.from.max(self.to))
    }

    /// Whether a value lies within.
    pub(super) fn holds(self, value: f64) -> bool {
        let place = self.place(value);
        place >= self.from.min(self.to) - 0.01 && place <= self.from.max(self.to) + 0.01
    }
}

fn letters(axis: &Axis, range: (f64, f64), length: f64, per_tick: f64) -> Vec<Tick> {
    // As many as have room, between 2 and 8.
    let most = (2..=8_u32)
        .rev()
        .find(|count| f64::from(*count) * per_tick <= length)
        .unwrap_or(2);
    ticks::ticks(axis, range, most as usize)
}

fn widest(ticks: &[Tick], size: f64) -> f64 {
    let labels = ticks.iter().filter_map(|tick| tick.label.as_deref());
    labels.map(|label| text::width(label, size)).fold(0.0, f64::max)
}

/// Ranges of both axes, from what is drawn.
fn ranges(panel: &Panel) -> ((f64, f64), (f64, f64)) {
    let (mut across, mut up) = (Vec::new(), Vec::new());
    let (mut x_room, mut y_room) = (Room::Tight, Room::Ticked);
    for series in &panel.series {
        match series {
            Series::Curve { values, .. } => {
                across.extend(values.iter().map(|value| value.0));
                up.extend(values.iter().map(|value| value.1));
            }
            Series::Points { values, .. } => {
                x_room = Room::Padded;
                across.extend(values.iter().map(|point| point.x));
                let ends =
                    |point: &super::super::figure::Point| point.interval.map(|(low, high)| [low, high]);
                up.extend(values.iter().map(|point| point.y));
                up.extend(values.iter().filter_map(ends).flatten());
            }
            Series::Histogram { histogram, .. } => {
                y_room = Room::FromZero;
                across.extend(histogram.bins.iter().flat_map(|bin| [bin.0, bin.1]));
                up.extend(histogram.bins.iter().map(|bin| f64::from(bin.2)));
            }
            Series::Bars { bars, .. } => {
                y_room = Room::FromZero;
                // Half a bar on either side.
                across.extend(bars.iter().flat_map(|bar| [bar.x - 0.5, bar.x + 0.5]));
                up.extend(
                    bars.iter()
                        .flat_map(|bar| [Some(bar.value), bar.expected])
                        .flatten(),
                );
            }
        }
    }
    (
        ticks::range(&panel.x, &across, x_room),
        ticks::range(&panel.y, &up, y_room),
    )
}

/// Whether names below the x axis are turned because they would overlap.
fn turned(panel: &Panel, format: Format, length: f64) -> bool {
    let Scale::Names(names) = &panel.x.scale else {
        return false;
    };
    let slot = length / f64::from(u32::try_from(names.len().max(1)).unwrap_or(u32::MAX));
    let wide = names
        .iter()
        .any(|name| text::width(name, format.tick) + 4.0 > slot);
    wide && names.iter().any(|name| name.parse::<f64>().is_err())
}

/// Lines below each histogram panel's title: the numbers that its marks show.
fn notes(panel: &Panel) -> Vec<String> {
    let several = panel
        .series
        .iter()
        .filter(|series| matches!(series, Series::Histogram { .. }))
        .count()
        > 1;
    let note = |series: &Series| {
        let Series::Histogram { name, histogram } = series else {
            return None;
        };
        let name = if several {
            format!("{name}: ")
        } else {
            String::new()
        };
        let (mean, median) = (text::short(histogram.mean), text::short(histogram.median));
        Some(format!(
            "{name}n = {} · mean {mean} · median {median}",
            histogram.count
        ))
    };
    panel.series.iter().filter_map(note).collect()
}

fn heads(panel: &Panel, format: Format) -> (Vec<String>, Vec<String>) {
    let width = format.width - 2.0 * EDGE;
    let title = text::wrap(&panel.title, format.title * BOLD, width);
    let notes = notes(panel)
        .into_iter()
        .flat_map(|note| text::wrap(&note, format.tick, width));
    (title, notes.collect())
}

fn lines(count: usize, size: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) * size * LINE
}

/// Height of what stands between the x axis and its label.
fn below(ticks: &[Tick], format: Format, turned: bool) -> f64 {
    let tall = if turned {
        widest(ticks, format.tick) * 0.6
    } else {
        0.0
    };
    TICK + 3.0 + tall + format.tick + 4.0
}

/// Every how manieth name has room for its label.
fn thinned(ticks: &[Tick], format: Format, length: f64) -> usize {
    let count = f64::from(u32::try_from(ticks.len().max(1)).unwrap_or(u32::MAX));
    let needed = (widest(ticks, format.tick) + format.tick * 0.5) * count / length;
    (1..ticks.len())
        .find(|every| f64::from(u32::try_from(*every).unwrap_or(u32::MAX)) >= needed)
        .unwrap_or(1)
}

/// The margins that the neediest panel needs.
pub(super) fn margins(panels: &[Panel], format: Format) -> Margins {
    let mut all = Margins::default();
    for panel in panels {
        let (title, notes) = heads(panel, format);
        let top =
            EDGE + lines(title.len(), format.title) + lines(notes.len(), format.tick) + format.tick * 0.8;
        let (x_range, y_range) = ranges(panel);
        // Not known yet are the other margins; these are what is usual.
        let (across, up) = (format.width * 0.75, format.height * 0.6);
        let y_ticks = letters(&panel.y, y_range, up, format.tick * 2.2);
        let y_label = text::wrap(&panel.y.text(), format.label, format.height * 0.62).len();
        let left = EDGE + lines(y_label, format.label) + 6.0 + widest(&y_ticks, format.tick) + TICK + 3.0;
        let x_ticks = letters(&panel.x, x_range, across, format.tick * 3.2);
        let x_label = text::wrap(&panel.x.text(), format.label, across).len();
        let turned = turned(panel, format, across);
        let bottom = below(&x_ticks, format, turned) + lines(x_label, format.label) + EDGE;
        all.left = all.left.max(left);
        all.right = all
            .right
            .max(EDGE + (widest(&x_ticks, format.tick) / 2.0).min(24.0));
        all.top = all.top.max(top);
        all.bottom = all.bottom.max(bottom);
    }
    all
}

/// The panel, its upper left corner at 0, 0.
pub(super) fn draw(panel: &Panel, palette: &Palette, format: Format, margins: Margins) -> Element {
    let (x_range, y_range) = ranges(panel);
    let area = Area {
        x: Projection {
            log: panel.x.scale == Scale::Log,
            low: x_range.0,
            high: x_range.1,
            from: margins.left,
            to: format.width - margins.right,
        },
        y: Projection {
            log: panel.y.scale == Scale::Log,
            low: y_range.0,
            high: y_range.1,
            from: format.height - margins.bottom,
            to: margins.top,
        },
    };
    Element::new("g")
        .set("class", "panel")
        .children(head(panel, format))
        .child(y_axis(panel, format, area, y_range))
        .child(x_axis(panel, format, area, x_range))
        .child(marks::draw(panel, palette, area))
        .child(outline(area))
}

fn head(panel: &Panel, format: Format) -> Vec<Element> {
    let (title, notes) = heads(panel, format);
    let mut top = EDGE;
    let mut line = |text: String, size: f64, weight: u32, opacity: f64| {
        top += size * LINE;
        Element::new("text")
            .at("x", format.width / 2.0)
            .at("y", top - size * 0.3)
            .at("font-size", size)
            .set("font-weight", weight)
            .set("text-anchor", "middle")
            .at("opacity", opacity)
            .text(text)
    };
    let mut head: Vec<Element> = title
        .into_iter()
        .map(|text| line(text, format.title, 600, 1.0))
        .collect();
    head.extend(notes.into_iter().map(|text| line(text, format.tick, 400, 0.8)));
    head
}

fn stroke(x1: f64, y1: f64, x2: f64, y2: f64, opacity: f64) -> Element {
    Element::new("line")
        .at("x1", x1)
        .at("y1", y1)
        .at("x2", x2)
        .at("y2", y2)
        .set("stroke", "currentColor")
        .at("stroke-opacity", opacity)
}

fn outline(area: Area) -> Element {
    Element::new("g")
        .set("class", "axes")
        .child(stroke(area.x.from, area.y.from, area.x.to, area.y.from, 1.0))
        .child(stroke(area.x.from, area.y.from, area.x.from, area.y.to, 1.0))
}

fn y_axis(panel: &Panel, format: Format, area: Area, range: (f64, f64)) -> Element {
    let mut axis = Element::new("g").set("class", "y-axis");
    let length = area.y.from - area.y.to;
    for tick in letters(&panel.y, range, length, format.tick * 2.2) {
        let place = area.y.inside(tick.value);
        let Some(label) = tick.label else {
            axis.push(stroke(area.x.from - TICK / 2.0, place, area.x.from, place, 0.7));
            continue;
        };
        axis.push(stroke(area.x.from, place, area.x.to, place, 0.13));
        axis.push(stroke(area.x.from - TICK, place, area.x.from, place, 1.0));
        let text = Element::new("text")
            .set("class", "tick")
            .set("text-anchor", "end")
            .at("font-size", format.tick);
        let text = text
            .at("x", area.x.from - TICK - 3.0)
            .at("y", place + format.tick * 0.35);
        axis.push(text.text(label));
    }
    let middle = f64::midpoint(area.y.from, area.y.to);
    for (number, line) in (1..).zip(text::wrap(&panel.y.text(), format.label, format.height * 0.62)) {
        let left = EDGE + f64::from(number) * format.label * LINE - format.label * 0.4;
        // Centred on the axis, unless that would leave the drawing.
        let half = text::width(&line, format.label) / 2.0;
        let middle = middle.clamp(
            half.min(format.height / 2.0),
            format.height - half.min(format.height / 2.0),
        );
        let label = Element::new("text")
            .set("class", "label")
            .set("text-anchor", "middle");
        let label = label.at("font-size", format.label);
        let place = format!("translate({left:.2} {middle:.2}) rotate(-90)");
        axis.push(label.set("transform", place).text(line));
    }
    axis
}

fn x_axis(panel: &Panel, format: Format, area: Area, range: (f64, f64)) -> Element {
    let mut axis = Element::new("g").set("class", "x-axis");
    let length = area.x.to - area.x.from;
    let turned = turned(panel, format, format.width * 0.75);
    let found = letters(&panel.x, range, length, format.tick * 3.2);
    let named = matches!(panel.x.scale, Scale::Names(_));
    let base = area.y.from;
    let every = if named && !turned {
        thinned(&found, format, length)
    } else {
        1
    };
    // Labels that would touch the last one are left out.
    let mut free = f64::NEG_INFINITY;
    for (at, tick) in found.iter().enumerate() {
        let place = area.x.inside(tick.value);
        let Some(label) = &tick.label else {
            axis.push(stroke(place, base, place, base + TICK / 2.0, 0.7));
            continue;
        };
        axis.push(stroke(
            place,
            base,
            place,
            base + if named { TICK / 2.0 } else { TICK },
            1.0,
        ));
        let half = text::width(label, format.tick) / 2.0;
        if at % every != 0 || (!turned && place - half < free) {
            continue;
        }
        free = place + half + format.tick * 0.5;
        let text = Element::new("text")
            .set("class", "tick")
            .at("font-size", format.tick);
        let low = base + TICK + 3.0 + format.tick * 0.75;
        axis.push(if turned {
            let turn = format!("translate({:.2} {low:.2}) rotate(-35)", place + 3.0);
            text.set("text-anchor", "end")
                .set("transform", turn)
                .text(label.as_str())
        } else {
            text.set("text-anchor", "middle")
                .at("x", place)
                .at("y", low)
                .text(label.as_str())
        });
    }
    let label = text::wrap(&panel.x.text(), format.label, format.width * 0.75);
    let mut low = base + below(&found, format, turned);
    for line in label {
        low += format.label * LINE;
        let text = Element::new("text")
            .set("class", "label")
            .set("text-anchor", "middle");
        let text = text
            .at("font-size", format.label)
            .at("x", f64::midpoint(area.x.from, area.x.to));
        axis.push(text.at("y", low - format.label * 0.3).text(line));
    }
    axis
}
