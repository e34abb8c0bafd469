//! How this peer looks from outside: what its clock is to others, and whether they can open connections to
//! it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_ok};
use mutualstore_contract::reply::Outside;
use mutualstore_dht::Peer;
use mutualstore_net::tcp_target;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Membership;
use crate::clock::unix_ms;
use crate::error::Failure;
use crate::wire::peer::{PeerRequest, PeerResponse};

/// Peers asked.
const ASKED: usize = 5;
/// How long a connection may take,
const CONNECT: Duration = Duration::from_secs(3);
/// and an answer.
const DEADLINE: Duration = Duration::from_secs(8);
/// Addresses of one peer that are tried.
const TRIED: usize = 8;

/// Asks a few peers.
pub(crate) async fn look(member: &Arc<Membership>) -> Outside {
    let others: Vec<_> = member.core.alive().into_iter().skip(1).take(ASKED).collect();
    let questions = others.iter().map(|contact| async move {
        let answer = member.remote.ask(contact, &PeerRequest::Probe, DEADLINE).await;
        match answer {
            Ok(PeerResponse::Probed {
                unix_ms: theirs,
                reached,
            }) => Some((unix_ms(), theirs, reached)),
            Ok(_) | Err(_) => None,
        }
    });
    let answers: Vec<_> = join_all(questions).await.into_iter().flatten().collect();
    // The clock is read there last, so only the way back is in the difference.
    let ahead = |(came, theirs, _): &(u64, u64, bool)| {
        let (came, theirs) = (i64::try_from(*came), i64::try_from(*theirs));
        theirs
            .unwrap_or(i64::MAX)
            .saturating_sub(came.unwrap_or(i64::MAX))
    };
    let mut aheads: Vec<i64> = answers.iter().map(ahead).collect();
    aheads.sort_unstable();
    Outside {
        asked: others.len() as u64,
        answered: answers.len() as u64,
        reached: answers.iter().filter(|(.., reached)| *reached).count() as u64,
        clock_ahead_ms: aheads.get(aheads.len() / 2).copied(),
    }
}

impl Membership {
    /// Tries the addresses that the asker announces, those of use from here.
    pub(crate) async fn answer_probe(&self, from: Peer) -> PeerResponse {
        let Some((contact, net)) = self.core.contact(from).zip(self.remote.net()) else {
            return PeerResponse::Refused("not known yet".to_owned());
        };
        let tried = net.usable_addresses(&contact.addresses);
        let connecting = tried
            .into_iter()
            .take(TRIED)
            .filter_map(|text| tcp_target(&text))
            .map(|target| {
                Box::pin(async move {
                    let connected = timeout(CONNECT, TcpStream::connect(target)).await;
                    connected
                        .map_err(Failure::unexpected)?
                        .map_err(Failure::unexpected)
                })
            });
        let connecting: Vec<_> = connecting.collect();
        let reached = !connecting.is_empty() && select_ok(connecting).await.is_ok();
        PeerResponse::Probed {
            unix_ms: unix_ms(),
            reached,
        }
    }
}
