//! What `churn` found, beside the bound.

use super::Reading;
use crate::Findings;
use crate::findings::{Figure, Point, Series, Table, distinct, grouped, mean, real};

/// Bytes per second and peer, in kB.
fn per_peer(reading: &Reading, bytes: f64) -> f64 {
    bytes / 1e3 / reading.seconds.max(1e-9) / real(reading.peers.max(1))
}

fn traffic(reading: &Reading) -> f64 {
    per_peer(reading, real(reading.traffic_bytes))
}

fn bound(reading: &Reading) -> f64 {
    per_peer(reading, reading.bound_bytes)
}

pub(super) fn findings(readings: &[Reading]) -> Findings {
    let table = Table::of(
        "Files lost and bytes moved; rates in kB/s per peer",
        readings,
        &[
            ("code", &|reading| reading.code.as_str().into()),
            ("session s", &|reading| reading.session_seconds.into()),
            ("repair after s", &|reading| reading.repair_delay_seconds.into()),
            ("joined", &|reading| reading.joins.into()),
            ("left", &|reading| reading.leaves.into()),
            ("killed", &|reading| reading.kills.into()),
            ("lost", &|reading| reading.files_lost.into()),
            ("of", &|reading| reading.files.into()),
            ("stored MB", &|reading| (reading.stored_bytes / 1e6).into()),
            ("repaired MB", &|reading| {
                (real(reading.repair_bytes) / 1e6).into()
            }),
            ("repaired", &|reading| {
                per_peer(reading, real(reading.repair_bytes)).into()
            }),
            ("sent + received", &|reading| traffic(reading).into()),
            ("bound", &|reading| bound(reading).into()),
            ("bound, as it came", &|reading| {
                per_peer(reading, reading.bound_seen_bytes).into()
            }),
        ],
    );
    let delays = grouped(readings, |reading| reading.repair_delay_seconds);
    let (total, codes) = outcomes(readings);
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    notes.push(total.clone());
    notes.extend(codes.iter().map(|(.., note)| note.clone()));
    let best = codes.iter().min_by(|one, other| {
        (one.0, one.1)
            .partial_cmp(&(other.0, other.1))
            .unwrap_or(one.0.cmp(&other.0))
    });
    Findings {
        tables: vec![table],
        figures: delays
            .iter()
            .map(|(delay, chosen)| figure(chosen, *delay))
            .collect(),
        notes,
        summary: vec![total],
        advice: best
            .map(|(.., note)| format!("of these codes the first choice under such churn is {note}"))
            .into_iter()
            .collect(),
    }
}

/// Traffic over session length, a line for each code, with its bound.
fn figure(chosen: &[&Reading], delay: u64) -> Figure {
    let series = |code: &str, value: fn(&Reading) -> f64| {
        let of_code = chosen.iter().copied().filter(|reading| reading.code == code);
        let point = |(session, of): (u64, Vec<&Reading>)| {
            let values: Vec<f64> = of.into_iter().map(value).collect();
            Some(Point::new(real(session), mean(&values)?))
        };
        let sessions = grouped(of_code, |reading| reading.session_seconds);
        sessions.into_iter().filter_map(point).collect::<Vec<_>>()
    };
    let codes = distinct(chosen.iter().map(|reading| reading.code.as_str()));
    let both = |code: &&str| {
        [
            Series::measured(*code, series(code, traffic)),
            Series::reference(format!("{code}, bound"), series(code, bound)),
        ]
    };
    Figure::new(
        format!("Traffic under churn, repair after {delay} s"),
        ["mean session, seconds", "kB/s per peer, both directions"],
        codes.iter().flat_map(both).collect(),
    )
}

const NOTES: [&str; 2] = [
    "Bound: Blake and Rodrigues 2003, 2 × stored bytes per peer / session. After a kill, a code with k \
     data shards reads k for each that it rebuilds and sends one, up to k + 1 times the bound; copies, \
     and departures in order, move each shard once. What comes on top are shards that move to newcomers \
     nearer to their stripes.",
    "What a killed peer counted in its last half second is not known, and is left out.",
];

/// What became of all files in a sentence, and of each code: files lost, traffic over the bound, a sentence.
fn outcomes(readings: &[Reading]) -> (String, Vec<(usize, f64, String)>) {
    let lost = |readings: &[&Reading]| readings.iter().map(|reading| reading.files_lost).sum::<usize>();
    let all: Vec<&Reading> = readings.iter().collect();
    let files: usize = readings.iter().map(|reading| reading.files).sum();
    let gone: u64 = readings
        .iter()
        .map(|reading| reading.kills + reading.leaves)
        .sum();
    let total = format!(
        "{} of {files} files were lost while {gone} peers went.",
        lost(&all)
    );
    let of_code = |(code, of_code): (&str, Vec<&Reading>)| {
        let seen = of_code.iter().filter(|reading| reading.bound_seen_bytes > 0.0);
        let ratio = |reading: &&Reading| traffic(reading) / per_peer(reading, reading.bound_seen_bytes);
        let ratio = mean(&seen.map(ratio).collect::<Vec<_>>())?;
        let lost = lost(&of_code);
        let note = format!(
            "{code}: {lost} files lost; traffic {ratio:.1} times the bound with the departures that happened."
        );
        Some((lost, ratio, note))
    };
    let codes = grouped(readings, |reading| reading.code.as_str());
    (total, codes.into_iter().filter_map(of_code).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_peer_and_beside_their_bound() {
        let reading = Reading {
            peers: 10,
            code: "rs:4+2".to_owned(),
            session_seconds: 60,
            repair_delay_seconds: 2,
            repetition: 0,
            seconds: 30.0,
            joins: 5,
            leaves: 1,
            kills: 4,
            files: 10,
            files_lost: 1,
            stored_bytes: 15e6,
            repaired_shards: 10,
            repair_bytes: 3_000_000,
            traffic_bytes: 30_000_000,
            bound_bytes: 15e6,
            bound_seen_bytes: 15e6,
        };
        let found = findings(std::slice::from_ref(&reading));
        assert_eq!(
            found.tables[0].rows[0][10..13],
            [10.0.into(), 100.0.into(), 50.0.into()]
        );
        let point = |y| Point {
            x: 60.0,
            y,
            range: None,
        };
        assert_eq!(found.figures[0].series[0].points, [point(100.0)]);
        assert_eq!(found.figures[0].series[1].points, [point(50.0)]);
        assert!(
            found
                .notes
                .iter()
                .any(|note| note.starts_with("rs:4+2: 1 files lost; traffic 2.0 times"))
        );
    }
}
