//! What a running transfer noticed: `GET /v1/transfers/{id}/events?after=N`.
//!
//! The client names its transfer with the header `X-Mutualstore-Transfer` and asks here for lines after the
//! first N, waiting up to [`WAIT`] for news.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;

use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;

/// How long an answer may wait for news.
const WAIT: Duration = Duration::from_secs(10);

pub(super) struct After {
    /// Lines that were told before.
    after: usize,
}

impl FromQuery for After {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            after: given.number("after")?.unwrap_or_default(),
        })
    }
}

#[derive(Serialize)]
struct News {
    events: Vec<String>,
    next: usize,
    done: bool,
    error: Option<serde_json::Value>,
}

pub(super) async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Response, Refusal> {
    let follow = async { api.node.transfers.follow(&id).await.news(after).await };
    let Ok(news) = tokio::time::timeout(WAIT, follow).await else {
        return json(&News {
            events: Vec::new(),
            next: after,
            done: false,
            error: None,
        });
    };
    let failure = news.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    json(&News {
        done: news.outcome.is_some(),
        error: failure.and_then(|failure| serde_json::from_str(&failure.to_json()).ok()),
        events: news.lines,
        next: news.next,
    })
}
