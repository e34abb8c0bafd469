//! Many changes of a bucket at once: all or none in the eyes of other devices.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use mutualstore_contract::reply::{Batch, CopyName, Enter, RemoveName};
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, File, Name, What, tag};
use mutualstore_tree::merge::Versions;

use super::{Change, Names, OpenBucket, file_name, link, pointer};
use crate::error::Failure;
use crate::format::link::Link;
use crate::format::names::{base_name, media_type_of};
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::options::PutOptions;
use crate::transfer::{Transfers, get, put};

/// Files that are copied into another bucket at the same time.
const WIDTH: usize = 8;
/// The most changes of one batch.
const MOST: usize = 100_000;

fn not_there(key: &str) -> Failure {
    Failure::not_found(format!("no key {key:?} in this bucket; nothing was changed"))
}

/// Whether a key is `above` or lies below it as paths do: `a/b` below `a` and `a/`, `ab` below neither.
fn is_below(key: &str, above: &str) -> bool {
    let rest = key.strip_prefix(above);
    rest.is_some_and(|rest| {
        above.is_empty() || above.ends_with('/') || rest.is_empty() || rest.starts_with('/')
    })
}

/// What a stored file is under a key.
pub(crate) fn file_of(name: &Name, stored: &str, size: u64, modified_ms: i64) -> Result<What, Failure> {
    let stored: Link = stored.parse()?;
    let media_type = media_type_of(base_name(name.key()));
    Ok(What::File(File {
        pointer: pointer(&stored),
        size,
        modified_ms,
        media_type: media_type.unwrap_or_default().to_owned(),
    }))
}

/// Whole milliseconds of a time, Unix nanoseconds, and the fields that say the rest.
pub(crate) fn fields_of(modified_ns: i64, executable: bool) -> (i64, Fields) {
    let mut fields = Fields::new();
    if executable {
        fields.insert(tag::EXECUTABLE, Bytes::new());
    }
    let rest = u32::try_from(modified_ns.rem_euclid(1_000_000)).unwrap_or_default();
    if rest != 0 {
        fields.insert(tag::NANOSECONDS, Bytes::copy_from_slice(&rest.to_be_bytes()));
    }
    (modified_ns.div_euclid(1_000_000), fields)
}

/// The time that milliseconds and fields say, Unix nanoseconds.
pub(crate) fn nanoseconds(modified_ms: i64, fields: &Fields) -> i64 {
    let rest = fields.get(&tag::NANOSECONDS);
    let rest = rest
        .and_then(|rest| rest.as_ref().try_into().ok())
        .map_or(0, u32::from_be_bytes);
    modified_ms.saturating_mul(1_000_000).saturating_add(rest.into())
}

fn entered(one: &Enter) -> Result<Change, Failure> {
    let name = file_name(&one.key)?;
    let (modified_ms, fields) = fields_of(one.modified_ns, one.executable);
    let what = file_of(&name, &one.link, one.size_bytes, modified_ms)?;
    Ok(Change {
        staged: true,
        ..Change::new(name, what, fields)
    })
}

fn deletion(name: Name) -> Change {
    Change::new(name, What::Deleted, Fields::new())
}

impl Names {
    /// Makes all these changes of a bucket. How many keys were written.
    pub(crate) async fn apply(&self, bucket: &str, batch: &Batch) -> Result<u64, Failure> {
        let open = self.bucket(bucket, false).await?;
        let entered = batch.enter.iter().map(entered);
        let mut changes = entered.collect::<Result<Vec<Change>, Failure>>()?;
        for directory in &batch.directories {
            let name = file_name(&directory.key)?;
            if !name.is_directory() {
                return Err(Failure::usage(format!(
                    "{:?} does not end in /, as directories do",
                    name.key()
                )));
            }
            let (modified_ms, fields) = fields_of(directory.modified_ns, false);
            let what = What::Directory { modified_ms };
            changes.push(Change::new(name, what, fields));
        }
        let mut elsewhere = 0;
        for copy in &batch.copy {
            elsewhere += self.copy(bucket, &open, copy, &mut changes).await?;
        }
        for RemoveName { key, recursive } in &batch.remove {
            let there = self.matching(&open, key, *recursive).await?;
            changes.extend(there.into_iter().map(|entry| deletion(entry.name)));
        }
        if changes.len() > MOST {
            let text = format!(
                "these are {} changes; at most {MOST} are possible at once",
                changes.len()
            );
            return Err(Failure::usage(text));
        }
        let written = changes.len() as u64;
        if written > 0 {
            open.ready(self.transfers()).await?;
            self.unstage(&open, &mut changes)?;
            open.enter(self.transfers(), changes).await?;
        }
        Ok(written + elsewhere)
    }

    /// What a key is, and with `recursive` all below it.
    async fn matching(&self, open: &OpenBucket, key: &str, recursive: bool) -> Result<Vec<Entry>, Failure> {
        let found: Vec<Entry> = if recursive {
            let all = open.list(self.transfers(), &super::prefix_of(key), false).await?;
            all.filter(|versions| is_below(versions.name().key(), key))
                .filter_map(|versions| versions.there().cloned())
                .collect()
        } else {
            let versions = open.versions(self.transfers(), &file_name(key)?, false).await?;
            versions
                .as_ref()
                .and_then(Versions::there)
                .cloned()
                .into_iter()
                .collect()
        };
        if found.is_empty() {
            return Err(not_there(key));
        }
        Ok(found)
    }

    /// Adds what copying comes to: the new keys of this bucket, and the old ones that are deleted. What goes
    /// to another bucket is stored and written there at once; how many keys that are.
    async fn copy(
        &self,
        bucket: &str,
        open: &OpenBucket,
        copy: &CopyName,
        changes: &mut Vec<Change>,
    ) -> Result<u64, Failure> {
        let mut elsewhere = 0;
        let found = match &copy.version {
            None => self.matching(open, &copy.from, copy.recursive).await?,
            Some(version) => {
                let versions = open
                    .versions(self.transfers(), &file_name(&copy.from)?, false)
                    .await?;
                let all = versions.iter().flat_map(Versions::all);
                let wanted = |entry: &&Entry| super::hex_of(entry.version) == *version;
                let found: Vec<Entry> = all
                    .filter(wanted)
                    .filter(|entry| entry.is_there())
                    .cloned()
                    .collect();
                if found.is_empty() {
                    return Err(Failure::not_found(
                        "no such version of this key; nothing was changed",
                    ));
                }
                found
            }
        };
        let mut new = Vec::new();
        for entry in &found {
            let rest = entry.name.key().get(copy.from.len()..).unwrap_or_default();
            let name = file_name(&format!("{}{rest}", copy.to))?;
            if name.is_directory() != entry.name.is_directory() {
                return Err(Failure::usage(format!(
                    "{:?} cannot become {:?}: keys of directories end in /, those of files do not; nothing \
                     was changed",
                    entry.name.key(),
                    name.key()
                )));
            }
            new.push(Change::new(name, entry.what.clone(), entry.fields.clone()));
        }
        match copy.bucket.as_deref().filter(|other| *other != bucket) {
            None => changes.extend(new),
            Some(other) => {
                let target = self.bucket(other, false).await?;
                let stored = stream::iter(new).map(|change| stored_again(self.transfers(), &target, change));
                let stored: Vec<Change> = stored.buffered(WIDTH).try_collect().await?;
                elsewhere = stored.len() as u64;
                target.write_all(self.transfers(), stored).await?;
            }
        }
        let stays = |name: &Name| changes.iter().any(|change| change.name == *name);
        if copy.moved {
            let old: Vec<Change> = found
                .into_iter()
                .filter(|entry| !stays(&entry.name))
                .map(|entry| deletion(entry.name))
                .collect();
            changes.extend(old);
        }
        Ok(elsewhere)
    }
}

/// The same change with its file stored again, for another bucket: its owner is another one.
async fn stored_again(
    transfers: &Arc<Transfers>,
    target: &OpenBucket,
    change: Change,
) -> Result<Change, Failure> {
    let What::File(file) = &change.what else {
        return Ok(change);
    };
    let transfer = Arc::new(Transfer::new(Operation::Get));
    let opened = get::open(transfers, &transfer, &link(transfers, &file.pointer)).await?;
    let size = opened.manifest.size;
    let options = PutOptions {
        name: base_name(change.name.key()).to_owned(),
        policy: opened.manifest.placement.policy,
        code: target.code(transfers).await?,
        ..PutOptions::of_bucket(target.place(false), size)
    };
    let body = if size == 0 {
        stream::empty().left_stream()
    } else {
        get::stream(transfers, transfer, opened, 0..size, &[])
            .await?
            .right_stream()
    };
    let putting = Arc::new(Transfer::new(Operation::Put));
    let (report, kept) = put::put(transfers, options, std::pin::pin!(body), &putting).await?;
    let what = file_of(&change.name, &report.link, size, file.modified_ms)?;
    Ok(Change { what, kept, ..change })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_as_paths_are() {
        for (key, above, is) in [
            ("a/b", "a", true),
            ("a/b", "a/", true),
            ("a/", "a", true),
            ("a", "a", true),
            ("ab", "a", false),
            ("ab", "", true),
            ("b/a", "a", false),
        ] {
            assert_eq!(is_below(key, above), is, "{key} {above}");
        }
    }
}
