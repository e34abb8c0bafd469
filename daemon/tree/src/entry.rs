//! Entries: what one key of a bucket was at one version.
//!
//! ```text
//! entry = length u16 ‖ space u8 ‖ key ‖ version [16] ‖ length u32 ‖ body
//! body  = kind u8 ‖ base [16] ‖ content ‖ fields
//! content: 0 file       manifest [32] ‖ file key [32] ‖ size u64 ‖ modified i64 ‖ length u16 ‖ media type
//!          1 directory  modified i64
//!          2 deletion   nothing
//!          3 snapshot   count u16 ‖ (writer u64 ‖ sequence u64) each
//!          4 setting    length u16 ‖ value
//! fields: tag u16 ‖ length u32 ‖ value each, tags ascending; unknown ones are kept
//! ```
//!
//! Integers are big-endian, times Unix milliseconds. A key is UTF-8 of 1 to 1024 bytes, and keys sort by
//! their bytes. One that ends in `/` is a directory. The space keeps apart what people name and what the
//! bucket needs besides.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::codec::{Fields, Malformed, Reader, fields, put_fields, put_sequences, put_short, sequences};
use crate::version::Version;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest body of an entry, in bytes.
pub const MAX_BODY: usize = 128 << 10;
/// The most bytes of user metadata.
pub const MAX_USER_METADATA: usize = 2048;

const MAX_MEDIA_TYPE: usize = 255;
const MAX_SETTING: usize = 32 << 10;

/// What kind of names a key is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Files and directories.
    Files,
    /// Settings of the bucket; in a home bucket the account's buckets and devices too.
    Settings,
    /// Moments of the bucket that were given a name.
    Snapshots,
    /// Uploads in parts, not complete yet.
    Uploads,
}

impl Space {
    const ALL: [Self; 4] = [Self::Files, Self::Settings, Self::Snapshots, Self::Uploads];

    fn code(self) -> u8 {
        match self {
            Self::Files => 0,
            Self::Settings => 1,
            Self::Snapshots => 2,
            Self::Uploads => 3,
        }
    }
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has no characters.
    #[error("a key has at least one character")]
    Empty,
    /// It is longer than [`MAX_KEY`].
    #[error("the key is {0} bytes long; at most {MAX_KEY} are possible")]
    TooLong(usize),
}

/// A key and its space, in the order in which listings have them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    space: Space,
    key: Box<str>,
}

impl Name {
    /// The key that this text is.
    pub fn new(space: Space, key: &str) -> Result<Self, KeyError> {
        match key.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEY => Ok(Self {
                space,
                key: key.into(),
            }),
            length => Err(KeyError::TooLong(length)),
        }
    }

    /// The key of a file or directory.
    pub fn file(key: &str) -> Result<Self, KeyError> {
        Self::new(Space::Files, key)
    }

    /// Which names it is one of.
    pub fn space(&self) -> Space {
        self.space
    }

    /// The key itself.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it names a directory.
    pub fn is_directory(&self) -> bool {
        self.key.ends_with('/')
    }

    /// The bytes it sorts by.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.space.code()], self.key.as_bytes()].concat()
    }

    /// See [`Name::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let (code, key) = bytes.split_first().ok_or(Malformed::Truncated)?;
        let space = Space::ALL.into_iter().find(|space| space.code() == *code);
        let space = space.ok_or(Malformed::Field("space of a key"))?;
        let key = str::from_utf8(key).map_err(|_| Malformed::Field("key"))?;
        Self::new(space, key).map_err(|_| Malformed::Field("key"))
    }
}

impl fmt::Debug for Name {
    /// Names are nobody's business, logs included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} key of {} bytes", self.space, self.key.len())
    }
}

/// Tags of fields that this version knows.
pub mod tag {
    /// User metadata, as pairs of texts behind lengths u16.
    pub const USER_METADATA: u16 = 1;
    /// SHA-256 of the file.
    pub const SHA256: u16 = 2;
    /// `ETag` of the file, if it is not its SHA-256.
    pub const ETAG: u16 = 3;
    /// The file is executable; no value.
    pub const EXECUTABLE: u16 = 4;
    /// What the time of modification has beyond whole milliseconds, in nanoseconds: u32, not 0.
    pub const NANOSECONDS: u16 = 5;
}

/// What a file is found and opened by: `manifest [32] ‖ file key [32]`. It is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Pointer {
    /// Stripe id of the manifest's root block.
    pub manifest: [u8; 32],
    /// What its blocks are sealed with.
    pub key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pointer")
    }
}

impl Pointer {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_slice(&self.manifest);
        out.put_slice(self.key.as_slice());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            manifest: reader.array()?,
            key: Zeroizing::new(reader.array()?),
        })
    }
}

/// Where a file lies, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What finds it.
    pub pointer: Pointer,
    /// How long it is, in bytes.
    pub size: u64,
    /// When it was modified, Unix milliseconds; before 1970 negative.
    pub modified_ms: i64,
    /// Media type, empty if unknown.
    pub media_type: String,
}

/// What a key is at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file.
    File(File),
    /// A directory that exists whether or not it is empty.
    Directory {
        /// When it was modified, Unix milliseconds.
        modified_ms: i64,
    },
    /// It was deleted.
    Deleted,
    /// A moment of the bucket: the last sequence of each writer.
    Snapshot(Vec<(u64, u64)>),
    /// A setting's value.
    Setting(Bytes),
}

/// What a key was at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub name: Name,
    /// When it was written and by whom.
    pub version: Version,
    /// The version that this one replaces; [`Version::ZERO`] if none.
    pub base: Version,
    /// What it was.
    pub what: What,
    /// More of it, by [`tag`].
    pub fields: Fields,
}

impl Entry {
    /// Bytes that [`Entry::write`] adds.
    pub fn encoded_len(&self) -> usize {
        let mut out = BytesMut::new();
        self.write(&mut out);
        out.len()
    }

    /// Appends the entry.
    pub fn write(&self, out: &mut BytesMut) {
        put_short(out, &self.name.to_bytes());
        out.put_slice(&self.version.to_bytes());
        let body = self.body();
        out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        out.put_slice(&body);
    }

    /// The entry next in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let name = Name::from_bytes(reader.short("length of a key", MAX_KEY + 1)?)?;
        let version = Version::read(reader)?;
        let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if length > MAX_BODY {
            return Err(Malformed::Field("length of an entry"));
        }
        Self::from_body(name, version, reader.take(length)?)
    }

    /// All but key and version.
    pub fn body(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(160);
        let kind = match &self.what {
            What::File(_) => 0,
            What::Directory { .. } => 1,
            What::Deleted => 2,
            What::Snapshot(_) => 3,
            What::Setting(_) => 4,
        };
        out.put_u8(kind);
        out.put_slice(&self.base.to_bytes());
        match &self.what {
            What::File(file) => {
                file.pointer.write(&mut out);
                out.put_u64(file.size);
                out.put_i64(file.modified_ms);
                put_short(&mut out, file.media_type.as_bytes());
            }
            What::Directory { modified_ms } => out.put_i64(*modified_ms),
            What::Deleted => {}
            What::Snapshot(writers) => put_sequences(&mut out, writers),
            What::Setting(value) => put_short(&mut out, value),
        }
        put_fields(&mut out, &self.fields);
        out
    }

    /// See [`Entry::body`].
    pub fn from_body(name: Name, version: Version, body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(body);
        let kind = reader.u8()?;
        let base = Version::read(&mut reader)?;
        let what = match kind {
            0 => What::File(File {
                pointer: Pointer::read(&mut reader)?,
                size: reader.u64()?,
                modified_ms: reader.array().map(i64::from_be_bytes)?,
                media_type: reader.text("media type", MAX_MEDIA_TYPE)?.to_owned(),
            }),
            1 => What::Directory {
                modified_ms: reader.array().map(i64::from_be_bytes)?,
            },
            2 => What::Deleted,
            3 => What::Snapshot(sequences(&mut reader)?),
            4 => What::Setting(Bytes::copy_from_slice(reader.short("setting", MAX_SETTING)?)),
            _ => return Err(Malformed::Field("kind of an entry")),
        };
        Ok(Self {
            name,
            version,
            base,
            what,
            fields: fields(reader)?,
        })
    }

    /// Whether it names something that is there.
    pub fn is_there(&self) -> bool {
        !matches!(self.what, What::Deleted)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn names() -> impl Strategy<Value = Name> {
        ("[a-c/é]{1,6}", 0..Space::ALL.len())
            .prop_map(|(key, space)| Name::new(Space::ALL[space], &key).unwrap())
    }

    fn whats() -> impl Strategy<Value = What> {
        prop_oneof![
            (
                any::<[u8; 32]>(),
                any::<[u8; 32]>(),
                any::<u64>(),
                any::<i64>(),
                "[a-z/]{0,20}"
            )
                .prop_map(|(manifest, key, size, modified_ms, media_type)| What::File(File {
                    pointer: Pointer {
                        manifest,
                        key: Zeroizing::new(key)
                    },
                    size,
                    modified_ms,
                    media_type,
                })),
            any::<i64>().prop_map(|modified_ms| What::Directory { modified_ms }),
            Just(What::Deleted),
            prop::collection::vec(any::<(u64, u64)>(), 0..5).prop_map(What::Snapshot),
            prop::collection::vec(any::<u8>(), 0..50).prop_map(|value| What::Setting(value.into())),
        ]
    }

    prop_compose! {
        pub(crate) fn entries()(
            name in names(),
            what in whats(),
            version in (0..1u64 << 48, any::<u16>(), any::<u64>()),
            base in (0..1u64 << 48, any::<u16>(), any::<u64>()),
            fields in prop::collection::btree_map(
                any::<u16>(),
                prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from),
                0..3,
            ),
        ) -> Entry {
            let of = |(ms, counter, writer)| Version { ms, counter, writer };
            Entry { name, version: of(version), base: of(base), what, fields }
        }
    }

    proptest! {
        #[test]
        fn entries_come_back(entry in entries()) {
            let mut out = BytesMut::new();
            entry.write(&mut out);
            prop_assert_eq!(out.len(), entry.encoded_len());
            let mut reader = Reader(&out);
            prop_assert_eq!(Entry::read(&mut reader), Ok(entry));
            prop_assert_eq!(reader.end(), Ok(()));
            for length in 0..out.len() {
                prop_assert!(Entry::read(&mut Reader(&out[..length])).is_err());
            }
        }

        #[test]
        fn noise_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader(&bytes);
            if let Ok(entry) = Entry::read(&mut reader) {
                let mut out = BytesMut::new();
                entry.write(&mut out);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - reader.0.len()]);
            }
        }
    }

    #[test]
    fn keys_have_limits() {
        assert!(Name::file(&"k".repeat(MAX_KEY)).is_ok());
        assert_eq!(
            Name::file(&"k".repeat(MAX_KEY + 1)),
            Err(KeyError::TooLong(MAX_KEY + 1))
        );
        assert_eq!(Name::file(""), Err(KeyError::Empty));
    }

    /// Written once by this version; it must be read for ever.
    #[test]
    fn file_is_these_bytes() {
        let entry = Entry {
            name: Name::file("2026/a.jpg").unwrap(),
            version: Version {
                ms: 1_790_000_000_000,
                counter: 2,
                writer: 3,
            },
            base: Version {
                ms: 1_780_000_000_000,
                counter: 0,
                writer: 4,
            },
            what: What::File(File {
                pointer: Pointer {
                    manifest: [0xaa; 32],
                    key: Zeroizing::new([0xbb; 32]),
                },
                size: 5000,
                modified_ms: -1,
                media_type: "image/jpeg".to_owned(),
            }),
            fields: Fields::from([(tag::EXECUTABLE, Bytes::new())]),
        };
        let mut out = BytesMut::new();
        entry.write(&mut out);
        assert_eq!(
            hex::encode(&out),
            "000b00323032362f612e6a706701a0c4506c000002000000000000000300000073\
             00019e7044880000000000000000000004\
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
             bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
             0000000000001388ffffffffffffffff000a696d6167652f6a706567000400000000"
        );
    }
}
