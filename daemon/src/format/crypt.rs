//! Encryption of files: AES-256-GCM in segments, and the keys derived for a file.
//!
//! A block of plaintext is cut into segments of 65,520 bytes (the last one may be shorter, never empty), each
//! sealed on its own into ciphertext ‖ 16-byte tag, so that full segments take 64 KiB and a small range of a
//! file is opened without the rest. A file has a key of its own; the nonce says what the segment is and where
//! it stands in the file:
//!
//! ```text
//! nonce = kind u8 ‖ level u8 ‖ 0 u16 ‖ segment number u64, big-endian        (12 bytes)
//! associated data = "mutualstore/segment/1" ‖ nonce
//! ```
//!
//! Invariant: under one key no nonce is used for two different plaintexts. A file is written once, and its
//! segments are numbered through (per kind and level), so it holds as long as a key is drawn at random per
//! file.
//!
//! Segments do not bind the end of a file: the manifest, sealed under the same key, states the size and the
//! stripes, and readers hold the length of what they opened against it.

use std::fmt;

use bytes::{Bytes, BytesMut};
use mutualstore_tree::account::derive;
use ring::aead::{self, Aad, LessSafeKey, UnboundKey};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of a full segment of ciphertext, tag included.
pub const SEGMENT: usize = 64 << 10;
/// Bytes of the tag at the end of each segment.
pub const TAG: usize = 16;
/// Bytes of plaintext in a full segment.
pub const SEGMENT_PLAINTEXT: usize = SEGMENT - TAG;

/// Bytes of a signature.
pub const SIGNATURE: usize = 64;
const DELETION: &[u8] = b"mutualstore/delete/1";
const CONTEXT: &[u8; 21] = b"mutualstore/segment/1";
const NONCE: usize = 12;

/// What a segment belongs to; the first byte of its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The file's bytes.
    Data = 0,
    /// The manifest: level 0 is its root, the levels above are index blocks.
    Manifest = 1,
}

/// Why a block could not be opened. The caller still has its shards; nothing of the block was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No sealed block has this length: its last segment is at most a tag long.
    #[error("{length} bytes are no sealed block")]
    Length {
        /// Bytes of ciphertext given.
        length: usize,
    },
    /// The segment was not sealed under this key for this place.
    #[error("segment {segment} does not open: wrong key, or not what was stored here")]
    Segment {
        /// Number of the segment in its file, kind and level.
        segment: u64,
    },
}

/// Bytes of ciphertext that `plaintext` bytes are sealed into.
pub const fn sealed_len(plaintext: u64) -> u64 {
    plaintext.saturating_add(TAG as u64 * plaintext.div_ceil(SEGMENT_PLAINTEXT as u64))
}

/// The first 4 bytes of SHA-256(context ‖ bytes): against mistyping, not against malice.
pub(crate) fn short_hash(context: &[u8], bytes: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(context)
        .chain_update(bytes)
        .finalize()
        .into();
    hash.first_chunk().copied().unwrap_or_default()
}

/// A new random key.
pub fn random_key() -> Zeroizing<[u8; 32]> {
    Zeroizing::new(rand::random())
}

/// The ed25519 public key that owns the stripes of a file: its seed is HKDF-SHA256 with the salt
/// "mutualstore/owner/1", the account secret as key material and the file key as info. Only the account's
/// holder derives it again, and two files of one account show nothing in common.
pub fn owner_key(account: &[u8; 32], file_key: &[u8; 32]) -> [u8; 32] {
    public_key(&owner_seed(account, file_key))
}

/// Signs that the owner of a file wants a stripe of it deleted: ed25519 over "mutualstore/delete/1" ‖ stripe
/// id.
#[expect(clippy::missing_panics_doc, reason = "ed25519 takes every seed of 32 bytes")]
pub fn sign_deletion(account: &[u8; 32], file_key: &[u8; 32], stripe: &[u8; 32]) -> [u8; SIGNATURE] {
    let pair = Ed25519KeyPair::from_seed_unchecked(owner_seed(account, file_key).as_slice())
        .expect("ed25519 takes every seed of 32 bytes");
    let signature = pair.sign(&[DELETION, stripe].concat());
    signature
        .as_ref()
        .try_into()
        .expect("signatures of ed25519 have 64 bytes")
}

/// Whether `owner` signed that the stripe is to be deleted.
pub fn is_deletion(owner: &[u8; 32], stripe: &[u8; 32], signature: &[u8]) -> bool {
    let owner = UnparsedPublicKey::new(&ED25519, owner);
    owner.verify(&[DELETION, stripe].concat(), signature).is_ok()
}

/// The ed25519 public key of a seed.
#[expect(clippy::missing_panics_doc, reason = "ed25519 takes every seed of 32 bytes")]
pub fn public_key(seed: &[u8; 32]) -> [u8; 32] {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed);
    let public = pair
        .ok()
        .and_then(|pair| pair.public_key().as_ref().try_into().ok());
    public.expect("ed25519 takes every seed of 32 bytes and has public keys of 32")
}

fn owner_seed(account: &[u8; 32], file_key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    derive(b"mutualstore/owner/1", account, &[file_key])
}

/// Seals the lines of local files that hold links and names, so that neither stands on a disk in the clear:
/// AES-256-GCM under HKDF-SHA256(salt "mutualstore/line/1", account secret), a random nonce each, written as
/// hex(nonce 12 ‖ ciphertext ‖ tag 16).
#[derive(Clone)]
pub struct LineCipher {
    key: LessSafeKey,
}

impl LineCipher {
    /// The cipher of this account.
    #[expect(clippy::missing_panics_doc, reason = "AES-256 takes every key of 32 bytes")]
    pub fn new(account: &[u8; 32]) -> Self {
        let key = derive(b"mutualstore/line/1", account, &[]);
        let key =
            UnboundKey::new(&aead::AES_256_GCM, key.as_slice()).expect("AES-256 takes every key of 32 bytes");
        Self {
            key: LessSafeKey::new(key),
        }
    }

    /// A line without its end.
    #[expect(clippy::missing_panics_doc, reason = "a line is far below the limit of GCM")]
    pub fn seal(&self, plaintext: &[u8]) -> String {
        let nonce: [u8; NONCE] = rand::random();
        let mut bytes = plaintext.to_vec();
        self.key
            .seal_in_place_append_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                &mut bytes,
            )
            .expect("a line is far below the limit of GCM");
        hex::encode(nonce) + &hex::encode(bytes)
    }

    /// What was sealed; `None` for anything else.
    pub fn open(&self, line: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(vec![0; line.len() / 2]);
        hex::decode_to_slice(line, &mut bytes).ok()?;
        let nonce = aead::Nonce::assume_unique_for_key(*bytes.first_chunk()?);
        let sealed = bytes.get_mut(NONCE..)?;
        let length = self.key.open_in_place(nonce, Aad::empty(), sealed).ok()?.len();
        bytes.drain(..NONCE);
        bytes.truncate(length);
        Some(bytes)
    }
}

impl fmt::Debug for LineCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LineCipher")
    }
}

/// Plaintext of a block on its way to be sealed in place: what is pushed is copied once, to where its
/// ciphertext will stand.
pub struct BlockBuffer {
    /// Segments at their places in the ciphertext; the room for the tag of the last one may be missing yet.
    bytes: BytesMut,
    len: usize,
    limit: usize,
}

impl BlockBuffer {
    /// An empty buffer that takes `limit` bytes of plaintext.
    pub fn new(limit: usize) -> Self {
        let room = limit + TAG * limit.div_ceil(SEGMENT_PLAINTEXT);
        Self {
            bytes: BytesMut::with_capacity(room),
            len: 0,
            limit,
        }
    }

    /// Bytes of plaintext pushed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the buffer takes no more.
    pub fn is_full(&self) -> bool {
        self.len == self.limit
    }

    /// Copies as much of `data` as there is room for and gives the number of bytes copied.
    pub fn push(&mut self, data: &[u8]) -> usize {
        let (mut rest, _) = data.split_at(data.len().min(self.limit - self.len));
        let copied = rest.len();
        while !rest.is_empty() {
            let room = SEGMENT_PLAINTEXT - self.len % SEGMENT_PLAINTEXT;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.bytes.extend_from_slice(now);
            self.len += now.len();
            if now.len() == room {
                self.bytes.extend_from_slice(&[0; TAG]);
            }
            rest = later;
        }
        copied
    }

    /// The plaintext if it is less than one segment: a file this small may go into its manifest.
    pub fn small(&self) -> Option<&[u8]> {
        (self.len < SEGMENT_PLAINTEXT).then_some(&self.bytes)
    }
}

impl fmt::Debug for BlockBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuffer({} of {})", self.len, self.limit)
    }
}

/// Seals and opens the blocks of one file.
#[derive(Clone)]
pub struct FileCipher {
    key: LessSafeKey,
}

impl FileCipher {
    /// The cipher of the file with this key.
    #[expect(clippy::missing_panics_doc, reason = "AES-256 takes every key of 32 bytes")]
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&aead::AES_256_GCM, key).expect("AES-256 takes every key of 32 bytes");
        Self {
            key: LessSafeKey::new(key),
        }
    }

    /// Seals a block whose first segment has the number `first_segment` among those of its kind and level.
    #[expect(
        clippy::missing_panics_doc,
        reason = "a segment is far below the limit of GCM"
    )]
    pub fn seal_block(&self, kind: Kind, level: u8, first_segment: u64, buffer: BlockBuffer) -> Bytes {
        let BlockBuffer { mut bytes, len, .. } = buffer;
        if !len.is_multiple_of(SEGMENT_PLAINTEXT) {
            bytes.extend_from_slice(&[0; TAG]);
        }
        for (segment, number) in bytes.chunks_mut(SEGMENT).zip(first_segment..) {
            let (text, room) = segment.split_at_mut(segment.len() - TAG);
            let nonce = nonce(kind, level, number);
            let aad = Aad::from(associated_data(nonce));
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let tag = self.key.seal_in_place_separate_tag(nonce, aad, text);
            room.copy_from_slice(tag.expect("a segment is far below the limit of GCM").as_ref());
        }
        bytes.freeze()
    }

    /// [`FileCipher::seal_block`] for plaintext that lies in one piece already.
    pub fn seal_bytes(&self, kind: Kind, level: u8, first_segment: u64, plaintext: &[u8]) -> Bytes {
        let mut buffer = BlockBuffer::new(plaintext.len());
        buffer.push(plaintext);
        self.seal_block(kind, level, first_segment, buffer)
    }

    /// Opens consecutive segments of a block, the first of which has the number `first_segment`: the whole
    /// block or, for a range, whole segments out of it. `chunks` are the ciphertext in order, cut anywhere;
    /// chunks that nobody else holds and that end on segment boundaries are opened where they lie, others are
    /// copied. Gives the plaintext in order.
    pub fn open_block(
        &self,
        kind: Kind,
        level: u8,
        first_segment: u64,
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, OpenError> {
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if (1..=TAG).contains(&(length % SEGMENT)) {
            return Err(OpenError::Length { length });
        }
        let all_but_last = chunks.iter().take(chunks.len().saturating_sub(1));
        let chunks = if all_but_last
            .clone()
            .all(|chunk| chunk.len().is_multiple_of(SEGMENT))
        {
            chunks
        } else {
            vec![chunks.concat().into()]
        };
        let mut segment = first_segment;
        let mut plaintext = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let segments = chunk.len().div_ceil(SEGMENT) as u64;
            plaintext.push(self.open_chunk(kind, level, segment, chunk)?);
            segment = segment.wrapping_add(segments);
        }
        Ok(plaintext)
    }

    /// Opens whole segments in place and closes the gaps that their tags leave.
    fn open_chunk(&self, kind: Kind, level: u8, first: u64, chunk: Bytes) -> Result<Bytes, OpenError> {
        let mut bytes = chunk
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        let length = bytes.len();
        let mut written = 0;
        for (start, segment) in (0..length).step_by(SEGMENT).zip(first..) {
            let end = length.min(start + SEGMENT);
            let nonce = nonce(kind, level, segment);
            let aad = Aad::from(associated_data(nonce));
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let window = bytes.get_mut(written..end).unwrap_or_default();
            let opened = self.key.open_within(nonce, aad, window, start - written..);
            written += opened.map_err(|_| OpenError::Segment { segment })?.len();
        }
        bytes.truncate(written);
        Ok(bytes.freeze())
    }
}

impl fmt::Debug for FileCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileCipher")
    }
}

fn nonce(kind: Kind, level: u8, segment: u64) -> [u8; NONCE] {
    let mut out = [0; NONCE];
    let fields = [kind as u8, level, 0, 0].into_iter().chain(segment.to_be_bytes());
    for (out, byte) in out.iter_mut().zip(fields) {
        *out = byte;
    }
    out
}

fn associated_data(nonce: [u8; NONCE]) -> [u8; CONTEXT.len() + NONCE] {
    let mut out = [0; CONTEXT.len() + NONCE];
    for (out, byte) in out.iter_mut().zip(CONTEXT.iter().chain(&nonce)) {
        *out = *byte;
    }
    out
}

#[cfg(test)]
mod tests;
