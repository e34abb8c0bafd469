//! Records: the one kind of thing on the ring that changes.
//!
//! A bucket is an ed25519 key, and all that is said of its names is signed by it. Each device that writes
//! says it in records of its own, of which the one with the highest sequence counts. So two devices never
//! write over each other's word, and holders need only keep the highest of each writer.
//!
//! | offset | size | field (integers big-endian) |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 0 head, 1 end mark |
//! | 2 | 32 | public key |
//! | 34 | 8 | writer |
//! | 42 | 8 | sequence |
//! | 50 | 4 | length of the payload: a multiple of 4096, at most 12288; 0 in an end mark |
//! | 54 | | payload |
//! | | 64 | ed25519 signature over `"mutualstore/record/1" ‖ network id ‖ all before` |
//!
//! The payload is `salt [16] ‖ AES-256-GCM(length u32 ‖ content ‖ zeros)`. Its key is HKDF-SHA256 of the
//! bucket's read key without salt, with the info `"mutualstore/record/1" ‖ writer ‖ salt`. It is used once,
//! so the nonce is zero. The associated data are the 70 bytes before the ciphertext. What peers learn of a
//! bucket's size is the number of 4 KiB steps.
//!
//! An *end mark* says that the bucket's key counts no more. Its writer and sequence are 0 and it has no
//! payload, so that there is but one.

use bytes::{BufMut, Bytes, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::account::{ReadKey, WriteKey, expand};
use crate::codec::{Malformed, Reader};

/// The longest record, in bytes.
pub const MAX_RECORD: usize = 16 << 10;
/// The longest content of a record, in bytes.
pub const MAX_CONTENT: usize = MAX_PAYLOAD - SALT - TAG - LENGTH;

const CONTEXT: &[u8] = b"mutualstore/record/1";
const VERSION: u8 = 1;
const HEADER: usize = 54;
const SIGNATURE: usize = 64;
const STEP: usize = 4096;
const MAX_PAYLOAD: usize = 3 * STEP;
const SALT: usize = 16;
const TAG: usize = MAX_TAG_LEN;
const LENGTH: usize = 4;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The latest word of one writer.
    Head,
    /// No record of this key counts any more.
    End,
}

/// Why bytes are no record that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They are not made like one.
    #[error("this is no record: {0}")]
    Malformed(#[from] Malformed),
    /// The bucket's key did not sign them for this network.
    #[error("the record is not signed by its bucket's key")]
    Signature,
    /// The read key is another bucket's, or the payload was not sealed under it.
    #[error("the record does not open under this key")]
    Sealed,
}

/// A record that its bucket's key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Head or end mark.
    pub kind: Kind,
    /// The bucket's public key.
    pub key: [u8; 32],
    /// The number that the device drew for itself.
    pub writer: u64,
    /// Rises with each record of the writer.
    pub sequence: u64,
    /// SHA-256 of the whole record.
    pub hash: [u8; 32],
    /// The whole record.
    pub bytes: Bytes,
}

/// Where the records of a bucket lie: SHA-256("mutualstore/record/1" ‖ public key).
pub fn record_id(key: &[u8; 32]) -> [u8; 32] {
    let hash = Sha256::new().chain_update(CONTEXT).chain_update(key);
    hash.finalize().into()
}

impl Record {
    /// The record with which a writer says `content`, at most [`MAX_CONTENT`] bytes.
    pub fn head(
        key: &WriteKey,
        network: &[u8; 32],
        (writer, sequence): (u64, u64),
        content: &[u8],
    ) -> Result<Self, RecordError> {
        Self::salted(key, network, (writer, sequence), content, rand::random())
    }

    fn salted(
        key: &WriteKey,
        network: &[u8; 32],
        (writer, sequence): (u64, u64),
        content: &[u8],
        salt: [u8; SALT],
    ) -> Result<Self, RecordError> {
        if content.len() > MAX_CONTENT {
            return Err(Malformed::Field("content").into());
        }
        let length = (SALT + LENGTH + content.len() + TAG).next_multiple_of(STEP);
        let mut out = header(Kind::Head, &key.public(), (writer, sequence), length);
        out.put_slice(&salt);
        let mut plain = Zeroizing::new(Vec::with_capacity(length));
        plain.put_u32(u32::try_from(content.len()).map_err(|_| Malformed::Field("content"))?);
        plain.put_slice(content);
        plain.resize(length - SALT - TAG, 0);
        let tag = key_once(&key.read_key(), writer, salt)
            .seal_in_place_separate_tag(nonce(), Aad::from(&out), &mut plain)
            .map_err(|_| RecordError::Sealed)?;
        out.put_slice(&plain);
        out.put_slice(tag.as_ref());
        Ok(Self::signed(key, network, out)?)
    }

    /// The end mark of a bucket's key.
    pub fn end(key: &WriteKey, network: &[u8; 32]) -> Result<Self, RecordError> {
        let out = header(Kind::End, &key.public(), (0, 0), 0);
        Ok(Self::signed(key, network, out)?)
    }

    fn signed(key: &WriteKey, network: &[u8; 32], mut out: BytesMut) -> Result<Self, Malformed> {
        let signature = key.sign(&[CONTEXT, network, &out].concat());
        out.put_slice(&signature);
        Self::read(&out.freeze())
    }

    /// Reads a record from a stranger and checks the signature.
    pub fn parse(bytes: &Bytes, network: &[u8; 32]) -> Result<Self, RecordError> {
        let record = Self::read(bytes)?;
        let (signed, signature) = bytes.split_at(bytes.len() - SIGNATURE);
        UnparsedPublicKey::new(&ED25519, &record.key)
            .verify(&[CONTEXT, network, signed].concat(), signature)
            .map_err(|_| RecordError::Signature)?;
        Ok(record)
    }

    /// Its fields, unverified.
    fn read(bytes: &Bytes) -> Result<Self, Malformed> {
        if bytes.len() > MAX_RECORD {
            return Err(Malformed::Trailing(bytes.len() - MAX_RECORD));
        }
        let mut reader = Reader(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let kind = match reader.u8()? {
            0 => Kind::Head,
            1 => Kind::End,
            _ => return Err(Malformed::Field("kind")),
        };
        let key = reader.array()?;
        let (writer, sequence) = (reader.u64()?, reader.u64()?);
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        let fits = match kind {
            Kind::Head => (STEP..=MAX_PAYLOAD).contains(&length) && length.is_multiple_of(STEP),
            Kind::End => (length, writer, sequence) == (0, 0, 0),
        };
        if !fits {
            return Err(Malformed::Field("length of the payload"));
        }
        reader.take(length)?;
        reader.take(SIGNATURE)?;
        reader.end()?;
        Ok(Self {
            kind,
            key,
            writer,
            sequence,
            hash: Sha256::digest(bytes).into(),
            bytes: bytes.clone(),
        })
    }

    /// What the writer said.
    pub fn open(&self, key: &ReadKey) -> Result<Zeroizing<Vec<u8>>, RecordError> {
        let mut reader = Reader(&self.bytes);
        let mut opened = || {
            reader.take(HEADER)?;
            let salt = reader.array()?;
            Ok::<_, Malformed>((salt, reader.0))
        };
        let (salt, sealed) = opened()?;
        let sealed = sealed
            .split_last_chunk::<SIGNATURE>()
            .ok_or(Malformed::Truncated)?
            .0;
        let (before, _) = self.bytes.split_at(HEADER + SALT);
        let mut plain = Zeroizing::new(sealed.to_vec());
        let opened = key_once(key, self.writer, salt)
            .open_in_place(nonce(), Aad::from(before), &mut plain)
            .map_err(|_| RecordError::Sealed)?;
        let mut reader = Reader(opened);
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        Ok(Zeroizing::new(reader.take(length)?.to_vec()))
    }
}

fn header(kind: Kind, key: &[u8; 32], (writer, sequence): (u64, u64), payload: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER + payload + SIGNATURE);
    out.put_u8(VERSION);
    out.put_u8(match kind {
        Kind::Head => 0,
        Kind::End => 1,
    });
    out.put_slice(key);
    out.put_u64(writer);
    out.put_u64(sequence);
    out.put_u32(u32::try_from(payload).unwrap_or(u32::MAX));
    out
}

fn key_once(read: &ReadKey, writer: u64, salt: [u8; SALT]) -> LessSafeKey {
    let key = expand(read.bytes(), &[CONTEXT, &writer.to_be_bytes(), &salt]);
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice());
    LessSafeKey::new(key.expect("AES-256 takes every key of 32 bytes"))
}

/// Each key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: [u8; 32] = [9; 32];

    fn key() -> WriteKey {
        WriteKey::new([1; 32])
    }

    fn head(content: &[u8]) -> Record {
        Record::head(&key(), &NETWORK, (5, 7), content).unwrap()
    }

    #[test]
    fn what_was_said_comes_back_and_is_padded() {
        for (length, padded) in [
            (0, 4096),
            (1, 4096),
            (4060, 4096),
            (4061, 8192),
            (MAX_CONTENT, 12288),
        ] {
            let content = vec![3; length];
            let record = head(&content);
            assert_eq!(record.bytes.len(), HEADER + padded + SIGNATURE);
            assert_eq!(Record::parse(&record.bytes, &NETWORK), Ok(record.clone()));
            assert_eq!(
                (record.writer, record.sequence, record.key),
                (5, 7, key().public())
            );
            assert_eq!(*record.open(&key().read_key()).unwrap(), content);
        }
        let long = vec![0; MAX_CONTENT + 1];
        assert!(Record::head(&key(), &NETWORK, (5, 7), &long).is_err());
    }

    #[test]
    fn nothing_in_a_record_can_be_changed() {
        for record in [head(b"content"), Record::end(&key(), &NETWORK).unwrap()] {
            for at in 0..record.bytes.len() {
                let mut changed = record.bytes.to_vec();
                changed[at] ^= 1;
                assert!(Record::parse(&changed.into(), &NETWORK).is_err(), "byte {at}");
            }
            for length in 0..record.bytes.len() {
                assert!(
                    Record::parse(&record.bytes.slice(..length), &NETWORK).is_err(),
                    "{length} bytes"
                );
            }
            assert_eq!(
                Record::parse(&record.bytes, &[8; 32]),
                Err(RecordError::Signature),
                "of another network"
            );
        }
    }

    #[test]
    fn only_the_read_key_opens() {
        let record = head(b"content");
        let other = WriteKey::new([2; 32]).read_key();
        assert_eq!(record.open(&other), Err(RecordError::Sealed));
        assert!(!record.bytes.windows(7).any(|window| window == b"content"));
        assert_ne!(record.bytes, head(b"content").bytes, "a salt of its own");
    }

    /// Records that were made once must be read for ever.
    #[test]
    fn records_are_these_bytes() {
        let end = Record::end(&key(), &NETWORK).unwrap();
        let (begin, signature) = end.bytes.split_at(HEADER);
        assert_eq!(
            hex::encode(begin),
            "0101d32f6cae2ddbb731cde8210086459fdd4cdeffd78cbb540409a520934303f6050000000000000000000000000000\
             000000000000"
        );
        assert_eq!(
            hex::encode(signature),
            "193525106ee5643e0c2b6d538ef3a6eb56ec37f78fa38dc04912e494a627ab3df9bfa53d1f75f2370ad84358b11ef868\
             d27c7872027389da738ab414510b370b"
        );
        let head = Record::salted(&key(), &NETWORK, (5, 7), b"content", [4; SALT]).unwrap();
        assert_eq!(
            hex::encode(head.hash),
            "75cb5fae0bc3ebf5876e3028709d572815dcc57fdf1cac658b13d05fbf8bf36f"
        );
        assert_eq!(
            hex::encode(record_id(&end.key)),
            "563af3985a1667736db87a82680c92d3460dc4f9fb50a029a3d707c3bd611d75"
        );
    }
}
