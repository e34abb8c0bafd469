//! The report as one HTML page that loads nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figure::Figure;
use super::palette::Palette;
use super::{Anchors, Block, Report, Section, aligned, legible, pieces, svg};
use crate::findings::Table;

/// Without `<`, `>`, `&` and `"`, which XML and HTML parsers read in different ways.
const STYLE: &str = include_str!("page.css");
/// Closed as XML demands and HTML allows.
const META: &str = "<meta charset=\"utf-8\"/>\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
    <meta name=\"color-scheme\" content=\"light dark\"/>";

#[derive(Default)]
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
        ..Writer::default()
    };
    let setup = report.setup();
    let parts = report.parts(&setup).map(|part| writer.section(part, false));
    let (sections, links): (Vec<_>, Vec<_>) = parts.unzip();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(META))
                title { (report.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (rich(&report.title)) } }
                nav aria-label="Contents" {
                    h2 { "Contents" }
                    ul { @for link in links { (link) } }
                }
                main { @for section in sections { (section) } }
            }
        }
    };
    legible(&page.into_string()) + "\n"
}

/// Text with its code; as elements, since that is what headings, cells and paragraphs take.
fn rich(text: &str) -> Markup {
    html! {
        @for (code, piece) in pieces(text) {
            @if code { code { (piece) } } @else { span { (piece) } }
        }
    }
}

impl Writer {
    /// A section and its entry in the contents.
    fn section(&mut self, section: &Section, below: bool) -> (Markup, Markup) {
        let id = self.anchors.unique(&section.heading);
        let heading = rich(&section.heading);
        let blocks: Vec<Markup> = section.blocks.iter().map(|block| self.block(block)).collect();
        let parts = section.sections.iter().map(|part| self.section(part, true));
        let (parts, links): (Vec<_>, Vec<_>) = parts.unzip();
        let link = html! {
            li {
                a href={ "#" (id) } { (heading) }
                @if !links.is_empty() { ul { @for link in links { (link) } } }
            }
        };
        let element = html! {
            section id=(id) {
                @if below { h3 { (heading) } } @else { h2 { (heading) } }
                @for part in blocks.into_iter().chain(parts) { (part) }
            }
        };
        (element, link)
    }

    fn block(&mut self, block: &Block) -> Markup {
        match block {
            Block::Paragraph(text) => html! { p { (rich(text)) } },
            Block::List(items) => html! { ul { @for item in items { li { (rich(item)) } } } },
            Block::Pairs(pairs) => html! {
                .wide { table.setup { tbody {
                    @for (name, value) in pairs {
                        tr { th scope="row" { (rich(name)) } td { (rich(value)) } }
                    }
                } } }
            },
            Block::Table(table) => self.table(table),
            Block::Figure(figure) => self.figure(figure),
        }
    }

    fn table(&mut self, table: &Table) -> Markup {
        self.tables += 1;
        let class = |at: usize| if table.is_numeric(at) { "number" } else { "text" };
        html! {
            .wide { table {
                caption { strong { "Table " (self.tables) ". " } (rich(&table.title)) }
                thead { tr {
                    @for (at, heading) in table.columns.iter().enumerate() {
                        th scope="col" class=(class(at)) { (rich(heading)) }
                    }
                } }
                tbody {
                    @for row in aligned(table) {
                        tr {
                            @for (at, cell) in row.iter().enumerate() {
                                td class=(class(at)) { (rich(cell)) }
                            }
                        }
                    }
                }
            } }
        }
    }

    fn figure(&mut self, figure: &Figure) -> Markup {
        self.figures += 1;
        let id = self.anchors.unique(&format!("figure {}", figure.id));
        html! {
            figure id=(id) {
                .legend { (svg::legend(figure, &self.palette)) }
                .panels style={ "--columns:" (svg::columns(figure)) } { (svg::panels(figure, &self.palette)) }
                figcaption {
                    strong { "Figure " (self.figures) ". " (figure.title) ". " }
                    (rich(&figure.caption()))
                    pre { code { (figure.command) } }
                }
            }
        }
    }
}
