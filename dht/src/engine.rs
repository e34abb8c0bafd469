//! Ring and custody of one peer as one machine, with one pump, which daemon and simulator drive alike.
//!
//! [`Engine`] decides what passes between the two: custody hears of every change of the ring's view, of peers
//! that departed and of stalls, and the ring of peers that left custody without an answer. After every input
//! the driver takes everything from [`Engine::poll`], then asks [`Engine::poll_timeout`] when to call
//! [`Engine::handle_timeout`].
//!
//! Inputs to one of the two alone go to it directly: both are public.

use std::time::Duration;

use crate::custody::{self, Custody};
use crate::ring::{self, Event, Ring};
use crate::{Peer, Time};

/// A timer this late means that the event loop stalled, so nobody's silence counts.
const STALL: Duration = Duration::from_secs(3);

/// What has a custody, or may have one: simulations of rings alone do without.
pub trait MaybeCustody {
    /// The custody, if there is one.
    fn custody(&self) -> Option<&Custody>;

    /// The same, to be given an input.
    fn custody_mut(&mut self) -> Option<&mut Custody>;
}

impl MaybeCustody for Custody {
    fn custody(&self) -> Option<&Custody> {
        Some(self)
    }

    fn custody_mut(&mut self) -> Option<&mut Custody> {
        Some(self)
    }
}

impl MaybeCustody for Option<Custody> {
    fn custody(&self) -> Option<&Custody> {
        self.as_ref()
    }

    fn custody_mut(&mut self) -> Option<&mut Custody> {
        self.as_mut()
    }
}

/// The machines of one peer.
#[derive(Debug)]
pub struct Engine<C = Custody> {
    /// Who is there, and where.
    pub ring: Ring,
    /// Who must hold which shard.
    pub custody: C,
    /// The ring's view changed, and custody does not know yet.
    view_changed: bool,
}

/// What the machines want done, or say.
#[expect(clippy::large_enum_variant, reason = "one at a time, taken apart at once")]
#[derive(Debug)]
pub enum Output {
    /// A message of the ring is to be sent.
    Ring(ring::Transmit),
    /// A message of custody is to be sent.
    Custody(custody::Transmit),
    /// Work on real shards is to be done.
    Effect(custody::Effect),
    /// Something happened in the ring, and custody has been told what concerns it, but for its new view.
    Event(Event),
    /// The ring's view changed in one way or another, and custody has been told.
    ViewChanged,
}

impl<C: MaybeCustody> Engine<C> {
    /// A ring, and the custody of the same peer.
    pub fn new(ring: Ring, custody: C) -> Self {
        Self {
            ring,
            custody,
            view_changed: false,
        }
    }

    /// Does what is due since `late`. Whether the event loop must have stalled.
    pub fn handle_timeout(&mut self, now: Time, late: Duration) -> bool {
        let stalled = late > STALL;
        if let Some(custody) = self.custody.custody_mut().filter(|_| stalled) {
            custody.handle_stall(now);
        }
        self.ring.handle_timeout(now);
        if let Some(custody) = self.custody.custody_mut() {
            custody.handle_timeout(now, &self.ring);
        }
        stalled
    }

    /// A peer asks custody something; none where there is no custody to answer.
    pub fn handle_custody_request(
        &mut self,
        now: Time,
        from: Peer,
        request: custody::Request,
    ) -> Option<custody::Response> {
        self.ring.hear(now, from);
        let custody = self.custody.custody_mut()?;
        Some(custody.handle_request(now, &self.ring, from, request))
    }

    /// A peer answered custody.
    pub fn handle_custody_response(
        &mut self,
        now: Time,
        id: custody::RequestId,
        response: custody::Response,
    ) {
        if let Some(custody) = self.custody.custody_mut() {
            custody.handle_response(now, &self.ring, id, response);
        }
    }

    /// A peer did not answer custody: the ring asks it whether it is there.
    pub fn handle_custody_failure(&mut self, now: Time, id: custody::RequestId, to: Peer) {
        self.ring.handle_disconnect(now, to);
        if let Some(custody) = self.custody.custody_mut() {
            custody.handle_failure(now, &self.ring, id);
        }
    }

    /// Work that custody asked for ended.
    pub fn handle_job(&mut self, now: Time, job: custody::JobId, outcome: custody::JobOutcome) {
        if let Some(custody) = self.custody.custody_mut() {
            custody.handle_job(now, &self.ring, job, outcome);
        }
    }

    /// The next thing to do. Events come before messages, so that custody sends what it decided by the newest
    /// view.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if let Some(event) = self.ring.poll_event() {
            self.heed(now, &event);
            return Some(Output::Event(event));
        }
        if std::mem::take(&mut self.view_changed) {
            if let Some(custody) = self.custody.custody_mut() {
                custody.membership_changed(now, &self.ring);
            }
            return Some(Output::ViewChanged);
        }
        if let Some(transmit) = self.ring.poll_transmit() {
            return Some(Output::Ring(transmit));
        }
        let custody = self.custody.custody_mut()?;
        let transmit = custody.poll_transmit().map(Output::Custody);
        transmit.or_else(|| custody.poll_effect().map(Output::Effect))
    }

    /// What an event of the ring is to custody.
    fn heed(&mut self, now: Time, event: &Event) {
        match event {
            Event::PhaseChanged(_) | Event::PeerUp(_) | Event::PeerDown(_) | Event::PeerChanged(_) => {
                self.view_changed = true;
            }
            Event::Departed(peer) => {
                if let Some(custody) = self.custody.custody_mut() {
                    custody.forget(now, &self.ring, *peer);
                }
            }
            Event::Positioned(_)
            | Event::LookupDone { .. }
            | Event::WalkDone { .. }
            | Event::BookChanged
            | Event::Left => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; a time in the past: at once.
    pub fn poll_timeout(&self) -> Option<Time> {
        let custody = self.custody.custody().and_then(Custody::poll_timeout);
        [self.ring.poll_timeout(), custody].into_iter().flatten().min()
    }
}
