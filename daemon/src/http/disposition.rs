//! `Content-Disposition` of a download (RFC 6266): a name to save it under, which came with the link from
//! somebody else.

use axum::http::HeaderValue;

use crate::format::names::{harmless, percent_encode};

/// The value for a file of this name. Without a name it only says that the file is to be saved, not shown.
pub(crate) fn attachment(name: &str) -> HeaderValue {
    let plain = HeaderValue::from_static("attachment");
    if name.is_empty() {
        return plain;
    }
    let name = harmless(name);
    // A percent sign is decoded by some readers of `filename`.
    let risky = |c: char| !(c == ' ' || c.is_ascii_graphic()) || matches!(c, '"' | '\\' | '%');
    let ascii: String = name.chars().map(|c| if risky(c) { '_' } else { c }).collect();
    let text = if ascii == name {
        format!("attachment; filename=\"{ascii}\"")
    } else {
        format!(
            "attachment; filename=\"{ascii}\"; filename*=UTF-8''{}",
            percent_encode(&name)
        )
    };
    HeaderValue::try_from(text).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachment_name_of_any_bytes_stays_one_harmless_parameter() {
        for (name, expected) in [
            ("", "attachment"),
            ("report.pdf", "attachment; filename=\"report.pdf\""),
            ("a b;c.txt", "attachment; filename=\"a b;c.txt\""),
            (
                "a\"b\\c%41.txt",
                "attachment; filename=\"a_b_c_41.txt\"; filename*=UTF-8''a%22b_c%2541.txt",
            ),
            ("../../etc/passwd", "attachment; filename=\"_._.._etc_passwd\""),
            ("x\r\nSet-Cookie: a", "attachment; filename=\"x__Set-Cookie: a\""),
            (
                "grüße.txt",
                "attachment; filename=\"gr__e.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt",
            ),
            ("exe\u{202e}txt", "attachment; filename=\"exe_txt\""),
        ] {
            assert_eq!(attachment(name).to_str().unwrap(), expected, "{name:?}");
        }
    }
}
