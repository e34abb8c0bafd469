//! Which peer holds which shard of every file of a loaded network, as it was seen; what is lost when peers
//! die.

use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;
use itertools::Itertools;
pub use mutualstore_contract::reply::StripeKind as Kind;
use serde::{Deserialize, Serialize};

/// Most peers of a map.
pub const MAX_PEERS: usize = 256;

/// A set of peers by number, below [`MAX_PEERS`]: who holds a stripe, who was killed.
pub type PeerSet = FixedBitSet;

/// Sets are equally long, whatever is in them, so that they compare by their members.
pub fn peer_set(peers: impl IntoIterator<Item = usize>) -> PeerSet {
    let mut set = FixedBitSet::with_capacity(MAX_PEERS);
    set.extend(peers);
    set
}

/// A loaded network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// Number of peers; each is named by its number, below it, at most [`MAX_PEERS`].
    pub peers: usize,
    /// Every file.
    pub files: Vec<FileMap>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMap {
    /// Its stripes, those of the manifest among them.
    pub stripes: Vec<StripeMap>,
}

/// One stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeMap {
    /// What is in it.
    pub kind: Kind,
    /// Distinct shards that bring it back (k).
    pub needed: u8,
    /// By index of the shard: the peers that hold it.
    pub holders: Vec<Vec<usize>>,
}

impl StripeMap {
    /// Whether fewer than k distinct shards have a holder that is not dead.
    pub fn is_lost(&self, dead: &PeerSet) -> bool {
        let lives = |holders: &&Vec<usize>| holders.iter().any(|holder| !dead.contains(*holder));
        self.holders.iter().filter(lives).count() < usize::from(self.needed)
    }

    /// All that hold a shard.
    pub fn peers(&self) -> PeerSet {
        peer_set(self.holders.iter().flatten().copied())
    }
}

impl FileMap {
    /// Its stripes of a kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &StripeMap> {
        self.stripes.iter().filter(move |stripe| stripe.kind == kind)
    }

    /// Whether a fragment is lost.
    pub fn loses_fragment(&self, dead: &PeerSet) -> bool {
        self.of_kind(Kind::Data).any(|stripe| stripe.is_lost(dead))
    }

    /// Whether a part of the manifest is lost.
    pub fn loses_manifest(&self, dead: &PeerSet) -> bool {
        self.of_kind(Kind::Manifest).any(|stripe| stripe.is_lost(dead))
    }

    /// The sets of peers that hold its fragments.
    pub fn holder_sets(&self) -> BTreeSet<PeerSet> {
        self.of_kind(Kind::Data).map(StripeMap::peers).collect()
    }
}

impl ShardMap {
    /// Distinct sets of peers that hold a fragment: what Cidon et al. 2013 call copysets.
    pub fn copysets(&self) -> usize {
        self.files.iter().flat_map(FileMap::holder_sets).unique().count()
    }

    /// How many different collections of such sets files have.
    pub fn file_sets(&self) -> usize {
        self.files.iter().map(FileMap::holder_sets).unique().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripe(kind: Kind, needed: u8, holders: &[&[usize]]) -> StripeMap {
        StripeMap {
            kind,
            needed,
            holders: holders.iter().map(|holders| holders.to_vec()).collect(),
        }
    }

    fn dead(peers: &[usize]) -> PeerSet {
        peer_set(peers.iter().copied())
    }

    #[test]
    fn shard_map_compares_indices_not_peers() {
        let coded = stripe(Kind::Data, 2, &[&[0], &[1, 5], &[2]]);
        assert!(!coded.is_lost(&dead(&[0])) && coded.is_lost(&dead(&[0, 2])));
        assert!(
            !coded.is_lost(&dead(&[0, 1])),
            "the second one has another holder"
        );
        let absent = stripe(Kind::Data, 2, &[&[0], &[], &[]]);
        assert!(absent.is_lost(&dead(&[])));
    }

    #[test]
    fn shard_map_keeps_fragments_and_manifests_apart() {
        let copies = |kind, peers: [usize; 2]| stripe(kind, 1, &[&[peers[0]], &[peers[1]]]);
        let file = |data: [usize; 2]| FileMap {
            stripes: vec![
                copies(Kind::Manifest, [8, 9]),
                copies(Kind::Data, data),
                copies(Kind::Data, [0, 1]),
            ],
        };
        let map = ShardMap {
            peers: 10,
            files: vec![file([1, 0]), file([1, 2]), file([2, 1])],
        };
        assert_eq!((map.copysets(), map.file_sets()), (2, 2));
        let lost = |dead: &[usize]| {
            let dead = peer_set(dead.iter().copied());
            let files = map.files.iter();
            files
                .map(|file| (file.loses_fragment(&dead), file.loses_manifest(&dead)))
                .collect::<Vec<_>>()
        };
        assert_eq!(lost(&[1, 2]), [(false, false), (true, false), (true, false)]);
        assert_eq!(lost(&[8, 9, 0]), [(false, true); 3]);
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<ShardMap>(&text).unwrap(), map);
    }
}
