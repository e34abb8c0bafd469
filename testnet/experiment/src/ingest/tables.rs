//! What `ingest` found: tables, figures, values for histograms, and predictions beside measurements.

mod predicted;

use std::collections::BTreeSet;

use mutualstore_erasure::Policy;

use super::{Ingest, Reading, rate};
use crate::Findings;
use crate::findings::{
    Column, Datum, Figure, Histogram, Point, Series, Table, decimal, distinct, grouped, mean, median,
    quantile, real,
};

/// Fewer repetitions give no percentiles worth the name.
const ENOUGH: usize = 100;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
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

    /// The part of the file that passed no link.
    fn share(self, reading: &Reading) -> f64 {
        let bytes = match self {
            Self::Ingest => reading.kept_bytes,
            Self::Download => reading.own_bytes,
        };
        (real(bytes) / real(reading.file_bytes.max(1))).min(1.0)
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

/// The repetitions of one cell that came to full redundancy.
struct Case<'a> {
    key: Key,
    readings: Vec<&'a Reading>,
}

impl<'a> Case<'a> {
    fn all(readings: &'a [Reading]) -> Vec<Self> {
        let key = |reading: &Reading| Key {
            peers: reading.peers,
            placement: reading.placement.clone(),
            file_bytes: reading.file_bytes,
            rate_bits: reading.rate_bits,
        };
        let groups = grouped(readings.iter().filter(|reading| is_full(reading)), key).into_iter();
        groups.map(|(key, readings)| Self { key, readings }).collect()
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

    /// Median and quartiles.
    fn point(&self, x: f64, op: Op) -> Option<Point> {
        let seconds = self.seconds(op);
        Some(Point {
            x,
            y: self.median(op)?,
            range: quantile(&seconds, 0.25).zip(quantile(&seconds, 0.75)),
        })
    }
}

fn is_full(reading: &Reading) -> bool {
    reading.shards_stored >= reading.shards_total
}

pub(super) fn findings(ingest: &Ingest, readings: &[Reading]) -> Findings {
    let cases = Case::all(readings);
    let limits = distinct(cases.iter().map(|case| case.key.rate_bits));
    let mut tables: Vec<Table> = Op::BOTH.map(|op| summary(&cases, op)).into();
    tables.extend([predicted::ingest_table(&cases), predicted::download_table(&cases)]);
    let figures = |op| {
        let (cases, limits) = (&cases, limits.iter());
        limits.flat_map(move |limit| [against_peers(cases, op, *limit), against_size(cases, op, *limit)])
    };
    let compared = Op::BOTH.map(|op| policies(&cases, op));
    let mut notes = notes(ingest, readings, &cases);
    for (op, compared) in Op::BOTH.into_iter().zip(&compared) {
        notes.extend(compared.iter().cloned());
        notes.extend(predicted::notes(&cases, op));
    }
    let alike = compared
        .iter()
        .flatten()
        .all(|note| note.contains("no placement stands out"));
    let advice = if alike {
        "placement makes no difference to speed here: choose it by what it loses."
    } else {
        "placement makes a difference to speed: weigh what is fastest above against what it loses."
    };
    Findings {
        tables,
        figures: Op::BOTH.into_iter().flat_map(figures).flatten().collect(),
        notes,
        summary: compared.into_iter().flatten().collect(),
        advice: vec![advice.to_owned()],
    }
}

/// The columns that say which case a row is of.
const HEADS: [Column<'static, Key>; 3] = [
    ("N", &|key| key.peers.into()),
    ("placement", &|key| key.placement.as_str().into()),
    ("file", &|key| decimal(key.file_bytes).into()),
];

fn summary(cases: &[Case<'_>], op: Op) -> Table {
    let (explained, other, share) = match op {
        Op::Ingest => (
            "Ingest: from the first byte to full redundancy",
            "daemon's own median",
            "writer keeps",
        ),
        Op::Download => (
            "Download: from the request to the last byte, through another peer",
            "MB/s",
            "reader has",
        ),
    };
    // 10^6 bytes per second.
    let speed = |reading: &Reading| real(reading.file_bytes) / 1e6 / reading.download_seconds.max(1e-9);
    let others = |case: &Case<'_>| match op {
        Op::Ingest => median(case.values(|reading| reading.daemon_seconds)),
        Op::Download => median(case.values(speed)),
    };
    let [peers, placement, file] = HEADS;
    Table::of(
        format!("{explained}, seconds"),
        cases,
        &[
            (peers.0, &|case| peers.1(&case.key)),
            (placement.0, &|case| placement.1(&case.key)),
            (file.0, &|case| file.1(&case.key)),
            ("link", &|case| {
                case.key.rate_bits.map_or("none".to_owned(), rate).into()
            }),
            ("times", &|case| case.readings.len().into()),
            ("median", &|case| case.median(op).into()),
            ("mean", &|case| mean(&case.seconds(op)).into()),
            ("p5", &|case| quantile(&case.seconds(op), 0.05).into()),
            ("p95", &|case| quantile(&case.seconds(op), 0.95).into()),
            (other, &|case| others(case).into()),
            (share, &|case| {
                mean(&case.values(|reading| op.share(reading))).into()
            }),
        ],
    )
}

/// One series for each placement, with what `x` says of each case.
fn series<'a>(cases: &[&'a Case<'a>], op: Op, x: impl Fn(&Key) -> f64) -> Vec<Series> {
    let placements = distinct(cases.iter().map(|case| case.key.placement.as_str()));
    let of_placement = |name: &str| {
        let own = cases.iter().filter(|case| case.key.placement == name);
        Series::measured(name, own.filter_map(|case| case.point(x(&case.key), op)))
    };
    placements.into_iter().map(of_placement).collect()
}

fn limited<'a>(cases: &'a [Case<'a>], limit: Option<u64>) -> impl Iterator<Item = &'a Case<'a>> {
    cases.iter().filter(move |case| case.key.rate_bits == limit)
}

fn at(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), rate)
}

/// Of the largest file that was measured at most numbers of peers.
fn against_peers(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let counts = |bytes: u64| {
        let same = limited(cases, limit).filter(|case| case.key.file_bytes == bytes);
        same.map(|case| case.key.peers).collect::<BTreeSet<_>>().len()
    };
    let sizes = limited(cases, limit).map(|case| case.key.file_bytes);
    let bytes = sizes.max_by_key(|bytes| (counts(*bytes), *bytes))?;
    let shown: Vec<&Case<'_>> = limited(cases, limit)
        .filter(|case| case.key.file_bytes == bytes)
        .collect();
    let mut all = series(&shown, op, |key| real(key.peers));
    if let Some(bits) = limit {
        let copies = shown.first()?.readings.first()?.copies;
        let peers = distinct(shown.iter().map(|case| case.key.peers));
        all.extend(predicted::curves(op, copies, bytes, bits, &peers));
    }
    Some(Figure::new(
        format!("{} of {}, {}, by number of peers", op, decimal(bytes), at(limit)),
        ["peers N", "time, seconds"],
        all,
    ))
}

/// On the largest network.
fn against_size(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let peers = limited(cases, limit).map(|case| case.key.peers).max()?;
    let shown: Vec<&Case<'_>> = limited(cases, limit)
        .filter(|case| case.key.peers == peers)
        .collect();
    Some(Figure::new(
        format!("{} with {peers} peers, {}, by size", op, at(limit)),
        ["file size, bytes", "time, seconds"],
        series(&shown, op, |key| real(key.file_bytes)),
    ))
}

pub(super) fn histograms(readings: &[Reading]) -> Vec<Histogram> {
    let of_case = |case: &Case<'_>| {
        let Key {
            peers,
            placement,
            file_bytes,
            rate_bits,
        } = &case.key;
        let (size, limit) = (decimal(*file_bytes), at(*rate_bits));
        Op::BOTH.map(|op| Histogram {
            title: format!("{} of {size}, {peers} peers, {placement}, {limit}", op),
            unit: "seconds".to_owned(),
            values: case.seconds(op),
        })
    };
    Case::all(readings).iter().flat_map(of_case).collect()
}

const NOTES: [&str; 4] = [
    "Full redundancy: all copies of every block and of the manifest are flushed to disk on distinct \
     peers; the daemon acknowledges no sooner.",
    "All peers and the client share this machine: without a limit it is its processors and its disk that \
     are measured, and more peers do not make it faster.",
    "Cells are measured one after the other, so what else the machine does meanwhile falls on some of \
     them and not on others.",
    "The writer keeps, the reader has: the mean part of the file that is on that peer's own disk, so \
     that it passes no link.",
];
const LOCATORS: &str = "Under all placements but successors the daemon also flushes a locator of every block \
                        with the first r peers from the block's id, 16 unless the network has another r, or \
                        all where there are fewer: more small writes the more peers there are, and next to \
                        no bytes.";

fn notes(ingest: &Ingest, readings: &[Reading], cases: &[Case<'_>]) -> Vec<String> {
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    let successors = Policy::Successors.to_string();
    if cases.iter().any(|case| case.key.placement != successors) {
        notes.push(LOCATORS.to_owned());
    }
    let short = readings.iter().filter(|reading| !is_full(reading)).count();
    if short > 0 {
        notes.push(format!(
            "{short} of {} files were acknowledged with fewer copies than asked for; they are in no table.",
            readings.len()
        ));
    }
    let sizes = grouped(cases, |case| (case.key.file_bytes, case.key.rate_bits));
    for ((bytes, limit), same) in sizes {
        let least = same.iter().map(|case| case.readings.len()).min();
        if let Some(least) = least.filter(|least| *least < ENOUGH) {
            notes.push(format!(
                "{}, {}: from {least} repetitions on, fewer than {ENOUGH}; p5 and p95 are of few.",
                decimal(bytes),
                at(limit)
            ));
        }
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
    notes
}

/// Which placement was fastest and slowest, for the largest file on the largest network; none where the
/// quartiles of these two overlap.
fn policies(cases: &[Case<'_>], op: Op) -> Vec<String> {
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
        let (peers, size) = (largest.0, decimal(largest.1));
        let of = format!("{} of {size} with {peers} peers, {}", op, at(limit));
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
    let limits = distinct(cases.iter().map(|case| case.key.rate_bits));
    limits.into_iter().filter_map(of_limit).collect()
}

#[cfg(test)]
mod tests;
