//! The report as Markdown (`CommonMark` with the tables of GitHub), with figures as files beside it.

use comfy_table::presets::ASCII_MARKDOWN;

use super::{Anchors, Block, Report, Section, aligned, pieces, svg};
use crate::findings::{Table, table};

/// A text and the figures it links to: file name and document.
pub(super) struct Markdown {
    pub(super) text: String,
    pub(super) figures: Vec<(String, String)>,
}

#[derive(Default)]
struct Writer {
    out: String,
    contents: String,
    figures: Vec<(String, String)>,
    palette: super::palette::Palette,
    anchors: Anchors,
    files: Anchors,
    tables: usize,
}

/// The report; figures get the names their links have.
pub(super) fn render(report: &Report) -> Markdown {
    let mut writer = Writer {
        palette: report.palette(),
        ..Writer::default()
    };
    for part in report.parts(&report.setup()) {
        writer.section(part, 0);
    }
    Markdown {
        text: format!("# {}\n\n{}{}", rich(&report.title), writer.contents, writer.out),
        figures: writer.figures,
    }
}

/// Whether a letter means something to Markdown; some do at the start of a line alone.
fn special(letter: char, first: bool) -> bool {
    matches!(
        letter,
        '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '&' | '|' | '~' | '$'
    ) || (first && matches!(letter, '#' | '>' | '-' | '+' | '='))
}

/// One line of text in which nothing but code between backticks means anything.
fn rich(text: &str) -> String {
    let mut out = String::new();
    for (code, piece) in pieces(text) {
        // Bars are escaped even in code, or they would end the cell of a table: so says GitHub.
        if code && !piece.contains('|') && !piece.trim().is_empty() {
            out.extend(["`", &piece.replace(['\n', '\r'], " "), "`"]);
        } else {
            escape(piece, &mut out);
        }
    }
    out.trim().to_owned()
}

fn escape(text: &str, into: &mut String) {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        // A number with a point or bracket begins a list.
        let listed = matches!(letter, '.' | ')')
            && letters.peek().is_none_or(|next| next.is_whitespace())
            && !into.trim().is_empty()
            && into.trim().chars().all(|digit| digit.is_ascii_digit());
        if special(letter, into.trim().is_empty()) || listed {
            into.push('\\');
        }
        into.push(if letter.is_control() { ' ' } else { letter });
    }
}

/// A table with its columns in line.
fn grid(table: &Table) -> String {
    let heads = table.columns.iter().map(|heading| rich(heading)).collect();
    let rows = aligned(table).into_iter();
    let rows = rows.map(|row| row.iter().map(|cell| rich_cell(cell)).collect());
    let drawn = table.drawn(ASCII_MARKDOWN, heads, rows.collect());
    let (head, rest) = drawn.split_once('\n').unwrap_or((&drawn, ""));
    let (rule, rows) = rest.split_once('\n').unwrap_or((rest, ""));
    // A colon at the end of its rule sets a column flush right.
    let rules = rule.trim_matches('|').split('|').enumerate();
    let rules = rules.map(|(at, rule)| {
        let (from, end) = if table.is_numeric(at) { (1, ":") } else { (0, "") };
        format!("{}{end}", rule.get(from..).unwrap_or_default())
    });
    format!("{head}\n|{}|\n{rows}", rules.collect::<Vec<_>>().join("|"))
}

/// A cell keeps the blanks that align it.
fn rich_cell(cell: &str) -> String {
    let text = cell.trim_end_matches(['\u{2007}', '\u{2008}']);
    rich(cell) + cell.strip_prefix(text).unwrap_or_default()
}

impl Writer {
    fn block(&mut self, text: &str) {
        self.out.extend(["\n", text.trim_end_matches('\n'), "\n"]);
    }

    /// With an anchor of its own: viewers make different ones of the same heading.
    fn heading(&mut self, heading: &str, depth: usize) {
        let (id, heading) = (self.anchors.unique(heading), rich(heading));
        let (blanks, marks) = ("  ".repeat(depth), "#".repeat((depth + 2).min(6)));
        let entry = format!("{blanks}- [{heading}](#{id})\n");
        self.contents.push_str(&entry);
        self.block(&format!("<a id=\"{id}\"></a>\n\n{marks} {heading}"));
    }

    fn section(&mut self, section: &Section, depth: usize) {
        self.heading(&section.heading, depth);
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => self.block(&rich(text)),
                Block::List(items) => {
                    let items = items.iter().map(|item| format!("- {}", rich(item)));
                    self.block(&items.collect::<Vec<_>>().join("\n"));
                }
                Block::Pairs(pairs) => {
                    let table = table!("", pairs, |(name, value)| {
                        "" => name.as_str(),
                        "" => value.as_str(),
                    });
                    self.block(&grid(&table));
                }
                Block::Table(table) => {
                    self.tables += 1;
                    let caption = format!("**Table {}.** {}", self.tables, rich(&table.title));
                    self.block(&caption);
                    self.block(&grid(table));
                }
                Block::Figure(figure) => self.figure(figure),
            }
        }
        for part in &section.sections {
            self.section(part, depth + 1);
        }
    }

    fn figure(&mut self, figure: &super::Figure) {
        let name = format!("{}.svg", self.files.unique(&format!("figure {}", figure.id)));
        self.block(&format!("![{}]({name})", rich(&figure.title.replace('`', "'"))));
        self.figures.push((name, svg::document(figure, &self.palette)));
        let number = self.figures.len();
        let caption = rich(&figure.caption());
        let line = format!("**Figure {number}.** {}. {caption}", rich(&figure.title));
        self.block(&line);
        // Indented, as no fence is longer than every text.
        let command: Vec<String> = figure.command.lines().map(|line| format!("    {line}")).collect();
        self.block(&command.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use pulldown_cmark::{Event, Options, Parser};

    use super::*;
    use crate::findings::Datum;

    fn read(markdown: &str) -> String {
        let events = Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH);
        let said = |event| {
            if let Event::Html(html) | Event::InlineHtml(html) = &event {
                panic!("markup got through: {html}");
            }
            if let Event::Text(text) | Event::Code(text) = event {
                return Some(text.to_string());
            }
            None
        };
        events.filter_map(said).collect()
    }

    #[test]
    fn text_with_markup_means_itself() {
        let hard = [
            "a * b * c _d_ __e__ ~~f~~",
            "<script>alert(1)</script> &amp; &lt;",
            "[link](http://example.org) ![image](x)",
            "# no heading",
            "- no list",
            "+ no list",
            "12. no list",
            "1) no list",
            "> no quotation",
            "a | b | c",
            "back\\slash and a lone ` tick",
            "===",
        ];
        for text in hard {
            assert_eq!(read(&rich(text)), text);
            let mut table = Table::new("", ["x"]);
            table.rows.push(vec![text.into()]);
            assert_eq!(read(&grid(&table)), format!("x{text}"));
        }
        assert_eq!(rich("see `put --code rs:4+2` *"), "see `put --code rs:4+2` \\*");
        assert_eq!(read(&rich("`a|b`")), "a|b");
    }

    #[test]
    fn columns_of_a_table_are_in_line() {
        let mut table = Table::new("", ["Policy", "Lost (%)"]);
        table.rows = vec![
            vec!["random".into(), 5.5.into()],
            vec!["copysets".into(), 0.17.into()],
            vec!["buddies".into(), Datum::Nothing],
        ];
        let drawn = grid(&table);
        let expected = "| Policy   | Lost \\(%\\) |";
        assert!(drawn.starts_with(&expected.replace('\\', "")), "{drawn}");
        let widths: Vec<usize> = drawn.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{drawn}");
        assert!(drawn.contains("5.50\u{2007} |"), "{drawn}");
    }
}
