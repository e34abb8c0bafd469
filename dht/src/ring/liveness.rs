//! Who lives, judged per peer.
//!
//! Every request carries a deadline from the peer's measured round trips. A failed one makes the peer suspect
//! and pings it until it answers or enough failures, spaced by the retry interval, have come in a row. The
//! dead stay known as dead: what others say of them is not believed, only what they say themselves.

use std::time::Duration;

use super::calls::{Purpose, Timer};
use super::message::{Event, Failure, Request};
use super::table::{KnownPeer, MemberState, Update};
use super::{Phase, Ring};
use crate::{Contact, Flaw, Peer, Time};

/// A peer is dead after this many failures in a row, after one when the head of a list gave it up before ...
const FAILURES: u8 = 3;
/// ... or when this many of them said that nothing listens there.
const UNREACHABLE: u8 = 2;
/// The dead are asked again when others still name them, at intervals of the time they have been dead so far
/// within these bounds.
const DEAD_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Contacts waiting for their first ping, at most.
const MAX_CANDIDATES: usize = 256;

/// Round trips count as this long at most, in microseconds.
const LONGEST: u32 = 60_000_000;

/// Smoothed round-trip time and its variance, in microseconds (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: u32,
    variance: u32,
}

impl RoundTrip {
    pub(super) fn sample(&mut self, measured: Duration) {
        let measured = u32::try_from(measured.as_micros()).map_or(LONGEST, |micros| micros.clamp(1, LONGEST));
        if self.smoothed == 0 {
            self.smoothed = measured;
            self.variance = measured / 2;
            return;
        }
        let off = measured.abs_diff(self.smoothed);
        self.variance = self.variance - self.variance / 4 + off / 4;
        self.smoothed = (self.smoothed - self.smoothed / 8 + measured / 8).max(1);
    }

    /// The time after which an answer is late; `None` before the first measurement.
    fn deadline(self) -> Option<Duration> {
        let micros = u64::from(self.smoothed) + 4 * u64::from(self.variance);
        (self.smoothed > 0).then(|| Duration::from_micros(micros))
    }
}

impl Ring {
    /// How long an answer of `peer` may take, doubled for each failure in a row.
    pub(super) fn deadline(&self, peer: Peer) -> Duration {
        let entry = self.table.get(peer);
        let (shortest, longest) = self.config.deadlines;
        let measured = entry.and_then(|entry| entry.round_trip.deadline());
        let failures = entry.map_or(0, |entry| u32::from(entry.failures)).min(8);
        let base = measured.map_or(self.config.first_deadline, |deadline| deadline.max(shortest));
        base.saturating_mul(1 << failures).min(longest)
    }

    /// The peer itself announced its contact.
    pub(super) fn on_announcement(&mut self, now: Time, contact: Contact) {
        let (peer, version) = (contact.peer, contact.version);
        self.write_down(now, contact, true);
        self.heard(now, peer);
        if let Some(entry) = self.table.get_mut(peer) {
            entry.announced = Some(now);
            let known = entry.behind;
            entry.behind = version < entry.contact.version;
            if entry.behind && !known {
                self.ping(now, peer);
            }
        }
    }

    /// Writes down what others say is the contact of a peer, if it is newer.
    pub(super) fn note(&mut self, now: Time, contact: Contact) {
        self.write_down(now, contact, false);
    }

    fn write_down(&mut self, now: Time, contact: Contact, own_word: bool) {
        let peer = contact.peer;
        if peer == self.table.me().peer {
            self.outdo(now, &contact);
            return;
        }
        if self.table.get(peer).is_none() {
            self.table.note(contact, now, Duration::ZERO);
            self.book.changed = true;
            return;
        }
        let update = self.table.update(contact, own_word);
        if update == Update::Stale {
            return;
        }
        self.book.changed |= update == Update::Major;
        if self.table.is_member(peer) {
            self.events.push_back(Event::PeerChanged(peer));
            if update == Update::Major && self.is_near(peer) {
                self.nudge(now);
            }
        }
    }

    /// The peer itself spoke: it is not dead. One off the circle is asked whether it is a member.
    pub(super) fn spoke(&mut self, now: Time, peer: Peer) {
        self.heard(now, peer);
        if !self.table.is_member(peer) {
            self.verify(now, peer);
        }
    }

    pub(super) fn heard(&mut self, now: Time, peer: Peer) {
        let Some(entry) = self.table.get_mut(peer) else {
            return;
        };
        self.joining.barred = None;
        entry.heard = Some(now);
        entry.failures = 0;
        entry.unreachable = 0;
        entry.unlisted = false;
        if entry.standing == MemberState::Suspect {
            entry.standing = MemberState::Alive;
        }
    }

    /// Pings a peer off the circle, not more often than every second; an answer as a member brings it in.
    pub(super) fn verify(&mut self, now: Time, peer: Peer) {
        self.verify_again(now, peer, DEAD_RETRY.0);
    }

    /// Pings a peer off the circle unless that was done within `lately`. An older ping may be on its way
    /// still: it was sent to one that did not answer, and its deadline is long.
    pub(super) fn verify_again(&mut self, now: Time, peer: Peer, lately: Duration) {
        let Some(entry) = self.table.get_mut(peer) else {
            return;
        };
        let soon = entry.pinged.is_some_and(|pinged| now.since(pinged) < lately);
        if !entry.standing.is_member() && !soon {
            entry.pinging = false;
            self.ping(now, peer);
        }
    }

    /// Makes a known peer a candidate: pinged until it answers or is dead.
    pub(super) fn propose(&mut self, now: Time, peer: Peer) {
        let candidates = self
            .table
            .entries()
            .filter(|(_, entry)| entry.standing == MemberState::Candidate)
            .count();
        if candidates < MAX_CANDIDATES
            && let Some(entry) = self.table.get_mut(peer)
            && entry.standing == MemberState::Known
        {
            entry.standing = MemberState::Candidate;
            entry.failures = 0;
            entry.unreachable = 0;
            self.ping(now, peer);
        }
    }

    /// A dead peer is named by others: it is pinged, ever more seldom.
    pub(super) fn doubt_death(&mut self, now: Time, peer: Peer) {
        if let Some(entry) = self.table.get(peer)
            && let MemberState::Dead(since) = entry.standing
        {
            let last = entry.pinged.unwrap_or(since).max(since);
            if now.since(last) >= last.since(since).clamp(DEAD_RETRY.0, DEAD_RETRY.1) {
                self.ping(now, peer);
            }
        }
    }

    /// Sends a ping unless one is in flight or has its time set.
    pub(super) fn ping(&mut self, now: Time, peer: Peer) {
        let deadline = self.deadline(peer);
        if let Some(entry) = self.table.get_mut(peer)
            && !entry.pinging
        {
            entry.pinging = true;
            entry.pinged = Some(now);
            let to = entry.contact.clone();
            let held = entry.behind.then(|| to.clone());
            self.send(now, (to, Request::Ping { held }, Purpose::Ping), deadline);
        }
    }

    /// The time for another ping of a peer that failed has come.
    pub(super) fn on_ping_due(&mut self, now: Time, peer: Peer) {
        let Some(entry) = self.table.get_mut(peer) else {
            return;
        };
        entry.pinging = false;
        match entry.standing {
            MemberState::Candidate | MemberState::Suspect => self.ping(now, peer),
            MemberState::Known | MemberState::Alive | MemberState::Dead(_) => {
                self.seek_result(now, peer, None);
            }
        }
    }

    /// An answer came after `took`.
    pub(super) fn answered(&mut self, now: Time, peer: Peer, sent: Time) {
        if let Some(entry) = self.table.get_mut(peer) {
            entry.round_trip.sample(now.since(sent));
        }
        self.heard(now, peer);
    }

    /// A ping of this time was answered.
    pub(super) fn on_pong(&mut self, now: Time, peer: Peer, sent: Time, (contact, member): (Contact, bool)) {
        let mut overtaken = false;
        if let Some(entry) = self.table.get_mut(peer) {
            entry.pinging = false;
            overtaken = entry.announced.is_some_and(|announced| announced > sent);
        }
        self.on_announcement(now, contact);
        if member {
            self.admit(now, peer);
        } else if overtaken {
            // It may have become a member since and have said so.
            self.ping(now, peer);
        } else {
            self.dismiss(now, peer);
        }
        self.seek_result(now, peer, Some(member));
    }

    /// A request got no answer.
    pub(super) fn failed(&mut self, now: Time, peer: Peer, failure: Failure, ping: bool) {
        if failure == Failure::Barred {
            self.bar(now);
        }
        let retry = self.config.retry;
        if let Some(entry) = self.table.get_mut(peer) {
            if ping {
                entry.pinging = false;
            }
            let counts = match entry.standing {
                MemberState::Candidate | MemberState::Alive | MemberState::Suspect => true,
                MemberState::Known | MemberState::Dead(_) => false,
            };
            if counts {
                count_failure(entry, now, failure, retry);
                self.judge(now, peer);
            }
        }
        if ping {
            self.seek_result(now, peer, None);
        }
    }

    fn judge(&mut self, now: Time, peer: Peer) {
        let later = now + self.config.retry + self.jitter(self.config.retry / 4);
        let Some(entry) = self.table.get_mut(peer) else {
            return;
        };
        let enough = if entry.unlisted { 1 } else { FAILURES };
        if entry.failures >= enough || entry.unreachable >= UNREACHABLE {
            self.declare_dead(now, peer);
            return;
        }
        if entry.standing == MemberState::Alive {
            entry.standing = MemberState::Suspect;
        }
        if !entry.pinging {
            entry.pinging = true;
            self.timers.set(later, Timer::Ping(peer));
        }
    }

    /// A live member: onto the circle with it. The first one a lone peer meets is also its way into that
    /// ring.
    pub(super) fn admit(&mut self, now: Time, peer: Peer) {
        match self.phase {
            Phase::Leaving | Phase::Left => return,
            Phase::Alone | Phase::Joining | Phase::Joined => {}
        }
        if !self.member {
            self.start_join(now, peer);
            return;
        }
        let lone = self.table.members() == 0;
        self.enter(now, peer);
        if lone {
            self.start_join(now, peer);
        }
    }

    /// Puts a peer onto the circle.
    pub(super) fn enter(&mut self, now: Time, peer: Peer) {
        if self.table.enter(peer) {
            self.events.push_back(Event::PeerUp(peer));
            self.book.changed = true;
            if self.is_near(peer) || self.config.has(Flaw::HurryForAll) {
                self.nudge(now);
            }
        }
    }

    /// See [`Table::is_near`](super::table::Table::is_near).
    fn is_near(&self, peer: Peer) -> bool {
        self.table.is_near(peer, self.config.r)
    }

    /// A live peer that is no member, or not yet: off the circle, but not dead.
    fn dismiss(&mut self, now: Time, peer: Peer) {
        let Some(entry) = self.table.get(peer) else {
            return;
        };
        match entry.standing {
            MemberState::Known | MemberState::Dead(_) => {}
            MemberState::Candidate | MemberState::Alive | MemberState::Suspect => {
                self.remove(now, peer, MemberState::Known);
            }
        }
    }

    /// Takes a peer off the circle, known as dead.
    pub(super) fn declare_dead(&mut self, now: Time, peer: Peer) {
        if self.config.has(Flaw::KeepTheDead) {
            return;
        }
        self.remove(now, peer, MemberState::Dead(now));
    }

    fn remove(&mut self, now: Time, peer: Peer, standing: MemberState) {
        let near = self.table.is_member(peer) && self.is_near(peer);
        if self.table.exit(peer, standing) {
            self.events.push_back(Event::PeerDown(peer));
            self.pointers.fingers.retain(|_, finger| *finger != peer);
            self.book.changed = true;
            if near || self.config.has(Flaw::HurryForAll) {
                self.nudge(now);
            }
            if self.table.members() == 0 {
                self.on_lone(now);
            }
        }
    }
}

fn count_failure(entry: &mut KnownPeer, now: Time, failure: Failure, retry: Duration) {
    if entry.failures > 0 && now.since(entry.failed) < retry {
        return;
    }
    entry.failed = now;
    entry.failures = entry.failures.saturating_add(1);
    match failure {
        Failure::Unreachable => entry.unreachable = entry.unreachable.saturating_add(1),
        Failure::TimedOut | Failure::Refused | Failure::Barred => {}
    }
}
