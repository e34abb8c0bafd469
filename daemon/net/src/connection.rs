//! One accepted connection, as the rest of the daemon sees it: calls, and when to give it up.
//!
//! A call keeps its place in the window until its answer came, even when its caller lost interest; so
//! neither side ever has more requests in flight than the window, and more is a breach of protocol.
//! What moves the bytes is [`traffic`](super::traffic).
//!
//! Absent: keep-alive of idle connections (ring traffic finds dead peers), cancellation of requests.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use mutualstore_dht::Peer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Class;
use super::frame::{Frame, Kind, Limits};

/// A connection that is asked whether it still leads anywhere, and does not answer for this long, does not.
pub(super) const SILENT: Duration = Duration::from_secs(1);

/// Head and payload of an answer.
pub(super) type Answer = (Bytes, Bytes);

/// Why a call on one connection gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// The other side never looked at the request: ask on another connection.
    #[error("the connection was idle and closes")]
    Retired,
    /// The connection was left for another one, which is there; whether the request was served is unknown.
    #[error("the connection was left for another one")]
    Moved,
    /// The connection is gone; whether the request was served is unknown.
    #[error("the connection was lost")]
    Lost,
    /// No answer in time; the request may still be served.
    #[error("no answer in time")]
    TimedOut,
    /// The window stayed full; nothing was sent.
    #[error("too many requests in flight")]
    Busy,
    /// The other side could not answer.
    #[error("the peer failed to answer")]
    Failed,
}

/// How long a call waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// Until then.
    Until(Instant),
    /// As long as bytes move over the connection, with pauses of at most this; then the connection is given
    /// up.
    Progress(Duration),
}

/// Where a connection leads.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// The address this side dialled; none if the other side did.
    pub(super) dialled: Option<Multiaddr>,
    /// Where the other side is; none when it was dialled by name.
    pub(super) remote: Option<IpAddr>,
}

/// The shared handle of an accepted connection: what its tasks for reading, writing and calls all need.
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) class: Class,
    /// Whether this side dialled.
    pub(super) dialled: bool,
    pub(super) way: Way,
    /// Whether another way is being looked for.
    pub(super) detour: AtomicBool,
    /// Of the other side.
    pub(super) instance: [u8; 16],
    /// Cancelled to drop the connection, and when it is gone.
    pub(super) stop: CancellationToken,
    pub(super) limits: Limits,
    pub(super) out: mpsc::Sender<Frame>,
    calls: Mutex<Calls>,
    /// Requests this side may still send.
    window: Arc<Semaphore>,
    /// Requests the other side may still send.
    pub(super) serving: Arc<Semaphore>,
    pub(super) activity: Activity,
}

/// The requests this side waits for.
struct Calls {
    open: bool,
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

struct Waiting {
    answer: oneshot::Sender<Result<Answer, AskError>>,
    /// None for pings, which are not counted.
    _place: Option<OwnedSemaphorePermit>,
}

/// When bytes moved, in milliseconds since the connection began.
pub(super) struct Activity {
    began: Instant,
    /// Last byte in or out.
    moved: AtomicU64,
    /// Last byte in.
    heard: AtomicU64,
    /// First request since the last byte in.
    asked: AtomicU64,
    /// Last [reassurance](Connection::reassure).
    reassured: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            reassured: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn heard(&self) {
        let now = self.now();
        self.heard.store(now, Ordering::Relaxed);
        self.moved.store(now, Ordering::Relaxed);
    }

    pub(super) fn moved(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    fn asked(&self) {
        if self.asked.load(Ordering::Relaxed) <= self.heard.load(Ordering::Relaxed) {
            self.asked.store(self.now().max(1), Ordering::Relaxed);
        }
    }

    /// Since the last byte in either direction.
    fn still(&self) -> Duration {
        self.since(self.moved.load(Ordering::Relaxed))
    }

    /// Since the last byte in.
    pub(super) fn unheard(&self) -> Duration {
        self.since(self.heard.load(Ordering::Relaxed))
    }

    /// Since the last reassurance.
    pub(super) fn unreassured(&self) -> Duration {
        self.since(self.reassured.load(Ordering::Relaxed))
    }

    /// Since the first request that nothing was heard after.
    fn silence(&self) -> Duration {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked <= self.heard.load(Ordering::Relaxed) {
            Duration::ZERO
        } else {
            self.since(asked)
        }
    }

    fn since(&self, then: u64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(then))
    }
}

impl Connection {
    /// A connection and the queue its task will send from.
    pub(super) fn new(
        peer: Peer,
        class: Class,
        way: Way,
        instance: [u8; 16],
        stop: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Frame>) {
        let limits = Limits::of(class);
        // Requests and answers of a full window, and some pings.
        let (out, queue) = mpsc::channel(2 * limits.window + 16);
        let connection = Self {
            peer,
            class,
            dialled: way.dialled.is_some(),
            way,
            detour: AtomicBool::new(false),
            instance,
            stop,
            limits,
            out,
            calls: Mutex::new(Calls {
                open: true,
                next: 0,
                waiting: HashMap::new(),
            }),
            window: Arc::new(Semaphore::new(limits.window)),
            serving: Arc::new(Semaphore::new(limits.window)),
            activity: Activity::new(),
        };
        (Arc::new(connection), queue)
    }

    /// Whether calls of `class` may go this way. A connection that says goodbye takes none although it is
    /// there.
    pub(super) fn takes(&self, class: Class) -> bool {
        self.class == class
            && (class == Class::Rpc || self.dialled)
            && !self.stop.is_cancelled()
            && self.calls().open
    }

    /// Sends a request within the limits of the class and waits for its answer.
    pub(super) async fn ask(&self, head: Bytes, payload: Bytes, wait: Wait) -> Result<Answer, AskError> {
        let place = self.place(wait).await?;
        let answer = self.send(Kind::Request, head, payload, Some(place))?;
        match wait {
            Wait::Until(deadline) => match timeout_at(deadline, answer).await {
                Ok(answer) => answer.unwrap_or(Err(AskError::Lost)),
                Err(_) => Err(AskError::TimedOut),
            },
            Wait::Progress(pause) => self.progressing(answer, pause).await,
        }
    }

    /// Whether the process behind the connection answers. The caller bounds the time.
    pub(super) async fn ping(&self) -> Result<(), AskError> {
        let answer = self.send(Kind::Ping, Bytes::new(), Bytes::new(), None)?;
        answer.await.unwrap_or(Err(AskError::Lost)).map(drop)
    }

    /// Shows the other side that this one lives although it does not read.
    pub(super) fn reassure(&self) {
        let activity = &self.activity;
        activity.reassured.store(activity.now(), Ordering::Relaxed);
        self.send_spare(Frame::empty(Kind::Ping, 0));
    }

    /// Sends a frame that is of no importance when much is to be sent: the last places in the queue are for
    /// requests and answers.
    pub(super) fn send_spare(&self, frame: Frame) {
        if self.out.capacity() > 2 * self.limits.window {
            // Closed it is when the connection is gone.
            drop(self.out.try_send(frame));
        }
    }

    /// Whether nothing has moved for `limit` although an answer is due.
    pub(super) fn is_stuck(&self, limit: Duration) -> bool {
        self.activity.still() >= limit
            && self.activity.silence() >= limit
            && !self.calls().waiting.is_empty()
            && !self.stop.is_cancelled()
    }

    /// Gives the connection up if the other side has been silent for `limit` although it was asked something.
    pub(super) fn suspect(&self, limit: Duration) -> bool {
        let dead = self.activity.silence() >= limit;
        if dead {
            self.stop.cancel();
        }
        dead
    }

    async fn place(&self, wait: Wait) -> Result<OwnedSemaphorePermit, AskError> {
        let place = Arc::clone(&self.window).acquire_owned();
        let place = match wait {
            Wait::Until(deadline) => timeout_at(deadline, place).await.map_err(|_| AskError::Busy)?,
            Wait::Progress(_) => place.await,
        };
        place.map_err(|_| AskError::Retired)
    }

    async fn progressing(
        &self,
        mut answer: oneshot::Receiver<Result<Answer, AskError>>,
        pause: Duration,
    ) -> Result<Answer, AskError> {
        loop {
            let left = pause.saturating_sub(self.activity.still());
            match timeout(left, &mut answer).await {
                Ok(answer) => return answer.unwrap_or(Err(AskError::Lost)),
                Err(_) if self.activity.still() >= pause => {
                    self.fail_calls(AskError::TimedOut);
                    self.stop.cancel();
                    return Err(AskError::TimedOut);
                }
                Err(_) => {}
            }
        }
    }

    fn send(
        &self,
        kind: Kind,
        head: Bytes,
        payload: Bytes,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<Result<Answer, AskError>>, AskError> {
        let (answer, answered) = oneshot::channel();
        let mut calls = self.calls();
        if !calls.open {
            return Err(AskError::Retired);
        }
        calls.next += 1;
        let id = calls.next;
        // Stamped first: an outstanding request on a connection that was idle must not look stalled.
        self.activity.moved();
        self.activity.asked();
        self.out
            .try_send(Frame {
                kind,
                id,
                head,
                payload,
                budget: None,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AskError::Busy,
                mpsc::error::TrySendError::Closed(_) => AskError::Retired,
            })?;
        calls.waiting.insert(
            id,
            Waiting {
                answer,
                _place: place,
            },
        );
        Ok(answered)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to call `id` goes there; none if nobody was asked.
    pub(super) fn take_call(&self, id: u64) -> Option<oneshot::Sender<Result<Answer, AskError>>> {
        self.calls().waiting.remove(&id).map(|call| call.answer)
    }

    /// Ends every call and takes no new ones.
    pub(super) fn fail_calls(&self, error: AskError) {
        let waiting = {
            let mut calls = self.calls();
            calls.open = false;
            std::mem::take(&mut calls.waiting)
        };
        self.window.close();
        for (_, call) in waiting {
            // A caller that is gone does not mind.
            drop(call.answer.send(Err(error)));
        }
    }

    /// Takes no new calls if nothing is under way and nothing moved for `idle`; else when to ask again.
    pub(super) fn retire(&self, idle: Duration) -> Result<(), Duration> {
        let mut calls = self.calls();
        let nothing_served = self.serving.available_permits() == self.limits.window;
        let nothing_queued = self.out.capacity() == self.out.max_capacity();
        if !(calls.waiting.is_empty() && nothing_served && nothing_queued) {
            return Err(idle);
        }
        // Last, because an answer is stamped as activity before its request counts as served.
        let still = self.activity.still();
        if still < idle {
            return Err(idle.saturating_sub(still));
        }
        calls.open = false;
        Ok(())
    }
}
