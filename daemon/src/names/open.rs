//! One bucket of this peer's account, open: what is known of it, and what this device says of it.
//!
//! Writes gather: each enters its entries, and whoever has the turn next says all that was entered since. A
//! record that too few holders took is sent again until they do, before any other. What cannot be said yet is
//! [noted on disk](super::disk).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mutualstore_contract::exit;
use mutualstore_dht::Id;
use mutualstore_dht::records::{Author, Published};
use mutualstore_erasure::Code;
use mutualstore_tree::account::WriteKey;
use mutualstore_tree::bucket::Bucket;
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, What};
use mutualstore_tree::head::{Dropped, Head, Run, TooLarge};
use mutualstore_tree::merge::{Versions, merge};
use mutualstore_tree::record::{Record, record_id};
use mutualstore_tree::run::cut;
use mutualstore_tree::version::Version;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

use super::disk::Disk;
use super::state::{Change, DeviceOf, State, device};
use super::{exchange, runs};
use crate::clock::unix_ms;
use crate::datadir::files::FileError;
use crate::datadir::journal::Kept;
use crate::datadir::list::InBucket;
use crate::error::Failure;
use crate::transfer::Transfers;
use crate::transfer::options::{PutOptions, check_member};
use crate::wire::record::stamp_of;

/// How often a device draws a new number before it gives up.
const RENUMBERED: usize = 4;
/// Records on their way to the last of their holders at the same time.
const BEHIND: usize = 4;
/// A device says at least so often that it lives.
const DAILY_MS: u64 = 24 * 60 * 60 * 1000;
/// What was heard of others is so old at most when names are read.
const FRESH: Duration = Duration::from_secs(2);

/// What is to be done so that holders have a change.
enum Next {
    /// Send this. With a number: it says so many entries of the head, and has no room for more.
    Record(Record, Author, Option<usize>),
    /// Make room in the head.
    NoRoom,
}

/// See the module head.
pub(crate) struct OpenBucket {
    key: WriteKey,
    id: Id,
    disk: Disk,
    state: Mutex<State>,
    /// Whose turn it is to talk with holders.
    turn: tokio::sync::Mutex<()>,
    /// For records that count already and are on their way to the rest of their holders.
    behind: Arc<Semaphore>,
    /// Records that holders had and no longer have, since the start.
    rolled_back: AtomicU64,
}

impl OpenBucket {
    /// The bucket as this device left it; a new one if it was never opened here.
    pub(super) fn open(transfers: &Transfers, key: WriteKey) -> Result<Self, FileError> {
        let network = transfers.member.network().id;
        let disk = Disk::new(transfers.member.data.path(), &key);
        disk.clean();
        let own = disk.own(&network)?;
        let author = own.as_ref().map_or_else(
            || Author::new(rand::random()),
            |record| Author::after(stamp_of(record), false),
        );
        let content = own.as_ref().and_then(|record| record.open(&key.read_key()).ok());
        let head = content.and_then(|content| Head::parse(&content).ok());
        let head = Head {
            instance: rand::random(),
            device: device(),
            ..head.unwrap_or_default()
        };
        let mut state = State::new(Bucket::new(author.writer(), head), author, own);
        state.enter_again(disk.noted()?);
        state.dropped = disk.dropped()?;
        for record in disk.seen(&network)? {
            state.known.take(record);
        }
        state.take_known(&key);
        Ok(Self {
            id: Id::new(record_id(&key.public())),
            key,
            disk,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            behind: Arc::new(Semaphore::new(BEHIND)),
            rolled_back: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is written with.
    pub(super) fn key(&self) -> &WriteKey {
        &self.key
    }

    /// Where a file of it belongs. `staged`: it gets its name by a later request.
    pub(crate) fn place(&self, staged: bool) -> InBucket {
        InBucket {
            owner: self.key.owner_seed(),
            public: self.key.public(),
            staged,
        }
    }

    /// Writes down what was seen of others, if there is something new.
    pub(super) fn keep_seen(&self) {
        let known = {
            let mut state = self.state();
            if !std::mem::take(&mut state.unwritten) {
                return;
            }
            state.known.clone()
        };
        if let Err(failure) = block_in_place(|| self.disk.write_seen(known.all())) {
            tracing::warn!(%failure, "what other devices said is not remembered");
            self.state().unwritten = true;
        }
    }

    /// Hears what others said lately, unless that was done a moment ago, and has their runs in memory.
    pub(super) async fn refresh(&self, transfers: &Arc<Transfers>, fresh: bool) -> Result<(), Failure> {
        self.hear(transfers, fresh).await?;
        self.load_runs(transfers).await
    }

    async fn hear(&self, transfers: &Arc<Transfers>, fresh: bool) -> Result<(), Failure> {
        transfers.member.check_admitted()?;
        let is_due = || fresh || self.state().is_due(FRESH);
        if is_due() {
            let _turn = self.turn.lock().await;
            if is_due()
                && let Err(failure) = self.gather(transfers, false).await
            {
                // Who has met nobody yet is told that.
                check_member(transfers)?;
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn gather(&self, transfers: &Arc<Transfers>, full: bool) -> Result<(), Failure> {
        let mut known = self.state().known.clone();
        let timeout = transfers.member.config.settings.write_timeout.0;
        let heard = exchange::gather(&transfers.peers, self.id, &mut known, full, timeout).await;
        match &heard {
            Ok(heard) => self.state().unheard = heard.is_alone,
            // A full reading fails where one of many is silent.
            Err(_) if full => {}
            Err(_) => self.state().unheard = true,
        }
        let heard = heard?;
        self.rolled_back.fetch_add(heard.lost as u64, Ordering::Relaxed);
        let mut state = self.state();
        if !heard.is_alone {
            state.clock_ahead_ms = heard.clock_ahead_ms();
        }
        state.gathered = Some((Instant::now(), unix_ms()));
        if known.set().digest() != state.known.set().digest() {
            state.known = known;
            state.unwritten = true;
            if state
                .author
                .is_doubled(state.known.set().of(state.author.writer()))
            {
                state.renumber();
            }
            state.take_known(&self.key);
        }
        Ok(())
    }

    /// Has all runs in memory. One that is gone may have been replaced, which its writer has said by then.
    async fn load_runs(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        match self.read_runs(transfers).await {
            Err(failure) if failure.exit == exit::NOT_FOUND => {
                let turn = self.turn.lock().await;
                self.gather(transfers, false).await?;
                drop(turn);
                self.read_runs(transfers).await
            }
            read => read,
        }
    }

    async fn read_runs(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        loop {
            let lacking = self.state().lacking();
            let Some(run) = lacking else { return Ok(()) };
            let entries = runs::read(transfers, &run).await?;
            self.state().runs.insert(run.pointer.manifest, Arc::new(entries));
        }
    }

    /// Hears what all who keep the bucket's records have.
    pub(super) async fn gather_fully(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        self.gather(transfers, true).await
    }

    /// Whether a known head names a run.
    pub(super) fn names_run(&self, manifest: &[u8; 32]) -> bool {
        let state = self.state();
        state.bucket.runs().any(|run| run.pointer.manifest == *manifest)
    }

    /// These runs are deleted.
    pub(super) fn forget_dropped(&self, gone: &[Dropped]) -> Result<(), Failure> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        state.dropped.retain(|run| !gone.contains(run));
        block_in_place(|| self.disk.write_dropped(&state.dropped))
    }

    /// All names that begin with `prefix` (see [`Name::to_bytes`]), with all their versions.
    pub(crate) async fn list(
        &self,
        transfers: &Arc<Transfers>,
        prefix: &[u8],
        fresh: bool,
    ) -> Result<impl Iterator<Item = Versions> + use<>, Failure> {
        self.list_from(transfers, &[], prefix, fresh).await
    }

    /// The same, from a name on.
    pub(crate) async fn list_from(
        &self,
        transfers: &Arc<Transfers>,
        from: &[u8],
        prefix: &[u8],
        fresh: bool,
    ) -> Result<impl Iterator<Item = Versions> + use<>, Failure> {
        self.refresh(transfers, fresh).await?;
        Ok(self.state().merged(from, prefix))
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

    /// The code that its files get unless another one is asked for, as far as it is known.
    fn known_code(&self) -> Option<Code> {
        let name = super::setting("code").ok()?;
        let versions = self.state().versions(&name)?;
        match &versions.there()?.what {
            What::Setting(value) => str::from_utf8(value).ok()?.parse().ok(),
            What::File(_) | What::Directory { .. } | What::Deleted | What::Snapshot(_) => None,
        }
    }

    /// The code that its files get unless another one is asked for.
    pub(crate) async fn code(&self, transfers: &Arc<Transfers>) -> Result<Option<Code>, Failure> {
        self.refresh(transfers, false).await?;
        Ok(self.known_code())
    }

    /// Whether something that is known of it finds this manifest.
    pub(super) async fn refers(
        &self,
        transfers: &Arc<Transfers>,
        manifest: &[u8; 32],
    ) -> Result<bool, Failure> {
        self.refresh(transfers, false).await?;
        Ok(self.names_run(manifest) || self.version_of(manifest).is_some())
    }

    /// The key and version that a manifest is, and whether it shows.
    pub(super) fn version_of(&self, manifest: &[u8; 32]) -> Option<(Entry, bool)> {
        self.state().version_of(manifest)
    }

    /// The devices that said something of the bucket; this one only if it wrote.
    pub(super) async fn devices(&self, transfers: &Arc<Transfers>) -> Result<Vec<DeviceOf>, Failure> {
        self.hear(transfers, false).await?;
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
        let change = Change::new(name, what, fields);
        let written = self.write_all(transfers, vec![change]).await?;
        Ok(written.first().map(|(_, version)| *version).unwrap_or_default())
    }

    /// Writes names, all or none in the eyes of others. On return a majority of the holders has them. Which
    /// they are, and their versions.
    pub(crate) async fn write_all(
        &self,
        transfers: &Arc<Transfers>,
        changes: Vec<Change>,
    ) -> Result<Vec<(Name, Version)>, Failure> {
        self.ready(transfers).await?;
        self.enter(transfers, changes).await
    }

    /// Whether names can be written now, and why not.
    pub(super) async fn ready(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        if let Err(failure) = self.refresh(transfers, false).await {
            // What was known goes on being known; of a bucket that was never heard of nothing is.
            if self.state().gathered.is_none() {
                return Err(failure);
            }
        }
        self.state().check_clock()
    }

    /// Writes names, where it is [ready](Self::ready).
    pub(super) async fn enter(
        &self,
        transfers: &Arc<Transfers>,
        changes: Vec<Change>,
    ) -> Result<Vec<(Name, Version)>, Failure> {
        let (change, written) = {
            let mut state = self.state();
            let written = state.enter(changes)?;
            (state.changes, written)
        };
        self.say(transfers, change).await?;
        Ok(written)
    }

    /// What holders do not have yet, and what they had: whether a change waits, and records they lost.
    pub(super) fn outlook(&self) -> (bool, u64) {
        let state = self.state();
        let waits = state.pending.is_some() || state.said < state.changes;
        (waits, self.rolled_back.load(Ordering::Relaxed))
    }

    /// Sends what did not go out yet, and once a day that this device lives.
    pub(super) async fn go_on(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let change = {
            let mut state = self.state();
            if state.bucket.was_silent_for(unix_ms()) > DAILY_MS {
                state.bucket.touch(unix_ms());
                state.changes += 1;
            }
            if state.pending.is_none() && state.said >= state.changes {
                return Ok(());
            }
            state.changes
        };
        if self.state().unheard {
            self.hear(transfers, true).await?;
        }
        self.say(transfers, change).await
    }

    /// Has holders take what this device says, so many changes included. What they do not take is noted.
    async fn say(&self, transfers: &Arc<Transfers>, change: u64) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let said = self.say_all(transfers, change).await;
        let Err(mut failure) = said else { return Ok(()) };
        let why = failure.reason();
        let message = match block_in_place(|| self.note()) {
            Ok(()) => format!("this is noted here only, and goes out by itself; do not repeat it: {why}"),
            Err(disk) => {
                tracing::warn!(failure = %disk, "what holders did not take stands in memory alone");
                format!(
                    "this stands in the daemon's memory alone, and goes out by itself: {why}; it cannot be \
                     noted: {}",
                    disk.message
                )
            }
        };
        // Sent again it would be written twice.
        (failure.message, failure.retry) = (message, false);
        Err(failure)
    }

    async fn say_all(&self, transfers: &Arc<Transfers>, change: u64) -> Result<(), Failure> {
        let mut doubled = 0;
        loop {
            self.state().prepare(change)?;
            let cramped = match self.make_room(transfers).await {
                Ok(()) => false,
                // A full ring takes no lists of names, and `rm` has to go through there.
                Err(failure) if failure.exit == exit::NO_SPACE && self.state().may_begin_anew() => true,
                Err(failure) => return Err(failure),
            };
            let (record, author, part) =
                match block_in_place(|| self.next_record(transfers, change, cramped))? {
                    Some(Next::Record(record, author, part)) => (record, author, part),
                    Some(Next::NoRoom) => continue,
                    None => return Ok(()),
                };
            match exchange::publish(transfers, &record, &author, &self.behind).await? {
                Published::Acknowledged => {
                    let mut state = self.state();
                    state.author.acknowledge(stamp_of(&record));
                    state.pending = None;
                    state.said = state.in_record;
                    state.known.take(record);
                    state.unwritten = true;
                    if let Some(said) = part {
                        state.begin_anew(said, &self.key);
                    }
                }
                Published::Short { stored, needed } => {
                    return Err(Failure::refused(format!(
                        "{stored} of the {needed} peers that it takes have it"
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
                    self.gather(transfers, false).await?;
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

    /// The record to send next; none if holders have so many changes. `cramped`: the head cannot be made
    /// shorter.
    fn next_record(
        &self,
        transfers: &Transfers,
        change: u64,
        cramped: bool,
    ) -> Result<Option<Next>, Failure> {
        let mut state = self.state();
        if let Some(pending) = &state.pending {
            return Ok(Some(Next::Record(pending.clone(), state.author.clone(), None)));
        }
        if state.said >= change {
            return Ok(None);
        }
        let is_full = state.bucket.is_full();
        if is_full && !cramped {
            // More came since room was made.
            return Ok(Some(Next::NoRoom));
        }
        let (head, said) = state.bucket.head_in_part();
        let content = head.encode().map_err(too_many)?;
        let place = (state.author.writer(), state.author.next_sequence());
        let network = transfers.member.network().id;
        let record = Record::head(&self.key, &network, place, &content).map_err(Failure::unexpected)?;
        // It must know its own, whatever happens next.
        self.disk.write_own(&record)?;
        if is_full {
            state.said_in_part_by(record.clone(), &head.entries);
            return Ok(Some(Next::Record(record, state.author.clone(), Some(said))));
        }
        if state.noted > 0 {
            self.disk.forget_noted();
            state.noted = 0;
        }
        state.said_by(record.clone());
        Ok(Some(Next::Record(record, state.author.clone(), None)))
    }

    /// Notes what the last record does not say.
    fn note(&self) -> Result<(), Failure> {
        let mut state = self.state();
        if !state.unsaid.is_empty() && state.noted < state.changes {
            self.disk.note(&state.unsaid)?;
            state.noted = state.changes;
        }
        Ok(())
    }

    /// Moves entries to runs where the head is full, and puts small runs together.
    async fn make_room(&self, transfers: &Arc<Transfers>) -> Result<(), Failure> {
        let inline = {
            let state = self.state();
            (state.pending.is_none() && state.bucket.is_full()).then(|| state.bucket.inline())
        };
        let Some(inline) = inline else { return Ok(()) };
        let (stored, kept) = self.store(transfers, &inline, 0).await?;
        {
            let mut state = self.state();
            state.bucket.spilled(&inline, stored);
            state.kept.extend(kept);
        }
        loop {
            let Some((tier, old)) = self.state().bucket.to_merge(runs::TOGETHER, runs::FULL) else {
                return Ok(());
            };
            self.read_runs(transfers).await?;
            let entries: Vec<Entry> = {
                let state = self.state();
                let sources = old.iter().filter_map(|run| state.runs.get(&run.pointer.manifest));
                let sources: Vec<Vec<Entry>> = sources.map(|entries| entries.to_vec()).collect();
                let merged = merge(sources);
                merged
                    .flat_map(|versions| versions.all().cloned().collect::<Vec<_>>())
                    .collect()
            };
            let (new, kept) = self.store(transfers, &entries, tier + 1).await?;
            let mut state = self.state();
            state.kept.extend(kept);
            state.bucket.merged(unix_ms(), &old, new);
            state.dropped.extend(old.iter().map(|run| Dropped {
                pointer: run.pointer.clone(),
                since_ms: unix_ms(),
            }));
            if let Err(failure) = block_in_place(|| self.disk.write_dropped(&state.dropped)) {
                tracing::warn!(%failure, "lists of names that were put together may stay for good");
            }
            for run in &old {
                state.runs.remove(&run.pointer.manifest);
            }
        }
    }

    /// Stores sorted entries as runs, which are in memory then, and what the journal has of them.
    async fn store(
        &self,
        transfers: &Arc<Transfers>,
        entries: &[Entry],
        tier: u8,
    ) -> Result<(Vec<Run>, Vec<Kept>), Failure> {
        let (mut stored, mut all_kept) = (Vec::new(), Vec::new());
        for (written, part) in cut(entries, runs::MOST) {
            let (run, kept) = runs::store(transfers, self, written, part, tier).await?;
            self.state()
                .runs
                .insert(run.pointer.manifest, Arc::new(part.to_vec()));
            stored.push(run);
            all_kept.extend(kept);
        }
        Ok((stored, all_kept))
    }

    /// What the files of runs are stored with.
    pub(super) fn of_runs(&self, length: u64) -> PutOptions {
        PutOptions {
            code: self.known_code(),
            ..PutOptions::of_bucket(self.place(false), length)
        }
    }
}

/// The head has no room for more runs.
fn too_many(error: TooLarge) -> Failure {
    Failure::refused(format!(
        "this device wrote more names into the bucket than this version takes ({error})"
    ))
}
