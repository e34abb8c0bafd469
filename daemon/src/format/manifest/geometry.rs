//! How the bytes of a file lie in blocks, segments and shards.
//!
//! A file is cut into blocks whose ciphertext is k shards of the shard size, so that shards end on segment
//! boundaries and a small range needs one of them. The last block may be shorter; its ciphertext is spread
//! over all k shards, ceil(length / k) bytes each, and its segments may straddle them.
//!
//! Or it is cut into F *fragments*: blocks whose lengths differ by a byte at most, none longer than a block
//! would be, none empty. Block i is bytes [⌊size·i / F⌋, ⌊size·(i+1) / F⌋). All are like a last block.
//!
//! Invariant: no two blocks of a file have a segment number, and so a nonce, in common.

use std::num::NonZeroU32;
use std::ops::Range;

use mutualstore_erasure::Code;

use super::INLINE_MAX;
use crate::format::crypt::{SEGMENT, SEGMENT_PLAINTEXT, sealed_len};

/// A file is cut into at most this many fragments.
pub const MAX_FRAGMENTS: u32 = 65_536;

const SEGMENT_64: u64 = SEGMENT as u64;
const SEGMENT_PLAINTEXT_64: u64 = SEGMENT_PLAINTEXT as u64;

/// The layout of one file. All offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    code: Code,
    shard_size: u32,
    fragments: Option<NonZeroU32>,
}

/// What is needed of a block to read a range of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number, within the file, of the first segment needed.
    pub first_segment: u64,
    /// Where the segments needed lie, in order; put together they are what
    /// [`FileCipher::open_block`](crate::format::crypt::FileCipher::open_block) takes.
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

/// Why a file cannot be cut into so many fragments. Another number may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FragmentsError {
    /// More than any file is cut into.
    #[error("{0} fragments are not possible: give 1 to {MAX_FRAGMENTS}")]
    Count(u32),
    /// Some would be empty.
    #[error("a file of {size} bytes cannot be cut into {fragments} fragments: each holds a byte at least")]
    Empty {
        /// Bytes of the file.
        size: u64,
        /// Fragments asked for.
        fragments: NonZeroU32,
    },
    /// They would be longer than a block.
    #[error(
        "a file of {size} bytes cannot be cut into {fragments} fragments: under {code} each holds {longest} \
         bytes at most, so give {least} or more{}",
        if *.least > u64::from(MAX_FRAGMENTS) {
            format!(", which is beyond the {MAX_FRAGMENTS} possible: put it without fragments")
        } else {
            String::new()
        }
    )]
    TooLong {
        /// Bytes of the file.
        size: u64,
        /// Fragments asked for.
        fragments: NonZeroU32,
        /// The code of the file.
        code: Code,
        /// Bytes that one fragment holds at most.
        longest: u64,
        /// The least number that is enough.
        least: u64,
    },
}

impl Geometry {
    /// The layout of a file of `size` bytes; `shard_size` as
    /// [`check_shard_size`](super::check_shard_size) wants it.
    pub const fn new(size: u64, code: Code, shard_size: u32) -> Self {
        Self {
            size,
            code,
            shard_size,
            fragments: None,
        }
    }

    /// The layout of the same file cut into fragments, if there is a number; to be [checked](Self::check).
    #[must_use]
    pub const fn cut(self, fragments: Option<NonZeroU32>) -> Self {
        Self { fragments, ..self }
    }

    /// Whether the file can be cut as asked.
    pub fn check(&self) -> Result<(), FragmentsError> {
        let (size, longest) = (self.size, self.full_block());
        let Some(fragments) = self.fragments else {
            return Ok(());
        };
        if fragments.get() > MAX_FRAGMENTS {
            return Err(FragmentsError::Count(fragments.get()));
        }
        if size < u64::from(fragments.get()) {
            return Err(FragmentsError::Empty { size, fragments });
        }
        if self.block_plaintext() > longest {
            return Err(FragmentsError::TooLong {
                size,
                fragments,
                code: self.code,
                longest,
                least: size.div_ceil(longest),
            });
        }
        Ok(())
    }

    /// Plaintext of k shards of the shard size: k × shard size / 65,536 × 65,520.
    const fn full_block(&self) -> u64 {
        self.code.k() as u64 * (self.shard_size as u64 / SEGMENT_64) * SEGMENT_PLAINTEXT_64
    }

    /// Plaintext of the longest block.
    pub const fn block_plaintext(&self) -> u64 {
        match self.fragments {
            Some(fragments) => self.size.div_ceil(fragments.get() as u64),
            None => self.full_block(),
        }
    }

    /// Segment numbers that a block has for itself.
    const fn segments_per_block(&self) -> u64 {
        self.block_plaintext().div_ceil(SEGMENT_PLAINTEXT_64)
    }

    /// Data stripes of the file, unless its manifest holds its bytes.
    pub const fn blocks(&self) -> u64 {
        match self.fragments {
            Some(fragments) => fragments.get() as u64,
            None => self.size.div_ceil(self.block_plaintext()),
        }
    }

    /// Where block `block` begins in the file; the size of the file behind its end.
    pub fn start_of(&self, block: u64) -> u64 {
        match self.fragments {
            Some(fragments) => {
                let start = u128::from(self.size) * u128::from(block) / u128::from(fragments.get());
                u64::try_from(start).unwrap_or(u64::MAX).min(self.size)
            }
            None => block.saturating_mul(self.block_plaintext()).min(self.size),
        }
    }

    /// The block that byte `offset` of the file, which lies within it, is in: the last that begins at or
    /// before it.
    fn block_at(&self, offset: u64) -> u64 {
        match self.fragments {
            // size·i / F ≤ offset is size·i < F·(offset + 1), rounded down or not.
            Some(fragments) => {
                let bound = u128::from(fragments.get()) * (u128::from(offset) + 1);
                let block = bound.div_ceil(u128::from(self.size.max(1))).saturating_sub(1);
                u64::try_from(block).unwrap_or(u64::MAX)
            }
            None => offset / self.block_plaintext(),
        }
    }

    /// Plaintext of block `block`, 0 behind the end.
    pub fn plaintext_of(&self, block: u64) -> u64 {
        self.start_of(block.saturating_add(1)) - self.start_of(block)
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

    /// The blocks that hold the bytes of `range`, clipped to the file: each with the part of it that is
    /// wanted, in bytes of its plaintext.
    pub fn blocks_of(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let end = range.end.min(self.size);
        let range = range.start.min(end)..end;
        let blocks = if range.is_empty() {
            0..0
        } else {
            self.block_at(range.start)..self.block_at(range.end - 1) + 1
        };
        let geometry = *self;
        blocks.map(move |block| {
            let start = geometry.start_of(block);
            let length = geometry.plaintext_of(block);
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

#[cfg(test)]
mod tests {
    use super::*;

    const RS: Code = Code::ReedSolomon { data: 4, parity: 2 };

    #[test]
    fn fragments_are_equal_and_share_no_segment() {
        for (size, count) in [
            (1, 1),
            (4, 4),
            (5, 4),
            (100_000, 4),
            (100_003, 4),
            (4 * 65_520 + 1, 4),
            (u64::from(u32::MAX), 65_536),
        ] {
            let geometry = Geometry::new(size, RS, 1 << 20).cut(NonZeroU32::new(count));
            geometry.check().unwrap();
            assert_eq!(geometry.blocks(), u64::from(count));
            let (mut end, mut next_segment) = (0, 0);
            for block in 0..u64::from(count) {
                assert_eq!(geometry.start_of(block), end);
                let length = geometry.plaintext_of(block);
                assert!(
                    length == size / u64::from(count) || length == size.div_ceil(u64::from(count)),
                    "{size}/{count}"
                );
                end += length;
                assert!(geometry.first_segment(block) >= next_segment, "{size}/{count}");
                next_segment = geometry.first_segment(block) + length.div_ceil(65_520);
            }
            assert_eq!(end, size);
            assert_eq!(geometry.plaintext_of(u64::from(count)), 0);
        }
    }

    #[test]
    fn fragments_out_of_bounds_say_what_would_do() {
        let check = |size: u64, count: u32| {
            Geometry::new(size, RS, 1 << 20)
                .cut(NonZeroU32::new(count))
                .check()
                .map_err(|error| error.to_string())
        };
        let longest = 64 * 65_520;
        assert_eq!(check(4 * longest, 4), Ok(()));
        let long = check(4 * longest + 1, 4).unwrap_err();
        assert!(
            long.contains("give 5 or more") && !long.contains("beyond"),
            "{long}"
        );
        assert_eq!(check(4 * longest + 1, 5), Ok(()));
        let empty = check(3, 4).unwrap_err();
        assert!(
            empty.contains("3 bytes") && empty.contains("4 fragments"),
            "{empty}"
        );
        assert_eq!(check(65_536 * longest, 65_536), Ok(()));
        let huge = check(65_536 * longest + 1, 4).unwrap_err();
        assert!(huge.contains("without fragments"), "{huge}");
        assert!(check(1 << 40, 65_537).unwrap_err().contains("1 to 65536"));
        assert_eq!(
            check(u64::MAX, u32::MAX).unwrap_err(),
            check(0, u32::MAX).unwrap_err()
        );
    }
}
