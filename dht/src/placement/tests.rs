use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::testing::peer;

/// A ring of peers of so many virtual nodes each, all known and alive; some in another state.
struct Town {
    ids: BTreeMap<Id, Peer>,
    states: BTreeMap<Peer, PeerState>,
}

impl Town {
    fn of(virtual_nodes: &[u16]) -> Self {
        let mut town = Self {
            ids: BTreeMap::new(),
            states: BTreeMap::new(),
        };
        for (number, count) in virtual_nodes.iter().enumerate() {
            let peer = peer(number);
            town.states.insert(peer, PeerState::Accepting);
            town.ids
                .extend((0..*count).map(|index| (peer.virtual_node(index), peer)));
        }
        town
    }

    fn without(mut self, gone: Peer) -> Self {
        self.ids.retain(|_, peer| *peer != gone);
        self.states.remove(&gone);
        self
    }

    fn roster(&self) -> Roster {
        Roster::new(self.successors(Id::default(), usize::MAX))
    }

    fn holders(&self, placement: Placement, stripe: Id, n: u8) -> Vec<Peer> {
        let mut named = candidates(placement, stripe, n, self, &self.roster(), 16);
        named.truncate(usize::from(n));
        named
    }
}

impl RingView for Town {
    fn me(&self) -> Peer {
        peer(0)
    }

    fn successors(&self, id: Id, limit: usize) -> Vec<Member> {
        let mut met = BTreeSet::new();
        let circle = self.ids.range(id..).chain(self.ids.range(..id));
        let distinct = circle.filter(|(_, peer)| met.insert(**peer)).take(limit);
        distinct
            .map(|(_, peer)| Member {
                peer: *peer,
                state: self.states[peer],
            })
            .collect()
    }

    fn is_alive(&self, peer: Peer) -> bool {
        self.states.contains_key(&peer)
    }

    fn moves(&self) -> u64 {
        0
    }

    fn is_settled(&self) -> bool {
        true
    }
}

fn stripe(number: u64) -> Id {
    Id::new(Sha256::digest(number.to_be_bytes()).into())
}

fn copysets(stripe: Id) -> Placement {
    Placement::Copysets { anchor: stripe }
}

fn sets(town: &Town, placement: impl Fn(Id) -> Placement, n: u8) -> BTreeSet<BTreeSet<Peer>> {
    let of = |number| {
        let stripe = stripe(number);
        town.holders(placement(stripe), stripe, n).into_iter().collect()
    };
    (0..400).map(of).collect()
}

#[test]
fn twelve_peers_form_four_copysets_of_three() {
    let town = Town::of(&[8; 12]);
    let sets = sets(&town, copysets, 3);
    assert_eq!(sets.len(), 4);
    let runs: BTreeSet<BTreeSet<Peer>> = town
        .roster()
        .runs(3)
        .map(|run| run.into_iter().collect())
        .collect();
    assert_eq!(sets, runs);
    assert_eq!(
        runs.iter().flatten().collect::<BTreeSet<_>>().len(),
        12,
        "disjoint"
    );
}

#[test]
fn buddies_use_all_of_their_run_and_nothing_else() {
    let town = Town::of(&[8; 12]);
    let runs: Vec<BTreeSet<Peer>> = town
        .roster()
        .runs(6)
        .map(|run| run.into_iter().collect())
        .collect();
    let sets = sets(&town, |anchor| Placement::Buddies { group: 6, anchor }, 3);
    assert!(sets.iter().all(|set| runs.iter().any(|run| set.is_subset(run))));
    assert!(sets.len() > 30, "of 40: {}", sets.len());
    // The stripes of one file share the run of its anchor.
    let anchor = stripe(1000);
    let of_file =
        (0..50).flat_map(|number| town.holders(Placement::Buddies { group: 6, anchor }, stripe(number), 3));
    assert_eq!(of_file.collect::<BTreeSet<Peer>>().len(), 6);
}

/// What repair makes of the holders of a stripe on this ring.
fn repaired(town: &Town, placement: Placement, stripe: Id, n: u8, holders: &[Peer]) -> Vec<Peer> {
    let mut left: Vec<Peer> = holders
        .iter()
        .copied()
        .filter(|peer| town.is_alive(*peer))
        .collect();
    let named = replacements(placement, stripe, n, (town, &town.roster()), 16, &left);
    for peer in named {
        if left.len() < usize::from(n) && !left.contains(&peer) {
            left.push(peer);
        }
    }
    left
}

#[test]
fn file_of_buddies_after_deaths_keeps_to_as_many_peers() {
    for (peers, group, n) in [(12, 6, 3), (36, 6, 3), (24, 12, 6), (30, 12, 3)] {
        let (mut pairs, mut wider) = (0, 0);
        for anchor in (0..12).map(stripe) {
            let placement = Placement::Buddies { group, anchor };
            let town = Town::of(&vec![4; peers]);
            let stripes: Vec<Id> = (100..160).map(stripe).collect();
            let before: Vec<Vec<Peer>> = stripes.iter().map(|id| town.holders(placement, *id, n)).collect();
            let spread = |holders: &[Vec<Peer>]| holders.iter().flatten().collect::<BTreeSet<_>>().len();
            let had = spread(&before);
            let mend = |town: &Town, before: &[Vec<Peer>]| -> Vec<Vec<Peer>> {
                let both = stripes.iter().zip(before);
                both.map(|(id, holders)| repaired(town, placement, *id, n, holders))
                    .collect()
            };
            for first in 0..peers {
                let town = Town::of(&vec![4; peers]).without(peer(first));
                let after = mend(&town, &before);
                assert!(after.iter().all(|holders| holders.len() == usize::from(n)));
                assert!(spread(&after) <= had, "{had} -> {}", spread(&after));
                for second in (first + 1..peers).step_by(5) {
                    let town = Town::of(&vec![4; peers])
                        .without(peer(first))
                        .without(peer(second));
                    pairs += 1;
                    wider += u32::from(spread(&mend(&town, &after)) > had);
                }
            }
        }
        assert!(wider * 20 <= pairs, "{peers} peers: {wider} of {pairs}");
    }
}

#[test]
fn random_placement_spreads_wider_than_successors() {
    let town = Town::of(&[1; 36]);
    assert!(sets(&town, |_| Placement::Random, 3).len() > 300);
    assert!(sets(&town, |_| Placement::Successors, 3).len() <= 36);
}

#[test]
fn peer_with_more_virtual_nodes_is_chosen_more_often() {
    let mut virtual_nodes = [8; 12];
    virtual_nodes[0] = 80;
    let town = Town::of(&virtual_nodes);
    let runs: Vec<Vec<Peer>> = town.roster().runs(3).collect();
    let large = runs.iter().position(|run| run.contains(&peer(0))).unwrap();
    let mut stripes = [0; 4];
    for number in 0..1000 {
        let stripe = stripe(number);
        let holders = town.holders(copysets(stripe), stripe, 3);
        stripes[runs.iter().position(|run| run.contains(&holders[0])).unwrap()] += 1;
    }
    // 96 of 168 virtual nodes are of the run of the large peer.
    assert!(stripes[large] > 450, "{stripes:?}");
}

#[test]
fn draining_peer_leaves_its_run_and_full_peer_stays() {
    let mut town = Town::of(&[8; 9]);
    town.states.insert(peer(3), PeerState::Draining);
    town.states.insert(peer(4), PeerState::Full);
    assert_eq!(town.roster().len(), 8);
    for number in 0..100 {
        let stripe = stripe(number);
        let holders = town.holders(copysets(stripe), stripe, 3);
        assert!(holders.len() == 3 && !holders.contains(&peer(3)));
    }
}

#[test]
fn runs_of_draining_peers_are_empty() {
    let mut town = Town::of(&[1; 8]);
    town.states
        .values_mut()
        .for_each(|state| *state = PeerState::Draining);
    let roster = town.roster();
    let anchor = stripe(1);
    for placement in [
        Placement::Copysets { anchor },
        Placement::Buddies { group: 6, anchor },
    ] {
        let named = candidates(placement, stripe(1), 3, &town, &roster, 16);
        assert!(named.is_empty(), "{named:?}");
        assert!(replacements(placement, stripe(1), 3, (&town, &roster), 16, &[peer(2)]).is_empty());
    }
}

#[test]
fn remainder_of_peers_lengthens_the_last_runs() {
    let town = Town::of(&[1; 11]);
    let roster = town.roster();
    let lengths = |group| roster.runs(group).map(|run| run.len()).collect::<Vec<_>>();
    assert_eq!(lengths(3), [3, 4, 4]);
    assert_eq!(lengths(4), [5, 6]);
    assert_eq!(lengths(6), [11]);
    assert_eq!(lengths(12), [11], "one run of all");
    assert_eq!(
        Roster::default().runs(3).map(|run| run.len()).collect::<Vec<_>>(),
        [0]
    );
}

fn policy() -> impl Strategy<Value = fn(Id) -> Placement> {
    let random: fn(Id) -> Placement = |_| Placement::Random;
    let successors: fn(Id) -> Placement = |_| Placement::Successors;
    let buddies: fn(Id) -> Placement = |anchor| Placement::Buddies { group: 7, anchor };
    prop_oneof![
        Just(random),
        Just(successors),
        Just(copysets as fn(Id) -> Placement),
        Just(buddies)
    ]
}

proptest! {
    #[test]
    fn holders_of_a_stripe_are_distinct_and_as_many_as_possible(
        virtual_nodes in prop::collection::vec(1u16..12, 1..40),
        policy in policy(),
        number: u64,
        n in 1u8..7,
    ) {
        let town = Town::of(&virtual_nodes);
        let stripe = stripe(number);
        let named = candidates(policy(stripe), stripe, n, &town, &town.roster(), 16);
        prop_assert!(named.len() >= virtual_nodes.len().min(16));
        prop_assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len());
    }

    #[test]
    fn every_peer_is_in_exactly_one_run_of_full_length(peers in 1usize..200, group in 1usize..30) {
        let member = |number| Member { peer: peer(number), state: PeerState::Accepting };
        let roster = Roster::new((0..peers).map(member));
        let runs: Vec<Vec<Peer>> = roster.runs(group).collect();
        prop_assert_eq!(runs.iter().flatten().collect::<BTreeSet<_>>().len(), peers);
        prop_assert!(runs.iter().all(|run| run.len() >= group.min(peers)));
        for run in &runs {
            for peer in run {
                let (around, len) = roster.from(*peer, group);
                prop_assert_eq!((around[0], len, around.len()), (*peer, run.len(), peers));
                prop_assert!(around[..len].iter().all(|other| run.contains(other)));
            }
        }
    }

    /// Who did not see a peer come or go still names most of the same.
    #[test]
    fn death_under_random_placement_changes_one_holder(number: u64, gone in 0usize..20) {
        let town = Town::of(&[4; 20]);
        let stripe = stripe(number);
        let before = town.holders(Placement::Random, stripe, 5);
        let after = town.without(peer(gone)).holders(Placement::Random, stripe, 5);
        let stayed = before.iter().filter(|peer| after.contains(peer)).count();
        prop_assert!(stayed >= 4);
    }
}
