//! Which connections are served, for how long, and which one is ended first when there are too many.
//!
//! A connection is *fresh* until one of its requests has shown that it may ask something; then it is *known*.
//! Both have slots of their own, so that nobody who cannot ask anything keeps out those who can.
//!
//! * Fresh connections end after [`Limits::fresh_for`] in all. When their slots are full the oldest one makes
//!   room, so a new one always gets in and has time to show its token.
//! * Known connections end when they are idle between two requests for [`Limits::between_for`], or when they
//!   wait for their client in the middle of one for [`Limits::idle_for`]. A connection whose request is being
//!   worked on is not idle, however long that takes.
//! * When the slots of known connections are full, the one that lags most is ended. Uploads and downloads
//!   have a part of these slots each, so that short questions always find one.
//!
//! *Lag* is the time for which the server waited for the client, less what the client has moved at [`SLOW`]
//! bytes a second: whoever trickles a byte now and then lags like one that stands still, whoever pauses and
//! then goes on does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

/// Bytes a second below which a client counts as slow, when there are too many.
const SLOW: f64 = 4096.0;
/// A connection that lags less than this is at work: it is never ended to make room.
const AT_WORK: Duration = Duration::from_secs(1);
/// How late an end may be noticed that has moved nearer meanwhile.
const LOOK: Duration = Duration::from_secs(2);

/// Bounds of the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Fresh connections at the same time.
    pub(crate) fresh: usize,
    /// Known connections at the same time.
    pub(crate) known: usize,
    /// Of these, those that send a file. Each holds a block of it in memory.
    pub(crate) uploads: usize,
    /// Of these, those that take a file.
    pub(crate) downloads: usize,
    /// How long a connection may be fresh, and how long its headers may take.
    pub(crate) fresh_for: Duration,
    /// How long a known connection may be idle between two requests.
    pub(crate) between_for: Duration,
    /// How long a client may keep its request or its answer waiting.
    pub(crate) idle_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fresh: 256,
            known: 512,
            uploads: 128,
            downloads: 256,
            fresh_for: Duration::from_secs(10),
            between_for: Duration::from_secs(10),
            idle_for: Duration::from_hours(1),
        }
    }
}

impl Limits {
    /// These limits, made smaller in proportion if all connections together would take more than a third of
    /// the `files` that the process may have open.
    pub(crate) fn for_files(self, files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX) / 3;
        let all = self.fresh + self.known;
        let part = |count: usize| (count * files.min(all) / all).max(1);
        Self {
            fresh: part(self.fresh),
            known: part(self.known),
            uploads: part(self.uploads),
            downloads: part(self.downloads),
            ..self
        }
    }
}

/// Every slot is taken by somebody at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all connections are busy")]
pub(crate) struct Busy;

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    table: Mutex<Table>,
}

/// Connections by their number: the lowest is the oldest.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    fresh: BTreeMap<u64, Arc<Connection>>,
    known: BTreeMap<u64, Arc<Connection>>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a connection that was accepted.
    pub(crate) fn open(&self) -> Arc<Connection> {
        let mut table = self.table();
        while table.fresh.len() >= self.limits.fresh
            && let Some((_, oldest)) = table.fresh.pop_first()
        {
            oldest.end.notify_one();
        }
        let id = table.next;
        table.next += 1;
        let connection = Arc::new(Connection {
            id,
            activity: Mutex::new(Activity::new(Instant::now())),
            end: Notify::new(),
        });
        table.fresh.insert(id, Arc::clone(&connection));
        connection
    }

    /// Forgets a connection that has ended.
    pub(crate) fn close(&self, connection: &Connection) {
        let mut table = self.table();
        table.fresh.remove(&connection.id);
        table.known.remove(&connection.id);
    }

    /// Ends the oldest fresh connection, for want of something else than slots.
    pub(crate) fn end_one(&self) {
        if let Some((_, oldest)) = self.table().fresh.pop_first() {
            oldest.end.notify_one();
        }
    }

    /// A request of this connection has shown that it may ask.
    pub(crate) fn admit(&self, connection: &Connection) -> Result<(), Busy> {
        let now = Instant::now();
        let mut table = self.table();
        if table.known.contains_key(&connection.id) {
            return Ok(());
        }
        if table.known.len() >= self.limits.known {
            table.end_slowest(now, |_| true)?;
        }
        if let Some(connection) = table.fresh.remove(&connection.id) {
            connection.activity().enter(Phase::Question, now);
            table.known.insert(connection.id, connection);
        }
        Ok(())
    }

    /// The request of a known connection sends a file.
    pub(crate) fn upload(&self, connection: &Connection) -> Result<(), Busy> {
        self.transfer(connection, Phase::Upload, self.limits.uploads)
    }

    /// The request of a known connection takes a file.
    pub(crate) fn download(&self, connection: &Connection) -> Result<(), Busy> {
        self.transfer(connection, Phase::Download, self.limits.downloads)
    }

    fn transfer(&self, connection: &Connection, phase: Phase, limit: usize) -> Result<(), Busy> {
        let now = Instant::now();
        let mut table = self.table();
        let alike = |connection: &Connection| connection.activity().phase == phase;
        if table
            .known
            .values()
            .filter(|connection| alike(connection))
            .count()
            >= limit
        {
            table.end_slowest(now, alike)?;
        }
        connection.activity().enter(phase, now);
        Ok(())
    }

    /// Waits until this connection has to end.
    pub(crate) async fn ended(&self, connection: &Connection) {
        loop {
            let now = Instant::now();
            let ends = connection.activity().ends(&self.limits);
            if ends.is_some_and(|ends| ends <= now) {
                return;
            }
            let look = ends.map_or(now + LOOK, |ends| ends.min(now + LOOK));
            tokio::select! {
                () = connection.end.notified() => return,
                () = sleep_until(look.into()) => {}
            }
        }
    }
}

impl Table {
    /// Ends the known connection that lags most among those that `may` be ended.
    fn end_slowest(&mut self, now: Instant, may: impl Fn(&Connection) -> bool) -> Result<(), Busy> {
        let lag = |connection: &Connection| connection.activity().lag(now);
        let candidates = self.known.values().filter(|connection| may(connection));
        let lags = candidates.map(|connection| (lag(connection), connection.id));
        let (_, id) = lags
            .max()
            .filter(|(lag, _)| *lag >= Lag::behind(AT_WORK))
            .ok_or(Busy)?;
        if let Some(slowest) = self.known.remove(&id) {
            tracing::debug!(id, "ended the slowest connection to make room");
            slowest.end.notify_one();
        }
        Ok(())
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    activity: Mutex<Activity>,
    end: Notify,
}

impl Connection {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come, with its headers.
    pub(crate) fn asked(&self) {
        let mut activity = self.activity();
        if activity.phase == Phase::Between {
            activity.enter(Phase::Question, Instant::now());
        }
    }

    /// The last of an answer was made; the client may still have to take some of it.
    pub(crate) fn answered(&self) {
        self.activity().answered(Instant::now());
    }

    /// The client is waited for.
    pub(crate) fn waits(&self, side: Side) {
        self.activity().waits(side, Instant::now());
    }

    /// The client moved so many bytes.
    pub(crate) fn moved(&self, side: Side, bytes: usize) {
        self.activity().moved(side, bytes, Instant::now());
    }
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// To send more of its request.
    Request,
    /// To take more of the answer.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has shown yet that it may ask.
    Fresh,
    /// It asked something small, or something that takes time here.
    Question,
    /// It sends a file.
    Upload,
    /// It takes a file.
    Download,
    /// It may ask more.
    Between,
}

/// How much a connection lags: the greatest is ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lag {
    /// It loses nothing when it is ended.
    asks_nothing: bool,
    behind: Duration,
}

impl Lag {
    /// Of one that asks something.
    fn behind(behind: Duration) -> Self {
        Self {
            asks_nothing: false,
            behind,
        }
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug)]
struct Activity {
    phase: Phase,
    /// Since when it is in this phase.
    since: Instant,
    /// Since when the client is waited for to send.
    request: Option<Instant>,
    /// Since when the client is waited for to take.
    answer: Option<Instant>,
    /// The lag up to when the client last moved something.
    lag: Duration,
}

impl Activity {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Fresh,
            since: now,
            request: None,
            answer: None,
            lag: Duration::ZERO,
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        *self = Self {
            phase,
            ..Self::new(now)
        };
    }

    fn answered(&mut self, now: Instant) {
        if self.phase != Phase::Fresh {
            self.phase = Phase::Between;
            self.since = now;
            self.request = None;
        }
    }

    fn side(&mut self, side: Side) -> &mut Option<Instant> {
        match side {
            Side::Request => &mut self.request,
            Side::Answer => &mut self.answer,
        }
    }

    fn waits(&mut self, side: Side, now: Instant) {
        self.side(side).get_or_insert(now);
    }

    fn moved(&mut self, side: Side, bytes: usize, now: Instant) {
        if let Some(since) = self.side(side).take() {
            self.lag += now.saturating_duration_since(since);
        }
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.lag = self.lag.saturating_sub(Duration::from_secs_f64(bytes / SLOW));
        if self.phase == Phase::Between {
            self.since = now;
        }
    }

    /// Since when the client is waited for.
    fn waiting(&self) -> Option<Instant> {
        match self.phase {
            Phase::Fresh => Some(self.since),
            Phase::Between => self.answer.or(Some(self.since)),
            Phase::Question | Phase::Upload | Phase::Download => {
                self.request.into_iter().chain(self.answer).min()
            }
        }
    }

    /// When it has to end if nothing moves.
    fn ends(&self, limits: &Limits) -> Option<Instant> {
        let limit = match self.phase {
            Phase::Fresh => limits.fresh_for,
            Phase::Between if self.answer.is_none() => limits.between_for,
            Phase::Between | Phase::Question | Phase::Upload | Phase::Download => limits.idle_for,
        };
        self.waiting().map(|since| since + limit)
    }

    fn lag(&self, now: Instant) -> Lag {
        let waiting = self.waiting().map(|since| now.saturating_duration_since(since));
        let asks_nothing = self.phase == Phase::Between && self.answer.is_none();
        // How it did in what it asked before says nothing of how soon it will ask again.
        let before = if asks_nothing { Duration::ZERO } else { self.lag };
        Lag {
            asks_nothing,
            behind: before + waiting.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
