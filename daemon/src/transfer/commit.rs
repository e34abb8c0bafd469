//! The end of a put at its holders: committing, or discarding instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::{Id, Peer};

use crate::node::Node;
use crate::wire::node::{MAX_STRIPES, NodeRequest, NodeResponse, PutSecret};

/// One attempt at a commit; several fit into the write time-out.
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);
const COMMIT_AGAIN: Duration = Duration::from_millis(500);

/// Tells one holder to commit; the stripes it confirmed. `None` when it did not answer.
async fn commit_at(node: &Arc<Node>, secret: PutSecret, peer: Peer, stripes: &[Id]) -> Option<Vec<Id>> {
    let held = if peer == node.me {
        node.shards
            .commit(&node.core, stripes.to_vec(), Some(secret.token(peer)))
            .await
            .ok()?
    } else {
        let contact = node.core.contact(peer)?;
        let request = NodeRequest::Commit(secret.token(peer), stripes.to_vec());
        match node.ask(&contact, &request, COMMIT_DEADLINE).await {
            Ok(NodeResponse::Done(held)) => held,
            Ok(_) | Err(_) => return None,
        }
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
    node: &Arc<Node>,
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
        waiting.push(async move { (peer, commit_with(node, secret, peer, &stripes, until).await) });
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
    node: &Arc<Node>,
    secret: PutSecret,
    peer: Peer,
    stripes: &[Id],
    until: Instant,
) -> Vec<Id> {
    let mut done = Vec::new();
    for chunk in stripes.chunks(MAX_STRIPES) {
        loop {
            if let Some(held) = commit_at(node, secret, peer, chunk).await {
                done.extend(held);
                break;
            }
            if Instant::now() >= until || !node.core.is_alive(peer) {
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
    node: &Arc<Node>,
    secret: PutSecret,
    holders: BTreeMap<Peer, Vec<Id>>,
) -> bool {
    let mut waiting = FuturesUnordered::new();
    for (peer, stripes) in holders {
        waiting.push(async move {
            let mut answered = true;
            for chunk in stripes.chunks(MAX_STRIPES) {
                if peer == node.me {
                    node.shards
                        .discard(&node.core, chunk.to_vec(), secret.token(peer))
                        .await;
                } else if let Some(contact) = node.core.contact(peer) {
                    let request = NodeRequest::Discard(secret.token(peer), chunk.to_vec());
                    if let Err(error) = node.ask(&contact, &request, COMMIT_DEADLINE).await {
                        tracing::debug!(%peer, %error, "keeps shards of a given-up put until their lease \
                            ends");
                        answered = false;
                    }
                } else {
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
