//! One bucket of this peer's account, open: what is known of it, and what this device says of it.
//!
//! In `names/<public key>/` of the data directory stand the device's own last record (`own`), written before
//! it is sent, the one that is to follow where holders did not take that (`next`), and those of others that
//! it has seen (`seen`), which it holds against holders that answer less. All are sealed as they are on the
//! ring.
//!
//! Writes gather: each enters its entries, and whoever has the turn next says all that was entered since. A
//! record that too few holders took is sent again until they do, before any other.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mutualstore_dht::Id;
use mutualstore_dht::records::{Author, Published};
use mutualstore_erasure::Code;
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::bucket::Bucket;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, What};
use mutualstore_tree::head::{Head, Run};
use mutualstore_tree::merge::{Versions, merge};
use mutualstore_tree::record::{Record, record_id};
use mutualstore_tree::run::cut;
use mutualstore_tree::version::{MAX_AHEAD_MS, Version};
use zeroize::Zeroizing;

use super::exchange::{self, Known};
use super::runs;
use super::state::{Change, DeviceOf, State};
use crate::clock::unix_ms;
use crate::datadir::files::{FileError, read_optional, write_atomic};
use crate::error::Failure;
use crate::transfer::Transfers;

/// How often a device draws a new number before it gives up.
const RENUMBERED: usize = 4;
/// What was heard of others is so old at most when names are read.
const FRESH: Duration = Duration::from_secs(2);

/// What is to be done so that holders have a change.
enum Next {
    /// Send this.
    Record(Record, Author),
    /// Make room in the head.
    NoRoom,
}

/// See the module head.
pub(crate) struct OpenBucket {
    key: WriteKey,
    id: Id,
    dir: PathBuf,
    state: Mutex<State>,
    /// Whose turn it is to talk with holders.
    turn: tokio::sync::Mutex<()>,
}

impl OpenBucket {
    /// The bucket as this device left it; a new one if it was never opened here.
    pub(super) fn open(transfers: &Transfers, names: &Path, key: WriteKey) -> Result<Self, Failure> {
        let network = transfers.member.network().id;
        let public = key.public();
        let dir = names.join(hex::encode(public));
        let read = |name: &str| -> Result<Option<(Record, Head)>, FileError> {
            let bytes = read_optional(&dir.join(name))?;
            let record =
                bytes.and_then(|bytes| Record::parse(&Bytes::copy_from_slice(&bytes), &network).ok());
            Ok(record.and_then(|record| {
                let content = record.open(&key.read_key()).ok()?;
                Some((record, Head::parse(&content).ok()?))
            }))
        };
        let (own, next) = (read("own")?, read("next")?);
        let next = next.filter(|(next, _)| {
            own.as_ref()
                .is_some_and(|(own, _)| own.writer == next.writer && own.sequence < next.sequence)
        });
        let author = own.as_ref().map_or_else(
            || Author::new(rand::random()),
            |(record, _)| Author::after(exchange::stamp(record), false),
        );
        let changes = u64::from(next.is_some());
        let head = next
            .or_else(|| own.clone())
            .map(|(_, head)| head)
            .unwrap_or_default();
        let head = Head {
            instance: rand::random(),
            device: device(),
            ..head
        };
        let state = State {
            bucket: Bucket::new(author.writer(), head),
            author,
            known: Known::default(),
            runs: BTreeMap::new(),
            pending: own.map(|(record, _)| record),
            changes,
            in_record: 0,
            said: 0,
            gathered: None,
            clock_ahead_ms: None,
            unwritten: false,
        };
        let this = Self {
            id: Id::new(record_id(&public)),
            key,
            dir,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
        };
        this.read_seen(&network)?;
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a file of the bucket's directory, which is made by the first one.
    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let cannot_make = |error: std::io::Error| {
            Failure::disk(
                error.kind(),
                format!("cannot make {}: {error}", self.dir.display()),
            )
        };
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(cannot_make)?;
        Ok(write_atomic(&self.dir.join(name), bytes, 0o600)?)
    }

    /// What it is written with.
    pub(super) fn key(&self) -> &WriteKey {
        &self.key
    }

    /// What the owner keys of its files follow from.
    pub(crate) fn owner_seed(&self) -> Zeroizing<[u8; 32]> {
        self.key.owner_seed()
    }

    /// Records of others that this device has seen.
    fn read_seen(&self, network: &[u8; 32]) -> Result<(), FileError> {
        let seen = read_optional(&self.dir.join("seen"))?.unwrap_or_default();
        let mut rest = seen.as_slice();
        let mut state = self.state();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let Some((bytes, after)) = after.split_at_checked(length) else {
                break;
            };
            if let Ok(record) = Record::parse(&Bytes::copy_from_slice(bytes), network) {
                state.known.take(record);
            }
            rest = after;
        }
        state.take_known(&self.key);
        Ok(())
    }

    /// Writes down what was seen of others, if there is something new.
    pub(super) fn keep_seen(&self) {
        let mut out = Vec::new();
        {
            let mut state = self.state();
            if !std::mem::take(&mut state.unwritten) {
                return;
            }
            for record in state.known.records.values().chain(&state.known.end) {
                out.extend(
                    u32::try_from(record.bytes.len())
                        .unwrap_or(u32::MAX)
                        .to_be_bytes(),
                );
                out.extend(&record.bytes);
            }
        }
        if let Err(failure) = self.write_file("seen", &out) {
            tracing::warn!(%failure, "what other devices said is not remembered");
            self.state().unwritten = true;
        }
    }

    /// Hears what others said lately, unless that was done a moment ago, and has their runs in memory.
    async fn refresh(&self, transfers: &Arc<Transfers>, fresh: bool) -> Result<(), Failure> {
        let is_due =
            |state: &State| fresh || state.gathered.is_none_or(|gathered| gathered.elapsed() > FRESH);
        if is_due(&self.state()) {
            let _turn = self.turn.lock().await;
            if is_due(&self.state()) {
                self.gather(transfers).await?;
            }
        }
        self.load_runs(transfers).await
    }

    async fn gather(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let mut known = self.state().known.clone();
        let timeout = transfers.member.config.settings.write_timeout.0;
        let heard = exchange::gather(&transfers.peers, self.id, &mut known, false, timeout).await?;
        let mut state = self.state();
        state.clock_ahead_ms = heard.clock_ahead_ms();
        state.gathered = Some(Instant::now());
        if known.set.digest() != state.known.set.digest() {
            state.known = known;
            state.unwritten = true;
            if state.author.is_doubled(state.known.set.of(state.author.writer())) {
                state.renumber();
            }
            state.take_known(&self.key);
        }
        Ok(())
    }

    async fn load_runs(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        loop {
            let lacking = self.state().lacking();
            let Some(run) = lacking else { return Ok(()) };
            let entries = runs::read(transfers, &run).await?;
            self.state().runs.insert(run.pointer.manifest, Arc::new(entries));
        }
    }

    /// All names that begin with `prefix` (see [`Name::to_bytes`]), with all their versions.
    pub(crate) async fn list(
        &self,
        transfers: &Arc<Transfers>,
        prefix: &[u8],
        fresh: bool,
    ) -> Result<Vec<Versions>, Failure> {
        self.refresh(transfers, fresh).await?;
        Ok(self.state().merged(&[], prefix))
    }

    /// All versions of a name.
    pub(crate) async fn versions(
        &self,
        transfers: &Arc<Transfers>,
        name: &Name,
        fresh: bool,
    ) -> Result<Option<Versions>, Failure> {
        self.refresh(transfers, fresh).await?;
        Ok(self.state().versions(name))
    }

    /// The code that its files get unless another one is asked for.
    pub(crate) async fn code(&self, transfers: &Arc<Transfers>) -> Result<Option<Code>, Failure> {
        let name = super::setting("code")?;
        let versions = self.versions(transfers, &name, false).await?;
        let there = versions.as_ref().and_then(Versions::there);
        let text = there.and_then(|entry| match &entry.what {
            What::Setting(value) => str::from_utf8(value).ok(),
            What::File(_) | What::Directory { .. } | What::Deleted | What::Snapshot(_) => None,
        });
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// The devices that said something of the bucket; this one only if it wrote.
    pub(super) async fn devices(&self, transfers: &Arc<Transfers>) -> Result<Vec<DeviceOf>, Failure> {
        self.refresh(transfers, false).await?;
        let state = self.state();
        let own = state.author.writer();
        let devices = state
            .bucket
            .devices()
            .map(|(device, writer, written_ms)| DeviceOf {
                device: device.to_owned(),
                writer,
                written_ms,
                this: writer == own,
            });
        Ok(devices
            .filter(|device| !device.this || device.written_ms.is_some())
            .collect())
    }

    /// Writes a name. On return a majority of the holders has it.
    pub(crate) async fn write(
        &self,
        transfers: &Arc<Transfers>,
        name: Name,
        what: What,
        fields: Fields,
    ) -> Result<Version, Failure> {
        let change = Change { name, what, fields };
        let versions = self.write_all(transfers, vec![change]).await?;
        Ok(versions.first().copied().unwrap_or_default())
    }

    /// Writes names, all or none in the eyes of others. On return a majority of the holders has them.
    pub(crate) async fn write_all(
        &self,
        transfers: &Arc<Transfers>,
        changes: Vec<Change>,
    ) -> Result<Vec<Version>, Failure> {
        if let Err(failure) = self.refresh(transfers, false).await {
            // What was known goes on being known; of a bucket that was never heard of nothing is.
            if self.state().gathered.is_none() {
                return Err(failure);
            }
        }
        self.check_clock()?;
        let (change, versions) = {
            let mut state = self.state();
            let versions: Vec<Version> = changes.into_iter().map(|change| state.enter(change)).collect();
            state.changes += 1;
            (state.changes, versions)
        };
        self.say(transfers, change).await?;
        Ok(versions)
    }

    /// Refuses to write under a wrong clock: what it writes would show too early, or hide what others write.
    fn check_clock(&self) -> Result<(), Failure> {
        let ahead = self.state().clock_ahead_ms.unwrap_or_default();
        if ahead.unsigned_abs() <= MAX_AHEAD_MS {
            return Ok(());
        }
        let seconds = humantime::format_duration(Duration::from_secs(ahead.unsigned_abs() / 1000));
        let which = if ahead > 0 { "behind" } else { "ahead of" };
        Err(Failure::refused(format!(
            "this machine's clock is {seconds} {which} those of the other peers; names are not written until \
             it is right"
        )))
    }

    /// Sends what did not go out yet.
    pub(super) async fn go_on(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let change = {
            let state = self.state();
            if state.pending.is_none() && state.said >= state.changes {
                return Ok(());
            }
            state.changes
        };
        self.say(transfers, change).await
    }

    /// Has holders take what this device says, so many changes included.
    async fn say(&self, transfers: &Arc<Transfers>, change: u64) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let mut doubled = 0;
        loop {
            self.make_room(transfers).await?;
            let (record, author) = match self.next_record(transfers, change)? {
                Some(Next::Record(record, author)) => (record, author),
                Some(Next::NoRoom) => continue,
                None => return Ok(()),
            };
            let timeout = transfers.member.config.settings.write_timeout.0;
            let published = exchange::publish(&transfers.peers, &record, &author, timeout).await;
            match published.inspect_err(|_| self.note(transfers))? {
                Published::Acknowledged => {
                    let mut state = self.state();
                    state.author.acknowledge(exchange::stamp(&record));
                    state.pending = None;
                    state.said = state.in_record;
                    state.known.take(record);
                    state.unwritten = true;
                }
                Published::Short { stored, needed } => {
                    self.note(transfers);
                    return Err(Failure::refused(format!(
                        "the name is noted here, and with {stored} of the {needed} peers that it takes; that \
                         goes on in the background"
                    )));
                }
                Published::Doubled(_) => {
                    doubled += 1;
                    if doubled > RENUMBERED {
                        return Err(Failure::refused(
                            "other devices keep drawing the number of this one; is its disk being cloned \
                             again and again?",
                        ));
                    }
                    self.gather(transfers).await?;
                    let mut state = self.state();
                    if state.author.writer() == record.writer {
                        state.renumber();
                        state.take_known(&self.key);
                    }
                }
                Published::Ended => {
                    return Err(Failure::refused("the bucket's key was replaced by its owner"));
                }
            }
        }
    }

    /// The record to send next; none if holders have so many changes.
    fn next_record(&self, transfers: &Transfers, change: u64) -> Result<Option<Next>, Failure> {
        let mut state = self.state();
        if let Some(pending) = &state.pending {
            return Ok(Some(Next::Record(pending.clone(), state.author.clone())));
        }
        if state.said >= change {
            return Ok(None);
        }
        if state.bucket.is_full() {
            // More came since room was made.
            return Ok(Some(Next::NoRoom));
        }
        let record = self.record_of(transfers, &state)?;
        // It must know its own, whatever happens next.
        self.write_file("own", &record.bytes)?;
        state.author.next(record.hash);
        state.pending = Some(record.clone());
        state.in_record = state.changes;
        Ok(Some(Next::Record(record, state.author.clone())))
    }

    /// What this device would say next.
    fn record_of(&self, transfers: &Transfers, state: &State) -> Result<Record, Failure> {
        let content = state.bucket.head().encode().map_err(Failure::unexpected)?;
        let place = (state.author.writer(), state.author.next_sequence());
        let network = transfers.member.network().id;
        Record::head(&self.key, &network, place, &content).map_err(Failure::unexpected)
    }

    /// Writes down what the last record does not say yet.
    fn note(&self, transfers: &Transfers) {
        let state = self.state();
        if state.in_record >= state.changes {
            return;
        }
        let record = self.record_of(transfers, &state);
        let noted = record.and_then(|record| self.write_file("next", &record.bytes));
        if let Err(failure) = noted {
            tracing::warn!(%failure, "what holders did not take stands in memory alone");
        }
    }

    /// Moves entries to runs where the head is full, and puts small runs together.
    async fn make_room(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let owner = self.owner_seed();
        let inline = {
            let state = self.state();
            (state.pending.is_none() && state.bucket.is_full()).then(|| state.bucket.inline())
        };
        let Some(inline) = inline else { return Ok(()) };
        let stored = self.store(transfers, &owner, inline.clone(), 0).await?;
        self.state().bucket.spilled(&inline, stored);
        loop {
            let Some((tier, old)) = self.state().bucket.to_merge(runs::TOGETHER) else {
                return Ok(());
            };
            self.load_runs(transfers).await?;
            let entries: Vec<Entry> = {
                let state = self.state();
                let sources = old.iter().filter_map(|run| state.runs.get(&run.pointer.manifest));
                let sources: Vec<Vec<Entry>> = sources.map(|entries| entries.to_vec()).collect();
                let merged = merge(sources);
                merged
                    .flat_map(|versions| versions.all().cloned().collect::<Vec<_>>())
                    .collect()
            };
            let new = self.store(transfers, &owner, entries, tier + 1).await?;
            let mut state = self.state();
            state.bucket.merged(unix_ms(), &old, new);
            for run in &old {
                state.runs.remove(&run.pointer.manifest);
            }
        }
    }

    /// Stores sorted entries as runs, which are in memory then.
    async fn store(
        &self,
        transfers: &Arc<Transfers>,
        owner: &[u8; 32],
        entries: Vec<Entry>,
        tier: u8,
    ) -> Result<Vec<Run>, Failure> {
        let mut stored = Vec::new();
        for (written, first, last) in cut(&entries, runs::MOST) {
            let part = entries.iter().skip_while(|entry| *entry != first);
            let part: Vec<Entry> = part
                .take(usize::try_from(written.entries).unwrap_or(usize::MAX))
                .cloned()
                .collect();
            let run = runs::store(transfers, owner, written, (first, last), tier).await?;
            self.state().runs.insert(run.pointer.manifest, Arc::new(part));
            stored.push(run);
        }
        Ok(stored)
    }
}

/// What this device is called: the name of its machine.
fn device() -> String {
    let name = rustix::system::uname();
    let mut name = name.nodename().to_string_lossy().into_owned();
    while name.len() > mutualstore_tree::head::MAX_DEVICE {
        name.pop();
    }
    name
}
