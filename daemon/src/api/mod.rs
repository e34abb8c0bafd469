//! The HTTP API on loopback: what the command line and scripts use.
//!
//! Every route but `/health` wants the bearer token of `DIR/token`. Errors are
//! `{"error","code","retry"}` (see [`Failure`](crate::error::Failure)).
//!
//! * [`files`]: put, get, stat; [`list`]: the list of files.
//! * [`info`]: status, ring, lookup, metrics, health.
//! * [`upkeep`]: repair, forget, scrub, leave.
//! * [`events`]: what a running transfer noticed.
//! * [`listen`]: how many connections are served.

mod events;
mod files;
mod info;
mod list;
mod listen;
mod upkeep;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use self::listen::Bounded;
use crate::error::Failure;
use crate::node::Node;

/// Seconds after which a client may try again what was refused for now.
const RETRY_SECONDS: &str = "2";

/// What the handlers share.
#[derive(Clone)]
struct Api {
    node: Arc<Node>,
    token: Arc<Zeroizing<String>>,
}

/// A failure on its way to the client.
struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.0.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.0.retry {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}

/// Serves until the task is aborted.
pub(crate) async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    token: Zeroizing<String>,
) -> std::io::Result<()> {
    let api = Api {
        node,
        token: Arc::new(token),
    };
    axum::serve(Bounded::new(listener), router(api)).await
}

fn router(api: Api) -> Router {
    let guarded = Router::new()
        .route(
            "/v1/files",
            put(files::put_file).post(files::put_file).get(list::list),
        )
        .route(
            "/v1/files/{link}",
            get(files::get_file).delete(files::delete_file),
        )
        .route("/v1/files/{link}/stat", get(files::stat))
        .route("/v1/transfers/{id}/events", get(events::events))
        .route("/v1/identity", get(info::identity))
        .route("/v1/status", get(info::status))
        .route("/v1/ring", get(info::ring))
        .route("/v1/lookup/{target}", get(info::lookup))
        .route("/v1/invite", get(info::invite))
        .route("/v1/outside", get(info::outside))
        .route("/v1/repair", post(upkeep::repair))
        .route("/v1/scrub", post(upkeep::scrub))
        .route("/v1/forget/{peer}", post(upkeep::forget))
        .route("/v1/leave", post(upkeep::leave).get(upkeep::leaving))
        .route("/metrics", get(info::metrics))
        .layer(middleware::from_fn_with_state(api.clone(), authorize))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/health", get(info::health))
        .merge(guarded)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn unknown(request: Request) -> Refusal {
    let path = request.uri().path();
    Refusal(Failure {
        status: 404,
        ..Failure::usage(format!("no such resource: {path}"))
    })
}

async fn wrong_method(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal(Failure {
        status: 405,
        ..Failure::usage(format!("{method} is not possible for {path}"))
    })
}

/// Lets a request with the right token pass; compares in a time that does not depend on where they differ.
async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    let same_len = given.len() == api.token.len();
    let differing = given
        .bytes()
        .zip(api.token.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    if same_len && differing == 0 {
        next.run(request).await
    } else {
        Refusal(Failure::wrong_token()).into_response()
    }
}

/// A JSON answer.
fn json(value: &impl serde::Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(value).map_err(|error| Refusal(Failure::unexpected(error)))?;
    let mut response = Response::new(Body::from(text));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
