//! What `churn` found, beside the bound.

use super::Reading;
use crate::Findings;
use crate::findings::{Figure, Group, Point, Series, grouped, mean, real, table};

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
    let table = table!("Files lost and bytes moved; rates in kB/s per peer", readings, |reading| {
        "code" => reading.code.as_str(),
        "session s" => reading.session_seconds,
        "repair after s" => reading.repair_delay_seconds,
        "joined" => reading.joins,
        "left" => reading.leaves,
        "killed" => reading.kills,
        "lost" => reading.files_lost,
        "of" => reading.files,
        "stored MB" => reading.stored_bytes / 1e6,
        "repaired MB" => real(reading.repair_bytes) / 1e6,
        "repaired" => per_peer(reading, real(reading.repair_bytes)),
        "sent + received" => traffic(reading),
        "bound" => bound(reading),
        "bound, as it came" => per_peer(reading, reading.bound_seen_bytes),
    });
    let delays = grouped(readings, |reading| reading.repair_delay_seconds);
    let (total, codes) = outcomes(readings);
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    notes.push(total.clone());
    notes.extend(codes.iter().map(|(.., note)| note.clone()));
    let best = codes
        .iter()
        .min_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    let advice = best.map(|(.., note)| format!("of these codes the first choice under such churn is {note}"));
    Findings {
        tables: vec![table],
        figures: delays.iter().map(figure).collect(),
        notes,
        summary: vec![total],
        advice: advice.into_iter().collect(),
    }
}

/// Traffic over session length, a line for each code, with its bound.
fn figure(delay: &Group<'_, Reading>) -> Figure {
    let codes = grouped(delay.all.iter().copied(), |reading| &reading.code);
    let both = |code: &Group<'_, Reading>| {
        let sessions = grouped(code.all.iter().copied(), |reading| reading.session_seconds);
        let points = |value: fn(&Reading) -> f64| {
            let point = |of: &Group<'_, Reading>| Some(Point::new(real(of.session_seconds), of.mean(value)?));
            sessions.iter().filter_map(point).collect::<Vec<_>>()
        };
        [
            Series::measured(&code.code, points(traffic)),
            Series::reference(format!("{}, bound", code.code), points(bound)),
        ]
    };
    Figure::new(
        format!(
            "Traffic under churn, repair after {} s",
            delay.repair_delay_seconds
        ),
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
    let files: usize = readings.iter().map(|reading| reading.files).sum();
    let lost: usize = readings.iter().map(|reading| reading.files_lost).sum();
    let gone = |reading: &Reading| reading.kills + reading.leaves;
    let gone: u64 = readings.iter().map(gone).sum();
    let total = format!("{lost} of {files} files were lost while {gone} peers went.");
    let of_code = |of_code: Group<'_, Reading>| {
        let seen = of_code
            .all
            .iter()
            .filter(|reading| reading.bound_seen_bytes > 0.0);
        let ratio = |reading: &&Reading| traffic(reading) / per_peer(reading, reading.bound_seen_bytes);
        let ratio = mean(&seen.map(ratio).collect::<Vec<_>>())?;
        let lost = of_code.all.iter().map(|reading| reading.files_lost).sum();
        let note = format!(
            "{}: {lost} files lost; traffic {ratio:.1} times the bound with the departures that happened.",
            of_code.code
        );
        Some((lost, ratio, note))
    };
    let codes = grouped(readings, |reading| &reading.code);
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
