//! Predictions beside measurements, and where the difference comes from.
//!
//! A prediction is of the links alone; what they do not explain is compared with the same cell without a
//! limit. Sealing, hashing, flushing and the messages to and fro overlap with sending or come after it, so a
//! measurement should lie between the larger of both and their sum.

use super::{Case, Key, Op};
use crate::experiment::findings::{Datum, Point, Series, Table, decimal, distinct, median};
use crate::experiment::ingest::model::{self, Link, Replication, Window};
use crate::experiment::ingest::{Reading, rate};

/// Of a measurement, what is not worth explaining.
const TOLERANCE: f64 = 0.05;
/// Plaintext of a whole block.
const BLOCK_BYTES: f64 = 16.0 * 65_520.0;
/// What a put of one block waits for, one after the other: its block, its manifest, locators where the
/// holders cannot be found without, the commit.
fn steps(placement: &str) -> f64 {
    if placement == "successors" { 3.0 } else { 4.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn link(bits: u64) -> Link {
    Link::limited(bits as f64 / 8.0)
}

#[expect(clippy::cast_precision_loss, reason = "bytes")]
fn replication(bytes: u64, copies: u8, kept: f64) -> Replication {
    Replication {
        file_bytes: bytes as f64,
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

/// A prediction beside a measurement; seconds.
struct Comparison {
    link: f64,
    measured: f64,
    /// Median of what each repetition took more than predicted for it.
    excess: f64,
    /// The same cell without a limit.
    unlimited: Option<f64>,
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

impl Comparison {
    fn of(cases: &[Case<'_>], case: &Case<'_>, op: Op, link: &Link) -> Option<Self> {
        let free = Key {
            rate_bits: None,
            ..case.key.clone()
        };
        Some(Self {
            link: median(case.values(|reading| seconds(reading, op, link)))?,
            measured: case.median(op)?,
            excess: median(case.values(|reading| op.seconds(reading) - seconds(reading, op, link)))?,
            unlimited: Case::of_key(cases, &free).and_then(|case| case.median(op)),
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

/// L: a part of what the smallest file of one block takes without a limit, on the same network with the same
/// placement.
#[expect(clippy::cast_precision_loss, reason = "bytes")]
fn step(cases: &[Case<'_>], key: &Key) -> Option<f64> {
    let same = cases.iter().filter(|case| {
        case.key.rate_bits.is_none()
            && case.key.peers == key.peers
            && case.key.placement == key.placement
            && case.key.file_bytes as f64 <= BLOCK_BYTES
    });
    let smallest = same.min_by_key(|case| case.key.file_bytes)?;
    Some(smallest.median(Op::Ingest)? / steps(&key.placement))
}

pub(super) fn table(cases: &[Case<'_>], op: Op) -> Table {
    match op {
        Op::Ingest => ingest(cases),
        Op::Download => download(cases),
    }
}

fn limited<'a>(cases: &'a [Case<'a>]) -> impl Iterator<Item = (&'a Case<'a>, Link, u64)> {
    let with_link = |case: &'a Case<'a>| case.key.rate_bits.map(|bits| (case, link(bits), bits));
    cases.iter().filter_map(with_link)
}

fn head(case: &Case<'_>, bits: u64) -> Vec<Datum> {
    vec![
        case.key.peers.into(),
        case.key.placement.as_str().into(),
        decimal(case.key.file_bytes).into(),
        rate(bits).into(),
    ]
}

fn deviation(comparison: &Comparison) -> Datum {
    let percent = (comparison.link > 0.0).then(|| 100.0 * comparison.excess / comparison.link);
    Datum::number(percent)
}

fn ingest(cases: &[Case<'_>]) -> Table {
    let mut table = Table::new(
        "Ingest over limited links, medians in seconds: chain and direct fan-out by the link alone; placed, \
         with a wait for each durable block, its manifest and the commit, each a part of what the smallest \
         file takes without limit; beside the measurement",
        [
            "N",
            "placement",
            "file",
            "link",
            "chain",
            "direct",
            "burst spares",
            "placed, least",
            "most",
            "measured",
            "over direct %",
            "without limit",
            "difference",
        ],
    );
    for (case, link, bits) in limited(cases) {
        let Some(comparison) = Comparison::of(cases, case, Op::Ingest, &link) else {
            continue;
        };
        let of_all = |value: &dyn Fn(&Replication) -> f64| {
            Datum::number(median(case.values(|reading| value(&of(reading, Op::Ingest)))))
        };
        let step = step(cases, &case.key);
        let placed = |bound: fn((f64, f64)) -> f64| match step {
            Some(step) => of_all(&|file| {
                let window = Window::of_daemon(file, &link, step);
                bound(file.placed(&link, &window)) + (steps(&case.key.placement) - 1.0) * step
            }),
            None => Datum::Nothing,
        };
        let mut row = head(case, bits);
        row.extend([
            of_all(&|file| file.chain(&link)),
            comparison.link.into(),
            of_all(&|file| link.spared(file.sent_bytes())),
            placed(|(least, _)| least),
            placed(|(_, most)| most),
            comparison.measured.into(),
            deviation(&comparison),
            Datum::number(comparison.unlimited),
            comparison.verdict().into(),
        ]);
        table.rows.push(row);
    }
    table
}

fn download(cases: &[Case<'_>]) -> Table {
    let mut table = Table::new(
        "Download over limited links, medians in seconds: by the reader's link alone, beside the measurement",
        [
            "N",
            "placement",
            "file",
            "link",
            "by the link",
            "burst spares",
            "measured",
            "over the link %",
            "without limit",
            "difference",
        ],
    );
    for (case, link, bits) in limited(cases) {
        let Some(comparison) = Comparison::of(cases, case, Op::Download, &link) else {
            continue;
        };
        let fetched = |reading: &Reading| {
            let file = of(reading, Op::Download);
            (1.0 - file.kept) * file.file_bytes
        };
        let spared = median(case.values(|reading| link.spared(fetched(reading))));
        let mut row = head(case, bits);
        row.extend([
            comparison.link.into(),
            Datum::number(spared),
            comparison.measured.into(),
            deviation(&comparison),
            Datum::number(comparison.unlimited),
            comparison.verdict().into(),
        ]);
        table.rows.push(row);
    }
    table
}

/// By N, with the mean share on the peer's own disk.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
pub(super) fn curves(op: Op, copies: u8, bytes: u64, bits: u64, peers: &[usize]) -> Vec<Series> {
    let link = link(bits);
    let curve = |name: &str, seconds: &dyn Fn(f64) -> f64| Series {
        name: name.to_owned(),
        is_reference: true,
        points: super::sorted(peers.iter().map(|peers| Point {
            x: *peers as f64,
            y: seconds(*peers as f64),
            range: None,
        })),
    };
    let at = |kept: f64| replication(bytes, copies, kept);
    let kept = |peers: f64| model::kept(copies.into(), peers);
    match op {
        Op::Ingest => vec![
            curve("direct fan-out, predicted", &|peers| {
                at(kept(peers)).direct(&link)
            }),
            curve("pipelined chain, predicted", &|peers| {
                at(kept(peers)).chain(&link)
            }),
        ],
        Op::Download => {
            let read = |own: f64| model::download(bytes as f64, own, 1.0, &link, &link);
            vec![
                curve("asking any holder, predicted", &|peers| {
                    read(1.0 / peers.max(1.0))
                }),
                curve("preferring own copies, predicted", &|peers| read(kept(peers))),
            ]
        }
    }
}

/// How many cells are explained by what.
pub(super) fn notes(cases: &[Case<'_>], op: Op) -> Vec<String> {
    let of_rate = |bits: u64| {
        let same = limited(cases).filter(|(_, _, other)| *other == bits);
        let compared =
            same.filter_map(|(case, link, _)| Some((case, Comparison::of(cases, case, op, &link)?)));
        let compared: Vec<(&Case<'_>, Comparison)> = compared.collect();
        let verdicts: Vec<Verdict> = compared.iter().map(|(_, one)| one.verdict()).collect();
        let count = |wanted: Verdict| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        let mut parts = vec![format!(
            "{} at {}: of {} cells, {} take what the link alone takes (± {:.0} %); {} take longer by no more \
             than the same takes without a limit (sealing, hashing, flushing, messages to and fro)",
            op.as_str(),
            rate(bits),
            verdicts.len(),
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
        let more = |(case, one): &(&Case<'_>, Comparison)| match one.verdict() {
            Verdict::More(seconds) => Some((seconds / one.measured.max(1e-9), case.key.clone())),
            Verdict::Link | Verdict::Faster | Verdict::Fixed | Verdict::Unknown => None,
        };
        let more: Vec<(f64, Key)> = compared.iter().filter_map(more).collect();
        let worst = more.iter().max_by(|one, other| one.0.total_cmp(&other.0));
        if let Some((part, key)) = worst {
            parts.push(format!(
                "{} take longer than both one after the other, most of all {} of {} with {} \
                                peers, by {:.0} % of its time",
                more.len(),
                key.placement,
                decimal(key.file_bytes),
                key.peers,
                100.0 * part
            ));
        }
        format!("{}.", parts.join("; "))
    };
    let rates = distinct(limited(cases).map(|(_, _, bits)| bits));
    let mut notes: Vec<String> = rates.into_iter().map(of_rate).collect();
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
