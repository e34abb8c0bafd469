//! Names of files: what a put records, the media type a name suggests, and how a name that came from a
//! stranger is made harmless before it is written or shown.

use mutualstore_contract::escape::is_deceptive;

/// Longest file name of every common file system, bytes.
const LONGEST_NAME: usize = 255;

/// Media types by extension: what browsers show or play. Everything else is left to the receiver.
const MEDIA_TYPES: [(&str, &str); 26] = [
    ("avif", "image/avif"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mkv", "video/matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("zip", "application/zip"),
];

/// The media type that the extension of `name` suggests, if it is a common one.
pub fn media_type_of(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    MEDIA_TYPES
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(extension))
        .map(|(_, media_type)| *media_type)
}

/// The last part of a path, without its directories; empty if it has none.
pub fn base_name(path: &str) -> &str {
    let name = path.trim_end_matches('/');
    let name = name.rsplit('/').next().unwrap_or(name);
    if matches!(name, "." | "..") { "" } else { name }
}

/// A file name that stays in its directory and shows itself: the name came with a link, from somebody else.
pub fn harmless(name: &str) -> String {
    let deceptive = |c: char| is_deceptive(c) || matches!(c, '/' | '\\');
    let mut out: String = name.chars().map(|c| if deceptive(c) { '_' } else { c }).collect();
    // No hidden files, no `..`, nothing that looks like an option.
    if out.starts_with(['.', '-']) {
        out.replace_range(..1, "_");
    }
    while out.len() > LONGEST_NAME {
        out.pop();
    }
    if out.trim().is_empty() {
        "unnamed".to_owned()
    } else {
        out
    }
}

/// Everything but the unreserved characters of RFC 3986 as %XX.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless() {
        for (name, expected) in [
            ("plain name.txt", "plain name.txt"),
            ("../../etc/passwd", "_._.._etc_passwd"),
            ("..", "_."),
            (".bashrc", "_bashrc"),
            ("-rf", "_rf"),
            ("a\nb\0c\\d", "a_b_c_d"),
            ("exe\u{202e}txt", "exe_txt"),
            ("", "unnamed"),
            ("  ", "unnamed"),
            ("é", "é"),
        ] {
            assert_eq!(harmless(name), expected, "{name:?}");
        }
        assert!("ö".repeat(300).starts_with(&harmless(&"ö".repeat(300))));
        assert_eq!(harmless(&"ö".repeat(300)).len(), 254);
    }

    #[test]
    fn names_travel_as_ascii() {
        assert_eq!(percent_encode("a b/ü.txt"), "a%20b%2F%C3%BC.txt");
    }

    #[test]
    fn base_names() {
        for (path, name) in [
            ("a/b/c.txt", "c.txt"),
            ("/c", "c"),
            ("c/", "c"),
            ("c", "c"),
            ("", ""),
            ("/", ""),
            ("..", ""),
            ("a/..", ""),
        ] {
            assert_eq!(base_name(path), name, "{path:?}");
        }
    }

    #[test]
    fn media_types() {
        assert_eq!(media_type_of("Film.MP4"), Some("video/mp4"));
        assert_eq!(media_type_of("a.tar.gz"), Some("application/gzip"));
        assert_eq!(media_type_of("gz"), None);
        assert_eq!(media_type_of("a.unheard-of"), None);
    }
}
