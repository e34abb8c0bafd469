//! The end of a put at its holders: drives [`Committing`]; or discards instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::writer::{Commit, Committing, Placed};
use mutualstore_dht::{Id, Peer};

use super::peer_client::PeerClient;
use crate::wire::peer::{MAX_STRIPES, PeerRequest, PeerResponse, PutSecret};

/// One attempt at a commit; several fit into the write time-out.
const DEADLINE: Duration = Duration::from_secs(5);

/// Who holds what of a put.
pub(crate) type Held = BTreeMap<Peer, BTreeSet<Id>>;

/// Has one holder commit; of each stripe that it answers about, whether it holds it.
async fn commit_at(
    peers: &PeerClient,
    secret: PutSecret,
    peer: Peer,
    stripes: Vec<Id>,
) -> (Peer, Vec<(Id, bool)>) {
    let mut answer = Vec::with_capacity(stripes.len());
    for chunk in stripes.chunks(MAX_STRIPES) {
        let request = PeerRequest::Commit(secret.token(peer), chunk.to_vec());
        let Ok(PeerResponse::Done(held)) = peers.ask(peer, request, DEADLINE).await else {
            break;
        };
        answer.extend(chunk.iter().copied().zip(held));
    }
    (peer, answer)
}

/// Commits with every holder; `complete` makes a stripe good of which holders lost shards.
pub(crate) async fn commit<F: Future<Output = Placed>>(
    peers: &PeerClient,
    secret: PutSecret,
    mut committing: Committing,
    complete: impl Fn(Placed) -> F,
) -> Committing {
    let core = &peers.member.core;
    let (mut asks, mut completes) = (FuturesUnordered::new(), FuturesUnordered::new());
    while !committing.is_over() {
        match committing.poll(core.now()) {
            Some(Commit::Ask { to, stripes }) => asks.push(commit_at(peers, secret, to, stripes)),
            Some(Commit::Complete(placed)) => completes.push(complete(placed)),
            None => {
                let due = committing.poll_timeout();
                tokio::select! {
                    Some((peer, answer)) = asks.next() => core.read(|state| {
                        committing.handle_answer(core.now(), &state.engine.ring, peer, &answer);
                    }),
                    Some(placed) = completes.next() => committing.handle_completed(placed),
                    () = core.sleep_until(due.unwrap_or_default()), if due.is_some() => {}
                    else => break,
                }
            }
        }
    }
    committing
}

/// Takes a put's shards back from every holder that answers; with the others their lease runs out. Whether
/// all answered.
pub(crate) async fn discard_all(peers: &PeerClient, secret: PutSecret, holders: Held) -> bool {
    let mut waiting = FuturesUnordered::new();
    for (peer, stripes) in holders {
        let stripes: Vec<Id> = stripes.into_iter().collect();
        waiting.push(async move {
            let mut answered = true;
            for chunk in stripes.chunks(MAX_STRIPES) {
                let request = PeerRequest::Discard(secret.token(peer), chunk.to_vec());
                if let Err(error) = peers.ask(peer, request, DEADLINE).await {
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
