//! Runs that others replaced go after `purge_grace`: by then no reader is at them.
//!
//! A run that any known head still names stays, as that of a device whose disk was cloned; for that all that
//! keep the bucket's records must answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mutualstore_contract::exit;
use mutualstore_tree::head::Dropped;

use super::OpenBucket;
use super::runs::link;
use crate::clock::unix_ms;
use crate::error::Failure;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::{Transfers, delete};

/// At most between two attempts.
const PAUSE: Duration = Duration::from_mins(10);
/// The most runs that go at once.
const AT_ONCE: usize = 16;

impl OpenBucket {
    /// Deletes runs whose time has come.
    pub(super) async fn purge(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let grace = transfers.member.config.settings.purge_grace.0;
        let pause = (grace / 4).min(PAUSE);
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let is_due = |run: &&Dropped| run.since_ms.saturating_add(grace) <= unix_ms();
        let due: Vec<Dropped> = {
            let mut state = self.state();
            if state.dropped.is_empty() || Instant::now() < state.purge_at {
                return Ok(());
            }
            state.purge_at = Instant::now() + pause;
            let due = state.dropped.iter().filter(is_due);
            due.take(AT_ONCE).cloned().collect()
        };
        // What others replaced here may still be in the record that holders have.
        if due.is_empty() || self.outlook().0 {
            return Ok(());
        }
        self.gather_fully(transfers).await?;
        let mut gone = Vec::new();
        for run in due {
            if self.names_run(&run.pointer.manifest) {
                continue;
            }
            let (link, transfer) = (link(transfers, &run.pointer), Transfer::new(Operation::Delete));
            let owner = self.key().owner_seed();
            match delete::delete(transfers, &link, &owner, &transfer).await {
                Ok(_) => gone.push(run),
                Err(failure) if failure.exit == exit::NOT_FOUND => gone.push(run),
                Err(failure) => tracing::debug!(%failure, "a run that others replaced cannot go yet"),
            }
        }
        self.forget_dropped(&gone)
    }
}
