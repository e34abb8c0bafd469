//! The report of a run: what the experiments found as one page for people, `report.html` and `report.md`,
//! with figures.
//!
//! Set-up, then for each experiment what was asked, what was expected, tables, figures, and the notes that
//! were made from the numbers. Nothing is computed here.

use std::path::Path;

use super::findings::{self, Datum};
use super::{ExperimentError, Options, Outcome};
use crate::report::{
    Axis, Figure, Histogram, Panel, Point, Report, Scale, Section, Series, Spread, Table, WriteError, Written,
};

/// Panels in one figure, at most: beyond, they get too small to read.
const PANELS: usize = 12;
/// Values that reach over so many times the least are drawn on a logarithmic axis.
const DECADES: f64 = 50.0;
/// What comes first in every legend.
const SERIES: [&str; 5] = [
    "copies:3 random",
    "copies:3 copysets",
    "copies:3 buddies",
    "copies:3 successors",
    "copies:3 copysets/fragment",
];

/// Writes the report of these experiments into the directory of results. `command` made it.
pub fn publish(outcomes: &[Outcome], options: &Options, command: &str) -> Result<Written, ExperimentError> {
    let report = report(outcomes, options, command);
    report
        .write(&options.out)
        .map_err(|error| refused(error, &options.out))
}

fn refused(error: WriteError, out: &Path) -> ExperimentError {
    ExperimentError::out(out)(std::io::Error::other(error))
}

fn report(outcomes: &[Outcome], options: &Options, command: &str) -> Report {
    let quick = outcomes.iter().any(|outcome| outcome.quick);
    let title = if quick {
        "Placement and redundancy, measured on real daemons (quick run: less of everything)"
    } else {
        "Placement and redundancy, measured on real daemons"
    };
    let cells: usize = outcomes.iter().map(|outcome| outcome.cells).sum();
    let mut report = Report::new(title)
        .series_order(SERIES)
        .setup("Command", format!("`{command}`"))
        .setup("Program", concat!("mutualstore ", env!("CARGO_PKG_VERSION")))
        .setup("Processors", processors())
        .setup(
            "Network",
            "all daemons on one machine, TCP over loopback, one process each",
        )
        .setup("Seed", options.seed.to_string())
        .setup("Cells", cells.to_string());
    if !options.flags.is_empty() {
        report = report.setup("Flags of every daemon", options.flags.join(" "));
    }
    for outcome in outcomes {
        // Of several experiments each has a command of its own; one alone was given it.
        let own = match outcomes {
            [_] => command.to_owned(),
            _ => again(outcome, options),
        };
        report = report.section(section(outcome, &own));
    }
    report
}

fn processors() -> String {
    std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |count| count.to_string())
}

/// What an experiment is about: heading, and what to know before the numbers.
fn about(name: &str) -> (&'static str, &'static [&'static str]) {
    match name {
        "loss" => (
            "Loss when peers die together",
            &[
                "Files are stored under each scheme, then peers are killed by SIGKILL, with repair off. What \
                 is lost is counted by reading every file back through survivors, by asking inventories and \
                 locators, and on the recorded map of shards; all three must name the same files. The map \
                 then stands in for kill patterns that were not carried out: all of them, or a large sample.",
                "Expected: a fragment on n peers of which more than m are among the s dead is lost with the \
                 tail of a hypergeometric distribution, for copies C(s,k) / C(N,k), whatever the policy. \
                 Policies differ in how fragments of a file, and files, share their holders. *random* \
                 spreads the risk: many files lose a little chance each, and with enough files some loss is \
                 nearly certain. *copysets* gather it: loss is rare, and then large. *buddies* lie between.",
                "Error bars: where 95 of 100 networks of this scheme lie around the value, by the model; \
                 where peers were killed, the 95 % confidence interval of the mean over the patterns, which \
                 are the units of the sample.",
            ],
        ),
        "ingest" => (
            "Time to full redundancy, and to download",
            &[
                "From the first byte received to n durable shards, and from the request to the last byte, \
                 per policy, beside what links of a given rate let expect.",
            ],
        ),
        "load" => (
            "Load per peer",
            &[
                "Which peers serve how many requests and bytes while one client writes and reads a file; B \
                 blocks on N equal peers should be served in parts of B/N, on unequal ones by capacity. A \
                 single server bears all of it.",
            ],
        ),
        "churn" => (
            "Churn",
            &[
                "Peers join, leave and are killed as a Poisson process. Expected: the bound of Blake and \
                 Rodrigues 2003; a peer that stores b bytes and stays for T seconds costs the network 2 b / \
                 T bytes per second, in and out.",
            ],
        ),
        "timing" => (
            "Timing",
            &[
                "The tables of file-system course projects on our system. Published figures come from other \
                 machines and stand beside ours for orientation.",
            ],
        ),
        _ => ("Further measurements", &[]),
    }
}

fn section(outcome: &Outcome, command: &str) -> Section {
    let (heading, paragraphs) = about(outcome.experiment);
    let mut section = Section::new(heading);
    for paragraph in paragraphs {
        section = section.paragraph(paragraph.replace('*', ""));
    }
    section = section.table(parameters(outcome));
    for figure in figures(outcome, command) {
        section = section.figure(figure);
    }
    for table in outcome
        .findings
        .tables
        .iter()
        .filter(|table| !table.rows.is_empty())
    {
        section = section.table(converted(table));
    }
    if outcome.findings.notes.is_empty() {
        return section;
    }
    section.section(Section::new("Discussion").list(outcome.findings.notes.clone()))
}

/// The command that measures this experiment again.
fn again(outcome: &Outcome, options: &Options) -> String {
    let quick = if outcome.quick { " --quick" } else { "" };
    format!(
        "mutualstore testnet experiment {}{quick} --seed {}",
        outcome.experiment, options.seed
    )
}

fn parameters(outcome: &Outcome) -> Table {
    let mut table = Table::new("Parameters").text("parameter").text("value");
    let fields = outcome.parameters.as_object();
    for (name, value) in fields.into_iter().flatten() {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(items) => {
                let item =
                    |item: &serde_json::Value| item.as_str().map_or_else(|| scheme(item), str::to_owned);
                items.iter().map(item).collect::<Vec<_>>().join(", ")
            }
            other @ (serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Object(_)) => other.to_string(),
        };
        table = table.row([name.replace('_', " "), text]);
    }
    table
}

/// An object as its values.
fn scheme(value: &serde_json::Value) -> String {
    let Some(fields) = value.as_object() else {
        return value.to_string();
    };
    let texts = fields.values().filter_map(serde_json::Value::as_str);
    texts.collect::<Vec<_>>().join(" ")
}

fn converted(table: &findings::Table) -> Table {
    let mut converted = Table::new(table.title.clone());
    for (index, heading) in table.columns.iter().enumerate() {
        let mut column = table.rows.iter().filter_map(|row| row.get(index));
        let words = column.any(|datum| matches!(datum, Datum::Text(_)));
        converted = if words {
            converted.text(heading.clone())
        } else {
            converted.number(heading, "")
        };
    }
    for row in &table.rows {
        converted = converted.row(row.iter().map(Datum::to_string));
    }
    converted
}

/// Panels of one kind stand in one figure: a title `KIND, N = 12` names kind and panel.
fn figures(outcome: &Outcome, command: &str) -> Vec<Figure> {
    let spread = match outcome.experiment {
        "loss" => Spread::Confidence95,
        _ => Spread::Quartiles,
    };
    let mut kinds: Vec<(String, Vec<Panel>)> = Vec::new();
    for drawn in &outcome.findings.figures {
        let (kind, panel) = match drawn.title.rsplit_once(", N = ") {
            Some((kind, peers)) => (kind.to_owned(), format!("N = {peers}")),
            None => (drawn.title.clone(), String::new()),
        };
        let panel = panel_of(drawn, panel, spread);
        match kinds
            .iter_mut()
            .find(|(other, panels)| *other == kind && panels.len() < PANELS)
        {
            Some((_, panels)) => panels.push(panel),
            None => kinds.push((kind, vec![panel])),
        }
    }
    let count = outcome.histograms.len().div_ceil(PANELS);
    let histograms = outcome.histograms.chunks(PANELS).zip(1..);
    kinds.extend(histograms.map(|(chunk, number)| {
        let panels = chunk.iter().map(histogram).collect();
        let part = if count > 1 {
            format!(", {number} of {count}")
        } else {
            String::new()
        };
        (format!("Distribution over the repetitions{part}"), panels)
    }));
    let figure = |(number, (kind, panels)): (usize, (String, Vec<Panel>))| {
        let mut figure = Figure::new(format!("{}-{}", outcome.experiment, number + 1), kind).command(command);
        figure = figure.columns(panels.len().clamp(1, 3));
        figure.panels = panels;
        figure
    };
    kinds.into_iter().enumerate().map(figure).collect()
}

/// `LABEL, UNIT`.
fn label(text: &str) -> (String, String) {
    match text.rsplit_once(", ") {
        Some((label, unit)) => (label.to_owned(), unit.to_owned()),
        None => (text.to_owned(), "number".to_owned()),
    }
}

fn axis(text: &str, values: impl Iterator<Item = f64>) -> Axis {
    let (label, unit) = label(text);
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|value| value.is_finite()) {
        least = least.min(value);
        most = most.max(value);
    }
    if least > 0.0 && most / least > DECADES {
        Axis::log(label, unit)
    } else {
        Axis::linear(label, unit)
    }
}

fn panel_of(drawn: &findings::Figure, title: String, spread: Spread) -> Panel {
    let points = || drawn.series.iter().flat_map(|series| &series.points);
    let x = axis(&drawn.x_label, points().map(|point| point.x));
    let mut y = axis(&drawn.y_label, points().map(|point| point.y));
    if let Scale::Linear = y.scale {
        let most = points()
            .map(|point| point.range.map_or(point.y, |(_, high)| high))
            .fold(0.0, f64::max);
        if points().all(|point| point.y >= 0.0) && most > 0.0 {
            y = y.range(0.0, most * 1.05);
        }
    }
    let mut panel = Panel::new(title, x, y);
    for series in &drawn.series {
        let drawn = if series.is_reference {
            let values = series.points.iter().map(|point| (point.x, point.y));
            Series::Curve {
                name: series.name.clone(),
                values: values.collect(),
            }
        } else {
            let point = |point: &findings::Point| match point.range {
                Some((low, high)) => Point::new(point.x, point.y).between(low, high),
                None => Point::new(point.x, point.y),
            };
            let values = series.points.iter().map(point).collect();
            Series::Points {
                name: series.name.clone(),
                spread,
                values,
                joined: spread == Spread::Quartiles,
            }
        };
        panel.series.push(drawn);
    }
    panel
}

fn histogram(values: &findings::Histogram) -> Panel {
    let x = Axis::linear("time", values.unit.clone());
    let y = Axis::count("repetitions", "number");
    Panel::new(values.title.clone(), x, y).histogram(values.title.clone(), Histogram::of(&values.values))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::experiment::Findings;

    fn outcome() -> Outcome {
        let figure = |peers: u32, is_reference| findings::Figure {
            title: format!("Files lost, N = {peers}"),
            x_label: "peers killed at once, peers".to_owned(),
            y_label: "files lost, part of all".to_owned(),
            series: vec![findings::Series {
                name: "copies:3 random".to_owned(),
                is_reference,
                points: vec![findings::Point {
                    x: 3.0,
                    y: 0.02,
                    range: (!is_reference).then_some((0.01, 0.03)),
                }],
            }],
        };
        let mut table = findings::Table::new("Losses", ["scheme", "files"]);
        table.rows.push(vec!["<random>".into(), 2.5.into()]);
        Outcome {
            experiment: "loss",
            quick: true,
            parameters: json!({
                "peers": [12, 24],
                "schemes": [{"placement": "random", "scope": null}],
                "file_bytes": 7
            }),
            cells: 2,
            csv: "loss.csv".into(),
            histograms: vec![findings::Histogram {
                title: "put".to_owned(),
                unit: "s".to_owned(),
                values: vec![1.0, 2.0, 2.0],
            }],
            findings: Findings {
                tables: vec![table],
                figures: vec![figure(12, true), figure(24, false)],
                notes: vec!["random lost more".to_owned()],
            },
        }
    }

    #[test]
    fn a_run_becomes_a_page_with_every_figure_and_its_command() {
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            binary: "/bin/false".into(),
            out: out.path().to_owned(),
            place: None,
            seed: 7,
            quick: true,
            flags: Vec::new(),
        };
        let both = [
            outcome(),
            Outcome {
                experiment: "churn",
                ..outcome()
            },
        ];
        let written = publish(&both, &options, "mutualstore testnet experiment all --quick").unwrap();
        let page = std::fs::read_to_string(&written.html).unwrap();
        for expected in [
            "mutualstore testnet experiment loss --quick --seed 7",
            "N = 12",
            "N = 24",
            "peers killed at once",
            "&lt;random&gt;",
            "random lost more",
            "quick run",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        assert_eq!(
            written.figures.len(),
            4,
            "of each one of two panels and one of a histogram"
        );
        assert!(
            std::fs::read_to_string(&written.markdown)
                .unwrap()
                .contains("## ")
        );
        let gone = Options {
            out: out.path().join("report.html"),
            ..options
        };
        assert!(matches!(
            publish(&[outcome()], &gone, "x"),
            Err(ExperimentError::Out { .. })
        ));
    }
}
