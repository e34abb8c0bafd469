//! What must hold after every event, and what must hold once faults have stopped.
//!
//! **Ring, always** (Zave 2017's inductive invariant, stated for peers with many virtual nodes):
//! * *lists*: the successor list of every own virtual node is the first r distinct other members of the local
//!   view clockwise, or all of them; without self, without duplicates, in order;
//! * *ordered ring*: following from each virtual node of a member its first successor that lives and is a
//!   member, every cycle goes exactly once around the circle; what is on no cycle reaches one;
//! * *one ring* (while the faults so far were within the assumption that of r peers in a row one lives): one
//!   cycle has members that are not newcomers;
//! * *the dead are not named*: no answer names a peer that the answerer counts as dead.
//!
//! **Custody, always**: see `disk`, where shards go, and `placed`, what policies demand.
//!
//! **In the end**: every list is what it should be and every contact in it the latest; every stripe of which
//! k indices can be reached has n on the first n accepting peers, or under another policy than `successors`
//! on n that stay, committed, and nowhere else; locators are with the first r; nothing is pending; traffic is
//! back to idle.

use std::collections::{BTreeMap, BTreeSet};

use itertools::Itertools;
use mutualstore_dht::custody::{Custody, LOCATOR, Shape};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::ring::{Liveness, Phase, Response, Ring};
use mutualstore_dht::{Contact, Id, Peer, PeerState};

use super::cycles::Cycles;
use super::disk::{Stripe, holders, indices};
use super::host::Host;
use super::world::{Who, World, seconds};

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When, in seconds of virtual time.
    pub at: f64,
    /// `ring`, `custody` or `liveness`.
    pub part: &'static str,
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl Violation {
    pub(crate) fn ring(invariant: &'static str, detail: String) -> Self {
        Self {
            at: 0.0,
            part: "ring",
            invariant,
            detail,
        }
    }

    pub(crate) fn custody(invariant: &'static str, detail: String) -> Self {
        Self {
            part: "custody",
            ..Self::ring(invariant, detail)
        }
    }

    pub(crate) fn liveness(invariant: &'static str, detail: String) -> Self {
        Self {
            part: "liveness",
            ..Self::ring(invariant, detail)
        }
    }
}

/// A host's circle as it was last looked at; none when the host is no member.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) circle: Vec<(Id, Who)>,
    pub(super) own: Vec<Id>,
    /// Versions of the living, by peer.
    pub(super) versions: Vec<(Peer, u64)>,
    /// When its process was started.
    pub(super) born: u64,
    pub(super) member: bool,
    /// Not on its way into a ring.
    pub(super) joined: bool,
}

/// In larger networks rings are only checked in the end: every change of a view costs a look at all of it.
const MOST_CHECKED: usize = 1200;

/// State of the checks of one run.
#[derive(Debug)]
pub(crate) struct Checks {
    /// Whether there must be one ring all the time.
    pub(crate) one_ring: bool,
    /// Whether rings are only looked at in the end.
    pub(crate) patient: bool,
    pub(crate) violation: Option<Violation>,
    r: usize,
    views: BTreeMap<Who, View>,
    cycles: Cycles,
}

impl Checks {
    pub(crate) fn new(r: usize) -> Self {
        Self {
            one_ring: false,
            patient: false,
            violation: None,
            r,
            views: BTreeMap::new(),
            cycles: Cycles::default(),
        }
    }

    /// A process started or ended.
    pub(crate) fn host_changed(&mut self, who: Who) {
        if self.views.remove(&who).is_some_and(|view| view.member) {
            self.cycles.forget();
        }
    }
}

impl World {
    pub(crate) fn violate(&mut self, violation: Violation) {
        let at = seconds(self.now);
        self.checks.violation.get_or_insert(Violation { at, ..violation });
    }

    /// The local view of a host changed.
    pub(crate) fn view_changed(&mut self, who: Who) {
        if self.checks.patient || self.hosts.len() > MOST_CHECKED {
            return;
        }
        let Some(ring) = self.ring(who) else {
            return;
        };
        let member = ring.is_member();
        let joined = ring.phase() == Phase::Joined;
        let born = self.host(who).map_or(0, |host| host.born);
        let circle = ring.circle();
        let circle: Vec<(Id, Who)> = circle
            .filter_map(|(id, peer)| Some((id, self.who(peer)?)))
            .collect();
        let own = circle.iter().filter(|(_, owner)| *owner == who);
        let own: Vec<Id> = own.map(|(id, _)| *id).collect();
        let old = self.checks.views.get(&who);
        let same = old.is_some_and(|old| old.circle == circle && old.member == member);
        let problem =
            (!same).then(|| list_problem(ring, (&circle, &own), self.checks.r, who, |peer| self.who(peer)));
        if let Some(problem) = problem.flatten() {
            self.violate(Violation::ring("lists", format!("host {who} {problem}")));
            return;
        }
        let alive = ring.alive();
        let versions: Vec<(Peer, u64)> = alive.map(|contact| (contact.peer, contact.version)).collect();
        let old = self.checks.views.remove(&who).unwrap_or_default();
        let stale = older(&old.versions, &versions);
        let wrong = match (old.joined, joined) {
            (true, true) => self
                .check_heads(who, &old.circle, &circle)
                .map(|problem| ("heads have answered", problem)),
            (false, true) => self
                .check_join(who, &circle)
                .map(|problem| ("joins take the list", problem)),
            (_, false) => None,
        };
        let view = View {
            circle,
            own,
            versions,
            born,
            member,
            joined,
        };
        if old.member != view.member || view.member && (old.own != view.own || old.born != view.born) {
            self.checks.cycles.forget();
        }
        self.checks.views.insert(who, view);
        if let Some((invariant, problem)) = wrong {
            self.violate(Violation::ring(invariant, problem));
        }
        if let Some(peer) = stale {
            let detail = format!("host {who} took an older contact of {peer:?}");
            self.violate(Violation::ring("contacts never get older", detail));
        }
        if !same
            && self.checks.one_ring
            && let Err((invariant, problem)) = self.checks.cycles.check(self.now, &self.checks.views, who)
        {
            self.violate(Violation::ring(invariant, problem));
        }
    }

    /// A host is about to answer.
    pub(crate) fn check_answer(&mut self, who: Who, asker: Peer, response: &Response) {
        let (Response::Contacts(named) | Response::Found(named) | Response::Closer(named)) = response else {
            return;
        };
        let Some(ring) = self.ring(who) else {
            return;
        };
        // An asker that is counted as dead is told the version it has to outdo.
        let dead = |contact: &&Contact| {
            contact.peer != asker && matches!(ring.liveness(contact.peer), Some(Liveness::Dead { .. }))
        };
        if let Some(dead) = named.iter().find(dead) {
            let detail = format!("host {who} named {:?}, which it counts as dead", dead.peer);
            self.violate(Violation::ring("the dead are not named", detail));
        }
    }
}

/// Somebody of whom a version was known before and an older one is now; both in the order of the peers.
fn older(before: &[(Peer, u64)], now: &[(Peer, u64)]) -> Option<Peer> {
    let mut before = before.iter().peekable();
    let mut back = now.iter().filter(|(peer, version)| {
        while before.next_if(|(other, _)| other < peer).is_some() {}
        before
            .peek()
            .is_some_and(|(other, known)| other == peer && known > version)
    });
    back.next().map(|(peer, _)| *peer)
}

/// What is wrong with the successor lists of a host.
fn list_problem(
    ring: &Ring,
    (circle, own): (&[(Id, Who)], &[Id]),
    r: usize,
    who: Who,
    host: impl Fn(Peer) -> Option<Who>,
) -> Option<String> {
    for id in own {
        let owners = after(circle, *id).map(|(_, owner)| *owner);
        let expected: Vec<Who> = owners.filter(|owner| *owner != who).unique().take(r).collect();
        let listed = || ring.successor_list(*id).map(|contact| host(contact.peer));
        if !listed().eq(expected.iter().map(|who| Some(*who))) {
            let listed: Vec<_> = listed().flatten().collect();
            return Some(format!(
                "lists hosts {listed:?} after {id:?}, where its view has {expected:?}"
            ));
        }
    }
    None
}

/// What must hold in the end.
impl World {
    /// What keeps the rings of all running hosts from being as they should.
    pub(crate) fn ring_problem(&self) -> Option<String> {
        let circle = self.true_circle();
        let running = self.those(Host::is_running);
        let wanted = if running.len() == 1 {
            Phase::Alone
        } else {
            Phase::Joined
        };
        for who in running {
            let ring = self.ring(who);
            if let Some(ring) = ring.filter(|ring| ring.phase() != wanted) {
                return Some(format!("host {who} is {}", ring.phase()));
            }
        }
        circle
            .iter()
            .find_map(|(id, who)| self.successors_problem(&circle, *id, *who))
    }

    /// What is wrong with the successor list of one virtual node.
    fn successors_problem(&self, circle: &BTreeMap<Id, Who>, id: Id, who: Who) -> Option<String> {
        let ring = self.host(who)?.ring()?;
        let others = distinct(circle, id).filter(|other| *other != who);
        let mut expected = others.take(self.checks.r);
        for contact in ring.successor_list(id) {
            let listed = self.who(contact.peer)?;
            let due = expected.next();
            if due != Some(listed) {
                return Some(format!("host {who} lists {listed} after {id:?}, not {due:?}"));
            }
            let latest = self.ring(listed);
            if latest.is_none_or(|ring| ring.me() != contact) {
                return Some(format!(
                    "host {who} has an old contact of {listed}: {contact:?}, not {:?}",
                    latest.map(mutualstore_dht::ring::Ring::me)
                ));
            }
        }
        if let Some(missing) = expected.next() {
            return Some(format!("host {who} does not list {missing} after {id:?}"));
        }
        let mut before = circle.range(..id).rev().chain(circle.range(id..).rev());
        let before = before.find_map(|(_, other)| (*other != who).then_some(*other))?;
        let known = self.host(before).is_some_and(|host| ring.is_alive(host.peer));
        (!known).then(|| format!("host {who} does not know {before} before {id:?}"))
    }

    /// All virtual nodes of running hosts.
    pub(crate) fn true_circle(&self) -> BTreeMap<Id, Who> {
        let mut circle = BTreeMap::new();
        for who in self.those(Host::is_running) {
            if let Some(ring) = self.ring(who) {
                circle.extend(ring.me().ids().map(|id| (id, who)));
            }
        }
        circle
    }

    /// What keeps some stripe from being as it should.
    pub(crate) fn stripe_problem(&self) -> Option<String> {
        let circle = self.true_circle();
        let mut stripes = self.truth.stripes.iter();
        stripes.find_map(|(id, stripe)| self.problem_of(&circle, *id, stripe))
    }

    fn problem_of(&self, circle: &BTreeMap<Id, Who>, id: Id, stripe: &Stripe) -> Option<String> {
        if stripe.deleted {
            return self.deletion_problem(circle, id, stripe);
        }
        let running = |(_, who): &&(u8, Who)| self.running(*who).is_some();
        let copies: Vec<(u8, Who)> = stripe.copies.iter().filter(running).copied().collect();
        if self.committed(id, &copies).next().is_none() {
            return (!copies.is_empty()).then(|| format!("stripe {id:?} is still pending on {copies:?}"));
        }
        let known = |problem| format!("{problem}; {}", self.record_at_primary(circle, id));
        if self.liars() > 0 {
            return self.lied_problem(id, stripe, &copies).map(known);
        }
        let (indices, n) = (indices(&copies).len(), usize::from(stripe.shape.n));
        if indices < usize::from(stripe.shape.k) {
            return None;
        }
        if stripe.shape.placement != Placement::Successors {
            return self.policy_problem(circle, id, stripe.shape, &copies).map(known);
        }
        let preferred_holders = self.preferred_holders(circle, id, stripe.shape);
        // Full hosts that hold the same index twice between them cannot take a missing one.
        let stuck = indices < n && !self.near(circle, id).any(|who| self.takes(who));
        if preferred_holders.len() < n || stuck {
            return None;
        }
        let well = indices == n && copies.len() == n && holders(&copies) == preferred_holders;
        let problem = || format!("stripe {id:?} lies as {copies:?}, its places are {preferred_holders:?}");
        (!well).then(|| known(problem()))
    }

    /// What keeps a deleted stripe from being gone, as long as anybody has its tombstone.
    fn deletion_problem(&self, circle: &BTreeMap<Id, Who>, id: Id, stripe: &Stripe) -> Option<String> {
        let aware = |who: Who| self.running(who).is_some_and(|host| host.is_deleted(id));
        if !circle.values().any(|who| aware(*who)) || self.liars() > 0 {
            // A primary that lies spreads no tombstones.
            return None;
        }
        let preferred_holders = self.near(circle, id).take(usize::from(stripe.shape.n));
        let unaware: Vec<Who> = preferred_holders.filter(|who| !aware(*who)).collect();
        let running = |(_, who): &&(u8, Who)| self.running(*who).is_some();
        let left: Vec<&(u8, Who)> = stripe.copies.iter().filter(running).collect();
        let located = self.those(|host| host.is_running() && host.disk.contains_key(&(id, LOCATOR)));
        (!unaware.is_empty() || !left.is_empty() || !located.is_empty()).then(|| {
            format!(
                "stripe {id:?} is deleted, but lies as {left:?}, its locator on {located:?}, and hosts \
                 {unaware:?} do not know"
            )
        })
    }

    /// Where a stripe lies, and what its primary was told of it.
    pub(crate) fn whereabouts(&self, id: Id) -> String {
        let stripe = self.truth.stripes.get(&id);
        let lies = stripe.map(|stripe| (&stripe.copies, stripe.shape));
        format!(
            "lies as {lies:?}; {}",
            self.record_at_primary(&self.true_circle(), id)
        )
    }

    /// What the primary of a stripe was told of it.
    fn record_at_primary(&self, circle: &BTreeMap<Id, Who>, id: Id) -> String {
        let primary = distinct(circle, id).next().unwrap_or(0);
        let custody = self.custody(primary);
        let record = custody.and_then(|custody| custody.stripe(id));
        let shards = record.map(|record| {
            let known = record.shards.iter();
            let known =
                known.map(|shard| (shard.index, self.who(shard.peer), shard.committed, shard.standing));
            known.collect::<Vec<_>>()
        });
        format!(
            "its primary {primary} knows of {shards:?}, {:?}",
            custody.map(Custody::stats)
        )
    }

    /// The first n among the r hosts at or after a stripe that take shards, or are full and hold one of it.
    fn preferred_holders(&self, circle: &BTreeMap<Id, Who>, id: Id, shape: Shape) -> BTreeSet<Who> {
        let sits = |who: &Who| match self.state(*who) {
            Some(PeerState::Accepting) => true,
            Some(PeerState::Full) => self
                .host(*who)
                .is_some_and(|host| host.records(id).next().is_some()),
            Some(PeerState::Draining) | None => false,
        };
        let near = self.near(circle, id).filter(sits);
        near.take(usize::from(shape.n)).collect()
    }

    /// The r hosts at or after a stripe.
    pub(super) fn near(&self, circle: &BTreeMap<Id, Who>, id: Id) -> impl Iterator<Item = Who> {
        distinct(circle, id).take(self.setup.ring.r)
    }
}

/// What is after a point of a sorted circle, once around.
pub(super) fn after(circle: &[(Id, Who)], id: Id) -> impl Iterator<Item = &(Id, Who)> {
    let after = circle.partition_point(|(other, _)| *other <= id);
    let (low, high) = circle.split_at(after);
    high.iter().chain(low)
}

/// Distinct hosts after a point (at it included).
pub(crate) fn distinct(circle: &BTreeMap<Id, Who>, from: Id) -> impl Iterator<Item = Who> {
    let nodes = circle.range(from..).chain(circle.range(..from));
    nodes.map(|(_, who)| *who).unique()
}
