//! Names of files: what a put records, what a get may write, and the media type a name suggests.

/// A file name is at most this many bytes on every file system of note.
const MAX_FILE_NAME: usize = 255;

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

/// A name that is harmless to create in the current directory, whatever a stranger called the file: one path
/// component of 1 to 255 bytes, without separators, control characters or characters that turn the direction of
/// text, not hidden, and not to be taken for an option. Harmless names stay as they are.
pub fn safe_file_name(name: &str) -> String {
    let mut out: String = name
        .chars()
        .map(|c| if is_harmful(c) { '_' } else { c })
        .collect();
    if out.starts_with(['.', '-']) {
        out.replace_range(..1, "_");
    }
    out.truncate(out.floor_char_boundary(MAX_FILE_NAME));
    let kept = out.trim_end().len();
    out.truncate(kept);
    if out.is_empty() { "unnamed".to_owned() } else { out }
}

fn is_harmful(c: char) -> bool {
    let turns_text = matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns_text || matches!(c, '/' | '\\' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn harmless_names_stay() {
        for name in [
            "report.pdf",
            "naïve résumé.txt",
            "a b",
            "x.tar.gz",
            "日本語",
            "a..b",
            "~",
        ] {
            assert_eq!(safe_file_name(name), name);
        }
    }

    #[test]
    fn harmful_names_do_not() {
        for (name, safe) in [
            ("", "unnamed"),
            ("  ", "unnamed"),
            (".", "_"),
            ("..", "_."),
            ("../../etc/passwd", "_._.._etc_passwd"),
            (".bashrc", "_bashrc"),
            ("-rf", "_rf"),
            ("a/b\\c", "a_b_c"),
            ("a\0b\n\x1b[31m", "a_b__[31m"),
            ("invoice\u{202E}fdp.exe", "invoice_fdp.exe"),
            ("name ", "name"),
        ] {
            assert_eq!(safe_file_name(name), safe, "{name:?}");
        }
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

    proptest! {
        #[test]
        fn any_name_becomes_one_component(name in any::<String>(), long in "[./\\-é日]{0,300}") {
            for name in [name, long] {
                let safe = safe_file_name(&name);
                prop_assert!((1..=MAX_FILE_NAME).contains(&safe.len()));
                prop_assert!(!safe.contains(is_harmful) && !safe.starts_with(['.', '-']));
                prop_assert_eq!(std::path::Path::new(&safe).file_name(), Some(safe.as_ref()));
                prop_assert_eq!(safe_file_name(&safe), safe);
            }
        }
    }
}
