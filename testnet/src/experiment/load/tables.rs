//! What `load` found: how even, beside how even it could be.

use mutualstore_contract::units::Size;

use super::{Case, Reading};
use crate::experiment::Findings;
use crate::experiment::findings::{Datum, Figure, Point, Series, Table, distinct, mean};

/// The readings of all peers for one operation; several repetitions are averaged in the tables.
type Operation<'a> = Vec<&'a Reading>;

/// What is the same in all repetitions of an operation.
fn key(reading: &Reading) -> (Case, &str, &str, u64, u64) {
    (
        reading.case,
        &reading.op,
        &reading.code,
        reading.shard_size_bytes,
        reading.file_bytes,
    )
}

/// By kind, then by repetition.
fn operations(readings: &[Reading]) -> Vec<Vec<Operation<'_>>> {
    let kinds = distinct(readings.iter().map(key));
    let of_kind = |kind: (Case, &str, &str, u64, u64)| {
        let all: Vec<&Reading> = readings.iter().filter(|reading| key(reading) == kind).collect();
        let repetitions = distinct(all.iter().map(|reading| reading.repetition));
        let one = |number: usize| {
            all.iter()
                .filter(|reading| reading.repetition == number)
                .copied()
                .collect()
        };
        repetitions.into_iter().map(one).collect()
    };
    kinds.into_iter().map(of_kind).collect()
}

/// How unequally peers were loaded in one operation, each relative to what its capacity lets expect.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Evenness {
    /// Of the busiest peer.
    largest: f64,
    /// Standard deviation of all.
    deviation: f64,
    /// The standard deviation if every request went to a peer drawn by capacity, independently.
    by_chance: f64,
    /// The largest by where the shards lie, if holders of a stripe served equally often.
    placed_largest: f64,
    /// Part of all bytes that the busiest peer moved.
    busiest_share: f64,
}

#[expect(clippy::cast_precision_loss, reason = "ratios")]
fn evenness(operation: &Operation<'_>) -> Evenness {
    let ratio =
        |reading: &&Reading| reading.requests as f64 / reading.expected_requests.max(f64::MIN_POSITIVE);
    let ratios: Vec<f64> = operation.iter().map(ratio).collect();
    let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let squares: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0).powi(2)).collect();
    let placed: Vec<f64> = operation
        .iter()
        .map(|reading| reading.placed_requests / reading.expected_requests.max(f64::MIN_POSITIVE))
        .collect();
    let total: f64 = operation.iter().map(|reading| reading.expected_requests).sum();
    // Of a binomial count with mean e = R p: variance e (1 - p), so of its ratio to e (1 - p) / e.
    let chance: Vec<f64> = operation
        .iter()
        .map(|reading| {
            let expected = reading.expected_requests.max(f64::MIN_POSITIVE);
            (1.0 - expected / total.max(f64::MIN_POSITIVE)) / expected
        })
        .collect();
    let bytes: u64 = operation.iter().map(|reading| reading.served_bytes).sum();
    let busiest = operation
        .iter()
        .map(|reading| reading.served_bytes)
        .max()
        .unwrap_or(0);
    Evenness {
        largest: largest(&ratios),
        deviation: mean(&squares).unwrap_or(0.0).sqrt(),
        by_chance: mean(&chance).unwrap_or(0.0).max(0.0).sqrt(),
        placed_largest: largest(&placed),
        busiest_share: busiest as f64 / bytes.max(1) as f64,
    }
}

fn mean_of(operations: &[Operation<'_>], value: impl Fn(&Operation<'_>) -> f64) -> Datum {
    let values: Vec<f64> = operations.iter().map(value).collect();
    Datum::number(mean(&values))
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let operations = operations(readings);
    Findings {
        tables: vec![summary(&operations), small(&operations), busiest(&operations)],
        figures: figures(&operations),
        notes: notes(&operations),
    }
}

#[expect(clippy::cast_precision_loss, reason = "totals for people")]
fn summary(operations: &[Vec<Operation<'_>>]) -> Table {
    let mut table = Table::new(
        "Requests per peer, relative to its part by capacity (equal peers: B/N); means over repetitions",
        [
            "case",
            "op",
            "code",
            "file",
            "shard",
            "peers",
            "requests",
            "expected each",
            "largest",
            "by placement",
            "deviation",
            "by chance",
            "seconds",
        ],
    );
    for kind in operations {
        let Some(first) = kind.first().and_then(|operation| operation.first()) else {
            continue;
        };
        let requests =
            |operation: &Operation<'_>| operation.iter().map(|reading| reading.requests).sum::<u64>() as f64;
        let each = |operation: &Operation<'_>| {
            let expected: f64 = operation.iter().map(|reading| reading.expected_requests).sum();
            expected / operation.len().max(1) as f64
        };
        let peers = kind.first().map_or(0, Vec::len);
        table.rows.push(vec![
            first.case.as_str().into(),
            first.op.as_str().into(),
            code(first).into(),
            files(first).into(),
            Size(first.shard_size_bytes).to_string().into(),
            peers.into(),
            mean_of(kind, requests),
            mean_of(kind, each),
            mean_of(kind, |operation| evenness(operation).largest),
            mean_of(kind, |operation| evenness(operation).placed_largest),
            mean_of(kind, |operation| evenness(operation).deviation),
            mean_of(kind, |operation| evenness(operation).by_chance),
            mean_of(kind, |operation| {
                operation.first().map_or(0.0, |reading| reading.seconds)
            }),
        ]);
    }
    table
}

fn small(operations: &[Vec<Operation<'_>>]) -> Table {
    let mut table = Table::new(
        "Small files: peers that took part in one put or get",
        ["op", "code", "files", "peers per file"],
    );
    for kind in operations {
        let Some(first) = kind.first().and_then(|operation| operation.first()) else {
            continue;
        };
        if first.case == Case::Small {
            table.rows.push(vec![
                first.op.as_str().into(),
                code(first).into(),
                files(first).into(),
                mean_of(kind, |operation| {
                    operation.first().map_or(0.0, |reading| reading.peers_per_file)
                }),
            ]);
        }
    }
    table
}

fn busiest(operations: &[Vec<Operation<'_>>]) -> Table {
    let mut table = Table::new(
        "Reads: part of all bytes that the busiest peer served, beside a single server",
        [
            "case",
            "code",
            "file",
            "shard",
            "busiest peer %",
            "capacity lets expect %",
            "single server %",
        ],
    );
    let reads = |kind: &&Vec<Operation<'_>>| {
        let first = kind.first().and_then(|operation| operation.first());
        first.is_some_and(|reading| reading.op == "read" && reading.case != Case::Small)
    };
    for kind in operations.iter().filter(reads) {
        let Some(first) = kind.first().and_then(|operation| operation.first()) else {
            continue;
        };
        let single = operations.iter().flatten().find(|operation| {
            operation.first().is_some_and(|reading| {
                let same = (reading.file_bytes, reading.shard_size_bytes)
                    == (first.file_bytes, first.shard_size_bytes);
                reading.case == Case::Single && reading.op == "read" && same
            })
        });
        let expected = |operation: &Operation<'_>| {
            let all: f64 = operation.iter().map(|reading| reading.expected_bytes).sum();
            let most = operation
                .iter()
                .map(|reading| reading.expected_bytes)
                .fold(0.0, f64::max);
            100.0 * most / all.max(f64::MIN_POSITIVE)
        };
        table.rows.push(vec![
            first.case.as_str().into(),
            code(first).into(),
            files(first).into(),
            Size(first.shard_size_bytes).to_string().into(),
            mean_of(kind, |operation| 100.0 * evenness(operation).busiest_share),
            mean_of(kind, expected),
            Datum::number(single.map(|operation| 100.0 * evenness(operation).busiest_share)),
        ]);
    }
    table
}

/// One figure per kind of operation on several peers: requests of each peer beside what was expected.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
fn figures(operations: &[Vec<Operation<'_>>]) -> Vec<Figure> {
    let figure = |kind: &Vec<Operation<'_>>| {
        let first = *kind.first()?.first()?;
        if first.case == Case::Single {
            return None;
        }
        let peers = distinct(kind.iter().flatten().map(|reading| reading.peer));
        let series = |name: &str, is_reference, value: &dyn Fn(&Reading) -> f64| Series {
            name: name.to_owned(),
            is_reference,
            points: peers
                .iter()
                .filter_map(|peer| {
                    let of_peer = kind.iter().flatten().filter(|reading| reading.peer == *peer);
                    let values: Vec<f64> = of_peer.map(|reading| value(reading)).collect();
                    let ends = values
                        .iter()
                        .fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
                            (low.min(*value), high.max(*value))
                        });
                    Some(Point {
                        x: *peer as f64,
                        y: mean(&values)?,
                        range: (!is_reference && values.len() > 1).then_some(ends),
                    })
                })
                .collect(),
        };
        Some(Figure {
            title: format!(
                "{} {} {}, {}, shards of {}",
                first.case.as_str(),
                first.op,
                code(first),
                files(first),
                Size(first.shard_size_bytes)
            ),
            x_label: "peer".to_owned(),
            y_label: "requests".to_owned(),
            series: vec![
                series("measured", false, &|reading| reading.requests as f64),
                series("by capacity", true, &|reading| reading.expected_requests),
                series("by placement", true, &|reading| reading.placed_requests),
            ],
        })
    };
    operations.iter().filter_map(figure).collect()
}

fn notes(operations: &[Vec<Operation<'_>>]) -> Vec<String> {
    let mut notes = vec![
        "By capacity: the peer's part of the live capacity. By placement: if all holders of a stripe served \
         it equally often; what exceeds it comes from which holder is asked, what it exceeds 1 by from where \
         the stripes lie."
            .to_owned(),
        "By chance: the deviation if every request went to a peer drawn independently, by capacity."
            .to_owned(),
    ];
    for kind in operations {
        let Some(first) = kind.first().and_then(|operation| operation.first()) else {
            continue;
        };
        if first.op != "read" || first.case == Case::Single {
            continue;
        }
        let values = |value: fn(&Evenness) -> f64| {
            let all: Vec<f64> = kind.iter().map(|operation| value(&evenness(operation))).collect();
            mean(&all).unwrap_or(0.0)
        };
        let (deviation, chance) = (values(|even| even.deviation), values(|even| even.by_chance));
        let verdict = if deviation <= 1.5 * chance {
            "no less even than chance"
        } else {
            "less even than chance"
        };
        notes.push(format!(
            "{} read of {} as {} with shards of {}: busiest peer {:.2} times its part ({:.2} by where the \
             shards lie), {verdict} (deviation {deviation:.2}, by chance {chance:.2}).",
            first.case.as_str(),
            files(first),
            code(first),
            Size(first.shard_size_bytes),
            values(|even| even.largest),
            values(|even| even.placed_largest),
        ));
    }
    notes
}

fn code(reading: &Reading) -> String {
    if reading.code == reading.code_used {
        return reading.code.clone();
    }
    format!("{} ({})", reading.code, reading.code_used)
}

fn files(reading: &Reading) -> String {
    match reading.files {
        1 => Size(reading.file_bytes).to_string(),
        files => format!("{files} × {}", Size(reading.file_bytes)),
    }
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
    fn repetitions_are_averaged_and_bounded() {
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
