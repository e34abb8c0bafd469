//! What `loss` found: measured beside expected, and why the two differ where they do.

mod winners;

use super::{Loss, Reading, rings};
use crate::experiment::Findings;
use crate::experiment::findings::{Datum, Figure, Point, Series, Table, distinct};

/// Of all cells, so many must lie within what 95 of 100 networks give.
const AIM: f64 = 0.9;

pub(super) fn findings(loss: &Loss, readings: &[Reading]) -> Findings {
    let mut findings = Findings {
        tables: vec![
            losses(readings),
            any(readings),
            schemes(loss, readings),
            detection(readings),
        ],
        notes: vec![verdict(readings)],
        ..Findings::default()
    };
    findings.notes.extend(deviations(readings));
    findings.notes.extend(winners::notes(readings));
    findings.notes.push(DETECTION.to_owned());
    let networks = distinct(readings.iter().map(|reading| reading.peers));
    for (kind, method, value) in FIGURES {
        let of = networks
            .iter()
            .map(|peers| curves(kind, *peers, readings, (method, value)));
        findings
            .figures
            .extend(of.filter(|figure| figure.series.iter().any(|series| !series.is_reference)));
    }
    if let Some((table, figure, note)) = rings::of_virtual_nodes(loss, readings) {
        findings.tables.push(table);
        findings.figures.push(figure);
        findings.notes.push(note);
    }
    findings
}

const DETECTION: &str = "Loss can be detected by heartbeats and inventories (small messages to each peer \
                         that may hold a shard of the stripe, all at once, believing what peers say of \
                         themselves), by audits that make holders prove what they hold (as many messages, \
                         but a part of every shard read and hashed; finds rot, not death) and by reading \
                         back (every byte of every file, and the only one that a user would call proof). The \
                         first and the last were built, because they fail in different ways: in every \
                         pattern that was killed both named the same files as the map. Their messages and \
                         bytes are those of the table, background traffic of the ring included.";

fn scheme(reading: &Reading) -> String {
    format!("{} {}", reading.code, placement(reading))
}

fn placement(reading: &Reading) -> String {
    let scope = reading
        .scope
        .as_ref()
        .map_or_else(String::new, |scope| format!("/{scope}"));
    format!("{}{scope}", reading.placement)
}

/// Counted over all patterns, or a large sample of them.
fn is_counted(reading: &Reading) -> bool {
    ["all", "sample"].contains(&reading.method.as_str())
}

fn is_inside(reading: &Reading) -> Option<bool> {
    let (lost, low, high) = (
        reading.files_lost?,
        reading.predicted_low?,
        reading.predicted_high?,
    );
    // Means of whole files, summed in another order.
    let slack = 1e-9 * lost.max(1.0);
    Some(low - slack <= lost && lost <= high + slack)
}

#[expect(clippy::cast_precision_loss, reason = "a count of files")]
fn percent(reading: &Reading, files: Option<f64>) -> Datum {
    Datum::number(files.map(|files| 100.0 * files / reading.files.max(1) as f64))
}

fn losses(readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Files that lost a fragment, %: counted over kill patterns on the recorded map, killed for real, and \
         expected",
        [
            "peers",
            "scheme",
            "dead",
            "patterns",
            "counted",
            "expected",
            "95 % from",
            "to",
            "inside",
            "killed",
            "killed patterns",
            "inside ",
            "manifests",
        ],
    );
    for counted in readings.iter().filter(|reading| is_counted(reading)) {
        let same = |other: &&Reading| {
            other.method == "killed"
                && (other.peers, other.dead) == (counted.peers, counted.dead)
                && scheme(other) == scheme(counted)
        };
        let killed = readings.iter().find(same);
        let word = |inside: Option<bool>| match inside {
            Some(true) => "yes".into(),
            Some(false) => "no".into(),
            None => Datum::Nothing,
        };
        table.rows.push(vec![
            counted.peers.into(),
            scheme(counted).into(),
            counted.dead.into(),
            counted.patterns.into(),
            percent(counted, counted.files_lost),
            percent(counted, counted.predicted),
            percent(counted, counted.predicted_low),
            percent(counted, counted.predicted_high),
            word(is_inside(counted)),
            killed.map_or(Datum::Nothing, |killed| percent(killed, killed.files_lost)),
            killed.map_or(Datum::Nothing, |killed| killed.patterns.into()),
            word(killed.and_then(is_inside)),
            percent(counted, counted.manifests_lost),
        ]);
    }
    table
}

fn any(readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Chance that any file loses a fragment, %",
        ["peers", "scheme", "dead", "files", "counted", "expected"],
    );
    for counted in readings.iter().filter(|reading| is_counted(reading)) {
        let part = |chance: Option<f64>| Datum::number(chance.map(|chance| 100.0 * chance));
        table.rows.push(vec![
            counted.peers.into(),
            scheme(counted).into(),
            counted.dead.into(),
            counted.files.into(),
            part(counted.any_lost),
            part(counted.predicted_any),
        ]);
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "a number of bytes")]
fn schemes(loss: &Loss, readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Schemes: sets of peers that hold a fragment, the groups they come from, and when loss begins",
        [
            "peers",
            "scheme",
            "copysets",
            "different files",
            "groups",
            "loses from",
            "must lose from",
            "put all s",
            "read all s",
            "memory of all daemons MB",
        ],
    );
    for cell in super::Experiment::cells(loss) {
        let of_cell = |reading: &&Reading| {
            let named = (&cell.scheme.placement, &cell.scheme.scope) == (&reading.placement, &reading.scope);
            let code = loss.code_of(&cell.scheme).map(|code| code.to_string());
            named && reading.peers == cell.peers && code.is_ok_and(|code| code == reading.code)
        };
        let of_cell: Vec<&Reading> = readings.iter().filter(of_cell).collect();
        let (Some(first), Ok(model)) = (of_cell.first(), loss.model(cell.peers, &cell.scheme)) else {
            continue;
        };
        let row = |method: &str| of_cell.iter().find(|reading| reading.method == method);
        let seconds = |method: &str| Datum::number(row(method).map(|reading| reading.seconds));
        let memory = row("get").and_then(|reading| reading.resident_bytes);
        table.rows.push(vec![
            first.peers.into(),
            scheme(first).into(),
            first.copysets.into(),
            first.file_sets.into(),
            model
                .group_sizes()
                .map_or(Datum::Nothing, |sizes| groups(sizes).into()),
            model.first_loss().into(),
            model.certain_loss().into(),
            seconds("put"),
            seconds("get"),
            Datum::number(memory.map(|bytes| bytes as f64 / 1e6)),
        ]);
    }
    table
}

/// `2 × 6`, `1 × 11 (all)`.
fn groups(sizes: &[usize]) -> String {
    let lengths = distinct(sizes.iter().copied());
    let each = lengths.iter().map(|length| {
        let count = sizes.iter().filter(|size| *size == length).count();
        format!("{count} × {length}")
    });
    let text = each.collect::<Vec<_>>().join(", ");
    if sizes.len() == 1 {
        format!("{text} (one group of all)")
    } else {
        text
    }
}

fn detection(readings: &[Reading]) -> Table {
    let mut table = Table::new(
        "Ways to detect loss, and what they cost: mean over all kills, with all files of a cell looked at",
        [
            "method",
            "kills",
            "files",
            "unreadable files",
            "seconds",
            "messages per file",
            "bytes per file",
        ],
    );
    for method in ["read", "asked", "map"] {
        let of: Vec<&Reading> = readings
            .iter()
            .filter(|reading| reading.method == method)
            .collect();
        let average = |value: fn(&Reading) -> f64| {
            let values: Vec<f64> = of.iter().map(|reading| value(reading)).collect();
            Datum::number(crate::experiment::findings::mean(&values))
        };
        table.rows.push(vec![
            method.into(),
            of.len().into(),
            of.first().map_or(Datum::Nothing, |reading| reading.files.into()),
            average(|reading| reading.unreadable.unwrap_or_default()),
            average(|reading| reading.seconds),
            per_file(&of, |reading| reading.messages),
            per_file(&of, |reading| reading.message_bytes),
        ]);
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages and bytes")]
fn per_file(readings: &[&Reading], value: fn(&Reading) -> Option<u64>) -> Datum {
    let of = readings
        .iter()
        .filter_map(|reading| Some(value(reading)? as f64 / files(reading)));
    Datum::number(crate::experiment::findings::mean(&of.collect::<Vec<_>>()))
}

#[expect(clippy::cast_precision_loss, reason = "a part")]
fn verdict(readings: &[Reading]) -> String {
    let count = |chosen: &dyn Fn(&&Reading) -> bool| {
        let verdicts: Vec<bool> = readings.iter().filter(chosen).filter_map(is_inside).collect();
        (verdicts.iter().filter(|inside| **inside).count(), verdicts.len())
    };
    let (counted, all) = count(&|reading| is_counted(reading));
    let (killed, kills) = count(&|reading| reading.method == "killed");
    let part = (counted + killed) as f64 / (all + kills).max(1) as f64;
    let aim = if part >= AIM {
        "as aimed at"
    } else {
        "fewer than the nine in ten aimed at"
    };
    format!(
        "Within the 95 % interval of the prediction: {counted} of {all} cells counted on the map and \
         {killed} of {kills} killed for real, {:.0} % together, {aim}. The interval comes from the model \
         itself: placements and patterns are drawn anew 400 times, because files are no independent trials: \
         one pattern of dead peers hits many of them or none.",
        100.0 * part
    )
}

/// Every cell outside, with what the numbers say of the reason.
#[expect(clippy::cast_precision_loss, reason = "counts of files")]
fn deviations(readings: &[Reading]) -> Vec<String> {
    let outside = readings
        .iter()
        .filter(|reading| is_inside(reading) == Some(false));
    let explain = |reading: &Reading| {
        let (lost, expected) = (
            reading.files_lost.unwrap_or_default(),
            reading.predicted.unwrap_or_default(),
        );
        let per_file = reading
            .fragments_lost
            .map(|fragments| fragments / lost.max(f64::MIN_POSITIVE));
        let why = match per_file {
            Some(per_file) => format!(
                "a file that was hit lost {per_file:.2} fragments, and where fragments overlap more than by \
                 chance, as the uneven arcs of one ring make them, fewer files are hit by the same loss of \
                 fragments, and the other way round"
            ),
            None if reading.patterns == 1 => "one pattern hits many files or none".to_owned(),
            None => format!(
                "{} patterns are few, and each hits many files or none",
                reading.patterns
            ),
        };
        let percent = |files: f64| 100.0 * files / reading.files.max(1) as f64;
        format!(
            "Outside ({}): {} peers, {}, {} dead: {:.2} % instead of {:.2} %: {why}.",
            reading.method,
            reading.peers,
            scheme(reading),
            reading.dead,
            percent(lost),
            percent(expected),
        )
    };
    outside.map(explain).collect()
}

/// A value with its interval, if a row has one.
type Value = fn(&Reading) -> Option<(f64, Option<(f64, f64)>)>;

/// Kind of figure, whether its points are rows that were `counted` or `killed`, and the point with its
/// interval.
const FIGURES: [(&str, &str, Value); 3] = [
    (
        "Files that lost a fragment, counted on the map over kill patterns",
        "counted",
        counted_point,
    ),
    (
        "Files that lost a fragment, peers killed for real",
        "killed",
        killed_point,
    ),
    ("Chance that any file loses a fragment", "counted", any_point),
];

#[expect(clippy::cast_precision_loss, reason = "a count of files")]
fn files(reading: &Reading) -> f64 {
    reading.files.max(1) as f64
}

/// Around it as far as networks of the model scatter around what the model expects.
fn counted_point(reading: &Reading) -> Option<(f64, Option<(f64, f64)>)> {
    let lost = reading.files_lost?;
    let bounds = reading
        .predicted_low
        .zip(reading.predicted_high)
        .zip(reading.predicted);
    let around = bounds.map(|((low, high), expected)| {
        let (down, up) = (high - expected, expected - low);
        (
            ((lost - down) / files(reading)).max(0.0),
            ((lost + up) / files(reading)).min(1.0),
        )
    });
    Some((lost / files(reading), around))
}

fn killed_point(reading: &Reading) -> Option<(f64, Option<(f64, f64)>)> {
    let bounds = reading.mean_low.zip(reading.mean_high);
    let around = bounds.map(|(low, high)| (low / files(reading), high / files(reading)));
    Some((reading.files_lost? / files(reading), around))
}

fn any_point(reading: &Reading) -> Option<(f64, Option<(f64, f64)>)> {
    Some((reading.any_lost?, None))
}

/// Measured points over expected curves.
fn curves(kind: &str, peers: usize, readings: &[Reading], (method, value): (&str, Value)) -> Figure {
    let is_any = kind.starts_with("Chance");
    let here = |reading: &&Reading| reading.peers == peers;
    let counted: Vec<&Reading> = readings
        .iter()
        .filter(here)
        .filter(|reading| is_counted(reading))
        .collect();
    let chosen = |reading: &&Reading| match method {
        "killed" => reading.method == "killed",
        _ => is_counted(reading),
    };
    let chosen: Vec<&Reading> = readings.iter().filter(here).filter(chosen).collect();
    let mut series = Vec::new();
    for name in distinct(counted.iter().map(|reading| scheme(reading))) {
        let expected = counted
            .iter()
            .filter(|reading| scheme(reading) == name)
            .filter_map(|reading| {
                let all = if is_any { 1.0 } else { files(reading) };
                let expected = if is_any {
                    reading.predicted_any
                } else {
                    reading.predicted
                };
                Some(point(reading.dead, (expected? / all, None)))
            });
        series.push(Series {
            name: name.clone(),
            is_reference: true,
            points: expected.collect(),
        });
        let measured = chosen.iter().filter(|reading| scheme(reading) == name);
        let measured: Vec<Point> = measured
            .filter_map(|reading| Some(point(reading.dead, value(reading)?)))
            .collect();
        if !measured.is_empty() {
            series.push(Series {
                name,
                is_reference: false,
                points: measured,
            });
        }
    }
    Figure {
        title: format!("{kind}, N = {peers}"),
        x_label: "killed at once, peers".to_owned(),
        y_label: if is_any {
            "chance, part of all patterns"
        } else {
            "lost, part of all files"
        }
        .to_owned(),
        series,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of peers")]
fn point(dead: usize, (y, range): (f64, Option<(f64, f64)>)) -> Point {
    Point {
        x: dead as f64,
        y,
        range,
    }
}
