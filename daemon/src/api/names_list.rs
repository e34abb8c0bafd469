//! The keys of a bucket over HTTP, in pages.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use futures::{StreamExt, stream};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{Health, ListedName, NameKind, NameList};
use mutualstore_tree::entry::{Entry, Pointer, What, tag};
use mutualstore_tree::merge::Versions;

use super::files::timestamp;
use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::format::link::Link;
use crate::names::{hex_of, link, nanoseconds, prefix_of};
use crate::transfer::events::{Operation, Transfer};
use crate::transfer::health::StripeHealth;
use crate::transfer::{Transfers, get};

/// Keys of a page, unless asked otherwise and at most.
const PAGE: usize = 1000;
/// Files asked about at the same time.
const SURVEYED: usize = 8;

pub(super) struct ListQuery {
    prefix: String,
    delimiter: Option<String>,
    after: Option<String>,
    limit: usize,
    which: Which,
    fresh: bool,
    /// Ask how each file is doing.
    health: bool,
}

/// What of each key is listed.
struct Which {
    /// All versions.
    versions: bool,
    /// What was deleted too.
    deleted: bool,
    /// Only keys that two devices wrote at the same time.
    conflicts: bool,
}

impl FromQuery for ListQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            prefix: given.text("prefix").unwrap_or_default(),
            delimiter: given.text("delimiter").filter(|delimiter| !delimiter.is_empty()),
            after: given.text("after"),
            limit: given.number("limit")?.unwrap_or(PAGE).clamp(1, PAGE),
            which: Which {
                versions: given.flag("versions")?,
                deleted: given.flag("deleted")?,
                conflicts: given.flag("conflicts")?,
            },
            fresh: given.flag("fresh")?,
            health: given.flag("health")?,
        })
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(bucket): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Refusal> {
    let names = &api.app.names;
    let open = names.bucket(&bucket, query.fresh).await?;
    let link_of = |pointer: &Pointer| link(names.transfers(), pointer).to_string();
    let from = query.after.as_deref().map(prefix_of).unwrap_or_default();
    let prefix = prefix_of(&query.prefix);
    let all = open
        .list_from(names.transfers(), &from, &prefix, query.fresh)
        .await?;
    let mut page = page(all, &query, &link_of);
    if query.health {
        add_health(names.transfers(), &mut page.files).await;
    }
    json(&page)
}

/// Asks the holders of each file how it is doing.
async fn add_health(transfers: &Arc<Transfers>, files: &mut [ListedName]) {
    let asked = stream::iter(files).for_each_concurrent(SURVEYED, |file| async move {
        let Some(Ok(link)) = file.link.as_ref().map(|link| link.parse::<Link>()) else {
            return;
        };
        let opened = get::open(transfers, &Transfer::new(Operation::Get), &link).await;
        file.health = match opened {
            Ok(opened) => worst(&opened.survey(transfers).await),
            Err(failure) => (failure.exit == exit::UNRECOVERABLE).then_some(Health::Lost),
        };
    });
    asked.await;
}

fn worst(stripes: &[StripeHealth]) -> Option<Health> {
    stripes.iter().map(|stripe| stripe.health).min()
}

/// The page of a listing that a query asks for.
fn page(
    all: impl Iterator<Item = Versions>,
    query: &ListQuery,
    link_of: &impl Fn(&Pointer) -> String,
) -> NameList {
    let mut page = NameList {
        files: Vec::new(),
        prefixes: Vec::new(),
        next: None,
    };
    let mut last = None;
    for versions in all {
        let key = versions.name().key();
        let begins = query
            .after
            .as_deref()
            .is_some_and(|after| key <= after || is_within(key, after, query));
        let shown = shown(&versions, query, link_of);
        if begins || shown.is_empty() {
            continue;
        }
        let common = common_prefix(key, query);
        if common.is_some() && page.prefixes.last().map(String::as_str) == common {
            continue;
        }
        // All versions of a key are on one page.
        if page.files.len() + page.prefixes.len() >= query.limit {
            page.next = last;
            return page;
        }
        if let Some(common) = common {
            page.prefixes.push(common.to_owned());
            last = Some(common.to_owned());
        } else {
            page.files.extend(shown);
            last = Some(key.to_owned());
        }
    }
    page
}

/// What of a key comes up to the delimiter behind the prefix, if there is one.
fn common_prefix<'a>(key: &'a str, query: &ListQuery) -> Option<&'a str> {
    let delimiter = query.delimiter.as_deref()?;
    let rest = key.get(query.prefix.len()..)?;
    let at = rest.find(delimiter)? + delimiter.len();
    key.get(..query.prefix.len() + at)
}

/// Whether a key belongs to a common prefix that an earlier page ended with.
fn is_within(key: &str, after: &str, query: &ListQuery) -> bool {
    common_prefix(key, query).is_some_and(|common| common <= after)
}

fn shown(versions: &Versions, query: &ListQuery, link_of: &impl Fn(&Pointer) -> String) -> Vec<ListedName> {
    if query.which.conflicts && !versions.conflicts() {
        return Vec::new();
    }
    let wanted: Vec<&Entry> = if query.which.versions {
        versions.all().collect()
    } else {
        let newest = versions.newest();
        let is_wanted = newest.is_there() || query.which.deleted;
        Some(newest).filter(|_| is_wanted).into_iter().collect()
    };
    wanted
        .into_iter()
        .filter_map(|entry| listed(versions, entry, link_of))
        .collect()
}

fn listed(versions: &Versions, entry: &Entry, link_of: &impl Fn(&Pointer) -> String) -> Option<ListedName> {
    let written = i64::try_from(entry.version.ms).unwrap_or(i64::MAX);
    let (kind, size_bytes, modified_ms, link) = match &entry.what {
        What::File(file) => {
            let link = link_of(&file.pointer);
            (NameKind::File, file.size, file.modified_ms, Some(link))
        }
        What::Directory { modified_ms } => (NameKind::Directory, 0, *modified_ms, None),
        What::Deleted => (NameKind::Deleted, 0, written, None),
        What::Snapshot(_) | What::Setting(_) => return None,
    };
    Some(ListedName {
        name: entry.name.key().to_owned(),
        kind,
        size_bytes,
        modified: timestamp(u64::try_from(modified_ms).unwrap_or_default()),
        modified_ns: nanoseconds(modified_ms, &entry.fields),
        executable: entry.fields.contains_key(&tag::EXECUTABLE),
        version: hex_of(entry.version),
        written: timestamp(entry.version.ms),
        conflict: versions.unseen_by(entry).next().is_some(),
        link,
        health: None,
    })
}
