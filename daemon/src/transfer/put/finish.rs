//! The end of a put: every holder makes its shards permanent, and what was lost since is made good.

use futures::StreamExt;
use futures::stream;
use mutualstore_dht::writer::{Committing, Placed};

use super::{Putting, WINDOW};
use crate::error::Failure;
use crate::format::link::Link;
use crate::transfer::commit::commit;
use crate::transfer::lease::Lost;
use crate::transfer::placing::complete_stripe;
use crate::transfer::report::{expired, nothing_stored};

impl Putting<'_> {
    /// The point of no return: every stripe is durable, so each holder makes its shards permanent.
    pub(super) async fn commit(&mut self, link: &Link) -> Result<(), Failure> {
        let files = &self.transfers.files;
        let sealed = match &self.options.bucket {
            None => files.seal(&self.listed(link)),
            in_bucket => files.seal_deletion(link, in_bucket.as_ref()),
        };
        if let Some(journal) = &mut self.journal {
            journal.mark_committing(&sealed).map_err(nothing_stored)?;
        }
        let (transfers, writing) = (self.transfers, &self.writing);
        let committing = Committing::new(
            transfers.member.core.now(),
            std::mem::take(&mut self.stripes),
            self.leased.lease().held(),
            self.options.degraded,
            writing.write_timeout,
        );
        let complete = |placed| complete_stripe(transfers, writing, placed);
        let committed = commit(&transfers.peers, writing.secret, committing, complete).await;
        let committed = committed.into_outcome();
        let needed = |short: &Placed| Placed::least(short.k, short.n, self.options.degraded);
        self.stripes = committed.map_err(|short| expired(&short, needed(&short)))?;
        self.list(link).await
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
                complete_stripe(transfers, writing, placed).await
            } else {
                placed
            }
        });
        let mended: Vec<Placed> = mending.buffered(WINDOW).collect().await;
        let beyond = |placed: &&Placed| placed.holders.len() < usize::from(placed.k);
        let failure = mended
            .iter()
            .find(beyond)
            .map(|lost| expired(lost, usize::from(lost.k)));
        self.stripes.extend(mended);
        failure.map_or(Ok(()), Err)
    }
}
