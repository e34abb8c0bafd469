//! Elements, written so that XML and HTML parsers read the same.
//!
//! Elements that HTML knows as empty and the shapes of SVG are closed in themselves, all others with a tag
//! of their own. Style sheets must do without `<`, `>`, `&` and `"`, which are escaped, and HTML would not
//! take that back there.

use std::fmt::{self, Display, Write as _};

const EMPTY: [&str; 6] = ["meta", "col", "path", "line", "rect", "circle"];
/// Children stand on lines of their own, where blanks do not matter.
const ROOMY: [&str; 16] = [
    "html", "head", "body", "header", "main", "nav", "section", "figure", "div", "table", "thead", "tbody",
    "tr", "ul", "svg", "g",
];

/// An element with its content.
#[derive(Clone, Debug)]
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            attributes: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Sets an attribute.
    pub(super) fn set(mut self, name: &'static str, value: impl Display) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Sets an attribute that is a length or a place.
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        self.set(name, px(value))
    }

    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    pub(super) fn child(mut self, child: Self) -> Self {
        self.push(child);
        self
    }

    pub(super) fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children.into_iter().map(Node::Element));
        self
    }

    pub(super) fn push(&mut self, child: Self) {
        self.children.push(Node::Element(child));
    }
}

/// A length to a hundredth, as short as can be.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

impl Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}", self.name)?;
        for (name, value) in &self.attributes {
            write!(f, " {name}=\"")?;
            escape(value, f)?;
            f.write_char('"')?;
        }
        if EMPTY.contains(&self.name) && self.children.is_empty() {
            return f.write_str("/>");
        }
        f.write_char('>')?;
        let roomy = ROOMY.contains(&self.name);
        for child in &self.children {
            if roomy {
                f.write_char('\n')?;
            }
            match child {
                Node::Element(element) => element.fmt(f)?,
                Node::Text(text) => escape(text, f)?,
            }
        }
        if roomy {
            f.write_char('\n')?;
        }
        write!(f, "</{}>", self.name)
    }
}

fn escape(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for letter in text.chars() {
        match letter {
            '&' => f.write_str("&amp;")?,
            '<' => f.write_str("&lt;")?,
            '>' => f.write_str("&gt;")?,
            '"' => f.write_str("&quot;")?,
            '\n' | '\t' => f.write_char(letter)?,
            // XML has no way to write these.
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {
                f.write_char('\u{fffd}')?;
            }
            other => f.write_char(other)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_come_back_as_they_were() {
        let nasty = "a < b && \"c\" > 'd' </p><script>alert(1)</script> é \u{2028}";
        let element = Element::new("p").set("title", nasty).text(nasty).to_string();
        let document = roxmltree::Document::parse(&element).unwrap();
        assert_eq!(document.root_element().text(), Some(nasty));
        assert_eq!(document.root_element().attribute("title"), Some(nasty));
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        let element = Element::new("p").text("a\u{0}b\u{1b}c\u{ffff}").to_string();
        assert_eq!(element, "<p>a\u{fffd}b\u{fffd}c\u{fffd}</p>");
        roxmltree::Document::parse(&element).unwrap();
    }

    #[test]
    fn only_what_is_empty_in_html_too_closes_itself() {
        let table = Element::new("td").child(Element::new("line").at("x1", -0.001).at("x2", 1.5));
        assert_eq!(table.to_string(), "<td><line x1=\"0\" x2=\"1.5\"/></td>");
        assert_eq!(Element::new("td").to_string(), "<td></td>");
    }
}
