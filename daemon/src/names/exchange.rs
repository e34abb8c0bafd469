//! Records of one key out to their holders, and in from them: drives [`Publishing`] and [`Gathering`].

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::records::{Author, Gathered, Gathering, HOLDERS, Published, Publishing, RecordSet};
use mutualstore_dht::{Id, Others, Peer};
use mutualstore_tree::record::{Record, record_id};
use tokio::sync::Semaphore;

use crate::error::Failure;
use crate::transfer::Transfers;
use crate::transfer::peer_client::PeerClient;
use crate::transfer::records::{Known, hear, near};

/// Others' clocks that tell whether the own one is wrong.
const CLOCKS: usize = 3;

/// Sends a record to its holders. Returns as soon as it counts, or cannot; the others, as far as there is a
/// permit, have it a moment later.
pub(super) async fn publish(
    transfers: &Arc<Transfers>,
    record: &Record,
    author: &Author,
    behind: &Arc<Semaphore>,
) -> Result<Published, Failure> {
    let core = &transfers.member.core;
    let timeout = transfers.member.config.settings.write_timeout.0;
    let (_, staying) = near(&transfers.peers, Id::new(record_id(&record.key))).await?;
    let known = core.read(|state| {
        let engine = &state.engine;
        Others::new(&engine.ring, &engine.custody, core.now()).counted()
    });
    let mut publishing = Publishing::new(core.now(), &staying, known, timeout);
    let mut asks = FuturesUnordered::new();
    while !publishing.is_over() && matches!(publishing.state(), Published::Short { .. }) {
        if let Some(peer) = publishing.poll(core.now()) {
            let (transfers, record) = (Arc::clone(transfers), record.clone());
            asks.push(async move { (peer, transfers.peers.take_record(peer, &record).await) });
            continue;
        }
        let due = publishing.poll_timeout();
        tokio::select! {
            Some((peer, answer)) = asks.next() => core.read(|state| {
                publishing.handle_answer(core.now(), &state.engine.ring, peer, author.judge(answer));
            }),
            () = core.sleep_until(due.unwrap_or_default()), if due.is_some() => {}
            else => break,
        }
    }
    let published = publishing.state();
    if published == Published::Acknowledged
        && !asks.is_empty()
        && let Ok(permit) = Arc::clone(behind).try_acquire_owned()
    {
        tokio::spawn(async move {
            while asks.next().await.is_some() {}
            drop(permit);
        });
    }
    Ok(published)
}

/// What a reading heard besides records.
#[derive(Debug, Default)]
pub(super) struct Heard {
    set: RecordSet,
    /// How far the clocks of others are ahead of this one's, milliseconds.
    ahead_ms: Vec<i64>,
    /// There are others, and none of them answered.
    pub(super) is_alone: bool,
    /// Records that all who answered lacked.
    pub(super) lost: usize,
}

impl Heard {
    /// How far most others' clocks are ahead of this one's, milliseconds; none where fewer than three told.
    pub(super) fn clock_ahead_ms(&self) -> Option<i64> {
        let mut all = self.ahead_ms.clone();
        all.sort_unstable();
        all.get(all.len() / 2).copied().filter(|_| all.len() >= CLOCKS)
    }
}

/// Reads a key. `full`: nobody may be silent.
pub(super) async fn gather(
    peers: &PeerClient,
    id: Id,
    known: &mut Known,
    full: bool,
    timeout: Duration,
) -> Result<Heard, Failure> {
    let core = &peers.member.core;
    let (near, staying) = near(peers, id).await?;
    let mut gathering = Gathering::new(core.now(), &near, full, timeout, None);
    let mut asks = FuturesUnordered::new();
    let mut heard = Heard::default();
    loop {
        match gathering.state(core.now()) {
            Gathered::Open => {}
            Gathered::Done(_) => break,
            Gathered::Silent(silent) => {
                return Err(Failure::refused(format!(
                    "{} of the peers that keep what is said of this bucket did not answer; try again",
                    silent.len()
                )));
            }
        }
        if let Some(peer) = gathering.poll(core.now()) {
            let have = known.set().clone();
            asks.push(async move { (peer, hear(peers, peer, id, have).await) });
            continue;
        }
        let due = gathering.poll_timeout();
        tokio::select! {
            Some((peer, answer)) = asks.next() => {
                let answered = answer.is_some();
                if let Some(answer) = answer {
                    if peer != peers.member.me {
                        heard.ahead_ms.push(answer.ahead_ms);
                    }
                    answer.set.stamps().for_each(|stamp| drop(heard.set.take(stamp)));
                    answer.records.into_iter().for_each(|record| known.take(record));
                }
                core.read(|state| {
                    gathering.handle_answer(core.now(), &state.engine.ring, peer, answered);
                });
            }
            () = core.sleep_until(due) => {}
        }
    }
    heard.is_alone = heard.ahead_ms.is_empty() && near.iter().any(|peer| *peer != peers.member.me);
    heard.lost = remind(peers, known, &heard.set, &staying).await;
    Ok(heard)
}

/// Gives holders what all that answered lack and this device has seen: they lost it, or hide it. How much
/// that is.
async fn remind(peers: &PeerClient, known: &Known, heard: &RecordSet, staying: &[Peer]) -> usize {
    let lacking = known.beyond(heard);
    if lacking.is_empty() {
        return 0;
    }
    tracing::warn!(
        records = lacking.len(),
        "holders of a bucket have less than was seen; they get it again"
    );
    for peer in staying.iter().take(HOLDERS) {
        for record in &lacking {
            peers.take_record(*peer, record).await;
        }
    }
    lacking.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_held_against_the_median_of_three_others() {
        let ahead = |ahead_ms: &[i64]| {
            let heard = Heard {
                ahead_ms: ahead_ms.to_vec(),
                ..Heard::default()
            };
            heard.clock_ahead_ms()
        };
        assert_eq!(ahead(&[]), None);
        assert_eq!(ahead(&[-5, 3]), None);
        // One that lies is no median.
        assert_eq!(ahead(&[i64::MAX, 2, -1]), Some(2));
        assert_eq!(
            ahead(&[-3_600_000, -3_600_007, 5, -3_599_999, -3_600_001]),
            Some(-3_600_000)
        );
    }
}
