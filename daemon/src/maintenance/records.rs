//! Custody's effects on signed records: sets are put together, and given up where others are nearer.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::custody::{Item, JobOutcome};
use mutualstore_dht::records::{Publish, RecordSet, Stamp};
use mutualstore_dht::{Id, Peer};
use mutualstore_tree::record::{Kind, Record, record_id};

use super::Maintenance;

/// Reads what some peers have of a key, puts it together, and gives each of the others what it lacks.
pub(super) async fn merge(upkeep: &Arc<Maintenance>, id: Id, from: Vec<Peer>, to: Vec<Peer>) -> JobOutcome {
    let mut outcome = JobOutcome::default();
    let mut merged = Merged::default();
    let mut complete = true;
    for peer in from {
        complete &= merged.read(upkeep, id, peer).await;
    }
    let mut waiting: FuturesUnordered<_> = to.iter().map(|peer| merged.bring(upkeep, id, *peer)).collect();
    while let Some((peer, taken)) = waiting.next().await {
        let list = if taken && complete {
            &mut outcome.stored
        } else {
            &mut outcome.failed
        };
        list.push((Item::of_records(0), peer));
    }
    outcome
}

/// What several peers have of a key.
#[derive(Default)]
struct Merged {
    set: RecordSet,
    records: Vec<Record>,
}

impl Merged {
    /// Takes in what a peer has beyond this. Whether it told all.
    async fn read(&mut self, upkeep: &Maintenance, id: Id, peer: Peer) -> bool {
        loop {
            let Some(given) = upkeep.transfers.peers.read_records(peer, id, &self.set).await else {
                return false;
            };
            let before = self.records.len();
            for bytes in given.records {
                let record = Record::parse(&bytes, &upkeep.member.network().id);
                if let Some(record) = record.ok().filter(|record| Id::new(record_id(&record.key)) == id) {
                    self.take(record);
                } else {
                    tracing::warn!(%peer, "told of a record that its key did not sign");
                }
            }
            let complete = given.set.newer_than(&self.set).is_empty();
            if complete || self.records.len() == before {
                return complete;
            }
        }
    }

    fn take(&mut self, record: Record) {
        match record.kind {
            Kind::End => self.set.end(),
            Kind::Head => drop(self.set.take(Stamp {
                writer: record.writer,
                sequence: record.sequence,
                hash: record.hash,
            })),
        }
        self.records.push(record);
    }

    /// Gives a peer what it lacks. Whether it has all of it then.
    async fn bring(&self, upkeep: &Maintenance, id: Id, peer: Peer) -> (Peer, bool) {
        let Some(given) = upkeep.transfers.peers.read_records(peer, id, &self.set).await else {
            return (peer, false);
        };
        let lacking = self.set.newer_than(&given.set);
        let mut taken = true;
        for record in &self.records {
            let wanted = match record.kind {
                Kind::End => !given.set.is_ended(),
                Kind::Head => lacking.iter().any(|stamp| stamp.hash == record.hash),
            };
            if wanted {
                let answer = upkeep.transfers.peers.take_record(peer, record).await;
                taken &= matches!(answer, Publish::Stored | Publish::Doubled(_) | Publish::Ended);
            }
        }
        (peer, taken)
    }
}

/// Drops the records of a key here if these peers, which are nearer, have at least the same.
pub(super) async fn give_way(upkeep: &Arc<Maintenance>, id: Id, to: Vec<Peer>) {
    let peers = &upkeep.transfers.peers;
    let mine = peers.records.set(id);
    for peer in to {
        match peers.read_records(peer, id, &mine).await {
            Some(given) if given.set.covers(&mine) => {}
            Some(_) | None => return,
        }
    }
    peers.records.give_way(id, &mine).await;
}
