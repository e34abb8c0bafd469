//! What a course project on distributed file systems published for its own system, on its own machines: a
//! frame for the eye, not a contest. Small files have no size there; it does not say whether its ten readers
//! read the same file.

/// One published figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// Clients at the same time.
    pub clients: usize,
    /// Files of each.
    pub files: usize,
    /// Bytes of each file; 0 where that is not published.
    pub file_bytes: u64,
    /// Upload, seconds.
    pub put_seconds: Option<f64>,
    /// Download with all its optimisations (parallel transfer, streaming window, larger frames, cache),
    /// seconds.
    pub get_seconds: Option<f64>,
}

const fn row(clients: usize, files: usize, file_bytes: u64, put: Option<f64>, get: f64) -> Published {
    Published {
        clients,
        files,
        file_bytes,
        put_seconds: put,
        get_seconds: Some(get),
    }
}

impl Published {
    /// What `put` or `get` took, seconds.
    pub(super) fn seconds(&self, op: &str) -> Option<f64> {
        if op == "put" {
            self.put_seconds
        } else {
            self.get_seconds
        }
    }
}

/// All of them.
pub const TABLE: [Published; 6] = [
    row(1, 1, 10_000_000, Some(0.07), 4.7),
    row(1, 1, 100_000_000, Some(6.3), 11.2),
    row(1, 1, 500_000_000, Some(13.9), 22.0),
    row(1, 1, 1_500_000_000, Some(160.0), 124.0),
    row(10, 1, 500_000_000, None, 9.2),
    row(10, 100, 0, None, 28.0),
];

/// The published figure for such a load.
pub(super) fn find(clients: usize, files: usize, file_bytes: u64) -> Option<Published> {
    let same = |published: &Published| {
        published.clients == clients
            && published.files == files
            && (published.file_bytes == file_bytes || published.file_bytes == 0)
    };
    TABLE.into_iter().find(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_figures_are_found_by_their_load() {
        assert_eq!(find(1, 1, 500_000_000).unwrap().get_seconds, Some(22.0));
        assert_eq!(find(10, 100, 10_000).unwrap().get_seconds, Some(28.0));
        assert_eq!(find(10, 1, 10_000), None);
        assert_eq!(find(1, 1, 500), None);
    }
}
