//! Heads: what one device says of a bucket, the content of its record.
//!
//! ```text
//! head = format u8 = 1 ‖ instance u64 ‖ length u16 ‖ device
//!        ‖ count u16 ‖ entries ‖ count u16 ‖ runs ‖ count u16 ‖ dropped
//!        ‖ count u16 ‖ (writer u64 ‖ sequence u64) each, seen of the others ‖ fields
//! run     = manifest [32] ‖ file key [32] ‖ blocks u32 ‖ tail u32 ‖ entries u32 ‖ tier u8
//!           ‖ length u16 ‖ from ‖ length u16 ‖ to
//! dropped = manifest [32] ‖ file key [32] ‖ when u64
//! fields: tag u16 ‖ length u32 ‖ value each, tags ascending; unknown ones are kept
//! ```
//!
//! `from` and `to` bound the keys of a run. They are cut to 40 bytes, so they may take in keys that the run
//! does not have. Where all runs do not fit, the last is a *table*: a file of further runs.

use bytes::{BufMut, Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::codec::{Fields, Malformed, Reader, fields, put_fields, put_sequences, put_short, sequences};
use crate::entry::{Entry, Name, Pointer};
use crate::record::MAX_CONTENT;

/// The most bytes of entries in a head.
pub const INLINE: usize = 8 << 10;
/// The tier of a run that is a table of runs.
pub const TABLE: u8 = u8::MAX;
/// The longest name of a device, in bytes.
pub const MAX_DEVICE: usize = 64;

/// The tag of the moment when a key was last written: u64, Unix milliseconds.
const WRITTEN: u16 = 1;
const FORMAT: u8 = 1;
/// Bytes kept of the first and the last key of a run.
const BOUND: usize = 40;

/// A sorted run of entries in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What finds it.
    pub pointer: Pointer,
    /// Bytes of its blocks.
    pub blocks: u32,
    /// Bytes of what follows them.
    pub tail: u32,
    /// Entries in it.
    pub entries: u32,
    /// How many merges its entries went through, or [`TABLE`].
    pub tier: u8,
    /// No key in it comes before this.
    pub from: Vec<u8>,
    /// No key in it, cut to the length of this, comes behind it.
    pub to: Vec<u8>,
}

impl Run {
    /// What is kept of the first or last key of a run.
    pub fn bound(name: &Name) -> Vec<u8> {
        let mut bytes = name.to_bytes();
        bytes.truncate(BOUND);
        bytes
    }

    /// Whether it may have keys that begin with `prefix`.
    pub fn may_have(&self, prefix: &[u8]) -> bool {
        let common = |bound: &[u8]| bound.len().min(prefix.len());
        let (from, to) = (common(&self.from), common(&self.to));
        prefix >= self.from.get(..from).unwrap_or_default()
            && prefix.get(..to).unwrap_or_default() <= self.to.as_slice()
    }

    /// Appends the run.
    pub fn write(&self, out: &mut BytesMut) {
        self.pointer.write(out);
        out.put_u32(self.blocks);
        out.put_u32(self.tail);
        out.put_u32(self.entries);
        out.put_u8(self.tier);
        put_short(out, &self.from);
        put_short(out, &self.to);
    }

    /// The run next in `reader`.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            pointer: Pointer::read(reader)?,
            blocks: reader.u32()?,
            tail: reader.u32()?,
            entries: reader.u32()?,
            tier: reader.u8()?,
            from: reader.short("first key of a run", BOUND)?.to_vec(),
            to: reader.short("last key of a run", BOUND)?.to_vec(),
        })
    }
}

/// A run that its writer uses no more; it goes when nobody can be reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// What finds it.
    pub pointer: Pointer,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
}

impl Dropped {
    /// Writes it as it stands in a head.
    pub fn write(&self, out: &mut BytesMut) {
        self.pointer.write(out);
        out.put_u64(self.since_ms);
    }

    /// Reads one.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            pointer: Pointer::read(reader)?,
            since_ms: reader.u64()?,
        })
    }
}

/// What one device says of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Random number of the daemon's run.
    pub instance: u64,
    /// The device's name.
    pub device: String,
    /// The latest entries, oldest first.
    pub entries: Vec<Entry>,
    /// Where the others lie.
    pub runs: Vec<Run>,
    /// Runs that are used no more.
    pub dropped: Vec<Dropped>,
    /// The highest sequence of each other writer that this one took in.
    pub seen: Vec<(u64, u64)>,
    /// More, by tag.
    pub fields: Fields,
}

/// A head has more than fits into a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head of {0} bytes, and {MAX_CONTENT} fit into a record")]
pub struct TooLarge(pub usize);

impl Head {
    /// When the device last wrote, which it does daily at least, Unix milliseconds.
    pub fn written_ms(&self) -> Option<u64> {
        let value = self.fields.get(&WRITTEN)?;
        value.as_ref().try_into().ok().map(u64::from_be_bytes)
    }

    /// A key is written at this moment.
    pub(crate) fn wrote(&mut self, now_ms: u64) {
        self.fields
            .insert(WRITTEN, Bytes::copy_from_slice(&now_ms.to_be_bytes()));
    }

    /// The content of the record.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, TooLarge> {
        let mut out = BytesMut::with_capacity(MAX_CONTENT);
        let put_count = |out: &mut BytesMut, count: usize| {
            out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
        };
        out.put_u8(FORMAT);
        out.put_u64(self.instance);
        put_short(&mut out, self.device.as_bytes());
        put_count(&mut out, self.entries.len());
        for entry in &self.entries {
            entry.write(&mut out);
        }
        put_count(&mut out, self.runs.len());
        for run in &self.runs {
            run.write(&mut out);
        }
        put_count(&mut out, self.dropped.len());
        for run in &self.dropped {
            run.write(&mut out);
        }
        put_sequences(&mut out, &self.seen);
        put_fields(&mut out, &self.fields);
        if out.len() > MAX_CONTENT {
            return Err(TooLarge(out.len()));
        }
        Ok(Zeroizing::new(out.into()))
    }

    /// See [`Head::encode`].
    pub fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(content);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(Malformed::Version(format));
        }
        let instance = reader.u64()?;
        let device = reader.text("name of a device", MAX_DEVICE)?.to_owned();
        // What a count promises need not follow, so nothing is allocated for it.
        let entries = (0..reader.u16()?).map(|_| Entry::read(&mut reader));
        let entries = entries.collect::<Result<_, _>>()?;
        let runs = (0..reader.u16()?).map(|_| Run::read(&mut reader));
        let runs = runs.collect::<Result<_, _>>()?;
        let dropped = (0..reader.u16()?).map(|_| Dropped::read(&mut reader));
        Ok(Self {
            instance,
            device,
            entries,
            runs,
            dropped: dropped.collect::<Result<_, _>>()?,
            seen: sequences(&mut reader)?,
            fields: fields(reader)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::What;
    use crate::entry::tests::{entries, names};
    use crate::version::Version;

    fn run(from: &Name, to: &Name) -> Run {
        Run {
            pointer: Pointer {
                manifest: [1; 32],
                key: Zeroizing::new([2; 32]),
            },
            blocks: 3,
            tail: 9,
            entries: 4,
            tier: 5,
            from: Run::bound(from),
            to: Run::bound(to),
        }
    }

    proptest! {
        #[test]
        fn heads_come_back(
            entries in prop::collection::vec(entries(), 0..20),
            runs in prop::collection::vec((names(), names()), 0..9),
            seen in prop::collection::vec(any::<(u64, u64)>(), 0..9),
            instance: u64,
        ) {
            let head = Head {
                instance,
                device: "büro".to_owned(),
                entries,
                runs: runs.iter().map(|(from, to)| run(from, to)).collect(),
                dropped: vec![Dropped {
                    pointer: Pointer { manifest: [6; 32], key: Zeroizing::new([7; 32]) },
                    since_ms: 8,
                }],
                seen,
                fields: Fields::from([(900, Bytes::from_static(b"of a later version"))]),
            };
            let content = head.encode().unwrap();
            prop_assert_eq!(Head::parse(&content), Ok(head));
        }

        /// A run is never passed over that has a key wanted.
        #[test]
        fn bounds_take_in_all_keys(
            mut keys in prop::collection::vec(names(), 3..9),
            cut in 0..60usize,
            long: bool,
        ) {
            if long {
                // Longer than what is kept of a bound.
                let long = |name: &Name| format!("{}{}", "x".repeat(45), name.key());
                keys = keys.iter().map(|name| Name::new(name.space(), &long(name)).unwrap()).collect();
            }
            keys.sort();
            let run = run(&keys[0], &keys[keys.len() - 1]);
            for key in &keys {
                let key = key.to_bytes();
                prop_assert!(run.may_have(&key));
                prop_assert!(run.may_have(&key[..cut.min(key.len())]));
            }
        }
    }

    #[test]
    fn heads_are_these_bytes() {
        let name = Name::file("a").unwrap();
        let entry = Entry {
            name: name.clone(),
            version: Version {
                ms: 0x0102,
                counter: 3,
                writer: 4,
            },
            base: Version::ZERO,
            what: What::Deleted,
            fields: Fields::new(),
        };
        let head = Head {
            instance: 5,
            device: "pc".to_owned(),
            entries: vec![entry],
            runs: vec![run(&name, &name)],
            dropped: vec![Dropped {
                pointer: Pointer {
                    manifest: [6; 32],
                    key: Zeroizing::new([7; 32]),
                },
                since_ms: 8,
            }],
            seen: vec![(9, 10)],
            fields: Fields::from([(WRITTEN, Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 11]))]),
        };
        let pointer = |manifest: &str, key: &str| manifest.repeat(32) + &key.repeat(32);
        let expected = [
            "01000000000000000500027063",
            "0001",
            "0002006100000000010200030000000000000004",
            "000000110200000000000000000000000000000000",
            "0001",
            &pointer("01", "02"),
            "0000000300000009000000040500020061",
            "00020061",
            "0001",
            &pointer("06", "07"),
            "0000000000000008",
            "00010000000000000009000000000000000a",
            "000100000008000000000000000b",
        ];
        assert_eq!(hex::encode(head.encode().unwrap().as_slice()), expected.concat());
    }

    #[test]
    fn bounds_leave_out_others() {
        let name = |key| Name::file(key).unwrap();
        let run = run(&name("b/2"), &name("d/5"));
        for (prefix, may_have) in [
            ("a", false),
            ("b/1", false),
            ("b", true),
            ("c/7", true),
            ("d/6", false),
            ("e", false),
        ] {
            assert_eq!(run.may_have(&name(prefix).to_bytes()), may_have, "{prefix}");
        }
    }

    #[test]
    fn head_that_does_not_fit_is_refused() {
        let name = Name::file("a").unwrap();
        let head = Head {
            runs: vec![run(&name, &name); 200],
            ..Head::default()
        };
        assert!(head.encode().is_err());
    }
}
