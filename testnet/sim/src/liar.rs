//! A member that lies: it keeps to the ring, and does all it can to have others' shards.
//!
//! It takes every shard and keeps none. It says yes to every question, claims all indices of all stripes to
//! everybody, as if it held them and, by its number, tombstones of them too. As primary it agrees to every
//! report, says that it is at work, and does nothing. And again and again it orders every holder of every
//! stripe to drop what it holds. As primary it may name a stranger as a holder, too.
//!
//! Some lie in part: about some stripes alone, to some hosts alone. Of other stripes they take nothing, and
//! for everybody else they hold nothing, as is true.
//!
//! What must hold: of no stripe have more indices been trimmed away than there are liars, so that as long as
//! liars and lost holders are no more than m, k are left; every trim is in favour of a legal holder that
//! stays and stands before; and in the end every stripe lies whole on honest hosts, but for as many indices
//! as there are liars.

use mutualstore_dht::custody::{
    Entry, Holds, Item, LOCATOR, Listing, Report, Reported, Request, Response, Status, TOMBSTONE, TrimOrder,
};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Id, Peer, PeerState, RingView};

use super::check::Violation;
use super::disk::{Stripe, Tenure, holders, indices};
use super::host::Host;
use super::world::{Event, Who, World};
use super::{fraction, mix};

/// About what a liar lies, and to whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lies {
    /// Share of the stripes.
    pub(crate) stripes: f64,
    /// Share of the hosts.
    pub(crate) hosts: f64,
}

impl Lies {
    /// Whether a liar lies about a stripe.
    pub(super) fn are_about(self, who: Who, stripe: Id) -> bool {
        let number = stripe.as_bytes().first_chunk().copied();
        let number = number.map_or(0, u64::from_le_bytes);
        fraction(mix(number ^ u64::from(who))) < self.stripes
    }

    /// Whether a liar lies to a host.
    fn is_deceived(self, who: Who, victim: Who) -> bool {
        fraction(mix(u64::from(victim) << 32 ^ u64::from(who))) < self.hosts
    }
}

/// Between two rounds of lies, in microseconds.
const ROUND: u64 = 2_000_000;
/// Orders in one message.
const ORDERS: usize = 256;

impl World {
    /// Hosts that lie or did.
    pub(super) fn liars(&self) -> usize {
        self.hosts.iter().filter(|host| host.is_liar()).count()
    }

    fn is_liar(&self, who: Who) -> bool {
        self.host(who).is_some_and(Host::is_liar)
    }

    /// From now on a host lies, and what it held is gone; unless some stripe could not bear that.
    pub(crate) fn lie(&mut self, who: Who, lies: Lies) {
        if self.is_liar(who) || !self.may_wipe(who) {
            return;
        }
        self.wipe(who);
        if let Some(host) = self.host_mut(who) {
            host.lies = Some(lies);
            if let Some(engine) = &mut host.engine {
                engine.custody = None;
            }
            host.calls.clear();
            host.locators.clear();
        }
        self.schedule_lies(who);
    }

    /// The process of a liar started.
    pub(super) fn schedule_lies(&mut self, who: Who) {
        let liar = self.host(who).filter(|host| host.is_liar());
        if let Some(life) = liar.map(|host| host.life) {
            self.schedule(self.now + ROUND / 4, Event::Lie(who, life));
        }
    }

    /// One round of lies to everybody.
    pub(super) fn spread_lies(&mut self, who: Who) {
        let life = self.host(who).map_or(0, |host| host.life);
        self.schedule(self.now + ROUND, Event::Lie(who, life));
        let Some(lies) = self.host(who).and_then(|host| host.lies) else {
            return;
        };
        let victims = self.those(|host| host.is_running() && !host.is_liar());
        for victim in victims {
            if !self.reaches(who, victim) || !lies.is_deceived(who, victim) {
                continue;
            }
            self.send_lie(who, victim, Request::Report(self.claims(who, lies)));
            for orders in self.orders((who, lies), victim).chunks(ORDERS) {
                let orders = orders.to_vec();
                self.send_lie(who, victim, Request::Trim { orders });
            }
        }
    }

    fn send_lie(&mut self, who: Who, victim: Who, request: Request) {
        if let Some(liar) = self.peer(who) {
            self.forge(victim, liar, request);
        }
    }

    /// All indices of all stripes there are.
    fn claims(&self, who: Who, lies: Lies) -> Report {
        let listing = |bucket| {
            let in_bucket = |id: &Id| id.as_bytes().last() == Some(&bucket) && lies.are_about(who, *id);
            let stripes = self.truth.stripes.iter().filter(|(id, _)| in_bucket(id));
            let entries = stripes.flat_map(|(id, stripe)| {
                let indices = Self::claimed(who, stripe).into_iter();
                indices.map(|index| Entry {
                    stripe: *id,
                    item: index.into(),
                    shape: stripe.shape,
                    committed: true,
                })
            });
            Listing {
                bucket,
                from: Id::default(),
                to: Id::new([0xff; 32]),
                entries: entries.collect(),
            }
        };
        Report {
            instance: u64::from(who),
            sequence: self.now,
            total: 1,
            listings: (0..=u8::MAX).map(listing).collect(),
        }
    }

    /// What a liar says that it holds of a stripe.
    fn claimed(who: Who, stripe: &Stripe) -> Vec<u8> {
        let located = stripe.shape.placement.needs_locators();
        let declared_dead = stripe.deleted || who % 2 == 1;
        let mut indices: Vec<u8> = (0..stripe.shape.n).collect();
        indices.extend(located.then_some(LOCATOR));
        indices.extend(declared_dead.then_some(TOMBSTONE));
        indices
    }

    /// Orders to drop all that a host holds, in favour of the liar.
    fn orders(&self, (who, lies): (Who, Lies), victim: Who) -> Vec<TrimOrder> {
        let (Some(liar), Some(host)) = (self.peer(who), self.host(victim)) else {
            return Vec::new();
        };
        let orders = host.disk.iter().filter(|((_, index), _)| *index < LOCATOR);
        let orders = orders.filter(|((stripe, _), _)| lies.are_about(who, *stripe));
        let orders = orders.map(|((stripe, index), stored)| TrimOrder {
            stripe: *stripe,
            item: (*index).into(),
            keep: liar,
            others: (0..stored.shape.n)
                .filter(|other| other != index)
                .map(|other| (other, liar))
                .collect(),
        });
        orders.collect()
    }

    /// What a liar answers; none if the host is none.
    pub(super) fn lying_answer(&self, who: Who, asker: Who, request: &Request) -> Option<Response> {
        let lies = self.host(who)?.lies?;
        let untrue = |id: Id| lies.is_deceived(who, asker) && lies.are_about(who, id);
        let holds = |id: &Id| match self.truth.stripes.get(id).filter(|_| untrue(*id)) {
            Some(stripe) => Holds {
                items: Self::claimed(who, stripe).into_iter().map(Item::from).collect(),
                under_repair: true,
                // Nobody is at this address: two kinds of liars name it.
                reported: (who % 4 >= 2)
                    .then_some(Peer::new([0xee; 32]))
                    .into_iter()
                    .collect(),
            },
            None => Holds::default(),
        };
        Some(match request {
            Request::Report(_) => Response::Reported(Reported::default()),
            Request::Confirm { questions } => {
                let answers = questions.iter().map(|question| untrue(question.stripe));
                Response::Confirmed(answers.collect())
            }
            Request::Status { stripes } => Response::Statuses(vec![Status::None; stripes.len()]),
            Request::Held { stripes } => Response::Held(stripes.iter().map(holds).collect()),
            Request::Solicit
            | Request::Commit { .. }
            | Request::Trim { .. }
            | Request::Audit { .. }
            | Request::Release { .. }
            | Request::Audited { .. } => Response::Taken,
        })
    }
}

/// What must hold.
impl World {
    /// A host is about to drop a committed shard as excess: somebody has it in whose favour that may be.
    pub(super) fn check_trim(&mut self, who: Who, (id, index): (Id, u8)) {
        let stripe = self.truth.stripes.get(&id).filter(|stripe| stripe.is_promised());
        let host = self.host(who).filter(|host| !host.is_deleted(id));
        let (Some(stripe), Some(host)) = (stripe, host) else {
            return;
        };
        let Some(ring) = host.ring().filter(|_| !stripe.is_risky(index, self.now)) else {
            return;
        };
        let members = RingView::successors(ring, id, self.setup.ring.r);
        let place = |peer: Peer| members.iter().position(|member| member.peer == peer);
        let scattered = stripe.shape.placement != Placement::Successors;
        let leaves = |peer: Peer| {
            let contact = ring.contact(peer);
            contact.is_none_or(|contact| contact.state == PeerState::Draining)
        };
        let doubled = host.shards(id).count() > 1;
        let anyone = scattered || doubled || ring.me().state == PeerState::Draining;
        let mine = place(host.peer).unwrap_or(usize::MAX);
        let fits = |who: Who| {
            let Some(peer) = self.peer(who) else { return false };
            let before = match place(peer) {
                Some(place) => anyone || place < mine,
                None => scattered,
            };
            before && !leaves(peer)
        };
        let copies = stripe.copies.iter().filter(|(of, at)| *of == index && *at != who);
        let mut holders = copies.map(|(_, at)| *at).chain(self.those(Host::is_liar));
        if !holders.any(fits) {
            let near: Vec<Option<Who>> = members.iter().map(|member| self.who(member.peer)).collect();
            let own: Vec<u8> = host.shards(id).map(|(of, _)| of).collect();
            let detail = format!(
                "host {who}, which holds {own:?} and sees {near:?}, drops {id:?}:{index} of {:?}",
                stripe.copies
            );
            let invariant = "trims favour legal holders that stay and stand before";
            self.violate(Violation::custody(invariant, detail));
        }
    }

    /// What keeps a stripe from being as well off as honest hosts can have it: whole but for an index for
    /// each liar, or on all that take shards.
    pub(super) fn lied_problem(&self, id: Id, stripe: &Stripe, copies: &[(u8, Who)]) -> Option<String> {
        let committed: Vec<(u8, Who)> = self.committed(id, copies).copied().collect();
        let (indices, holders) = (indices(&committed), holders(&committed));
        let (k, n) = (usize::from(stripe.shape.k), usize::from(stripe.shape.n));
        if indices.len() < k {
            return stripe
                .acked
                .then(|| format!("of {id:?} hosts hold {committed:?} alone"));
        }
        let circle = self.true_circle();
        let honest = |who: &Who| self.host(*who).is_some_and(|host| !host.is_liar());
        let near: Vec<Who> = self.near(&circle, id).collect();
        let lacks = |who: &&Who| honest(who) && self.takes(**who) && !holders.contains(who);
        let lacking = near.iter().filter(lacks).count();
        // Who takes over must hold a committed shard and be near, and must find the rest: where the id does
        // not tell where that lies, a primary that lies need not name who holds it.
        let hidden =
            stripe.shape.placement.needs_locators() && near.first().is_some_and(|primary| !honest(primary));
        let holds = |who: &Who| {
            let mut shards = self.host(*who).into_iter().flat_map(|host| host.shards(id));
            shards.any(|(_, stored)| stored.tenure == Tenure::Committed)
        };
        let watched = near.iter().any(|who| honest(who) && holds(who));
        let liars = self.those(|host| host.is_liar() && host.is_running()).len();
        let enough = indices.len().min(holders.len()) + liars >= n;
        (!enough && lacking > 0 && watched && !hidden).then(|| {
            format!(
                "stripe {id:?} lies as {committed:?}, of {n}, with {liars} liars and {lacking} that \
                     could take more; first are {near:?}"
            )
        })
    }
}
