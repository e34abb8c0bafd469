//! Sets of peers that die together, and what each would cost a loaded network: all of them, or a sample.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::shard_map::{FileMap, Kind, PeerSet, ShardMap};

/// Patterns of `dead` among `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns {
    peers: usize,
    dead: usize,
    /// All of them; otherwise so many, drawn uniformly and independently.
    sample: Option<(u64, u64)>,
    count: u64,
}

impl Patterns {
    /// All patterns if there are at most `limit`, else that many drawn with `seed`.
    pub fn choose(peers: usize, dead: usize, limit: u64, seed: u64) -> Self {
        let all = combinations(peers, dead).filter(|all| *all <= limit);
        Self {
            peers,
            dead,
            sample: all.is_none().then_some((limit, seed)),
            count: all.unwrap_or(limit),
        }
    }

    /// So many drawn with `seed`, however many there are.
    pub fn sample(peers: usize, dead: usize, count: u64, seed: u64) -> Self {
        Self {
            peers,
            dead: dead.min(peers),
            sample: Some((count, seed)),
            count,
        }
    }

    /// Whether these are all there are.
    pub fn is_exhaustive(&self) -> bool {
        self.sample.is_none()
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are none: more dead than peers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One after the other.
    pub fn for_each(&self, mut visit: impl FnMut(&PeerSet)) {
        if let Some((count, seed)) = self.sample {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for _ in 0..count {
                visit(
                    &index::sample(&mut rng, self.peers, self.dead)
                        .into_iter()
                        .collect(),
                );
            }
        } else if !self.is_empty() {
            let mut members: Vec<usize> = (0..self.dead).collect();
            loop {
                visit(&members.iter().copied().collect());
                if !advance(&mut members, self.peers) {
                    return;
                }
            }
        }
    }
}

/// The next combination in lexicographic order; false after the last one.
fn advance(members: &mut [usize], peers: usize) -> bool {
    let size = members.len();
    let movable = (0..size)
        .rev()
        .find(|at| members.get(*at).is_some_and(|member| member + size < peers + at));
    let Some(at) = movable else {
        return false;
    };
    let Some(first) = members.get(at).copied() else {
        return false;
    };
    for (member, next) in members.iter_mut().skip(at).zip(first + 1..) {
        *member = next;
    }
    true
}

/// Number of subsets, if it fits.
fn combinations(peers: usize, dead: usize) -> Option<u64> {
    if dead > peers {
        return Some(0);
    }
    let mut count: u64 = 1;
    for step in 0..dead.min(peers - dead) {
        let (up, down) = (u64::try_from(peers - step).ok()?, u64::try_from(step + 1).ok()?);
        count = count.checked_mul(up)? / down;
    }
    Some(count)
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

/// A file, in a form that is quick to look at.
struct Quick {
    fragments: Vec<Bits>,
    manifests: Vec<Bits>,
}

/// A stripe: every holder has one index of its own in nearly all, so its loss is a matter of counting bits.
enum Bits {
    Distinct { holders: PeerSet, tolerated: usize },
    Other(super::shard_map::StripeMap),
}

impl Bits {
    fn is_lost(&self, dead: &PeerSet) -> bool {
        match self {
            Self::Distinct { holders, tolerated } => holders.and(dead).len() > *tolerated,
            Self::Other(stripe) => stripe.is_lost(dead),
        }
    }
}

impl Quick {
    fn of(file: &FileMap) -> Self {
        let of_kind = |kind| {
            let stripes = file.stripes.iter().filter(move |stripe| stripe.kind == kind);
            stripes.map(bits).collect()
        };
        Self {
            fragments: of_kind(Kind::Data),
            manifests: of_kind(Kind::Manifest),
        }
    }
}

fn bits(stripe: &super::shard_map::StripeMap) -> Bits {
    let holders = stripe.peers();
    let shards = stripe.holders.len();
    let distinct = stripe.holders.iter().all(|holders| holders.len() == 1) && holders.len() == shards;
    match shards.checked_sub(usize::from(stripe.needed)) {
        Some(tolerated) if distinct => Bits::Distinct { holders, tolerated },
        Some(_) | None => Bits::Other(stripe.clone()),
    }
}

/// What the patterns would cost, on average.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn count(map: &ShardMap, patterns: &Patterns) -> Counted {
    let files: Vec<Quick> = map.files.iter().map(Quick::of).collect();
    let (mut fragments, mut manifests, mut either, mut any) = (0u64, 0u64, 0u64, 0u64);
    let mut pieces = 0usize;
    patterns.for_each(|dead| {
        let before = fragments;
        for file in &files {
            let lost = file
                .fragments
                .iter()
                .filter(|stripe| stripe.is_lost(dead))
                .count();
            pieces += lost;
            let fragment = lost > 0;
            let manifest = file.manifests.iter().any(|stripe| stripe.is_lost(dead));
            fragments += u64::from(fragment);
            manifests += u64::from(manifest);
            either += u64::from(fragment || manifest);
        }
        any += u64::from(fragments > before);
    });
    let mean = |total: u64| total as f64 / patterns.len().max(1) as f64;
    Counted {
        fragments_lost: mean(pieces as u64),
        files_lost: mean(fragments),
        manifests_lost: mean(manifests),
        unreadable: mean(either),
        any_lost: mean(any),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::shard_map::StripeMap;
    use super::*;

    fn all(patterns: &Patterns) -> Vec<PeerSet> {
        let mut seen = Vec::new();
        patterns.for_each(|dead| seen.push(*dead));
        seen
    }

    #[test]
    fn every_pattern_comes_once() {
        for (peers, dead, expected) in [(5, 2, 10), (6, 6, 1), (4, 0, 1), (3, 4, 0), (12, 3, 220)] {
            let patterns = Patterns::choose(peers, dead, 1000, 1);
            let seen = all(&patterns);
            assert!(patterns.is_exhaustive() && seen.iter().all(|set| set.len() == dead));
            assert_eq!(
                (patterns.len(), seen.len() as u64),
                (expected, expected),
                "{peers} {dead}"
            );
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
        }
    }

    #[test]
    fn a_sample_is_uniform_and_repeatable() {
        let patterns = Patterns::choose(40, 10, 6000, 7);
        assert!(!patterns.is_exhaustive());
        let seen = all(&patterns);
        assert_eq!(seen, all(&patterns));
        assert!(seen.len() == 6000 && seen.iter().all(|set| set.len() == 10));
        for peer in 0..40 {
            let times = seen.iter().filter(|set| set.contains(peer)).count();
            assert!((1300..1700).contains(&times), "{times} instead of some 1500");
        }
        assert_eq!(combinations(200, 100), None, "more than can be counted");
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a few files")]
    fn counting_bits_is_looking_at_stripes() {
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
