//! What `timing` found, beside the published figures.

use mutualstore_contract::units::Size;

use super::Reading;
use super::published;
use crate::experiment::Findings;
use crate::experiment::findings::{Datum, Figure, Point, Series, Table, decimal, distinct, median};

/// Readings of the same code, shards, cache, clients and files.
#[derive(PartialEq)]
struct Case<'a>(Vec<&'a Reading>);

impl<'a> Case<'a> {
    fn of(readings: &'a [Reading], reading: &Reading) -> Self {
        let key = |reading: &Reading| Reading {
            repetition: 0,
            op: String::new(),
            seconds: 0.0,
            moved_bytes: 0,
            daemons_cpu_seconds: 0.0,
            ..reading.clone()
        };
        let wanted = key(reading);
        Self(readings.iter().filter(|reading| key(reading) == wanted).collect())
    }

    /// Every case of the chosen readings, in the order in which they come.
    fn all(readings: &'a [Reading], chosen: impl Fn(&Reading) -> bool) -> Vec<Self> {
        let chosen = readings.iter().filter(|reading| chosen(reading));
        distinct(chosen.map(|reading| Self::of(readings, reading)))
    }

    fn values(&self, op: &str, value: impl Fn(&Reading) -> f64) -> Vec<f64> {
        let of_op = self.0.iter().filter(|reading| reading.op == op);
        of_op.map(|reading| value(reading)).collect()
    }

    fn seconds(&self, op: &str) -> Option<f64> {
        median(self.values(op, |reading| reading.seconds))
    }

    fn rate(&self, op: &str) -> Option<f64> {
        median(self.values(op, rate))
    }
}

/// 10^6 bytes per second over all clients.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(reading: &Reading) -> f64 {
    reading.moved_bytes as f64 / 1e6 / reading.seconds.max(1e-9)
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let files = |reading: &Reading| {
        reading.shard_size_bytes.is_none() && reading.op != "ranges" && reading.op != "ranges_again"
    };
    Findings {
        tables: vec![
            published_table(readings, files),
            shard_table(readings),
            cache_table(readings),
        ],
        figures: vec![
            sizes_figure(readings, files, "put"),
            sizes_figure(readings, files, "get"),
        ],
        notes: notes(readings, files),
    }
}

fn published_table(readings: &[Reading], chosen: impl Fn(&Reading) -> bool) -> Table {
    let mut table = Table::new(
        "Seconds for all clients together, medians",
        [
            "code",
            "clients × files",
            "put s",
            "published",
            "get s",
            "published",
            "get again s",
            "all get one s",
            "put MB/s",
            "get MB/s",
        ],
    );
    for case in Case::all(readings, chosen) {
        let Some(first) = case.0.first() else { continue };
        let published = published::find(first.clients, first.files, first.file_bytes);
        let seconds = |op: &str| Datum::number(case.seconds(op));
        table.rows.push(vec![
            code(first).into(),
            load(first).into(),
            seconds("put"),
            Datum::number(published.and_then(|published| published.put_seconds)),
            seconds("get"),
            Datum::number(published.and_then(|published| published.get_seconds)),
            seconds("get_again"),
            seconds("get_same"),
            Datum::number(case.rate("put")),
            Datum::number(case.rate("get")),
        ]);
    }
    table
}

fn shard_table(readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Larger frames: shard size, medians",
        [
            "code",
            "file",
            "shard",
            "put s",
            "get s",
            "put MB/s",
            "get MB/s",
            "daemons' CPU s, put",
            "get",
        ],
    );
    for case in Case::all(readings, |reading| reading.shard_size_bytes.is_some()) {
        let Some(first) = case.0.first() else { continue };
        let cpu = |op: &str| Datum::number(median(case.values(op, |reading| reading.daemons_cpu_seconds)));
        table.rows.push(vec![
            code(first).into(),
            decimal(first.file_bytes).into(),
            Size(first.shard_size_bytes.unwrap_or(0)).to_string().into(),
            Datum::number(case.seconds("put")),
            Datum::number(case.seconds("get")),
            Datum::number(case.rate("put")),
            Datum::number(case.rate("get")),
            cpu("put"),
            cpu("get"),
        ]);
    }
    table
}

fn cache_table(readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Cache: 64 KiB around every border of two shards, read twice, medians",
        ["code", "cache", "first s", "second s"],
    );
    for case in Case::all(readings, |reading| reading.op == "ranges") {
        let Some(first) = case.0.first() else { continue };
        table.rows.push(vec![
            code(first).into(),
            if first.cache { "32 MiB" } else { "none" }.into(),
            Datum::number(case.seconds("ranges")),
            Datum::number(case.seconds("ranges_again")),
        ]);
    }
    table
}

fn code(reading: &Reading) -> String {
    if reading.code == reading.code_used {
        return reading.code.clone();
    }
    format!("{} ({})", reading.code, reading.code_used)
}

fn load(reading: &Reading) -> String {
    format!(
        "{} × {} × {}",
        reading.clients,
        reading.files,
        decimal(reading.file_bytes)
    )
}

/// One client, one file: seconds over its size, with the published ones.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
fn sizes_figure(readings: &[Reading], chosen: impl Fn(&Reading) -> bool, op: &str) -> Figure {
    let alone = |reading: &Reading| chosen(reading) && reading.clients == 1 && reading.files == 1;
    let cases = Case::all(readings, alone);
    let first = |case: &Case<'_>| case.0.first().map(|reading| code(reading)).unwrap_or_default();
    let series = |name: String| {
        let mut points: Vec<Point> = cases
            .iter()
            .filter(|case| first(case) == name)
            .filter_map(|case| {
                let seconds = case.values(op, |reading| reading.seconds);
                Some(Point {
                    x: case.0.first()?.file_bytes as f64,
                    y: median(seconds.iter().copied())?,
                    range: Some((
                        seconds.iter().copied().fold(f64::INFINITY, f64::min),
                        seconds.iter().copied().fold(0.0, f64::max),
                    )),
                })
            })
            .collect();
        points.sort_by(|one, other| one.x.total_cmp(&other.x));
        Series {
            name,
            is_reference: false,
            points,
        }
    };
    let mut all: Vec<Series> = distinct(cases.iter().map(first))
        .into_iter()
        .map(series)
        .collect();
    let published = published::TABLE.iter().filter(|published| published.clients == 1);
    let point = |published: &published::Published| {
        let seconds = if op == "put" {
            published.put_seconds
        } else {
            published.get_seconds
        };
        Some(Point {
            x: published.file_bytes as f64,
            y: seconds?,
            range: None,
        })
    };
    all.push(Series {
        name: "published".to_owned(),
        is_reference: true,
        points: published.filter_map(point).collect(),
    });
    Figure {
        title: format!("{op} of one file by one client"),
        x_label: "file size, bytes".to_owned(),
        y_label: "time, seconds".to_owned(),
        series: all,
    }
}

fn notes(readings: &[Reading], chosen: impl Fn(&Reading) -> bool) -> Vec<String> {
    let mut notes = vec![
        "Published: a course project's distributed file system, on its machines; download with all its \
         optimisations."
            .to_owned(),
        "All peers and clients share this machine: every byte of every shard is sent, hashed, encrypted and \
         flushed to one disk by the same cores."
            .to_owned(),
        "Bytes are generated and compared on the way, not read from or written to a disk by the client."
            .to_owned(),
    ];
    for case in Case::all(readings, &chosen) {
        let Some(first) = case.0.first() else { continue };
        let Some(published) = published::find(first.clients, first.files, first.file_bytes) else {
            continue;
        };
        for (op, theirs) in [("put", published.put_seconds), ("get", published.get_seconds)] {
            let (Some(ours), Some(theirs)) = (case.seconds(op), theirs) else {
                continue;
            };
            let verdict = if ours <= theirs {
                format!("{:.1} times as fast as published", theirs / ours.max(1e-9))
            } else {
                format!("{:.1} times as slow as published", ours / theirs)
            };
            notes.push(format!("{} {op} of {}: {verdict}.", code(first), load(first)));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(code: &str, op: &str, repetition: usize, seconds: f64) -> Reading {
        Reading {
            peers: 12,
            code: code.to_owned(),
            code_used: "rs:4+2".to_owned(),
            shard_size_bytes: None,
            cache: true,
            clients: 1,
            files: 1,
            file_bytes: 100_000_000,
            repetition,
            op: op.to_owned(),
            seconds,
            moved_bytes: 100_000_000,
            daemons_cpu_seconds: 0.1,
        }
    }

    #[test]
    fn medians_stand_beside_what_was_published() {
        let readings = [
            reading("auto", "put", 0, 1.0),
            reading("auto", "get", 0, 0.5),
            reading("auto", "put", 1, 3.0),
            reading("rs:4+2", "put", 0, 12.6),
            reading("auto", "put", 2, 2.0),
        ];
        let found = findings(&readings);
        let rows = &found.tables[0].rows;
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0][0], "auto (rs:4+2)".into());
        assert_eq!(rows[0][2..5], [2.0.into(), 6.3.into(), 0.5.into()]);
        assert_eq!(rows[1][4], Datum::Nothing);
        let put = &found.figures[0];
        assert_eq!(put.series.len(), 3);
        assert_eq!(put.series[0].points[0].range, Some((1.0, 3.0)));
        assert!(
            found
                .notes
                .iter()
                .any(|note| note == "auto (rs:4+2) put of 1 × 1 × 100 MB: 3.1 times as fast as published.")
        );
        assert!(
            found
                .notes
                .iter()
                .any(|note| note == "rs:4+2 put of 1 × 1 × 100 MB: 2.0 times as slow as published.")
        );
    }
}
