//! Where the stripes of a file are placed, as far as the file says.
//!
//! Under the policies with groups, stripes with one anchor share a group. The stripes of a file either have
//! one anchor and so keep to one group, or each goes by its own id ([`Scope`]; Cidon et al. 2013 place whole
//! files).
//!
//! Invariant of what is put here: an anchor other than zero belongs to a policy with groups.
//!
//! Not here: which peers a group has.

use std::fmt;

use mutualstore_contract::reply::Scope;
use mutualstore_dht::{Id, placement};
use mutualstore_erasure::{Code, HASH_LEN, Header, Policy};
use sha2::{Digest, Sha256};

const ANCHOR_DOMAIN: &[u8] = b"mutualstore/anchor/1";

/// What all stripes of a file have in their headers.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Placement {
    /// How their holders are chosen.
    pub policy: Policy,
    /// What they are placed by; all zero: each by its own id.
    pub anchor: [u8; HASH_LEN],
}

impl Placement {
    /// The placement of a file whose stripes have this owner key. Where the policy has no groups, the scope
    /// is nothing.
    pub fn new(policy: Policy, scope: Scope, owner: &[u8; 32]) -> Self {
        let anchor = if policy.has_groups() && scope == Scope::File {
            Sha256::new()
                .chain_update(ANCHOR_DOMAIN)
                .chain_update(owner)
                .finalize()
                .into()
        } else {
            [0; HASH_LEN]
        };
        Self { policy, anchor }
    }

    /// What a stripe's header says.
    pub fn of(header: &Header) -> Self {
        Self {
            policy: header.policy(),
            anchor: *header.anchor(),
        }
    }

    /// How the holders of a stripe of this code are chosen among peers.
    pub fn rule(&self, stripe: Id, code: Code) -> placement::Placement {
        let anchor = if self.has_anchor() {
            Id::new(self.anchor)
        } else {
            stripe
        };
        match self.policy {
            Policy::Successors => placement::Placement::Successors,
            Policy::Random => placement::Placement::Random,
            Policy::Copysets => placement::Placement::Copysets { anchor },
            Policy::Buddies { .. } => placement::Placement::Buddies {
                group: self.policy.group(code).unwrap_or(code.n()),
                anchor,
            },
        }
    }

    /// What stays together; none where the policy has no groups.
    pub fn scope(&self) -> Option<Scope> {
        let scope = if self.has_anchor() {
            Scope::File
        } else {
            Scope::Fragment
        };
        self.policy.has_groups().then_some(scope)
    }

    /// Whether the stripes are placed by an anchor and not each by its own id.
    pub fn has_anchor(&self) -> bool {
        self.anchor != [0; HASH_LEN]
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placement({}, {:?})", self.policy, self.scope())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_have_a_scope_and_only_files_an_anchor() {
        let buddies = "buddies:9".parse().unwrap();
        for (policy, scope, seen) in [
            (Policy::Successors, Scope::File, None),
            (Policy::Random, Scope::File, None),
            (Policy::Random, Scope::Fragment, None),
            (Policy::Copysets, Scope::File, Some(Scope::File)),
            (Policy::Copysets, Scope::Fragment, Some(Scope::Fragment)),
            (buddies, Scope::File, Some(Scope::File)),
            (buddies, Scope::Fragment, Some(Scope::Fragment)),
        ] {
            let placement = Placement::new(policy, scope, &[7; 32]);
            assert_eq!(placement.policy, policy);
            assert_eq!(placement.scope(), seen, "{placement:?}");
            assert_eq!(placement.has_anchor(), seen == Some(Scope::File));
        }
    }

    #[test]
    fn the_anchor_is_a_hash_of_the_owner_key() {
        let placed = Placement::new(Policy::Copysets, Scope::File, &[7; 32]);
        let input = [&b"mutualstore/anchor/1"[..], &[7; 32]].concat();
        assert_eq!(placed.anchor, <[u8; 32]>::from(Sha256::digest(input)));
        assert_ne!(placed, Placement::new(Policy::Copysets, Scope::File, &[8; 32]));
    }
}
