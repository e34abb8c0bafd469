//! What `timing` found, beside the published figures.

use itertools::iproduct;
use mutualstore_contract::units::Size;

use super::Reading;
use super::published::{self, Published};
use crate::Findings;
use crate::findings::{Figure, Group, Point, Series, decimal, distinct, ends, grouped, median, real, table};

/// Readings of the same code, shards, cache, clients and files.
type Case<'a> = Group<'a, Reading>;

/// Every case with a chosen reading, in the order in which they come.
fn cases(readings: &[Reading], chosen: impl Fn(&Reading) -> bool) -> Vec<Case<'_>> {
    let mut cases = grouped(readings, |reading| {
        let transfer = (reading.clients, reading.files, reading.file_bytes, reading.cache);
        (
            reading.peers,
            &reading.code,
            &reading.code_used,
            reading.shard_size_bytes,
            transfer,
        )
    });
    cases.retain(|case| case.all.iter().any(|reading| chosen(reading)));
    cases
}

impl Case<'_> {
    fn of_op(&self, op: &str, value: impl Fn(&Reading) -> f64) -> Vec<f64> {
        let of_op = self.all.iter().filter(|reading| reading.op == op);
        of_op.map(|reading| value(reading)).collect()
    }

    fn seconds(&self, op: &str) -> Option<f64> {
        median(self.of_op(op, |reading| reading.seconds))
    }

    /// 10^6 bytes per second over all clients.
    fn rate(&self, op: &str) -> Option<f64> {
        let rate = |reading: &Reading| real(reading.moved_bytes) / 1e6 / reading.seconds.max(1e-9);
        median(self.of_op(op, rate))
    }

    fn cpu(&self, op: &str) -> Option<f64> {
        median(self.of_op(op, |reading| reading.daemons_cpu_seconds))
    }

    fn shown_code(&self) -> String {
        crate::shown_code(&self.code, &self.code_used)
    }

    fn load(&self) -> String {
        format!("{} × {} × {}", self.clients, self.files, decimal(self.file_bytes))
    }

    fn shard(&self) -> Size {
        Size(self.shard_size_bytes.unwrap_or(0))
    }

    /// What is published for an operation, seconds.
    fn published(&self, op: &str) -> Option<f64> {
        published::find(self.clients, self.files, self.file_bytes)?.seconds(op)
    }
}

/// Readings of whole files with the shard size that the daemon chooses.
fn of_files(reading: &Reading) -> bool {
    reading.shard_size_bytes.is_none() && !["ranges", "ranges_again"].contains(&reading.op.as_str())
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let of_files = cases(readings, of_files);
    let of_shards = cases(readings, |reading| reading.shard_size_bytes.is_some());
    let verdicts = verdicts(&of_files);
    let quickest = of_shards
        .iter()
        .filter_map(|case| Some((case.rate("get")?, case)));
    let quickest = quickest.max_by(|one, other| one.0.total_cmp(&other.0));
    let advice = quickest.map(|(rate, case)| {
        let (size, code) = (case.shard(), case.shown_code());
        format!("files come back fastest in shards of {size}: {rate:.0} MB/s as {code}.")
    });
    let published = table!("Seconds for all clients together, medians", &of_files, |case| {
        "code" => case.shown_code(),
        "clients × files" => case.load(),
        "put s" => case.seconds("put"),
        "published" => case.published("put"),
        "get s" => case.seconds("get"),
        "published" => case.published("get"),
        "get again s" => case.seconds("get_again"),
        "all get one s" => case.seconds("get_same"),
        "put MB/s" => case.rate("put"),
        "get MB/s" => case.rate("get"),
    });
    let shards = table!("Larger frames: shard size, medians", &of_shards, |case| {
        "code" => case.shown_code(),
        "file" => decimal(case.file_bytes),
        "shard" => case.shard().to_string(),
        "put s" => case.seconds("put"),
        "get s" => case.seconds("get"),
        "put MB/s" => case.rate("put"),
        "get MB/s" => case.rate("get"),
        "daemons' CPU s, put" => case.cpu("put"),
        "get" => case.cpu("get"),
    });
    let of_ranges = cases(readings, |reading| reading.op == "ranges");
    let title = "Cache: 64 KiB around every border of two shards, read twice, medians";
    let cache = table!(title, &of_ranges, |case| {
        "code" => case.shown_code(),
        "cache" => if case.cache { "32 MiB" } else { "none" },
        "first s" => case.seconds("ranges"),
        "second s" => case.seconds("ranges_again"),
    });
    let notes = NOTES.map(str::to_owned).into_iter();
    Findings {
        tables: vec![published, shards, cache],
        figures: ["put", "get"].map(|op| sizes_figure(&of_files, op)).into(),
        notes: notes.chain(verdicts.clone()).collect(),
        summary: verdicts,
        advice: advice.into_iter().collect(),
    }
}

/// One client, one file: seconds over its size, with the published ones.
fn sizes_figure(cases: &[Case<'_>], op: &str) -> Figure {
    let alone = |case: &&Case<'_>| case.clients == 1 && case.files == 1;
    let cases: Vec<&Case<'_>> = cases.iter().filter(alone).collect();
    let point = |case: &&Case<'_>| {
        let seconds = case.of_op(op, |reading| reading.seconds);
        Some(Point {
            x: real(case.file_bytes),
            y: median(seconds.iter().copied())?,
            range: ends(&seconds),
        })
    };
    let series = |name: String| {
        let of_code = cases.iter().filter(|case| case.shown_code() == name);
        Series::measured(name.clone(), of_code.filter_map(point))
    };
    let names = distinct(cases.iter().map(|case| case.shown_code()));
    let published = published::TABLE.iter().filter(|published| published.clients == 1);
    let point = |published: &Published| Some(Point::new(real(published.file_bytes), published.seconds(op)?));
    let published = Series::reference("published", published.filter_map(point));
    Figure::new(
        format!("{op} of one file by one client"),
        ["file size, bytes", "time, seconds"],
        names.into_iter().map(series).chain([published]).collect(),
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
    let verdict = |(case, op): (&Case<'_>, &str)| {
        let (theirs, ours) = (case.published(op)?, case.seconds(op)?);
        let verdict = if ours <= theirs {
            format!("{:.1} times as fast as published", theirs / ours.max(1e-9))
        } else {
            format!("{:.1} times as slow as published", ours / theirs)
        };
        Some(format!(
            "{} {op} of {}: {verdict}.",
            case.shown_code(),
            case.load()
        ))
    };
    iproduct!(cases, ["put", "get"]).filter_map(verdict).collect()
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
