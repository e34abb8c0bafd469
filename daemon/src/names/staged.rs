//! Files of buckets that are stored and have no name yet: those that a later request names, within a day, and
//! those that a crash left. What nothing names is taken back.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use mutualstore_tree::entry::Pointer;

use super::state::Change;
use super::{Names, OpenBucket};
use crate::clock::unix_ms;
use crate::datadir::journal::Kept;
use crate::datadir::list::InBucket;
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::delete;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::recover::{Nameless, settled};

/// A file waits so long for its name.
const PATIENCE: Duration = Duration::from_hours(24);
/// The most files that wait for their names at once.
const MOST: usize = 100_000;
/// Between two attempts to find out what a crash left.
const AGAIN: Duration = Duration::from_secs(10);
/// Files looked after at the same time.
const WIDTH: usize = 8;

/// A file that waits for its name.
pub(super) struct Staged {
    link: Link,
    bucket: InBucket,
    since_ms: u64,
    kept: Kept,
}

fn is_over(since_ms: u64) -> bool {
    let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    unix_ms().saturating_sub(since_ms) > patience
}

impl Names {
    /// Whether one more file may wait for its name.
    pub(crate) fn check_stage(&self) -> Result<(), Failure> {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        if staged.len() < MOST {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "{MOST} files wait for their names already; nothing was stored"
        )))
    }

    /// A stored file waits for its name.
    pub(crate) fn stage(&self, link: Link, bucket: InBucket, kept: Kept) {
        let since_ms = unix_ms();
        self.wait(Staged {
            link,
            bucket,
            since_ms,
            kept,
        });
    }

    fn wait(&self, staged: Staged) {
        let mut all = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(staged.link.manifest, staged);
    }

    /// Files that get their names wait for them no longer; what the journal has of each goes with its name.
    /// One that has just this name already, as when a request comes twice, gets it again.
    pub(super) fn unstage(&self, open: &OpenBucket, changes: &mut [Change]) -> Result<(), Failure> {
        let mut all = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let public = open.key().public();
        let waits = |pointer: &Pointer| {
            let staged = all.get(&pointer.manifest);
            staged.is_some_and(|staged| staged.bucket.public == public && staged.link.key == pointer.key)
        };
        for change in &*changes {
            let Some(pointer) = change.staged_file() else {
                continue;
            };
            let named = || {
                let named = open.version_of(&pointer.manifest);
                named.is_some_and(|(entry, _)| entry.name == change.name && entry.what == change.what)
            };
            if !waits(pointer) && !named() {
                return Err(Failure::not_found(format!(
                    "the file for {:?} does not wait for its name in this bucket: it was put elsewhere, has \
                     a name, or waited for more than a day; nothing was changed; put it again",
                    change.name.key()
                )));
            }
        }
        for change in changes {
            let manifest = change.staged_file().map(|pointer| pointer.manifest);
            let staged = manifest.and_then(|manifest| all.remove(&manifest));
            change.kept = staged.map(|staged| staged.kept).or(change.kept.take());
        }
        Ok(())
    }

    /// Takes back what waited too long.
    pub(super) async fn end_stages(&self) {
        let over: Vec<Staged> = {
            let mut all = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
            all.extract_if(.., |_, staged| is_over(staged.since_ms))
                .map(|(_, staged)| staged)
                .collect()
        };
        for staged in over {
            tracing::info!("takes back a file that waited for its name for a day");
            let transfers = self.transfers();
            let transfer = Transfer::new(Operation::Delete);
            let outcome = delete::delete(transfers, &staged.link, &staged.bucket.owner, &transfer).await;
            match outcome {
                Ok(_) => {
                    if let Err(error) = staged.kept.finish() {
                        tracing::warn!(%error, "the journal of an old put stays");
                    }
                }
                Err(failure) if failure.retry => self.wait(staged),
                Err(failure) => tracing::warn!(%failure, "a file without a name stays until the next start"),
            }
        }
    }

    /// Whether a bucket of the account names a manifest; none if it has no such bucket.
    async fn refers(&self, nameless: &Nameless) -> Result<Option<bool>, Failure> {
        let Some(open) = self.by_public(&nameless.bucket.public).await? else {
            return Ok(None);
        };
        let refers = open.refers(self.transfers(), &nameless.link.manifest).await?;
        Ok(Some(refers))
    }

    /// Finds out whether a file that a crash left has its name, and takes it back if not.
    async fn judge(&self, nameless: &Nameless) -> Result<Verdict, Failure> {
        match self.refers(nameless).await? {
            Some(true) => Ok(Verdict::Named),
            Some(false) if nameless.bucket.staged && !is_over(nameless.started_ms()) => Ok(Verdict::Waits),
            Some(false) => {
                nameless.take_back(self.transfers()).await?;
                tracing::info!("took back a file that got no name before the daemon stopped");
                Ok(Verdict::Gone)
            }
            None => {
                tracing::warn!(
                    "the journal has a file of a bucket that this account does not have; it stays"
                );
                Ok(Verdict::Strange)
            }
        }
    }
}

/// What became of a file that a crash left.
enum Verdict {
    Named,
    Waits,
    Gone,
    Strange,
}

/// Sees to files in buckets that the journal held at the start.
pub(crate) async fn recover(names: Arc<Names>, nameless: Vec<Nameless>) {
    if nameless.is_empty() {
        return;
    }
    settled(names.transfers()).await;
    let all = stream::iter(nameless).for_each_concurrent(WIDTH, |one| see_to(&names, one));
    all.await;
}

async fn see_to(names: &Names, nameless: Nameless) {
    nameless.complete(names.transfers()).await;
    let verdict = loop {
        match names.judge(&nameless).await {
            Ok(verdict) => break verdict,
            Err(failure) => {
                tracing::debug!(%failure, "whether a file has its name is not known yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let (link, bucket) = (nameless.link.clone(), nameless.bucket.clone());
    let since_ms = nameless.started_ms();
    let kept = nameless.keep();
    match verdict {
        Verdict::Named | Verdict::Gone => {
            if let Err(error) = kept.finish() {
                tracing::warn!(%error, "the journal of an old put stays");
            }
        }
        Verdict::Waits => names.wait(Staged {
            link,
            bucket,
            since_ms,
            kept,
        }),
        Verdict::Strange => {}
    }
}
