//! Where shards lie on disk, for those who want to damage some and see what happens.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Key;
use super::disk::{Disk, OsDisk};
use super::record::{HEADER_BYTES, Kind, decode_keys};
use super::segment::{Scanner, parse_name, read_body};

/// A shard's bytes on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The segment.
    pub file: PathBuf,
    /// Where in it the payload begins, in bytes.
    pub offset: u64,
    /// Bytes of the payload.
    pub len: u64,
}

/// The shards in the store's directory `dir`, which may be open elsewhere: what comes or goes meanwhile may
/// be missed.
pub fn locate(dir: &Path) -> io::Result<BTreeMap<Key, Located>> {
    let dir = dir.join("segments");
    let named = OsDisk.list(&dir)?.into_iter().filter_map(|name| {
        let (id, salt) = parse_name(name.to_str()?)?;
        Some((id, salt, dir.join(name)))
    });
    let mut segments: Vec<(u32, u64, PathBuf)> = named.collect();
    segments.sort();
    let mut found = BTreeMap::new();
    for (_, salt, path) in segments {
        let file = match OsDisk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let len = file.len()?;
        for (at, header) in Scanner::new(file.as_ref(), salt, len) {
            match header.kind {
                Kind::Put => {
                    let offset = at + HEADER_BYTES as u64 + u64::from(header.header_len);
                    let len = u64::from(header.payload_len);
                    let file = path.clone();
                    found.insert(header.key, Located { file, offset, len });
                }
                Kind::Drop => {
                    let body = read_body(file.as_ref(), at, &header)?.unwrap_or_default();
                    decode_keys(&body).for_each(|key| drop(found.remove(&key)));
                }
                Kind::Commit | Kind::Renew | Kind::Restate | Kind::Footer | Kind::Dead => {}
            }
        }
    }
    Ok(found)
}
