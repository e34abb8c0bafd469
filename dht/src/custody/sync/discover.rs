//! Discovery of peers that others name and the ring does not know.
//!
//! In a ring larger than what one peer knows, a holder whose shards are misplaced guesses their primary, and
//! the peers that are to confirm a trim may be strangers to it. The peer it reports to redirects it to a
//! nearer primary. The holder then has its ring look around the stripe, and with a better view finds the
//! primary itself.

use std::collections::BTreeMap;

use crate::custody::peers::{Handle, ME};
use crate::custody::{Custody, Effect, MAX_ENTRIES, RETRY};
use crate::{Flaw, Id, Time};

/// The most points remembered as looked around lately. While there are so many, no other is.
const MAX_DISCOVERED: usize = 256;

/// When the ring last looked around each point.
pub(super) type Discovered = BTreeMap<Id, Time>;

impl Custody {
    /// Has the ring look around a stripe, unless it did lately.
    pub(in crate::custody) fn discover(&mut self, now: Time, stripe: Id) {
        if self.sync.discovered.len() >= MAX_DISCOVERED {
            self.sync.discovered.retain(|_, at| now < *at + RETRY);
        }
        let lately = self
            .sync
            .discovered
            .get(&stripe)
            .is_some_and(|at| now < *at + RETRY);
        if !lately && self.sync.discovered.len() < MAX_DISCOVERED {
            self.sync.discovered.insert(stripe, now);
            self.effects.push_back(Effect::Discover { point: stripe });
        }
    }

    /// This peer is not the primary of a stripe that these peers report to it. The answers to their next
    /// reports redirect them.
    pub(in crate::custody) fn redirect(&mut self, stripe: Id, holders: impl IntoIterator<Item = Handle>) {
        let redirects = !self.config.has(Flaw::NoRedirect);
        for holder in holders.into_iter().filter(|holder| redirects && *holder != ME) {
            let redirected = &mut self.peers.get_mut(holder).redirected;
            if redirected.len() < MAX_ENTRIES {
                redirected.insert(stripe);
            }
        }
    }
}
