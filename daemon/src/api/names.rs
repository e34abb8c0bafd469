//! Files by name over HTTP: buckets, listings, put, get, delete.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use mutualstore_contract::reply::{
    AccountInfo, AccountList, Batch, BatchReport, Bucket, BucketList, DeletedName, Device, DeviceList,
    NamedPut, NewBucket, PutReport, Settings,
};
use mutualstore_tree::codec::Fields;
use mutualstore_tree::entry::{Entry, Name, What};
use mutualstore_tree::merge::Versions;
use mutualstore_tree::version::Version;

use super::files::{PutQuery, answer, check_whole, content_length, named, timestamp, without_of};
use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::clock::unix_ms;
use crate::error::Failure;
use crate::format::link::Link;
use crate::format::names::base_name;
use crate::http::conditions::{self, Validators};
use crate::http::serve::Via;
use crate::names::{
    Change, Condition, DeviceOf, Names, OpenBucket, fields_of, file_name, file_of, hex_of, link,
};
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::options::PutOptions;
use crate::transfer::{Transfers, put};

/// When a file was modified, Unix nanoseconds.
const MODIFIED: &str = "x-mutualstore-modified";
/// Whether a file is executable: 1.
const EXECUTABLE: &str = "x-mutualstore-executable";
/// Bytes of a bucket's settings.
const MOST_OF_SETTINGS: usize = 64 << 10;
/// Bytes of many changes at once.
const MOST_OF_A_BATCH: usize = 8 << 20;

fn not_there() -> Failure {
    Failure::not_found("no such key in this bucket")
}

pub(super) async fn buckets(State(api): State<Api>) -> Result<Response, Refusal> {
    let buckets = api.app.names.buckets().await?;
    let listed = |versions: &Versions| Bucket {
        name: Names::bucket_name(versions).to_owned(),
        created: timestamp(versions.newest().version.ms),
    };
    json(&BucketList {
        buckets: buckets.iter().map(listed).collect(),
    })
}

pub(super) async fn create(State(api): State<Api>, Path(bucket): Path<String>) -> Result<Response, Refusal> {
    let is_new = api.app.names.create(&bucket).await?;
    let mut response = json(&NewBucket { bucket, new: is_new })?;
    if is_new {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

pub(super) async fn settings(
    State(api): State<Api>,
    Path(bucket): Path<String>,
) -> Result<Response, Refusal> {
    let settings = api.app.names.settings(&bucket).await?;
    json(&Settings { settings })
}

pub(super) async fn set(
    State(api): State<Api>,
    Path(bucket): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    let body = axum::body::to_bytes(body, MOST_OF_SETTINGS).await;
    let body = body.map_err(|_| Failure::usage("the settings are longer than 64 KiB, or broke off"))?;
    let settings: Settings = serde_json::from_slice(&body)
        .map_err(|error| Failure::usage(format!("these are no settings of a bucket: {error}")))?;
    let names = &api.app.names;
    names.set(&bucket, &settings.settings).await?;
    let settings = names.settings(&bucket).await?;
    json(&Settings { settings })
}

pub(super) async fn accounts(State(api): State<Api>) -> Result<Response, Refusal> {
    let account = api.app.names.account();
    json(&AccountList {
        accounts: vec![AccountInfo { account }],
    })
}

pub(super) async fn devices(State(api): State<Api>) -> Result<Response, Refusal> {
    let listed = |(bucket, of): (String, DeviceOf)| Device {
        device: of.device,
        bucket,
        writer: format!("{:016x}", of.writer),
        written: of.written_ms.map(timestamp),
        this: of.this,
    };
    let devices = api.app.names.devices().await?;
    json(&DeviceList {
        devices: devices.into_iter().map(listed).collect(),
    })
}

/// What the client says of a file besides its bytes.
fn described(headers: &HeaderMap) -> Result<(i64, Fields), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let modified_ns = match text(MODIFIED) {
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| Failure::usage(format!("header {MODIFIED}: expected Unix nanoseconds")))?,
        None => i64::try_from(unix_ms())
            .unwrap_or_default()
            .saturating_mul(1_000_000),
    };
    Ok(fields_of(modified_ns, text(EXECUTABLE) == Some("1")))
}

pub(super) struct NamedPutQuery {
    put: PutQuery,
    /// The file is stored, and gets its key by a batch.
    stage: bool,
    /// A taken key becomes another one, and the bucket is made if there is none.
    free: bool,
    /// `auto` too is a code that was asked for.
    code_given: bool,
}

impl FromQuery for NamedPutQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        let (stage, free) = (given.flag("stage")?, given.flag("free")?);
        if stage && free {
            return Err(Failure::usage("stage and free exclude each other"));
        }
        let put = PutQuery::from_query(given)?;
        Ok(Self {
            stage,
            free,
            code_given: put.has_code(),
            put,
        })
    }
}

/// A put that may begin.
struct Prepared {
    names: Arc<Names>,
    bucket: String,
    open: Arc<OpenBucket>,
    name: Name,
    options: PutOptions,
    modified_ms: i64,
    fields: Fields,
    stage: bool,
    free: bool,
    condition: Option<Condition>,
}

impl Prepared {
    async fn new(
        api: &Api,
        via: &Via,
        (bucket, key): (&str, &str),
        query: NamedPutQuery,
        headers: &HeaderMap,
    ) -> Result<Self, Failure> {
        let name = file_name(key)?;
        let policy = api.app.member.config.settings.placement;
        let mut options = query.put.options(policy, content_length(headers))?;
        check_whole(headers)?;
        if name.is_directory() && options.length != Some(0) {
            return Err(Failure::usage(
                "a key that ends in / is a directory; it has no bytes",
            ));
        }
        let (modified_ms, fields) = described(headers)?;
        via.all.upload(&via.connection).map_err(Failure::refused)?;
        let names = Arc::clone(&api.app.names);
        if query.stage {
            names.check_stage()?;
        }
        let open = if query.free {
            names.bucket_or_new(bucket).await?
        } else {
            names.bucket(bucket, false).await?
        };
        let condition = condition(Method::PUT, headers);
        if let Some(condition) = &condition {
            let versions = open.versions(names.transfers(), &name, true).await?;
            if !condition(versions.as_ref().and_then(Versions::there)) {
                return Err(Failure::precondition());
            }
        }
        base_name(key).clone_into(&mut options.name);
        options.bucket = Some(open.place(query.stage));
        if options.code.is_none() && !query.code_given {
            options.code = open.code(names.transfers()).await?;
        }
        Ok(Self {
            names,
            bucket: bucket.to_owned(),
            open,
            name,
            options,
            modified_ms,
            fields,
            stage: query.stage,
            free: query.free,
            condition,
        })
    }

    /// Stores the file, if it is one, and gives it its name, unless that is to come later.
    async fn run(
        self,
        transfers: &Arc<Transfers>,
        body: Body,
        transfer: &Arc<Transfer>,
    ) -> Result<(Option<PutReport>, Option<(Name, Version)>), Failure> {
        if self.name.is_directory() {
            let modified_ms = self.modified_ms;
            let what = What::Directory { modified_ms };
            let change = Change {
                condition: self.condition,
                ..Change::new(self.name, what, self.fields)
            };
            let written = self.open.write_all(transfers, vec![change]).await?;
            return Ok((None, written.into_iter().next()));
        }
        let place = self.open.place(self.stage);
        let (report, kept) = put::put(transfers, self.options, body.into_data_stream(), transfer).await?;
        let kept = match kept {
            Some(kept) if self.stage => {
                self.names.stage(report.link.parse()?, place, kept);
                return Ok((Some(report), None));
            }
            kept => kept,
        };
        let what = file_of(&self.name, &report.link, report.size_bytes, self.modified_ms)?;
        if self.free {
            self.names.create(&self.bucket).await?;
        }
        let change = Change {
            kept,
            free: self.free,
            condition: self.condition,
            ..Change::new(self.name, what, self.fields)
        };
        let written = self.open.write_all(transfers, vec![change]).await?;
        Ok((Some(report), written.into_iter().next()))
    }
}

pub(super) async fn put_file(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    Path((bucket, key)): Path<(String, String)>,
    query: Result<Query<NamedPutQuery>, Refusal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let transfers = Arc::clone(&api.app.transfers);
    let transfer = transfers.running.begin(named(&headers), Operation::Put);
    let prepared = match query.map_err(|Refusal(failure)| failure) {
        Ok(Query(query)) => Prepared::new(&api, &via, (&bucket, &key), query, &headers).await,
        Err(failure) => Err(failure),
    };
    let prepared = prepared.inspect_err(|failure| transfer.finish(Err(failure.clone())))?;
    let task = tokio::spawn(async move {
        let outcome = prepared.run(&transfers, body, &transfer).await;
        transfer.finish(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        outcome
    });
    let broke_off =
        |_| Failure::unexpected("the put broke off; look with `mutualstore ls` what became of it");
    let (file, written) = task.await.map_err(broke_off)??;
    let (key, version) = match written {
        Some((name, version)) => (name.key().to_owned(), Some(hex_of(version))),
        None => (key, None),
    };
    let mut response = json(&NamedPut {
        file,
        bucket,
        key,
        version,
    })?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// What the headers of a request say must hold of a key, if they say something. It holds at the moment that
/// the key changes on this device; what another device wrote in the same moments is a conflict.
fn condition(method: Method, headers: &HeaderMap) -> Option<Condition> {
    let is_conditional = headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH);
    let headers = is_conditional.then(|| headers.clone())?;
    Some(Box::new(move |there| {
        let current = there.and_then(validators_of);
        conditions::precondition(&method, &headers, current.as_ref()).is_ok()
    }))
}

/// What tells what a key is from what it was.
fn validators_of(entry: &Entry) -> Option<Validators> {
    match &entry.what {
        What::File(file) => {
            let modified = u64::try_from(file.modified_ms).ok();
            let modified = modified.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
            Some(Validators::new(&hex::encode(file.pointer.manifest), modified))
        }
        What::Directory { .. } => Some(Validators::new(&hex_of(entry.version), None)),
        What::Deleted | What::Snapshot(_) | What::Setting(_) => None,
    }
}

/// Many changes at once.
pub(super) async fn apply(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    Path(bucket): Path<String>,
    body: Body,
) -> Result<Response, Refusal> {
    via.all.upload(&via.connection).map_err(Failure::refused)?;
    let body = axum::body::to_bytes(body, MOST_OF_A_BATCH).await;
    let body = body.map_err(|_| Failure::usage("the changes are longer than 8 MiB, or broke off"))?;
    let batch: Batch = serde_json::from_slice(&body)
        .map_err(|error| Failure::usage(format!("these are no changes of a bucket: {error}")))?;
    let names = Arc::clone(&api.app.names);
    let task = tokio::spawn(async move { names.apply(&bucket, &batch).await });
    let broke_off =
        |_| Failure::unexpected("the changes broke off; look with `mutualstore ls` what became of them");
    let written = task.await.map_err(broke_off)??;
    json(&BatchReport { written })
}

/// What a query says of the version that is wanted, and the rest of it.
#[derive(Default)]
struct Wanted {
    version: Option<String>,
    /// As it was at this moment, Unix milliseconds.
    at: Option<String>,
    fresh: bool,
    rest: String,
}

impl Wanted {
    fn of(query: Option<&str>) -> Self {
        let mut wanted = Self::default();
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("version", text)) => wanted.version = Some(text.to_owned()),
                Some(("at", text)) => wanted.at = Some(text.to_owned()),
                Some(("fresh", "1")) => wanted.fresh = true,
                Some(_) | None => {
                    wanted.rest.push_str(pair);
                    wanted.rest.push('&');
                }
            }
        }
        wanted
    }
}

pub(super) async fn get_file(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    Path((bucket, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let transfer = api.app.transfers.running.begin(named(&headers), Operation::Get);
    let outcome = async {
        via.all.download(&via.connection).map_err(Failure::refused)?;
        let wanted = Wanted::of(query.as_deref());
        let without = without_of(Some(&wanted.rest))?;
        let found = find(&api, &bucket, &key, &wanted).await?;
        answer(&api, &found, &without, (&method, &headers), &transfer).await
    };
    let outcome = outcome.await;
    if let Err(failure) = &outcome {
        transfer.finish(Err(failure.clone()));
    }
    outcome.map_err(Refusal)
}

/// The link of what a key is, or was at a version.
async fn find(api: &Api, bucket: &str, key: &str, wanted: &Wanted) -> Result<Link, Failure> {
    let name = file_name(key)?;
    let names = &api.app.names;
    let open = names.bucket(bucket, wanted.fresh).await?;
    let versions = open
        .versions(names.transfers(), &name, wanted.fresh)
        .await?
        .ok_or_else(not_there)?;
    let at = wanted.at.as_ref().map(|text| {
        text.parse::<u64>()
            .map_err(|_| Failure::usage(format!("at={text}: expected Unix milliseconds")))
    });
    let at = at.transpose()?;
    let entry = match &wanted.version {
        None if at.is_some() => at.and_then(|at| versions.as_of(at)),
        Some(text) => versions.all().find(|entry| hex_of(entry.version) == *text),
        None => versions.there(),
    };
    if entry.is_none() && wanted.version.is_some() {
        return Err(Failure::not_found("no such version of this key"));
    }
    match entry.map(|entry| &entry.what) {
        Some(What::File(file)) => Ok(link(names.transfers(), &file.pointer)),
        Some(What::Directory { .. }) => Err(Failure::usage(
            "the key is a directory; `mutualstore ls` lists it",
        )),
        Some(What::Deleted | What::Snapshot(_) | What::Setting(_)) | None => Err(not_there()),
    }
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let name = file_name(&key)?;
    let names = Arc::clone(&api.app.names);
    let condition = condition(Method::DELETE, &headers);
    let open = names.bucket(&bucket, condition.is_some()).await?;
    let versions = open
        .versions(names.transfers(), &name, condition.is_some())
        .await?;
    if versions.as_ref().and_then(Versions::there).is_none() {
        return Err(not_there().into());
    }
    let change = Change {
        condition,
        ..Change::new(name, What::Deleted, Fields::new())
    };
    let task = tokio::spawn(async move {
        let written = open.write_all(names.transfers(), vec![change]).await?;
        Ok::<_, Failure>(written.first().map(|(_, version)| *version).unwrap_or_default())
    });
    let broke_off =
        |_| Failure::unexpected("the deletion broke off; look with `mutualstore ls` what became of it");
    let version = task.await.map_err(broke_off)??;
    json(&DeletedName {
        bucket,
        key,
        version: hex_of(version),
    })
}
