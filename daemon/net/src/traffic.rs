//! The task of an accepted connection: frames in, requests served, frames out.
//!
//! Invariants:
//! * Memory for a frame is asked for only after its header passed the limits of the class and the budget for
//!   inbound requests had room. Answers need no budget: only calls we made are answered.
//! * The reader never waits for the writer, so two full connections cannot block each other.
//! * Nothing waits longer than `progress_timeout` for a byte once a frame has begun, and a frame that
//!   trickles has an end too. A writer waits on while it hears from the other side.
//! * Every byte of a frame passes the connection's [`rate`](super::rate): before it is written, and before
//!   more is read, so that the connection's window (256 KiB at first, then four round trips) is what runs
//!   ahead of the rate. A reader whom this side's rate, or its budget, holds up lets the other side hear of
//!   it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{ClassCounters, NetCounters, count};
use super::connection::{Answer, AskError, Connection};
use super::frame::{Frame, Header, HeaderError, Kind};
use super::rate::{Bucket, LinkRate};
use super::swarm::Wire;
use super::{Class, Service, hello};

/// Payloads up to this many bytes are copied behind their header and written together.
const INLINE: usize = 4096;
/// Written in one go at most.
const CHUNK: usize = 64 * 1024;
/// What runs ahead of a side that reads slowly, in the buffers between, at most.
const AHEAD: usize = 256 * 1024;
/// A frame may take `progress_timeout` and this many bytes per second beyond it: what 100 busy connections
/// have each of a link of 1 Mbit/s.
const SLOWEST: u64 = 1024;
/// A side that cannot read is heard this many times in `progress_timeout`: more often than silence of
/// [`SILENT`](super::connection::SILENT) and an unanswered ping together.
const REASSURED: u32 = 10;
/// How long a side that said goodbye waits for the other to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// What the connections of one [`Net`](super::Net) share.
pub(super) struct ConnectionContext {
    pub(super) service: Arc<dyn Service>,
    pub(super) counters: Arc<NetCounters>,
    /// Room for inbound rpc requests, in bytes.
    pub(super) rpc_budget: Arc<Semaphore>,
    /// Room for inbound shard requests, in requests.
    pub(super) shard_budget: Arc<Semaphore>,
    pub(super) max_rpc_bytes: u32,
    pub(super) idle: Duration,
    pub(super) progress_timeout: Duration,
    /// What this peer's link carries; none: all.
    pub(super) rate: Option<LinkRate>,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// One side said goodbye.
    #[error("idle")]
    Bye,
    /// This side dropped it.
    #[error("dropped")]
    Stopped,
    /// The connection broke or the other side hung up.
    #[error("lost: {0}")]
    Lost(io::Error),
    /// Nothing moved although something was half way.
    #[error("nothing moved")]
    Stalled,
    /// The other side broke the protocol.
    #[error("breach of protocol: {0}")]
    Breach(Breach),
}

/// What the other side did that the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("a request beyond the window")]
    Window,
    #[error("an answer nobody waits for")]
    Unasked,
    #[error("a shard request from the side that was dialled")]
    Direction,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            Self::Stalled
        } else {
            Self::Lost(error)
        }
    }
}

/// Drives a connection until it ends; the calls on it have failed and the connection is gone when this
/// returns.
pub(super) async fn run(
    connection: Arc<Connection>,
    wire: Wire,
    mut queue: mpsc::Receiver<Frame>,
    context: Arc<ConnectionContext>,
) -> End {
    let Wire { stream, hold, .. } = wire;
    let (mut reader, writer) = stream.split();
    let counters = context.counters.class(connection.class);
    let mut writer = Writer {
        to: writer,
        connection: &connection,
        counters,
        pause: context.progress_timeout,
        bucket: context.rate.as_ref().map(|rate| &rate.sending),
    };
    let end = tokio::select! {
        end = read_frames(&mut reader, &connection, &context) => end,
        end = writer.write_frames(&mut queue) => end,
        () = idle(&connection, context.idle) => {
            let goodbye = async {
                writer.say_bye().await?;
                // The other side hangs up when it has read the goodbye; not waiting for it for ever.
                drop(timeout(LINGER, hello::drain(&mut reader)).await);
                Ok(End::Bye)
            };
            let said = connection.stop.run_until_cancelled(goodbye).await;
            said.unwrap_or(Ok(End::Stopped)).unwrap_or_else(|end| end)
        }
        () = connection.stop.cancelled() => End::Stopped,
    };
    connection.stop.cancel();
    connection.fail_calls(match end {
        End::Bye => AskError::Retired,
        End::Stalled => AskError::TimedOut,
        End::Stopped | End::Lost(_) | End::Breach(_) => AskError::Lost,
    });
    // The stream goes before the hold: then the swarm drops the connection at once.
    drop((reader, writer));
    drop(hold);
    end
}

/// Ends when a connection that this side dialled may be closed.
async fn idle(connection: &Connection, limit: Duration) {
    if !connection.dialled {
        return std::future::pending().await;
    }
    let mut wait = limit;
    loop {
        tokio::time::sleep(wait).await;
        match connection.retire(limit) {
            Ok(()) => return,
            Err(again) => wait = again,
        }
    }
}

async fn read_frames<R: AsyncRead + Unpin>(
    reader: &mut R,
    connection: &Arc<Connection>,
    context: &Arc<ConnectionContext>,
) -> End {
    loop {
        match read_frame(reader, connection, context).await {
            Ok(Kind::Bye) => return End::Bye,
            Ok(Kind::Request | Kind::Response | Kind::Failed | Kind::Ping) => {}
            Err(end) => return end,
        }
        tokio::task::coop::consume_budget().await;
    }
}

/// Reads one frame and sees to it.
async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    connection: &Arc<Connection>,
    context: &Arc<ConnectionContext>,
) -> Result<Kind, End> {
    let header = read_header(reader, connection, context).await?;
    let counters = context.counters.class(connection.class);
    count(&counters.frames_in, 1);
    count(&counters.bytes_in, Header::LEN + header.head + header.payload);
    match header.kind {
        Kind::Request => {
            if connection.class == Class::Shards && connection.dialled {
                return Err(End::Breach(Breach::Direction));
            }
            let place = Arc::clone(&connection.serving).try_acquire_owned();
            let place = place.map_err(|_| End::Breach(Breach::Window))?;
            let budget = budget(connection.class, header, context);
            let budget = reassuring(connection, context.progress_timeout, budget).await;
            let (head, payload) = read_body(reader, header, connection, context).await?;
            let reply = Reply {
                connection: Arc::clone(connection),
                id: header.id,
                place: Some(place),
                budget,
            };
            tokio::spawn(serve(reply, head, payload, Arc::clone(&context.service)));
        }
        // What an older peer answers to the ping that only says that we live.
        Kind::Response if (header.id, header.head, header.payload) == (0, 0, 0) => {}
        Kind::Response => {
            let call = connection
                .take_call(header.id)
                .ok_or(End::Breach(Breach::Unasked))?;
            let answer = read_body(reader, header, connection, context).await?;
            // A caller that is gone does not mind.
            drop(call.send(Ok(answer)));
        }
        Kind::Failed => {
            let call = connection
                .take_call(header.id)
                .ok_or(End::Breach(Breach::Unasked))?;
            drop(call.send(Err(AskError::Failed)));
        }
        Kind::Ping => {
            // A peer that floods pings gets no answer.
            if header.id != 0 {
                connection.send_spare(Frame::empty(Kind::Response, header.id));
            }
        }
        Kind::Bye => {}
    }
    Ok(header.kind)
}

/// Waits for the first byte as long as it takes, for the rest of the header not.
async fn read_header<R: AsyncRead + Unpin>(
    reader: &mut R,
    connection: &Connection,
    context: &ConnectionContext,
) -> Result<Header, End> {
    let mut bytes = [0; Header::LEN];
    let got = reader.read(&mut bytes).await?;
    if got == 0 {
        return Err(End::Lost(io::ErrorKind::UnexpectedEof.into()));
    }
    connection.activity.heard();
    if let Some(rest) = bytes.get_mut(got..)
        && !rest.is_empty()
    {
        let read = timeout(context.progress_timeout, reader.read_exact(rest)).await;
        read.map_err(|_| End::Stalled)??;
    }
    received(Header::LEN, connection, context).await;
    Header::parse(&bytes, connection.limits).map_err(|error| End::Breach(error.into()))
}

/// Room for a request. Held until its answer was written.
async fn budget(class: Class, header: Header, context: &ConnectionContext) -> Option<OwnedSemaphorePermit> {
    let permit = match class {
        Class::Rpc => {
            let bytes = u32::try_from(header.payload)
                .unwrap_or(u32::MAX)
                .min(context.max_rpc_bytes);
            Arc::clone(&context.rpc_budget).acquire_many_owned(bytes).await
        }
        Class::Shards => Arc::clone(&context.shard_budget).acquire_owned().await,
    };
    // The budgets are never closed.
    permit.ok()
}

/// Reads head and payload into one buffer of exactly their size.
async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    header: Header,
    connection: &Connection,
    context: &ConnectionContext,
) -> Result<Answer, End> {
    let length = header.head + header.payload;
    if length == 0 {
        return Ok((Bytes::new(), Bytes::new()));
    }
    let pause = context.progress_timeout;
    let deadline = slowest(length, pause);
    let piece = context
        .rate
        .as_ref()
        .map_or(length, |rate| rate.receiving.piece());
    let mut body = BytesMut::zeroed(length);
    let mut rest = body.as_mut();
    while !rest.is_empty() {
        let until = deadline.min(Instant::now() + pause);
        let now = rest.len().min(piece);
        let read = timeout_at(until, reader.read(rest.get_mut(..now).unwrap_or_default())).await;
        let got = read.map_err(|_| End::Stalled)??;
        if got == 0 {
            return Err(End::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        connection.activity.heard();
        received(got, connection, context).await;
        rest = rest.get_mut(got..).unwrap_or_default();
    }
    let head = body.split_to(header.head).freeze();
    Ok((head, body.freeze()))
}

/// When a frame of `length` bytes that begins now must have come to its end.
fn slowest(length: usize, pause: Duration) -> Instant {
    Instant::now() + pause + Duration::from_secs(length as u64 / SLOWEST)
}

/// Waits until the link's rate allows for `bytes` that were read.
async fn received(bytes: usize, connection: &Connection, context: &ConnectionContext) {
    if let Some(rate) = &context.rate {
        let waited = &context.counters.class(connection.class).waited_in_us;
        let passing = pass(&rate.receiving, bytes, connection.class, waited);
        reassuring(connection, context.progress_timeout, passing).await;
    }
}

/// Takes `bytes` from a bucket and counts the time that took.
async fn pass(bucket: &Bucket, bytes: usize, class: Class, waited: &AtomicU64) {
    let begun = Instant::now();
    bucket.take(bytes, class).await;
    let took = begun.elapsed().as_micros();
    count(waited, usize::try_from(took).unwrap_or(usize::MAX));
}

/// Waits for something of this side. The other side must not take that for death, so it hears from this one
/// from time to time.
async fn reassuring<T>(connection: &Connection, pause: Duration, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    loop {
        let silence = (pause / REASSURED).saturating_sub(connection.activity.unreassured());
        match timeout(silence, &mut waiting).await {
            Ok(done) => return done,
            Err(_) => connection.reassure(),
        }
    }
}

/// Owes one answer; dropped without, for instance by a panic of the service, it says so.
struct Reply {
    connection: Arc<Connection>,
    id: u64,
    place: Option<OwnedSemaphorePermit>,
    budget: Option<OwnedSemaphorePermit>,
}

impl Reply {
    fn answer(mut self, head: Bytes, payload: Bytes) {
        if self.connection.limits.allow(head.len(), payload.len()) {
            let budget = self.budget.take();
            self.send(Frame {
                kind: Kind::Response,
                id: self.id,
                head,
                payload,
                budget,
            });
        } else {
            tracing::error!(
                head = head.len(),
                payload = payload.len(),
                "answer exceeds the limits"
            );
        }
    }

    /// The place is free before the other side can know.
    fn send(&mut self, frame: Frame) {
        self.connection.activity.moved();
        if self.place.take().is_some() {
            // Full it cannot be; closed it is when the connection is gone, and then nobody waits.
            drop(self.connection.out.try_send(frame));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Frame::empty(Kind::Failed, self.id));
    }
}

async fn serve(reply: Reply, head: Bytes, payload: Bytes, service: Arc<dyn Service>) {
    let from = reply.connection.peer;
    match reply.connection.class {
        Class::Rpc => {
            let body = service.rpc(from, payload).await;
            reply.answer(Bytes::new(), body);
        }
        Class::Shards => {
            let (head, payload) = service.shard(from, head, payload).await;
            reply.answer(head, payload);
        }
    }
}

/// The writing half of a connection.
struct Writer<'a, W> {
    to: W,
    connection: &'a Connection,
    counters: &'a ClassCounters,
    pause: Duration,
    bucket: Option<&'a Bucket>,
}

impl<W: AsyncWrite + Unpin> Writer<'_, W> {
    /// Writes whatever is queued, then flushes once.
    async fn write_frames(&mut self, queue: &mut mpsc::Receiver<Frame>) -> End {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, 32).await > 0 {
            if let Err(end) = self.write_batch(&mut batch).await {
                return end;
            }
        }
        End::Stopped
    }

    async fn write_batch(&mut self, batch: &mut Vec<Frame>) -> Result<(), End> {
        let mut small = BytesMut::new();
        for frame in batch.drain(..) {
            let header = frame.header();
            count(&self.counters.frames_out, 1);
            count(
                &self.counters.bytes_out,
                Header::LEN + header.head + header.payload,
            );
            header.put(&mut small);
            small.extend_from_slice(&frame.head);
            let inline = frame.payload.len() <= INLINE;
            if inline {
                small.extend_from_slice(&frame.payload);
            }
            if !inline || small.len() >= CHUNK {
                self.write_all(&small).await?;
                small.clear();
            }
            if !inline {
                self.write_all(&frame.payload).await?;
            }
            drop(frame.budget);
        }
        self.write_all(&small).await?;
        timeout(self.pause, self.to.flush())
            .await
            .map_err(|_| End::Stalled)??;
        Ok(())
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), End> {
        // A short frame may wait for long ones before it that a slow side has not taken yet.
        let deadline = slowest(bytes.len().max(AHEAD), self.pause);
        let piece = self.bucket.map_or(bytes.len(), Bucket::piece);
        for piece in bytes.chunks(piece.max(1)) {
            if let Some(bucket) = self.bucket {
                pass(
                    bucket,
                    piece.len(),
                    self.connection.class,
                    &self.counters.waited_out_us,
                )
                .await;
            }
            let mut rest = piece;
            while !rest.is_empty() {
                let written = self.write(rest, deadline).await?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Writes some bytes. A side that cannot take them now, but is heard, lives.
    async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<usize, End> {
        let begun = Instant::now();
        let still = || begun.elapsed().min(self.connection.activity.unheard());
        let mut writing = self.to.write(bytes);
        loop {
            let until = deadline.min(Instant::now() + self.pause.saturating_sub(still()));
            match timeout_at(until, &mut writing).await {
                Ok(Ok(0)) => return Err(End::Lost(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.connection.activity.moved();
                    return Ok(written?);
                }
                Err(_) if still() >= self.pause || Instant::now() >= deadline => return Err(End::Stalled),
                Err(_) => {}
            }
        }
    }

    async fn say_bye(&mut self) -> Result<(), End> {
        self.write_batch(&mut vec![Frame::empty(Kind::Bye, 0)]).await?;
        timeout(self.pause, self.to.close())
            .await
            .map_err(|_| End::Stalled)??;
        Ok(())
    }
}
