//! `put`, `get` and `repair`: streams with a second conversation beside them.
//!
//! HTTP has no room for what the daemon notices while a body flows (a corrupted block, a peer that left,
//! the reason for breaking off), so every transfer carries a random id in `X-Mutualstore-Transfer` and a
//! second thread polls `/v1/transfers/{id}/events` until the daemon says that it is over.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use mutualstore_contract::exit;
use mutualstore_contract::reply::{ErrorBody, Events, PutReport, RepairReport};
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, ETAG};
use ureq::{Body, RequestBuilder, SendBody};

use super::{Client, ClientError, STALL_TIMEOUT, accepted, answer, decoded, resource, with_query};
use super::{FileHead, Reply, error};

/// The daemon holds a poll for at most 10 s.
const POLL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before asking again about a transfer that the daemon has not seen yet.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// How long the last lines of a transfer that was answered are waited for; they come at once or never.
const LINES_GRACE: Duration = Duration::from_secs(1);
/// How long the reason of a transfer that broke off is waited for.
const REASON_GRACE: Duration = Duration::from_secs(5);
/// Larger uploads ask before they send, so that the daemon can refuse before it is sent gigabytes; smaller
/// ones save the round trip.
const ASK_FIRST: u64 = 64 << 10;
const COPY_BUFFER: usize = 256 << 10;
/// A get that was cut goes on where it stopped so many times without a byte more.
const RESUMES: u32 = 5;
/// Pause before the first of them; it doubles.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// Takes each line the daemon reports beside a transfer; runs on another thread.
pub type EventSink = Option<Arc<dyn Fn(&str) + Send + Sync>>;

/// Takes the bytes moved so far and the total, when known.
pub type ProgressSink<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// What `put` may say beside the bytes.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Base name kept with the file.
    pub name: Option<String>,
    /// Code; the daemon chooses when absent.
    pub code: Option<String>,
    /// Placement policy; the daemon's own when absent.
    pub placement: Option<String>,
    /// `file` or `fragment`, for `copysets` and `buddies`.
    pub scope: Option<String>,
    /// Number of fragments; needs a length.
    pub fragments: Option<u32>,
    /// Shard size in bytes.
    pub shard_size: Option<u64>,
    /// Accept exactly k durable shards.
    pub degraded: bool,
    /// `/BUCKET/KEY`; without, the file has a link alone.
    pub to: Option<String>,
    /// Of a file with a name: when it was modified, Unix nanoseconds.
    pub modified_ns: Option<i64>,
    /// Of a file with a name: whether it is executable.
    pub executable: bool,
    /// Of a file with a name: how it gets it.
    pub naming: Naming,
}

/// How a file gets its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// As a new version of it.
    #[default]
    Replace,
    /// Where it is taken, another one is found, and the bucket is made if need be.
    Free,
    /// By a batch, later.
    Stage,
}

impl PutOptions {
    fn query(&self) -> Vec<(&'static str, String)> {
        let pairs = [
            ("name", self.name.clone()),
            ("code", self.code.clone()),
            ("placement", self.placement.clone()),
            ("scope", self.scope.clone()),
            ("fragments", self.fragments.map(|count| count.to_string())),
            ("shard_size", self.shard_size.map(|bytes| bytes.to_string())),
            ("degraded", self.degraded.then(|| "1".to_owned())),
            ("stage", (self.naming == Naming::Stage).then(|| "1".to_owned())),
            ("free", (self.naming == Naming::Free).then(|| "1".to_owned())),
        ];
        pairs
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect()
    }
}

/// Bytes `first..=last` of a file; to the end without `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub first: u64,
    /// Last byte, included.
    pub last: Option<u64>,
}

/// What `get` may ask for.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// Only a part of the file.
    pub range: Option<ByteRange>,
    /// Shard indices not to read, to exercise reconstruction.
    pub without: Vec<u32>,
    /// Of a file with a name: this version, not the newest.
    pub version: Option<String>,
    /// Of a file with a name: as it was at this moment, Unix milliseconds.
    pub at_ms: Option<u64>,
}

impl Client {
    /// Stores what `input` yields. With `length` (bytes) the input must yield exactly that many.
    pub fn put(
        &self,
        input: &mut dyn Read,
        length: Option<u64>,
        options: &PutOptions,
        events: EventSink,
        progress: ProgressSink<'_>,
    ) -> Result<Reply<PutReport>, ClientError> {
        let path = options
            .to
            .as_deref()
            .map_or_else(|| "/v1/files".to_owned(), resource);
        let url = format!("{}{}", self.base, with_query(&path, &options.query()));
        self.watched(events, |id| {
            let mut request = self.transfer(self.agent.put(url), id);
            if length.is_none_or(|length| length > ASK_FIRST) {
                request = request.header("Expect", "100-continue");
            }
            if let Some(length) = length {
                request = request.header(CONTENT_LENGTH, length);
            }
            if let Some(modified) = options.modified_ns.filter(|_| options.to.is_some()) {
                request = request.header("X-Mutualstore-Modified", modified);
            }
            if options.executable && options.to.is_some() {
                request = request.header("X-Mutualstore-Executable", "1");
            }
            let mut upload = Upload {
                input,
                length,
                sent: 0,
                failure: None,
                progress,
            };
            let sent = request.send(SendBody::from_reader(&mut upload));
            match (sent, upload.failure.take()) {
                (_, Some(failure)) => Err(ClientError::Input(failure)),
                (Ok(response), None) => answer(accepted(response)?),
                (Err(error), None) => Err(self.broken_off(upload.sent, length, &error)),
            }
        })
    }

    /// Size and name of a file.
    pub fn head(&self, link: &str) -> Result<FileHead, ClientError> {
        let request = self.agent.head(format!("{}{}", self.base, resource(link)));
        let request = request.header("Authorization", &self.bearer);
        let response = request
            .config()
            .timeout_global(Some(STALL_TIMEOUT))
            .build()
            .call();
        let response = response.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok(head_of(&response));
        }
        // An answer to HEAD has no body: the reason comes with a request for one byte.
        self.get(
            link,
            &GetOptions {
                range: Some(ByteRange {
                    first: 0,
                    last: Some(0),
                }),
                ..GetOptions::default()
            },
            &mut io::sink(),
            None,
            &mut |_, _| (),
        )?;
        Err(error::refusal(response.status(), ""))
    }

    /// Writes a file, or a part of it, to `output` and returns the number of bytes written, which is the
    /// number the daemon announced. What is cut on the way goes on where it stopped, as long as the daemon
    /// answers and has the same file.
    #[expect(clippy::needless_pass_by_value, reason = "as put and repair take it")]
    pub fn get(
        &self,
        link: &str,
        options: &GetOptions,
        output: &mut dyn Write,
        events: EventSink,
        progress: ProgressSink<'_>,
    ) -> Result<u64, ClientError> {
        let without = options.without.iter();
        let mut query: Vec<_> = without.map(|index| ("without", index.to_string())).collect();
        query.extend(options.version.clone().map(|version| ("version", version)));
        query.extend(options.at_ms.map(|ms| ("at", ms.to_string())));
        let url = format!("{}{}", self.base, with_query(&resource(link), &query));
        let mut download = Download {
            range: options.range,
            etag: None,
            moved: 0,
            total: None,
            output,
            progress,
        };
        let mut tries = 0;
        loop {
            let before = download.moved;
            let outcome = self.watched(events.clone(), |id| self.get_part(&url, id, &mut download));
            match outcome {
                Err(error) if download.etag.is_some() && is_cut(&error) => {
                    tries = if download.moved > before { 1 } else { tries + 1 };
                    if tries > RESUMES {
                        return Err(error);
                    }
                    thread::sleep(RESUME_PAUSE * 2_u32.pow(tries - 1));
                }
                outcome => return outcome.map(|()| download.moved),
            }
        }
    }

    /// Asks for what is missing of a download and takes it.
    fn get_part(&self, url: &str, id: &str, download: &mut Download<'_>) -> Result<(), ClientError> {
        let range = download.missing();
        let ask = || {
            let mut request = self.transfer(self.agent.get(url), id);
            if let Some(ByteRange { first, last }) = range {
                let last = last.map_or_else(String::new, |last| last.to_string());
                request = request.header("Range", format!("bytes={first}-{last}"));
            }
            if let Some(etag) = &download.etag {
                request = request.header("If-Range", etag);
            }
            request.call()
        };
        let response = Self::again(ask).map_err(|error| self.broken(&error))?;
        let response = accepted(response)?;
        if range.is_some() && response.status() != StatusCode::PARTIAL_CONTENT {
            let what = if download.etag.is_some() {
                "the get was cut, and the daemon has another file by now"
            } else {
                "the daemon sent the whole file instead of the range"
            };
            return Err(ClientError::Unexpected {
                what: what.to_owned(),
            });
        }
        download.begun(&response);
        download.take(response).map_err(|error| match error {
            Cut::Output(error) => ClientError::Output(error),
            Cut::Input(error) => self.broken_off(download.moved, download.total, &error),
        })
    }

    /// Checks arcs now, or rebuilds what `peer` held; with `wait` answers when nothing is missing.
    pub fn repair(
        &self,
        peer: Option<&str>,
        wait: bool,
        events: EventSink,
    ) -> Result<Reply<RepairReport>, ClientError> {
        let pairs = [
            ("peer", peer.map(str::to_owned)),
            ("wait", wait.then(|| "1".to_owned())),
        ];
        let query: Vec<_> = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        let url = format!("{}{}", self.base, with_query("/v1/repair", &query));
        self.watched(events, |id| {
            let request = self.agent.post(url).header("Authorization", &self.bearer);
            // Rebuilding a peer takes as long as it takes.
            let response = request.header("X-Mutualstore-Transfer", id).send_empty();
            answer(accepted(response.map_err(|error| self.broken(&error))?)?)
        })
    }

    fn transfer<B>(&self, request: RequestBuilder<B>, id: &str) -> RequestBuilder<B> {
        let request = request
            .header("Authorization", &self.bearer)
            .header("X-Mutualstore-Transfer", id);
        request
            .config()
            .timeout_recv_response(Some(STALL_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .build()
    }

    fn broken_off(&self, moved: u64, total: Option<u64>, error: &ureq::Error) -> ClientError {
        let never_begun = error::connected_never(error);
        match self.broken(error) {
            error if never_begun => error,
            error => ClientError::BrokenOff {
                moved,
                total,
                reason: None,
                code: exit::UNEXPECTED,
                retry: error.retry(),
            },
        }
    }

    /// Runs a transfer under a fresh id, hands on what the daemon reports beside it, and replaces a bare
    /// "broke off" by the daemon's reason.
    fn watched<T>(
        &self,
        events: EventSink,
        run: impl FnOnce(&str) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let id = format!("{:016x}", rand::random::<u64>());
        let follower = events.map(|sink| Follower::start(self, &id, sink));
        match run(&id) {
            Err(error @ ClientError::BrokenOff { .. }) => {
                let follower = follower.unwrap_or_else(|| Follower::start(self, &id, Arc::new(|_| ())));
                let reason = follower.end(REASON_GRACE);
                if reason.is_none() && self.healthy().is_err() {
                    return Err(gone(error));
                }
                Err(explained(error, reason))
            }
            outcome => {
                if let Some(follower) = follower {
                    follower.end(LINES_GRACE);
                }
                outcome
            }
        }
    }

    /// Polls the events of a transfer until it is over; answers the daemon's reason when it failed.
    fn follow(&self, id: &str, sink: &(dyn Fn(&str) + Sync), over: &AtomicBool) -> Option<ErrorBody> {
        let mut next = 0;
        loop {
            let was_over = over.load(Ordering::Acquire);
            let url = format!("{}/v1/transfers/{id}/events?after={next}", self.base);
            let request = self.agent.get(url).header("Authorization", &self.bearer);
            let response = request
                .config()
                .timeout_global(Some(POLL_TIMEOUT))
                .build()
                .call()
                .ok()?;
            match accepted(response).and_then(answer::<Events>) {
                Ok(Reply { body, .. }) => {
                    body.events.iter().for_each(|line| sink(line));
                    next = body.next;
                    if body.done || body.error.is_some() || (was_over && body.events.is_empty()) {
                        return body.error;
                    }
                }
                // Not begun yet, or over and forgotten.
                Err(ClientError::Refused { .. }) if !was_over => thread::sleep(UNKNOWN_PAUSE),
                Err(_) => return None,
            }
        }
    }
}

/// The second conversation. A daemon that never heard of the transfer holds a poll for its full length, so
/// nobody waits for the thread itself: it ends with its poll.
struct Follower {
    over: Arc<AtomicBool>,
    reason: Receiver<Option<ErrorBody>>,
}

impl Follower {
    fn start(client: &Client, id: &str, sink: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ended_with, reason) = mpsc::channel();
        let (client, id, ended) = (client.clone(), id.to_owned(), Arc::clone(&over));
        thread::spawn(move || {
            // Nobody may listen any more.
            drop(ended_with.send(client.follow(&id, &*sink, &ended)));
        });
        Self { over, reason }
    }

    /// The transfer is over: waits for its last lines, at most `grace`.
    fn end(self, grace: Duration) -> Option<ErrorBody> {
        self.over.store(true, Ordering::Release);
        self.reason.recv_timeout(grace).ok().flatten()
    }
}

fn explained(error: ClientError, reason: Option<ErrorBody>) -> ClientError {
    match (error, reason) {
        (ClientError::BrokenOff { moved, total, .. }, Some(reason)) => ClientError::BrokenOff {
            moved,
            total,
            reason: Some(reason.error),
            code: reason.code,
            retry: reason.retry,
        },
        (error, _) => error,
    }
}

/// A transfer that broke off because nobody answers any more.
fn gone(error: ClientError) -> ClientError {
    if let ClientError::BrokenOff { moved, total, .. } = error {
        return ClientError::BrokenOff {
            moved,
            total,
            reason: Some("the daemon is gone".to_owned()),
            code: exit::NO_DAEMON,
            retry: true,
        };
    }
    error
}

fn content_length(response: &ureq::http::Response<Body>) -> Option<u64> {
    response
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn head_of(response: &ureq::http::Response<Body>) -> FileHead {
    let name = response
        .headers()
        .get("X-Mutualstore-Name")
        .and_then(|value| value.to_str().ok());
    FileHead {
        size_bytes: content_length(response),
        name: name.and_then(decoded),
    }
}

/// What was got of a file, and where it goes.
struct Download<'a> {
    /// What is wanted.
    range: Option<ByteRange>,
    /// The strong tag of the file, from the first answer on.
    etag: Option<String>,
    moved: u64,
    total: Option<u64>,
    output: &'a mut dyn Write,
    progress: ProgressSink<'a>,
}

/// Why a download did not come to its end.
enum Cut {
    Input(ureq::Error),
    Output(io::Error),
}

impl Download<'_> {
    /// The bytes that are still to come; none for the whole file.
    fn missing(&self) -> Option<ByteRange> {
        let begun = self.range.unwrap_or(ByteRange { first: 0, last: None });
        let whole = self.range.is_none() && self.moved == 0;
        (!whole).then_some(ByteRange {
            first: begun.first + self.moved,
            ..begun
        })
    }

    /// An answer with bytes has come.
    fn begun(&mut self, response: &ureq::http::Response<Body>) {
        if self.etag.is_none() {
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
            self.etag = tag.filter(|tag| tag.starts_with('"')).map(str::to_owned);
            self.total = content_length(response);
        }
    }

    fn take(&mut self, response: ureq::http::Response<Body>) -> Result<(), Cut> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; COPY_BUFFER];
        (self.progress)(self.moved, self.total);
        loop {
            let chunk = match body.read(&mut buffer) {
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) => return Err(Cut::Input(error.into())),
            };
            if chunk.is_empty() {
                break;
            }
            self.output.write_all(chunk).map_err(Cut::Output)?;
            self.moved += chunk.len() as u64;
            (self.progress)(self.moved, self.total);
        }
        if self.total.is_some_and(|total| total != self.moved) {
            return Err(Cut::Input(ureq::Error::Io(io::ErrorKind::UnexpectedEof.into())));
        }
        self.output.flush().map_err(Cut::Output)
    }
}

/// Whether only the connection broke, or the daemon has none to spare at the moment.
fn is_cut(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::BrokenOff {
            code: exit::UNEXPECTED | exit::REFUSED,
            retry: true,
            ..
        } | ClientError::Refused {
            code: exit::REFUSED,
            ..
        }
    )
}

/// The body of a put: counts, and refuses an input that does not have the length it was announced with —
/// a file may change while it is read, and HTTP could not say so.
struct Upload<'a> {
    input: &'a mut dyn Read,
    length: Option<u64>,
    sent: u64,
    failure: Option<io::Error>,
    progress: ProgressSink<'a>,
}

impl Upload<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.map_or(u64::MAX, |length| length - self.sent);
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = loop {
            match self.input.read(buffer.get_mut(..room).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 && room > 0 && self.length.is_some() {
            let why = format!(
                "it ended after {} bytes, shorter than when it was opened",
                self.sent
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.sent += count as u64;
        Ok(count)
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.next(buffer) {
            Ok(count) => {
                (self.progress)(self.sent, self.length);
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
