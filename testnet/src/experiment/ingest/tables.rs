//! What `ingest` found: tables, figures, values for histograms, and predictions beside measurements.

mod predicted;

use mutualstore_erasure::Policy;

use super::{Ingest, Reading, rate};
use crate::experiment::Findings;
use crate::experiment::findings::{
    Datum, Figure, Histogram, Point, Series, Table, decimal, distinct, mean, median, quantile,
};

/// Fewer repetitions give no percentiles worth the name.
const ENOUGH: usize = 100;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Ingest,
    Download,
}

impl Op {
    const BOTH: [Self; 2] = [Self::Ingest, Self::Download];

    fn seconds(self, reading: &Reading) -> f64 {
        match self {
            Self::Ingest => reading.ingest_seconds,
            Self::Download => reading.download_seconds,
        }
    }

    /// h or s of the model: the part of the file that did not pass a link, as what it is a copy of.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn share(self, reading: &Reading) -> f64 {
        let bytes = match self {
            Self::Ingest => reading.kept_bytes,
            Self::Download => reading.own_bytes,
        };
        (bytes as f64 / reading.file_bytes.max(1) as f64).min(1.0)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Download => "download",
        }
    }

    const fn explained(self) -> &'static str {
        match self {
            Self::Ingest => "Ingest: from the first byte to full redundancy",
            Self::Download => "Download: from the request to the last byte, through another peer",
        }
    }
}

/// What all repetitions of a cell have in common.
#[derive(Clone, PartialEq)]
struct Key {
    peers: usize,
    placement: String,
    file_bytes: u64,
    rate_bits: Option<u64>,
}

impl Key {
    fn of(reading: &Reading) -> Self {
        Self {
            peers: reading.peers,
            placement: reading.placement.clone(),
            file_bytes: reading.file_bytes,
            rate_bits: reading.rate_bits,
        }
    }

    fn limit(&self) -> String {
        self.rate_bits.map_or("none".to_owned(), rate)
    }
}

/// The repetitions of one cell that came to full redundancy.
struct Case<'a> {
    key: Key,
    readings: Vec<&'a Reading>,
}

impl<'a> Case<'a> {
    fn all(readings: &'a [Reading]) -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        for reading in readings.iter().filter(|reading| is_full(reading)) {
            let key = Key::of(reading);
            match cases.iter_mut().rev().find(|case| case.key == key) {
                Some(case) => case.readings.push(reading),
                None => cases.push(Self {
                    key,
                    readings: vec![reading],
                }),
            }
        }
        cases
    }

    fn of_key<'c>(cases: &'c [Self], key: &Key) -> Option<&'c Self> {
        cases.iter().find(|case| case.key == *key)
    }

    fn values(&self, value: impl Fn(&Reading) -> f64) -> Vec<f64> {
        self.readings.iter().map(|reading| value(reading)).collect()
    }

    fn seconds(&self, op: Op) -> Vec<f64> {
        self.values(|reading| op.seconds(reading))
    }

    fn median(&self, op: Op) -> Option<f64> {
        median(self.seconds(op))
    }
}

fn is_full(reading: &Reading) -> bool {
    reading.shards_stored >= reading.shards_total
}

pub(super) fn findings(ingest: &Ingest, readings: &[Reading]) -> Findings {
    let cases = Case::all(readings);
    let limits = distinct(cases.iter().map(|case| case.key.rate_bits));
    let mut tables: Vec<Table> = Op::BOTH.map(|op| summary(&cases, op)).into();
    tables.extend(Op::BOTH.map(|op| predicted::table(&cases, op)));
    let mut figures = Vec::new();
    for op in Op::BOTH {
        for limit in &limits {
            figures.extend(against_peers(&cases, op, *limit));
            figures.extend(against_size(&cases, op, *limit));
        }
    }
    Findings {
        tables,
        figures,
        notes: notes(ingest, readings, &cases),
    }
}

fn summary(cases: &[Case<'_>], op: Op) -> Table {
    let (other, share) = match op {
        Op::Ingest => ("daemon's own median", "writer keeps"),
        Op::Download => ("MB/s", "reader has"),
    };
    let mut table = Table::new(
        format!("{}, seconds", op.explained()),
        [
            "N",
            "placement",
            "file",
            "link",
            "times",
            "median",
            "mean",
            "p5",
            "p95",
            other,
            share,
        ],
    );
    for case in cases {
        let seconds = case.seconds(op);
        let key = &case.key;
        let other = match op {
            Op::Ingest => median(case.values(|reading| reading.daemon_seconds)),
            Op::Download => median(case.values(speed)),
        };
        table.rows.push(vec![
            key.peers.into(),
            key.placement.as_str().into(),
            decimal(key.file_bytes).into(),
            key.limit().into(),
            case.readings.len().into(),
            Datum::number(median(seconds.iter().copied())),
            Datum::number(mean(&seconds)),
            Datum::number(quantile(&seconds, 0.05)),
            Datum::number(quantile(&seconds, 0.95)),
            Datum::number(other),
            Datum::number(mean(&case.values(|reading| op.share(reading)))),
        ]);
    }
    table
}

/// 10^6 bytes per second.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn speed(reading: &Reading) -> f64 {
    reading.file_bytes as f64 / 1e6 / reading.download_seconds.max(1e-9)
}

/// Median and quartiles.
fn point(x: f64, case: &Case<'_>, op: Op) -> Option<Point> {
    let seconds = case.seconds(op);
    Some(Point {
        x,
        y: median(seconds.iter().copied())?,
        range: quantile(&seconds, 0.25).zip(quantile(&seconds, 0.75)),
    })
}

/// One series for each placement, with what `x` says of each case.
fn series<'a>(cases: &[&'a Case<'a>], op: Op, x: impl Fn(&Case<'_>) -> f64) -> Vec<Series> {
    let placements = distinct(cases.iter().map(|case| case.key.placement.as_str()));
    let of_placement = |name: &str| {
        let own = cases.iter().filter(|case| case.key.placement == name);
        let points = own.filter_map(|case| point(x(case), case, op));
        Series {
            name: name.to_owned(),
            is_reference: false,
            points: sorted(points),
        }
    };
    placements.into_iter().map(of_placement).collect()
}

fn sorted(points: impl Iterator<Item = Point>) -> Vec<Point> {
    let mut points: Vec<Point> = points.collect();
    points.sort_by(|one, other| one.x.total_cmp(&other.x));
    points
}

fn limited<'a>(cases: &'a [Case<'a>], limit: Option<u64>) -> impl Iterator<Item = &'a Case<'a>> {
    cases.iter().filter(move |case| case.key.rate_bits == limit)
}

fn at(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), rate)
}

/// Of the largest file that was measured at most numbers of peers.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
fn against_peers(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let sizes = distinct(limited(cases, limit).map(|case| case.key.file_bytes));
    let counts = |bytes: u64| {
        let same = limited(cases, limit).filter(|case| case.key.file_bytes == bytes);
        distinct(same.map(|case| case.key.peers)).len()
    };
    let bytes = sizes.into_iter().max_by_key(|bytes| (counts(*bytes), *bytes))?;
    let shown: Vec<&Case<'_>> = limited(cases, limit)
        .filter(|case| case.key.file_bytes == bytes)
        .collect();
    let mut all = series(&shown, op, |case| case.key.peers as f64);
    if let Some(bits) = limit {
        let copies = shown.first()?.readings.first()?.copies;
        let peers = distinct(shown.iter().map(|case| case.key.peers));
        all.extend(predicted::curves(op, copies, bytes, bits, &peers));
    }
    Some(Figure {
        title: format!(
            "{} of {}, {}, by number of peers",
            op.as_str(),
            decimal(bytes),
            at(limit)
        ),
        x_label: "peers N".to_owned(),
        y_label: "time, seconds".to_owned(),
        series: all,
    })
}

/// On the largest network.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
fn against_size(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let peers = limited(cases, limit).map(|case| case.key.peers).max()?;
    let shown: Vec<&Case<'_>> = limited(cases, limit)
        .filter(|case| case.key.peers == peers)
        .collect();
    Some(Figure {
        title: format!("{} with {peers} peers, {}, by size", op.as_str(), at(limit)),
        x_label: "file size, bytes".to_owned(),
        y_label: "time, seconds".to_owned(),
        series: series(&shown, op, |case| case.key.file_bytes as f64),
    })
}

pub(super) fn histograms(readings: &[Reading]) -> Vec<Histogram> {
    Case::all(readings).iter().flat_map(of_case).collect()
}

fn of_case(case: &Case<'_>) -> [Histogram; 2] {
    let key = &case.key;
    Op::BOTH.map(|op| Histogram {
        title: format!(
            "{} of {}, {} peers, {}, {}",
            op.as_str(),
            decimal(key.file_bytes),
            key.peers,
            key.placement,
            at(key.rate_bits)
        ),
        unit: "seconds".to_owned(),
        values: case.seconds(op),
    })
}

fn notes(ingest: &Ingest, readings: &[Reading], cases: &[Case<'_>]) -> Vec<String> {
    let mut notes = vec![
        "Full redundancy: all copies of every block and of the manifest are flushed to disk on distinct \
         peers; the daemon acknowledges no sooner.".to_owned(),
        "All peers and the client share this machine: without a limit it is its processors and its disk that \
         are measured, and more peers do not make it faster.".to_owned(),
        "Cells are measured one after the other, so what else the machine does meanwhile falls on some of \
         them and not on others.".to_owned(),
        "The writer keeps, the reader has: the mean part of the file that is on that peer's own disk, so \
         that it passes no link.".to_owned(),
    ];
    if cases
        .iter()
        .any(|case| case.key.placement != Policy::Successors.to_string())
    {
        notes.push(
            "Under all placements but successors the daemon also flushes a locator of every block with the \
             first r peers from the block's id, 16 unless the network has another r, or all where there are \
             fewer: more small writes the more peers there are, and next to no bytes."
                .to_owned(),
        );
    }
    let short = readings.iter().filter(|reading| !is_full(reading)).count();
    if short > 0 {
        notes.push(format!(
            "{short} of {} files were acknowledged with fewer copies than asked for; they are in no table.",
            readings.len()
        ));
    }
    let few = cases.iter().filter(|case| case.readings.len() < ENOUGH);
    let sizes = distinct(few.map(|case| (case.key.file_bytes, case.key.rate_bits)));
    for (bytes, limit) in sizes {
        let same = cases
            .iter()
            .filter(|case| (case.key.file_bytes, case.key.rate_bits) == (bytes, limit));
        let least = same.map(|case| case.readings.len()).min().unwrap_or(0);
        notes.push(format!(
            "{}, {}: from {least} repetitions on, fewer than {ENOUGH}; p5 and p95 are of few.",
            decimal(bytes),
            at(limit)
        ));
    }
    for (bytes, bits) in distinct(
        ingest
            .left_out()
            .into_iter()
            .map(|(_, bytes, bits)| (bytes, bits)),
    ) {
        notes.push(format!(
            "{} at {} is left out where one repetition takes more than {} s.",
            decimal(bytes),
            rate(bits),
            ingest.cell_seconds
        ));
    }
    for op in Op::BOTH {
        notes.extend(policies(cases, op));
        notes.extend(predicted::notes(cases, op));
    }
    notes
}

/// Which placement was fastest and slowest, for the largest file on the largest network; none where the
/// quartiles of these two overlap.
fn policies(cases: &[Case<'_>], op: Op) -> Vec<String> {
    let limits = distinct(cases.iter().map(|case| case.key.rate_bits));
    let of_limit = |limit: Option<u64>| {
        let key = |case: &Case<'_>| (case.key.peers, case.key.file_bytes);
        let largest = limited(cases, limit).map(key).max()?;
        let same = limited(cases, limit).filter(|case| key(case) == largest);
        let mut medians: Vec<(f64, &Case<'_>)> =
            same.filter_map(|case| Some((case.median(op)?, case))).collect();
        medians.sort_by(|one, other| one.0.total_cmp(&other.0));
        let ((least, fastest), (most, slowest)) = (*medians.first()?, *medians.last()?);
        if fastest.key == slowest.key {
            return None;
        }
        let of = format!(
            "{} of {} with {} peers, {}",
            op.as_str(),
            decimal(largest.1),
            largest.0,
            at(limit)
        );
        let apart = quantile(&fastest.seconds(op), 0.75)? < quantile(&slowest.seconds(op), 0.25)?;
        let (low, high) = (Datum::from(least), Datum::from(most));
        Some(if apart {
            format!(
                "{of}: {} is fastest with {low} s, {} takes {:.2} times as long.",
                fastest.key.placement,
                slowest.key.placement,
                most / least.max(1e-9)
            )
        } else {
            format!("{of}: no placement stands out: medians from {low} to {high} s, quartiles overlap.")
        })
    };
    limits.into_iter().filter_map(of_limit).collect()
}

#[cfg(test)]
mod tests;
