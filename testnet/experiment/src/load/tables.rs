//! What `load` found: how even, beside how even it could be.

use mutualstore_contract::units::Size;

use super::{Case, Reading};
use crate::Findings;
use crate::findings::{Column, Datum, Figure, Point, Series, Table, ends, grouped, mean, real};

/// The readings of all peers for one operation; several repetitions are averaged in the tables.
type Operation<'a> = Vec<&'a Reading>;

/// All repetitions of an operation, and a reading for what they have in common.
struct Kind<'a> {
    first: &'a Reading,
    repetitions: Vec<Operation<'a>>,
}

impl<'a> Kind<'a> {
    fn all(readings: &'a [Reading]) -> Vec<Self> {
        let key = |reading: &'a Reading| {
            let sizes = (reading.shard_size_bytes, reading.file_bytes);
            (reading.case, reading.op.as_str(), reading.code.as_str(), sizes)
        };
        let kind = |(_, all): (_, Vec<&'a Reading>)| {
            let first = *all.first()?;
            let repetitions = grouped(all, |reading| reading.repetition);
            let repetitions = repetitions.into_iter().map(|(_, operation)| operation).collect();
            Some(Self { first, repetitions })
        };
        grouped(readings, key).into_iter().filter_map(kind).collect()
    }

    fn mean(&self, value: impl Fn(&Operation<'_>) -> f64) -> Option<f64> {
        mean(&self.repetitions.iter().map(value).collect::<Vec<_>>())
    }

    fn even(&self, value: impl Fn(Evenness) -> f64) -> Option<f64> {
        self.mean(|operation| value(evenness(operation)))
    }

    fn of_first(&self, value: impl Fn(&Reading) -> f64) -> Option<f64> {
        self.mean(|operation| operation.first().map_or(0.0, |reading| value(reading)))
    }

    fn code(&self) -> String {
        crate::shown_code(&self.first.code, &self.first.code_used)
    }

    fn files(&self) -> String {
        let size = Size(self.first.file_bytes);
        match self.first.files {
            1 => size.to_string(),
            files => format!("{files} × {size}"),
        }
    }

    fn shard(&self) -> Size {
        Size(self.first.shard_size_bytes)
    }

    fn case(&self) -> &'static str {
        self.first.case.into()
    }

    fn is_read(&self) -> bool {
        self.first.op == "read"
    }
}

/// How unequally peers were loaded in one operation, each relative to what its capacity lets expect.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Evenness {
    /// Requests of the busiest one.
    largest: f64,
    /// Root mean square of the differences from 1.
    deviation: f64,
    /// The same if each request went to a peer drawn by capacity, independently of all others.
    by_chance: f64,
    /// The largest part that where the shards lie lets expect.
    placed_largest: f64,
    /// Part of all bytes that the busiest peer served.
    busiest_share: f64,
}

fn evenness(operation: &Operation<'_>) -> Evenness {
    let values = |value: &dyn Fn(&Reading) -> f64| -> Vec<f64> {
        operation.iter().map(|reading| value(reading)).collect()
    };
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let expected = |reading: &Reading| reading.expected_requests.max(f64::MIN_POSITIVE);
    let ratios = values(&|reading| real(reading.requests) / expected(reading));
    let squares: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0).powi(2)).collect();
    let placed = values(&|reading| reading.placed_requests / expected(reading));
    let total: f64 = operation.iter().map(|reading| reading.expected_requests).sum();
    // Of a binomial count with mean e = R p: variance e (1 - p), so of its ratio to e (1 - p) / e.
    let chance =
        values(&|reading| (1.0 - expected(reading) / total.max(f64::MIN_POSITIVE)) / expected(reading));
    let bytes = values(&|reading| real(reading.served_bytes));
    Evenness {
        largest: largest(&ratios),
        deviation: mean(&squares).unwrap_or(0.0).sqrt(),
        by_chance: mean(&chance).unwrap_or(0.0).max(0.0).sqrt(),
        placed_largest: largest(&placed),
        busiest_share: largest(&bytes) / bytes.iter().sum::<f64>().max(1.0),
    }
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let kinds = Kind::all(readings);
    let small = kinds.iter().filter(|kind| kind.first.case == Case::Small);
    let reads: Vec<&Kind<'_>> = kinds
        .iter()
        .filter(|kind| kind.is_read() && kind.first.case != Case::Single)
        .collect();
    let judged: Vec<(bool, String)> = reads.iter().map(|kind| verdict(kind)).collect();
    let even = judged.iter().filter(|(even, _)| *even).count();
    let busiest = reads
        .iter()
        .filter_map(|kind| kind.even(|even| even.largest))
        .fold(0.0, f64::max);
    Findings {
        tables: vec![
            summary(&kinds),
            Table::of(
                "Small files: peers that took part in one put or get",
                small,
                &[
                    ("op", &|kind| kind.first.op.as_str().into()),
                    ("code", &|kind| kind.code().into()),
                    ("files", &|kind| kind.files().into()),
                    ("peers per file", &|kind| {
                        kind.of_first(|reading| reading.peers_per_file).into()
                    }),
                ],
            ),
            busiest_table(&kinds),
        ],
        figures: kinds
            .iter()
            .filter(|kind| kind.first.case != Case::Single)
            .map(figure)
            .collect(),
        notes: NOTES
            .map(str::to_owned)
            .into_iter()
            .chain(judged.iter().map(|(_, note)| note.clone()))
            .collect(),
        summary: vec![format!(
            "of {} kinds of reads {even} were no less even than chance; the busiest peer served at most \
             {busiest:.2} times its part.",
            judged.len()
        )],
        advice: vec![format!(
            "give each peer a link that bears {busiest:.1} times its part by capacity: what lies above 1 \
             comes from where shards lie and which holder is asked."
        )],
    }
}

fn summary(kinds: &[Kind<'_>]) -> Table {
    let requests = |operation: &Operation<'_>| operation.iter().map(|reading| real(reading.requests)).sum();
    let each = |operation: &Operation<'_>| {
        let expected: f64 = operation.iter().map(|reading| reading.expected_requests).sum();
        expected / real(operation.len().max(1))
    };
    let columns: [Column<'_, &Kind<'_>>; 13] = [
        ("case", &|kind| kind.case().into()),
        ("op", &|kind| kind.first.op.as_str().into()),
        ("code", &|kind| kind.code().into()),
        ("file", &|kind| kind.files().into()),
        ("shard", &|kind| kind.shard().to_string().into()),
        ("peers", &|kind| {
            kind.repetitions.first().map_or(0, Vec::len).into()
        }),
        ("requests", &|kind| kind.mean(requests).into()),
        ("expected each", &|kind| kind.mean(each).into()),
        ("largest", &|kind| kind.even(|even| even.largest).into()),
        ("by placement", &|kind| {
            kind.even(|even| even.placed_largest).into()
        }),
        ("deviation", &|kind| kind.even(|even| even.deviation).into()),
        ("by chance", &|kind| kind.even(|even| even.by_chance).into()),
        ("seconds", &|kind| kind.of_first(|reading| reading.seconds).into()),
    ];
    Table::of(
        "Requests per peer, relative to its part by capacity (equal peers: B/N); means over repetitions",
        kinds,
        &columns,
    )
}

fn busiest_table(kinds: &[Kind<'_>]) -> Table {
    let single = |kind: &Kind<'_>| -> Datum {
        let sizes = |reading: &Reading| (reading.file_bytes, reading.shard_size_bytes);
        let same = |other: &&Kind<'_>| {
            other.first.case == Case::Single && other.is_read() && sizes(other.first) == sizes(kind.first)
        };
        let single = kinds
            .iter()
            .find(same)
            .and_then(|single| single.repetitions.first());
        single
            .map(|operation| 100.0 * evenness(operation).busiest_share)
            .into()
    };
    let expected = |operation: &Operation<'_>| {
        let values = operation.iter().map(|reading| reading.expected_bytes);
        100.0 * values.clone().fold(0.0, f64::max) / values.sum::<f64>().max(f64::MIN_POSITIVE)
    };
    let reads = kinds
        .iter()
        .filter(|kind| kind.is_read() && kind.first.case != Case::Small);
    Table::of(
        "Reads: part of all bytes that the busiest peer served, beside a single server",
        reads,
        &[
            ("case", &|kind| kind.case().into()),
            ("code", &|kind| kind.code().into()),
            ("file", &|kind| kind.files().into()),
            ("shard", &|kind| kind.shard().to_string().into()),
            ("busiest peer %", &|kind| {
                kind.even(|even| 100.0 * even.busiest_share).into()
            }),
            ("capacity lets expect %", &|kind| kind.mean(expected).into()),
            ("single server %", &|kind| single(kind)),
        ],
    )
}

/// Requests of each peer beside what was expected.
fn figure(kind: &Kind<'_>) -> Figure {
    let peers = grouped(kind.repetitions.iter().flatten().copied(), |reading| reading.peer);
    let points = |value: fn(&Reading) -> f64, ranged: bool| {
        let point = move |(peer, of_peer): &(usize, Vec<&Reading>)| {
            let values: Vec<f64> = of_peer.iter().map(|reading| value(reading)).collect();
            Some(Point {
                x: real(*peer),
                y: mean(&values)?,
                range: ends(&values).filter(|_| ranged && values.len() > 1),
            })
        };
        peers.iter().filter_map(point).collect::<Vec<_>>()
    };
    let (case, op, shard) = (kind.case(), &kind.first.op, kind.shard());
    Figure::new(
        format!("{case} {op} {}, {}, shards of {shard}", kind.code(), kind.files()),
        ["peer", "requests"],
        vec![
            Series::measured("measured", points(|reading| real(reading.requests), true)),
            Series::reference("by capacity", points(|reading| reading.expected_requests, false)),
            Series::reference("by placement", points(|reading| reading.placed_requests, false)),
        ],
    )
}

const NOTES: [&str; 2] = [
    "By capacity: the peer's part of the live capacity. By placement: if all holders of a stripe served \
     it equally often; what exceeds it comes from which holder is asked, what it exceeds 1 by from where \
     the stripes lie.",
    "By chance: the deviation if every request went to a peer drawn independently, by capacity.",
];

/// Whether reads were no less even than chance, and that in a sentence.
fn verdict(kind: &Kind<'_>) -> (bool, String) {
    let value = |value: fn(Evenness) -> f64| kind.even(value).unwrap_or(0.0);
    let (deviation, chance) = (value(|even| even.deviation), value(|even| even.by_chance));
    let is_even = deviation <= 1.5 * chance;
    let verdict = if is_even {
        "no less even than chance"
    } else {
        "less even than chance"
    };
    let note = format!(
        "{} read of {} as {} with shards of {}: busiest peer {:.2} times its part ({:.2} by where the \
         shards lie), {verdict} (deviation {deviation:.2}, by chance {chance:.2}).",
        kind.case(),
        kind.files(),
        kind.code(),
        kind.shard(),
        value(|even| even.largest),
        value(|even| even.placed_largest),
    );
    (is_even, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(peer: usize, repetition: usize, requests: u64, expected: f64) -> Reading {
        Reading {
            case: Case::Equal,
            op: "read".to_owned(),
            code: "auto".to_owned(),
            code_used: "rs:4+2".to_owned(),
            shard_size_bytes: 1 << 20,
            file_bytes: 32 << 20,
            files: 1,
            repetition,
            peer,
            capacity_bytes: 1,
            is_asked: peer == 0,
            requests,
            served_bytes: requests << 20,
            expected_requests: expected,
            expected_bytes: expected * f64::from(1 << 20),
            placed_requests: expected,
            peers_per_file: 2.0,
            seconds: 1.0,
        }
    }

    #[test]
    fn evenness_is_relative_to_capacity() {
        let readings = [reading(0, 0, 30, 20.0), reading(1, 0, 10, 20.0)];
        let even = evenness(&readings.iter().collect());
        assert_eq!(
            (even.largest, even.deviation, even.placed_largest),
            (1.5, 0.5, 1.0)
        );
        assert_eq!(Some(even.busiest_share), Some(0.75));
        // 40 requests, p = 1/2: sqrt(0.5 / 20).
        assert!((even.by_chance - 0.158).abs() < 0.001, "{even:?}");
        let weighted = [reading(0, 0, 30, 30.0), reading(1, 0, 10, 10.0)];
        assert_eq!(Some(evenness(&weighted.iter().collect()).largest), Some(1.0));
    }

    #[test]
    fn repetitions_of_a_cell_are_averaged_and_bounded() {
        let readings = [
            reading(0, 0, 30, 20.0),
            reading(1, 0, 10, 20.0),
            reading(0, 1, 20, 20.0),
            reading(1, 1, 20, 20.0),
        ];
        let found = findings(&readings);
        let row = &found.tables[0].rows[0];
        assert_eq!(row[8], 1.25.into());
        let point = found.figures[0].series[0].points[0];
        assert_eq!((point.y, point.range), (25.0, Some((20.0, 30.0))));
        assert_eq!(found.figures[0].series[1].points[0].range, None);
    }
}
