//! Manifests: what a link points to.
//!
//! The root of a manifest is one block that holds the properties of a file and either its bytes (files of at
//! most [`INLINE_MAX`]) or the ids of its data stripes. A list too long for the root becomes a tree: index
//! blocks of level 1 hold ids of data stripes, those of level 2 ids of index blocks of level 1, and so on;
//! see [`tree`]. All of it is sealed under the file's key as
//! [`Kind::Manifest`](crate::format::crypt::Kind::Manifest): the root at level 0 from segment 0, index block
//! j of level l as segment j of level l.
//!
//! ```text
//! root = version u8 = 1 ‖ size u64 ‖ created u64 ‖ code 3 ‖ shard size u32
//!      ‖ name length u16 ‖ name ‖ media type length u16 ‖ media type
//!      ‖ content
//! content = 0 ‖ the bytes of the file
//!         | 1 ‖ depth u8 ‖ count u16 ‖ count × stripe id 32
//!         | 2 ‖ policy u8 ‖ anchor 32 ‖ fragments u32 ‖ content of kind 0 or 1
//! index block = version u8 = 1 ‖ count u16 ‖ count × stripe id 32
//! ```
//!
//! Big-endian throughout; code, policy and anchor as in a stripe's header; created in Unix milliseconds. Each
//! manifest has one encoding: the depth is the least that serves, every index block but the last of its level
//! is full, counts follow from the size, and kind 2 stands only where a file is not under `successors` or is
//! in fragments (0: it is not). Anything else, trailing bytes too, is refused. A file in fragments is never
//! in its manifest. How the bytes of a file lie in its stripes is [`Geometry`]; where these are,
//! [`Placement`].
//!
//! Files that were put together from parts have manifests of version 2: [`parts`].
//!
//! Not here: making a name safe to write, which readers do because a manifest may be a stranger's.

pub mod geometry;
pub mod parts;
pub mod tree;

use std::fmt;
use std::num::NonZeroU32;

use bytes::{BufMut, Bytes, BytesMut};
use mutualstore_erasure::{Code, CodeError, GroupError, HASH_LEN, Policy, PolicyError, StripeId};
use mutualstore_tree::codec::{Malformed, Reader};

use crate::error::Failure;

pub use geometry::{FragmentsError, Geometry, MAX_FRAGMENTS, Piece, Window};
pub use tree::{IndexBlock, IndexPlace, ManifestBuilder, Step};

use crate::format::placement::Placement;

/// A file of at most this many bytes lies in its manifest. Blocks with no more plaintext than this take
/// [`Code::small`].
pub const INLINE_MAX: u64 = 16 << 10;
/// A name is at most this many bytes.
pub const MAX_NAME: usize = 1024;
/// A media type is at most this many bytes.
pub const MAX_MEDIA_TYPE: usize = 255;
/// A shard size is a multiple of this, so that segments do not straddle shards.
pub const SHARD_SIZE_STEP: u32 = 64 << 10;
/// The greatest shard size, and the default.
pub const MAX_SHARD_SIZE: u32 = 1 << 20;
/// Ids in a list of the root and in a full index block: as many as fit one segment.
pub const FANOUT: usize = 2047;

const VERSION: u8 = 1;
const INLINE: u8 = 0;
const STRIPES: u8 = 1;
const PLACED: u8 = 2;

/// What is known of a file by its link.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Bytes of the file.
    pub size: u64,
    /// When it was put, Unix time in milliseconds.
    pub created: u64,
    /// The code of its blocks, those of at most [`INLINE_MAX`] bytes of plaintext excepted.
    pub code: Code,
    /// Bytes of a shard of a full block: a multiple of [`SHARD_SIZE_STEP`], at most [`MAX_SHARD_SIZE`].
    pub shard_size: u32,
    /// The file's own name without directories, possibly empty; at most [`MAX_NAME`] bytes. Not to be
    /// trusted.
    pub name: String,
    /// Its media type, possibly empty; at most [`MAX_MEDIA_TYPE`] bytes. Not to be trusted.
    pub media_type: String,
    /// Where its stripes are placed, those of the manifest included.
    pub placement: Placement,
    /// The blocks it is cut into, none longer than one of full shards; none: blocks of full shards.
    pub fragments: Option<NonZeroU32>,
    /// Its content.
    pub body: Body,
}

/// Where the content of a file is.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// Here: at most [`INLINE_MAX`] bytes.
    Inline(Bytes),
    /// In stripes.
    Stripes {
        /// 0: `ids` are the data stripes; d: they are index blocks of level d.
        depth: u8,
        /// 1 to [`FANOUT`] ids, in the order of the file.
        ids: Vec<StripeId>,
    },
}

/// Why there is no such manifest. Nothing was made of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It ends too early, or goes on after its end.
    #[error("the manifest is damaged: {0}")]
    Malformed(#[from] Malformed),
    /// It was written by a later version.
    #[error("the manifest has version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// Its code is none.
    #[error("the manifest's code is none: {0}")]
    Code(#[from] CodeError),
    /// Its placement policy is none.
    #[error("the manifest's placement is none: {0}")]
    Policy(#[from] PolicyError),
    /// A group of its placement policy is smaller than a stripe.
    #[error("placement {0}")]
    Group(#[from] GroupError),
    /// There is an anchor where the policy has no groups, or a placement where there is nothing to say.
    #[error("the manifest's placement is not in its one form")]
    Placement,
    /// It cannot be cut into so many fragments.
    #[error(transparent)]
    Fragments(#[from] FragmentsError),
    /// A shard size is not a multiple of 64 KiB up to 1 MiB.
    #[error("a shard size of {0} bytes is not possible: give a multiple of 64 KiB, at most 1 MiB")]
    ShardSize(u64),
    /// A name or media type is too long.
    #[error("the {what} is {length} bytes long; at most {limit} are possible")]
    TooLong {
        /// `name` or `media type`.
        what: &'static str,
        /// Its bytes.
        length: usize,
        /// Bytes possible.
        limit: usize,
    },
    /// A name or media type is not UTF-8.
    #[error("a text of the manifest is not UTF-8")]
    Text,
    /// The content is of an unknown kind.
    #[error("the manifest's content is of the unknown kind {0}")]
    Kind(u8),
    /// The bytes, ids or levels given do not make up a file of this size.
    #[error("the manifest's content does not fit its size of {size} bytes")]
    Content {
        /// Bytes of the file.
        size: u64,
    },
    /// An index block does not hold as many ids as its place in the tree demands.
    #[error("index block {number} of level {level} does not fit the size of its file")]
    Index {
        /// Level of the index block.
        level: u8,
        /// Its place in the level.
        number: u64,
    },
}

impl From<ManifestError> for Failure {
    /// Of a manifest that was read; what a user may have chosen, shard size and name, is a matter of usage.
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::ShardSize(_)
            | ManifestError::TooLong { .. }
            | ManifestError::Code(_)
            | ManifestError::Group(_)
            | ManifestError::Fragments(_) => Self::usage(error),
            ManifestError::Malformed(_)
            | ManifestError::Version(_)
            | ManifestError::Text
            | ManifestError::Kind(_)
            | ManifestError::Policy(_)
            | ManifestError::Placement
            | ManifestError::Content { .. }
            | ManifestError::Index { .. } => Self::unexpected(error),
        }
    }
}

impl Manifest {
    /// How the bytes of the file lie in its stripes.
    pub const fn geometry(&self) -> Geometry {
        Geometry::new(self.size, self.code, self.shard_size).cut(self.fragments)
    }

    /// Whether the content has to be preceded by placement and fragments.
    fn is_placed(&self) -> bool {
        self.placement != Placement::default() || self.fragments.is_some()
    }

    /// The plaintext of the root block. Fails where a field breaks its limits or the body does not fit the
    /// size.
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        self.check()?;
        let content = match &self.body {
            Body::Inline(bytes) => bytes.len(),
            Body::Stripes { ids, .. } => ids.len() * HASH_LEN,
        };
        let mut out = BytesMut::with_capacity(96 + self.name.len() + self.media_type.len() + content);
        out.put_u8(VERSION);
        out.put_u64(self.size);
        out.put_u64(self.created);
        out.put_slice(&self.code.to_wire());
        out.put_u32(self.shard_size);
        put_text(&mut out, &self.name);
        put_text(&mut out, &self.media_type);
        if self.is_placed() {
            out.put_u8(PLACED);
            out.put_u8(self.placement.policy.to_wire());
            out.put_slice(&self.placement.anchor);
            out.put_u32(self.fragments.map_or(0, NonZeroU32::get));
        }
        match &self.body {
            Body::Inline(bytes) => {
                out.put_u8(INLINE);
                out.put_slice(bytes);
            }
            Body::Stripes { depth, ids } => {
                out.put_u8(STRIPES);
                out.put_u8(*depth);
                put_ids(&mut out, ids);
            }
        }
        Ok(out.freeze())
    }

    /// Reads the plaintext of a root block.
    pub fn parse(root: &Bytes) -> Result<Self, ManifestError> {
        let mut reader = Reader(root);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let size = reader.u64()?;
        let created = reader.u64()?;
        let code = Code::from_wire(reader.array()?)?;
        let shard_size = reader.u32()?;
        let name = text(&mut reader, "name", MAX_NAME)?;
        let media_type = text(&mut reader, "media type", MAX_MEDIA_TYPE)?;
        let mut kind = reader.u8()?;
        let is_placed = kind == PLACED;
        let (mut placement, mut fragments) = (Placement::default(), None);
        if is_placed {
            let policy = reader.u8()?;
            placement.policy = Policy::from_wire(policy)?;
            placement.anchor = reader.array()?;
            fragments = NonZeroU32::new(reader.u32()?);
            kind = reader.u8()?;
        }
        let body = match kind {
            INLINE => Body::Inline(root.slice_ref(reader.take(reader.0.len())?)),
            STRIPES => {
                let depth = reader.u8()?;
                Body::Stripes {
                    depth,
                    ids: ids(&mut reader)?,
                }
            }
            kind => return Err(ManifestError::Kind(kind)),
        };
        reader.end()?;
        let manifest = Self {
            size,
            created,
            code,
            shard_size,
            name,
            media_type,
            placement,
            fragments,
            body,
        };
        if is_placed != manifest.is_placed() {
            return Err(ManifestError::Placement);
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.code.check()?;
        check_shard_size(self.shard_size.into())?;
        check_length("name", self.name.len(), MAX_NAME)?;
        check_length("media type", self.media_type.len(), MAX_MEDIA_TYPE)?;
        let policy = self.placement.policy.check(self.code)?;
        if self.placement.has_anchor() && !policy.has_groups() {
            return Err(ManifestError::Placement);
        }
        self.geometry().check()?;
        let fits = match &self.body {
            Body::Inline(bytes) => {
                bytes.len() as u64 == self.size && self.size <= INLINE_MAX && self.fragments.is_none()
            }
            Body::Stripes { depth, ids } => {
                let blocks = self.geometry().blocks();
                blocks > 0 && *depth == tree::depth(blocks) && ids.len() as u64 == tree::units(blocks, *depth)
            }
        };
        if fits {
            Ok(())
        } else {
            Err(ManifestError::Content { size: self.size })
        }
    }
}

impl fmt::Debug for Manifest {
    /// Without name and content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (depth, ids) = match &self.body {
            Body::Inline(_) => (0, 0),
            Body::Stripes { depth, ids } => (*depth, ids.len()),
        };
        write!(
            f,
            "Manifest({} bytes, {}, depth {depth}, {ids} ids)",
            self.size, self.code
        )
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Stripes { depth, ids } => write!(f, "Stripes(depth {depth}, {} ids)", ids.len()),
        }
    }
}

/// A shard size as a user may give it: a multiple of 64 KiB up to 1 MiB.
pub fn check_shard_size(shard_size: u64) -> Result<u32, ManifestError> {
    u32::try_from(shard_size)
        .ok()
        .filter(|size| (1..=MAX_SHARD_SIZE).contains(size) && size.is_multiple_of(SHARD_SIZE_STEP))
        .ok_or(ManifestError::ShardSize(shard_size))
}

fn check_length(what: &'static str, length: usize, limit: usize) -> Result<(), ManifestError> {
    if length > limit {
        Err(ManifestError::TooLong { what, length, limit })
    } else {
        Ok(())
    }
}

/// Texts and lists are checked to be far below 2^16 before they are written.
fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

fn put_ids(out: &mut BytesMut, ids: &[StripeId]) {
    put_length(out, ids.len());
    for id in ids {
        out.put_slice(id.as_bytes());
    }
}

fn text(reader: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<String, ManifestError> {
    let length = usize::from(reader.u16()?);
    check_length(what, length, limit)?;
    let text = str::from_utf8(reader.take(length)?).map_err(|_| ManifestError::Text)?;
    Ok(text.to_owned())
}

fn ids(reader: &mut Reader<'_>) -> Result<Vec<StripeId>, ManifestError> {
    let count = usize::from(reader.u16()?);
    let bytes = reader.take(count * HASH_LEN)?;
    let (ids, _) = bytes.as_chunks();
    Ok(ids.iter().map(|id| StripeId::from(*id)).collect())
}

#[cfg(test)]
mod tests;
