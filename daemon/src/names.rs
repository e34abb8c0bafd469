//! Names of files: what a put records, and the media type a name suggests. Making a stranger's name harmless to
//! write is up to whoever writes it.

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

#[cfg(test)]
mod tests {
    use super::*;

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
