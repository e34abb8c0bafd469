//! What a figure shows, before it is drawn.

/// A figure: panels side by side with one legend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// Short name: part of the file name and of links.
    pub id: String,
    /// What it shows, in a few words.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// The shell command that measures it again.
    pub command: String,
    /// Panels beside each other; by their number when absent.
    pub columns: Option<usize>,
    /// The drawings.
    pub panels: Vec<Panel>,
}

/// One pair of axes and what is drawn between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Above the drawing; may be empty.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn, first at the bottom.
    pub series: Vec<Series>,
}

/// How values become places.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// Evenly, and ticks are whole numbers.
    Count,
    /// By the logarithm; values of 0 and below lie beyond the lower end.
    Log,
    /// One place for each name; value i is the place of name i.
    Names(Vec<String>),
}

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures.
    pub label: String,
    /// In which unit.
    pub unit: String,
    /// How.
    pub scale: Scale,
    /// First and last value; found from the values when absent or impossible.
    pub range: Option<(f64, f64)>,
    /// Where ticks stand; round numbers when empty.
    pub ticks: Vec<f64>,
}

/// What the interval around a measured point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The true value lies within in 95 of 100 experiments.
    Confidence95,
    /// The middle half of the values; the point is their median.
    Quartiles,
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// How much.
    pub y: f64,
    /// From, to.
    pub interval: Option<(f64, f64)>,
}

/// A bar of a bar chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// Its place on the axis.
    pub x: f64,
    /// Its height.
    pub value: f64,
    /// What theory says.
    pub expected: Option<f64>,
}

/// How often values fell where. `bins` are disjoint and ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// From, to, how many.
    pub bins: Vec<(f64, f64, u32)>,
    /// Number of values.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// Values that are no numbers, left out.
    pub dropped: usize,
}

/// What is drawn under a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Series {
    /// Predicted values, joined by a line.
    Curve {
        /// Name.
        name: String,
        /// x and y, ascending in x; a value that is no number interrupts the line.
        values: Vec<(f64, f64)>,
    },
    /// Measured values.
    Points {
        /// Name.
        name: String,
        /// What their intervals mean.
        spread: Spread,
        /// The values.
        values: Vec<Point>,
        /// Whether a dotted line leads the eye from each to the next.
        joined: bool,
    },
    /// A distribution of measured values along x.
    Histogram {
        /// Name.
        name: String,
        /// The distribution.
        histogram: Histogram,
    },
    /// Measured values as bars from 0; several series of a panel stand side by side.
    Bars {
        /// Name.
        name: String,
        /// The bars.
        bars: Vec<Bar>,
    },
}

pub(super) fn with_unit(label: &str, unit: &str) -> String {
    if unit.is_empty() {
        label.to_owned()
    } else {
        format!("{label} ({unit})")
    }
}

/// Whether an axis can show it at all.
pub(super) fn plottable(value: f64) -> bool {
    value.is_finite() && value.abs() <= 1e100
}

impl Figure {
    /// One without panels.
    pub fn new(id: impl Into<String>, title: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            ..Self::default()
        }
    }

    /// Sets the caption.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<String>) -> Self {
        self.caption = caption.into();
        self
    }

    /// Sets the command.
    #[must_use]
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = command.into();
        self
    }

    /// Sets how many panels stand beside each other.
    #[must_use]
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = Some(columns);
        self
    }

    /// Adds a panel.
    #[must_use]
    pub fn panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// Names of all series, in order, with repetitions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.panels
            .iter()
            .flat_map(|panel| &panel.series)
            .map(Series::name)
    }

    /// The caption, and what else a reader must know: what was moved, and how many values are missing because
    /// they are no numbers.
    pub(super) fn full_caption(&self) -> String {
        let missing: usize = self
            .panels
            .iter()
            .flat_map(|panel| &panel.series)
            .map(Series::dropped)
            .sum();
        let points = |series: &&Series| matches!(series, Series::Points { .. });
        let mut panels = self.panels.iter();
        let mut caption = self.caption.clone();
        if panels.any(|panel| panel.series.iter().filter(points).count() > 1) {
            caption.push_str(" Points of the same place are drawn side by side.");
        }
        let note = match missing {
            0 => String::new(),
            1 => " 1 value is not a number and not shown.".to_owned(),
            _ => format!(" {missing} values are not numbers and not shown."),
        };
        caption.push_str(&note);
        caption.trim().to_owned()
    }
}

impl Panel {
    /// One with nothing drawn yet.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            x,
            y,
            series: Vec::new(),
        }
    }

    /// Adds predicted values.
    #[must_use]
    pub fn curve(mut self, name: impl Into<String>, values: Vec<(f64, f64)>) -> Self {
        let name = name.into();
        self.series.push(Series::Curve { name, values });
        self
    }

    /// Adds measured values.
    #[must_use]
    pub fn points(self, name: impl Into<String>, spread: Spread, values: Vec<Point>) -> Self {
        self.measured(name.into(), spread, values, false)
    }

    /// Adds measured values with a dotted line through them.
    #[must_use]
    pub fn joined(self, name: impl Into<String>, spread: Spread, values: Vec<Point>) -> Self {
        self.measured(name.into(), spread, values, true)
    }

    fn measured(mut self, name: String, spread: Spread, values: Vec<Point>, joined: bool) -> Self {
        self.series.push(Series::Points {
            name,
            spread,
            values,
            joined,
        });
        self
    }

    /// Adds a distribution.
    #[must_use]
    pub fn histogram(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        let name = name.into();
        self.series.push(Series::Histogram { name, histogram });
        self
    }

    /// Adds bars.
    #[must_use]
    pub fn bars(mut self, name: impl Into<String>, bars: Vec<Bar>) -> Self {
        let name = name.into();
        self.series.push(Series::Bars { name, bars });
        self
    }
}

impl Axis {
    fn new(label: impl Into<String>, unit: impl Into<String>, scale: Scale) -> Self {
        Self {
            label: label.into(),
            unit: unit.into(),
            scale,
            range: None,
            ticks: Vec::new(),
        }
    }

    /// A linear one.
    pub fn linear(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Linear)
    }

    /// A linear one for things that are counted.
    pub fn count(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Count)
    }

    /// A logarithmic one.
    pub fn log(label: impl Into<String>, unit: impl Into<String>) -> Self {
        Self::new(label, unit, Scale::Log)
    }

    /// One place per name.
    pub fn names<S: Into<String>>(
        label: impl Into<String>,
        unit: impl Into<String>,
        names: impl IntoIterator<Item = S>,
    ) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self::new(label, unit, Scale::Names(names))
    }

    /// Sets first and last value.
    #[must_use]
    pub fn range(mut self, first: f64, last: f64) -> Self {
        self.range = Some((first, last));
        self
    }

    /// Sets where ticks stand.
    #[must_use]
    pub fn ticks(mut self, ticks: impl IntoIterator<Item = f64>) -> Self {
        self.ticks = ticks.into_iter().collect();
        self
    }

    /// Label and unit.
    pub(super) fn text(&self) -> String {
        with_unit(&self.label, &self.unit)
    }
}

impl Point {
    /// One without interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, interval: None }
    }

    /// Sets the interval.
    #[must_use]
    pub fn between(mut self, low: f64, high: f64) -> Self {
        self.interval = Some((low, high));
        self
    }
}

impl Bar {
    /// One without expectation.
    pub fn new(x: f64, value: f64) -> Self {
        Self {
            x,
            value,
            expected: None,
        }
    }

    /// Sets what theory says.
    #[must_use]
    pub fn expected(mut self, value: f64) -> Self {
        self.expected = Some(value);
        self
    }
}

impl Histogram {
    /// Bins of equal width by the rule of Freedman & Diaconis 1981 (2 × interquartile range / ∛n), rounded to
    /// 1, 2 or 5 × 10^i, at most about 40.
    #[expect(clippy::cast_precision_loss, reason = "thousands of values, dozens of bins")]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted: Vec<f64> = samples
            .iter()
            .copied()
            .filter(|value| plottable(*value))
            .collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let dropped = samples.len() - count;
        let rank = |part: usize, of: usize| {
            sorted
                .get((count * part / of).min(count.saturating_sub(1)))
                .copied()
        };
        let (Some(first), Some(last)) = (sorted.first().copied(), sorted.last().copied()) else {
            return Self {
                bins: Vec::new(),
                count,
                mean: f64::NAN,
                median: f64::NAN,
                dropped,
            };
        };
        let upper = rank(1, 2).unwrap_or(first);
        let lower = sorted.get((count - 1) / 2).copied().unwrap_or(first);
        let quartiles = rank(3, 4).unwrap_or(last) - rank(1, 4).unwrap_or(first);
        let spread = (last - first).max(first.abs().max(last.abs()) * 1e-9);
        let wanted = 2.0 * quartiles / (count as f64).cbrt();
        let width = super::ticks::round_up(wanted.clamp(spread / 40.0, (spread / 5.0).max(spread / 40.0)));
        let width = if width > 0.0 { width } else { 1.0 };
        let mut bins: Vec<(f64, f64, u32)> = Vec::new();
        for value in &sorted {
            let number = (value / width).floor();
            let from = number * width;
            match bins.last_mut() {
                Some(bin) if *value < bin.1 => bin.2 += 1,
                _ => bins.push((from, (number + 1.0) * width, 1)),
            }
        }
        Self {
            bins,
            count,
            mean: sorted.iter().map(|value| value / count as f64).sum(),
            median: f64::midpoint(lower, upper),
            dropped,
        }
    }
}

impl Series {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Curve { name, .. }
            | Self::Points { name, .. }
            | Self::Histogram { name, .. }
            | Self::Bars { name, .. } => name,
        }
    }

    /// Values that no axis can show; in a curve they are gaps.
    fn dropped(&self) -> usize {
        let bad = |pair: (f64, f64)| !plottable(pair.0) || !plottable(pair.1);
        match self {
            Self::Curve { .. } => 0,
            Self::Points { values, .. } => values.iter().filter(|point| bad((point.x, point.y))).count(),
            Self::Histogram { histogram, .. } => histogram.dropped,
            Self::Bars { bars, .. } => bars.iter().filter(|bar| bad((bar.x, bar.value))).count(),
        }
    }
}
