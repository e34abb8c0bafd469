//! What people ask for who look after the network: repair now, forget a peer, leave.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mutualstore_contract::units::counted;
use mutualstore_dht::ring::{Phase, SelfChange};
use mutualstore_dht::{Engine, Peer, PeerState};

use super::{Maintenance, records};
use crate::error::Failure;
use crate::wire::peer::{Mending, PeerRequest, PeerResponse};

/// How long a peer may take to answer.
const ASK: Duration = Duration::from_secs(5);
/// The least time without progress after which a peer that leaves gives up.
const STUCK: Duration = Duration::from_mins(1);
/// How often it looks whether it is rid of its shards.
const LOOK: Duration = Duration::from_millis(200);
/// How long its goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long it still answers those who watch it leave.
const LINGER: Duration = Duration::from_secs(1);

/// How far a departure is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Departure {
    /// Nobody asked for it.
    #[default]
    Stays,
    /// Shards go to others.
    Draining,
    /// It stays, for this reason.
    Stuck(String),
    /// It left the ring and ends soon.
    Left,
}

impl Maintenance {
    /// What this peer rebuilds.
    pub(crate) fn mending(&self) -> Mending {
        let health = self.member.core.read(|state| state.engine.custody.stats());
        Mending {
            pending: (health.repairs_waiting + health.repairs_running) as u64,
            regenerated: health.regenerated_total,
            bytes: health.bytes_total,
        }
    }

    /// Looks at every stripe now; `gone` counts as lost if it does not answer.
    pub(crate) fn mend(&self, gone: Option<Peer>) -> Mending {
        let before = self.mending();
        self.member.core.with(|state, now| {
            let Engine { ring, custody, .. } = &mut state.engine;
            if let Some(peer) = gone {
                custody.forget(now, ring, peer);
            }
            custody.check_now(now, ring);
        });
        before
    }

    /// Has all live peers, this one included, rebuild what `gone` held, or if it is none only asks them: the
    /// sum of what they answered, and who did not.
    pub(crate) async fn mend_all(&self, gone: Option<Peer>) -> (Mending, Vec<Peer>) {
        let request = gone.map_or(PeerRequest::Mending, |peer| PeerRequest::Mend(Some(peer)));
        let others: Vec<_> = self.member.core.alive().into_iter().skip(1).collect();
        let asked = others
            .iter()
            .map(|contact| self.member.remote.ask(contact, &request, ASK));
        let mut sum = if gone.is_some() {
            self.mend(gone)
        } else {
            self.mending()
        };
        let mut silent = Vec::new();
        for (contact, answer) in others.iter().zip(join_all(asked).await) {
            if let Ok(PeerResponse::Mending(theirs)) = answer {
                sum.pending += theirs.pending;
                sum.regenerated += theirs.regenerated;
                sum.bytes += theirs.bytes;
            } else {
                silent.push(contact.peer);
            }
        }
        (sum, silent)
    }

    /// How far the departure is.
    pub(crate) fn departure(&self) -> Departure {
        self.departure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_departure(&self, departure: Departure) {
        let leaving = matches!(departure, Departure::Draining | Departure::Left);
        self.keeper.set_leaving(leaving);
        *self.departure.lock().unwrap_or_else(PoisonError::into_inner) = departure;
    }

    fn set_state(&self, to: PeerState) {
        self.member.core.with(|state, now| {
            let change = SelfChange {
                state: Some(to),
                ..SelfChange::default()
            };
            state.engine.ring.update_self(now, change);
        });
    }

    /// Begins to hand over everything; the process ends when that is done. With `force` it also ends when
    /// nothing can be handed over any more.
    pub(crate) fn leave(self: &Arc<Self>, force: bool) -> Result<(), Failure> {
        if let Some(reason) = self.keeper.irreplaceable().filter(|_| !force) {
            let cure = "add peers, or leave with --force: what this peer holds is then rebuilt from what the \
                        others hold";
            return Err(Failure::refused(format!("{reason}; {cure}")));
        }
        self.leave_by_force.fetch_or(force, Ordering::AcqRel);
        let mut departure = self.departure.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = matches!(*departure, Departure::Stays | Departure::Stuck(_));
        if idle {
            *departure = Departure::Draining;
            self.keeper.set_leaving(true);
            tokio::spawn(depart(Arc::clone(self)));
        }
        Ok(())
    }
}

async fn depart(upkeep: Arc<Maintenance>) {
    tracing::info!("leaving: handing over what is held here");
    upkeep.set_state(PeerState::Draining);
    if let Err(reason) = drained(&upkeep).await {
        if !upkeep.leave_by_force.load(Ordering::Acquire) {
            tracing::warn!("not left: {reason}");
            upkeep.set_state(PeerState::Accepting);
            upkeep.keeper.publish_usage();
            upkeep.set_departure(Departure::Stuck(reason));
            return;
        }
        tracing::warn!("leaving all the same: {reason}");
    }
    upkeep.member.core.with(|state, now| state.engine.ring.leave(now));
    let until = Instant::now() + GOODBYE;
    while upkeep.member.phase() != Phase::Left && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    upkeep.set_departure(Departure::Left);
    tokio::time::sleep(LINGER).await;
    upkeep.quit.notify_one();
}

/// Waits until this peer is rid of its committed shards: a holder drops one only when another peer keeps it
/// and all of its stripe are there without it.
async fn drained(upkeep: &Arc<Maintenance>) -> Result<(), String> {
    let patience = STUCK.max(upkeep.member.config.settings.repair_delay.0.min(STUCK) * 2);
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        let usage = upkeep.keeper.usage();
        if usage.committed_bytes == 0 {
            return Ok(());
        }
        if usage.records > 0 {
            records::hand_over(upkeep).await;
        }
        if usage.committed_bytes < least {
            (least, since) = (usage.committed_bytes, Instant::now());
        } else if since.elapsed() >= patience {
            let why = upkeep
                .keeper
                .irreplaceable()
                .unwrap_or_else(|| "nobody has taken any for a while".to_owned());
            let shards = if usage.shards > 0 {
                counted(usage.shards, "shard")
            } else {
                counted(usage.records, "signed record")
            };
            return Err(format!("still only here: {shards}: {why}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}
