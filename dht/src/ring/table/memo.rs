//! What is asked of the circle again and again, computed once until something changes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Table;
use crate::circle::{Met, clockwise};
use crate::{Id, Peer};

/// Digests kept, at most.
const MAX_DIGESTS: usize = 64;

/// See the module head; emptied whenever the circle or a contact changes.
#[derive(Debug, Default)]
pub(super) struct Memo {
    digests: BTreeMap<(Peer, Vec<Id>), u64>,
    gap: Option<u64>,
    exponents: BTreeMap<Id, Option<u8>>,
}

impl Table {
    /// First 8 bytes, as a big-endian number, of SHA-256 over peer and version (8 bytes, big-endian) of each
    /// peer in the union of the successor lists of `ids`, ascending. Equal digests mean equal sets of
    /// contacts.
    pub(in super::super) fn digest(&mut self, ids: &[Id], but: Peer, r: usize) -> u64 {
        let key = (but, ids.to_vec());
        if let Some(digest) = self.memo.digests.get(&key) {
            return *digest;
        }
        let mut hash = Sha256::new();
        for contact in self.union(ids, but, r) {
            hash.update(contact.peer.as_bytes());
            hash.update(contact.version.to_be_bytes());
        }
        let digest = Id::new(hash.finalize().into()).prefix();
        if self.memo.digests.len() < MAX_DIGESTS {
            self.memo.digests.insert(key, digest);
        }
        digest
    }

    /// How far apart virtual nodes lie on the arc of the `r` peers after the first own virtual node, as
    /// [`Id::prefix`] of the mean distance.
    pub(in super::super) fn mean_gap(&mut self, r: usize) -> u64 {
        if let Some(gap) = self.memo.gap {
            return gap;
        }
        let gap = self.measure_gap(r);
        self.memo.gap = Some(gap);
        gap
    }

    fn measure_gap(&self, r: usize) -> u64 {
        let Some(first) = self.own.first() else {
            return u64::MAX;
        };
        let mut end = None;
        let mut nodes = 0u64;
        let mut owners = Met::nobody(r.min(self.members) + 1);
        for (id, owner) in clockwise(&self.nodes, first.successor()) {
            owners.insert(owner);
            if owners.len() > r {
                break;
            }
            nodes += 1;
            end = Some(id);
        }
        match end {
            Some(end) if end != *first => end.distance_from(first).prefix() / nodes.max(1),
            _ => u64::MAX / nodes.max(1),
        }
    }

    /// The least distance from an own virtual node beyond its successor list, as a power of two; `None` if
    /// the list holds everybody.
    pub(in super::super) fn first_exponent(&mut self, own: Id, r: usize) -> Option<u8> {
        if let Some(exponent) = self.memo.exponents.get(&own) {
            return *exponent;
        }
        let me = self.me.peer;
        let last = {
            let mut others = self.distinct(own.successor()).filter(|(_, peer)| *peer != me);
            others.nth(r.saturating_sub(1))
        };
        let exponent = last.and_then(|(last, _)| u8::try_from(last.distance_from(&own).bits()).ok());
        self.memo.exponents.insert(own, exponent);
        exponent
    }
}
