//! Records of one key out to their holders, and in from them: drives [`Publishing`] and [`Gathering`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mutualstore_dht::records::{
    ASKED, Author, Gathered, Gathering, HOLDERS, Published, Publishing, RecordSet, Stamp,
};
use mutualstore_dht::{Id, Others, Peer, PeerState};
use mutualstore_tree::record::{Kind, Record, record_id};

use crate::clock::unix_ms;
use crate::error::Failure;
use crate::transfer::peer_client::PeerClient;

/// Peers looked up in place of those that die meanwhile.
const SPARE: usize = 4;
/// Others' clocks that tell whether the own one is wrong.
const CLOCKS: usize = 3;
/// The most answers of one peer to one reading.
const MOST_ANSWERS: usize = 32;

/// The stamp of a record.
pub(super) fn stamp(record: &Record) -> Stamp {
    Stamp {
        writer: record.writer,
        sequence: record.sequence,
        hash: record.hash,
    }
}

/// The first living peers from an id, and of those the ones that do not leave.
async fn near(peers: &PeerClient, id: Id) -> Result<(Vec<Peer>, Vec<Peer>), Failure> {
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

/// Sends a record to its holders. Returns as soon as it counts, or cannot.
pub(super) async fn publish(
    peers: &PeerClient,
    record: &Record,
    author: &Author,
    timeout: Duration,
) -> Result<Published, Failure> {
    let core = &peers.member.core;
    let (_, staying) = near(peers, Id::new(record_id(&record.key))).await?;
    let known = core.read(|state| {
        let engine = &state.engine;
        Others::new(&engine.ring, &engine.custody, core.now()).counted()
    });
    let mut publishing = Publishing::new(core.now(), &staying, known, timeout);
    let mut asks = FuturesUnordered::new();
    while !publishing.is_over() && matches!(publishing.state(), Published::Short { .. }) {
        if let Some(peer) = publishing.poll(core.now()) {
            asks.push(async move { (peer, peers.take_record(peer, record).await) });
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
    Ok(publishing.state())
}

/// What peers have of a key, put together with what is known here.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) set: RecordSet,
    /// By hash: those of the set, and no others.
    pub(super) records: BTreeMap<[u8; 32], Record>,
    pub(super) end: Option<Record>,
}

impl Known {
    /// Takes in a record of this key.
    pub(super) fn take(&mut self, record: Record) {
        match record.kind {
            Kind::End => {
                self.set.end();
                self.end = Some(record);
            }
            Kind::Head => {
                self.set.take(stamp(&record));
                self.records.insert(record.hash, record);
                let set = &self.set;
                let kept = |hash: &[u8; 32]| set.stamps().any(|stamp| stamp.hash == *hash);
                self.records.retain(|hash, _| kept(hash));
            }
        }
    }
}

/// What one peer has beyond what was known.
struct Answer {
    records: Vec<Record>,
    /// All that it has.
    set: RecordSet,
    /// How far its clock is ahead of this one's, milliseconds.
    ahead_ms: i64,
}

/// Asks one peer for all that it has beyond `have`. None when it does not answer.
async fn ask(peers: &PeerClient, peer: Peer, id: Id, mut have: RecordSet) -> Option<Answer> {
    let network = peers.member.network().id;
    let mut answer = Answer {
        records: Vec::new(),
        set: RecordSet::default(),
        ahead_ms: 0,
    };
    for _ in 0..MOST_ANSWERS {
        let asked = unix_ms();
        let given = peers.read_records(peer, id, &have).await?;
        let now = asked.midpoint(unix_ms());
        let far = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        answer.ahead_ms = far(given.clock_ms).saturating_sub(far(now));
        let before = have.digest();
        for bytes in given.records {
            let record = Record::parse(&bytes, &network).ok();
            let Some(record) = record.filter(|record| Id::new(record_id(&record.key)) == id) else {
                tracing::warn!(%peer, "was given a record that its key did not sign");
                continue;
            };
            match record.kind {
                Kind::End => have.end(),
                Kind::Head => drop(have.take(stamp(&record))),
            }
            answer.records.push(record);
        }
        answer.set = given.set;
        if answer.set.newer_than(&have).is_empty() || have.digest() == before {
            break;
        }
    }
    Some(answer)
}

/// What a reading heard besides records.
#[derive(Debug, Default)]
pub(super) struct Heard {
    set: RecordSet,
    /// How far the clocks of others are ahead of this one's, milliseconds.
    ahead_ms: Vec<i64>,
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
            let have = known.set.clone();
            asks.push(async move { (peer, ask(peers, peer, id, have).await) });
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
    remind(peers, known, &heard.set, &staying).await;
    Ok(heard)
}

/// Gives holders what all that answered lack and this device has seen: they lost it, or hide it.
async fn remind(peers: &PeerClient, known: &Known, heard: &RecordSet, staying: &[Peer]) {
    let lacking = known.set.newer_than(heard);
    if lacking.is_empty() {
        return;
    }
    tracing::warn!(
        records = lacking.len(),
        "holders of a bucket have less than was seen; they get it again"
    );
    for peer in staying.iter().take(HOLDERS) {
        let lacking = lacking.iter().filter_map(|stamp| known.records.get(&stamp.hash));
        for record in lacking {
            peers.take_record(*peer, record).await;
        }
    }
}
