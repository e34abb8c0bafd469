//! What theory lets expect of loss: how much of what is stored is lost when s of N peers die at once, every
//! set of s being equally likely.
//!
//! A fragment has n shards on n distinct peers and is lost when more than m = n - k of them are dead. Of one
//! fragment, wherever it lies, that is the tail of a hypergeometric distribution, h; for copies h = C(s,k) /
//! C(N,k), k being their number. A file is lost with any of its F fragments. How often depends on how the
//! fragments' holders overlap, and with whom those of other files share theirs:
//!
//! * *random*: holders are drawn anew for each fragment, so 1 - (1 - h)^F, and of M files any with 1 - (1 -
//!   h)^(F M). Given who is dead fragments are lost independently, each with h: the average over patterns
//!   changes nothing.
//! * *min copysets* (Cidon et al. 2013 §6): disjoint runs. With the whole file in one run all its fragments
//!   have the same holders: h. With a run per fragment: the mean over the runs that are dead together of 1 -
//!   (1 - share of them)^F.
//! * *buddies*: a file picks a group of g, each fragment n of its members: the mean over the number d of dead
//!   in the group of 1 - (1 - h(g, d))^F.
//! * *successors*: n peers in a row on a ring of virtual nodes; counted on drawn rings ([`Ring`]), there is
//!   no closed form.
//!
//! Whether *any* of M files is lost is where policies differ most: it costs nothing to have many files in the
//! same few sets of peers. It is computed exactly by going from group to group ([`groups`]).
//!
//! Files are no independent trials: one pattern of dead peers hits many files or none. So the interval that a
//! measured mean must lie in ([`Model::interval`]) is found by drawing placements and patterns from the model
//! itself.

mod binomial;
mod groups;
mod ring;

use itertools::Itertools;
pub use mutualstore_contract::reply::Scope;
use mutualstore_erasure::Code;
use rand::seq::{IndexedRandom, index};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::binomial::{at_least_one, tail};
use self::groups::Groups;
use super::findings::{mean, real};
use super::patterns::Patterns;
use super::shard_map::{MAX_PEERS, PeerSet, peer_set};

pub use self::groups::partition;
pub(super) use self::ring::point;
pub use self::ring::{HolderSets, Ring};

/// Drawn placements behind an interval.
const DRAWS: u32 = 400;
/// Patterns of one draw, at most: beyond, what is left of their chance is far below that of placement.
const DRAWN_PATTERNS: u64 = 400;
/// Patterns on each drawn ring.
const RING_PATTERNS: u64 = 2000;

/// Where fragments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// To any peers.
    Random,
    /// Into runs of n.
    Copysets(Scope),
    /// Into groups of so many.
    Buddies(usize, Scope),
    /// To the peers that follow on a ring with so many virtual nodes each.
    Successors(usize),
}

/// What cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Sets of peers have an end.
    #[error("{peers} peers are too many for this model, which knows {}", MAX_PEERS)]
    TooManyPeers {
        /// How many.
        peers: usize,
    },
    /// A fragment needs more peers than there are, or a group has.
    #[error("{shards} shards need as many peers; there are {peers}")]
    TooFewPeers {
        /// Shards of a fragment.
        shards: usize,
        /// Peers of the network, or of a group.
        peers: usize,
    },
    /// A run is too long to count all ways in which its peers can die.
    #[error("a run of {size} peers is too long to be counted")]
    LongRun {
        /// Its peers.
        size: usize,
    },
    /// A stripe on other than n distinct peers.
    #[error("{holders:?} are not {shards} distinct peers")]
    Holders {
        /// How many it should be.
        shards: usize,
        /// Who they are.
        holders: Vec<usize>,
    },
    /// Nobody holds anything.
    #[error("a ring without peers holds nothing")]
    EmptyRing,
}

/// A network, and what is stored in it.
#[derive(Clone, Debug)]
pub struct Model {
    peers: usize,
    code: Code,
    scheme: Scheme,
    fragments: usize,
    groups: Option<Groups>,
    /// Those of drawn rings, under `successors`.
    rings: Vec<HolderSets>,
}

impl Model {
    /// Files of `fragments` each, of this code and placed like this on `peers`.
    pub fn new(peers: usize, code: Code, scheme: Scheme, fragments: usize) -> Result<Self, ModelError> {
        if peers > MAX_PEERS {
            return Err(ModelError::TooManyPeers { peers });
        }
        let shards = usize::from(code.n());
        let too_few = |peers| Err(ModelError::TooFewPeers { shards, peers });
        if shards > peers {
            return too_few(peers);
        }
        let long = |size| ModelError::LongRun { size };
        let (mut groups, mut rings) = (None, Vec::new());
        match scheme {
            Scheme::Random => {}
            Scheme::Successors(0) => return Err(ModelError::EmptyRing),
            Scheme::Successors(virtual_nodes) => {
                let drawn = ring::drawn(peers, virtual_nodes);
                rings.extend(drawn.iter().filter_map(|ring| ring.holder_sets(shards).ok()));
            }
            Scheme::Copysets(_) => groups = Some(Groups::of_runs(peers, code).map_err(long)?),
            Scheme::Buddies(group, _) if group < shards => return too_few(group),
            Scheme::Buddies(group, _) => groups = Some(Groups::of_members(peers, group, code)),
        }
        Ok(Self {
            peers,
            code,
            scheme,
            fragments,
            groups,
            rings,
        })
    }

    /// Sizes of the groups; none without groups.
    pub fn group_sizes(&self) -> Option<Vec<usize>> {
        Some(self.groups.as_ref()?.sizes().collect())
    }

    /// Chance that a fragment is lost: h.
    pub fn fragment_lost(&self, killed: usize) -> f64 {
        tail(
            self.peers,
            usize::from(self.code.n()),
            killed,
            usize::from(self.code.m()),
        )
    }

    /// Chance that a file is lost, and so the expected part of all files.
    pub fn file_lost(&self, killed: usize) -> f64 {
        self.any_lost(1, killed)
    }

    /// Chance that any of so many files is lost.
    pub fn any_lost(&self, files: usize, killed: usize) -> f64 {
        let chance = match (&self.groups, self.scheme) {
            (None, Scheme::Successors(_)) => self.on_rings(files, killed),
            (None, _) => at_least_one(self.fragment_lost(killed), self.fragments * files),
            // One holder set for the whole file.
            (Some(groups), Scheme::Copysets(Scope::File)) => {
                1.0 - groups.none_lost(files, killed, |lost| 1.0 - lost)
            }
            (Some(groups), Scheme::Buddies(_, Scope::File)) => {
                let fragments = i32::try_from(self.fragments).unwrap_or(i32::MAX);
                1.0 - groups.none_lost(files, killed, |lost| (1.0 - lost).powi(fragments))
            }
            (Some(groups), _) => 1.0 - groups.none_lost(files * self.fragments, killed, |lost| 1.0 - lost),
        };
        // Sums of small parts end beside 0 and 1; and no negative zero.
        chance.clamp(0.0, 1.0) + 0.0
    }

    /// Different sets of holders that a ring makes, the mean over drawn ones; none where there is no ring.
    pub fn copysets(&self) -> Option<f64> {
        let counts = self.rings.iter().map(|sets| real(sets.distinct()));
        mean(&counts.collect::<Vec<_>>())
    }

    /// The mean over drawn rings and patterns.
    fn on_rings(&self, files: usize, killed: usize) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for (sets, seed) in self.rings.iter().zip(0..) {
            let patterns = Patterns::choose(self.peers, killed, RING_PATTERNS, seed);
            patterns.for_each(|dead| {
                let lost = sets.lost(dead, usize::from(self.code.m()));
                sum += at_least_one(lost.min(1.0), self.fragments * files);
                count += 1.0;
            });
        }
        sum / f64::max(count, 1.0)
    }

    /// The fewest dead that can lose something.
    pub fn first_loss(&self) -> usize {
        usize::from(self.code.m()) + 1
    }

    /// The fewest dead that must lose something, if everything that can be stored is.
    pub fn certain_loss(&self) -> usize {
        match &self.groups {
            Some(groups) => (groups.harmless() + 1).min(self.peers),
            // Whoever is dead, some fragment lies just there.
            None => self.first_loss(),
        }
    }

    /// Where the mean part of `files` lost over `patterns` patterns lies in 95 of 100 networks; no patterns:
    /// all there are.
    pub fn interval(&self, files: usize, killed: usize, patterns: Option<u64>, seed: u64) -> (f64, f64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let limit = patterns.unwrap_or(DRAWN_PATTERNS).min(DRAWN_PATTERNS);
        let mean_of = |draw| {
            let sets = self.rings.choose(&mut rng);
            let stored: Vec<_> = (0..files).map(|_| self.draw_file(sets, &mut rng)).collect();
            let seed = seed.wrapping_add(u64::from(draw));
            let patterns = if patterns.is_some() {
                Patterns::sample(self.peers, killed, limit, seed)
            } else {
                Patterns::choose(self.peers, killed, limit, seed)
            };
            self.mean_lost(&stored, &patterns)
        };
        let means: Vec<f64> = (0..DRAWS).map(mean_of).sorted_by(f64::total_cmp).collect();
        let at = |part: usize| means.get(part * (means.len() - 1) / 1000).copied().unwrap_or(0.0);
        (at(25), at(975))
    }

    fn mean_lost(&self, stored: &[Vec<PeerSet>], patterns: &Patterns) -> f64 {
        let tolerated = usize::from(self.code.m());
        let mut lost = 0usize;
        patterns.for_each(|dead| {
            let is_lost = |holders: &PeerSet| holders.intersection_count(dead) > tolerated;
            lost += stored.iter().filter(|file| file.iter().any(is_lost)).count();
        });
        real(lost) / (real(stored.len()) * real(patterns.len())).max(1.0)
    }

    /// Holders of the fragments of a file, on a ring if there is one; fragments with the same holders once.
    fn draw_file(&self, sets: Option<&HolderSets>, rng: &mut ChaCha8Rng) -> Vec<PeerSet> {
        let (peers, shards) = (self.peers, usize::from(self.code.n()));
        let any = |rng: &mut ChaCha8Rng| rng.random_range(0..peers);
        let primary = any(rng);
        let group = |peer| self.groups.as_ref().map_or((0, peers), |groups| groups.of(peer));
        let run = |primary: usize| {
            let (first, size) = group(primary);
            peer_set((0..shards).map(|step| first + (primary - first + step) % size))
        };
        let some = |primary: usize, rng: &mut ChaCha8Rng| {
            let (first, size) = group(primary);
            let members = index::sample(rng, size, shards).into_iter();
            peer_set(members.map(|member| first + member))
        };
        let mut fragment = || match self.scheme {
            Scheme::Random => some(0, rng),
            Scheme::Copysets(Scope::File) => run(primary),
            Scheme::Copysets(Scope::Fragment) => run(any(rng)),
            Scheme::Buddies(_, Scope::File) => some(primary, rng),
            Scheme::Buddies(_, Scope::Fragment) => some(any(rng), rng),
            Scheme::Successors(_) => sets.map_or(PeerSet::default(), |sets| sets.draw(rng)),
        };
        let is_one = matches!(self.scheme, Scheme::Copysets(Scope::File));
        let count = if is_one { 1 } else { self.fragments };
        (0..count).map(|_| fragment()).collect()
    }
}

#[cfg(test)]
mod tests;
