//! What is remembered of files, as it is told.

use std::sync::Arc;

use mutualstore_contract::reply::{FileHealth, Health};

use super::{STRIPES, Watched};
use crate::datadir::list::index::Index;
use crate::datadir::list::{Listed, Page, Shown};
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::Transfers;

/// A file of the list with what is remembered of it.
pub(crate) struct Remembered {
    pub(crate) file: Shown,
    /// None before the first answer.
    pub(crate) health: Option<Health>,
    /// Age of that answer in seconds.
    pub(crate) age: Option<u32>,
}

impl Transfers {
    /// The file behind a link, if it was put through this peer and is not deleted.
    pub(crate) async fn listed(self: &Arc<Self>, link: &Link) -> Result<Option<Listed>, Failure> {
        let (transfers, manifest) = (Arc::clone(self), link.manifest);
        let found = tokio::task::spawn_blocking(move || transfers.files.find(&manifest)).await;
        Ok(found.map_err(Failure::unexpected)??)
    }

    /// A page of the files put through this peer, with their health as it is remembered, or asked now if
    /// `fresh`.
    pub(crate) async fn page(
        self: &Arc<Self>,
        (after, limit): (Option<u32>, usize),
        pattern: Option<String>,
        fresh: bool,
    ) -> Result<(Vec<Remembered>, Option<u32>), Failure> {
        let transfers = Arc::clone(self);
        let read =
            tokio::task::spawn_blocking(move || transfers.files.page(after, limit, pattern.as_deref())).await;
        let Page { files, next } = read.map_err(Failure::unexpected)??;
        let numbers: Vec<u32> = files.iter().map(|(number, _)| *number).collect();
        if fresh {
            let _turn = self.sweep.fresh.lock().await;
            self.survey_files(&numbers).await?;
            self.sweep.wake.notify_one();
        }
        let now = self.seconds();
        let known = move |index: &mut Index<Watched>| {
            let remembered = |number| {
                let watched = &index.get(number)?.watched;
                Some((watched.health?, now.saturating_sub(watched.answered)))
            };
            numbers.into_iter().map(remembered).collect::<Vec<_>>()
        };
        let files = files.into_iter().zip(self.on_files(known).await?);
        let files = files.map(|((_, file), known)| Remembered {
            file,
            health: known.map(|(health, _)| health),
            age: known.map(|(_, age)| age),
        });
        Ok((files.collect(), next))
    }

    /// All files by health as it is remembered, or asked now if `fresh`; the age of the oldest answer in
    /// seconds; and how many files have which code.
    pub(crate) async fn tally(
        self: &Arc<Self>,
        fresh: bool,
    ) -> Result<(FileHealth, Option<u32>, Vec<(String, usize)>), Failure> {
        if fresh {
            let _turn = self.sweep.fresh.lock().await;
            let all = |index: &mut Index<Watched>| index.after(None).map(|(number, _)| number).collect();
            let numbers: Vec<u32> = self.on_files(all).await?;
            for batch in numbers.chunks(STRIPES) {
                self.survey_files(batch).await?;
            }
            self.sweep.wake.notify_one();
        }
        let now = self.seconds();
        let count = move |index: &mut Index<Watched>| {
            let (mut tally, mut oldest) = (FileHealth::default(), None);
            let mut codes: Vec<(String, usize)> = Vec::new();
            for (_, entry) in index.after(None) {
                let counter = match entry.watched.health {
                    Some(Health::Safe) => &mut tally.safe,
                    Some(Health::Degraded) => &mut tally.degraded,
                    Some(Health::Endangered) => &mut tally.endangered,
                    Some(Health::Lost) => &mut tally.lost,
                    None => &mut tally.unknown,
                };
                *counter += 1;
                if entry.watched.health.is_some() {
                    oldest = oldest.max(Some(now.saturating_sub(entry.watched.answered)));
                }
                let (code, _) = index.kind(entry);
                match codes.iter_mut().find(|(known, _)| known == code) {
                    Some((_, count)) => *count += 1,
                    None => codes.push((code.to_owned(), 1)),
                }
            }
            (tally, oldest, codes)
        };
        self.on_files(count).await
    }
}
