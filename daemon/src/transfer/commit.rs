//! The end of a put at its holders: committing, or discarding instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::{Id, Peer};

use super::peer_client::PeerClient;
use crate::wire::peer::{MAX_STRIPES, PeerRequest, PeerResponse, PutSecret};

/// One attempt at a commit; several fit into the write time-out.
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
const COMMIT_AGAIN: Duration = Duration::from_millis(500);

/// Tells one holder to commit; the stripes it confirmed. `None` when it did not answer.
async fn commit_at(peers: &PeerClient, secret: PutSecret, peer: Peer, stripes: &[Id]) -> Option<Vec<Id>> {
    let request = PeerRequest::Commit(secret.token(peer), stripes.to_vec());
    let Ok(PeerResponse::Done(held)) = peers.ask(peer, request, COMMIT_DEADLINE).await else {
        return None;
    };
    Some(
        stripes
            .iter()
            .zip(held)
            .filter(|(_, held)| *held)
            .map(|(stripe, _)| *stripe)
            .collect(),
    )
}

/// Commits with every holder, trying silent ones again until `patience` is over. Returns what was not
/// committed.
pub(crate) async fn commit_all(
    peers: &PeerClient,
    secret: PutSecret,
    holders: BTreeMap<Peer, Vec<Id>>,
    patience: Duration,
) -> BTreeSet<(Peer, Id)> {
    let until = Instant::now() + patience;
    let mut lost: BTreeSet<(Peer, Id)> = BTreeSet::new();
    for (peer, stripes) in &holders {
        lost.extend(stripes.iter().map(|stripe| (*peer, *stripe)));
    }
    let mut waiting = FuturesUnordered::new();
    for (peer, stripes) in holders {
        waiting.push(async move { (peer, commit_with(peers, secret, peer, &stripes, until).await) });
    }
    while let Some((peer, committed)) = waiting.next().await {
        for stripe in committed {
            lost.remove(&(peer, stripe));
        }
    }
    lost
}

/// Commits with one holder; the stripes it confirmed.
async fn commit_with(
    peers: &PeerClient,
    secret: PutSecret,
    peer: Peer,
    stripes: &[Id],
    until: Instant,
) -> Vec<Id> {
    let mut done = Vec::new();
    for chunk in stripes.chunks(MAX_STRIPES) {
        loop {
            if let Some(held) = commit_at(peers, secret, peer, chunk).await {
                done.extend(held);
                break;
            }
            if Instant::now() >= until || !peers.member.core.is_alive(peer) {
                return done;
            }
            tokio::time::sleep(COMMIT_AGAIN).await;
        }
    }
    done
}

/// Takes a put's shards back from every holder that answers; with the others their lease runs out. Whether
/// all answered.
pub(crate) async fn discard_all(
    peers: &PeerClient,
    secret: PutSecret,
    holders: BTreeMap<Peer, Vec<Id>>,
) -> bool {
    let mut waiting = FuturesUnordered::new();
    for (peer, stripes) in holders {
        waiting.push(async move {
            let mut answered = true;
            for chunk in stripes.chunks(MAX_STRIPES) {
                let request = PeerRequest::Discard(secret.token(peer), chunk.to_vec());
                if let Err(error) = peers.ask(peer, request, COMMIT_DEADLINE).await {
                    tracing::debug!(%peer, %error, "keeps shards of a given-up put until their lease ends");
                    answered = false;
                }
            }
            answered
        });
    }
    let mut all = true;
    while let Some(answered) = waiting.next().await {
        all &= answered;
    }
    all
}
