//! What `load` found: how even, beside how even it could be.

use mutualstore_contract::units::Size;

use super::{Case, Reading};
use crate::Findings;
use crate::findings::{Figure, Group, Point, Series, Table, ends, grouped, mean, real, table};

/// The readings of all peers for one operation; several repetitions are averaged in the tables.
type Operation<'a> = Group<'a, Reading>;

/// All repetitions of an operation, and what they have in common.
struct Kind<'a> {
    of: Operation<'a>,
    repetitions: Vec<Operation<'a>>,
}

impl<'a> Kind<'a> {
    fn all(readings: &'a [Reading]) -> Vec<Self> {
        let kinds = grouped(readings, |reading| {
            let sizes = (reading.shard_size_bytes, reading.file_bytes);
            (reading.case, &reading.op, &reading.code, sizes)
        });
        let kind = |of: Operation<'a>| {
            let repetitions = grouped(of.all.iter().copied(), |reading| reading.repetition);
            Self { of, repetitions }
        };
        kinds.into_iter().map(kind).collect()
    }

    fn mean(&self, value: impl Fn(&Operation<'_>) -> f64) -> Option<f64> {
        mean(&self.repetitions.iter().map(value).collect::<Vec<_>>())
    }

    fn even(&self, value: impl Fn(Evenness) -> f64) -> Option<f64> {
        self.mean(|operation| value(evenness(operation)))
    }

    fn code(&self) -> String {
        crate::shown_code(&self.of.code, &self.of.code_used)
    }

    fn files(&self) -> String {
        let size = Size(self.of.file_bytes);
        match self.of.files {
            1 => size.to_string(),
            files => format!("{files} × {size}"),
        }
    }

    fn shard(&self) -> Size {
        Size(self.of.shard_size_bytes)
    }

    fn case(&self) -> &'static str {
        self.of.case.into()
    }

    fn is_read(&self) -> bool {
        self.of.op == "read"
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

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn evenness(operation: &Operation<'_>) -> Evenness {
    let expected = |reading: &Reading| reading.expected_requests.max(f64::MIN_POSITIVE);
    let ratios = operation.values(|reading| real(reading.requests) / expected(reading));
    let squares: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0).powi(2)).collect();
    let placed = operation.values(|reading| reading.placed_requests / expected(reading));
    let total: f64 = operation.values(|reading| reading.expected_requests).iter().sum();
    // Of a binomial count with mean e = R p: variance e (1 - p), so of its ratio to e (1 - p) / e.
    let chance = operation.mean(|reading| {
        let expected = expected(reading);
        (1.0 - expected / total.max(f64::MIN_POSITIVE)) / expected
    });
    let bytes = operation.values(|reading| real(reading.served_bytes));
    Evenness {
        largest: largest(&ratios),
        deviation: mean(&squares).unwrap_or(0.0).sqrt(),
        by_chance: chance.unwrap_or(0.0).max(0.0).sqrt(),
        placed_largest: largest(&placed),
        busiest_share: largest(&bytes) / bytes.iter().sum::<f64>().max(1.0),
    }
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let kinds = Kind::all(readings);
    let small = kinds.iter().filter(|kind| kind.of.case == Case::Small);
    let small = table!("Small files: peers that took part in one put or get", small, |kind| {
        "op" => kind.of.op.as_str(),
        "code" => kind.code(),
        "files" => kind.files(),
        "peers per file" => kind.mean(|operation| operation.peers_per_file),
    });
    let of_peers = || kinds.iter().filter(|kind| kind.of.case != Case::Single);
    let reads: Vec<&Kind<'_>> = of_peers().filter(|kind| kind.is_read()).collect();
    let judged: Vec<(bool, String)> = reads.iter().map(|kind| verdict(kind)).collect();
    let even = judged.iter().filter(|(even, _)| *even).count();
    let busiest = reads.iter().filter_map(|kind| kind.even(|even| even.largest));
    let busiest = busiest.fold(0.0, f64::max);
    let notes = NOTES.map(str::to_owned).into_iter();
    Findings {
        tables: vec![summary(&kinds), small, busiest_table(&kinds)],
        figures: of_peers().map(figure).collect(),
        notes: notes.chain(judged.iter().map(|(_, note)| note.clone())).collect(),
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
    let requests =
        |operation: &Operation<'_>| operation.all.iter().map(|reading| real(reading.requests)).sum();
    let each = |operation: &Operation<'_>| operation.mean(|reading| reading.expected_requests).unwrap_or(0.0);
    let title =
        "Requests per peer, relative to its part by capacity (equal peers: B/N); means over repetitions";
    table!(title, kinds, |kind| {
        "case" => kind.case(),
        "op" => kind.of.op.as_str(),
        "code" => kind.code(),
        "file" => kind.files(),
        "shard" => kind.shard().to_string(),
        "peers" => kind.repetitions.first().map_or(0, |operation| operation.all.len()),
        "requests" => kind.mean(requests),
        "expected each" => kind.mean(each),
        "largest" => kind.even(|even| even.largest),
        "by placement" => kind.even(|even| even.placed_largest),
        "deviation" => kind.even(|even| even.deviation),
        "by chance" => kind.even(|even| even.by_chance),
        "seconds" => kind.mean(|operation| operation.seconds),
    })
}

fn busiest_table(kinds: &[Kind<'_>]) -> Table {
    let single = |kind: &Kind<'_>| {
        let sizes = |kind: &Kind<'_>| (kind.of.file_bytes, kind.of.shard_size_bytes);
        let mut singles = kinds
            .iter()
            .filter(|other| other.of.case == Case::Single && other.is_read());
        let single = singles.find(|single| sizes(single) == sizes(kind))?;
        Some(100.0 * evenness(single.repetitions.first()?).busiest_share)
    };
    let expected = |operation: &Operation<'_>| {
        let bytes = operation.values(|reading| reading.expected_bytes);
        100.0 * largest(&bytes) / bytes.iter().sum::<f64>().max(f64::MIN_POSITIVE)
    };
    let is_shown = |kind: &&Kind<'_>| kind.is_read() && kind.of.case != Case::Small;
    let reads = kinds.iter().filter(is_shown);
    let title = "Reads: part of all bytes that the busiest peer served, beside a single server";
    table!(title, reads, |kind| {
        "case" => kind.case(),
        "code" => kind.code(),
        "file" => kind.files(),
        "shard" => kind.shard().to_string(),
        "busiest peer %" => kind.even(|even| 100.0 * even.busiest_share),
        "capacity lets expect %" => kind.mean(expected),
        "single server %" => single(kind),
    })
}

/// Requests of each peer beside what was expected.
fn figure(kind: &Kind<'_>) -> Figure {
    let peers = grouped(kind.of.all.iter().copied(), |reading| reading.peer);
    let points = |value: fn(&Reading) -> f64, ranged: bool| {
        let point = move |peer: &Group<'_, Reading>| {
            let values = peer.values(value);
            Some(Point {
                x: real(peer.peer),
                y: mean(&values)?,
                range: ends(&values).filter(|_| ranged && values.len() > 1),
            })
        };
        peers.iter().filter_map(point).collect::<Vec<_>>()
    };
    let (case, op, shard) = (kind.case(), &kind.of.op, kind.shard());
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
    let less = if is_even { "no less" } else { "less" };
    let note = format!(
        "{} read of {} as {} with shards of {}: busiest peer {:.2} times its part ({:.2} by where the \
         shards lie), {less} even than chance (deviation {deviation:.2}, by chance {chance:.2}).",
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
        let all = |readings| grouped(readings, |_| ()).remove(0);
        let even = evenness(&all(&readings));
        assert_eq!(
            (even.largest, even.deviation, even.placed_largest),
            (1.5, 0.5, 1.0)
        );
        assert_eq!(Some(even.busiest_share), Some(0.75));
        // 40 requests, p = 1/2: sqrt(0.5 / 20).
        assert!((even.by_chance - 0.158).abs() < 0.001, "{even:?}");
        let weighted = [reading(0, 0, 30, 30.0), reading(1, 0, 10, 10.0)];
        assert_eq!(Some(evenness(&all(&weighted)).largest), Some(1.0));
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
