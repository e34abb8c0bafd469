//! The report of a run: what the experiments found as one page for people, `report.html` and `report.md`,
//! with figures.
//!
//! What to take away comes first, then the set-up, then for each experiment what was asked, what was
//! expected, tables, figures, and the notes that were made from the numbers. Nothing is computed here.

use itertools::Itertools;
use serde_json::Value;

use super::findings::{self, Table, table};
use super::{ExperimentError, Options, Outcome, Result};
use crate::report::{Axis, Block, Drawn, Figure, Histogram, Panel, Report, Scale, Section, Spread, Written};

/// Panels in one figure, at most: beyond, they get too small to read.
const PANELS: usize = 12;
/// Values that reach over so many times the least are drawn on a logarithmic axis.
const DECADES: f64 = 50.0;
/// Units of whole things: an axis of these has ticks at whole numbers only.
const WHOLE: [&str; 3] = ["number", "peers", "bytes"];
/// What comes first in every legend.
const SERIES: [&str; 5] = [
    "copies:3 random",
    "copies:3 copysets",
    "copies:3 buddies",
    "copies:3 successors",
    "copies:3 copysets/fragment",
];

/// Writes the report of these experiments into the directory of results. `command` made it.
pub fn publish(outcomes: &[Outcome], options: &Options, command: &str) -> Result<Written> {
    let written = report(outcomes, options, command).write(&options.out);
    written.map_err(|error| ExperimentError::out(&options.out)(std::io::Error::other(error)))
}

fn report(outcomes: &[Outcome], options: &Options, command: &str) -> Report {
    let mut title = "Placement and redundancy, measured on real daemons".to_owned();
    if outcomes.iter().any(|outcome| outcome.quick) {
        title.push_str(" (quick run: less of everything)");
    }
    let processors = std::thread::available_parallelism();
    let processors = processors.map_or_else(|_| "unknown".to_owned(), |count| count.to_string());
    let version = env!("CARGO_PKG_VERSION");
    let cells: usize = outcomes.iter().map(|outcome| outcome.cells).sum();
    let network = "all daemons on one machine, TCP over loopback, one process each";
    let mut setup = vec![
        ("Command".to_owned(), format!("`{command}`")),
        ("Program".to_owned(), format!("mutualstore {version}")),
        ("Processors".to_owned(), processors),
        ("Network".to_owned(), network.to_owned()),
        ("Seed".to_owned(), options.seed.to_string()),
        ("Cells".to_owned(), cells.to_string()),
    ];
    if !options.run.flags.is_empty() {
        setup.push(("Flags of every daemon".to_owned(), options.run.flags.join(" ")));
    }
    // Of several experiments each has a command of its own; one alone was given it.
    let section = |outcome| match outcomes {
        [_] => section(outcome, command),
        _ => section(outcome, &again(outcome, options)),
    };
    Report {
        title,
        opening: opening(outcomes),
        setup,
        sections: outcomes.iter().map(section).collect(),
        series_order: SERIES.to_vec(),
    }
}

/// What the experiments found, in a sentence or two each, and what to do about it.
fn opening(outcomes: &[Outcome]) -> Section {
    let of = |sentences: fn(&Outcome) -> &[String]| {
        let all = outcomes.iter().flat_map(move |outcome| {
            let (heading, _) = about(outcome.experiment);
            sentences(outcome)
                .iter()
                .map(move |sentence| format!("{heading}: {sentence}"))
        });
        Block::List(all.collect())
    };
    Section {
        heading: "Findings and advice".to_owned(),
        blocks: vec![
            of(|outcome| &outcome.findings.summary),
            Block::Paragraph("Advice:".to_owned()),
            of(|outcome| &outcome.findings.advice),
        ],
        sections: Vec::new(),
    }
}

/// What an experiment is about: heading, and what to know before the numbers, a paragraph a line.
fn about(name: &str) -> (&'static str, &'static str) {
    match name {
        "loss" => (
            "Loss when peers die together",
            "Files are stored under each scheme, then peers are killed by SIGKILL, with repair off. What \
             is lost is counted by reading every file back through survivors, by asking inventories and \
             locators, and on the recorded map of shards; all three must name the same files. The map \
             then stands in for kill patterns that were not carried out: all of them, or a large sample.\n\
             Expected: a fragment on n peers of which more than m are among the s dead is lost with the \
             tail of a hypergeometric distribution, for copies C(s,k) / C(N,k), whatever the policy. \
             Policies differ in how fragments of a file, and files, share their holders. random \
             spreads the risk: many files lose a little chance each, and with enough files some loss is \
             nearly certain. copysets gather it: loss is rare, and then large. buddies lie between.\n\
             Error bars: where 95 of 100 networks of this scheme lie around the value, by the model; \
             where peers were killed, the 95 % confidence interval of the mean over the patterns, which \
             are the units of the sample.",
        ),
        "ingest" => (
            "Time to full redundancy, and to download",
            "From the first byte received to n durable shards, and from the request to the last byte, \
             per policy, beside what links of a given rate let expect.",
        ),
        "load" => (
            "Load per peer",
            "Which peers serve how many requests and bytes while one client writes and reads a file; B \
             blocks on N equal peers should be served in parts of B/N, on unequal ones by capacity. A \
             single server bears all of it.",
        ),
        "churn" => (
            "Churn",
            "Peers join, leave and are killed as a Poisson process. Expected: the bound of Blake and \
             Rodrigues 2003; a peer that stores b bytes and stays for T seconds costs the network 2 b / \
             T bytes per second, in and out.",
        ),
        "timing" => (
            "Timing",
            "The tables of file-system course projects on our system. Published figures come from other \
             machines and stand beside ours for orientation.",
        ),
        _ => ("Further measurements", ""),
    }
}

fn section(outcome: &Outcome, command: &str) -> Section {
    let (heading, paragraphs) = about(outcome.experiment);
    let findings = &outcome.findings;
    let paragraphs = paragraphs.lines().map(str::to_owned).map(Block::Paragraph);
    let tables = findings.tables.iter().filter(|table| !table.rows.is_empty());
    let discussion = (!findings.notes.is_empty()).then(|| Section {
        heading: "Discussion".to_owned(),
        blocks: vec![Block::List(findings.notes.clone())],
        sections: Vec::new(),
    });
    Section {
        heading: heading.to_owned(),
        blocks: paragraphs
            .chain([Block::Table(parameters(outcome))])
            .chain(figures(outcome, command).into_iter().map(Block::Figure))
            .chain(tables.cloned().map(Block::Table))
            .collect(),
        sections: discussion.into_iter().collect(),
    }
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
    // Text as it is, the values of objects side by side, anything else as JSON.
    let item = |value: &Value| match (value.as_str(), value.as_object()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(fields)) => fields.values().filter_map(Value::as_str).join(" "),
        (None, None) => value.to_string(),
    };
    let text = |value: &Value| match (value.as_str(), value.as_array()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(items)) => items.iter().map(item).join(", "),
        (None, None) => value.to_string(),
    };
    let fields = outcome.parameters.as_object().into_iter().flatten();
    table!("Parameters", fields, |(name, value)| {
        "parameter" => name.replace('_', " "),
        "value" => text(value),
    })
}

/// Panels of one kind stand in one figure: a title `KIND, N = 12` names kind and panel.
fn figures(outcome: &Outcome, command: &str) -> Vec<Figure> {
    let mut kinds: Vec<(String, Vec<Panel>)> = Vec::new();
    for drawn in &outcome.findings.figures {
        let (kind, panel) = match drawn.title.rsplit_once(", N = ") {
            Some((kind, peers)) => (kind.to_owned(), format!("N = {peers}")),
            None => (drawn.title.clone(), String::new()),
        };
        let panel = panel_of(drawn, panel);
        let has_room = |(other, panels): &&mut (String, Vec<Panel>)| *other == kind && panels.len() < PANELS;
        match kinds.iter_mut().find(has_room) {
            Some((_, panels)) => panels.push(panel),
            None => kinds.push((kind, vec![panel])),
        }
    }
    let count = outcome.histograms.len().div_ceil(PANELS);
    let histograms = outcome.histograms.chunks(PANELS).zip(1..);
    kinds.extend(histograms.map(|(chunk, number)| {
        let part = (count > 1).then(|| format!(", {number} of {count}"));
        let kind = format!("Distribution over the repetitions{}", part.unwrap_or_default());
        (kind, chunk.iter().map(histogram).collect())
    }));
    let figure = |(number, (title, panels)): (usize, (String, Vec<Panel>))| Figure {
        id: format!("{}-{number}", outcome.experiment),
        title,
        command: command.to_owned(),
        spread: match outcome.experiment {
            "loss" => Spread::Confidence95,
            _ => Spread::Quartiles,
        },
        panels,
    };
    (1..).zip(kinds).map(figure).collect()
}

/// An axis `LABEL, UNIT`.
fn axis(text: &str, values: impl Iterator<Item = f64>) -> Axis {
    let (label, unit) = text.rsplit_once(", ").unwrap_or((text, "number"));
    let ends = values.filter(|value| value.is_finite()).minmax().into_option();
    let scale = match ends {
        Some((least, most)) if least > 0.0 && most / least > DECADES => Scale::Log,
        _ if WHOLE.contains(&unit) => Scale::Count,
        _ => Scale::Linear,
    };
    Axis::new(label, unit, scale)
}

fn panel_of(drawn: &findings::Figure, title: String) -> Panel {
    let points = || drawn.series.iter().flat_map(|series| &series.points);
    let x = axis(&drawn.x_label, points().map(|point| point.x));
    let mut y = axis(&drawn.y_label, points().map(|point| point.y));
    let tops = points().map(|point| point.range.map_or(point.y, |(_, high)| high));
    let most = tops.fold(0.0, f64::max);
    if y.scale != Scale::Log && points().all(|point| point.y >= 0.0) && most > 0.0 {
        y.range = Some((0.0, most * 1.05));
    }
    let drawn = Drawn::Series(drawn.series.clone());
    Panel { title, x, y, drawn }
}

fn histogram(values: &findings::Histogram) -> Panel {
    Panel {
        title: values.title.clone(),
        x: Axis::new("time", values.unit.clone(), Scale::Linear),
        y: Axis::new("repetitions", "number", Scale::Count),
        drawn: Drawn::Histogram(values.title.clone(), Histogram::of(&values.values)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Findings;
    use mutualstore_fleet::scratch::RunOptions;

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
                summary: vec!["in short".to_owned()],
                advice: vec!["keep copies".to_owned()],
            },
        }
    }

    #[test]
    fn published_run_is_a_page_with_every_figure_and_its_command() {
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            run: RunOptions {
                binary: "/bin/false".into(),
                ..RunOptions::default()
            },
            out: out.path().to_owned(),
            seed: 7,
            quick: true,
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
            "Loss when peers die together: in short",
            "Churn: keep copies",
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
