//! What becomes of a pending shard whose lease ended.
//!
//! Every peer that may know of a commit is asked first, and the shard is dropped only when nobody can know. A
//! peer that restarted alone, or with few others, cannot tell. It keeps the shard until it has met as many
//! peers as the stripe has holders, or for very long.

use std::collections::{BTreeMap, BTreeSet};

use super::inventory::Held;
use crate::custody::key::{ItemKey, Slot};
use crate::custody::message::Status;
use crate::custody::peers::{Handle, ME};
use crate::custody::primary::reports::KnownStripe;
use crate::custody::sync::DEADLINE;
use crate::custody::{Custody, Effect, Tenure};
use crate::{Flaw, Id, RingView, Time};

/// How many repair delays a peer that has met few others keeps a pending shard of which nobody knows.
const LONELY_DELAYS: u32 = 10;

/// The questions about one stripe that are under way.
#[derive(Debug)]
pub(super) struct Inquiry {
    waiting: BTreeSet<Handle>,
    begun: Time,
    /// Some peer did not answer.
    unsure: bool,
}

/// Inquiries by stripe.
pub(super) type Inquiries = BTreeMap<Id, Inquiry>;

impl Custody {
    /// What this peer knows of a stripe.
    pub(in crate::custody) fn status(&self, stripe: Id) -> Status {
        if self.holder.inventory.is_deleted(stripe) {
            return Status::None;
        }
        let known = self.primary.known(Slot::of(stripe));
        let mut shards = self.holder.inventory.of(stripe).peekable();
        if known.is_some_and(KnownStripe::is_committed) {
            Status::Committed
        } else if shards.peek().is_none() {
            Status::None
        } else if shards.any(|(_, held)| held.is_committed()) {
            Status::Committed
        } else {
            Status::Pending
        }
    }

    /// The timer of a pending shard or of a tombstone fired.
    pub(super) fn handle_lease(&mut self, now: Time, ring: &impl RingView, key: ItemKey) {
        let Some(held) = self.holder.inventory.shards.get_mut(&key) else {
            return;
        };
        held.wake = None;
        let (until, writer) = match held.tenure {
            Tenure::Pending { until, writer } => (until, writer),
            Tenure::Deleted { until } if until <= now => return self.drop_shard(now, key, false),
            Tenure::Deleted { until } => return self.holder.inventory.arm(key, Some(until)),
            Tenure::Committed => return,
        };
        if now < until {
            self.holder.inventory.arm(key, Some(until));
            return;
        }
        // Whatever the answers are, the shard is looked at again.
        self.holder
            .inventory
            .arm(key, Some(now + self.config.pending_lease / 4));
        let stripe = key.slot.stripe;
        if self.status(stripe) == Status::Committed {
            self.effects.push_back(Effect::Commit { stripe });
            return;
        }
        if self.config.has(Flaw::ExpireWithoutAsking) {
            self.drop_shard(now, key, true);
            return;
        }
        let responsible = ring.successors(stripe, self.config.r);
        let mut waiting: BTreeSet<Handle> = responsible
            .iter()
            .map(|member| self.peers.intern(now, member.peer, true))
            .collect();
        if self.peers.is_alive(writer) {
            waiting.insert(writer);
        }
        waiting.remove(&ME);
        for peer in &waiting {
            self.peers.get_mut(*peer).outbox.status(stripe);
            self.peers.arm(*peer);
        }
        let nobody = waiting.is_empty();
        self.holder.inquiries.insert(
            stripe,
            Inquiry {
                waiting,
                begun: now,
                unsure: false,
            },
        );
        if nobody {
            self.conclude(now, stripe);
        }
    }

    /// A peer answered the question about a stripe, or failed to.
    pub(in crate::custody) fn handle_status(
        &mut self,
        now: Time,
        from: Handle,
        stripe: Id,
        status: Option<Status>,
    ) {
        let Some(inquiry) = self.holder.inquiries.get_mut(&stripe) else {
            return;
        };
        if !inquiry.waiting.remove(&from) {
            return;
        }
        match status {
            Some(Status::Committed) => {
                self.holder.inquiries.remove(&stripe);
                if self.holder.inventory.has_pending(stripe) {
                    self.effects.push_back(Effect::Commit { stripe });
                }
                return;
            }
            Some(Status::None | Status::Pending) => {}
            None => inquiry.unsure = true,
        }
        if inquiry.waiting.is_empty() {
            self.conclude(now, stripe);
        }
    }

    /// Everybody alive was asked and nobody knew of a commit.
    fn conclude(&mut self, now: Time, stripe: Id) {
        // Old answers are not evidence: the event loop may have stalled since, and a commit may have reached
        // the others.
        let unsure = self
            .holder
            .inquiries
            .remove(&stripe)
            .is_none_or(|inquiry| inquiry.unsure || now.since(inquiry.begun) > DEADLINE);
        if unsure || self.peers.any_suspect(now) {
            return;
        }
        let met = self.peers.met();
        let lonely = self
            .config
            .pending_lease
            .max(self.config.repair_delay * LONELY_DELAYS);
        let ended = |held: &Held| match held.tenure {
            // A peer that has met fewer others than hold the other shards never asked all who may know.
            Tenure::Pending { until, .. } if met + 1 < usize::from(held.shape.n) => {
                self.peers.awake_since(until) + lonely <= now
            }
            Tenure::Pending { until, .. } => until <= now,
            Tenure::Committed | Tenure::Deleted { .. } => false,
        };
        let of_stripe = self.holder.inventory.of(stripe);
        let dropped: Vec<ItemKey> = of_stripe
            .filter(|(_, held)| ended(held))
            .map(|(key, _)| key)
            .collect();
        for key in dropped {
            self.drop_shard(now, key, true);
        }
    }
}
