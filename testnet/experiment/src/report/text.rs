//! How wide text is, roughly: no font is at hand where figures are drawn, and readers have different ones.

/// Width in units of the font size, of common sans-serif faces, rather too wide than too narrow.
fn em(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | ' ' => 0.36,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' | '"' => 0.45,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.98,
        '⁰' | '¹' | '²' | '³' | '⁴'..='⁹' | '⁻' => 0.42,
        other if other.is_uppercase() => 0.76,
        other if other.is_ascii() => 0.64,
        other if other > '\u{2e80}' => 1.0,
        _ => 0.72,
    }
}

pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(em).sum::<f64>() * size
}

/// Breaks text at blanks into lines no wider than `limit`; a longer word keeps its line.
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(" ", size) + width(word, size) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A number to three significant digits, for people.
pub(super) fn short(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size < 1e-300 {
        "0".to_owned()
    } else if !(1e-3..9.995e5).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{digits}×10{}", superscript(power))
    } else {
        // Zeros behind the point do not count.
        let limits = [99.95, 9.995, 0.9995, 0.09995, 0.009_995];
        let digits = limits.iter().filter(|limit| size < **limit).count();
        format!("{value:.digits$}")
    }
}

/// Digits and sign of a power, raised.
pub(super) fn superscript(power: &str) -> String {
    let raised = |digit: char| {
        let at = "0123456789".find(digit);
        at.and_then(|at| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(at)).unwrap_or('⁻')
    };
    power.chars().map(raised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_lines_are_as_long_as_fits() {
        let lines = wrap("Time until every replica is flushed (s)", 10.0, 110.0);
        assert!(lines.len() > 1, "{lines:?}");
        assert!(lines.iter().all(|line| width(line, 10.0) <= 110.0), "{lines:?}");
        assert_eq!(lines.join(" "), "Time until every replica is flushed (s)");
        assert_eq!(
            wrap("Donaudampfschifffahrt", 10.0, 20.0),
            ["Donaudampfschifffahrt"]
        );
    }

    #[test]
    fn numbers_are_shown_with_three_digits() {
        let shown = [
            0.0,
            0.012_345,
            0.5,
            0.9999,
            1.234,
            99.99,
            123.4,
            1.5e7,
            2e-5,
            f64::NAN,
        ]
        .map(short);
        let expected = [
            "0",
            "0.0123",
            "0.500",
            "1.00",
            "1.23",
            "100",
            "123",
            "1.50×10⁷",
            "2.00×10⁻⁵",
            "–",
        ];
        assert_eq!(shown, expected);
    }
}
