//! The list of files over HTTP, in pages.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::files::timestamp;
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::transfer::health::Health;
use crate::transfer::sweep::Told;

/// Files of a page unless asked otherwise,
const PAGE: usize = 1000;
/// and at most.
const MAX_PAGE: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// `*` and `?` stand for anything.
    pattern: Option<String>,
    limit: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
    #[serde(default)]
    fresh: u8,
}

#[derive(Serialize)]
struct List {
    files: Vec<Listed>,
    /// What `after` is for the next page; null when this is the last.
    next: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    size_bytes: u64,
    created: String,
    code: String,
    /// Null before the first answer after the daemon began.
    health: Option<Health>,
    /// How long ago that was found out.
    health_age_seconds: Option<u32>,
    link: String,
}

impl From<Told> for Listed {
    fn from(told: Told) -> Self {
        let Told { file, health, age } = told;
        Self {
            name: file.name,
            size_bytes: file.size_bytes,
            created: timestamp(file.created),
            code: file.code,
            health,
            health_age_seconds: age,
            link: file.link,
        }
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| Failure::usage(error.body_text()))?;
    let limit = match query.limit.unwrap_or(PAGE) {
        0 => return Err(Failure::usage("limit 0: expected a number of files from 1").into()),
        limit => limit.min(MAX_PAGE),
    };
    let after = query.after.map(|after| {
        let number = after.parse::<u32>();
        number.map_err(|_| Failure::usage("after: expected `next` of an earlier page"))
    });
    let page = (after.transpose()?, limit);
    let (files, next) = api.node.told_page(page, query.pattern, query.fresh != 0).await?;
    json(&List {
        files: files.into_iter().map(Listed::from).collect(),
        next: next.map(|next| next.to_string()),
    })
}
