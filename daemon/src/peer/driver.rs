//! Carries out what ring and custody want: sends their messages, keeps their timers, hands on their events.
//!
//! One task runs [`drive`]. It never blocks on the network: each message and each effect is a task of its
//! own that ends with an input to the machine that asked for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_dht::engine::Output;
use mutualstore_dht::ring::Event;
use mutualstore_dht::{Peer, Time, custody, ring};
use mutualstore_net::CallError;

use super::Membership;
use super::core::{State, Walk};
use super::remote::AskError;
use crate::wire::peer::{PeerRequest, PeerResponse};

/// How long after the ring's own deadline an answer is still waited for.
const LATE: Duration = Duration::from_secs(3);

/// What the driver hands on to those that live above the ring. Neither may block.
pub(crate) trait Outlet: Send + Sync {
    /// Does on real shards what custody asked for, and tells custody how that went.
    fn perform(&self, effect: custody::Effect);

    /// A peer went or came: what it may hold is looked at again.
    fn peer_moved(&self, peer: Peer);
}

/// What one look at the machines found to do.
#[derive(Default)]
struct Work {
    ring: Vec<ring::Transmit>,
    custody: Vec<custody::Transmit>,
    effects: Vec<custody::Effect>,
    book_changed: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.custody.is_empty() && self.effects.is_empty()
    }
}

/// Runs until the task is aborted.
pub(crate) async fn drive(member: Arc<Membership>, outlet: Arc<dyn Outlet>) {
    loop {
        let next = pump(&member, &outlet);
        let deadline = next.map(|time| member.core.instant(time));
        tokio::select! {
            () = member.core.wake.notified() => {}
            () = sleep_until(deadline) => {
                let late = deadline.map_or(Duration::ZERO, |deadline| deadline.elapsed());
                let mut state = member.core.lock();
                let now = member.core.now();
                if state.engine.handle_timeout(now, late) {
                    let late_ms = late.as_millis();
                    tracing::warn!(late_ms, "the event loop stalled; suspicions start anew");
                }
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Empties the machines' outputs, starts a task for each, and says when the next timer is due.
fn pump(member: &Arc<Membership>, outlet: &Arc<dyn Outlet>) -> Option<Time> {
    loop {
        let (work, next) = {
            let mut state = member.core.lock();
            let now = member.core.now();
            let work = collect(member, &**outlet, &mut state, now);
            let next = state.engine.poll_timeout();
            // A timer of the past means "at once"; it is late only from now on.
            (work, next.map(|next| next.max(now)))
        };
        if work.book_changed {
            member.book_dirty();
        }
        if work.is_empty() {
            return next;
        }
        for transmit in work.ring {
            tokio::spawn(send_ring(Arc::clone(member), transmit));
        }
        for transmit in work.custody {
            tokio::spawn(send_custody(Arc::clone(member), transmit));
        }
        for effect in work.effects {
            outlet.perform(effect);
        }
    }
}

fn collect(member: &Membership, outlet: &dyn Outlet, state: &mut State, now: Time) -> Work {
    let mut work = Work::default();
    while let Some(output) = state.engine.poll(now) {
        match output {
            Output::Ring(transmit) => work.ring.push(transmit),
            Output::Custody(transmit) => work.custody.push(transmit),
            Output::Effect(effect) => work.effects.push(effect),
            Output::Event(event) => work.book_changed |= heed(member, outlet, state, event),
            Output::ViewChanged => {}
        }
    }
    work
}

/// What an event of the ring is to this process. Whether the address book is to be written.
fn heed(member: &Membership, outlet: &dyn Outlet, state: &mut State, event: Event) -> bool {
    match event {
        Event::PhaseChanged(phase) => tracing::info!(?phase, "ring"),
        Event::PeerUp(peer) => {
            tracing::info!(%peer, "peer is up");
            outlet.peer_moved(peer);
        }
        Event::PeerDown(peer) => {
            tracing::info!(%peer, "peer is down");
            outlet.peer_moved(peer);
        }
        Event::Departed(_) | Event::PeerChanged(_) => {}
        // Written while the lock is held: nobody hears of them before they are kept. Once in a peer's life.
        Event::Positioned(chosen) => member.keep_places(&chosen),
        Event::LookupDone { id, outcome } => {
            if let Some(waiter) = state.lookups.remove(&id) {
                // Whoever asked may have given up meanwhile.
                drop(waiter.send(outcome));
            }
        }
        Event::WalkDone { id, answered, silent } => {
            if let Some(waiter) = state.walks.remove(&id) {
                drop(waiter.send(Walk { answered, silent }));
            }
        }
        Event::BookChanged => return true,
        Event::Left => tracing::info!("left the ring"),
    }
    false
}

async fn send_ring(member: Arc<Membership>, transmit: ring::Transmit) {
    let ring::Transmit {
        id,
        to,
        request,
        deadline,
    } = transmit;
    // The ring keeps the deadline itself. A late answer still shows that a peer lives, and how slow it is.
    let outcome = member
        .remote
        .ask(&to, &PeerRequest::Ring(request), deadline + LATE)
        .await;
    member.core.with(|state, now| match outcome {
        Ok(PeerResponse::Ring(response)) => state.engine.ring.handle_response(now, id, response),
        Ok(_) | Err(AskError::Refused(_)) => {
            state.engine.ring.handle_failure(now, id, ring::Failure::Refused);
        }
        Err(AskError::Silent(error)) => {
            if let CallError::Barred(refusal) = &error {
                member.barred_by(to.peer, refusal);
            }
            state.engine.ring.handle_failure(now, id, failure(&error));
        }
    });
}

fn failure(error: &CallError) -> ring::Failure {
    match error {
        CallError::Unreachable | CallError::Closed => ring::Failure::Unreachable,
        CallError::TimedOut => ring::Failure::TimedOut,
        CallError::Refused(_) | CallError::TooLarge | CallError::Busy => ring::Failure::Refused,
        CallError::Barred(_) => ring::Failure::Barred,
    }
}

async fn send_custody(member: Arc<Membership>, transmit: custody::Transmit) {
    let custody::Transmit {
        id,
        to,
        request,
        deadline,
    } = transmit;
    let contact = member.core.contact(to);
    let outcome = match contact {
        Some(contact) => member
            .remote
            .ask(&contact, &PeerRequest::Custody(request), deadline)
            .await
            .ok(),
        None => None,
    };
    member.core.with(|state, now| match outcome {
        Some(PeerResponse::Custody(response)) => state.engine.handle_custody_response(now, id, response),
        _ => state.engine.handle_custody_failure(now, id, to),
    });
}
