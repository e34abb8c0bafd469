//! What a figure shows, before it is drawn.

use itertools::Itertools;

use crate::findings::{Point, Series, mean, median, quantile, real};

/// A figure: panels side by side with one legend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// Short name: part of the file name and of links.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// The shell command that measures it again.
    pub command: String,
    /// What intervals around measured points mean.
    pub spread: Spread,
    /// The drawings.
    pub panels: Vec<Panel>,
}

/// One pair of axes and what is drawn between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Stands above the drawing; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What stands between the axes.
    pub drawn: Drawn,
}

/// What a panel shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawn {
    /// Curves of references and points of measurements, the first at the bottom.
    Series(Vec<Series>),
    /// A distribution of measured values along x, under its name.
    Histogram(String, Histogram),
}

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences take equal lengths.
    Linear,
    /// The same, with ticks at whole numbers only.
    Count,
    /// Equal ratios take equal lengths; values of 0 and below lie beyond the lower end.
    Log,
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures.
    pub label: String,
    /// The unit of its values.
    pub unit: String,
    /// How values become places.
    pub scale: Scale,
    /// First and last value; found from the values when absent or impossible.
    pub range: Option<(f64, f64)>,
}

/// What the interval around a measured point means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// The true value lies within in 95 of 100 experiments.
    Confidence95,
    /// The middle half of the values; the point is their median. A dotted line leads the eye from point to
    /// point.
    #[default]
    Quartiles,
}

/// How often values fell into which bin. `bins` are disjoint and ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Begin, end and number of values of each bin.
    pub bins: Vec<(f64, f64, u32)>,
    /// Number of values.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// The value in the middle.
    pub median: f64,
    /// Values that are no numbers, left out.
    pub dropped: usize,
}

/// Whether an axis can show it at all.
pub(super) fn plottable(value: f64) -> bool {
    value.is_finite() && value.abs() <= 1e100
}

/// Whether a point can be drawn.
pub(super) fn is_shown(point: &Point) -> bool {
    plottable(point.x) && plottable(point.y)
}

impl Figure {
    /// Names of all series, panel by panel.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.panels.iter().flat_map(|panel| match &panel.drawn {
            Drawn::Series(series) => series.iter().map(|series| series.name.as_str()).collect(),
            Drawn::Histogram(name, _) => vec![name.as_str()],
        })
    }

    /// Series of all panels.
    pub(super) fn series(&self) -> impl Iterator<Item = &Series> {
        self.panels.iter().flat_map(Panel::series)
    }

    /// How to read it, with what was left out.
    pub(super) fn caption(&self) -> String {
        let missing: usize = self.panels.iter().map(Panel::dropped).sum();
        let several = self.panels.iter().any(|panel| panel.measured().count() > 1);
        let aside = several.then_some("Points of the same place are drawn side by side.");
        let note = match missing {
            0 => None,
            1 => Some("1 value is not a number and not shown.".to_owned()),
            _ => Some(format!("{missing} values are not numbers and not shown.")),
        };
        aside.into_iter().chain(note.as_deref()).join(" ")
    }
}

impl Panel {
    /// Its series; none in a panel of a histogram.
    pub(super) fn series(&self) -> &[Series] {
        match &self.drawn {
            Drawn::Series(series) => series,
            Drawn::Histogram(..) => &[],
        }
    }

    /// Its measured series.
    pub(super) fn measured(&self) -> impl Iterator<Item = &Series> {
        self.series().iter().filter(|series| !series.is_reference)
    }

    fn dropped(&self) -> usize {
        match &self.drawn {
            Drawn::Series(_) => {
                let points = self.measured().flat_map(|series| &series.points);
                points.filter(|point| !is_shown(point)).count()
            }
            Drawn::Histogram(_, histogram) => histogram.dropped,
        }
    }
}

impl Axis {
    /// An axis whose range is found from the values.
    pub fn new(label: impl Into<String>, unit: impl Into<String>, scale: Scale) -> Self {
        Self {
            label: label.into(),
            unit: unit.into(),
            scale,
            range: None,
        }
    }

    /// Label and unit, as they stand beside the axis.
    pub(super) fn text(&self) -> String {
        format!("{} ({})", self.label, self.unit)
    }
}

impl Histogram {
    /// Bins as wide as Freedman and Diaconis 1981 advise, rounded up to 1, 2 or 5 times a power of ten:
    /// between 5 and 40 of them.
    pub fn of(samples: &[f64]) -> Self {
        let shown = samples.iter().copied().filter(|value| plottable(*value));
        let sorted: Vec<f64> = shown.sorted_by(f64::total_cmp).collect();
        let at = |part| quantile(&sorted, part).unwrap_or(f64::NAN);
        let (first, last) = (at(0.0), at(1.0));
        let spread = (last - first).max(first.abs().max(last.abs()) * 1e-9);
        let wanted = 2.0 * (at(0.75) - at(0.25)) / real(sorted.len()).cbrt();
        let width = super::ticks::round_up(wanted.min(spread / 5.0).max(spread / 40.0));
        let width = if width > 0.0 { width } else { 1.0 };
        let mut bins: Vec<(f64, f64, u32)> = Vec::new();
        for value in &sorted {
            let number = (value / width).floor();
            match bins.last_mut() {
                Some(bin) if *value < bin.1 => bin.2 += 1,
                _ => bins.push((number * width, (number + 1.0) * width, 1)),
            }
        }
        Self {
            bins,
            count: sorted.len(),
            mean: mean(&sorted).unwrap_or(f64::NAN),
            median: median(sorted.iter().copied()).unwrap_or(f64::NAN),
            dropped: samples.len() - sorted.len(),
        }
    }
}
