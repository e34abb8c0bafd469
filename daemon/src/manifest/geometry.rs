//! How the bytes of a file lie in blocks, segments and shards.
//!
//! A file is cut into blocks whose ciphertext is k shards of the shard size, so that shards end on segment
//! boundaries and a small range needs one of them. The last block may be shorter; its ciphertext is spread over
//! all k shards, ceil(length / k) bytes each, and its segments may straddle them.

use std::ops::Range;

use mutualstore_erasure::Code;

use super::INLINE_MAX;
use crate::crypt::{SEGMENT, SEGMENT_PLAINTEXT, sealed_len};

const SEGMENT_64: u64 = SEGMENT as u64;
const SEGMENT_PLAINTEXT_64: u64 = SEGMENT_PLAINTEXT as u64;

/// The layout of one file. All offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    code: Code,
    shard_size: u32,
}

/// What is needed of a block to read a range of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number, within the file, of the first segment needed.
    pub first_segment: u64,
    /// Where the segments needed lie, in order; put together they are what
    /// [`FileCipher::open_block`](crate::crypt::FileCipher::open_block) takes.
    pub pieces: Vec<Piece>,
    /// Where the range lies in the plaintext of those segments.
    pub plaintext: Range<usize>,
}

/// A part of a data shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the shard, below k.
    pub shard: u8,
    /// The part.
    pub range: Range<usize>,
}

impl Geometry {
    /// The layout of a file of `size` bytes; `shard_size` as
    /// [`check_shard_size`](super::check_shard_size) wants it.
    pub const fn new(size: u64, code: Code, shard_size: u32) -> Self {
        Self {
            size,
            code,
            shard_size,
        }
    }

    /// Segments of a full block.
    pub const fn segments_per_block(&self) -> u64 {
        self.code.k() as u64 * (self.shard_size as u64 / SEGMENT_64)
    }

    /// Plaintext of a full block: k × shard size / 65,536 × 65,520.
    pub const fn block_plaintext(&self) -> u64 {
        self.segments_per_block() * SEGMENT_PLAINTEXT_64
    }

    /// Data stripes of the file, unless its manifest holds its bytes.
    pub const fn blocks(&self) -> u64 {
        self.size.div_ceil(self.block_plaintext())
    }

    /// Plaintext of block `block`, 0 behind the end.
    pub fn plaintext_of(&self, block: u64) -> u64 {
        let start = block.saturating_mul(self.block_plaintext());
        self.size.saturating_sub(start).min(self.block_plaintext())
    }

    /// Ciphertext of block `block`: the block length in its stripe's header.
    pub fn ciphertext_of(&self, block: u64) -> u64 {
        sealed_len(self.plaintext_of(block))
    }

    /// The code of block `block`: the file's, or its small form for at most 16 KiB of plaintext.
    pub fn code_of(&self, block: u64) -> Code {
        if self.plaintext_of(block) <= INLINE_MAX {
            self.code.small()
        } else {
            self.code
        }
    }

    /// Number of the first segment of block `block` within the file.
    pub const fn first_segment(&self, block: u64) -> u64 {
        block * self.segments_per_block()
    }

    /// The blocks that hold the bytes of `range`, clipped to the file: each with the part of it that is wanted,
    /// in bytes of its plaintext.
    pub fn blocks_of(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let length = self.block_plaintext();
        let end = range.end.min(self.size);
        let range = range.start.min(end)..end;
        let blocks = if range.is_empty() {
            0..0
        } else {
            range.start / length..range.end.div_ceil(length)
        };
        blocks.map(move |block| {
            let start = block * length;
            (
                block,
                range.start.saturating_sub(start)..(range.end - start).min(length),
            )
        })
    }

    /// What is needed to read `range` of block `block`, in bytes of its plaintext and clipped to it.
    pub fn window(&self, block: u64, range: Range<u64>) -> Window {
        let end = range.end.min(self.plaintext_of(block));
        let start = range.start.min(end);
        let first = start / SEGMENT_PLAINTEXT_64;
        let after = end.div_ceil(SEGMENT_PLAINTEXT_64).max(first);
        let sealed = first * SEGMENT_64..(after * SEGMENT_64).min(self.ciphertext_of(block));
        let skipped = first * SEGMENT_PLAINTEXT_64;
        Window {
            first_segment: self.first_segment(block) + first,
            pieces: self.pieces(block, &sealed),
            plaintext: index(start - skipped)..index(end - skipped),
        }
    }

    /// The parts of data shards that hold `range` of the ciphertext of block `block`.
    fn pieces(&self, block: u64, range: &Range<u64>) -> Vec<Piece> {
        let k = self.code_of(block).k();
        let shard_len = self.ciphertext_of(block).div_ceil(u64::from(k)).max(1);
        let part = |(shard, start): (u8, u64)| {
            let from = range.start.max(start);
            let to = range.end.min(start + shard_len);
            (from < to).then(|| Piece {
                shard,
                range: index(from - start)..index(to - start),
            })
        };
        (0..k)
            .zip((0..).step_by(index(shard_len)))
            .filter_map(part)
            .collect()
    }
}

/// Offsets within a block: blocks are far below 4 GiB.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
