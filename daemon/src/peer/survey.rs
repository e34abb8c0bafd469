//! Whether the ring is one: every peer walks it, and every virtual member is found from here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use mutualstore_contract::reply::RingCheck;
use mutualstore_dht::Peer;

use super::Membership;
use crate::error::Failure;
use crate::wire::peer::{PeerRequest, PeerResponse};

/// A walk of a large ring takes a while.
const DEADLINE: Duration = Duration::from_secs(30);
/// Peers and lookups asked at the same time.
const PARALLEL: usize = 8;

/// Has every peer walk the ring, compares what they met, and looks every virtual member up.
pub(crate) async fn check_ring(member: &Arc<Membership>) -> Result<RingCheck, Failure> {
    let walk = member
        .core
        .walk()
        .await
        .ok_or_else(|| Failure::refused("the ring is being joined"))?;
    let expected: BTreeSet<Peer> = walk.answered.iter().map(|contact| contact.peer).collect();
    let mut problems: Vec<String> = walk
        .silent
        .iter()
        .map(|peer| format!("{peer} does not answer"))
        .collect();
    let mut others = walk.answered.clone();
    others.retain(|contact| contact.peer != member.me);
    let surveys = stream::iter(others).map(|contact| async move {
        (
            contact.peer,
            member.remote.ask(&contact, &PeerRequest::Survey, DEADLINE).await,
        )
    });
    let mut surveys = surveys.buffer_unordered(PARALLEL);
    while let Some((peer, answer)) = surveys.next().await {
        match answer {
            Ok(PeerResponse::Survey(met, _)) => {
                let met: BTreeSet<Peer> = met.into_iter().collect();
                for missed in expected.difference(&met) {
                    problems.push(format!("{peer} does not reach {missed}"));
                }
                for extra in met.difference(&expected) {
                    problems.push(format!("{peer} reaches {extra}, which is not met from here"));
                }
            }
            Ok(_) => problems.push(format!("{peer} answers in a way not understood")),
            Err(error) => problems.push(format!("{peer} did not walk the ring: {error}")),
        }
    }
    let mut places = Vec::new();
    for contact in &walk.answered {
        places.extend(contact.ids().map(|id| (id, contact.peer)));
    }
    let lookups =
        stream::iter(places).map(|(id, peer)| async move { (id, peer, member.core.lookup(id, 1).await) });
    let mut lookups = lookups.buffer_unordered(PARALLEL);
    let mut count = 0;
    while let Some((id, peer, found)) = lookups.next().await {
        count += 1;
        let first = found
            .ok()
            .and_then(|found| found.contacts.first().map(|contact| contact.peer));
        if first != Some(peer) {
            problems.push(format!(
                "virtual member {id} of {peer} is not found where it should be"
            ));
        }
    }
    Ok(RingCheck {
        ok: problems.is_empty(),
        lookups: count,
        problems,
    })
}

impl Membership {
    /// Walks the ring for another peer that checks it.
    pub(crate) async fn answer_survey(&self) -> PeerResponse {
        let Some(walk) = self.core.walk().await else {
            return PeerResponse::Refused("joining".into());
        };
        let virtual_nodes: usize = walk.answered.iter().map(|c| c.virtual_nodes.len()).sum();
        let peers = walk.answered.iter().map(|contact| contact.peer).collect();
        PeerResponse::Survey(peers, u32::try_from(virtual_nodes).unwrap_or(u32::MAX))
    }
}
