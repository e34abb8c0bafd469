//! What `churn` found, beside the bound.

use super::Reading;
use crate::experiment::Findings;
use crate::experiment::findings::{Figure, Point, Series, Table, distinct, mean};

/// Bytes per second and peer, in kB.
#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn per_peer(reading: &Reading, bytes: f64) -> f64 {
    bytes / 1e3 / reading.seconds.max(1e-9) / reading.peers.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn traffic(reading: &Reading) -> f64 {
    per_peer(reading, reading.traffic_bytes as f64)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
pub(super) fn findings(readings: &[Reading]) -> Findings {
    let mut table = Table::new(
        "Files lost and bytes moved; rates in kB/s per peer",
        [
            "code",
            "session s",
            "repair after s",
            "joined",
            "left",
            "killed",
            "lost",
            "of",
            "stored MB",
            "repaired MB",
            "repaired",
            "sent + received",
            "bound",
            "bound, as it came",
        ],
    );
    for reading in readings {
        table.rows.push(vec![
            reading.code.as_str().into(),
            reading.session_seconds.into(),
            reading.repair_delay_seconds.into(),
            reading.joins.into(),
            reading.leaves.into(),
            reading.kills.into(),
            reading.files_lost.into(),
            reading.files.into(),
            (reading.stored_bytes / 1e6).into(),
            (reading.repair_bytes as f64 / 1e6).into(),
            per_peer(reading, reading.repair_bytes as f64).into(),
            traffic(reading).into(),
            per_peer(reading, reading.bound_bytes).into(),
            per_peer(reading, reading.bound_seen_bytes).into(),
        ]);
    }
    Findings {
        tables: vec![table],
        figures: distinct(readings.iter().map(|reading| reading.repair_delay_seconds))
            .into_iter()
            .map(|delay| figure(readings, delay))
            .collect(),
        notes: notes(readings),
    }
}

/// Traffic over session length, a line for each code, with its bound.
#[expect(clippy::cast_precision_loss, reason = "points of a figure")]
fn figure(readings: &[Reading], delay: u64) -> Figure {
    let chosen: Vec<&Reading> = readings
        .iter()
        .filter(|reading| reading.repair_delay_seconds == delay)
        .collect();
    let sessions = {
        let mut sessions = distinct(chosen.iter().map(|reading| reading.session_seconds));
        sessions.sort_unstable();
        sessions
    };
    let series = |code: &str, name: String, is_reference, value: &dyn Fn(&Reading) -> f64| Series {
        name,
        is_reference,
        points: sessions
            .iter()
            .filter_map(|session| {
                let of = chosen
                    .iter()
                    .filter(|reading| reading.code == code && reading.session_seconds == *session);
                let values: Vec<f64> = of.map(|reading| value(reading)).collect();
                Some(Point {
                    x: *session as f64,
                    y: mean(&values)?,
                    range: None,
                })
            })
            .collect(),
    };
    let codes = distinct(chosen.iter().map(|reading| reading.code.as_str()));
    let both = |code: &&str| {
        [
            series(code, (*code).to_owned(), false, &traffic),
            series(code, format!("{code}, bound"), true, &|reading| {
                per_peer(reading, reading.bound_bytes)
            }),
        ]
    };
    Figure {
        title: format!("Traffic under churn, repair after {delay} s"),
        x_label: "mean session, seconds".to_owned(),
        y_label: "kB/s per peer, both directions".to_owned(),
        series: codes.iter().flat_map(both).collect(),
    }
}

fn notes(readings: &[Reading]) -> Vec<String> {
    let mut notes = vec![
        "Bound: Blake and Rodrigues 2003, 2 × stored bytes per peer / session. After a kill, a code with k \
         data shards reads k for each that it rebuilds and sends one, up to k + 1 times the bound; copies, \
         and departures in order, move each shard once. What comes on top are shards that move to newcomers \
         nearer to their stripes."
            .to_owned(),
        "What a killed peer counted in its last half second is not known, and is left out.".to_owned(),
    ];
    let lost: usize = readings.iter().map(|reading| reading.files_lost).sum();
    let files: usize = readings.iter().map(|reading| reading.files).sum();
    let gone: u64 = readings
        .iter()
        .map(|reading| reading.kills + reading.leaves)
        .sum();
    notes.push(format!(
        "{lost} of {files} files were lost while {gone} peers went."
    ));
    for code in distinct(readings.iter().map(|reading| reading.code.as_str())) {
        let of_code: Vec<&Reading> = readings.iter().filter(|reading| reading.code == code).collect();
        let seen = of_code.iter().filter(|reading| reading.bound_seen_bytes > 0.0);
        let ratios: Vec<f64> = seen
            .map(|reading| traffic(reading) / per_peer(reading, reading.bound_seen_bytes))
            .collect();
        let lost: usize = of_code.iter().map(|reading| reading.files_lost).sum();
        if let Some(ratio) = mean(&ratios) {
            notes.push(format!(
                "{code}: {lost} files lost; traffic {ratio:.1} times the bound with the departures that \
                 happened."
            ));
        }
    }
    notes
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
