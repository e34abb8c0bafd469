//! A small blocking client of one daemon's loopback API.
//!
//! Invariants: a token goes only to the daemon it belongs to — a data directory's `daemon.json` must name a
//! live process and the peer that answers; no proxy, no redirect. Links and tokens never appear in errors.
//! Deliberately absent: retries — the caller is told whether one may help. Only a get that was cut goes on
//! where it stopped.

mod error;
mod metrics;
mod source;
mod transfer;
mod upkeep;

use std::borrow::Cow;
use std::fs;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::typestate::WithBody;
use ureq::{Agent, Body, RequestBuilder};

pub use error::ClientError;
pub use metrics::Metrics;
use mutualstore_contract::exit;
use mutualstore_contract::reply::{
    AccountList, Batch, BatchReport, BucketList, DaemonFile, Deleted, DeletedName, DeviceList, FileList,
    FileStat, Identity, InviteReply, Lookup, NameList, NewBucket, Outside, Ring, Settings, Status,
};
pub use source::{Changed, Source};
pub use transfer::{ByteRange, EventSink, GetOptions, Naming, ProgressSink, PutOptions};

/// A ring walk visits every peer, dead ones by time-out.
const QUESTION_TIMEOUT: Duration = Duration::from_mins(2);
/// Asking the holders of every file takes its time.
const SURVEY_TIMEOUT: Duration = Duration::from_mins(10);
/// A daemon that does not even say who it is within this hangs.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(15);
/// Many changes at once.
const BATCH_TIMEOUT: Duration = Duration::from_hours(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is not used again; the daemon closes it after 10 s.
const IDLE_AGE: Duration = Duration::from_secs(5);
/// Longest silence in the middle of a transfer; the daemon gives up on its own long before.
const STALL_TIMEOUT: Duration = Duration::from_mins(5);
/// Files of one answer of a long list, the most a daemon gives: on a busy machine each question costs a wait.
const PAGE: usize = 10_000;
/// JSON answers are small; `stat` of a very large file is the largest.
const ANSWER_LIMIT: u64 = 1 << 30;

/// Reads `dir/daemon.json`; `None` when it is missing or being replaced.
pub fn read_daemon_file(dir: &Path) -> Option<DaemonFile> {
    serde_json::from_slice(&fs::read(dir.join("daemon.json")).ok()?).ok()
}

/// Whether a `daemon.json` was written in `dir`, and not copied there from where a daemon runs.
fn belongs_to(file: &DaemonFile, dir: &Path) -> bool {
    let lock = fs::metadata(dir.join("lock")).map(|meta| format!("{}:{}", meta.dev(), meta.ino()));
    file.lock.is_empty() || lock.is_ok_and(|lock| lock == file.lock)
}

/// Whether a process lives: a zombie does not.
fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).unwrap_or(i32::MAX);
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.num_threads > 1 || !matches!(stat.state, 'Z' | 'X' | 'x'))
}

/// An answer both as the daemon sent it (for `--json`) and as a type (for people).
#[derive(Clone, Debug)]
pub struct Reply<T> {
    /// The document as sent.
    pub json: Value,
    /// The same, read.
    pub body: T,
}

/// What is known of a file before its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHead {
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Base name given at `put`, decoded but not made harmless.
    pub name: Option<String>,
}

/// A daemon that was found, with a method for each resource of its HTTP API.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    bearer: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Finds the daemon that serves `data_dir` and makes sure that it is the one that answers.
    pub fn open(data_dir: &Path) -> Result<Self, ClientError> {
        let not_running = |why: &str| ClientError::NoDaemon {
            what: format!(
                "no daemon serves {}: {why}; start it with `mutualstore daemon --data-dir {}`",
                data_dir.display(),
                data_dir.display()
            ),
        };
        let file =
            read_daemon_file(data_dir).ok_or_else(|| match fs::metadata(data_dir.join("daemon.json")) {
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => ClientError::Token {
                    path: data_dir.join("token"),
                    source,
                },
                Ok(_) | Err(_) => not_running("it has no daemon.json"),
            })?;
        if !belongs_to(&file, data_dir) {
            return Err(not_running("its daemon.json is a copy of another directory's"));
        }
        if !is_running(file.pid) {
            return Err(not_running(&format!("process {} is gone", file.pid)));
        }
        let client = Self::with_token_file(&file.api, &data_dir.join("token"))?;
        let answering = match client.ask_within::<Identity>("/v1/identity", IDENTITY_TIMEOUT) {
            Ok(identity) if identity.body.is_of(&file) => return Ok(client),
            Ok(identity) => identity.body.peer,
            Err(ClientError::Refused {
                code: exit::NOT_ALLOWED,
                ..
            }) => "another daemon".to_owned(),
            Err(error) => return Err(error),
        };
        Err(not_running(&if answering == file.peer {
            format!("at {} answers another instance of {answering}", client.base)
        } else {
            format!("at {} answers {answering}, not {}", client.base, file.peer)
        }))
    }

    /// The daemon at `api` (`http://ADDR:PORT`), with the token in a file.
    pub fn with_token_file(api: &str, token_file: &Path) -> Result<Self, ClientError> {
        let token = fs::read_to_string(token_file).map_err(|source| ClientError::Token {
            path: PathBuf::from(token_file),
            source,
        })?;
        Ok(Self::new(api, token.trim()))
    }

    /// The daemon at `api` (`http://ADDR:PORT`), with a token.
    pub fn new(api: &str, token: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // The token must not leave this machine, whatever the environment says.
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_await_100(Some(CONNECT_TIMEOUT))
            .max_idle_age(IDLE_AGE)
            .user_agent(concat!("mutualstore/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let address = api.strip_prefix("http://").unwrap_or(api).trim_end_matches('/');
        Self {
            agent,
            base: format!("http://{address}"),
            bearer: format!("Bearer {token}"),
        }
    }

    /// Where the API is, `http://ADDR:PORT`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// This peer: capacity, use, ring, repair, and how its files are doing as far as it remembers.
    pub fn status(&self) -> Result<Reply<Status>, ClientError> {
        self.ask("/v1/status")
    }

    /// The same after asking the holders of every file.
    pub fn status_fresh(&self) -> Result<Reply<Status>, ClientError> {
        self.ask_within("/v1/status?fresh=1", SURVEY_TIMEOUT)
    }

    /// Whether the daemon is joined or alone, as `/health` says.
    pub fn healthy(&self) -> Result<bool, ClientError> {
        let request = self.agent.get(format!("{}/health", self.base));
        let response = request
            .config()
            .timeout_global(Some(CONNECT_TIMEOUT))
            .build()
            .call();
        Ok(response.map_err(|error| self.broken(&error))?.status() == StatusCode::OK)
    }

    /// The ring as this peer knows it, or walked, with fingers, or checked.
    pub fn ring(&self, query: RingQuery) -> Result<Reply<Ring>, ClientError> {
        let flags = [
            ("walk", query.walk),
            ("fingers", query.fingers),
            ("check", query.check),
        ];
        let query: Vec<(&str, String)> = flags
            .iter()
            .filter(|(_, wanted)| *wanted)
            .map(|(name, _)| (*name, "1".to_owned()))
            .collect();
        self.ask(&with_query("/v1/ring", &query))
    }

    /// Who is responsible for an identifier (hexadecimal), a link, or a file in a bucket.
    pub fn lookup(&self, what: &str) -> Result<Reply<Lookup>, ClientError> {
        self.ask(&format!("/v1/lookup/{}", encoded(&self.link_of(what)?)))
    }

    /// The link of what `/BUCKET/KEY` shows; a link is its own.
    fn link_of<'a>(&self, word: &'a str) -> Result<Cow<'a, str>, ClientError> {
        let Some((bucket, key)) = word.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Ok(Cow::Borrowed(word));
        };
        let query = NamesQuery {
            prefix: key.to_owned(),
            ..NamesQuery::default()
        };
        // A key comes before all that begin with it.
        let mut pairs = query.pairs();
        pairs.push(("limit", "1".to_owned()));
        let path = format!("/v1/names/{}", encoded(bucket));
        let reply: Reply<NameList> = self.ask_within(&with_query(&path, &pairs), SURVEY_TIMEOUT)?;
        let first = reply
            .body
            .files
            .into_iter()
            .next()
            .filter(|file| file.name == key);
        let link = first.and_then(|file| file.link);
        link.map(Cow::Owned).ok_or_else(|| ClientError::Refused {
            code: exit::NOT_FOUND,
            message: format!("no file of this name in the bucket: {word}"),
            retry: false,
        })
    }

    /// The files put through this daemon, of all pages; `pattern` knows `*` and `?`. Their health is what the
    /// daemon remembers, or asked now if `fresh`.
    pub fn list(&self, pattern: Option<&str>, fresh: bool) -> Result<Reply<FileList>, ClientError> {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(pattern.map(|text| ("pattern", text.to_owned())));
        if fresh {
            query.push(("fresh", "1".to_owned()));
        }
        let (mut files, mut json) = (Vec::new(), Vec::new());
        let mut page = query.clone();
        loop {
            let reply: Reply<FileList> = self.ask_within(&with_query("/v1/files", &page), SURVEY_TIMEOUT)?;
            files.extend(reply.body.files);
            if let Value::Object(mut document) = reply.json
                && let Some(Value::Array(entries)) = document.remove("files")
            {
                json.extend(entries);
            }
            let Some(next) = reply.body.next else {
                break;
            };
            page.clone_from(&query);
            page.push(("after", next));
        }
        Ok(Reply {
            json: serde_json::json!({ "files": json, "next": null }),
            body: FileList { files, next: None },
        })
    }

    /// Every stripe and shard of a file, behind a link or `/BUCKET/KEY`, asked now.
    pub fn stat(&self, link: &str) -> Result<Reply<FileStat>, ClientError> {
        self.ask(&format!("/v1/files/{}/stat", encoded(&self.link_of(link)?)))
    }

    /// The buckets of the daemon's account.
    pub fn buckets(&self) -> Result<Reply<BucketList>, ClientError> {
        self.ask_within("/v1/names", SURVEY_TIMEOUT)
    }

    /// Makes a bucket, unless there is one of this name. Whether there was none.
    pub fn create_bucket(&self, name: &str) -> Result<Reply<NewBucket>, ClientError> {
        let url = format!("{}/v1/names/{}", self.base, encoded(name));
        let request = self.patient(self.agent.put(url), STALL_TIMEOUT);
        self.answered(request.send_empty())
    }

    /// A request that may take so long.
    fn patient<B>(&self, request: RequestBuilder<B>, limit: Duration) -> RequestBuilder<B> {
        let request = request.header("Authorization", &self.bearer);
        request.config().timeout_global(Some(limit)).build()
    }

    /// The daemon's answer to a request that was sent.
    fn answered<T: DeserializeOwned>(
        &self,
        sent: Result<Response<Body>, ureq::Error>,
    ) -> Result<Reply<T>, ClientError> {
        answer(accepted(sent.map_err(|error| self.broken(&error))?)?)
    }

    /// The keys of a bucket, all pages.
    pub fn names(&self, bucket: &str, query: &NamesQuery) -> Result<NameList, ClientError> {
        let path = format!("/v1/names/{}", encoded(bucket));
        let mut all = NameList {
            files: Vec::new(),
            prefixes: Vec::new(),
            next: None,
        };
        let mut page = query.pairs();
        loop {
            let reply: Reply<NameList> = self.ask_within(&with_query(&path, &page), SURVEY_TIMEOUT)?;
            all.files.extend(reply.body.files);
            all.prefixes.extend(reply.body.prefixes);
            let Some(next) = reply.body.next else {
                return Ok(all);
            };
            page = query.pairs();
            page.push(("after", next));
        }
    }

    /// The accounts that the daemon serves.
    pub fn accounts(&self) -> Result<Reply<AccountList>, ClientError> {
        self.ask("/v1/account")
    }

    /// The devices of the account, by bucket.
    pub fn devices(&self) -> Result<Reply<DeviceList>, ClientError> {
        self.ask_within("/v1/account/devices", SURVEY_TIMEOUT)
    }

    /// What was set for a bucket.
    pub fn settings(&self, bucket: &str) -> Result<Reply<Settings>, ClientError> {
        self.ask(&format!("/v1/settings/{}", encoded(bucket)))
    }

    /// Sets what holds for a bucket. All that is set then.
    pub fn set(&self, bucket: &str, settings: &Settings) -> Result<Reply<Settings>, ClientError> {
        let url = format!("{}/v1/settings/{}", self.base, encoded(bucket));
        self.send_json(self.patient(self.agent.put(url), STALL_TIMEOUT), settings)
    }

    fn send_json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder<WithBody>,
        body: &impl serde::Serialize,
    ) -> Result<Reply<T>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Unexpected {
            what: error.to_string(),
        })?;
        self.answered(request.send(&body[..]))
    }

    /// Makes many changes of a bucket, all or none in the eyes of other devices.
    pub fn apply(&self, bucket: &str, batch: &Batch) -> Result<Reply<BatchReport>, ClientError> {
        let url = format!("{}/v1/names/{}", self.base, encoded(bucket));
        // What goes to another bucket is stored there anew.
        self.send_json(self.patient(self.agent.post(url), BATCH_TIMEOUT), batch)
    }

    /// Marks a key of a bucket, `/BUCKET/KEY`, as deleted; its versions are kept.
    pub fn delete_name(&self, name: &str) -> Result<Reply<DeletedName>, ClientError> {
        let url = format!("{}{}", self.base, resource(name));
        self.answered(self.patient(self.agent.delete(url), STALL_TIMEOUT).call())
    }

    /// Deletes a file on every holder; its owner's daemon alone can.
    pub fn delete(&self, link: &str) -> Result<Reply<Deleted>, ClientError> {
        let url = format!("{}/v1/files/{}", self.base, encoded(link));
        self.answered(self.patient(self.agent.delete(url), STALL_TIMEOUT).call())
    }

    /// How the peer looks to a few others, asked now.
    pub fn outside(&self) -> Result<Reply<Outside>, ClientError> {
        self.ask("/v1/outside")
    }

    /// The line that lets another daemon join.
    pub fn invite(&self) -> Result<Reply<InviteReply>, ClientError> {
        self.ask("/v1/invite")
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ClientError> {
        self.ask_within(path, QUESTION_TIMEOUT)
    }

    fn ask_within<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<Reply<T>, ClientError> {
        let url = format!("{}{path}", self.base);
        self.answered(Self::again(|| self.patient(self.agent.get(&url), limit).call()))
    }

    /// Asks once more, on a new connection, when the one at hand broke without an answer: a daemon may end a
    /// connection between two requests. For requests that change nothing.
    fn again<T>(ask: impl Fn() -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
        match ask() {
            Err(ureq::Error::Io(error)) if error::is_broken(&error) => ask(),
            asked => asked,
        }
    }

    /// A request that got no answer at all.
    fn broken(&self, error: &ureq::Error) -> ClientError {
        error::without_answer(&self.base, error)
    }
}

/// What `ring` shows beside the peers this daemon knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingQuery {
    /// Follow the successors all around; list only peers that answered.
    pub walk: bool,
    /// List this peer's routing shortcuts.
    pub fingers: bool,
    /// Look up every virtual node from every other.
    pub check: bool,
}

/// Which keys of a bucket are wanted.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a query")]
pub struct NamesQuery {
    /// Keys that begin so.
    pub prefix: String,
    /// Keys that go on behind this are shown up to it only.
    pub delimiter: Option<String>,
    /// All versions.
    pub versions: bool,
    /// What was deleted too.
    pub deleted: bool,
    /// Only keys that two devices wrote at the same time.
    pub conflicts: bool,
    /// Ask what others wrote this moment.
    pub fresh: bool,
    /// Ask the holders of every file how it is doing.
    pub health: bool,
}

impl NamesQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let flag = |name, set: bool| set.then(|| (name, "1".to_owned()));
        let mut pairs = vec![("prefix", self.prefix.clone())];
        pairs.extend(self.delimiter.clone().map(|text| ("delimiter", text)));
        pairs.extend(flag("versions", self.versions));
        pairs.extend(flag("deleted", self.deleted));
        pairs.extend(flag("conflicts", self.conflicts));
        pairs.extend(flag("fresh", self.fresh));
        pairs.extend(flag("health", self.health));
        pairs
    }
}

/// Where the API has what a link, or `/BUCKET/KEY`, stands for.
fn resource(word: &str) -> String {
    word.strip_prefix('/').map_or_else(
        || format!("/v1/files/{}", encoded(word)),
        |path| {
            let parts: Vec<String> = path.split('/').map(encoded).collect();
            format!("/v1/names/{}", parts.join("/"))
        },
    )
}

/// Turns an error status into the daemon's own words.
fn accepted(mut response: Response<Body>) -> Result<Response<Body>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response
        .body_mut()
        .with_config()
        .limit(64 << 10)
        .read_to_string()
        .unwrap_or_default();
    Err(error::refusal(status, &text))
}

fn answer<T: DeserializeOwned>(mut response: Response<Body>) -> Result<Reply<T>, ClientError> {
    let unexpected = |why: String| ClientError::Unexpected { what: why };
    let mut reader = response.body_mut().with_config().limit(ANSWER_LIMIT).reader();
    // Read whole first: of a reader, JSON is taken byte by byte.
    let mut text = Vec::new();
    let read = reader.read_to_end(&mut text);
    read.map_err(|error| unexpected(format!("the daemon's answer broke off: {error}")))?;
    let json: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| unexpected(format!("the daemon's answer is not JSON: {error}")))?;
    let body = T::deserialize(&json)
        .map_err(|error| unexpected(format!("the daemon's answer is not understood: {error}")))?;
    Ok(Reply { json, body })
}

/// Percent-encodes everything but RFC 3986 unreserved characters.
fn encoded(text: &str) -> String {
    let digit = |value: u8| {
        char::from_digit(u32::from(value), 16)
            .unwrap_or_default()
            .to_ascii_uppercase()
    };
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

/// Undoes [`encoded`]; `None` when an escape is malformed or the bytes are not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (char::from(bytes.next()?), char::from(bytes.next()?));
            out.push(u8::try_from(high.to_digit(16)? * 16 + low.to_digit(16)?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (index, (name, value)) in pairs.iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.push_str(&encoded(value));
    }
    out
}

#[cfg(test)]
mod tests;
