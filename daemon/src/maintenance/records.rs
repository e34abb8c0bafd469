//! Custody's effects on signed records: sets are put together, and given up where others are nearer.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::custody::{Item, JobOutcome};
use mutualstore_dht::records::{HOLDERS, Publish};
use mutualstore_dht::{Id, Peer};

use super::Maintenance;
use crate::transfer::records::{Known, hear, near};

/// Reads what some peers have of a key, puts it together, and gives each of the others what it lacks.
pub(super) async fn merge(upkeep: &Arc<Maintenance>, id: Id, from: Vec<Peer>, to: Vec<Peer>) -> JobOutcome {
    let mut outcome = JobOutcome::default();
    let mut known = Known::default();
    let mut complete = true;
    for peer in from {
        complete &= read(upkeep, id, peer, &mut known).await;
    }
    let mut waiting: FuturesUnordered<_> = to.iter().map(|peer| bring(upkeep, id, *peer, &known)).collect();
    while let Some((peer, taken)) = waiting.next().await {
        let list = if taken && complete {
            &mut outcome.stored
        } else {
            &mut outcome.failed
        };
        list.push((Item::of_records(0), peer));
    }
    outcome
}

/// Takes in what a peer has beyond what is known. Whether it gave all.
async fn read(upkeep: &Maintenance, id: Id, peer: Peer, known: &mut Known) -> bool {
    let heard = hear(&upkeep.transfers.peers, peer, id, known.set().clone()).await;
    let Some(heard) = heard else { return false };
    heard.records.into_iter().for_each(|record| known.take(record));
    heard.complete
}

/// Gives a peer what it lacks. Whether it has all of it then.
async fn bring(upkeep: &Maintenance, id: Id, peer: Peer, known: &Known) -> (Peer, bool) {
    let peers = &upkeep.transfers.peers;
    let Some(given) = peers.read_records(peer, id, known.set()).await else {
        return (peer, false);
    };
    let mut taken = true;
    for record in known.beyond(&given.set) {
        let answer = peers.take_record(peer, record).await;
        taken &= matches!(answer, Publish::Stored | Publish::Doubled(_) | Publish::Ended);
    }
    (peer, taken)
}

/// Gives all records that this peer has to the first peers from their keys that stay, and drops them here.
/// Custody does not wait for a key that is written all the time; who leaves does not wait for custody.
pub(super) async fn hand_over(upkeep: &Arc<Maintenance>) {
    let (peers, me) = (&upkeep.transfers.peers, upkeep.member.me);
    for id in peers.records.ids() {
        let Ok((_, staying)) = near(peers, id).await else {
            return;
        };
        let to: Vec<Peer> = staying
            .into_iter()
            .filter(|peer| *peer != me)
            .take(HOLDERS)
            .collect();
        let mut known = Known::default();
        if to.is_empty() || !read(upkeep, id, me, &mut known).await {
            continue;
        }
        for peer in &to {
            bring(upkeep, id, *peer, &known).await;
        }
        give_way(upkeep, id, to).await;
    }
}

/// Drops the records of a key here if these peers, which are nearer, have at least the same.
pub(super) async fn give_way(upkeep: &Arc<Maintenance>, id: Id, to: Vec<Peer>) {
    let peers = &upkeep.transfers.peers;
    let mine = peers.records.set(id);
    for peer in to {
        match peers.read_records(peer, id, &mine).await {
            Some(given) if given.set.covers(&mine) => {}
            Some(_) | None => return,
        }
    }
    peers.records.give_way(id, &mine).await;
}
