//! Records between peers.

use bytes::Bytes;
use mutualstore_dht::records::{MAX_WRITERS, Publish, RecordSet, Stamp};
use mutualstore_proto::wire;
use mutualstore_tree::record::{MAX_RECORD, Record};

use super::Malformed;

/// The most records in one answer, of 16 KiB each at most.
pub const MAX_GIVEN: usize = 32;

/// What a peer has of a key beyond what the asker has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// At most [`MAX_GIVEN`], not verified yet.
    pub records: Vec<Bytes>,
    /// All that it has.
    pub set: RecordSet,
    /// What its clock says, Unix milliseconds.
    pub clock_ms: u64,
}

/// The stamp of a record.
pub fn stamp_of(record: &Record) -> Stamp {
    Stamp {
        writer: record.writer,
        sequence: record.sequence,
        hash: record.hash,
    }
}

fn wire_stamp(stamp: &Stamp) -> wire::RecordStamp {
    wire::RecordStamp {
        writer: stamp.writer,
        sequence: stamp.sequence,
        hash: Bytes::copy_from_slice(&stamp.hash),
    }
}

fn stamp(message: &wire::RecordStamp) -> Result<Stamp, Malformed> {
    let hash = message.hash.as_ref().try_into();
    Ok(Stamp {
        writer: message.writer,
        sequence: message.sequence,
        hash: hash.map_err(|_| Malformed("a record's hash has 32 bytes"))?,
    })
}

pub(super) fn wire_stamps(stamps: impl Iterator<Item = Stamp>) -> Vec<wire::RecordStamp> {
    stamps.map(|stamp| wire_stamp(&stamp)).collect()
}

fn stamps(messages: &[wire::RecordStamp]) -> Result<Vec<Stamp>, Malformed> {
    if messages.len() > MAX_WRITERS * 2 {
        return Err(Malformed("more records than a key has"));
    }
    messages.iter().map(stamp).collect()
}

pub(super) fn set(messages: &[wire::RecordStamp], ended: bool) -> Result<RecordSet, Malformed> {
    let mut set = RecordSet::default();
    for stamp in stamps(messages)? {
        set.take(stamp);
    }
    if ended {
        set.end();
    }
    Ok(set)
}

pub(super) fn record(bytes: Bytes) -> Result<Bytes, Malformed> {
    if bytes.len() > MAX_RECORD {
        return Err(Malformed("a record longer than any"));
    }
    Ok(bytes)
}

pub(super) fn wire_taken(answer: &Publish) -> wire::RecordTaken {
    let others = match answer {
        Publish::Doubled(others) => wire_stamps(others.iter().copied()),
        Publish::Stored | Publish::Ended | Publish::Silent => Vec::new(),
    };
    wire::RecordTaken {
        stored: matches!(answer, Publish::Stored | Publish::Doubled(_)),
        ended: *answer == Publish::Ended,
        others,
    }
}

pub(super) fn taken(message: &wire::RecordTaken) -> Result<Publish, Malformed> {
    let others = stamps(&message.others)?;
    Ok(match (message.ended, message.stored, others.is_empty()) {
        (true, ..) => Publish::Ended,
        (false, _, false) => Publish::Doubled(others),
        (false, true, true) => Publish::Stored,
        (false, false, true) => Publish::Silent,
    })
}

pub(super) fn wire_given(given: &Given) -> wire::RecordsGiven {
    wire::RecordsGiven {
        records: given.records.clone(),
        all: wire_stamps(given.set.stamps()),
        ended: given.set.is_ended(),
        clock: given.clock_ms,
    }
}

pub(super) fn given(message: wire::RecordsGiven) -> Result<Given, Malformed> {
    if message.records.len() > MAX_GIVEN {
        return Err(Malformed("too many records in one answer"));
    }
    Ok(Given {
        records: message
            .records
            .into_iter()
            .map(record)
            .collect::<Result<_, _>>()?,
        set: set(&message.all, message.ended)?,
        clock_ms: message.clock,
    })
}
