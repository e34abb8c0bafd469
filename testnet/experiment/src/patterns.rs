//! Sets of peers that die together, and what each would cost a loaded network: all of them, or a sample.

use itertools::Itertools;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::findings::real;
use super::shard_map::{FileMap, Kind, PeerSet, ShardMap, StripeMap, peer_set};

/// Patterns of `dead` among `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns {
    peers: usize,
    dead: usize,
    count: u64,
    /// All of them; otherwise drawn with this seed, uniformly and independently.
    seed: Option<u64>,
}

impl Patterns {
    /// All patterns if there are at most `limit`, else that many drawn with `seed`.
    pub fn choose(peers: usize, dead: usize, limit: u64, seed: u64) -> Self {
        let all = combinations(peers, dead).filter(|all| *all <= limit);
        Self {
            peers,
            dead,
            count: all.unwrap_or(limit),
            seed: all.is_none().then_some(seed),
        }
    }

    /// So many drawn with `seed`, however many there are.
    pub fn sample(peers: usize, dead: usize, count: u64, seed: u64) -> Self {
        Self {
            peers,
            dead: dead.min(peers),
            count,
            seed: Some(seed),
        }
    }

    /// Whether these are all there are.
    pub fn is_exhaustive(&self) -> bool {
        self.seed.is_none()
    }

    /// How many patterns there are.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// One after the other.
    pub fn for_each(&self, mut visit: impl FnMut(&PeerSet)) {
        let Some(seed) = self.seed else {
            let all = (0..self.peers).combinations(self.dead);
            return all.for_each(|members| visit(&peer_set(members)));
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..self.count {
            visit(&peer_set(index::sample(&mut rng, self.peers, self.dead)));
        }
    }
}

/// Number of subsets, if it fits.
fn combinations(peers: usize, dead: usize) -> Option<u64> {
    let (_, count) = (0..peers).combinations(dead).size_hint();
    count?.try_into().ok()
}

/// Means over patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// Fragments that are lost.
    pub fragments_lost: f64,
    /// Files that lose a fragment.
    pub files_lost: f64,
    /// Files that lose their manifest.
    pub manifests_lost: f64,
    /// Files that lose either.
    pub unreadable: f64,
    /// Part of the patterns in which a file loses a fragment.
    pub any_lost: f64,
}

/// A stripe in a form that is quick to look at: every holder has one index of its own in nearly all, so its
/// loss is a matter of counting bits.
struct Quick<'a> {
    stripe: &'a StripeMap,
    holders: PeerSet,
    /// How many of them may be dead; none in another stripe.
    tolerated: Option<usize>,
}

impl<'a> Quick<'a> {
    fn of(stripe: &'a StripeMap) -> Self {
        let (holders, shards) = (stripe.peers(), stripe.holders.len());
        let distinct =
            stripe.holders.iter().all(|holders| holders.len() == 1) && holders.count_ones(..) == shards;
        let tolerated = shards.checked_sub(stripe.needed.into());
        let tolerated = tolerated.filter(|_| distinct);
        Self {
            stripe,
            holders,
            tolerated,
        }
    }

    fn is_lost(&self, dead: &PeerSet) -> bool {
        match self.tolerated {
            Some(tolerated) => self.holders.intersection_count(dead) > tolerated,
            None => self.stripe.is_lost(dead),
        }
    }
}

/// What the patterns would cost, on average.
pub fn count<'m>(map: &'m ShardMap, patterns: &Patterns) -> Counted {
    let of_kind = |file: &'m FileMap, kind| file.of_kind(kind).map(Quick::of).collect::<Vec<_>>();
    let of_file = |file| (of_kind(file, Kind::Data), of_kind(file, Kind::Manifest));
    let files: Vec<_> = map.files.iter().map(of_file).collect();
    let mut sum = Counted::default();
    let one = |is: bool| f64::from(u8::from(is));
    patterns.for_each(|dead| {
        let before = sum.files_lost;
        for (fragments, manifests) in &files {
            let fragments = fragments.iter().filter(|stripe| stripe.is_lost(dead)).count();
            let manifest = manifests.iter().any(|stripe| stripe.is_lost(dead));
            sum.fragments_lost += real(fragments);
            sum.files_lost += one(fragments > 0);
            sum.manifests_lost += one(manifest);
            sum.unreadable += one(fragments > 0 || manifest);
        }
        sum.any_lost += one(sum.files_lost > before);
    });
    let mean = |total: f64| total / real(patterns.len().max(1));
    Counted {
        fragments_lost: mean(sum.fragments_lost),
        files_lost: mean(sum.files_lost),
        manifests_lost: mean(sum.manifests_lost),
        unreadable: mean(sum.unreadable),
        any_lost: mean(sum.any_lost),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(patterns: &Patterns) -> Vec<PeerSet> {
        let mut seen = Vec::new();
        patterns.for_each(|dead| seen.push(dead.clone()));
        seen
    }

    #[test]
    fn patterns_come_once_each() {
        for (peers, dead, expected) in [(5, 2, 10), (6, 6, 1), (4, 0, 1), (3, 4, 0), (12, 3, 220)] {
            let patterns = Patterns::choose(peers, dead, 1000, 1);
            let seen = all(&patterns);
            assert!(patterns.is_exhaustive() && seen.iter().all(|set| set.count_ones(..) == dead));
            assert_eq!(
                (patterns.len(), seen.len() as u64),
                (expected, expected),
                "{peers} {dead}"
            );
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
        }
    }

    #[test]
    fn sampled_patterns_are_uniform_and_repeatable() {
        let patterns = Patterns::choose(40, 10, 6000, 7);
        assert!(!patterns.is_exhaustive());
        let seen = all(&patterns);
        assert_eq!(seen, all(&patterns));
        assert!(seen.len() == 6000 && seen.iter().all(|set| set.count_ones(..) == 10));
        for peer in 0..40 {
            let times = seen.iter().filter(|set| set.contains(peer)).count();
            assert!((1300..1700).contains(&times), "{times} instead of some 1500");
        }
        assert_eq!(combinations(200, 100), None, "more than can be counted");
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a few files")]
    fn counted_bits_are_the_stripes_looked_at() {
        let stripe = |kind, needed, holders: &[usize]| StripeMap {
            kind,
            needed,
            holders: holders.iter().map(|holder| vec![*holder]).collect(),
        };
        let mut doubled = stripe(Kind::Data, 1, &[4, 5]);
        doubled.holders[0].push(0);
        let map = ShardMap {
            peers: 7,
            files: vec![
                FileMap {
                    stripes: vec![
                        stripe(Kind::Manifest, 1, &[0, 1]),
                        stripe(Kind::Data, 2, &[0, 1, 2]),
                    ],
                },
                FileMap {
                    stripes: vec![stripe(Kind::Manifest, 1, &[5, 6]), doubled],
                },
            ],
        };
        let patterns = Patterns::choose(7, 3, 1000, 1);
        let counted = count(&map, &patterns);
        let mut expected = [0.0; 4];
        for dead in all(&patterns) {
            let lost = |file: &FileMap| (file.loses_fragment(&dead), file.loses_manifest(&dead));
            let verdicts: Vec<(bool, bool)> = map.files.iter().map(lost).collect();
            expected[0] += verdicts.iter().filter(|(fragment, _)| *fragment).count() as f64;
            expected[1] += verdicts.iter().filter(|(_, manifest)| *manifest).count() as f64;
            expected[2] += verdicts.iter().filter(|(a, b)| *a || *b).count() as f64;
            expected[3] += f64::from(u8::from(verdicts.iter().any(|(fragment, _)| *fragment)));
        }
        let means = [
            counted.files_lost,
            counted.manifests_lost,
            counted.unreadable,
            counted.any_lost,
        ];
        for (mean, expected) in means.iter().zip(expected) {
            assert!((mean - expected / 35.0).abs() < 1e-12, "{means:?}");
        }
        let lost = |dead: &PeerSet| {
            map.files
                .iter()
                .flat_map(|file| &file.stripes)
                .filter(|stripe| stripe.kind == Kind::Data && stripe.is_lost(dead))
                .count() as f64
        };
        let fragments: f64 = all(&patterns).iter().map(lost).sum();
        assert!((counted.fragments_lost - fragments / 35.0).abs() < 1e-12);
        assert!(counted.files_lost > 0.0 && counted.unreadable > counted.files_lost);
    }
}
