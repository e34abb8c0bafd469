//! What is drawn between the axes, and how the legend shows it.

use itertools::Itertools;
use maud::{Markup, html};

use super::super::figure::{Drawn, Histogram, Panel, Spread, is_shown, plottable};
use super::super::palette::{Look, Marker, Palette};
use super::super::text::short;
use super::frame::Area;
use super::px;
use crate::findings::{Point, Series, real};

pub(super) const SWATCH_WIDTH: f64 = 24.0;
const RADIUS: f64 = 3.4;
const DOTS: &str = "1.5 3";
const FILL: &str = "0.72";
const MEDIAN: &str = "3 2.5";
/// Half of the dash that stands for a curve of one value, pixels.
const DASH: f64 = 18.0;
/// How far measured values of the same x are moved apart at most, pixels.
const ASIDE: f64 = 3.0;

/// What a sample in the legend is made of, in the order of drawing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Bar,
    Curve,
    Dots,
    Mean,
    Median,
    Interval,
    Marker,
}

/// A sample in the legend.
pub(super) fn swatch(look: Look, marks: &[Mark], height: f64) -> Markup {
    let (x, y) = (SWATCH_WIDTH / 2.0, height / 2.0);
    let level = |width, dashes| segment("", (0.0, y), (SWATCH_WIDTH, y), look.colour, width, dashes);
    let upright = |dashes| segment("", (x, y - 8.0), (x, y + 8.0), look.colour, 1.8, dashes);
    html! {
        g {
            @for mark in marks {
                @match mark {
                    Mark::Bar => {
                        rect x=(px(x - 8.0)) y=(px(y - 6.0)) width="16" height="12" fill=(look.colour)
                            fill-opacity=(FILL) {}
                    }
                    Mark::Curve => (level(1.8, look.dashes)),
                    Mark::Dots => (level(1.2, Some(DOTS))),
                    Mark::Mean => (upright(None)),
                    Mark::Median => (upright(Some(MEDIAN))),
                    Mark::Interval => (bracket(x, y - 7.0, y + 7.0, look.colour)),
                    Mark::Marker => (marker(look, (x, y))),
                }
            }
        }
    }
}

/// All series of a panel.
pub(super) fn draw(panel: &Panel, palette: &Palette, spread: Spread, area: Area) -> Markup {
    let clouds = real(panel.measured().count());
    let step = step_aside(panel, area, clouds);
    // Beside each other, or intervals would hide each other.
    let mut aside = -(clouds + 1.0) / 2.0 * step;
    let mut next_aside = || {
        aside += step;
        aside
    };
    html! {
        @for series in panel.series() {
            @let look = palette.look(&series.name);
            @if series.is_reference {
                (curve(&series.points, look, area, 1.8, look.dashes))
                (lone(&series.points, look, area))
            } @else {
                @if spread == Spread::Quartiles { (curve(&series.points, look, area, 1.2, Some(DOTS))) }
                @let aside = next_aside();
                @for value in series.points.iter().filter(|value| is_shown(value)) {
                    (point(series, *value, look, area, aside))
                }
            }
        }
        @if let Drawn::Histogram(name, histogram) = &panel.drawn {
            (distribution(histogram, palette.look(name), area))
        }
    }
}

/// How far measured values of the same x are moved apart, pixels.
fn step_aside(panel: &Panel, area: Area, clouds: f64) -> f64 {
    let values = panel.measured().flat_map(|series| &series.points);
    let place = |point: &Point| plottable(point.x).then(|| area.x.inside(point.x));
    let places = values.filter_map(place).sorted_by(f64::total_cmp);
    let gaps = places.tuple_windows().map(|(left, right)| right - left);
    let gap = gaps.filter(|gap| *gap > 1.0).fold(f64::INFINITY, f64::min);
    (gap * 0.6 / clouds).min(ASIDE)
}

/// Across and down, pixels.
type Place = (f64, f64);

/// A straight line.
fn segment(class: &str, from: Place, to: Place, colour: &str, width: f64, dashes: Option<&str>) -> Markup {
    html! {
        line class=[(!class.is_empty()).then_some(class)] x1=(px(from.0)) y1=(px(from.1)) x2=(px(to.0))
            y2=(px(to.1)) stroke=(colour) stroke-width=(px(width)) stroke-dasharray=[dashes] {}
    }
}

/// Where values are drawn, where they can be.
fn places(points: &[Point], area: Area) -> Vec<Option<Place>> {
    let place = |point: &Point| is_shown(point).then(|| (area.x.inside(point.x), area.y.inside(point.y)));
    points.iter().map(place).collect()
}

/// Short level lines for values of a curve that have none beside them to be joined with.
fn lone(points: &[Point], look: Look, area: Area) -> Markup {
    let places = places(points, area);
    let is_there = |at: Option<usize>| at.and_then(|at| places.get(at)).copied().flatten().is_some();
    let alone = |at: usize| !is_there(at.checked_sub(1)) && !is_there(at.checked_add(1));
    let lone = places.iter().enumerate().filter(|(at, _)| alone(*at));
    html! {
        @for (x, y) in lone.filter_map(|(_, place)| *place) {
            @let (from, to) = (area.x.clamp(x - DASH), area.x.clamp(x + DASH));
            (segment("lone", (from, y), (to, y), look.colour, 1.8, look.dashes))
        }
    }
}

/// A line through values.
fn curve(points: &[Point], look: Look, area: Area, width: f64, dashes: Option<&str>) -> Markup {
    let mut path = String::new();
    let places = places(points, area);
    for run in places.split(Option::is_none).filter(|run| run.len() > 1) {
        let step = |(x, y): &Place| format!("{} {}", px(*x), px(*y));
        path.extend(["M", &run.iter().flatten().map(step).join("L")]);
    }
    html! {
        path.curve d=(path) fill="none" stroke=(look.colour) stroke-width=(px(width)) stroke-linejoin="round"
            stroke-dasharray=[dashes] {}
    }
}

/// An interval with a bar at each end.
fn bracket(x: f64, low: f64, high: f64, colour: &str) -> Markup {
    html! {
        g.interval {
            (segment("", (x, low), (x, high), colour, 1.3, None))
            @for y in [low, high] { (segment("", (x - 2.5, y), (x + 2.5, y), colour, 1.3, None)) }
        }
    }
}

fn point(series: &Series, value: Point, look: Look, area: Area, aside: f64) -> Markup {
    let x = area.x.clamp(area.x.inside(value.x) + aside);
    let mut said = format!("{}: {} at {}", series.name, short(value.y), short(value.x));
    let is_shown = |(low, high): &(f64, f64)| plottable(*low) && plottable(*high);
    let ends = value.range.filter(is_shown);
    if let Some((low, high)) = ends {
        said = format!("{said} ({} to {})", short(low), short(high));
    }
    let ends = ends.map(|(low, high)| (area.y.inside(low), area.y.inside(high)));
    html! {
        g.point {
            @if let Some((low, high)) = ends.filter(|(low, high)| (low - high).abs() > 0.1) {
                (bracket(x, low, high, look.colour))
            }
            (marker(look, (x, area.y.inside(value.y))))
            title { (said) }
        }
    }
}

fn marker(look: Look, (x, y): Place) -> Markup {
    let corner = |(dx, dy): &(f64, f64)| format!("{} {}", px(x + dx * RADIUS), px(y + dy * RADIUS));
    let polygon = |corners: &[(f64, f64)]| {
        let path = format!("M{}Z", corners.iter().map(corner).join("L"));
        (path, None)
    };
    let bars = |ends: [(f64, f64); 4]| {
        let [left, right, upper, lower] = ends.map(|end| corner(&end));
        (format!("M{left}L{right}M{upper}L{lower}"), Some("2"))
    };
    let (path, width) = match look.marker {
        Marker::Circle => {
            return html! {
                circle.marker cx=(px(x)) cy=(px(y)) r=(px(RADIUS)) stroke=(look.colour) fill=(look.colour) {}
            };
        }
        Marker::Square => polygon(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        Marker::Triangle => polygon(&[(0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)]),
        Marker::Diamond => polygon(&[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]),
        Marker::TriangleDown => polygon(&[(0.0, 1.2), (1.15, -0.9), (-1.15, -0.9)]),
        Marker::Plus => bars([(-1.2, 0.0), (1.2, 0.0), (0.0, -1.2), (0.0, 1.2)]),
        Marker::Cross => bars([(-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)]),
    };
    html! { path.marker d=(path) stroke-width=[width] stroke=(look.colour) fill=(look.colour) {} }
}

fn distribution(histogram: &Histogram, look: Look, area: Area) -> Markup {
    let marks = [(histogram.mean, None), (histogram.median, Some(MEDIAN))];
    html! {
        g.histogram {
            @for (from, to, count) in &histogram.bins {
                @let (left, right) = (area.x.inside(*from), area.x.inside(*to));
                @let (base, tip) = (area.y.inside(0.0), area.y.inside(f64::from(*count)));
                rect.bar x=(px(left)) y=(px(tip)) width=(px(right - left)) height=(px(base - tip))
                    fill=(look.colour) fill-opacity=(FILL) {
                    title { (short(*from)) " to " (short(*to)) ": " (count) }
                }
            }
            // Black on the distribution: the marks have no colour of their own.
            @for (value, dashes) in marks.into_iter().filter(|(value, _)| plottable(*value)) {
                @let x = area.x.inside(value);
                (segment("", (x, area.y.from), (x, area.y.to), "currentColor", 1.8, dashes))
            }
        }
    }
}
