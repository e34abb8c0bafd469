//! What a running transfer noticed: `GET /v1/transfers/{id}/events?after=N`.
//!
//! The client names its transfer with the header `X-Mutualstore-Transfer` and asks here for lines after the
//! first N, waiting up to [`WAIT`] for news.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use mutualstore_contract::reply::Events;

use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;

/// How long an answer may wait for news.
const WAIT: Duration = Duration::from_secs(10);

pub(super) struct After {
    /// Lines that earlier answers had.
    after: usize,
}

impl FromQuery for After {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            after: given.number("after")?.unwrap_or_default(),
        })
    }
}

pub(super) async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Response, Refusal> {
    let follow = async { api.app.transfers.running.follow(&id).await.news(after).await };
    let Ok(news) = tokio::time::timeout(WAIT, follow).await else {
        return json(&Events {
            next: after as u64,
            ..Events::default()
        });
    };
    let failure = news.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    json(&Events {
        done: news.outcome.is_some(),
        error: failure.map(Failure::body),
        events: news.lines,
        next: news.next as u64,
    })
}
