//! The list of files over HTTP, in pages.

use axum::extract::State;
use axum::response::Response;
use mutualstore_contract::reply::{FileList, ListedFile};

use super::files::timestamp;
use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::transfer::sweep::Remembered;

/// Files of a page unless asked otherwise,
const PAGE: usize = 1000;
/// and at most.
const MAX_PAGE: usize = 10_000;

pub(super) struct ListQuery {
    /// `*` and `?` stand for anything.
    pattern: Option<String>,
    /// Files of the page.
    limit: usize,
    /// `next` of the page before.
    after: Option<u32>,
    /// Ask how they are doing now.
    fresh: bool,
}

impl FromQuery for ListQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        let pattern = given.text("pattern");
        let limit = match given.number("limit")? {
            Some(0) => return Err(Failure::usage("limit 0: expected a number of files from 1")),
            limit => limit.map_or(PAGE, |limit: usize| limit.min(MAX_PAGE)),
        };
        let after = given.text("after").map(|after| {
            let number = after.parse::<u32>();
            number.map_err(|_| Failure::usage("after: expected `next` of an earlier page"))
        });
        Ok(Self {
            pattern,
            limit,
            after: after.transpose()?,
            fresh: given.flag("fresh")?,
        })
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Refusal> {
    let page = (query.after, query.limit);
    let (files, next) = api.app.transfers.page(page, query.pattern, query.fresh).await?;
    json(&FileList {
        files: files.into_iter().map(listed).collect(),
        next: next.map(|next| next.to_string()),
    })
}

fn listed(remembered: Remembered) -> ListedFile {
    let Remembered { file, health, age } = remembered;
    ListedFile {
        name: file.name,
        size_bytes: file.size_bytes,
        created: timestamp(file.created),
        code: file.code,
        health,
        health_age_seconds: age.map(u64::from),
        link: file.link,
    }
}
