//! A member that lies about shards, on real sockets.
//!
//! It keeps to the ring and says yes to all: it takes every shard, locator and tombstone and keeps none,
//! commits and renews what it does not have, and has nothing to give. It claims all indices of every stripe
//! that it hears of, to everybody. Again and again it orders everybody to drop what they hold in its favour.
//! It fetches shards of others, stores them where they are, and elsewhere, under a token of its own, and
//! discards them by that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mutualstore_dht::custody::{
    Entry, Holds, Item, Listing, MAX_ENTRIES, Report, Reported, Request, Response, Shape, Status, TrimOrder,
};
use mutualstore_dht::records::Publish;
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::Header;

use crate::keeper::shape_of;
use crate::peer::Membership;
use crate::wire::peer::{Mending, PeerRequest, PeerResponse, StripeHoldings, Token};
use crate::wire::record::Given;
use crate::wire::shard::{ShardRequest, ShardResponse, ShardStatus};

/// Between two rounds of lies.
const ROUND: Duration = Duration::from_millis(500);
/// How long anybody is waited for.
const DEADLINE: Duration = Duration::from_secs(2);
/// Orders in one message.
const ORDERS: usize = 128;
/// Stripes it steals from in one round, at most.
const THEFTS: usize = 8;
/// What it stored elsewhere it takes back after so long: others may have dropped theirs by then.
const PATIENCE: Duration = Duration::from_secs(12);
/// Its own token.
const TOKEN: Token = [0xee; 16];

static LIAR: OnceLock<Liar> = OnceLock::new();

/// What it has heard of.
#[derive(Debug, Default)]
struct Liar {
    heard: Mutex<BTreeMap<Id, Shape>>,
    /// Stripes it was not at yet.
    fresh: Mutex<BTreeSet<Id>>,
    reports: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on this process is hostile.
pub(super) fn switch_on() {
    LIAR.get_or_init(Liar::default);
}

/// Whether it is.
pub(crate) fn is_on() -> bool {
    LIAR.get().is_some()
}

/// What it answers; none where it is as honest as anybody.
pub(crate) fn answer(member: &Membership, from: Peer, request: &PeerRequest) -> Option<PeerResponse> {
    let liar = LIAR.get()?;
    let yes = |count| Some(PeerResponse::Done(vec![true; count]));
    match request {
        PeerRequest::Custody(request) => {
            member.core.with(|state, now| state.engine.ring.hear(now, from));
            Some(PeerResponse::Custody(liar.custody(request)))
        }
        PeerRequest::Commit(_, stripes)
        | PeerRequest::Discard(_, stripes)
        | PeerRequest::Renew(_, stripes, _) => yes(stripes.len()),
        PeerRequest::Tombstones(tombstones) => yes(tombstones.len()),
        PeerRequest::Locate(_, _, locators) => yes(locators.len()),
        PeerRequest::Holdings(stripes) => {
            let held = |stripe: &Id| StripeHoldings {
                held: liar
                    .claimed(stripe)
                    .into_iter()
                    .map(|index| (index, false))
                    .collect(),
                known: Vec::new(),
            };
            Some(PeerResponse::Holdings(stripes.iter().map(held).collect()))
        }
        PeerRequest::Mending | PeerRequest::Mend(_) => Some(PeerResponse::Mending(Mending::default())),
        PeerRequest::TakeRecord(_) => Some(PeerResponse::Taken(Publish::Stored)),
        PeerRequest::ReadRecords(..) => Some(PeerResponse::Given(Given::default())),
        PeerRequest::Ring(_) | PeerRequest::Survey | PeerRequest::Probe => None,
    }
}

/// What it answers on a shard stream.
pub(crate) fn answer_shard(request: &ShardRequest) -> Option<(ShardResponse, Bytes)> {
    let liar = LIAR.get()?;
    let status = match request {
        ShardRequest::Store { header, .. } => {
            if let Ok(header) = Header::decode(header) {
                liar.hear(Id::new(*header.id().as_bytes()), shape_of(&header));
            }
            ShardStatus::Ok
        }
        ShardRequest::Fetch { .. } => ShardStatus::None,
    };
    Some((ShardResponse::status(status, ""), Bytes::new()))
}

impl Liar {
    fn hear(&self, stripe: Id, shape: Shape) {
        if lock(&self.heard).insert(stripe, shape).is_none() {
            lock(&self.fresh).insert(stripe);
        }
    }

    fn claimed(&self, stripe: &Id) -> Vec<u8> {
        let n = lock(&self.heard).get(stripe).map_or(0, |shape| shape.n);
        (0..n).collect()
    }

    fn custody(&self, request: &Request) -> Response {
        match request {
            Request::Report(report) => {
                for entry in report.listings.iter().flat_map(|listing| &listing.entries) {
                    self.hear(entry.stripe, entry.shape);
                }
                Response::Reported(Reported::default())
            }
            Request::Confirm { questions } => Response::Confirmed(vec![true; questions.len()]),
            Request::Status { stripes } => Response::Statuses(vec![Status::None; stripes.len()]),
            Request::Held { stripes } => {
                let holds = |stripe: &Id| Holds {
                    items: self.claimed(stripe).into_iter().map(Item::from).collect(),
                    under_repair: true,
                    reported: Vec::new(),
                };
                Response::Held(stripes.iter().map(holds).collect())
            }
            Request::Solicit
            | Request::Commit { .. }
            | Request::Trim { .. }
            | Request::Audit { .. }
            | Request::Release { .. }
            | Request::Audited { .. } => Response::Taken,
        }
    }

    /// Claims to all, in as many reports as it takes.
    fn reports(&self) -> Vec<Request> {
        let heard = lock(&self.heard).clone();
        let mut reports = Vec::new();
        let mut listings: Vec<Listing> = Vec::new();
        let mut room = MAX_ENTRIES;
        for bucket in 0..=u8::MAX {
            let stripes = heard
                .iter()
                .filter(|(id, _)| id.as_bytes().last() == Some(&bucket));
            let entries = stripes.flat_map(|(stripe, shape)| {
                (0..shape.n).map(|index| Entry {
                    stripe: *stripe,
                    item: Item::Shard(index),
                    shape: *shape,
                    committed: true,
                })
            });
            let entries: Vec<Entry> = entries.take(MAX_ENTRIES).collect();
            if entries.len() > room {
                reports.push(self.report(std::mem::take(&mut listings)));
                room = MAX_ENTRIES;
            }
            room -= entries.len();
            listings.push(Listing {
                bucket,
                from: Id::default(),
                to: Id::new([0xff; 32]),
                entries,
            });
        }
        reports.push(self.report(listings));
        reports
    }

    fn report(&self, listings: Vec<Listing>) -> Request {
        Request::Report(Report {
            instance: 1,
            sequence: self.reports.fetch_add(1, Ordering::Relaxed) + 1,
            total: 1,
            listings,
        })
    }

    /// Orders to drop everything in favour of `me`.
    fn orders(&self, me: Peer) -> Vec<Request> {
        let heard = lock(&self.heard).clone();
        let mut orders: Vec<TrimOrder> = Vec::new();
        for (stripe, shape) in heard {
            let order = |index| TrimOrder {
                stripe,
                item: Item::Shard(index),
                keep: me,
                others: (0..shape.n)
                    .filter(|other| *other != index)
                    .map(|other| (other, me))
                    .collect(),
            };
            orders.extend((0..shape.n).map(order));
        }
        let chunks = orders.chunks(ORDERS);
        chunks
            .map(|orders| Request::Trim {
                orders: orders.to_vec(),
            })
            .collect()
    }
}

/// Lies until the daemon stops.
pub(crate) async fn act(member: Arc<Membership>) {
    let Some(liar) = LIAR.get() else { return };
    let mut lent: Vec<(Instant, Peer, Id)> = Vec::new();
    loop {
        tokio::time::sleep(ROUND).await;
        let others: Vec<Contact> = member
            .core
            .alive()
            .into_iter()
            .filter(|other| other.peer != member.me)
            .collect();
        let thefts: Vec<Id> = {
            let mut fresh = lock(&liar.fresh);
            std::iter::from_fn(|| fresh.pop_first()).take(THEFTS).collect()
        };
        for stripe in thefts {
            for (at, victim) in others.iter().enumerate() {
                let next = others.get(at + 1).or(others.first()).unwrap_or(victim);
                steal(&member, stripe, victim, next, &mut lent).await;
            }
        }
        for other in &others {
            let lies = liar.reports().into_iter().chain(liar.orders(member.me));
            for lie in lies {
                if member
                    .remote
                    .ask(other, &PeerRequest::Custody(lie), DEADLINE)
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        let due = |lent: &(Instant, Peer, Id)| lent.0.elapsed() >= PATIENCE;
        for (_, peer, stripe) in lent.extract_if(.., |lent| due(lent)) {
            if let Some(contact) = others.iter().find(|other| other.peer == peer) {
                discard(&member, contact, stripe).await;
            }
        }
    }
}

/// Fetches what somebody holds of a stripe, stores it there again under its own token, and discards it; then
/// lends it to the next, to take it back later.
async fn steal(
    member: &Arc<Membership>,
    stripe: Id,
    victim: &Contact,
    next: &Contact,
    lent: &mut Vec<(Instant, Peer, Id)>,
) {
    let fetch = ShardRequest::Fetch {
        stripe,
        want: 0,
        exact: false,
    };
    let Ok((head, payload)) = member.remote.ask_shard(victim, &fetch, Bytes::new()).await else {
        return;
    };
    if head.status != ShardStatus::Ok {
        return;
    }
    for (contact, lease_ms) in [(victim, 60_000), (next, 0)] {
        let store = ShardRequest::Store {
            header: head.header.clone(),
            index: head.index,
            token: TOKEN,
            lease_ms,
        };
        let stored = member.remote.ask_shard(contact, &store, payload.clone()).await;
        tracing::debug!(%stripe, peer = %contact.peer, ?stored, "stored again");
    }
    discard(member, victim, stripe).await;
    lent.push((Instant::now(), next.peer, stripe));
}

async fn discard(member: &Arc<Membership>, contact: &Contact, stripe: Id) {
    let request = PeerRequest::Discard(TOKEN, vec![stripe]);
    if let Err(error) = member.remote.ask(contact, &request, DEADLINE).await {
        tracing::debug!(%stripe, %error, "could not discard");
    }
}
