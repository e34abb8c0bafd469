//! Records of one key: what several peers have, put together.

use std::collections::BTreeMap;

use mutualstore_dht::records::{ASKED, RecordSet, Stamp};
use mutualstore_dht::{Id, Peer, PeerState};
use mutualstore_tree::record::{Kind, Record, record_id};

use super::peer_client::PeerClient;
use crate::clock::unix_ms;
use crate::error::Failure;
use crate::wire::record::stamp_of;

/// Peers looked up in place of those that die meanwhile.
const SPARE: usize = 4;
/// The most answers of one peer to one reading.
const MOST_ANSWERS: usize = 32;

/// The latest records of a key, as far as they were seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    set: RecordSet,
    /// By hash: those of the set, and no others.
    records: BTreeMap<[u8; 32], Record>,
    end: Option<Record>,
}

impl Known {
    /// Takes in a verified record of this key.
    pub(crate) fn take(&mut self, record: Record) {
        match record.kind {
            Kind::End => {
                self.set.end();
                self.end.get_or_insert(record);
            }
            Kind::Head => {
                self.set.take(stamp_of(&record));
                self.records.insert(record.hash, record);
                let set = &self.set;
                let kept = |hash: &[u8; 32]| set.stamps().any(|stamp| stamp.hash == *hash);
                self.records.retain(|hash, _| kept(hash));
            }
        }
    }

    /// What is known, without the records.
    pub(crate) fn set(&self) -> &RecordSet {
        &self.set
    }

    /// The latest of each writer.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// All records, the end mark too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.values().chain(&self.end)
    }

    /// What `other` lacks of it.
    pub(crate) fn beyond(&self, other: &RecordSet) -> Vec<&Record> {
        let newer: Vec<Stamp> = self.set.newer_than(other);
        let lacks = |record: &&Record| match record.kind {
            Kind::End => !other.is_ended(),
            Kind::Head => newer.iter().any(|stamp| stamp.hash == record.hash),
        };
        self.all().filter(lacks).collect()
    }
}

/// The first living peers from an id, and of those the ones that do not leave.
pub(crate) async fn near(peers: &PeerClient, id: Id) -> Result<(Vec<Peer>, Vec<Peer>), Failure> {
    let found = peers.member.core.lookup(id, ASKED + SPARE).await;
    let contacts = found
        .map_err(|error| Failure::refused(error.to_string()))?
        .contacts;
    let staying = contacts
        .iter()
        .filter(|contact| contact.state != PeerState::Draining);
    Ok((
        contacts.iter().map(|contact| contact.peer).collect(),
        staying.map(|contact| contact.peer).collect(),
    ))
}

/// What one peer has beyond what was known.
pub(crate) struct Heard {
    /// Verified, and of the key that was asked about.
    pub(crate) records: Vec<Record>,
    /// All that it says it has.
    pub(crate) set: RecordSet,
    /// It gave all of that.
    pub(crate) complete: bool,
    /// How far its clock is ahead of this one's, milliseconds.
    pub(crate) ahead_ms: i64,
}

/// Hears from a peer what it has beyond `have`. None when it does not answer.
pub(crate) async fn hear(peers: &PeerClient, peer: Peer, id: Id, mut have: RecordSet) -> Option<Heard> {
    let network = peers.member.network().id;
    let mut heard = Heard {
        records: Vec::new(),
        set: RecordSet::default(),
        complete: false,
        ahead_ms: 0,
    };
    for _ in 0..MOST_ANSWERS {
        let asked = unix_ms();
        let given = peers.read_records(peer, id, &have).await?;
        let now = asked.midpoint(unix_ms());
        let far = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        heard.ahead_ms = far(given.clock_ms).saturating_sub(far(now));
        let before = (have.digest(), have.is_ended());
        for bytes in given.records {
            let record = Record::parse(&bytes, &network).ok();
            let Some(record) = record.filter(|record| Id::new(record_id(&record.key)) == id) else {
                tracing::warn!(%peer, "was given a record that its key did not sign");
                continue;
            };
            match record.kind {
                Kind::End => have.end(),
                Kind::Head => drop(have.take(stamp_of(&record))),
            }
            heard.records.push(record);
        }
        heard.set = given.set;
        heard.complete = have.covers(&heard.set);
        if heard.complete || (have.digest(), have.is_ended()) == before {
            break;
        }
    }
    Some(heard)
}
