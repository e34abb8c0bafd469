//! One segment: its file name, the scan of its records, and the footer that spares the next start that scan.
//!
//! `segments/<id>-<salt>.seg`, id in decimal and rising in the order of the log, salt in hexadecimal. Records
//! follow each other from offset 0. A segment that is complete ends in a footer record (its body repeats
//! every other record's header behind a u64 offset, under the complement of the salt lest a scan take it for
//! a record) and a 64-byte trailer:
//!
//! | offset | size | field (integers big-endian) |
//! |---|---|---|
//! | 0 | 4 | magic `MSF1` |
//! | 4 | 8 | salt of the segment |
//! | 12 | 8 | offset of the footer record |
//! | 20 | 8 | sequence of the footer record |
//! | 28 | 4 | records before the footer |
//! | 32 | 4 | those of them that are neither puts nor dead |
//! | 36 | 24 | zero |
//! | 60 | 4 | CRC-32 of the 60 bytes before |
//!
//! A footer names only records that were durable, or found whole, before it was written.

use std::collections::BTreeSet;
use std::io;

use super::disk::{DiskFile, PAGE};
use super::record::{ALIGN, Fields, HEADER_BYTES, Kind, RecordHeader, record_bytes};
use super::{Key, State};

/// Bytes of a record's entry in a footer.
pub(super) const FOOTER_ENTRY_BYTES: u64 = 8 + HEADER_BYTES as u64;
/// Bytes of a footer without entries.
pub(super) const FOOTER_BASE_BYTES: u64 = HEADER_BYTES as u64 + ALIGN + TRAILER_BYTES as u64;

const TRAILER_BYTES: usize = 64;
const TRAILER_MAGIC: [u8; 4] = *b"MSF1";
/// Bytes read at a time while looking for the next header after damage.
const SEARCH_BYTES: u64 = 64 << 10;

/// The name of a segment's file.
pub(super) fn file_name(id: u32, salt: u64) -> String {
    format!("{id:08}-{salt:016x}.seg")
}

/// Id and salt from a file's name; `None` for files that are not segments.
pub(super) fn parse_name(name: &str) -> Option<(u32, u64)> {
    let (id, salt) = name.strip_suffix(".seg")?.split_once('-')?;
    let parsed = (id.parse().ok()?, u64::from_str_radix(salt, 16).ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The body of the record with `header` at `offset`; `None` if it is not what the header says.
pub(super) fn read_body(
    file: &dyn DiskFile,
    offset: u64,
    header: &RecordHeader,
) -> io::Result<Option<Vec<u8>>> {
    let mut body = vec![0; usize::try_from(header.body_bytes()).map_err(io::Error::other)?];
    let read = file.read_at(&mut body, offset + HEADER_BYTES as u64)?;
    Ok((read == body.len() && crc32fast::hash(&body) == header.body_crc).then_some(body))
}

/// Walks the headers of a segment, seeking over the bodies; resumes at the next valid header after damage.
pub(super) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    salt: u64,
    len: u64,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    searching: bool,
    /// End of the last record found.
    pub(super) end: u64,
    /// Bytes before `end` that belong to no record.
    pub(super) skipped: u64,
    /// Reads that failed; what they would have shown counts as damage.
    pub(super) errors: u64,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, salt: u64, len: u64) -> Self {
        let (window, searching) = (Vec::new(), false);
        Self {
            file,
            salt,
            len,
            at: 0,
            window,
            window_at: 0,
            searching,
            end: 0,
            skipped: 0,
            errors: 0,
        }
    }

    fn header(&mut self) -> io::Result<Option<RecordHeader>> {
        let inside = |window: &[u8], window_at: u64, at: u64| -> Option<usize> {
            let skip = usize::try_from(at.checked_sub(window_at)?).ok()?;
            (skip + HEADER_BYTES <= window.len()).then_some(skip)
        };
        if inside(&self.window, self.window_at, self.at).is_none() {
            let bytes = if self.searching { SEARCH_BYTES } else { PAGE }.min(self.len - self.at);
            self.window
                .resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
            self.window_at = self.at;
            let read = self
                .file
                .read_at(&mut self.window, self.at)
                .inspect_err(|_| self.window.clear())?;
            self.window.truncate(read);
        }
        Ok(inside(&self.window, self.window_at, self.at)
            .and_then(|skip| RecordHeader::decode(self.window.get(skip..)?, self.salt)))
    }
}

impl Iterator for Scanner<'_> {
    type Item = (u64, RecordHeader);

    fn next(&mut self) -> Option<Self::Item> {
        while self.at + HEADER_BYTES as u64 <= self.len {
            let header = self.header().unwrap_or_else(|_| {
                self.errors += 1;
                self.at = (self.at + 1).next_multiple_of(PAGE) - ALIGN;
                None
            });
            // The zeros behind a body may be missing.
            let fits =
                |header: &RecordHeader| self.at + HEADER_BYTES as u64 + header.body_bytes() <= self.len;
            if let Some(header) = header.filter(fits) {
                let offset = self.at;
                self.skipped += offset - self.end;
                self.at += header.record_bytes();
                self.end = self.at;
                self.searching = false;
                return Some((offset, header));
            }
            self.searching = true;
            self.at += ALIGN;
        }
        None
    }
}

/// The end of a complete segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) footer_at: u64,
    pub(super) sequence: u64,
    pub(super) records: u32,
    /// Records other than puts.
    pub(super) controls: u32,
}

impl Trailer {
    /// The trailer of the segment, if it is complete.
    pub(super) fn read(file: &dyn DiskFile, salt: u64, len: u64) -> io::Result<Option<Self>> {
        let Some(at) = len.checked_sub(TRAILER_BYTES as u64) else {
            return Ok(None);
        };
        let mut bytes = [0; TRAILER_BYTES];
        let read = file.read_at(&mut bytes, at)?;
        Ok(Self::decode(&bytes, salt).filter(|_| read == TRAILER_BYTES))
    }

    fn encode(&self, salt: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_BYTES);
        out.extend(TRAILER_MAGIC);
        out.extend(salt.to_be_bytes());
        out.extend(self.footer_at.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.records.to_be_bytes());
        out.extend(self.controls.to_be_bytes());
        out.resize(TRAILER_BYTES - 4, 0);
        out.extend(crc32fast::hash(&out).to_be_bytes());
        out
    }

    fn decode(bytes: &[u8; TRAILER_BYTES], salt: u64) -> Option<Self> {
        let (fields, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(fields) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut fields = Fields(fields);
        if fields.take()? != TRAILER_MAGIC || fields.u64()? != salt {
            return None;
        }
        Some(Self {
            footer_at: fields.u64()?,
            sequence: fields.u64()?,
            records: fields.u32()?,
            controls: fields.u32()?,
        })
    }

    /// The records before the footer; `None` if the footer is damaged.
    pub(super) fn records(
        &self,
        file: &dyn DiskFile,
        salt: u64,
    ) -> io::Result<Option<Vec<(u64, RecordHeader)>>> {
        let mut head = [0; HEADER_BYTES];
        if file.read_at(&mut head, self.footer_at)? < HEADER_BYTES {
            return Ok(None);
        }
        let Some(footer) = RecordHeader::decode(&head, salt).filter(|footer| {
            footer.kind == Kind::Footer && footer.body_bytes() == u64::from(self.records) * FOOTER_ENTRY_BYTES
        }) else {
            return Ok(None);
        };
        let Some(body) = read_body(file, self.footer_at, &footer)? else {
            return Ok(None);
        };
        let entry = |bytes: &[u8]| {
            let mut fields = Fields(bytes);
            Some((fields.u64()?, RecordHeader::decode(fields.0, !salt)?))
        };
        Ok(body.chunks_exact(HEADER_BYTES + 8).map(entry).collect())
    }
}

/// Durably ends a segment whose records reach to `end`, naming all but those at the offsets in `except`.
/// Returns the trailer and the segment's length.
pub(super) fn write_footer(
    file: &dyn DiskFile,
    salt: u64,
    end: u64,
    sequence: u64,
    except: &BTreeSet<u64>,
) -> io::Result<(Trailer, u64)> {
    let mut trailer = Trailer {
        footer_at: end,
        sequence,
        records: 0,
        controls: 0,
    };
    let mut body = Vec::new();
    let mut scanner = Scanner::new(file, salt, end);
    for (offset, header) in scanner.by_ref().filter(|(offset, _)| !except.contains(offset)) {
        trailer.records += 1;
        trailer.controls += u32::from(!matches!(header.kind, Kind::Put | Kind::Dead));
        body.extend(offset.to_be_bytes());
        body.extend(header.encode(!salt));
    }
    if scanner.errors > 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let footer = RecordHeader {
        kind: Kind::Footer,
        sequence,
        key: Key {
            stripe: [0; 32],
            index: 0,
        },
        state: State::Committed,
        token: [0; 16],
        header_len: 0,
        payload_len: u32::try_from(body.len()).map_err(io::Error::other)?,
        body_crc: crc32fast::hash(&body),
    };
    let len = end + record_bytes(body.len() as u64);
    let pad = usize::try_from(len - end).map_err(io::Error::other)? - HEADER_BYTES - body.len();
    let pad = vec![0; pad];
    file.write_at(&[&footer.encode(salt), &body, &pad, &trailer.encode(salt)], end)?;
    file.sync()?;
    Ok((trailer, len + TRAILER_BYTES as u64))
}
