//! The end of a put: every holder makes its shards permanent, and what was lost since is made good.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream;
use mutualstore_dht::{Id, Peer};

use super::{Putting, ROUNDS, WINDOW};
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::commit::commit_all;
use crate::transfer::lease::Lost;
use crate::transfer::report::{expired, nothing_stored};
use crate::transfer::stripes::{Placed, complete_stripe};

impl Putting<'_> {
    /// The point of no return: every stripe is durable, so each holder makes its shards permanent.
    pub(super) async fn commit(&mut self, link: &Link) -> Result<(), Failure> {
        let sealed = self.transfers.files.seal(&self.listed(link));
        if let Some(journal) = &mut self.journal {
            journal.mark_committing(&sealed).map_err(nothing_stored)?;
        }
        self.commit_at(self.leased.lease().held()).await;
        for _ in 0..ROUNDS {
            let added = self.complete().await;
            if added.is_empty() {
                break;
            }
            self.commit_at(added).await;
        }
        let short = |placed: &&Placed| {
            placed.holders.len() < Placed::least(placed.k, placed.n, self.options.degraded)
        };
        if let Some(placed) = self.stripes.iter().find(short) {
            return Err(expired(placed));
        }
        self.list(link).await
    }

    /// Has these holders commit; what they do not confirm is no longer counted.
    async fn commit_at(&mut self, asked: BTreeMap<Peer, Vec<Id>>) {
        let lost = commit_all(
            &self.transfers.peers,
            self.secret,
            asked,
            self.writing.write_timeout,
        )
        .await;
        for placed in &mut self.stripes {
            let stripe = placed.stripe;
            placed
                .holders
                .retain(|(_, peer)| !lost.contains(&(*peer, stripe)));
        }
    }

    /// A holder lost shards of this put before the commit: makes them good while there are enough others. One
    /// stripe that cannot be made good ends the put, as nothing more of the file need be sent.
    pub(super) async fn mend(&mut self, lost: Lost) -> Result<(), Failure> {
        let is_lost = |placed: &Placed| {
            let of_peer = placed.holders.iter().any(|(_, peer)| *peer == lost.peer);
            of_peer && lost.stripes.contains(&placed.stripe)
        };
        let (hit, sound): (Vec<Placed>, Vec<Placed>) =
            std::mem::take(&mut self.stripes).into_iter().partition(is_lost);
        self.stripes = sound;
        let (transfers, writing) = (self.transfers, &self.writing);
        let mending = stream::iter(hit).map(|mut placed| async move {
            placed.holders.retain(|(_, peer)| *peer != lost.peer);
            if placed.holders.len() >= usize::from(placed.k) {
                complete_stripe(transfers, writing, &mut placed).await;
            }
            placed
        });
        let mended: Vec<Placed> = mending.buffered(WINDOW).collect().await;
        let beyond = |placed: &&Placed| placed.holders.len() < usize::from(placed.k);
        let failure = mended.iter().find(beyond).map(expired);
        self.stripes.extend(mended);
        failure.map_or(Ok(()), Err)
    }

    /// Makes good shards whose holders were lost since they stored them; who holds what was added.
    async fn complete(&mut self) -> BTreeMap<Peer, Vec<Id>> {
        let mut added: BTreeMap<Peer, Vec<Id>> = BTreeMap::new();
        let (transfers, writing) = (self.transfers, &self.writing);
        let stripes = std::mem::take(&mut self.stripes);
        let completed = stream::iter(stripes).map(|mut placed| async move {
            let before = placed.holders.len();
            if before < usize::from(placed.n) {
                complete_stripe(transfers, writing, &mut placed).await;
            }
            (placed, before)
        });
        let completed: Vec<(Placed, usize)> = completed.buffered(WINDOW).collect().await;
        for (placed, before) in completed {
            for (_, peer) in placed.holders.iter().skip(before) {
                added.entry(*peer).or_default().push(placed.stripe);
            }
            self.stripes.push(placed);
        }
        added
    }
}
