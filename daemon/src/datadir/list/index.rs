//! What of the file list is in memory: where the line of each file stands, and what the daemon remembers of
//! it beside.
//!
//! Some 150 bytes a file. Names, sizes and links stay on the disk: a page of the list reads its own lines.
//! Files are numbered in the order they were put; a number is never given twice, and is the same after a
//! restart, because a deleted file keeps its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

/// One file, by its number.
#[derive(Debug)]
pub struct Entry<W> {
    /// Stripe id of its manifest's root.
    pub manifest: [u8; 32],
    /// Where its line begins in the list, in bytes.
    pub(super) offset: u64,
    /// Bytes of its line, the end excluded.
    pub(super) length: u32,
    kind: u16,
    /// Its manifest is its only stripe.
    pub is_single: bool,
    is_deleted: bool,
    /// What is remembered beside.
    pub watched: W,
}

/// All files of the list.
#[derive(Debug)]
pub struct Index<W> {
    entries: Vec<Entry<W>>,
    numbers: HashMap<[u8; 32], u32>,
    /// Code and placement, by the number that entries have instead.
    kinds: Vec<(String, String)>,
    live: usize,
}

impl<W> Default for Index<W> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            numbers: HashMap::new(),
            kinds: Vec::new(),
            live: 0,
        }
    }
}

impl<W> Index<W> {
    /// Files not deleted.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The files not deleted behind number `after`, in the order they were put.
    pub fn after(&self, after: Option<u32>) -> impl Iterator<Item = (u32, &Entry<W>)> {
        let first = after.map_or(0, |after| (after as usize).saturating_add(1));
        let entries = self.entries.iter().enumerate().skip(first);
        entries
            .filter(|(_, entry)| !entry.is_deleted)
            .filter_map(|(number, entry)| Some((u32::try_from(number).ok()?, entry)))
    }

    /// All files not deleted, to change what is remembered of them.
    pub fn all_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry<W>)> {
        let entries = self.entries.iter_mut().enumerate();
        entries
            .filter(|(_, entry)| !entry.is_deleted)
            .filter_map(|(number, entry)| Some((u32::try_from(number).ok()?, entry)))
    }

    /// A file that is not deleted.
    pub fn get(&self, number: u32) -> Option<&Entry<W>> {
        let entry = self.entries.get(number as usize);
        entry.filter(|entry| !entry.is_deleted)
    }

    /// A file that is not deleted, to change what is remembered of it.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Entry<W>> {
        let entry = self.entries.get_mut(number as usize);
        entry.filter(|entry| !entry.is_deleted)
    }

    /// The number of a file that is not deleted.
    pub fn find(&self, manifest: &[u8; 32]) -> Option<u32> {
        let number = *self.numbers.get(manifest)?;
        self.get(number).map(|_| number)
    }

    /// The code of an entry, and its placement policy.
    pub fn kind(&self, entry: &Entry<W>) -> (&str, &str) {
        let kind = self.kinds.get(usize::from(entry.kind));
        kind.map_or(("", ""), |(code, placement)| (code, placement))
    }

    /// Takes a file in. One that is there, or was deleted, stays as it is.
    pub(super) fn insert(
        &mut self,
        manifest: [u8; 32],
        (offset, length): (u64, u32),
        (code, placement): (&str, &str),
        is_single: bool,
        watched: W,
    ) {
        let Ok(number) = u32::try_from(self.entries.len()) else {
            return;
        };
        let kind = self.number_of(code, placement);
        if let Place::Vacant(place) = self.numbers.entry(manifest) {
            place.insert(number);
            self.entries.push(Entry {
                manifest,
                offset,
                length,
                kind,
                is_single,
                is_deleted: false,
                watched,
            });
            self.live += 1;
        }
    }

    fn number_of(&mut self, code: &str, placement: &str) -> u16 {
        let is_same = |(other, policy): &(String, String)| other == code && policy == placement;
        let known = self.kinds.iter().position(is_same);
        let at = known.unwrap_or_else(|| {
            self.kinds.push((code.to_owned(), placement.to_owned()));
            self.kinds.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Takes a file off. Its number stays taken.
    pub(super) fn remove(&mut self, manifest: &[u8; 32])
    where
        W: Default,
    {
        let number = self.find(manifest);
        let entry = number.and_then(|number| self.entries.get_mut(number as usize));
        if let Some(entry) = entry {
            entry.is_deleted = true;
            entry.watched = W::default();
            self.live -= 1;
        }
    }
}
