//! How stripes are doing, asked of their holders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_contract::reply::{Health, ShardState};
use mutualstore_dht::custody::Redundancy;
use mutualstore_dht::placement::Placement;
use mutualstore_dht::writer::{Seen, Target};
use mutualstore_dht::{Contact, Id, Peer};
use mutualstore_erasure::MAX_SHARDS;
use mutualstore_store::TOMBSTONE;

use crate::transfer::Transfers;
use crate::wire::peer::{PeerRequest, PeerResponse, StripeHoldings};

/// A peer that does not answer within this counts as unreachable.
const DEADLINE: Duration = Duration::from_secs(5);
/// Stripes that a peer is asked about at once: so many that it answers in time while it does much else.
const AT_ONCE: usize = 256;
/// Rings up to this size are asked whole, so that shards off their place are seen too.
const ASK_ALL: usize = 64;

/// One shard of a stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardHealth {
    pub(crate) index: u8,
    pub(crate) peer: Option<Peer>,
    pub(crate) state: ShardState,
}

/// One stripe as its holders tell.
#[derive(Clone, Debug)]
pub(crate) struct StripeHealth {
    pub(crate) shards: Vec<ShardHealth>,
    /// Distinct indices on live peers.
    pub(crate) live: usize,
    pub(crate) health: Health,
    /// Peers that were asked and answered.
    pub(crate) answered: BTreeSet<Peer>,
    /// Peers that were asked and did not.
    pub(crate) silent: BTreeSet<Peer>,
    /// Peers that have its tombstone.
    pub(crate) keepers: BTreeSet<Peer>,
}

/// A stripe to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) stripe: Id,
    pub(crate) k: u8,
    pub(crate) n: u8,
    /// How its holders were chosen.
    pub(crate) placement: Placement,
}

impl Asked {
    /// To delete it.
    pub(super) fn target(&self) -> Target {
        Target {
            stripe: self.stripe,
            k: self.k,
            n: self.n,
        }
    }
}

impl StripeHealth {
    /// Where it is, to delete it.
    pub(super) fn seen(&self) -> Seen {
        let mut seen = Seen {
            answered: self.answered.clone(),
            silent: self.silent.clone(),
            keepers: self.keepers.clone(),
            ..Seen::default()
        };
        for shard in &self.shards {
            match (shard.state, shard.peer) {
                (ShardState::Ok | ShardState::Pending, Some(peer)) => {
                    seen.held.insert((shard.index, peer));
                }
                (ShardState::Unreachable, Some(peer)) => {
                    seen.unreachable.insert(shard.index, peer);
                }
                (ShardState::Missing, _) | (_, None) => {}
            }
        }
        seen
    }
}

/// By stripe and index, who held a shard and did not answer.
pub(crate) type Away = BTreeMap<Id, BTreeMap<u8, Peer>>;

/// Asks the peers that may hold shards of `stripes` and puts their answers together, in order.
pub(crate) async fn survey(transfers: &Arc<Transfers>, stripes: &[Asked]) -> Vec<StripeHealth> {
    survey_with(transfers, stripes, &Away::new()).await
}

/// Like [`survey`]; asks peers too that are said to hold shards of stripes.
pub(crate) async fn survey_with(
    transfers: &Arc<Transfers>,
    stripes: &[Asked],
    said: &Away,
) -> Vec<StripeHealth> {
    let mut survey = Survey::new(transfers, stripes);
    survey.ask(questions(transfers, stripes)).await;
    survey.ask(survey.named(said)).await;
    survey.judge()
}

/// Like [`survey`], at less cost where nothing is amiss: asks those who should hold the shards, and others
/// only of stripes of which these do not hold all.
pub(crate) async fn survey_preferred(transfers: &Arc<Transfers>, stripes: &[Asked]) -> Vec<StripeHealth> {
    let mut survey = Survey::new(transfers, stripes);
    survey.ask(preferred(transfers, stripes)).await;
    let found = stripes.iter().zip(&survey.answers).enumerate();
    let amiss = found.filter(|(_, (asked, answers))| judge(**asked, answers).health != Health::Safe);
    let amiss: BTreeSet<usize> = amiss.map(|(at, _)| at).collect();
    if !amiss.is_empty() {
        let mut others = questions(transfers, stripes);
        for (_, positions) in &mut others {
            positions.retain(|at| amiss.contains(at));
        }
        survey.ask(others).await;
        survey.ask(survey.named(&Away::new())).await;
    }
    survey.judge()
}

/// The shards of a stripe of which nothing but the id is known: those that somebody holds, or has on record
/// with a peer that does not answer.
pub(crate) async fn shards_of(transfers: &Arc<Transfers>, stripe: Id) -> Vec<ShardHealth> {
    let asked = Asked {
        stripe,
        k: 1,
        n: MAX_SHARDS,
        placement: Placement::Successors,
    };
    let mut health = survey(transfers, &[asked]).await;
    let shards = health.pop().map(|health| health.shards).unwrap_or_default();
    let known = shards.into_iter().filter(|shard| shard.peer.is_some());
    known.collect()
}

/// What was said of some stripes so far.
struct Survey<'a> {
    transfers: &'a Arc<Transfers>,
    stripes: &'a [Asked],
    /// By the position of the stripe.
    answers: Vec<Vec<(Peer, StripeHoldings)>>,
    silent: Vec<BTreeSet<Peer>>,
}

impl<'a> Survey<'a> {
    fn new(transfers: &'a Arc<Transfers>, stripes: &'a [Asked]) -> Self {
        Self {
            transfers,
            stripes,
            answers: vec![Vec::new(); stripes.len()],
            silent: vec![BTreeSet::new(); stripes.len()],
        }
    }

    fn was_asked(&self, peer: Peer, at: usize) -> bool {
        let answered = self.answers.get(at).into_iter().flatten();
        let silent = self.silent.get(at);
        answered.into_iter().any(|(other, _)| *other == peer)
            || silent.is_some_and(|silent| silent.contains(&peer))
    }

    /// Asks peers about stripes, given by their positions, unless they were asked before.
    async fn ask(&mut self, questions: Vec<(Contact, Vec<usize>)>) {
        let (transfers, stripes) = (self.transfers, self.stripes);
        let open = questions.into_iter().filter_map(|(contact, mut positions)| {
            positions.retain(|at| !self.was_asked(contact.peer, *at));
            (!positions.is_empty()).then_some((contact, positions))
        });
        let mut waiting: FuturesUnordered<_> = open
            .map(|(contact, positions)| async move {
                let mut held = Vec::with_capacity(positions.len());
                for chunk in positions.chunks(AT_ONCE) {
                    let ids = chunk.iter().filter_map(|at| stripes.get(*at));
                    let said = ask(transfers, &contact, ids.map(|asked| asked.stripe).collect()).await;
                    let all = said.len() == chunk.len();
                    held.extend(said);
                    if !all {
                        break;
                    }
                }
                (contact.peer, positions, held)
            })
            .collect();
        while let Some((peer, positions, held)) = waiting.next().await {
            let mut held = held.into_iter();
            for at in positions {
                match (held.next(), self.answers.get_mut(at), self.silent.get_mut(at)) {
                    (Some(holdings), Some(answers), _) => answers.push((peer, holdings)),
                    (None, _, Some(silent)) => drop(silent.insert(peer)),
                    (_, None, _) | (_, _, None) => {}
                }
            }
        }
    }

    /// Whom those that were asked name as holders, without having been asked: where a stripe's holders lie
    /// elsewhere, its first peers have them on record and in its locator.
    fn named(&self, said: &Away) -> Vec<(Contact, Vec<usize>)> {
        let mut named: BTreeMap<Peer, BTreeSet<usize>> = BTreeMap::new();
        for (at, (stripe, answers)) in self.stripes.iter().zip(&self.answers).enumerate() {
            let known = answers.iter().flat_map(|(_, holdings)| &holdings.known);
            let known = known.map(|(_, peer)| peer);
            let said = said.get(&stripe.stripe).into_iter().flat_map(BTreeMap::values);
            for peer in known.chain(said).filter(|peer| !self.was_asked(**peer, at)) {
                named.entry(*peer).or_default().insert(at);
            }
        }
        let alive = named
            .into_iter()
            .filter(|(peer, _)| self.transfers.member.core.is_alive(*peer));
        alive
            .filter_map(|(peer, at)| {
                Some((
                    self.transfers.member.core.contact(peer)?,
                    at.into_iter().collect(),
                ))
            })
            .collect()
    }

    fn judge(self) -> Vec<StripeHealth> {
        let answers = self.answers.into_iter().zip(self.silent);
        self.stripes
            .iter()
            .zip(answers)
            .map(|(asked, (answers, silent))| StripeHealth {
                silent,
                ..judge(*asked, &answers)
            })
            .collect()
    }
}

async fn ask(transfers: &Arc<Transfers>, contact: &Contact, ids: Vec<Id>) -> Vec<StripeHoldings> {
    let asked = transfers
        .peers
        .ask(contact.peer, PeerRequest::Holdings(ids), DEADLINE);
    match asked.await {
        Ok(PeerResponse::Holdings(held)) => held,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!(peer = %contact.peer, %error, "did not say what it holds");
            Vec::new()
        }
    }
}

/// Whom to ask about which stripes: everybody in small rings, the first r successors of each in large ones.
fn questions(transfers: &Transfers, stripes: &[Asked]) -> Vec<(Contact, Vec<usize>)> {
    let alive = transfers.member.core.alive();
    if alive.len() <= ASK_ALL {
        let all: Vec<usize> = (0..stripes.len()).collect();
        return alive.into_iter().map(|contact| (contact, all.clone())).collect();
    }
    let r = usize::try_from(transfers.member.network().r).unwrap_or(usize::MAX);
    let mut asked: BTreeMap<Peer, (Contact, Vec<usize>)> = BTreeMap::new();
    for (at, stripe) in stripes.iter().enumerate() {
        for contact in transfers.member.core.successors(stripe.stripe, r) {
            asked
                .entry(contact.peer)
                .or_insert_with(|| (contact, Vec::new()))
                .1
                .push(at);
        }
    }
    asked.into_values().collect()
}

/// The first n successors of each stripe that is placed by its id; of the others, everybody who is asked
/// anyway.
fn preferred(transfers: &Transfers, stripes: &[Asked]) -> Vec<(Contact, Vec<usize>)> {
    let by_id = |at: &usize| {
        let asked = stripes.get(*at);
        asked.is_some_and(|asked| asked.placement == Placement::Successors)
    };
    let mut preferred: BTreeMap<Peer, (Contact, Vec<usize>)> = BTreeMap::new();
    transfers.member.core.read(|state| {
        for (at, asked) in stripes.iter().enumerate().filter(|(at, _)| by_id(at)) {
            let successors = state.engine.ring.successors(asked.stripe);
            for contact in successors.take(usize::from(asked.n)) {
                let holder = preferred.entry(contact.peer);
                holder.or_insert_with(|| (contact.clone(), Vec::new())).1.push(at);
            }
        }
    });
    let mut preferred: Vec<(Contact, Vec<usize>)> = preferred.into_values().collect();
    for (contact, mut positions) in questions(transfers, stripes) {
        positions.retain(|at| !by_id(at));
        preferred.push((contact, positions));
    }
    preferred
}

/// How a stripe is doing of which these indices lie with these live peers, as custody judges it.
pub(crate) fn health_of(held: &BTreeSet<(u8, Peer)>, k: u8, n: u8) -> Health {
    match Redundancy::of(held, k, n) {
        Redundancy::Whole => Health::Safe,
        Redundancy::Degraded => Health::Degraded,
        Redundancy::Endangered => Health::Endangered,
        Redundancy::Lost => Health::Lost,
    }
}

fn judge(asked: Asked, answers: &[(Peer, StripeHoldings)]) -> StripeHealth {
    let answered: BTreeSet<Peer> = answers.iter().map(|(peer, _)| *peer).collect();
    let mut shards = Vec::with_capacity(usize::from(asked.n));
    for index in 0..asked.n {
        let before = shards.len();
        for (peer, holdings) in answers {
            for (held, pending) in &holdings.held {
                if *held == index {
                    let state = if *pending {
                        ShardState::Pending
                    } else {
                        ShardState::Ok
                    };
                    shards.push(ShardHealth {
                        index,
                        peer: Some(*peer),
                        state,
                    });
                }
            }
        }
        if shards.len() == before {
            let mut known = answers.iter().flat_map(|(_, holdings)| &holdings.known);
            let absent = known.find(|(known, peer)| *known == index && !answered.contains(peer));
            shards.push(match absent {
                Some((_, peer)) => ShardHealth {
                    index,
                    peer: Some(*peer),
                    state: ShardState::Unreachable,
                },
                None => ShardHealth {
                    index,
                    peer: None,
                    state: ShardState::Missing,
                },
            });
        }
    }
    let is_live = |shard: &&ShardHealth| matches!(shard.state, ShardState::Ok | ShardState::Pending);
    let live: BTreeSet<u8> = shards.iter().filter(is_live).map(|shard| shard.index).collect();
    let held = shards.iter().filter(is_live);
    let held = held
        .filter_map(|shard| Some((shard.index, shard.peer?)))
        .collect();
    let health = health_of(&held, asked.k, asked.n);
    StripeHealth {
        shards,
        live: live.len(),
        health,
        answered,
        silent: BTreeSet::new(),
        keepers: answers
            .iter()
            .filter(|(_, holdings)| holdings.held.iter().any(|(index, _)| *index == TOMBSTONE))
            .map(|(peer, _)| *peer)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(peer: u8, held: &[u8]) -> (Peer, StripeHoldings) {
        let held = held.iter().map(|index| (*index, false)).collect();
        (
            Peer::new([peer; 32]),
            StripeHoldings {
                held,
                known: vec![(2, Peer::new([99; 32]))],
            },
        )
    }

    #[test]
    fn health_counts_indices_and_peers() {
        let asked = Asked {
            stripe: Id::default(),
            k: 2,
            n: 3,
            placement: Placement::default(),
        };
        assert_eq!(
            judge(asked, &[holds(1, &[0]), holds(2, &[1]), holds(3, &[2])]).health,
            Health::Safe
        );
        assert_eq!(
            judge(asked, &[holds(1, &[0]), holds(2, &[1, 2])]).health,
            Health::Endangered
        );
        assert_eq!(
            judge(asked, &[holds(1, &[0]), holds(2, &[0])]).health,
            Health::Lost
        );
        // Three indices and three peers, of which two hold the same: custody repairs this.
        assert_eq!(
            judge(asked, &[holds(1, &[0, 1, 2]), holds(2, &[0]), holds(3, &[0])]).health,
            Health::Endangered
        );
        let two = judge(asked, &[holds(1, &[0]), holds(2, &[1])]);
        assert_eq!(two.health, Health::Endangered);
        assert_eq!(two.shards.last().unwrap().state, ShardState::Unreachable);
    }
}
