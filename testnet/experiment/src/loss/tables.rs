//! What `loss` found: measured beside expected, and why the two differ where they do.

mod winners;

use itertools::Itertools;

use super::{Loss, Reading, rings};
use crate::findings::{Figure, Group, Point, Series, Table, distinct, grouped, mean, real, table};
use crate::{Experiment, Findings};

/// Of all cells, so many must lie within what 95 of 100 networks give.
const AIM: f64 = 0.9;

pub(super) fn findings(loss: &Loss, readings: &[Reading]) -> Findings {
    let verdict = verdict(readings);
    let mut findings = Findings {
        tables: vec![
            losses(readings),
            any(readings),
            schemes(loss, readings),
            detection(readings),
        ],
        notes: vec![verdict.clone()],
        summary: vec![verdict],
        advice: winners::advice(readings),
        ..Findings::default()
    };
    let winners = winners::notes(readings);
    findings.notes.extend(deviations(readings));
    findings.notes.extend(winners.iter().cloned());
    findings.summary.extend(winners.into_iter().take(1));
    findings.notes.push(DETECTION.to_owned());
    let networks = distinct(readings.iter().map(|reading| reading.peers));
    for kind in FIGURES {
        let figures = networks.iter().map(|peers| kind.figure(*peers, readings));
        let measured = |figure: &Figure| figure.series.iter().any(|series| !series.is_reference);
        findings.figures.extend(figures.filter(measured));
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
    match &reading.scope {
        Some(scope) => format!("{}/{scope}", reading.placement),
        None => reading.placement.clone(),
    }
}

/// Counted over all patterns, or a large sample of them.
fn is_counted(reading: &Reading) -> bool {
    ["all", "sample"].contains(&reading.method.as_str())
}

fn is_inside(reading: &Reading) -> Option<bool> {
    let lost = reading.files_lost?;
    // Means of whole files, summed in another order.
    let slack = 1e-9 * lost.max(1.0);
    Some(reading.predicted_low? - slack <= lost && lost <= reading.predicted_high? + slack)
}

fn files(reading: &Reading) -> f64 {
    real(reading.files.max(1))
}

fn percent(reading: &Reading, files_lost: Option<f64>) -> Option<f64> {
    Some(100.0 * files_lost? / files(reading))
}

fn is_killed(reading: &Reading) -> bool {
    reading.method == "killed"
}

fn losses(readings: &[Reading]) -> Table {
    let counted = readings.iter().filter(|reading| is_counted(reading));
    let with_killed = counted.map(|counted| {
        let key = |reading: &Reading| (reading.peers, reading.dead, scheme(reading));
        let mut killed = readings.iter().filter(|reading| is_killed(reading));
        (counted, killed.find(|killed| key(killed) == key(counted)))
    });
    let word = |inside: Option<bool>| inside.map(|inside| if inside { "yes" } else { "no" });
    let title = "Files that lost a fragment, %: counted over kill patterns on the recorded map, killed for \
                 real, and expected";
    table!(title, with_killed, |(counted, killed)| {
        "peers" => counted.peers,
        "scheme" => scheme(counted),
        "dead" => counted.dead,
        "patterns" => counted.patterns,
        "counted" => percent(counted, counted.files_lost),
        "expected" => percent(counted, counted.predicted),
        "95 % from" => percent(counted, counted.predicted_low),
        "to" => percent(counted, counted.predicted_high),
        "inside" => word(is_inside(counted)),
        "killed" => killed.and_then(|killed| percent(killed, killed.files_lost)),
        "killed patterns" => killed.map(|killed| killed.patterns),
        "inside " => word(killed.and_then(is_inside)),
        "manifests" => percent(counted, counted.manifests_lost),
    })
}

fn any(readings: &[Reading]) -> Table {
    let part = |chance: Option<f64>| chance.map(|chance| 100.0 * chance);
    let counted = readings.iter().filter(|reading| is_counted(reading));
    table!("Chance that any file loses a fragment, %", counted, |counted| {
        "peers" => counted.peers,
        "scheme" => scheme(counted),
        "dead" => counted.dead,
        "files" => counted.files,
        "counted" => part(counted.any_lost),
        "expected" => part(counted.predicted_any),
    })
}

fn schemes(loss: &Loss, readings: &[Reading]) -> Table {
    let of_schemes = grouped(readings, |reading| (reading.peers, scheme(reading)));
    let cells = loss.cells().into_iter().filter_map(|cell| {
        let code = loss.code_of(&cell.scheme).ok()?.to_string();
        let of_cell = |group: &&Group<'_, Reading>| {
            let named = (&cell.scheme.placement, &cell.scheme.scope) == (&group.placement, &group.scope);
            named && group.peers == cell.peers && code == group.code
        };
        Some((
            of_schemes.iter().find(of_cell)?,
            loss.model(cell.peers, &cell.scheme).ok()?,
        ))
    });
    let of = |rows: &Group<'_, Reading>, method: &str, value: fn(&Reading) -> Option<f64>| {
        let row = rows.all.iter().find(|reading| reading.method == method);
        row.and_then(|reading| value(reading))
    };
    let memory = |reading: &Reading| Some(real(reading.resident_bytes?) / 1e6);
    let title =
        "Schemes: sets of peers that hold a fragment, the groups they come from, and when loss begins";
    table!(title, cells, |(rows, model)| {
        "peers" => rows.peers,
        "scheme" => scheme(rows),
        "copysets" => rows.copysets,
        "different files" => rows.file_sets,
        "groups" => model.group_sizes().map(|sizes| groups(&sizes)),
        "loses from" => model.first_loss(),
        "must lose from" => model.certain_loss(),
        "put all s" => of(rows, "put", |reading| Some(reading.seconds)),
        "read all s" => of(rows, "get", |reading| Some(reading.seconds)),
        "memory of all daemons MB" => of(rows, "get", memory),
    })
}

/// `2 × 6`, `1 × 11 (one group of all)`.
fn groups(sizes: &[usize]) -> String {
    let each = grouped(sizes, |size| *size);
    let shown = |same: &Group<'_, usize>| format!("{} × {}", same.all.len(), **same);
    let text = each.iter().map(shown).join(", ");
    let alone = if sizes.len() == 1 {
        " (one group of all)"
    } else {
        ""
    };
    text + alone
}

fn detection(readings: &[Reading]) -> Table {
    let methods = ["read", "asked", "map"].map(|method| {
        let of = readings.iter().filter(|reading| reading.method == method);
        (method, of.collect::<Vec<&Reading>>())
    });
    let average = |of: &[&Reading], value: fn(&Reading) -> Option<f64>| {
        mean(&of.iter().filter_map(|reading| value(reading)).collect::<Vec<_>>())
    };
    let title =
        "Ways to detect loss, and what they cost: mean over all kills, with all files of a cell looked at";
    table!(title, methods, |(method, of)| {
        "method" => *method,
        "kills" => of.len(),
        "files" => of.first().map(|reading| reading.files),
        "unreadable files" => average(of, |reading| Some(reading.unreadable.unwrap_or(0.0))),
        "seconds" => average(of, |reading| Some(reading.seconds)),
        "messages per file" => average(of, |reading| Some(real(reading.messages?) / files(reading))),
        "bytes per file" => average(of, |reading| Some(real(reading.message_bytes?) / files(reading))),
    })
}

fn verdict(readings: &[Reading]) -> String {
    let count = |chosen: fn(&Reading) -> bool| {
        let chosen = readings.iter().filter(|reading| chosen(reading));
        let verdicts: Vec<bool> = chosen.filter_map(is_inside).collect();
        (verdicts.iter().filter(|inside| **inside).count(), verdicts.len())
    };
    let (counted, all) = count(is_counted);
    let (killed, kills) = count(is_killed);
    let part = real(counted + killed) / real((all + kills).max(1));
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
fn deviations(readings: &[Reading]) -> Vec<String> {
    let is_outside = |reading: &&Reading| is_inside(reading) == Some(false);
    let explain = |reading: &Reading| {
        let lost = reading.files_lost.unwrap_or_default();
        let why = match reading.fragments_lost {
            Some(fragments) => format!(
                "a file that was hit lost {:.2} fragments, and where fragments overlap more than by \
                 chance, as the uneven arcs of one ring make them, fewer files are hit by the same loss of \
                 fragments, and the other way round",
                fragments / lost.max(f64::MIN_POSITIVE)
            ),
            None if reading.patterns == 1 => "one pattern hits many files or none".to_owned(),
            None => format!(
                "{} patterns are few, and each hits many files or none",
                reading.patterns
            ),
        };
        format!(
            "Outside ({}): {} peers, {}, {} dead: {:.2} % instead of {:.2} %: {why}.",
            reading.method,
            reading.peers,
            scheme(reading),
            reading.dead,
            100.0 * lost / files(reading),
            percent(reading, reading.predicted).unwrap_or_default(),
        )
    };
    readings.iter().filter(is_outside).map(explain).collect()
}

/// A measured value with its interval, if it has one.
type Measured = (f64, Option<(f64, f64)>);

/// A kind of figure: measured points over expected curves.
struct Kind {
    title: &'static str,
    y_label: &'static str,
    /// Whether a reading makes a point.
    is_measured: fn(&Reading) -> bool,
    measured: fn(&Reading) -> Option<Measured>,
    expected: fn(&Reading) -> Option<f64>,
}

const LOST: &str = "lost, part of all files";
const FIGURES: [Kind; 3] = [
    Kind {
        title: "Files that lost a fragment, counted on the map over kill patterns",
        y_label: LOST,
        is_measured: is_counted,
        measured: counted_part,
        expected: |reading| Some(reading.predicted? / files(reading)),
    },
    Kind {
        title: "Files that lost a fragment, peers killed for real",
        y_label: LOST,
        is_measured: is_killed,
        measured: |reading| {
            let bounds = reading.mean_low.zip(reading.mean_high);
            let around = bounds.map(|(low, high)| (low / files(reading), high / files(reading)));
            Some((reading.files_lost? / files(reading), around))
        },
        expected: |reading| Some(reading.predicted? / files(reading)),
    },
    Kind {
        title: "Chance that any file loses a fragment",
        y_label: "chance, part of all patterns",
        is_measured: is_counted,
        measured: |reading| Some((reading.any_lost?, None)),
        expected: |reading| reading.predicted_any,
    },
];

/// Around it as far as networks of the model scatter around what the model expects.
fn counted_part(reading: &Reading) -> Option<Measured> {
    let lost = reading.files_lost?;
    let part = |lost: f64| (lost / files(reading)).clamp(0.0, 1.0);
    let around = || {
        let (low, high) = (reading.predicted_low?, reading.predicted_high?);
        let expected = reading.predicted?;
        Some((part(lost - (high - expected)), part(lost + (expected - low))))
    };
    Some((lost / files(reading), around()))
}

impl Kind {
    fn figure(&self, peers: usize, readings: &[Reading]) -> Figure {
        let here = readings.iter().filter(|reading| reading.peers == peers);
        let mut schemes = grouped(here, scheme);
        schemes.retain(|of| of.all.iter().any(|reading| is_counted(reading)));
        let both = schemes.iter().flat_map(|of| {
            let expected = |reading: &&Reading| {
                let y = (self.expected)(reading).filter(|_| is_counted(reading))?;
                Some(Point::new(real(reading.dead), y))
            };
            let measured = |reading: &&Reading| {
                let (y, range) = (self.measured)(reading).filter(|_| (self.is_measured)(reading))?;
                let x = real(reading.dead);
                Some(Point { x, y, range })
            };
            [
                Series::reference(scheme(of), of.all.iter().filter_map(expected)),
                Series::measured(scheme(of), of.all.iter().filter_map(measured)),
            ]
        });
        let both = both.filter(|series| series.is_reference || !series.points.is_empty());
        Figure::new(
            format!("{}, N = {peers}", self.title),
            ["killed at once, peers", self.y_label],
            both.collect(),
        )
    }
}
