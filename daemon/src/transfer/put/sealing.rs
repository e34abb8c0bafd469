//! How the blocks of one file become shards: by its key, code and placement.

use bytes::Bytes;
use mutualstore_erasure::{Code, EncodeError, VerifiedShard, encode};
use zeroize::Zeroizing;

use crate::format::crypt::{self, BlockBuffer, FileCipher, Kind};
use crate::format::manifest::INLINE_MAX;
use crate::format::placement::Placement;
use crate::transfer::options::PutOptions;

/// What all blocks of a file share.
pub(super) struct Sealing {
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) code: Code,
    pub(super) placement: Placement,
    owner: [u8; 32],
    cipher: FileCipher,
}

impl Sealing {
    /// A new file of an account or bucket, with a key of its own.
    pub(super) fn new(root: &[u8; 32], code: Code, options: &PutOptions) -> Self {
        let key = crypt::random_key();
        let owner = crypt::owner_key(root, &key);
        Self {
            placement: Placement::new(options.policy, options.scope, &owner),
            cipher: FileCipher::new(&key),
            key,
            code,
            owner,
        }
    }

    /// Seals and codes a block of the file that begins with this segment.
    pub(super) fn data(&self, segment: u64, buffer: BlockBuffer) -> Result<Vec<VerifiedShard>, EncodeError> {
        let code = self.code_for(buffer.len());
        self.coded(code, self.cipher.seal_block(Kind::Data, 0, segment, buffer))
    }

    /// Seals and codes a block of the manifest: few bytes are copied, many are coded like the file.
    pub(super) fn manifest(
        &self,
        level: u8,
        number: u64,
        plaintext: &[u8],
    ) -> Result<Vec<VerifiedShard>, EncodeError> {
        let code = self.code_for(plaintext.len());
        self.coded(
            code,
            self.cipher.seal_bytes(Kind::Manifest, level, number, plaintext),
        )
    }

    fn coded(&self, code: Code, block: Bytes) -> Result<Vec<VerifiedShard>, EncodeError> {
        let Placement { policy, anchor } = self.placement;
        encode(code, policy, anchor, self.owner, block)
    }

    /// The file's code, or its small form for few bytes of plaintext.
    fn code_for(&self, plaintext: usize) -> Code {
        if plaintext as u64 <= INLINE_MAX {
            self.code.small()
        } else {
            self.code
        }
    }
}
