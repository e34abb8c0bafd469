//! What a running transfer noticed: `GET /v1/transfers/{id}/events?after=N`.
//!
//! The client names its transfer with the header `X-Mutualstore-Transfer` and asks here for lines after the
//! first N, waiting up to [`WAIT`] for news.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Api, Refusal, json};

/// How long an answer may wait for news.
const WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: usize,
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
