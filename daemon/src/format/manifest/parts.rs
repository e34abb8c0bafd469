//! Manifests of version 2: files that are put together from parts, each sealed under a key of its own.
//!
//! A part is a file that was put before, by its stripes: whoever joins parts writes their list, and not a
//! byte of theirs again. The nonces of a part count from zero under its key, so parts may repeat.
//!
//! ```text
//! root   = version u8 = 2 ‖ size u64 ‖ created u64 ‖ code 3 ‖ shard size u32 ‖ policy u8 ‖ anchor 32
//!        ‖ name length u16 ‖ name ‖ media type length u16 ‖ media type ‖ list ‖ fields
//! list   = depth u8 ‖ count u16 ‖ count × (part where depth is 0, else branch)
//! part   = file key 32 ‖ size u64 ‖ code 3 ‖ shard size u32 ‖ policy u8 ‖ anchor 32 ‖ fragments u32
//!        ‖ depth u8 ‖ count u16 ‖ count × stripe id 32
//! branch = parts u32 ‖ size u64 ‖ stripe id 32
//! block  = version u8 = 2 ‖ list
//! fields = (tag u16 ‖ length u32 ‖ value) each, tags ascending; unknown ones are kept
//! ```
//!
//! Big-endian throughout. Code, shard size and placement of the root are those of the root and of blocks. A
//! branch leads to a block that holds the list of one depth less, with so many parts and bytes below it, so a
//! range is found without the parts before it. Block j of depth d is sealed under the file's key as
//! [`Kind::Manifest`](crate::format::crypt::Kind::Manifest), level d + 1, from segment j. Size, fragments,
//! depth and ids of a part mean what they do in a root of version 1, but that a part with more than
//! [`PART_IDS`] ids has an index block more, of the next level, with all of them. Parts are never in their
//! manifest.

use std::num::NonZeroU32;

use bytes::{BufMut, Bytes, BytesMut};
use mutualstore_erasure::{Code, HASH_LEN, Policy, StripeId};
use mutualstore_tree::codec::{Fields, Reader, fields, put_fields};
use zeroize::Zeroizing;

use super::tree::{depth, units};
use super::{
    Geometry, MAX_MEDIA_TYPE, MAX_NAME, ManifestError, check_length, check_shard_size, ids, put_ids,
    put_text, text,
};
use crate::format::crypt::SEGMENT_PLAINTEXT;
use crate::format::placement::Placement;

const VERSION: u8 = 2;
/// Ids of a part at most.
pub const PART_IDS: usize = 64;
/// Bytes of a list at most: with what stands before it in a block, one segment.
const MAX_LIST: usize = SEGMENT_PLAINTEXT - 1;

/// How the stripes of a file, or of a part of one, were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Making {
    /// The code of blocks.
    pub code: Code,
    /// Bytes of a shard of a full block.
    pub shard_size: u32,
    /// Where stripes are placed.
    pub placement: Placement,
}

/// A part of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// What its blocks are sealed under.
    pub key: Zeroizing<[u8; 32]>,
    /// Its bytes, at least one.
    pub size: u64,
    /// How its stripes were made.
    pub making: Making,
    /// The blocks it is cut into; none: blocks of full shards.
    pub fragments: Option<NonZeroU32>,
    /// 0: `ids` are data stripes; d: they are index blocks of level d.
    pub depth: u8,
    /// 1 to [`PART_IDS`].
    pub ids: Vec<StripeId>,
}

/// A block of the list of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Parts below it.
    pub parts: u32,
    /// Their bytes.
    pub size: u64,
    /// The stripe of the block.
    pub stripe: StripeId,
}

/// Parts, in the order of the file, or the blocks that hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// The parts themselves.
    Parts(Vec<Part>),
    /// The blocks that hold them.
    Branches {
        /// Of the list; that of each block is one less.
        depth: NonZeroU32,
        /// In the order of the file.
        branches: Vec<Branch>,
    },
}

/// The root of a file in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// When it was put together, Unix time in milliseconds.
    pub created: u64,
    /// How the stripes of the root and of blocks are made.
    pub making: Making,
    /// As of any manifest.
    pub name: String,
    /// As of any manifest.
    pub media_type: String,
    /// The parts.
    pub list: List,
    /// What later versions add.
    pub fields: Fields,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Part({} bytes, {}, {} ids)",
            self.size,
            self.making.code,
            self.ids.len()
        )
    }
}

impl Making {
    fn write(&self, out: &mut BytesMut) {
        out.put_slice(&self.code.to_wire());
        out.put_u32(self.shard_size);
        out.put_u8(self.placement.policy.to_wire());
        out.put_slice(&self.placement.anchor);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let making = Self {
            code: Code::from_wire(reader.array()?)?,
            shard_size: check_shard_size(reader.u32()?.into())?,
            placement: Placement {
                policy: Policy::from_wire(reader.u8()?)?,
                anchor: reader.array()?,
            },
        };
        making.code.check()?;
        let policy = making.placement.policy.check(making.code)?;
        if making.placement.has_anchor() && !policy.has_groups() {
            return Err(ManifestError::Placement);
        }
        Ok(making)
    }
}

impl Part {
    /// How the bytes of the part lie in its stripes.
    pub fn geometry(&self) -> Geometry {
        Geometry::new(self.size, self.making.code, self.making.shard_size).cut(self.fragments)
    }

    const fn encoded_len(&self) -> usize {
        32 + 8 + 3 + 4 + 1 + HASH_LEN + 4 + 1 + 2 + self.ids.len() * HASH_LEN
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_slice(self.key.as_slice());
        out.put_u64(self.size);
        self.making.write(out);
        out.put_u32(self.fragments.map_or(0, NonZeroU32::get));
        out.put_u8(self.depth);
        put_ids(out, &self.ids);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let part = Self {
            key: Zeroizing::new(reader.array()?),
            size: reader.u64()?,
            making: Making::read(reader)?,
            fragments: NonZeroU32::new(reader.u32()?),
            depth: reader.u8()?,
            ids: ids(reader)?,
        };
        part.check()?;
        Ok(part)
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.geometry().check()?;
        let blocks = self.geometry().blocks();
        let least = depth(blocks);
        let beyond = units(blocks, least) > PART_IDS as u64;
        let depth = if beyond { least.saturating_add(1) } else { least };
        let fits = self.depth == depth && self.ids.len() as u64 == units(blocks, depth);
        if self.size > 0 && fits {
            Ok(())
        } else {
            Err(ManifestError::Content { size: self.size })
        }
    }
}

impl Branch {
    const ENCODED: usize = 4 + 8 + HASH_LEN;

    /// The branch to a list that was stored as a block.
    pub fn to(list: &List, stripe: StripeId) -> Self {
        Self {
            parts: list.parts(),
            size: list.size(),
            stripe,
        }
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.parts);
        out.put_u64(self.size);
        out.put_slice(self.stripe.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ManifestError> {
        Ok(Self {
            parts: reader.u32()?,
            size: reader.u64()?,
            stripe: StripeId::from(reader.array::<HASH_LEN>()?),
        })
    }
}

impl List {
    /// Bytes of all parts.
    pub fn size(&self) -> u64 {
        match self {
            Self::Parts(parts) => parts.iter().fold(0, |sum, part| sum.saturating_add(part.size)),
            Self::Branches { branches, .. } => branches
                .iter()
                .fold(0, |sum, branch| sum.saturating_add(branch.size)),
        }
    }

    /// How many parts there are.
    pub fn parts(&self) -> u32 {
        match self {
            Self::Parts(parts) => u32::try_from(parts.len()).unwrap_or(u32::MAX),
            Self::Branches { branches, .. } => branches
                .iter()
                .fold(0, |sum, branch| sum.saturating_add(branch.parts)),
        }
    }

    /// The list itself, where it fits into a root or block; else the lists that are to be stored as blocks
    /// first, for a list of [branches to](Branch::to) them.
    pub fn split(self) -> Result<Self, Vec<Self>> {
        match self {
            Self::Parts(parts) => divided(parts, Part::encoded_len)
                .map(Self::Parts)
                .map_err(|chunks| chunks.into_iter().map(Self::Parts).collect()),
            Self::Branches { depth, branches } => divided(branches, |_| Branch::ENCODED)
                .map(|branches| Self::Branches { depth, branches })
                .map_err(|chunks| {
                    let list = |branches| Self::Branches { depth, branches };
                    chunks.into_iter().map(list).collect()
                }),
        }
    }

    /// The plaintext of the block that holds the list.
    pub fn encode_block(&self) -> Result<Bytes, ManifestError> {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        self.write(&mut out)?;
        Ok(out.freeze())
    }

    /// Reads the plaintext of the block that a branch of a list of depth `depth` leads to.
    pub fn parse_block(depth: u32, branch: &Branch, plaintext: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader(plaintext);
        version(&mut reader)?;
        let list = Self::read(&mut reader)?;
        reader.end()?;
        let is_below = list.depth().checked_add(1) == Some(depth);
        if is_below && (list.parts(), list.size()) == (branch.parts, branch.size) {
            Ok(list)
        } else {
            Err(ManifestError::Content { size: branch.size })
        }
    }

    fn depth(&self) -> u32 {
        match self {
            Self::Parts(_) => 0,
            Self::Branches { depth, .. } => depth.get(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Parts(parts) => parts.len(),
            Self::Branches { branches, .. } => branches.len(),
        }
    }

    fn write(&self, out: &mut BytesMut) -> Result<(), ManifestError> {
        let begin = out.len();
        let length = |list: &Self| u16::try_from(list.len()).unwrap_or(u16::MAX);
        out.put_u8(u8::try_from(self.depth()).unwrap_or(u8::MAX));
        out.put_u16(length(self));
        match self {
            Self::Parts(parts) => parts.iter().for_each(|part| part.write(out)),
            Self::Branches { branches, .. } => branches.iter().for_each(|branch| branch.write(out)),
        }
        if self.len() == 0 || out.len() - begin > MAX_LIST {
            return Err(ManifestError::Content { size: self.size() });
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let before = reader.0.len();
        let depth = reader.u8()?;
        let count = reader.u16()?;
        // What a count promises need not follow, so nothing is allocated for it.
        let list = match NonZeroU32::new(depth.into()) {
            None => Self::Parts((0..count).map(|_| Part::read(reader)).collect::<Result<_, _>>()?),
            Some(depth) => {
                let branches = (0..count).map(|_| Branch::read(reader));
                Self::Branches {
                    depth,
                    branches: branches.collect::<Result<_, _>>()?,
                }
            }
        };
        if list.len() == 0 || before - reader.0.len() > MAX_LIST {
            return Err(ManifestError::Content { size: list.size() });
        }
        Ok(list)
    }
}

/// What is a list of at most [`MAX_LIST`] bytes, or several that are.
fn divided<T>(all: Vec<T>, length: impl Fn(&T) -> usize) -> Result<Vec<T>, Vec<Vec<T>>> {
    let mut lists = vec![Vec::new()];
    let mut bytes = 3;
    for item in all {
        let more = length(&item);
        if bytes + more > MAX_LIST {
            lists.push(Vec::new());
            bytes = 3;
        }
        bytes += more;
        if let Some(last) = lists.last_mut() {
            last.push(item);
        }
    }
    if lists.len() > 1 {
        return Err(lists);
    }
    Ok(lists.pop().unwrap_or_default())
}

fn version(reader: &mut Reader<'_>) -> Result<(), ManifestError> {
    match reader.u8()? {
        VERSION => Ok(()),
        other => Err(ManifestError::Version(other)),
    }
}

impl Joined {
    /// The plaintext of the root block. The list must be [split](List::split).
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        check_length("name", self.name.len(), MAX_NAME)?;
        check_length("media type", self.media_type.len(), MAX_MEDIA_TYPE)?;
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u64(self.list.size());
        out.put_u64(self.created);
        self.making.write(&mut out);
        put_text(&mut out, &self.name);
        put_text(&mut out, &self.media_type);
        self.list.write(&mut out)?;
        put_fields(&mut out, &self.fields);
        Ok(out.freeze())
    }

    /// Reads the plaintext of a root block.
    pub fn parse(root: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader(root);
        version(&mut reader)?;
        let size = reader.u64()?;
        let joined = Self {
            created: reader.u64()?,
            making: Making::read(&mut reader)?,
            name: text(&mut reader, "name", MAX_NAME)?,
            media_type: text(&mut reader, "media type", MAX_MEDIA_TYPE)?,
            list: List::read(&mut reader)?,
            fields: fields(reader)?,
        };
        if joined.list.size() == size {
            Ok(joined)
        } else {
            Err(ManifestError::Content { size })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAKING: Making = Making {
        code: Code::ReedSolomon { data: 4, parity: 2 },
        shard_size: 1 << 20,
        placement: Placement {
            policy: Policy::Copysets,
            anchor: [0xAB; 32],
        },
    };

    fn part(size: u64, key: u8) -> Part {
        let blocks = Geometry::new(size, MAKING.code, MAKING.shard_size).blocks();
        let least = depth(blocks);
        let depth = least + u8::from(units(blocks, least) > PART_IDS as u64);
        Part {
            key: Zeroizing::new([key; 32]),
            size,
            making: MAKING,
            fragments: None,
            depth,
            ids: (0..units(blocks, depth))
                .map(|_| StripeId::from([key; 32]))
                .collect(),
        }
    }

    fn joined(list: List) -> Joined {
        Joined {
            created: 0x0102_0304_0506,
            making: MAKING,
            name: "a.txt".to_owned(),
            media_type: "text/plain".to_owned(),
            list,
            fields: Fields::from([(7, Bytes::from_static(b"later"))]),
        }
    }

    #[test]
    fn roots_and_blocks_are_these_bytes() {
        let making = format!("0204020010000002{}", "ab".repeat(32));
        let part_of = |key: u8, size: &str| {
            let key = format!("{key:02x}").repeat(32);
            format!("{key}{size}{making}00000000{}{key}", "000001")
        };
        let list = List::Parts(vec![part(5, 0x11), part(0x10_0000, 0x22)]);
        let parts = format!(
            "000002{}{}",
            part_of(0x11, "0000000000000005"),
            part_of(0x22, "0000000000100000")
        );
        let texts = "0005612e747874000a746578742f706c61696e";
        let fields = "0007000000056c61746572";
        let root = joined(list.clone());
        assert_eq!(
            hex::encode(root.encode().unwrap()),
            format!("0200000000001000050000010203040506{making}{texts}{parts}{fields}")
        );
        let block = list.encode_block().unwrap();
        assert_eq!(hex::encode(&block), format!("02{parts}"));
        let branch = Branch::to(&list, StripeId::from([9; 32]));
        let above = List::Branches {
            depth: NonZeroU32::MIN,
            branches: vec![branch.clone()],
        };
        assert_eq!(
            hex::encode(above.encode_block().unwrap()),
            format!("02010001000000020000000000100005{}", "09".repeat(32))
        );
        assert_eq!(List::parse_block(1, &branch, &block), Ok(list));
        assert!(List::parse_block(2, &branch, &block).is_err());
    }

    #[test]
    fn parts_that_do_not_fit_their_size_are_refused() {
        let whole = joined(List::Parts(vec![part(5 << 20, 1)]));
        assert_eq!(Joined::parse(&whole.encode().unwrap()), Ok(whole));
        let wrong = |change: fn(&mut Part)| {
            let mut part = part(5 << 20, 1);
            change(&mut part);
            let root = joined(List::Parts(vec![part])).encode().unwrap();
            assert!(Joined::parse(&root).is_err());
        };
        wrong(|part| part.size = 0);
        wrong(|part| part.ids.clear());
        wrong(|part| part.depth = 1);
        wrong(|part| part.making.shard_size = 1);
        wrong(|part| part.fragments = NonZeroU32::new(1));
        let empty = joined(List::Parts(Vec::new()));
        assert!(empty.encode().is_err());
    }

    /// Puts a list that is too long for a root into blocks, and finds every part again.
    #[test]
    fn long_lists_become_trees() {
        let parts: Vec<Part> = (0..10_000)
            .map(|n| part(5 << 20, u8::try_from(n % 251).unwrap()))
            .collect();
        let mut stored: Vec<(Branch, Bytes)> = Vec::new();
        let mut list = List::Parts(parts.clone());
        let (root, depth) = loop {
            let depth = list.depth();
            match list.split() {
                Ok(root) => break (root, depth),
                Err(blocks) => {
                    let branches: Vec<Branch> = blocks
                        .iter()
                        .map(|block| {
                            let mut id = [0; 32];
                            id[..8].copy_from_slice(&(stored.len() as u64).to_be_bytes());
                            let branch = Branch::to(block, StripeId::from(id));
                            stored.push((branch.clone(), block.encode_block().unwrap()));
                            branch
                        })
                        .collect();
                    let depth = NonZeroU32::new(depth + 1).unwrap();
                    list = List::Branches { depth, branches };
                }
            }
        };
        assert_eq!(depth, 1);
        assert_eq!((root.parts(), root.size()), (10_000, 10_000 * (5 << 20)));
        let root = Joined::parse(&joined(root).encode().unwrap()).unwrap();
        let List::Branches { branches, .. } = root.list else {
            panic!("parts in the root");
        };
        let mut found = Vec::new();
        for branch in &branches {
            let (_, block) = stored.iter().find(|(stored, _)| stored == branch).unwrap();
            assert!(block.len() <= SEGMENT_PLAINTEXT);
            match List::parse_block(1, branch, block).unwrap() {
                List::Parts(parts) => found.extend(parts),
                List::Branches { .. } => panic!("too deep"),
            }
        }
        assert!(found == parts);
    }

    proptest! {
        #[test]
        fn noise_is_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(joined) = Joined::parse(&bytes) {
                prop_assert_eq!(&joined.encode().unwrap()[..], &bytes[..]);
            }
        }

        #[test]
        fn roots_come_back_and_none_is_cut(sizes in prop::collection::vec(1..900u64 << 20, 1..5)) {
            let parts = sizes.into_iter().zip(1..).map(|(size, key)| part(size, key)).collect();
            let root = joined(List::Parts(parts));
            let bytes = root.encode().unwrap();
            // What ends behind the list is a root without the field.
            for end in 0..bytes.len() - 11 {
                prop_assert!(Joined::parse(&bytes[..end]).is_err());
            }
            prop_assert_eq!(Joined::parse(&bytes), Ok(root));
        }
    }
}
