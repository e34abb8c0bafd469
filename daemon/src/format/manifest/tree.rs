//! The tree that a long list of stripe ids becomes, written and read without holding the list.
//!
//! Index block j of level l holds the ids of units j·F to j·F + F - 1 of the level below (F = [`FANOUT`],
//! level 0 being the data stripes), and the root those of the top level. A writer holds at most F ids per
//! level.

use bytes::{BufMut, Bytes, BytesMut};
use mutualstore_erasure::{HASH_LEN, StripeId};
use mutualstore_tree::codec::Reader;

use super::{Body, FANOUT, ManifestError, VERSION, ids, put_ids};

/// A part of the list that has to be stored as a block of its own: sealed with kind manifest, level
/// [`IndexBlock::level`] and first segment [`IndexBlock::number`] (it is one segment).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBlock {
    /// From 1.
    pub level: u8,
    /// Its place among the index blocks of its level, from 0.
    pub number: u64,
    /// 1 to [`FANOUT`] ids of the level below.
    pub ids: Vec<StripeId>,
}

impl IndexBlock {
    /// The plaintext of the block.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(3 + self.ids.len() * HASH_LEN);
        out.put_u8(VERSION);
        put_ids(&mut out, &self.ids);
        out.freeze()
    }

    /// Reads the plaintext of the index block at `place` of a file of `blocks` data stripes.
    pub fn parse(place: IndexPlace, blocks: u64, plaintext: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader(plaintext);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let ids = ids(&mut reader)?;
        reader.end()?;
        let IndexPlace { level, number, .. } = place;
        if ids.len() as u64 != ids_in(blocks, level, number) {
            return Err(ManifestError::Index { level, number });
        }
        Ok(Self { level, number, ids })
    }
}

/// An index block on the way from the root to a data stripe, and the entry to follow in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexPlace {
    /// Level of the index block, from 1.
    pub level: u8,
    /// Its place among the index blocks of its level.
    pub number: u64,
    /// Which of its ids leads on.
    pub slot: usize,
}

/// The entry of the root's list to follow to data stripe `block`, and the index blocks after it, top first.
/// In a tree of depth 0 there are none, and the entry is the stripe itself.
#[cfg(test)]
pub(super) fn path(depth: u8, block: u64) -> (usize, Vec<IndexPlace>) {
    let places = (1..=depth).rev().map(|level| {
        let slot = block / span(level - 1) % FANOUT as u64;
        IndexPlace {
            level,
            number: block / span(level),
            slot: usize::try_from(slot).unwrap_or_default(),
        }
    });
    (
        usize::try_from(block / span(depth)).unwrap_or(usize::MAX),
        places.collect(),
    )
}

/// Levels of index blocks that a list of `blocks` ids needs.
pub(super) fn depth(blocks: u64) -> u8 {
    (0..u8::MAX)
        .find(|depth| units(blocks, *depth) <= FANOUT as u64)
        .unwrap_or(u8::MAX)
}

/// Blocks of `level` in a file of `blocks` data stripes.
pub(super) fn units(blocks: u64, level: u8) -> u64 {
    blocks.div_ceil(span(level))
}

/// Data stripes below one full block of `level`.
const fn span(level: u8) -> u64 {
    (FANOUT as u64).saturating_pow(level as u32)
}

/// Ids in an index block: all but the last of a level are full.
fn ids_in(blocks: u64, level: u8, number: u64) -> u64 {
    let below = units(blocks, level.saturating_sub(1));
    below
        .saturating_sub(number.saturating_mul(FANOUT as u64))
        .min(FANOUT as u64)
}

/// Turns a stream of stripe ids into the body of a manifest.
///
/// ```text
/// for each data stripe: builder.push(id), then settle what it returned
/// loop: match builder.finish() { Store(block) => settle it, Done(body) => break }
/// settle: store the block, builder.stored(level of the block, its stripe id), then settle what that returned
/// ```
#[derive(Debug, Default)]
pub struct ManifestBuilder {
    levels: Vec<Level>,
}

#[derive(Debug, Default)]
struct Level {
    /// Ids of this level that no index block holds yet.
    ids: Vec<StripeId>,
    /// Index blocks made of this level's ids.
    blocks: u64,
}

/// What to do next to finish a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Store this and report it by [`ManifestBuilder::stored`].
    Store(IndexBlock),
    /// Nothing is left to store: the body of the manifest.
    Done(Body),
}

impl ManifestBuilder {
    /// A builder without stripes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the id of the next data stripe. An index block that is given back has to be stored and reported
    /// before anything else.
    pub fn push(&mut self, stripe: StripeId) -> Option<IndexBlock> {
        self.stored(0, stripe)
    }

    /// Takes the stripe id of an index block of `level`, in the order in which they were given out.
    pub fn stored(&mut self, level: u8, stripe: StripeId) -> Option<IndexBlock> {
        let at = usize::from(level);
        if self.levels.len() <= at {
            self.levels.resize_with(at + 1, Level::default);
        }
        let entry = self.levels.get_mut(at)?;
        // A full list is given out only when one more id comes: until then it may stay in the root.
        let full = if entry.ids.len() == FANOUT {
            entry.take(level)
        } else {
            None
        };
        entry.ids.push(stripe);
        full
    }

    /// Gives out what is left, from the bottom up.
    pub fn finish(&mut self) -> Step {
        let top = self.levels.len().saturating_sub(1);
        let below_top = self.levels.iter_mut().take(top).zip(0..);
        for (entry, level) in below_top {
            if let Some(block) = entry.take(level) {
                return Step::Store(block);
            }
        }
        let ids = self.levels.pop().unwrap_or_default().ids;
        Step::Done(Body::Stripes {
            depth: u8::try_from(top).unwrap_or(u8::MAX),
            ids,
        })
    }
}

impl Level {
    /// The ids of this level, of number `level`, as an index block of the next one; none if there are none.
    fn take(&mut self, level: u8) -> Option<IndexBlock> {
        if self.ids.is_empty() {
            return None;
        }
        let number = self.blocks;
        self.blocks += 1;
        Some(IndexBlock {
            level: level.saturating_add(1),
            number,
            ids: std::mem::take(&mut self.ids),
        })
    }
}
