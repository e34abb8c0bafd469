//! What a read asks before it says "k needed, x reachable".
//!
//! The first pass of a read takes any shard from each live peer. It misses a peer thought dead, or silent or
//! refusing for a moment, and a holder of two indices whose first answer repeated another's: a put that
//! replaced a slow holder, or a peer that came back, leaves such pairs until custody trims them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::VerifiedShard;

use super::events::Transfer;
use super::peer_client::Fetched;
use crate::peer::membership::LIKELY_HOLDERS;
use crate::transfer::Transfers;

/// Questions of a second look that are on their way at the same time.
const PARALLEL: usize = 8;
/// Questions of a second look, at most.
const MAX_QUESTIONS: usize = 256;

/// How often a read looks again, and how long it waits before each look.
const LOOKS: (u32, Duration) = (3, Duration::from_millis(250));

/// What the first pass found out.
#[derive(Clone, Copy)]
pub(super) struct FirstLook<'a> {
    pub(super) stripe: Id,
    pub(super) needed: usize,
    /// Indices not to be used.
    pub(super) without: &'a [u8],
    /// Who gave a shard, of use or not.
    pub(super) gave: &'a BTreeSet<Peer>,
    /// Who did not answer.
    pub(super) silent: &'a BTreeSet<Peer>,
}

/// Looks again, a few times, until enough shards are there.
pub(super) async fn look_again(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    look: FirstLook<'_>,
    have: &mut BTreeMap<u8, VerifiedShard>,
) {
    let (looks, wait) = LOOKS;
    for _ in 0..looks {
        if have.len() < look.needed {
            tokio::time::sleep(wait).await;
            second_look(transfers, transfer, look, have).await;
        }
    }
}

/// Asks those who gave a shard for each index that is missing, and those who were silent or absent for any,
/// until enough are there.
async fn second_look(
    transfers: &Arc<Transfers>,
    transfer: &Transfer,
    look: FirstLook<'_>,
    have: &mut BTreeMap<u8, VerifiedShard>,
) {
    let stripe = look.stripe;
    let absent = transfers.member.absent_successors(stripe, LIKELY_HOLDERS);
    let quiet = look
        .silent
        .iter()
        .chain(&absent)
        .filter_map(|peer| transfers.member.core.contact(*peer));
    let mut questions: Vec<(Contact, u8, bool)> = quiet.map(|contact| (contact, 0, false)).collect();
    if let Some(n) = have.values().next().map(|shard| shard.header().code().n()) {
        let missing: Vec<u8> = (0..n)
            .filter(|index| !have.contains_key(index) && !look.without.contains(index))
            .collect();
        for contact in look
            .gave
            .iter()
            .filter_map(|peer| transfers.member.core.contact(*peer))
        {
            questions.extend(missing.iter().map(|index| (contact.clone(), *index, true)));
        }
    }
    questions.truncate(MAX_QUESTIONS);
    let mut answers = stream::iter(questions)
        .map(|(contact, want, exact)| async move {
            transfers
                .peers
                .fetch(transfer, &contact, stripe, want, exact)
                .await
        })
        .buffer_unordered(PARALLEL);
    while have.len() < look.needed
        && let Some(answer) = answers.next().await
    {
        match answer {
            Fetched::Shard(shard) if !look.without.contains(&shard.index()) => {
                have.insert(shard.index(), *shard);
            }
            Fetched::Shard(_)
            | Fetched::Deleted(_)
            | Fetched::None(_)
            | Fetched::Corrupt
            | Fetched::Silent => {}
        }
    }
}
