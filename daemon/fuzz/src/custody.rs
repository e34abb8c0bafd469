//! Calls of custody's state machine, by a holder whose peers say whatever they like.
//!
//! The model keeps what the store holds and which peers confirmed what. It checks the rule that others build
//! on: a committed shard goes only when its stripe is deleted here, or when n distinct peers confirmed one
//! index each, lately.

mod draw;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use mutualstore_dht::custody::{
    Custody, CustodyConfig, Effect, Holding, Item, JobId, JobOutcome, Listing, MAX_ASKED, MAX_ENTRIES,
    Request, Response, Tenure, Transmit,
};
use mutualstore_dht::{Flaw, Id, Member, Peer, PeerState, RingView, Time};

use self::draw::{any_peer, item, many, other_peer, request, response, shape, stripe};
use crate::ring::peer;

/// Peers there are; custody's own is the first.
const PEERS: u8 = 10;
/// Requests and effects after one call, at most: one of each kind to each peer, and some for each stripe.
const MAX_OUTPUT: usize = 512;
/// How often a timer may be due at one moment: the work of a sweep comes in slices.
const MAX_DUE: usize = 256;

/// The bytes are a seed, and calls.
pub fn operations(bytes: &[u8]) {
    operations_with(None, bytes);
}

fn operations_with(flaw: Option<Flaw>, bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    if let Ok(mut driver) = Driver::new(flaw, &mut input) {
        while !input.is_empty() && driver.act(&mut input).is_ok() {
            driver.settle();
        }
        driver.advance(Duration::from_mins(5));
    }
}

/// A ring that does as the input says.
struct View {
    /// Whether each peer lives, and its state.
    peers: Vec<(bool, PeerState)>,
    moves: u64,
    settled: bool,
}

impl RingView for View {
    fn me(&self) -> Peer {
        peer(0)
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        let first = u8::try_from(id.prefix() % u64::from(PEERS)).unwrap_or_default();
        let numbers = (0..PEERS).map(|step| (first + step) % PEERS);
        let members = numbers.filter_map(|number| {
            let (alive, state) = *self.peers.get(usize::from(number))?;
            let peer = peer(number);
            alive.then_some(Member { peer, state })
        });
        members.take(limit).collect()
    }

    fn is_alive(&self, other: Peer) -> bool {
        (0..PEERS)
            .zip(&self.peers)
            .any(|(number, (alive, _))| *alive && peer(number) == other)
    }

    fn moves(&self) -> u64 {
        self.moves
    }

    fn is_settled(&self) -> bool {
        self.settled
    }
}

/// Custody, what it asked and what the store beneath it holds.
struct Driver {
    custody: Custody,
    view: View,
    config: CustodyConfig,
    now: Time,
    asked: Vec<(Time, Transmit)>,
    jobs: Vec<JobId>,
    store: BTreeMap<(Id, Item), Tenure>,
    /// Who said that it holds which shard, and when it was asked.
    confirmed: BTreeMap<(Id, u8, Peer), Time>,
}

impl Driver {
    fn new(flaw: Option<Flaw>, input: &mut Unstructured) -> Result<Self> {
        let config = CustodyConfig {
            flaw,
            repair_delay: Duration::from_secs(30),
            exactly_k_delay: Duration::from_secs(10),
            ..CustodyConfig::default()
        };
        let now = Time::from_micros(1);
        Ok(Self {
            custody: Custody::new(config.clone(), peer(0), input.arbitrary()?, now),
            view: View {
                peers: vec![(true, PeerState::Accepting); usize::from(PEERS)],
                moves: 0,
                settled: true,
            },
            config,
            now,
            asked: Vec::new(),
            jobs: Vec::new(),
            store: BTreeMap::new(),
            confirmed: BTreeMap::new(),
        })
    }

    /// One call.
    fn act(&mut self, input: &mut Unstructured) -> Result<()> {
        let now = self.now;
        match input.int_in_range(0..=15)? {
            0 | 1 => self.insert(input)?,
            2..=4 => self.answer(input)?,
            5 | 6 => {
                let (from, request) = (other_peer(input)?, request(input)?);
                let answer = self
                    .custody
                    .handle_request(now, &self.view, from, request.clone());
                check_answer(&request, &answer);
            }
            7 => {
                if !self.asked.is_empty() {
                    let at = input.choose_index(self.asked.len())?;
                    let (_, call) = self.asked.swap_remove(at);
                    self.custody.handle_failure(now, &self.view, call.id);
                }
            }
            8 | 9 => self.advance(Duration::from_millis(input.int_in_range(0..=40_000)?)),
            10 => self.change_ring(input)?,
            11 => self.finish_job(input)?,
            12 => self.discard(input)?,
            13 => {
                let (stripe, seconds) = (stripe(input)?, input.int_in_range(0..=100)?);
                let until = now + Duration::from_secs(seconds);
                self.custody.renew(now, stripe, until);
                for (_, tenure) in self
                    .store
                    .range_mut((stripe, Item::Shard(0))..=(stripe, Item::Tombstone))
                {
                    if let Tenure::Pending { until: end, .. } = tenure {
                        *end = until;
                    }
                }
            }
            14 => {
                let gone = other_peer(input)?;
                self.custody.forget(now, &self.view, gone);
            }
            _ => match input.int_in_range(0..=2)? {
                0 => self.custody.check_now(now, &self.view),
                1 => self.custody.handle_stall(now),
                _ => self.custody.vouch_for_all(),
            },
        }
        Ok(())
    }

    /// The store took something, unless the stripe is deleted here.
    fn insert(&mut self, input: &mut Unstructured) -> Result<()> {
        let (stripe, item) = (stripe(input)?, item(input)?);
        let until = self.now + Duration::from_secs(input.int_in_range(1..=100)?);
        let tenure = match item {
            Item::Records(digest) => {
                let digest = u64::from_be_bytes(digest);
                self.custody.records_changed(self.now, stripe, Some(digest));
                return Ok(());
            }
            Item::Tombstone => Tenure::Deleted { until },
            Item::Locator | Item::Shard(_) if input.arbitrary()? => Tenure::Committed,
            Item::Locator | Item::Shard(_) => Tenure::Pending {
                until,
                writer: any_peer(input)?,
            },
        };
        let shape = shape(stripe);
        let fits = item.shard().is_none_or(|index| index < shape.n);
        let locator = item != Item::Locator || shape.placement.needs_locators();
        if fits && locator && !self.is_deleted(stripe) && !self.store.contains_key(&(stripe, item)) {
            self.store.insert((stripe, item), tenure);
            let holding = Holding {
                stripe,
                item,
                shape,
                tenure,
            };
            self.custody.insert(self.now, holding);
        }
        Ok(())
    }

    fn is_deleted(&self, stripe: Id) -> bool {
        self.store.contains_key(&(stripe, Item::Tombstone))
    }

    fn answer(&mut self, input: &mut Unstructured) -> Result<()> {
        if self.asked.is_empty() {
            return Ok(());
        }
        let at = input.choose_index(self.asked.len())?;
        let (sent, call) = self.asked.swap_remove(at);
        let response = response(input, &call.request)?;
        if let (Request::Confirm { questions }, Response::Confirmed(answers)) = (&call.request, &response) {
            for (question, _) in questions.iter().zip(answers).filter(|(_, yes)| **yes) {
                if let Some(index) = question.item.shard() {
                    self.confirmed.insert((question.stripe, index, call.to), sent);
                }
            }
        }
        self.custody
            .handle_response(self.now, &self.view, call.id, response);
        Ok(())
    }

    fn change_ring(&mut self, input: &mut Unstructured) -> Result<()> {
        let at = input.int_in_range(0..=PEERS - 1)?;
        let states = [PeerState::Accepting, PeerState::Full, PeerState::Draining];
        let (alive, state) = (at == 0 || input.arbitrary()?, *input.choose(&states)?);
        if let Some(place) = self.view.peers.get_mut(usize::from(at)) {
            *place = (alive, state);
        }
        self.view.settled = input.int_in_range(0..=7)? > 0;
        self.view.moves += u64::from(input.arbitrary::<bool>()?);
        self.custody.membership_changed(self.now, &self.view);
        Ok(())
    }

    fn finish_job(&mut self, input: &mut Unstructured) -> Result<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let at = input.choose_index(self.jobs.len())?;
        let job = self.jobs.swap_remove(at);
        let outcome = JobOutcome {
            stored: many(input, |input| Ok((item(input)?, any_peer(input)?)))?,
            failed: many(input, |input| Ok((item(input)?, any_peer(input)?)))?,
            inconsistent: input.int_in_range(0..=7)? == 7,
            bytes: input.arbitrary::<u32>()?.into(),
        };
        self.custody.handle_job(self.now, &self.view, job, outcome);
        Ok(())
    }

    /// Whoever put something wants it back.
    fn discard(&mut self, input: &mut Unstructured) -> Result<()> {
        let key = (stripe(input)?, item(input)?);
        if self.store.contains_key(&key) && self.custody.begin_discard(key.0, key.1) {
            if input.arbitrary()? {
                self.store.remove(&key);
                self.custody.removed(self.now, key.0, key.1);
            } else {
                self.custody.spared(key.0, key.1);
            }
        }
        Ok(())
    }

    /// Time goes by, and what comes due is done when it is due.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10 * MAX_DUE {
            let Some(due) = self.custody.poll_timeout().filter(|due| *due <= end) else {
                break;
            };
            self.now = due.max(self.now);
            self.custody.handle_timeout(self.now, &self.view);
            self.settle();
        }
        self.now = end;
    }

    /// Takes out what custody wants, does it in the store, and checks what must hold after every call.
    fn settle(&mut self) {
        let mut calls = 0;
        loop {
            self.drain();
            if self.custody.poll_timeout().is_none_or(|due| due > self.now) {
                break;
            }
            calls += 1;
            assert!(calls < MAX_DUE, "a timer stays due");
            self.custody.handle_timeout(self.now, &self.view);
        }
        let stats = self.custody.stats();
        assert!(stats.repairs_running <= self.config.parallel);
        assert!(stats.safe + stats.degraded + stats.endangered + stats.lost <= 8);
    }

    fn drain(&mut self) {
        let mut sent = 0;
        while let Some(call) = self.custody.poll_transmit() {
            sent += 1;
            assert!(call.to != peer(0) && call.deadline > Duration::ZERO);
            check_size(&call.request);
            self.asked.push((self.now, call));
        }
        while let Some(effect) = self.custody.poll_effect() {
            sent += 1;
            self.perform(effect);
        }
        assert!(sent <= MAX_OUTPUT, "{sent} outputs after one call");
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Regenerate {
                job,
                shape,
                sources,
                targets,
                ..
            } => {
                let distinct: BTreeSet<u8> = sources.iter().map(|(index, _)| *index).collect();
                assert!(distinct.len() >= usize::from(shape.k));
                let mut all = sources.iter().chain(&targets);
                assert!(all.all(|(index, _)| *index < shape.n) && !targets.is_empty());
                self.jobs.push(job);
            }
            Effect::Copy { job, from, to, .. } => {
                assert_ne!(from, to);
                self.jobs.push(job);
            }
            Effect::Locate { job, to, .. } => {
                assert!(!to.is_empty());
                self.jobs.push(job);
            }
            Effect::Drop {
                stripe,
                item,
                expired,
            } => self.drop_item(stripe, item, expired),
            Effect::Commit { stripe } => {
                for (_, tenure) in self
                    .store
                    .range_mut((stripe, Item::Shard(0))..=(stripe, Item::Locator))
                {
                    *tenure = Tenure::Committed;
                }
                self.custody.committed(self.now, stripe);
            }
            Effect::Merge { job, from, to, .. } => {
                assert!(!from.is_empty() && !to.is_empty());
                self.jobs.push(job);
            }
            Effect::Yield { id, to } => {
                assert!(!to.is_empty(), "records go in favour of nobody");
                self.custody.records_changed(self.now, id, None);
            }
            Effect::Discover { .. } => {}
        }
    }

    fn drop_item(&mut self, stripe: Id, item: Item, expired: bool) {
        let tenure = self
            .store
            .remove(&(stripe, item))
            .expect("only what is held is dropped");
        match tenure {
            Tenure::Pending { until, .. } => {
                assert!(
                    self.is_deleted(stripe) || expired && until <= self.now,
                    "a lease runs"
                );
            }
            Tenure::Deleted { until } => assert!(until <= self.now, "a tombstone goes early"),
            Tenure::Committed => {
                assert!(!expired);
                let safe = item == Item::Locator || self.is_deleted(stripe) || self.is_confirmed(stripe);
                assert!(safe, "the last of {item:?} may go");
            }
        }
        self.custody.removed(self.now, stripe, item);
    }

    /// Whether peers confirmed all indices within half the pin time, each another one. Of few peers and
    /// indices all assignments are tried.
    fn is_confirmed(&self, stripe: Id) -> bool {
        let lately = |asked: Time| self.now.since(asked) <= self.config.pin / 2;
        let mut assignments: Vec<BTreeSet<Peer>> = vec![BTreeSet::new()];
        for index in 0..shape(stripe).n {
            let own = self.store.get(&(stripe, Item::Shard(index))) == Some(&Tenure::Committed);
            let confirmed = self.confirmed.iter();
            let said = confirmed
                .filter(|((of, shard, _), asked)| (*of, *shard) == (stripe, index) && lately(**asked));
            let peers: Vec<Peer> = said
                .map(|((.., peer), _)| *peer)
                .chain(own.then(|| peer(0)))
                .collect();
            let longer = assignments.iter().flat_map(|taken| {
                let free = peers.iter().filter(|peer| !taken.contains(peer));
                free.map(|peer| taken.iter().copied().chain([*peer]).collect())
            });
            assignments = longer.collect();
        }
        !assignments.is_empty()
    }
}

fn check_size(request: &Request) {
    let (length, most) = match request {
        Request::Report(report) => {
            assert!(report.listings.iter().all(Listing::is_valid));
            (
                report.listings.iter().map(|listing| listing.entries.len()).sum(),
                MAX_ENTRIES,
            )
        }
        Request::Solicit => (0, 0),
        Request::Trim { orders } => (orders.len(), MAX_ENTRIES),
        Request::Confirm { questions } => (questions.len(), MAX_ENTRIES),
        Request::Held { stripes } => (stripes.len(), MAX_ASKED),
        Request::Commit { stripes } | Request::Status { stripes } | Request::Audit { stripes } => {
            (stripes.len(), MAX_ENTRIES)
        }
        Request::Release { pins } => (pins.len(), MAX_ENTRIES),
        Request::Audited { totals } => (totals.len(), MAX_ENTRIES),
    };
    assert!(length <= most);
}

/// The answer is of the kind that belongs to the request, with an answer for each question.
fn check_answer(request: &Request, answer: &Response) {
    let fits = match request {
        Request::Report(_) => matches!(answer, Response::Reported(_)),
        Request::Confirm { questions } => {
            matches!(answer, Response::Confirmed(answers) if answers.len() == questions.len())
        }
        Request::Status { stripes } => {
            matches!(answer, Response::Statuses(answers) if answers.len() == stripes.len())
        }
        Request::Held { stripes } => {
            matches!(answer, Response::Held(answers) if answers.len() == stripes.len())
        }
        Request::Solicit
        | Request::Commit { .. }
        | Request::Trim { .. }
        | Request::Audit { .. }
        | Request::Release { .. }
        | Request::Audited { .. } => *answer == Response::Taken,
    };
    assert!(fits, "{answer:?} answers {request:?}");
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn last_shard_that_may_go_is_noticed() {
        for flaw in [Flaw::TrimWithoutConfirmation, Flaw::TrimForOne] {
            let breaks = |flaw, seed| {
                let mut input = vec![0; 4096];
                ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut input);
                catch_unwind(|| operations_with(flaw, &input)).is_err()
            };
            let caught = (0..200).find(|seed| breaks(Some(flaw), *seed));
            assert!(
                caught.is_some_and(|seed| !breaks(None, seed)),
                "{flaw:?}: {caught:?}"
            );
        }
    }
}
