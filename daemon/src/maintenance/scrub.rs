//! Reads every shard held here again and again, so that what rots is noticed while others can still replace
//! it.
//!
//! One pass after the other, in the order of the keys: slowly, with a day between two of them, or at once
//! when somebody asks. The place reached is kept in the file `scrub` of the data directory (a key, 33 bytes
//! in hexadecimal), so a daemon that is restarted often still comes around. A shard that does not verify, or
//! that the disk fails to give twice, is logged as `CORRUPTED_BLOCK`, counted and dropped; its stripe's
//! primary then has it regenerated like one that was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mutualstore_contract::reply::ScrubReport;
use mutualstore_dht::Id;
use mutualstore_dht::custody::LOCATOR;
use mutualstore_store::{Key, RECORDS, TOMBSTONE};
use tokio::sync::{Notify, watch};

use super::Maintenance;
use crate::datadir::files::write_atomic;
use crate::keeper::Local;

/// Bytes read per second by a pass nobody waits for.
const RATE: u64 = 1 << 20;
/// From one shard to the next in such a pass, at least: small ones cost what large ones do.
const LEAST: Duration = Duration::from_millis(50);
/// From the end of a pass to the next.
const PAUSE: Duration = Duration::from_hours(24);
/// Shards between two notes of the place reached.
const NOTED: usize = 256;
/// Damaged shards named in a report.
const NAMED: usize = 1000;
const FILE: &str = "scrub";

/// The scrub as others see it.
#[derive(Default)]
pub(crate) struct Scrub {
    /// Passes asked for.
    asked: Mutex<u64>,
    ask: Notify,
    /// Passes asked for that have ended, and what the last one found.
    done: watch::Sender<(u64, ScrubReport)>,
}

impl Scrub {
    /// Begins a pass over everything at full speed, which also answers those who asked while another one ran.
    /// Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked += 1;
        self.ask.notify_one();
        *asked
    }

    /// Waits for the end of a pass.
    pub(crate) async fn wait(&self, pass: u64) -> ScrubReport {
        let mut done = self.done.subscribe();
        let ended = done.wait_for(|(ended, _)| *ended >= pass).await;
        ended.map(|ended| ended.1.clone()).unwrap_or_default()
    }

    fn asked(&self) -> u64 {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until the task is aborted.
pub(crate) async fn run(upkeep: Arc<Maintenance>) {
    let mut answered = 0;
    loop {
        let asked = upkeep.scrub.asked();
        let hurry = asked > answered;
        let from = if hurry { None } else { place(&upkeep) };
        let Some(findings) = pass(&upkeep, from, hurry.then_some(asked)).await else {
            // Somebody asked for a whole one.
            continue;
        };
        note(&upkeep, None).await;
        if hurry {
            answered = asked;
            upkeep.scrub.done.send_replace((asked, findings));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = upkeep.scrub.ask.notified() => {}
        }
    }
}

/// Reads everything behind `after`; in a hurry because of a request, or else slowly until there is one.
async fn pass(upkeep: &Maintenance, mut after: Option<Key>, hurry: Option<u64>) -> Option<ScrubReport> {
    let mut findings = ScrubReport::default();
    let mut believed = upkeep.keeper.reconcile(None, NOTED);
    while believed.is_some() {
        believed = upkeep.keeper.reconcile(believed, NOTED);
        tokio::task::yield_now().await;
    }
    loop {
        let keys = upkeep.keeper.keys_after(after, NOTED).await;
        let Some(last) = keys.last().copied() else {
            return Some(findings);
        };
        for (key, bytes) in &keys {
            check(upkeep, *key, &mut findings).await;
            if hurry.is_none() {
                let pause = Duration::from_millis(u64::from(*bytes) * 1000 / RATE).max(LEAST);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = upkeep.scrub.ask.notified() => return None,
                }
            }
        }
        after = Some(last.0);
        if hurry.is_none() {
            note(upkeep, after).await;
        }
    }
}

async fn check(upkeep: &Maintenance, key: Key, findings: &mut ScrubReport) {
    let stripe = Id::new(key.stripe);
    findings.checked += 1;
    let bad = if key.index == TOMBSTONE {
        upkeep.keeper.tombstone(stripe).await.is_none() && !upkeep.keeper.is_deleted(stripe)
    } else if key.index == RECORDS {
        !upkeep.transfers.peers.records.is_sound(key.stripe).await
    } else if key.index == LOCATOR {
        upkeep.keeper.locator(stripe).await.is_none() && !upkeep.keeper.is_located(stripe)
    } else {
        match upkeep.keeper.find(stripe, key.index, true).await {
            Local::Found(shard) => {
                upkeep.keeper.acknowledge(&shard);
                false
            }
            Local::None | Local::Deleted(_) => false,
            Local::Corrupt(_) => true,
            Local::Failed(_) => {
                let again = upkeep.keeper.find(stripe, key.index, true).await;
                if let Local::Failed(error) = &again {
                    upkeep.keeper.bad.add(1);
                    tracing::warn!(error, "CORRUPTED_BLOCK {stripe}:{}", key.index);
                    upkeep.keeper.drop_damaged(stripe, key.index, true).await;
                }
                matches!(again, Local::Failed(_) | Local::Corrupt(_))
            }
        }
    };
    if bad {
        findings.bad += 1;
        if findings.bad_shards.len() < NAMED {
            findings.bad_shards.push(format!("{stripe}:{}", key.index));
        }
    }
}

/// Where the last pass was; none at its beginning, or if that is not known.
fn place(upkeep: &Maintenance) -> Option<Key> {
    let text = std::fs::read_to_string(upkeep.member.data.path().join(FILE)).ok()?;
    Key::from_bytes(&hex::decode(text.trim_end()).ok()?)
}

async fn note(upkeep: &Maintenance, place: Option<Key>) {
    let path = upkeep.member.data.path().join(FILE);
    let text = place.map_or_else(String::new, |key| hex::encode(key.to_bytes())) + "\n";
    let written = tokio::task::spawn_blocking(move || write_atomic(&path, text.as_bytes(), 0o600)).await;
    if let Ok(Err(error)) = written {
        tracing::debug!(%error, "the next start scrubs from the beginning");
    }
}
