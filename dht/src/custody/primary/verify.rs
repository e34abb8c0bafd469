//! Verification of repairs: another peer audits a stripe before this primary calls it safe.

use std::time::Duration;

use crate::Time;
use crate::custody::Custody;
use crate::custody::RETRY;
use crate::custody::candidates::Candidates;
use crate::custody::key::Slot;
use crate::custody::peers::{Handle, ME};

/// The longest wait before a stripe that an auditor found short is audited again.
const LONGEST: Duration = Duration::from_mins(1);

impl Custody {
    /// Asks for an audit of a stripe that this peer has repaired: one responsible peer after the other, until
    /// one finds all indices. Returns when the next one is asked.
    pub(super) fn want_audit(&mut self, now: Time, slot: Slot, responsible: &Candidates) -> Option<Time> {
        let others: Vec<Handle> = responsible
            .iter()
            .map(|(peer, _)| *peer)
            .filter(|peer| *peer != ME && self.peers.is_alive(*peer))
            .collect();
        let known = self.primary.reports.stripes.get_mut(&slot)?;
        let unaudited = known.unaudited.as_mut()?;
        if unaudited.due <= now {
            let turn = unaudited.asked.checked_rem(others.len()).unwrap_or(0);
            unaudited.auditor = others.get(turn).copied();
            unaudited.asked += 1;
            unaudited.due = now + RETRY;
            if let Some(auditor) = unaudited.auditor {
                self.peers.get_mut(auditor).outbox.audit(slot.stripe);
                self.peers.arm(auditor);
            }
        }
        Some(unaudited.due)
    }

    /// An auditor reports the total it found. A stripe found short is soon reported again by its holders, and
    /// audited again.
    pub(in crate::custody) fn handle_audited(&mut self, now: Time, from: Handle, slot: Slot, total: u8) {
        let Some(known) = self.primary.reports.stripes.get_mut(&slot) else {
            return;
        };
        let Some(unaudited) = known
            .unaudited
            .as_mut()
            .filter(|asked| asked.auditor == Some(from))
        else {
            return;
        };
        if total >= known.shape.n {
            known.unaudited = None;
        } else {
            let turns = u32::try_from(unaudited.asked).unwrap_or(u32::MAX);
            let wait = self.config.exchange_dirty.saturating_mul(turns).min(LONGEST);
            unaudited.due = now + wait;
            let holders: Vec<Handle> = known.claims.iter().map(|claim| claim.peer).collect();
            for holder in holders.into_iter().filter(|holder| *holder != ME) {
                self.peers.get_mut(holder).outbox.solicit(now);
                self.peers.arm(holder);
            }
        }
        self.primary.reports.dirty.insert(slot);
    }
}
