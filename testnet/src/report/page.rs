//! The report as one HTML page that loads nothing.

use super::figure::Figure;
use super::markup::Element;
use super::palette::Palette;
use super::{Anchors, Block, Report, Section, Table, pieces, svg};

/// Without `<`, `>`, `&` and `"`: see the head of `markup`.
const STYLE: &str = include_str!("page.css");

struct Writer {
    palette: Palette,
    anchors: Anchors,
    figures: usize,
    tables: usize,
}

/// The page.
pub(super) fn render(report: &Report) -> String {
    let mut writer = Writer {
        palette: report.palette(),
        anchors: Anchors::default(),
        figures: 0,
        tables: 0,
    };
    let mut contents = Element::new("ul");
    let mut main = Element::new("main");
    if !report.setup.is_empty() {
        let id = writer.anchors.unique("set-up");
        contents.push(entry(&id, "Set-up"));
        main.push(setup(report, &id));
    }
    for section in &report.sections {
        let (element, link) = writer.section(section, false);
        main.push(element);
        contents.push(link);
    }
    let head = Element::new("head")
        .child(Element::new("meta").set("charset", "utf-8"))
        .child(
            Element::new("meta")
                .set("name", "viewport")
                .set("content", "width=device-width, initial-scale=1"),
        )
        .child(
            Element::new("meta")
                .set("name", "color-scheme")
                .set("content", "light dark"),
        )
        .child(Element::new("title").text(report.title.as_str()))
        .child(Element::new("style").text(STYLE));
    let heading = Element::new("h1").children(rich(&report.title));
    let nav = Element::new("nav").set("aria-label", "Contents");
    let nav = nav.child(Element::new("h2").text("Contents")).child(contents);
    let body = Element::new("body")
        .child(Element::new("header").child(heading))
        .child(nav)
        .child(main);
    let html = Element::new("html").set("lang", "en").child(head).child(body);
    format!("<!DOCTYPE html>\n{html}\n")
}

fn entry(id: &str, heading: &str) -> Element {
    let link = Element::new("a").set("href", format!("#{id}"));
    Element::new("li").child(link.children(rich(heading)))
}

/// Text with its code; as elements, since that is what headings, cells and paragraphs take.
fn rich(text: &str) -> Vec<Element> {
    let piece = |(code, piece): (bool, &str)| Element::new(if code { "code" } else { "span" }).text(piece);
    pieces(text).into_iter().map(piece).collect()
}

fn setup(report: &Report, id: &str) -> Element {
    let row = |(name, value): &(String, String)| {
        let name = Element::new("th").set("scope", "row").children(rich(name));
        Element::new("tr")
            .child(name)
            .child(Element::new("td").children(rich(value)))
    };
    let body = Element::new("tbody").children(report.setup.iter().map(row));
    let table = Element::new("table").set("class", "setup").child(body);
    let section = Element::new("section")
        .set("id", id)
        .child(Element::new("h2").text("Set-up"));
    section.child(Element::new("div").set("class", "wide").child(table))
}

impl Writer {
    /// A section and its line in the contents.
    fn section(&mut self, section: &Section, below: bool) -> (Element, Element) {
        let id = self.anchors.unique(&section.heading);
        let heading = Element::new(if below { "h3" } else { "h2" }).children(rich(&section.heading));
        let mut element = Element::new("section").set("id", &id).child(heading);
        for block in &section.blocks {
            element.push(match block {
                Block::Paragraph(text) => Element::new("p").children(rich(text)),
                Block::List(items) => {
                    let item = |item: &String| Element::new("li").children(rich(item));
                    Element::new("ul").children(items.iter().map(item))
                }
                Block::Table(table) => self.table(table),
                Block::Figure(figure) => self.figure(figure),
            });
        }
        let mut links = Element::new("ul");
        for part in &section.sections {
            let (part, link) = self.section(part, true);
            element.push(part);
            links.push(link);
        }
        let mut link = entry(&id, &section.heading);
        if !section.sections.is_empty() {
            link.push(links);
        }
        (element, link)
    }

    fn table(&mut self, table: &Table) -> Element {
        self.tables += 1;
        let label = Element::new("strong").text(format!("Table {}. ", self.tables));
        let caption = Element::new("caption")
            .child(label)
            .children(rich(&table.caption));
        let class = |numeric: bool| if numeric { "number" } else { "text" };
        let head = table.columns.iter().map(|column| {
            let cell = Element::new("th")
                .set("scope", "col")
                .set("class", class(column.numeric));
            cell.children(rich(&column.heading))
        });
        let row = |cells: Vec<String>| {
            let cells = table.columns.iter().zip(cells);
            Element::new("tr").children(cells.map(|(column, cell)| {
                Element::new("td")
                    .set("class", class(column.numeric))
                    .children(rich(&cell))
            }))
        };
        let body = table.aligned().into_iter().map(row);
        let element = Element::new("table")
            .child(caption)
            .child(Element::new("thead").child(Element::new("tr").children(head)))
            .child(Element::new("tbody").children(body));
        Element::new("div").set("class", "wide").child(element)
    }

    fn figure(&mut self, figure: &Figure) -> Element {
        self.figures += 1;
        let id = self.anchors.unique(&format!("figure {}", figure.id));
        let label = format!("Figure {}. ", self.figures);
        let mut caption = Element::new("figcaption")
            .child(Element::new("strong").text(label + &figure.title + ". "))
            .children(rich(&figure.full_caption()));
        if !figure.command.is_empty() {
            let command = Element::new("code").text(figure.command.as_str());
            caption.push(Element::new("pre").child(command));
        }
        let columns = format!("--columns:{}", svg::columns(figure));
        let panels = Element::new("div").set("class", "panels").set("style", columns);
        let legend = Element::new("div").set("class", "legend");
        Element::new("figure")
            .set("id", id)
            .child(legend.children(svg::legend(figure, &self.palette)))
            .child(panels.children(svg::panels(figure, &self.palette)))
            .child(caption)
    }
}
