use std::fs;

use roxmltree::{Document, Node};

use super::*;
use crate::findings::{Datum, Point, Series};

const NASTY: &str = "N < 12 & \"k\" > 3 </svg><script>alert('x')</script>";

fn point(x: f64, y: f64, range: Option<(f64, f64)>) -> Point {
    Point { x, y, range }
}

fn axis(label: &str, unit: &str, scale: Scale) -> Axis {
    Axis::new(label, unit, scale)
}

fn figure(id: &str, title: &str, panels: Vec<Panel>) -> Figure {
    Figure {
        id: id.to_owned(),
        title: title.to_owned(),
        command: format!("testnet experiment {id}"),
        spread: Spread::Confidence95,
        panels,
    }
}

fn loss() -> Figure {
    let expected = [
        (2.0, 0.01),
        (3.0, 1e-2),
        (4.0, f64::NAN),
        (5.0, 0.1),
        (6.0, f64::INFINITY),
        (7.0, 0.2),
    ];
    let expected = expected.map(|(x, y)| point(x, y, None));
    let measured = [
        point(2.0, 0.002, Some((0.0, 0.02))),
        point(4.0, 0.2, Some((1e-9, 0.4))),
        point(6.0, f64::NAN, None),
        point(8.0, 0.9, Some((0.8, 0.95))),
    ];
    let panel = Panel {
        title: NASTY.to_owned(),
        x: axis("Peers killed", "peers", Scale::Count),
        y: Axis {
            range: Some((1e-3, 1.0)),
            ..axis("Files lost", "fraction", Scale::Log)
        },
        drawn: Drawn::Series(vec![
            Series::reference("random", expected),
            Series::measured("random", measured),
        ]),
    };
    figure("loss", NASTY, vec![panel])
}

fn ingest() -> Figure {
    let samples: Vec<f64> = (0..100)
        .map(|number| 1.0 + f64::from(number % 17) / 10.0)
        .collect();
    let panel = |peers: u32| Panel {
        title: format!("N = {peers}"),
        x: axis("Time", "s", Scale::Linear),
        y: axis("Files", "files", Scale::Count),
        drawn: Drawn::Histogram("copysets".to_owned(), Histogram::of(&samples)),
    };
    figure(
        "ingest",
        "Time to redundancy",
        [3, 6, 12, 24, 36].map(panel).into(),
    )
}

fn report() -> Report {
    let mut table = Table::new(NASTY, ["Policy", "Lost (%)"]);
    table.rows = vec![vec![NASTY.into(), 5.5.into()], vec!["b".into(), Datum::Count(12)]];
    let section = |heading: &str, blocks, sections| Section {
        heading: heading.to_owned(),
        blocks,
        sections,
    };
    let part = section("Loss", vec![Block::List(vec![NASTY.to_owned()])], Vec::new());
    let paragraph = Block::Paragraph(NASTY.to_owned());
    let blocks = vec![
        paragraph,
        Block::Table(table),
        Block::Figure(loss()),
        Block::Figure(loss()),
    ];
    Report {
        title: NASTY.to_owned(),
        opening: section("First", vec![Block::List(vec![NASTY.to_owned()])], Vec::new()),
        setup: vec![("Daemons".to_owned(), NASTY.to_owned())],
        sections: vec![
            section("Loss", blocks, vec![part]),
            section("Time", vec![Block::Figure(ingest())], Vec::new()),
        ],
        series_order: vec!["successors", "random", "copysets"],
    }
}

fn class<'a>(document: &'a Document, class: &'a str) -> Vec<Node<'a, 'a>> {
    let all = document.descendants();
    all.filter(|node| node.attribute("class") == Some(class))
        .collect()
}

fn number(node: Node, name: &str) -> f64 {
    node.attribute(name).unwrap().parse().unwrap()
}

/// Left, right, top and bottom of the axes of the only panel.
fn area(document: &Document) -> (f64, f64, f64, f64) {
    let axes = class(document, "axes")[0];
    let lines: Vec<_> = axes.children().filter(Node::is_element).collect();
    (
        number(lines[0], "x1"),
        number(lines[0], "x2"),
        number(lines[1], "y2"),
        number(lines[1], "y1"),
    )
}

fn parse(figure: &Figure) -> String {
    svg::document(figure, &Palette::new(figure.names()))
}

#[test]
fn every_figure_has_labels_units_legend_and_a_title() {
    for figure in [loss(), ingest()] {
        let svg = parse(&figure);
        let document = Document::parse(&svg).unwrap();
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        assert_eq!(root.attribute("aria-label"), Some(figure.title.as_str()));
        let first = root.first_element_child().unwrap();
        assert_eq!(
            (first.tag_name().name(), first.text()),
            ("title", Some(figure.title.as_str()))
        );
        assert!(root.has_attribute("viewBox"));
        let labels: Vec<_> = class(&document, "label").iter().filter_map(Node::text).collect();
        for panel in &figure.panels {
            for axis in [&panel.x, &panel.y] {
                assert!(axis.text().ends_with(&format!("({})", axis.unit)));
                assert!(labels.contains(&axis.text().as_str()), "{labels:?}");
            }
        }
        let legend = class(&document, "legend");
        let legend: Vec<_> = legend
            .iter()
            .filter_map(|entry| entry.last_element_child()?.text())
            .collect();
        assert!(figure.names().all(|name| legend.contains(&name)), "{legend:?}");
        assert!(class(&document, "tick").len() >= 4 * figure.panels.len());
    }
}

#[test]
fn curve_with_gaps_stays_between_the_axes() {
    let svg = parse(&loss());
    let document = Document::parse(&svg).unwrap();
    let (left, right, top, bottom) = area(&document);
    let path = class(&document, "curve")[0].attribute("d").unwrap();
    let numbers: Vec<f64> = path
        .split(['M', 'L', ' '])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap())
        .collect();
    // The first two are joined; the others stand alone between gaps and have a dash each.
    assert_eq!(numbers.len(), 4, "{path}");
    let lone = class(&document, "lone");
    assert_eq!(lone.len(), 2);
    for dash in lone {
        let end = |name| number(dash, name);
        assert!(left <= end("x1") && end("x1") < end("x2") && end("x2") <= right);
        assert!((end("y1") - end("y2")).abs() < 1e-9 && end("y1") >= top && end("y1") <= bottom);
    }
    for place in numbers.chunks(2) {
        assert!(place[0] >= left - 0.01 && place[0] <= right + 0.01, "{place:?}");
        assert!(place[1] >= top - 0.01 && place[1] <= bottom + 0.01, "{place:?}");
    }
}

#[test]
fn interval_beyond_a_log_axis_ends_at_the_axis() {
    let svg = parse(&loss());
    let document = Document::parse(&svg).unwrap();
    let (_, _, top, bottom) = area(&document);
    let points = class(&document, "point");
    // The one that is no number is not there.
    assert_eq!(points.len(), 3);
    let ends = |at: usize| {
        let mut inside = points[at].descendants();
        let bracket = inside
            .find(|node| node.attribute("class") == Some("interval"))
            .unwrap();
        let line = bracket.first_element_child().unwrap();
        (number(line, "y1"), number(line, "y2"))
    };
    for at in [0, 1] {
        let (low, high) = ends(at);
        assert!((low - bottom).abs() < 0.02 && high > top && high < bottom, "{at}");
    }
    assert!(
        loss()
            .caption()
            .ends_with("1 value is not a number and not shown.")
    );
}

#[test]
fn degenerate_panel_is_drawn_without_numbers_that_are_none() {
    let values: [&[f64]; 5] = [
        &[],
        &[0.0],
        &[f64::NAN, f64::INFINITY],
        &[-3.0, -3.0],
        &[1e-300, 1e99],
    ];
    for scale in [Scale::Linear, Scale::Log, Scale::Count] {
        for values in values {
            let points = values
                .iter()
                .map(|value| point(*value, *value, Some((f64::NAN, *value))));
            let panel = |drawn| Panel {
                title: String::new(),
                x: axis("x", "s", scale),
                y: axis("x", "s", scale),
                drawn,
            };
            let panels = vec![
                panel(Drawn::Series(vec![Series::measured("a", points)])),
                panel(Drawn::Histogram("c".to_owned(), Histogram::of(values))),
            ];
            let drawing = Figure {
                spread: Spread::Quartiles,
                ..figure("", "", panels)
            };
            let svg = parse(&drawing);
            let document = Document::parse(&svg).unwrap();
            for attribute in document.descendants().flat_map(|node| node.attributes()) {
                let value = attribute.value();
                let none = value.contains("NaN") || value.contains("inf");
                assert!(!none, "{scale:?} {values:?} {value}");
            }
        }
    }
    Document::parse(&parse(&figure("", "", Vec::new()))).unwrap();
}

#[test]
fn character_that_xml_cannot_say_is_replaced() {
    let svg = parse(&figure("a", "a\u{0}b\u{1b}c\u{ffff}", Vec::new()));
    let document = Document::parse(&svg).unwrap();
    assert_eq!(
        document.root_element().attribute("aria-label"),
        Some("a\u{fffd}b\u{fffd}c\u{fffd}")
    );
}

#[test]
fn series_of_one_name_looks_alike_in_all_figures() {
    let report = report();
    let palette = report.palette();
    assert_eq!(palette.look("random").colour, "#D55E00");
    let page = page::render(&report);
    let document = Document::parse(page.trim_start_matches("<!DOCTYPE html>")).unwrap();
    let curves = class(&document, "curve");
    assert_eq!(curves.len(), 2);
    assert!(
        curves
            .iter()
            .all(|curve| curve.attribute("stroke") == Some("#D55E00"))
    );
    let looks: BTreeSet<_> = (0..56).map(|at: u32| at.to_string()).collect();
    let palette = Palette::new(looks.iter().map(String::as_str));
    let looks: BTreeSet<_> = looks
        .iter()
        .map(|name| format!("{:?}", palette.look(name)))
        .collect();
    assert_eq!(looks.len(), 56);
}

#[test]
fn page_is_well_formed_and_loads_nothing() {
    let page = page::render(&report());
    let document = Document::parse(page.trim_start_matches("<!DOCTYPE html>")).unwrap();
    let named = |name: &'static str| {
        document
            .descendants()
            .filter(move |node| node.tag_name().name() == name)
    };
    assert_eq!(named("script").count(), 0);
    assert_eq!(named("figure").count(), 3);
    assert_eq!(named("pre").count(), 3);
    for node in document.descendants() {
        for attribute in node.attributes() {
            let loads = ["src", "href", "srcset"].contains(&attribute.name());
            assert!(!loads || attribute.value().starts_with('#'), "{attribute:?}");
        }
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
    let ids: Vec<_> = document
        .descendants()
        .filter_map(|node| node.attribute("id"))
        .collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
    let links: Vec<_> = named("a").filter_map(|link| link.attribute("href")).collect();
    assert_eq!(links, ["#first", "#set-up", "#loss", "#loss-2", "#time"]);
    assert!(links.iter().all(|link| ids.contains(&&link[1..])));
    let cells: Vec<_> = named("td")
        .filter_map(|cell| cell.first_element_child()?.text())
        .collect();
    assert_eq!(cells, [NASTY, NASTY, "5.50", "b", "12\u{2008}\u{2007}\u{2007}"]);
    assert_eq!(
        named("p").next().unwrap().first_element_child().unwrap().text(),
        Some(NASTY)
    );
}

#[test]
fn style_sheet_means_the_same_to_xml_and_html() {
    let page = page::render(&report());
    let style = page
        .split_once("<style>")
        .unwrap()
        .1
        .split_once("</style>")
        .unwrap()
        .0;
    assert!(!style.contains(['&', '<', '>']));
}

#[test]
fn markdown_links_to_the_files_written_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a/b");
    let written = report().write(&out).unwrap();
    let markdown = fs::read_to_string(&written.markdown).unwrap();
    let links: Vec<_> = pulldown_cmark::Parser::new(&markdown)
        .filter_map(|event| {
            let pulldown_cmark::Event::Start(pulldown_cmark::Tag::Image { dest_url, .. }) = event else {
                return None;
            };
            Some(out.join(&*dest_url))
        })
        .collect();
    assert_eq!(links, written.figures);
    assert_eq!(links.len(), 3);
    for figure in &written.figures {
        Document::parse(&fs::read_to_string(figure).unwrap()).unwrap();
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 5, "no temporary file stays");
    let again = report().write(&out).unwrap();
    assert_eq!(again, written);
}

#[test]
fn failed_write_is_said_and_the_old_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "old").unwrap();
    let error = report().write(&file.join("out")).unwrap_err();
    assert!(matches!(error, WriteError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("nothing was written"), "{error}");
    // A directory in the place of the page: holds for root too, whom no permission stops.
    fs::create_dir_all(dir.path().join("report.html/full")).unwrap();
    let error = report().write(dir.path()).unwrap_err();
    assert!(
        matches!(&error, WriteError::File { path, .. } if path.ends_with("report.html")),
        "{error}"
    );
    let left = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with(".tmp")));
}

#[test]
fn histogram_counts_every_value_once() {
    let samples = [1.0, 1.5, 2.0, 2.5, 3.0, 10.0, f64::NAN];
    let histogram = Histogram::of(&samples);
    assert_eq!(histogram.bins.iter().map(|bin| bin.2).sum::<u32>(), 6);
    assert_eq!((histogram.count, histogram.dropped), (6, 1));
    assert!((histogram.median - 2.25).abs() < 1e-12 && (histogram.mean - 20.0 / 6.0).abs() < 1e-12);
    assert!(
        histogram
            .bins
            .windows(2)
            .all(|pair| pair[0].1 <= pair[1].0 + 1e-12)
    );
    for bin in &histogram.bins {
        let inside = samples
            .iter()
            .filter(|value| **value >= bin.0 && **value < bin.1)
            .count();
        assert_eq!(inside, bin.2 as usize, "{bin:?}");
    }
    let same = Histogram::of(&[4.0; 9]);
    assert_eq!(same.bins.len(), 1);
    assert_eq!(same.bins[0].2, 9);
    assert!(same.bins[0].0 <= 4.0 && same.bins[0].1 > 4.0);
    assert!(Histogram::of(&[]).bins.is_empty());
}
