//! Files over HTTP: put, get (with ranges), stat, delete.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    LAST_MODIFIED,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{FileStat, Health, Scope, ShardStat, StripeKind, StripeStat};
use mutualstore_contract::units::Size;
use mutualstore_erasure::{Code, HASH_LEN, Policy};

use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::format::link::Link;
use crate::format::manifest::{MAX_FRAGMENTS, MAX_NAME, MAX_SHARD_SIZE, check_shard_size};
use crate::format::names::{base_name, percent_encode};
use crate::format::placement::Placement;
use crate::http::conditions::{self, Selected, Unmet, Validators};
use crate::http::disposition::attachment;
use crate::http::serve::Via;
use crate::peer::census::Census;
use crate::transfer::delete;
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::get::{self, OpenFile};
use crate::transfer::health::{Asked, ShardHealth, StripeHealth};
use crate::transfer::options::{Fragments, PutOptions};
use crate::transfer::put;

const TRANSFER: &str = "x-mutualstore-transfer";
const NAME: HeaderName = HeaderName::from_static("x-mutualstore-name");
/// Bytes of a shard of a full block, unless asked otherwise.
const SHARD_SIZE: u32 = MAX_SHARD_SIZE;

pub(super) struct PutQuery {
    name: String,
    code: Option<String>,
    placement: Option<String>,
    scope: Option<String>,
    fragments: Option<String>,
    shard_size: Option<String>,
    degraded: bool,
}

impl FromQuery for PutQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            name: given.text("name").unwrap_or_default(),
            code: given.text("code"),
            placement: given.text("placement"),
            scope: given.text("scope"),
            fragments: given.text("fragments"),
            shard_size: given.text("shard_size"),
            degraded: given.flag("degraded")?,
        })
    }
}

pub(super) fn named(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(TRANSFER)
        .and_then(|value| value.to_str().ok())
        .filter(|name| name.len() <= 64)
}

impl PutQuery {
    /// Whether a code was asked for.
    pub(super) fn has_code(&self) -> bool {
        self.code.is_some()
    }

    /// `default` is the policy where none is named, `length` the bytes of the body where they are known.
    pub(super) fn options(self, default: Policy, length: Option<u64>) -> Result<PutOptions, Failure> {
        let code = match self.code.as_deref() {
            None | Some("auto") => None,
            Some(text) => Some(
                text.parse::<Code>()
                    .map_err(|error| Failure::usage(format!("code {text}: {error}")))?,
            ),
        };
        let policy = self.placement.map_or(Ok(default), |text| {
            let named = |error| Failure::usage(format!("placement {text}: {error}"));
            text.parse().map_err(named)
        })?;
        let scope = self
            .scope
            .map_or(Ok(Scope::default()), |text| scope(&text, policy))?;
        let cut = |text: String| fragments(&text, length);
        let fragments = self.fragments.map(cut).transpose()?;
        let shard_size = self.shard_size.map_or(Ok(SHARD_SIZE), |text| shard_size(&text))?;
        let name = base_name(&self.name).to_owned();
        if name.len() > MAX_NAME {
            let text = format!(
                "the name is {} bytes long; at most {MAX_NAME} are possible",
                name.len()
            );
            return Err(Failure::usage(text));
        }
        Ok(PutOptions {
            name,
            code,
            shard_size,
            policy,
            scope,
            fragments,
            degraded: self.degraded,
            length,
            bucket: None,
        })
    }
}

/// The scope that `text` names, of a policy that has one.
fn scope(text: &str, policy: Policy) -> Result<Scope, Failure> {
    let scope = text
        .parse()
        .map_err(|error| Failure::usage(format!("scope {text}: {error}")))?;
    if policy.has_groups() {
        Ok(scope)
    } else {
        Err(Failure::usage(format!(
            "scope {text}: placement {policy} has no groups for a file to keep to; copysets and buddies have"
        )))
    }
}

fn fragments(text: &str, length: Option<u64>) -> Result<Fragments, Failure> {
    let count = text.parse::<NonZeroU32>().ok();
    let count = count
        .filter(|count| count.get() <= MAX_FRAGMENTS)
        .ok_or_else(|| {
            Failure::usage(format!(
                "fragments {text}: expected a number from 1 to {MAX_FRAGMENTS}"
            ))
        })?;
    let size = length.ok_or_else(|| {
        Failure::usage("fragments need the size of the file beforehand: send it with Content-Length")
    })?;
    Ok(Fragments { count, size })
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn shard_size(text: &str) -> Result<u32, Failure> {
    let Size(bytes) = text
        .parse()
        .map_err(|error| Failure::usage(format!("shard size: {error}")))?;
    check_shard_size(bytes).map_err(Failure::usage)
}

/// What is put is a whole file, its bytes as they come (RFC 9110 §8.4 and §14.4).
pub(super) fn check_whole(headers: &HeaderMap) -> Result<(), Failure> {
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Failure::usage(
            "Content-Range: a part of a file cannot be put; nothing was stored; send all of it",
        ));
    }
    let coded = headers.get(CONTENT_ENCODING);
    if coded.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Failure::usage(
            "Content-Encoding: a file is stored as its bytes come, and its coding would be lost; nothing was \
             stored; send it without one",
        ));
    }
    Ok(())
}

pub(super) async fn put_file(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    query: Result<Query<PutQuery>, Refusal>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let transfers = Arc::clone(&api.app.transfers);
    let transfer = transfers.running.begin(named(&headers), Operation::Put);
    let options = match query.map_err(|Refusal(failure)| failure) {
        Ok(Query(query)) => query.options(api.app.member.config.settings.placement, content_length(&headers)),
        Err(failure) => Err(failure),
    };
    let options = options.and_then(|options| {
        check_whole(&headers)?;
        via.all.upload(&via.connection).map_err(Failure::refused)?;
        Ok(options)
    });
    let options = options.inspect_err(|failure| transfer.finish(Err(failure.clone())))?;
    // On a task of its own: a client that goes away breaks the body off, and the put then cleans up after
    // itself.
    let task = tokio::spawn(async move {
        let outcome = put::put(&transfers, options, body.into_data_stream(), &transfer).await;
        let outcome = outcome.map(|(report, _)| report);
        transfer.finish(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
        outcome
    });
    let report = task
        .await
        .map_err(|_| Failure::unexpected("the put broke off; nothing was stored"))??;
    let mut response = json(&report)?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

fn parse_link(text: &str) -> Result<Link, Failure> {
    Ok(text.parse::<Link>()?)
}

/// Shard indices not to be used, as if they were lost: `without=0&without=3`.
pub(super) fn without_of(query: Option<&str>) -> Result<Vec<u8>, Failure> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    let index = |pair: &str| {
        let value = pair.strip_prefix("without=").and_then(|value| value.parse().ok());
        value.ok_or_else(|| Failure::usage(format!("{pair}: expected without=INDEX, from 0 to 255")))
    };
    pairs.map(index).collect()
}

pub(super) async fn get_file(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    Path(link): Path<String>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let transfer = api.app.transfers.running.begin(named(&headers), Operation::Get);
    let slot = via.all.download(&via.connection).map_err(Failure::refused);
    let given = slot.and_then(|()| Ok((without_of(query.as_deref())?, parse_link(&link)?)));
    let outcome = match given {
        Ok((without, link)) => answer(&api, &link, &without, (&method, &headers), &transfer).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &outcome {
        transfer.finish(Err(failure.clone()));
    }
    outcome.map_err(Refusal)
}

/// What tells the file behind a link from others.
fn validators(link: &Link, created: Option<u64>) -> Validators {
    let modified = created.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    Validators::new(&hex::encode(link.manifest), modified)
}

/// The bytes of a file, as far as its conditions and range want them.
pub(super) async fn answer(
    api: &Api,
    link: &Link,
    without: &[u8],
    (method, headers): (&Method, &HeaderMap),
    transfer: &Arc<Transfer>,
) -> Result<Response, Failure> {
    let file = get::open(&api.app.transfers, transfer, link).await?;
    let size = file.manifest.size;
    let current = validators(link, Some(file.manifest.created));
    let part = match conditions::select(method, headers, &current, size) {
        Selected::Whole => None,
        Selected::Part(first, last) => Some((first, last)),
        Selected::Unsatisfiable => return Ok(unsatisfiable(size, transfer)),
        Selected::Unmet(Unmet::NotModified) => {
            transfer.finish(Ok(()));
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            insert(&mut response, ETAG, &current.etag);
            return Ok(response);
        }
        Selected::Unmet(Unmet::PreconditionFailed) => return Err(Failure::precondition()),
    };
    let mut response = Response::new(Body::empty());
    describe_file(&mut response, &file, &current, part);
    let bytes = part.map_or(0..size, |(first, last)| first..last + 1);
    if *method == Method::HEAD || bytes.is_empty() {
        transfer.finish(Ok(()));
    } else {
        let stream = get::stream(&api.app.transfers, Arc::clone(transfer), file, bytes, without).await?;
        *response.body_mut() = Body::from_stream(stream);
    }
    Ok(response)
}

/// The range lies outside the file.
fn unsatisfiable(size: u64, transfer: &Transfer) -> Response {
    let failure = Failure::bad_range(size);
    transfer.finish(Err(failure.clone()));
    let mut response = Refusal(failure).into_response();
    insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
    insert(&mut response, ACCEPT_RANGES, "bytes");
    response
}

/// Status and headers of a file, or of the part of it from a first byte to a last.
fn describe_file(response: &mut Response, file: &OpenFile, current: &Validators, part: Option<(u64, u64)>) {
    let manifest = &file.manifest;
    let size = manifest.size;
    let length = match part {
        Some((first, last)) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(response, CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
            last - first + 1
        }
        None => size,
    };
    insert(response, CONTENT_LENGTH, &length.to_string());
    // The type in the manifest is not to be trusted; one that is no header value is left out.
    insert(response, CONTENT_TYPE, "application/octet-stream");
    if !manifest.media_type.is_empty() {
        insert(response, CONTENT_TYPE, &manifest.media_type);
    }
    response
        .headers_mut()
        .insert(CONTENT_DISPOSITION, attachment(&manifest.name));
    insert(response, ACCEPT_RANGES, "bytes");
    insert(response, ETAG, &current.etag);
    if let Some(date) = current.last_modified() {
        insert(response, LAST_MODIFIED, &date);
    }
    insert(response, NAME, &percent_encode(&manifest.name));
}

fn insert(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// RFC 3339 in UTC, to the second.
pub(super) fn timestamp(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_ms / 1000);
    humantime::format_rfc3339_seconds(time).to_string()
}

pub(super) async fn stat(State(api): State<Api>, Path(link): Path<String>) -> Result<Response, Refusal> {
    let link = parse_link(&link)?;
    let transfer = Transfer::new(Operation::Get);
    let file = get::open(&api.app.transfers, &transfer, &link).await?;
    let healths = file.survey(&api.app.transfers).await;
    let census = api.app.member.census().await;
    json(&describe(&file, healths, &census))
}

pub(super) async fn delete_file(
    State(api): State<Api>,
    Path(link): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let link = parse_link(&link)?;
    let (transfers, names) = (Arc::clone(&api.app.transfers), Arc::clone(&api.app.names));
    conditions::precondition(&Method::DELETE, &headers, Some(&validators(&link, None)))
        .map_err(|_| Failure::precondition())?;
    // On a task of its own: a client that goes away does not interrupt it.
    let task = tokio::spawn(async move {
        // A file that was put without a name is deleted whatever becomes of names.
        if transfers.listed(&link).await?.is_none() {
            match names.delete_link(&link).await {
                Ok(Some(deleted)) => return Ok(deleted),
                Err(failure) if failure.exit == exit::USAGE => return Err(failure),
                // Without names, only whoever put it can.
                Ok(None) | Err(_) => {}
            }
        }
        delete::delete_listed(&transfers, &link).await
    });
    let broke_off =
        |_| Failure::unexpected("the deletion broke off; the next start of the daemon finishes it");
    json(&task.await.map_err(broke_off)??)
}

fn describe(file: &OpenFile, healths: Vec<StripeHealth>, census: &Census) -> FileStat {
    let group = |asked: &Asked| {
        let peers = census.group(asked.placement, asked.stripe, asked.n)?;
        Some(peers.iter().map(ToString::to_string).collect())
    };
    let manifest = &file.manifest;
    let Placement { policy, .. } = manifest.placement;
    let anchor: Option<[u8; HASH_LEN]> = manifest
        .placement
        .has_anchor()
        .then_some(manifest.placement.anchor);
    let stripes: Vec<StripeStat> = file
        .layout
        .iter()
        .zip(healths)
        .map(|(stripe, health)| StripeStat {
            id: stripe.asked.stripe.to_string(),
            kind: if stripe.is_data {
                StripeKind::Data
            } else {
                StripeKind::Manifest
            },
            length_bytes: stripe.length,
            anchor: anchor.map(hex::encode),
            group: group(&stripe.asked),
            live: u32::try_from(health.live).unwrap_or(u32::MAX),
            needed: stripe.asked.k.into(),
            health: health.health,
            shards: health.shards.iter().map(shard_stat).collect(),
        })
        .collect();
    FileStat {
        size_bytes: manifest.size,
        name: manifest.name.clone(),
        created: timestamp(manifest.created),
        code: manifest.code.to_string(),
        placement: policy.to_string(),
        scope: manifest.placement.scope(),
        health: stripes
            .iter()
            .map(|stripe| stripe.health)
            .min()
            .unwrap_or(Health::Safe),
        stripes,
    }
}

pub(super) fn shard_stat(shard: &ShardHealth) -> ShardStat {
    ShardStat {
        index: shard.index.into(),
        peer: shard.peer.as_ref().map(ToString::to_string),
        state: shard.state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options of a query with these parts, or what is wrong with them.
    fn options(
        placement: Option<&str>,
        scope: Option<&str>,
        fragments: Option<&str>,
        length: Option<u64>,
    ) -> Result<PutOptions, String> {
        let query = PutQuery {
            name: String::new(),
            code: None,
            placement: placement.map(str::to_owned),
            scope: scope.map(str::to_owned),
            fragments: fragments.map(str::to_owned),
            shard_size: None,
            degraded: false,
        };
        query.options(Policy::Random, length).map_err(|failure| {
            assert_eq!((failure.exit, failure.status), (2, 400));
            failure.message
        })
    }

    #[test]
    fn placement_and_scope_of_a_put() {
        let chosen = |placement, scope| {
            options(placement, scope, None, None).map(|options| (options.policy.to_string(), options.scope))
        };
        let ok = |policy: &str, scope| Ok((policy.to_owned(), scope));
        assert_eq!(chosen(None, None), ok("random", Scope::File), "the default");
        assert_eq!(chosen(Some("buddies:9"), None), ok("buddies:9", Scope::File));
        assert_eq!(
            chosen(Some("copysets"), Some("fragment")),
            ok("copysets", Scope::Fragment)
        );
        let refused = |placement, scope| chosen(placement, scope).unwrap_err();
        assert!(refused(None, Some("file")).contains("placement random has no groups"));
        assert!(refused(Some("successors"), Some("fragment")).contains("no groups"));
        assert!(refused(Some("copysets"), Some("all")).contains("file or fragment"));
        assert!(refused(Some("buddies:128"), None).contains("buddies:128"));
        assert!(refused(Some("first"), None).contains("successors, random, copysets"));
    }

    #[test]
    fn fragments_of_a_put() {
        let cut = |fragments, length| {
            options(None, None, Some(fragments), length)
                .map(|options| options.fragments.map(|cut| (cut.count.get(), cut.size)))
        };
        assert_eq!(cut("4", Some(100)), Ok(Some((4, 100))));
        assert_eq!(cut("65536", Some(0)), Ok(Some((65_536, 0))));
        assert!(cut("4", None).unwrap_err().contains("Content-Length"));
        for text in ["0", "65537", "-1", "four", ""] {
            assert!(cut(text, Some(100)).unwrap_err().contains("1 to 65536"), "{text}");
        }
    }
}
