//! What is drawn between the axes, and how the legend shows it.

use super::super::figure::{Bar, Histogram, Panel, Point, Scale, Series, plottable};
use super::super::markup::{Element, px};
use super::super::palette::{Look, Marker, Palette};
use super::super::text::short;
use super::frame::Area;

pub(super) const SWATCH_WIDTH: f64 = 24.0;
const RADIUS: f64 = 3.4;
const DOTS: &str = "1.5 3";

/// A sample in the legend.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "marks that may be combined")]
pub(super) struct Swatch {
    /// Neutral when absent.
    pub(super) look: Option<Look>,
    pub(super) line: bool,
    pub(super) dotted: bool,
    pub(super) marker: bool,
    pub(super) hollow: bool,
    pub(super) filled: bool,
    pub(super) interval: bool,
    pub(super) upright: bool,
    pub(super) expected: bool,
}

impl Swatch {
    pub(super) fn draw(&self, height: f64) -> Element {
        let look = self.look.unwrap_or(Look {
            colour: "currentColor",
            marker: Marker::Circle,
            dashes: None,
        });
        let (middle, y) = (SWATCH_WIDTH / 2.0, height / 2.0);
        let mut all = Element::new("g");
        if self.filled {
            let bar = Element::new("rect").at("x", middle - 8.0).at("y", y - 6.0);
            let bar = bar.at("width", 16.0).at("height", 12.0);
            all.push(bar.set("fill", look.colour).set("fill-opacity", FILL));
        }
        if self.upright {
            let line = segment((middle, y - 8.0), (middle, y + 8.0), look.colour, 1.8);
            all.push(dashed(line, self.dotted.then_some(MEDIAN)));
        } else if self.line || self.dotted {
            let line = segment(
                (0.0, y),
                (SWATCH_WIDTH, y),
                look.colour,
                if self.line { 1.8 } else { 1.2 },
            );
            let dashes = if self.line { look.dashes } else { Some(DOTS) };
            all.push(dashed(line, dashes));
        }
        if self.expected {
            all.push(segment((0.0, y), (SWATCH_WIDTH, y), "currentColor", 2.0));
        }
        if self.interval {
            all.push(bracket(middle, (y - 7.0, true), (y + 7.0, true), look.colour));
        }
        if self.marker || self.hollow {
            all.push(marker(look, (middle, y), self.hollow));
        }
        all
    }
}

const FILL: &str = "0.72";
const MEDIAN: &str = "3 2.5";

/// Whether a measured value lies above or below the panel's given range or is 0 on a log axis.
pub(super) fn has_beyond(panel: &Panel) -> bool {
    let beyond = |value: f64| {
        let low = panel.y.scale == Scale::Log && value <= 0.0;
        low || panel
            .y
            .range
            .is_some_and(|(first, last)| value < first || value > last)
    };
    let inside = |value: f64| {
        panel
            .x
            .range
            .is_none_or(|(first, last)| value >= first && value <= last)
    };
    panel.series.iter().any(|series| match series {
        Series::Points { values, .. } => values
            .iter()
            .any(|point| plottable(point.y) && inside(point.x) && beyond(point.y)),
        Series::Curve { .. } | Series::Histogram { .. } | Series::Bars { .. } => false,
    })
}

/// All series of a panel.
pub(super) fn draw(panel: &Panel, palette: &Palette, area: Area) -> Element {
    let mut all = Element::new("g").set("class", "marks");
    let count = |test: fn(&Series) -> bool| panel.series.iter().filter(|series| test(series)).count();
    let real = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let clouds = real(count(|series| matches!(series, Series::Points { .. })));
    let groups = real(count(|series| matches!(series, Series::Bars { .. })));
    let alone = count(|series| matches!(series, Series::Histogram { .. })) == 1;
    let (mut cloud, mut group) = (0.0, 0.0);
    for series in &panel.series {
        let look = palette.look(series.name());
        match series {
            Series::Curve { values, .. } => {
                all.push(dashed(curve(values, look, area, 1.8), look.dashes));
                all = all.children(lone(values, look, area));
            }
            Series::Points {
                name, values, joined, ..
            } => {
                // Beside each other, or intervals would hide each other.
                let aside = (cloud - (clouds - 1.0) / 2.0) * step_aside(panel, area, clouds);
                cloud += 1.0;
                if *joined {
                    let line: Vec<_> = values.iter().map(|point| (point.x, point.y)).collect();
                    all.push(dashed(curve(&line, look, area, 1.2), Some(DOTS)));
                }
                all = all.children(
                    values
                        .iter()
                        .filter_map(|value| point(name, *value, look, area, aside)),
                );
            }
            Series::Histogram { histogram, .. } => all.push(distribution(histogram, look, area, alone)),
            Series::Bars { name, bars } => {
                let width = 0.8 / groups;
                let from = -0.4 + group * width;
                group += 1.0;
                all = all.children(
                    bars.iter()
                        .flat_map(|value| bar(name, *value, look, area, (from, width))),
                );
            }
        }
    }
    all
}

/// How far measured values of the same x are moved apart, pixels.
fn step_aside(panel: &Panel, area: Area, clouds: f64) -> f64 {
    let mut places: Vec<f64> = Vec::new();
    for series in &panel.series {
        if let Series::Points { values, .. } = series {
            let shown = values.iter().filter(|point| plottable(point.x));
            places.extend(shown.map(|point| area.x.inside(point.x)));
        }
    }
    places.sort_by(f64::total_cmp);
    let gaps = places
        .windows(2)
        .filter_map(|pair| Some(pair.last()? - pair.first()?));
    let gap = gaps.filter(|gap| *gap > 1.0).fold(f64::INFINITY, f64::min);
    let most = if matches!(panel.x.scale, Scale::Names(_)) {
        12.0
    } else {
        3.0
    };
    (gap * 0.6 / clouds).min(most)
}

fn segment(from: (f64, f64), to: (f64, f64), colour: &str, width: f64) -> Element {
    Element::new("line")
        .at("x1", from.0)
        .at("y1", from.1)
        .at("x2", to.0)
        .at("y2", to.1)
        .set("stroke", colour)
        .at("stroke-width", width)
}

fn dashed(line: Element, dashes: Option<&str>) -> Element {
    match dashes {
        Some(dashes) => line.set("stroke-dasharray", dashes),
        None => line,
    }
}

/// Where values are drawn, where they can be.
fn places(values: &[(f64, f64)], area: Area) -> Vec<Option<(f64, f64)>> {
    let place = |value: &(f64, f64)| {
        let place = (area.x.place(value.0), area.y.place(value.1));
        (plottable(value.0) && plottable(value.1) && place.0.is_finite() && place.1.is_finite())
            .then_some(place)
    };
    values.iter().map(place).collect()
}

/// Half of the dash that stands for a curve of one value, pixels.
const DASH: f64 = 18.0;

/// Short level lines for values of a curve that have none beside them to be joined with.
fn lone(values: &[(f64, f64)], look: Look, area: Area) -> Vec<Element> {
    let places = places(values, area);
    let is_there = |at: Option<usize>| at.and_then(|at| places.get(at)).copied().flatten().is_some();
    let alone = |at: usize| !is_there(at.checked_sub(1)) && !is_there(at.checked_add(1));
    let lone = places.iter().enumerate().filter(|(at, _)| alone(*at));
    let dash = |(_, place): (usize, &Option<(f64, f64)>)| {
        let (x, y) = (*place)?;
        let (from, to) = clip((x - DASH, y), (x + DASH, y), area)?;
        Some(dashed(
            segment(from, to, look.colour, 1.8).set("class", "lone"),
            look.dashes,
        ))
    };
    lone.filter_map(dash).collect()
}

/// A line through values, cut at the axes.
fn curve(values: &[(f64, f64)], look: Look, area: Area, width: f64) -> Element {
    let places = places(values, area);
    let mut path = String::new();
    let mut pen = None;
    for pair in places.windows(2) {
        let ends = pair
            .first()
            .copied()
            .flatten()
            .zip(pair.last().copied().flatten());
        let Some((from, to)) = ends.and_then(|(from, to)| clip(from, to, area)) else {
            pen = None;
            continue;
        };
        let (from, to) = ((px(from.0), px(from.1)), (px(to.0), px(to.1)));
        if pen.as_ref() != Some(&from) {
            path.push_str(&format_step('M', &from));
        }
        path.push_str(&format_step('L', &to));
        pen = Some(to);
    }
    Element::new("path")
        .set("class", "curve")
        .set("d", path)
        .set("fill", "none")
        .set("stroke", look.colour)
        .at("stroke-width", width)
        .set("stroke-linejoin", "round")
}

fn format_step(step: char, to: &(String, String)) -> String {
    format!("{step}{} {}", to.0, to.1)
}

/// The part of a segment within the area (Liang & Barsky 1984).
fn clip(from: (f64, f64), to: (f64, f64), area: Area) -> Option<((f64, f64), (f64, f64))> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (left, right) = (area.x.from, area.x.to);
    let (top, bottom) = (area.y.to, area.y.from);
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    let sides = [
        (-dx, from.0 - left),
        (dx, right - from.0),
        (-dy, from.1 - top),
        (dy, bottom - from.1),
    ];
    for (run, room) in sides {
        if run < 0.0 {
            enter = enter.max(room / run);
        } else if run > 0.0 {
            leave = leave.min(room / run);
        } else if room < 0.0 {
            return None;
        }
    }
    let at = |share: f64| (from.0 + share * dx, from.1 + share * dy);
    (enter <= leave).then(|| (at(enter), at(leave)))
}

/// An interval with a bar at each end that lies within the axes.
fn bracket(x: f64, low: (f64, bool), high: (f64, bool), colour: &str) -> Element {
    let mut all = Element::new("g").set("class", "interval");
    all.push(segment((x, low.0), (x, high.0), colour, 1.3));
    for (y, _) in [low, high].into_iter().filter(|(_, closed)| *closed) {
        all.push(segment((x - 2.5, y), (x + 2.5, y), colour, 1.3));
    }
    all
}

fn point(name: &str, value: Point, look: Look, area: Area, aside: f64) -> Option<Element> {
    if !plottable(value.x) || !plottable(value.y) || !area.x.holds(value.x) {
        return None;
    }
    let x = (area.x.place(value.x) + aside).clamp(area.x.from, area.x.to);
    let mut said = format!("{name}: {} at {}", short(value.y), short(value.x));
    let mut all = Element::new("g").set("class", "point");
    let interval = value
        .interval
        .filter(|(low, high)| plottable(*low) && plottable(*high));
    if let Some((low, high)) = interval {
        said = format!("{said} ({} to {})", short(low), short(high));
        let ends = (area.y.inside(low), area.y.inside(high));
        if (ends.0 - ends.1).abs() > 0.1 {
            all.push(bracket(
                x,
                (ends.0, area.y.holds(low)),
                (ends.1, area.y.holds(high)),
                look.colour,
            ));
        }
    }
    all.push(marker(look, (x, area.y.inside(value.y)), !area.y.holds(value.y)));
    Some(all.child(Element::new("title").text(said)))
}

fn marker(look: Look, (x, y): (f64, f64), hollow: bool) -> Element {
    let polygon = |corners: &[(f64, f64)]| {
        let corner = |(dx, dy): &(f64, f64)| format!("{} {}", px(x + dx * RADIUS), px(y + dy * RADIUS));
        let corners: Vec<_> = corners.iter().map(corner).collect();
        Element::new("path").set("d", format!("M{}Z", corners.join("L")))
    };
    let bars = |ends: [(f64, f64); 4]| {
        let [left, right, upper, lower] =
            ends.map(|(dx, dy)| format!("{} {}", px(x + dx * RADIUS), px(y + dy * RADIUS)));
        Element::new("path")
            .set("d", format!("M{left}L{right}M{upper}L{lower}"))
            .at("stroke-width", 2.0)
    };
    let shape = match look.marker {
        Marker::Circle => Element::new("circle").at("cx", x).at("cy", y).at("r", RADIUS),
        Marker::Square => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        Marker::Triangle => polygon(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        Marker::Diamond => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        Marker::TriangleDown => polygon(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
        Marker::Plus => bars([(-1.2, 0.0), (1.2, 0.0), (0.0, -1.2), (0.0, 1.2)]),
        Marker::Cross => bars([(-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)]),
    };
    let shape = shape.set("class", "marker").set("stroke", look.colour);
    if hollow {
        shape.set("fill", "none")
    } else {
        shape.set("fill", look.colour)
    }
}

/// A box from value to value, cut at the axes; none when nothing of it is within.
fn column(area: Area, (from, to): (f64, f64), height: f64, look: Look) -> Option<Element> {
    if !plottable(height) || !plottable(from) || !plottable(to) {
        return None;
    }
    let (left, right) = (area.x.inside(from), area.x.inside(to));
    // From 0, or from the end of the axis that is nearest to it.
    let (base, tip) = (area.y.inside(0.0), area.y.inside(height));
    let visible = right - left > 0.01;
    visible.then(|| {
        Element::new("rect")
            .set("class", "bar")
            .at("x", left)
            .at("y", base.min(tip))
            .at("width", right - left)
            .at("height", (base - tip).abs())
            .set("fill", look.colour)
            .set("fill-opacity", FILL)
    })
}

fn distribution(histogram: &Histogram, look: Look, area: Area, alone: bool) -> Element {
    let mut all = Element::new("g").set("class", "histogram");
    for (from, to, count) in &histogram.bins {
        let bin = column(area, (*from, *to), f64::from(*count), look);
        let said = format!("{} to {}: {count}", short(*from), short(*to));
        let bin = bin.map(|bin| bin.child(Element::new("title").text(said)));
        all = all.children(bin);
    }
    // Black on the one distribution there is; several need their own colours.
    let colour = if alone { "currentColor" } else { look.colour };
    for (value, dashes) in [(histogram.mean, None), (histogram.median, Some(MEDIAN))] {
        if plottable(value) && area.x.holds(value) {
            let x = area.x.place(value);
            let line = segment((x, area.y.from), (x, area.y.to), colour, 1.8);
            all.push(dashed(line, dashes));
        }
    }
    all
}

fn bar(name: &str, bar: Bar, look: Look, area: Area, (from, width): (f64, f64)) -> Vec<Element> {
    let mut said = format!("{name}: {}", short(bar.value));
    let ends = (bar.x + from + width * 0.04, bar.x + from + width * 0.96);
    let mut all = Vec::new();
    let expected = bar.expected.filter(|value| plottable(*value) && plottable(bar.x));
    if let Some(value) = expected {
        said = format!("{said}, expected {}", short(value));
    }
    let body = column(area, ends, bar.value, look);
    all.extend(body.map(|body| body.child(Element::new("title").text(said))));
    if let Some(value) = expected.filter(|value| area.y.holds(*value)) {
        let y = area.y.place(value);
        // A little wider than the bar, so that it is seen on it.
        let (left, right) = (
            area.x.inside(bar.x + from - 0.04),
            area.x.inside(bar.x + from + width + 0.04),
        );
        all.push(segment((left, y), (right, y), "currentColor", 2.0).set("class", "expected"));
    }
    all
}
