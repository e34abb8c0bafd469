//! Placement policies in scenarios: which one a put takes, and what the shape of its stripe says of it.

use mutualstore_dht::Id;
use mutualstore_dht::custody::Shape;
use mutualstore_dht::placement::Placement;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::scenario::{Keeping, ensure, within};
use super::{pick, stripe_id};

/// Sets anchors apart from the stripes of the same run.
const ANCHORS: u64 = 0x616e_6368_6f72;

/// How the holders of stripes are chosen; see [`Placement`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Policy {
    /// The first peers from the stripe's id.
    #[default]
    Successors,
    /// A place for each shard.
    Random,
    /// Runs of n peers.
    Copysets,
    /// n of each run of more.
    Buddies,
    /// Each put draws one of the other four.
    Mixed,
}

impl Policy {
    /// Whether some stripe's holders depend on who else is in the ring.
    pub(super) fn needs_roster(self) -> bool {
        match self {
            Self::Successors | Self::Random => false,
            Self::Copysets | Self::Buddies | Self::Mixed => true,
        }
    }

    /// The policy of one put. Draws nothing unless there is a choice.
    pub(super) fn draw(self, rng: &mut ChaCha8Rng) -> Self {
        let all = [Self::Successors, Self::Random, Self::Copysets, Self::Buddies];
        match self {
            Self::Mixed => pick(rng, &all).copied().unwrap_or_default(),
            Self::Successors | Self::Random | Self::Copysets | Self::Buddies => self,
        }
    }
}

impl Keeping {
    /// The shape of the stripe with this number under one of the four policies.
    pub(super) fn shape(&self, policy: Policy, seed: u64, number: u64) -> Shape {
        let shared = self.stripes_per_anchor.max(1);
        let anchor = if shared == 1 {
            stripe_id(seed, number)
        } else {
            stripe_id(seed ^ ANCHORS, number / shared)
        };
        Shape {
            k: self.k,
            n: self.n,
            shard_len: 1 << 20,
            placement: self.placed(policy, anchor),
        }
    }

    fn placed(&self, policy: Policy, anchor: Id) -> Placement {
        match policy {
            Policy::Successors | Policy::Mixed => Placement::Successors,
            Policy::Random => Placement::Random,
            Policy::Copysets => Placement::Copysets { anchor },
            Policy::Buddies => Placement::Buddies {
                group: self.group.unwrap_or(self.n.saturating_mul(2)),
                anchor,
            },
        }
    }

    /// What is absurd about its policy.
    pub(super) fn check_placement(&self) -> Result<(), String> {
        let (policy, n, shared) = (self.placement, self.n, self.stripes_per_anchor);
        if let Some(group) = self.group {
            ensure(matches!(policy, Policy::Buddies | Policy::Mixed), || {
                format!("`group` is for `placement` buddies or mixed, which is {policy} here")
            })?;
            ensure(group >= n, || {
                format!("`group` is {group}, expected n = {n} at least: a stripe lies in one run")
            })?;
        }
        within("stripes_per_anchor", shared, 1..=1_000_000, "")?;
        ensure(shared == 1 || policy.needs_roster(), || {
            format!(
                "`stripes_per_anchor` is for `placement` copysets, buddies or mixed, which is {policy} here"
            )
        })
    }
}
