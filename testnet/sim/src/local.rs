//! What one host may do at one moment, judged by what all of them know.
//!
//! The invariants of `check` and `disk` hold whatever happens; those here say more, about times in which
//! nothing is wrong. They catch wrong steps that a later one would have made good:
//! * *the living are not declared dead*: while nothing ever failed, nobody counts a running host as dead;
//! * *who answers lives*: an answer never makes its sender dead;
//! * *who asks lives*: a member that asks another one for its list is on that one's circle;
//! * *heads have answered*: what becomes a first successor of a member has spoken to it;
//! * *joins take the list*: a newcomer that joins alone lists as many peers as its first successor would for
//!   it;
//! * *contacts never get older*;
//! * *commits spread*: in calm, a holder learns of a commit long before its lease ends;
//! * *no lease of a committed stripe runs out* while somebody near knows better;
//! * *no repair before the commit*;
//! * *others take over*: after a long calm every stripe is whole, whatever wedged primaries do not do.

use std::collections::BTreeSet;

use mutualstore_dht::custody::LOCATOR;
use mutualstore_dht::ring::Liveness;
use mutualstore_dht::{Id, Peer};

use super::check::{Violation, after};
use super::disk::indices;
use super::host::Host;
use super::world::{Who, World, micros, seconds};

/// Calm has lasted when nothing happened for so long, in microseconds.
const CALM: u64 = 30_000_000;
/// In calm a commit has spread after so long: a holder reports after half a minute at the latest, and a
/// report that was lost before the calm is repeated after less than that again.
const SPREAD: u64 = 56_000_000;
/// In calm any holder of a stripe has taken over after so many repair delays.
const TAKEN_OVER: u32 = 60;
/// Links slower than this, in milliseconds, make deadlines pass now and then.
const SLOW_MS: f64 = 60.0;

/// Faults so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unrest {
    /// When a process last started, ended, stopped, went on or lost its disk, or a partition healed.
    pub(crate) last: u64,
    /// When a partition last healed.
    pub(crate) healed: u64,
    /// Whose answer is being handled.
    pub(crate) answering: Option<Peer>,
    /// Something other than a start ever happened.
    pub(crate) harmed: bool,
}

impl World {
    /// Whether the network never did anything but deliver soon.
    fn is_unharmed(&self) -> bool {
        let network = &self.links.network;
        let quick = network.delay_ms.iter().sum::<f64>() + network.jitter_ms <= SLOW_MS;
        !self.unrest.harmed && quick && network.loss == 0.0 && network.slow == 0.0
    }

    /// Whether nothing has happened for a while and nothing is wrong now.
    fn is_calm(&self) -> bool {
        let network = &self.links.network;
        self.now - self.unrest.last >= CALM
            && network.loss == 0.0
            && network.slow == 0.0
            && self.links.is_whole()
            && self.liars() == 0
            && self.hosts.iter().all(|host| !host.is_up() || host.is_running())
    }

    /// A ring no longer counts a peer among the living.
    pub(super) fn check_declared_dead(&mut self, who: Who, peer: Peer) {
        let ring = self.ring(who);
        let liveness = ring.and_then(|ring| ring.liveness(peer));
        let dead = matches!(liveness, Some(Liveness::Dead { .. }));
        if dead && self.unrest.answering == Some(peer) {
            let detail = format!("host {who} counts {peer:?} as dead, which has just answered");
            self.violate(Violation::ring("who answers lives", detail));
        }
        let Some(declared_dead) = self.who(peer).filter(|_| self.is_unharmed()) else {
            return;
        };
        if dead && self.host(declared_dead).is_some_and(Host::stays) {
            let detail = format!("host {who} counts host {declared_dead} as dead; nothing ever failed");
            self.violate(Violation::ring("the living are not declared dead", detail));
        }
    }

    /// A member was asked by another one what follows it: that is Zave's notification.
    pub(super) fn check_asker(&mut self, who: Who, asker: Peer) {
        let ring = self.ring(who);
        if ring.is_some_and(|ring| ring.is_member() && !ring.is_alive(asker)) {
            let detail = format!("host {who} was asked by {asker:?} and does not count it among the living");
            self.violate(Violation::ring("who asks lives", detail));
        }
    }

    /// The circle of a host was `old` and is `new` now, and it is a member all the time.
    pub(super) fn check_heads(&self, who: Who, old: &[(Id, Who)], new: &[(Id, Who)]) -> Option<String> {
        let ring = self.host(who)?.ring()?;
        let known: BTreeSet<Who> = old.iter().map(|(_, owner)| *owner).collect();
        let own = new.iter().filter(|(_, owner)| *owner == who);
        for (id, _) in own {
            let Some(head) = first_other(new, *id, who) else {
                continue;
            };
            let peer = self.host(head)?.peer;
            if !known.contains(&head) && !ring.has_heard(peer) {
                let problem = format!("host {who} took host {head} for a first successor unheard");
                return Some(problem);
            }
        }
        None
    }

    /// A newcomer became a member: while nobody else does, its lists are those its first successors would
    /// have.
    pub(super) fn check_join(&self, who: Who, circle: &[(Id, Who)]) -> Option<String> {
        let settled = |(other, host): (Who, &Host)| other == who || host.born + CALM <= self.now;
        let alone = self.is_unharmed() && (0..).zip(&self.hosts).all(settled);
        let ring = self.host(who)?.ring().filter(|_| alone)?;
        for (id, _) in circle.iter().filter(|(_, owner)| *owner == who) {
            let Some(head) = first_other(circle, *id, who) else {
                continue;
            };
            let Some(theirs) = self.ring(head) else {
                continue;
            };
            let listed = ring.successor_list(*id).count();
            let others = theirs.successors(*id);
            let others = others.filter(|contact| contact.peer != ring.me().peer);
            let expected = others.take(self.setup.ring.r).count();
            if listed < expected {
                return Some(format!(
                    "host {who} joined with {listed} peers after {id:?}, of which host {head} knows \
                     {expected}"
                ));
            }
        }
        None
    }

    /// A host is about to commit what it holds of a stripe.
    pub(super) fn check_spread(&mut self, who: Who, id: Id) {
        let stripe = self.truth.stripes.get(&id).filter(|stripe| stripe.is_promised());
        let promised = stripe.and_then(|stripe| stripe.promised);
        let born = self.host(who).map_or(0, |host| host.born);
        let since = promised.map_or(self.now, |promised| promised.max(born));
        let late = self.now - since >= SPREAD && self.is_calm();
        let pending = |host: &Host| host.records(id).any(|(_, stored)| stored.is_pending());
        let pending = self.host(who).is_some_and(pending);
        if late && pending {
            let since = seconds(self.now - since);
            let detail = format!("host {who} learned of the commit of {id:?} after {since} s");
            self.violate(Violation::custody("commits spread", detail));
        }
    }

    /// A host dropped a pending shard because its lease ended. Whoever is asked first cannot but know of the
    /// commit when those who hold committed shards are among the stripe's first peers for a while and nobody
    /// is cut off.
    pub(super) fn check_expiry(&mut self, who: Who, (id, index): (Id, u8)) {
        let network = &self.links.network;
        if !self.links.is_whole() || self.now - self.unrest.healed < CALM || network.loss > 0.0 {
            return;
        }
        let copies = self.truth.stripes.get(&id).map(|stripe| stripe.copies.iter());
        let committed = copies.into_iter().flatten().find(|(index, holder)| {
            let host = self.running(*holder);
            host.is_some_and(|host| host.born + CALM <= self.now) && self.is_committed((id, *index), *holder)
        });
        if let Some((_, holder)) = committed.copied()
            && self.near(&self.true_circle(), id).any(|near| near == holder)
        {
            let detail = format!("host {who} dropped {id:?}:{index}, committed on host {holder}");
            let invariant = "no lease of a committed stripe runs out";
            self.violate(Violation::custody(invariant, detail));
        }
    }

    /// Nothing happened for long, but that some hosts were wedged.
    pub(super) fn check_taken_over(&mut self) {
        let Some(custody) = &self.setup.custody else {
            return;
        };
        let span = micros(custody.repair_delay * TAKEN_OVER);
        let (wedged, able): (Vec<Who>, Vec<Who>) = self
            .those(Host::is_joined)
            .into_iter()
            .partition(|who| self.host(*who).is_some_and(|host| host.wedged));
        if wedged.is_empty() || self.now - self.unrest.last < span || !self.is_calm() {
            return;
        }
        let circle = self.true_circle();
        for (id, stripe) in &self.truth.stripes {
            let there = |who: &Who| wedged.contains(who) || able.contains(who);
            let live = indices(stripe.copies.iter().filter(|(_, who)| there(who))).len();
            let held = |host: &Host| host.disk.range((*id, 0)..=(*id, LOCATOR)).next().is_some();
            let counts = |who| able.contains(&who) && self.host(who).is_some_and(held);
            let watched = self.near(&circle, *id).any(counts);
            let (k, n) = (usize::from(stripe.shape.k), usize::from(stripe.shape.n));
            let possible = watched && live >= k && n <= wedged.len() + able.len();
            let room = wedged.iter().chain(&able).all(|who| self.takes(*who));
            let old = stripe
                .promised
                .is_some_and(|promised| promised + span <= self.now);
            if possible && room && old && stripe.is_promised() && live < n {
                let detail = format!("{id:?} has {live} of {n} indices, hosts {wedged:?} being wedged");
                return self.violate(Violation::custody("others take over", detail));
            }
        }
    }

    /// A primary regenerates shards of a stripe.
    pub(super) fn check_repair(&mut self, who: Who, id: Id) {
        let promised = self.truth.stripes.get(&id).and_then(|stripe| stripe.promised);
        // Whoever claims to hold a committed shard has the others committed.
        if promised.is_none() && self.liars() == 0 {
            let detail = format!("host {who} repairs {id:?}, whose put may yet be given up");
            self.violate(Violation::custody("no repair before the commit", detail));
        }
    }
}

/// Owner of the first node after `id` that is not `but`.
fn first_other(circle: &[(Id, Who)], id: Id, but: Who) -> Option<Who> {
    let mut owners = after(circle, id).map(|(_, owner)| *owner);
    owners.find(|owner| *owner != but)
}
