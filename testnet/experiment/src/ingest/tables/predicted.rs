//! Predictions beside measurements, and where the difference comes from.
//!
//! A prediction is of the links alone; what they do not explain is compared with the same cell without a
//! limit. Sealing, hashing, flushing and the messages to and fro overlap with sending or come after it, so a
//! measurement should lie between the larger of both and their sum.

use super::{Case, Op};
use crate::findings::{Datum, Group, Point, Series, Table, decimal, grouped, median, real, table};
use crate::ingest::model::{self, Link, Replication, Window};
use crate::ingest::{Reading, rate};

/// Of a measurement, what is not worth explaining.
const TOLERANCE: f64 = 0.05;
/// Plaintext of a whole block.
const BLOCK_BYTES: f64 = 16.0 * 65_520.0;

/// What a put of one block waits for, one after the other: its block, its manifest, locators where the
/// holders cannot be found without, the commit.
fn steps(placement: &str) -> f64 {
    if placement == "successors" { 3.0 } else { 4.0 }
}

fn link(bits: u64) -> Link {
    Link::limited(real(bits) / 8.0)
}

fn replication(bytes: u64, copies: u8, kept: f64) -> Replication {
    Replication {
        file_bytes: real(bytes),
        block_bytes: BLOCK_BYTES,
        copies: copies.into(),
        kept,
    }
}

fn of(reading: &Reading, op: Op) -> Replication {
    replication(reading.file_bytes, reading.copies, op.share(reading))
}

/// What the links alone take: for an ingest, direct fan-out to what holders the daemon chose.
fn seconds(reading: &Reading, op: Op, link: &Link) -> f64 {
    let file = of(reading, op);
    match op {
        Op::Ingest => file.direct(link),
        Op::Download => model::download(file.file_bytes, file.kept, 1.0, link, link),
    }
}

/// A prediction for a case with limited links, beside its measurement; seconds.
struct Comparison<'a> {
    case: &'a Case<'a>,
    bits: u64,
    link: Link,
    /// Predicted by the links alone.
    predicted: f64,
    measured: f64,
    /// Median of what each repetition took more than predicted for it.
    excess: f64,
    /// The same cell without a limit.
    unlimited: Option<f64>,
    /// A part of what the smallest file of one block takes without a limit, on the same network with the same
    /// placement: L.
    step: Option<f64>,
}

/// Where the difference comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// There is none.
    Link,
    /// Less than predicted.
    Faster,
    /// No more than what the same takes without a limit.
    Fixed,
    /// More than both one after the other, by so many seconds.
    More(f64),
    /// It was not measured without a limit.
    Unknown,
}

impl<'a> Comparison<'a> {
    fn all(cases: &'a [Case<'a>], op: Op) -> Vec<Self> {
        let of = |case| Self::of(cases, case, op);
        cases.iter().filter_map(of).collect()
    }

    fn of(cases: &'a [Case<'a>], case: &'a Case<'a>, op: Op) -> Option<Self> {
        let bits = case.rate_bits?;
        let link = link(bits);
        // The same without a limit, of any size.
        let is_free = |other: &&Case<'_>| {
            let same = (other.peers, &other.placement) == (case.peers, &case.placement);
            same && other.rate_bits.is_none()
        };
        let free = || cases.iter().filter(is_free);
        let small = free().filter(|other| real(other.file_bytes) <= BLOCK_BYTES);
        let smallest = small.min_by_key(|other| other.file_bytes);
        let smallest = smallest.and_then(|smallest| smallest.median(Op::Ingest));
        let unlimited = free().find(|other| other.file_bytes == case.file_bytes);
        Some(Self {
            predicted: median(case.values(|reading| seconds(reading, op, &link)))?,
            measured: case.median(op)?,
            excess: median(case.values(|reading| op.seconds(reading) - seconds(reading, op, &link)))?,
            unlimited: unlimited.and_then(|unlimited| unlimited.median(op)),
            step: smallest.map(|smallest| smallest / steps(&case.placement)),
            case,
            bits,
            link,
        })
    }

    fn verdict(&self) -> Verdict {
        let tolerance = TOLERANCE * self.measured;
        match self.unlimited {
            _ if self.excess < -tolerance => Verdict::Faster,
            _ if self.excess <= tolerance => Verdict::Link,
            Some(unlimited) if self.excess <= unlimited + tolerance => Verdict::Fixed,
            Some(unlimited) => Verdict::More(self.excess - unlimited),
            None => Verdict::Unknown,
        }
    }

    /// The median over all repetitions of what `value` says of the file.
    fn of_all(&self, op: Op, value: impl Fn(&Replication) -> f64) -> Option<f64> {
        median(self.case.values(|reading| value(&of(reading, op))))
    }

    /// A bound of what successor placement takes.
    fn placed(&self, bound: fn((f64, f64)) -> f64) -> Option<f64> {
        let step = self.step?;
        self.of_all(Op::Ingest, |file| {
            let window = Window::of_daemon(file, &self.link, step);
            bound(file.placed(&self.link, &window)) + (steps(&self.case.placement) - 1.0) * step
        })
    }

    /// The excess in percent of the prediction.
    fn deviation(&self) -> Option<f64> {
        (self.predicted > 0.0).then(|| 100.0 * self.excess / self.predicted)
    }
}

impl From<Verdict> for Datum {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Link => "the link alone".into(),
            Verdict::Faster => "less than predicted".into(),
            Verdict::Fixed => "within fixed costs".into(),
            Verdict::More(seconds) => format!("{} s more than both", Self::Number(seconds)).into(),
            Verdict::Unknown => "not measured without limit".into(),
        }
    }
}

pub(super) fn ingest_table(cases: &[Case<'_>]) -> Table {
    let title = "Ingest over limited links, medians in seconds: chain and direct fan-out by the link alone; \
                 placed, with a wait for each durable block, its manifest and the commit, each a part of \
                 what the smallest file takes without limit; beside the measurement";
    table!(title, &Comparison::all(cases, Op::Ingest), |row| {
        "N" => row.case.peers,
        "placement" => row.case.placement.as_str(),
        "file" => decimal(row.case.file_bytes),
        "link" => rate(row.bits),
        "chain" => row.of_all(Op::Ingest, |file| file.chain(&row.link)),
        "direct" => row.predicted,
        "burst spares" => row.of_all(Op::Ingest, |file| row.link.spared(file.sent_bytes())),
        "placed, least" => row.placed(|(least, _)| least),
        "most" => row.placed(|(_, most)| most),
        "measured" => row.measured,
        "over direct %" => row.deviation(),
        "without limit" => row.unlimited,
        "difference" => row.verdict(),
    })
}

pub(super) fn download_table(cases: &[Case<'_>]) -> Table {
    let fetched = |file: &Replication| (1.0 - file.kept) * file.file_bytes;
    let title =
        "Download over limited links, medians in seconds: by the reader's link alone, beside the measurement";
    table!(title, &Comparison::all(cases, Op::Download), |row| {
        "N" => row.case.peers,
        "placement" => row.case.placement.as_str(),
        "file" => decimal(row.case.file_bytes),
        "link" => rate(row.bits),
        "by the link" => row.predicted,
        "burst spares" => row.of_all(Op::Download, |file| row.link.spared(fetched(file))),
        "measured" => row.measured,
        "over the link %" => row.deviation(),
        "without limit" => row.unlimited,
        "difference" => row.verdict(),
    })
}

/// By N, with the mean share on the peer's own disk.
pub(super) fn curves(op: Op, copies: u8, bytes: u64, bits: u64, peers: &[usize]) -> Vec<Series> {
    let link = link(bits);
    let curve = |name: &str, seconds: &dyn Fn(f64) -> f64| {
        let point = |peers: &usize| Point::new(real(*peers), seconds(real(*peers)));
        Series::reference(name, peers.iter().map(point))
    };
    let at = |peers: f64| replication(bytes, copies, model::kept(copies.into(), peers));
    let read = |own: f64| model::download(real(bytes), own, 1.0, &link, &link);
    match op {
        Op::Ingest => vec![
            curve("direct fan-out, predicted", &|peers| at(peers).direct(&link)),
            curve("pipelined chain, predicted", &|peers| at(peers).chain(&link)),
        ],
        Op::Download => vec![
            curve("asking any holder, predicted", &|peers| {
                read(1.0 / peers.max(1.0))
            }),
            curve("preferring own copies, predicted", &|peers| read(at(peers).kept)),
        ],
    }
}

/// How many cells are explained by what.
pub(super) fn notes(cases: &[Case<'_>], op: Op) -> Vec<String> {
    let comparisons = Comparison::all(cases, op);
    let rates = grouped(&comparisons, |one| one.bits);
    let mut notes: Vec<String> = rates.iter().map(|rate| note(op, rate)).collect();
    if op == Op::Ingest && !notes.is_empty() {
        notes.push(
            "By the links alone, copies cost the receiving peer the same wherever they go, so \
             placements differ by what the writer keeps itself; the rest is not the links'. A \
             pipelined chain would take about 1/(k - h) of the links' time."
                .to_owned(),
        );
    }
    notes
}

fn note<'a>(op: Op, compared: &Group<'_, Comparison<'a>>) -> String {
    let count = |wanted: Verdict| compared.all.iter().filter(|one| one.verdict() == wanted).count();
    let mut parts = vec![format!(
        "{} at {}: of {} cells, {} take what the link alone takes (± {:.0} %); {} take longer by no more \
         than the same takes without a limit (sealing, hashing, flushing, messages to and fro)",
        op,
        rate(compared.bits),
        compared.all.len(),
        count(Verdict::Link),
        100.0 * TOLERANCE,
        count(Verdict::Fixed),
    )];
    let faster = count(Verdict::Faster);
    if faster > 0 {
        parts.push(format!(
            "{faster} take less: a link that pauses gets its burst again, which is not predicted"
        ));
    }
    let more = |one: &Comparison<'a>| match one.verdict() {
        Verdict::More(seconds) => Some((seconds / one.measured.max(1e-9), one.case)),
        Verdict::Link | Verdict::Faster | Verdict::Fixed | Verdict::Unknown => None,
    };
    let more: Vec<(f64, &Case<'_>)> = compared.all.iter().filter_map(|one| more(one)).collect();
    if let Some((part, case)) = more.iter().max_by(|one, other| one.0.total_cmp(&other.0)) {
        parts.push(format!(
            "{} take longer than both one after the other, most of all {} of {} with {} peers, by {:.0} % of \
             its time",
            more.len(),
            case.placement,
            decimal(case.file_bytes),
            case.peers,
            100.0 * part
        ));
    }
    format!("{}.", parts.join("; "))
}
