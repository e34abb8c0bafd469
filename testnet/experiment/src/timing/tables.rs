//! What `timing` found, beside the published figures.

use mutualstore_contract::units::Size;

use super::Reading;
use super::published::{self, Published};
use crate::Findings;
use crate::findings::{Figure, Point, Series, Table, decimal, distinct, ends, grouped, median, real};

/// Readings of the same code, shards, cache, clients and files, the first for what they have in common.
struct Case<'a> {
    first: &'a Reading,
    readings: Vec<&'a Reading>,
}

impl<'a> Case<'a> {
    /// Every case with a chosen reading, in the order in which they come.
    fn all(readings: &'a [Reading], chosen: impl Fn(&Reading) -> bool) -> Vec<Self> {
        let key = |reading: &'a Reading| {
            let transfer = (reading.clients, reading.files, reading.file_bytes, reading.cache);
            let codes = (reading.code.as_str(), reading.code_used.as_str());
            (reading.peers, codes, reading.shard_size_bytes, transfer)
        };
        let groups = grouped(readings, key).into_iter().map(|(_, readings)| readings);
        let groups = groups.filter(|readings| readings.iter().any(|reading| chosen(reading)));
        let case = |readings: Vec<&'a Reading>| {
            let first = *readings.first()?;
            Some(Self { first, readings })
        };
        groups.filter_map(case).collect()
    }

    fn values(&self, op: &str, value: impl Fn(&Reading) -> f64) -> Vec<f64> {
        let of_op = self.readings.iter().filter(|reading| reading.op == op);
        of_op.map(|reading| value(reading)).collect()
    }

    fn seconds(&self, op: &str) -> Option<f64> {
        median(self.values(op, |reading| reading.seconds))
    }

    /// 10^6 bytes per second over all clients.
    fn rate(&self, op: &str) -> Option<f64> {
        let rate = |reading: &Reading| real(reading.moved_bytes) / 1e6 / reading.seconds.max(1e-9);
        median(self.values(op, rate))
    }

    fn cpu(&self, op: &str) -> Option<f64> {
        median(self.values(op, |reading| reading.daemons_cpu_seconds))
    }

    fn code(&self) -> String {
        crate::shown_code(&self.first.code, &self.first.code_used)
    }

    fn load(&self) -> String {
        let Reading {
            clients,
            files,
            file_bytes,
            ..
        } = self.first;
        format!("{clients} × {files} × {}", decimal(*file_bytes))
    }

    fn published(&self) -> Option<Published> {
        published::find(self.first.clients, self.first.files, self.first.file_bytes)
    }
}

/// Readings of whole files with the shard size that the daemon chooses.
fn of_files(reading: &Reading) -> bool {
    reading.shard_size_bytes.is_none() && !["ranges", "ranges_again"].contains(&reading.op.as_str())
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let of_files = Case::all(readings, of_files);
    let of_shards = Case::all(readings, |reading| reading.shard_size_bytes.is_some());
    let verdicts = verdicts(&of_files);
    let quickest = of_shards
        .iter()
        .filter_map(|case| Some((case.rate("get")?, case)));
    let quickest = quickest.max_by(|one, other| one.0.total_cmp(&other.0));
    Findings {
        tables: vec![
            published_table(&of_files),
            shard_table(&of_shards),
            cache_table(readings),
        ],
        figures: ["put", "get"].map(|op| sizes_figure(&of_files, op)).into(),
        notes: NOTES
            .map(str::to_owned)
            .into_iter()
            .chain(verdicts.clone())
            .collect(),
        summary: verdicts,
        advice: quickest
            .map(|(rate, case)| {
                let size = Size(case.first.shard_size_bytes.unwrap_or(0));
                format!(
                    "files come back fastest in shards of {size}: {rate:.0} MB/s as {}.",
                    case.code()
                )
            })
            .into_iter()
            .collect(),
    }
}

fn published_table(cases: &[Case<'_>]) -> Table {
    Table::of(
        "Seconds for all clients together, medians",
        cases,
        &[
            ("code", &|case| case.code().into()),
            ("clients × files", &|case| case.load().into()),
            ("put s", &|case| case.seconds("put").into()),
            ("published", &|case| {
                case.published()
                    .and_then(|published| published.put_seconds)
                    .into()
            }),
            ("get s", &|case| case.seconds("get").into()),
            ("published", &|case| {
                case.published()
                    .and_then(|published| published.get_seconds)
                    .into()
            }),
            ("get again s", &|case| case.seconds("get_again").into()),
            ("all get one s", &|case| case.seconds("get_same").into()),
            ("put MB/s", &|case| case.rate("put").into()),
            ("get MB/s", &|case| case.rate("get").into()),
        ],
    )
}

fn shard_table(cases: &[Case<'_>]) -> Table {
    Table::of(
        "Larger frames: shard size, medians",
        cases,
        &[
            ("code", &|case| case.code().into()),
            ("file", &|case| decimal(case.first.file_bytes).into()),
            ("shard", &|case| {
                Size(case.first.shard_size_bytes.unwrap_or(0)).to_string().into()
            }),
            ("put s", &|case| case.seconds("put").into()),
            ("get s", &|case| case.seconds("get").into()),
            ("put MB/s", &|case| case.rate("put").into()),
            ("get MB/s", &|case| case.rate("get").into()),
            ("daemons' CPU s, put", &|case| case.cpu("put").into()),
            ("get", &|case| case.cpu("get").into()),
        ],
    )
}

fn cache_table(readings: &[Reading]) -> Table {
    Table::of(
        "Cache: 64 KiB around every border of two shards, read twice, medians",
        Case::all(readings, |reading| reading.op == "ranges"),
        &[
            ("code", &|case| case.code().into()),
            ("cache", &|case| {
                if case.first.cache { "32 MiB" } else { "none" }.into()
            }),
            ("first s", &|case| case.seconds("ranges").into()),
            ("second s", &|case| case.seconds("ranges_again").into()),
        ],
    )
}

/// One client, one file: seconds over its size, with the published ones.
fn sizes_figure(cases: &[Case<'_>], op: &str) -> Figure {
    let alone = |case: &&Case<'_>| case.first.clients == 1 && case.first.files == 1;
    let cases: Vec<&Case<'_>> = cases.iter().filter(alone).collect();
    let point = |case: &&Case<'_>| {
        let seconds = case.values(op, |reading| reading.seconds);
        Some(Point {
            x: real(case.first.file_bytes),
            y: median(seconds.iter().copied())?,
            range: ends(&seconds),
        })
    };
    let series = |name: String| {
        let of_code = cases.iter().filter(|case| case.code() == name);
        Series::measured(name.clone(), of_code.filter_map(point))
    };
    let names = distinct(cases.iter().map(|case| case.code()));
    let published = published::TABLE.iter().filter(|published| published.clients == 1);
    let published = published.filter_map(|published| {
        let seconds = if op == "put" {
            published.put_seconds
        } else {
            published.get_seconds
        };
        Some(Point::new(real(published.file_bytes), seconds?))
    });
    Figure::new(
        format!("{op} of one file by one client"),
        ["file size, bytes", "time, seconds"],
        names
            .into_iter()
            .map(series)
            .chain([Series::reference("published", published)])
            .collect(),
    )
}

const NOTES: [&str; 3] = [
    "Published: a course project's distributed file system, on its machines; download with all its \
     optimisations.",
    "All peers and clients share this machine: every byte of every shard is sent, hashed, encrypted and \
     flushed to one disk by the same cores.",
    "Bytes are generated and compared on the way, not read from or written to a disk by the client.",
];

/// How much faster or slower than published.
fn verdicts(cases: &[Case<'_>]) -> Vec<String> {
    let verdict = |case: &Case<'_>, op: &str, theirs: Option<f64>| {
        let (ours, theirs) = (case.seconds(op)?, theirs?);
        let verdict = if ours <= theirs {
            format!("{:.1} times as fast as published", theirs / ours.max(1e-9))
        } else {
            format!("{:.1} times as slow as published", ours / theirs)
        };
        Some(format!("{} {op} of {}: {verdict}.", case.code(), case.load()))
    };
    let both = |case| {
        let published = Case::published(case)?;
        let published = [("put", published.put_seconds), ("get", published.get_seconds)];
        Some(published.map(|(op, theirs)| verdict(case, op, theirs)))
    };
    cases.iter().filter_map(both).flatten().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Datum;

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
    fn medians_of_a_load_stand_beside_the_published_ones() {
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
