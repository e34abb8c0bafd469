//! What `ingest` found: tables, figures, values for histograms, and predictions beside measurements.

mod predicted;

use itertools::Itertools;
use mutualstore_erasure::Policy;

use super::{Ingest, Reading, rate};
use crate::Findings;
use crate::findings::{
    Datum, Figure, Group, Histogram, Point, Series, Table, decimal, distinct, grouped, median, quantile,
    real, table,
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

/// The repetitions of one cell that came to full redundancy.
type Case<'a> = Group<'a, Reading>;

fn cases(readings: &[Reading]) -> Vec<Case<'_>> {
    grouped(readings.iter().filter(|reading| is_full(reading)), |reading| {
        (
            reading.peers,
            &reading.placement,
            reading.file_bytes,
            reading.rate_bits,
        )
    })
}

impl Case<'_> {
    fn seconds(&self, op: Op) -> Vec<f64> {
        self.values(|reading| op.seconds(reading))
    }

    fn median(&self, op: Op) -> Option<f64> {
        median(self.seconds(op))
    }

    fn quantile(&self, op: Op, at: f64) -> Option<f64> {
        quantile(&self.seconds(op), at)
    }

    /// Median and quartiles.
    fn point(&self, x: f64, op: Op) -> Option<Point> {
        Some(Point {
            x,
            y: self.median(op)?,
            range: self.quantile(op, 0.25).zip(self.quantile(op, 0.75)),
        })
    }
}

fn is_full(reading: &Reading) -> bool {
    reading.shards_stored >= reading.shards_total
}

pub(super) fn findings(ingest: &Ingest, readings: &[Reading]) -> Findings {
    let cases = cases(readings);
    let limits = distinct(cases.iter().map(|case| case.rate_bits));
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
    let alike = |note: &String| note.contains("no placement stands out");
    let advice = if compared.iter().flatten().all(alike) {
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

fn summary(cases: &[Case<'_>], op: Op) -> Table {
    let (title, other, share) = match op {
        Op::Ingest => (
            "Ingest: from the first byte to full redundancy, seconds",
            "daemon's own median",
            "writer keeps",
        ),
        Op::Download => (
            "Download: from the request to the last byte, through another peer, seconds",
            "MB/s",
            "reader has",
        ),
    };
    let others = |reading: &Reading| match op {
        Op::Ingest => reading.daemon_seconds,
        // 10^6 bytes per second.
        Op::Download => real(reading.file_bytes) / 1e6 / reading.download_seconds.max(1e-9),
    };
    table!(title, cases, |case| {
        "N" => case.peers,
        "placement" => case.placement.as_str(),
        "file" => decimal(case.file_bytes),
        "link" => case.rate_bits.map_or("none".to_owned(), rate),
        "times" => case.all.len(),
        "median" => case.median(op),
        "mean" => case.mean(|reading| op.seconds(reading)),
        "p5" => case.quantile(op, 0.05),
        "p95" => case.quantile(op, 0.95),
        other => median(case.values(others)),
        share => case.mean(|reading| op.share(reading)),
    })
}

/// One series for each placement, with what `x` says of each case.
fn series<'a>(cases: &[&'a Case<'a>], op: Op, x: fn(&Reading) -> f64) -> Vec<Series> {
    let placements = grouped(cases.iter().copied(), |case| &case.placement);
    let of_placement = |own: Group<'a, Case<'a>>| {
        let points = own.all.iter().filter_map(|case| case.point(x(case), op));
        Series::measured(&own.placement, points)
    };
    placements.into_iter().map(of_placement).collect()
}

fn limited<'a>(cases: &'a [Case<'a>], limit: Option<u64>) -> impl Iterator<Item = &'a Case<'a>> {
    cases.iter().filter(move |case| case.rate_bits == limit)
}

fn at(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), rate)
}

/// Of the largest file that was measured at most numbers of peers.
fn against_peers(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let of_size = |bytes: u64| limited(cases, limit).filter(move |case| case.file_bytes == bytes);
    let counts = |bytes: u64| of_size(bytes).map(|case| case.peers).unique().count();
    let sizes = limited(cases, limit).map(|case| case.file_bytes);
    let bytes = sizes.max_by_key(|bytes| (counts(*bytes), *bytes))?;
    let shown: Vec<&Case<'_>> = of_size(bytes).collect();
    let mut all = series(&shown, op, |reading| real(reading.peers));
    if let Some(bits) = limit {
        let peers = distinct(shown.iter().map(|case| case.peers));
        all.extend(predicted::curves(op, shown.first()?.copies, bytes, bits, &peers));
    }
    Some(Figure::new(
        format!("{op} of {}, {}, by number of peers", decimal(bytes), at(limit)),
        ["peers N", "time, seconds"],
        all,
    ))
}

/// On the largest network.
fn against_size(cases: &[Case<'_>], op: Op, limit: Option<u64>) -> Option<Figure> {
    let peers = limited(cases, limit).map(|case| case.peers).max()?;
    let shown: Vec<&Case<'_>> = limited(cases, limit).filter(|case| case.peers == peers).collect();
    Some(Figure::new(
        format!("{op} with {peers} peers, {}, by size", at(limit)),
        ["file size, bytes", "time, seconds"],
        series(&shown, op, |reading| real(reading.file_bytes)),
    ))
}

pub(super) fn histograms(readings: &[Reading]) -> Vec<Histogram> {
    let of_case = |case: &Case<'_>| {
        let (size, limit) = (decimal(case.file_bytes), at(case.rate_bits));
        let of = format!("of {size}, {} peers, {}, {limit}", case.peers, case.placement);
        Op::BOTH.map(|op| Histogram {
            title: format!("{op} {of}"),
            unit: "seconds".to_owned(),
            values: case.seconds(op),
        })
    };
    cases(readings).iter().flat_map(of_case).collect()
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
    if cases.iter().any(|case| case.placement != successors) {
        notes.push(LOCATORS.to_owned());
    }
    let short = readings.iter().filter(|reading| !is_full(reading)).count();
    if short > 0 {
        notes.push(format!(
            "{short} of {} files were acknowledged with fewer copies than asked for; they are in no table.",
            readings.len()
        ));
    }
    for same in grouped(cases, |case| (case.file_bytes, case.rate_bits)) {
        let least = same.all.iter().map(|case| case.all.len()).min();
        if let Some(least) = least.filter(|least| *least < ENOUGH) {
            notes.push(format!(
                "{}, {}: from {least} repetitions on, fewer than {ENOUGH}; p5 and p95 are of few.",
                decimal(same.file_bytes),
                at(same.rate_bits)
            ));
        }
    }
    let left_out = ingest.left_out().into_iter();
    let left_out = left_out.map(|(_, bytes, bits)| (bytes, bits));
    notes.extend(left_out.unique().map(|(bytes, bits)| {
        let (size, link, most) = (decimal(bytes), rate(bits), ingest.cell_seconds);
        format!("{size} at {link} is left out where one repetition takes more than {most} s.")
    }));
    notes
}

/// Which placement was fastest and slowest, for the largest file on the largest network; none where the
/// quartiles of these two overlap.
fn policies(cases: &[Case<'_>], op: Op) -> Vec<String> {
    let of_limit = |limit: Option<u64>| {
        let key = |case: &Case<'_>| (case.peers, case.file_bytes);
        let largest = limited(cases, limit).map(key).max()?;
        let same = limited(cases, limit).filter(|case| key(case) == largest);
        let mut medians: Vec<(f64, &Case<'_>)> =
            same.filter_map(|case| Some((case.median(op)?, case))).collect();
        medians.sort_by(|one, other| one.0.total_cmp(&other.0));
        let ((least, fastest), (most, slowest)) = (*medians.first()?, *medians.last()?);
        if fastest.placement == slowest.placement {
            return None;
        }
        let (peers, size) = (largest.0, decimal(largest.1));
        let of = format!("{op} of {size} with {peers} peers, {}", at(limit));
        let apart = fastest.quantile(op, 0.75)? < slowest.quantile(op, 0.25)?;
        let (low, high) = (Datum::from(least), Datum::from(most));
        Some(if apart {
            format!(
                "{of}: {} is fastest with {low} s, {} takes {:.2} times as long.",
                fastest.placement,
                slowest.placement,
                most / least.max(1e-9)
            )
        } else {
            format!("{of}: no placement stands out: medians from {low} to {high} s, quartiles overlap.")
        })
    };
    let limits = distinct(cases.iter().map(|case| case.rate_bits));
    limits.into_iter().filter_map(of_limit).collect()
}

#[cfg(test)]
mod tests;
