//! Leases of the shards of puts in progress.
//!
//! A holder keeps the shards of a put that is not committed for one lease. From the acknowledgement of a
//! shard on, its put renews the lease, however long the rest of the file takes to come: one request a holder
//! every third of the lease, each holder for itself, so that a silent one holds up nobody else's renewal.
//!
//! A holder whose lease ended asks the writer before it drops anything. A writer that stood still (it was
//! stopped, the machine slept) may find such questions before it comes to renew; it renews first and answers
//! then. What a holder says it does not hold any more is reported to the put, which makes it good from the
//! other shards.
//!
//! Not here: leases that end, which is custody's part at the holder.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::{Id, Peer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::Transfers;
use super::commit::Held;
use super::peer_client::PeerClient;
use crate::wire::peer::{MAX_STRIPES, PeerRequest, PeerResponse, PutSecret};

/// One attempt at a renewal. A holder that is slow renews all the same.
const DEADLINE: Duration = Duration::from_secs(5);
/// A question of a holder waits for a renewal no longer than this: custody waits for its answer.
const BEFORE_ANSWER: Duration = Duration::from_secs(2);
/// Reports of lost shards that wait for a put. One that finds no room comes again with the next renewal.
const REPORTS: usize = 64;

/// Stripes that a holder has no shard of any more.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) peer: Peer,
    pub(crate) stripes: BTreeSet<Id>,
}

/// What holders keep for one put.
pub(crate) struct Lease {
    secret: PutSecret,
    length: Duration,
    held: Mutex<Held>,
}

impl Lease {
    /// A holder acknowledged a shard or a locator of `stripe`.
    pub(crate) fn note(&self, stripe: Id, peer: Peer) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(peer).or_default().insert(stripe);
    }

    /// Who acknowledged what so far: whom to commit with or discard at.
    pub(crate) fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those of `stripes` that `peer` acknowledged.
    fn among(&self, peer: Peer, stripes: &[Id]) -> Vec<Id> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = held.get(&peer);
        let known = |stripe: &&Id| of_peer.is_some_and(|held| held.contains(stripe));
        stripes.iter().filter(known).copied().collect()
    }

    /// Has one holder keep these stripes for another lease. Those that it does not hold; of who does not
    /// answer, none.
    async fn renew_at(
        &self,
        peers: &PeerClient,
        peer: Peer,
        stripes: &[Id],
        deadline: Duration,
    ) -> BTreeSet<Id> {
        let token = self.secret.token(peer);
        let mut missing = BTreeSet::new();
        for chunk in stripes.chunks(MAX_STRIPES) {
            let ms = u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX);
            let request = PeerRequest::Renew(token, chunk.to_vec(), ms);
            let held = match peers.ask(peer, request, deadline).await {
                Ok(PeerResponse::Done(held)) if held.len() == chunk.len() => Ok(held),
                Ok(_) => Err("answers in a way not understood".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match held {
                Ok(held) => {
                    let gone = chunk.iter().zip(held).filter(|(_, held)| !held);
                    missing.extend(gone.map(|(stripe, _)| *stripe));
                }
                Err(error) => {
                    tracing::debug!(%peer, error, "did not renew a lease");
                    return missing;
                }
            }
        }
        missing
    }
}

/// The puts in progress here.
#[derive(Default)]
pub(crate) struct Leases(Mutex<Vec<Arc<Lease>>>);

impl Leases {
    fn all(&self) -> Vec<Arc<Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The lease of a put that lives: renewed until this is dropped.
pub(crate) struct Leased {
    transfers: Arc<Transfers>,
    lease: Arc<Lease>,
    renewing: JoinHandle<()>,
    /// What holders have lost meanwhile.
    pub(crate) lost: mpsc::Receiver<Lost>,
}

impl Leased {
    /// Begins to renew what will be noted.
    pub(crate) fn begin(transfers: &Arc<Transfers>, secret: PutSecret) -> Self {
        let lease = Arc::new(Lease {
            secret,
            length: transfers.member.config.settings.pending_lease.0,
            held: Mutex::default(),
        });
        let mut all = transfers
            .writes
            .leases
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&lease));
        let (report, lost) = mpsc::channel(REPORTS);
        Self {
            renewing: tokio::spawn(renew(Arc::clone(transfers), Arc::clone(&lease), report)),
            transfers: Arc::clone(transfers),
            lease,
            lost,
        }
    }

    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.renewing.abort();
        let mut all = self
            .transfers
            .writes
            .leases
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|lease| !Arc::ptr_eq(lease, &self.lease));
    }
}

/// Renews every holder's shards in turn with the others, one question to each at a time.
async fn renew(transfers: Arc<Transfers>, lease: Arc<Lease>, report: mpsc::Sender<Lost>) {
    let deadline = DEADLINE.min(lease.length);
    let mut tick = tokio::time::interval(lease.length / 3);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = BTreeSet::new();
    let mut waiting = FuturesUnordered::new();
    let (transfers, lease) = (&transfers, &lease);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                for (peer, stripes) in lease.held() {
                    let stripes: Vec<Id> = stripes.into_iter().collect();
                    if asked.insert(peer) {
                        waiting.push(async move {
                            (peer, lease.renew_at(&transfers.peers, peer, &stripes, deadline).await)
                        });
                    }
                }
            }
            Some((peer, stripes)) = waiting.next() => {
                asked.remove(&peer);
                if !stripes.is_empty() && report.try_send(Lost { peer, stripes }).is_err() {
                    tracing::debug!(%peer, "lost shards of a put; told again later");
                }
            }
        }
    }
}

impl Transfers {
    /// `holder` asks what became of stripes whose lease ended there: those of puts that live here are renewed
    /// before anybody answers.
    pub(crate) async fn renew_asked(&self, holder: Peer, stripes: &[Id]) {
        for lease in self.writes.leases.all() {
            let mine = lease.among(holder, stripes);
            if !mine.is_empty() {
                lease.renew_at(&self.peers, holder, &mine, BEFORE_ANSWER).await;
            }
        }
    }
}
