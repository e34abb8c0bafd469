//! The HTTP API on loopback: what the command line and scripts use.
//!
//! Every route but `/health` wants the bearer token of `DIR/token`. Errors are `{"error","code","retry"}`
//! (see [`Failure`](crate::error::Failure)). How many connections are served and for how long stands in
//! [`connections`](crate::http::connections).
//!
//! * [`files`]: put, get, stat; [`list`]: the list of files; [`names`]: the same by name, in buckets, and
//!   [`names_list`]: their lists.
//! * [`info`]: status, ring, lookup, health; [`metrics`]: what Prometheus reads.
//! * [`upkeep`]: repair, forget, scrub, leave.
//! * [`events`]: what a running transfer noticed.
//! * [`query`]: the parameters of all of these.
//! * [`guard`]: what is refused before a handler sees it, and the form of every answer.

mod events;
mod files;
mod guard;
mod info;
mod list;
mod metrics;
mod names;
mod names_list;
mod query;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use mutualstore_contract::escape;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::app::App;
use crate::error::Failure;
use crate::http::connections::{Connections, Limits};
use crate::http::serve;

/// Seconds after which a client may try again what was refused for now.
const RETRY_SECONDS: &str = "2";

/// What the handlers share.
#[derive(Clone)]
struct Api {
    app: App,
    token: Arc<Zeroizing<String>>,
    /// Where it is served.
    bound: SocketAddr,
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
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(guard::CHALLENGE));
        }
        response
    }
}

/// Serves until the task is aborted.
pub(crate) async fn serve(app: App, listener: TcpListener, token: Zeroizing<String>) -> std::io::Result<()> {
    let api = Api {
        app,
        token: Arc::new(token),
        bound: listener.local_addr()?,
    };
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = Connections::new(Limits::default().for_files(files));
    serve::serve(listener, router(api), Arc::new(connections)).await;
    Ok(())
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
        .route("/v1/account", get(names::accounts))
        .route("/v1/account/devices", get(names::devices))
        .route("/v1/settings/{bucket}", get(names::settings).put(names::set))
        .route("/v1/names", get(names::buckets))
        .route(
            "/v1/names/{bucket}",
            get(names_list::list).put(names::create).post(names::apply),
        )
        .route(
            "/v1/names/{bucket}/{*key}",
            get(names::get_file)
                .put(names::put_file)
                .post(names::put_file)
                .delete(names::delete),
        )
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
        .route("/metrics", get(info::show_metrics))
        .layer(middleware::from_fn_with_state(api.clone(), guard::authorize))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/health", get(info::health))
        .merge(guarded)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard::same_origin))
        .layer(middleware::map_response(guard::complete))
        .with_state(api)
}

/// Says nothing of the path: a link may stand in it.
async fn unknown() -> Refusal {
    Refusal(Failure {
        status: 404,
        ..Failure::usage("no such resource; daemon/README.md lists those there are")
    })
}

async fn wrong_method(request: Request) -> Refusal {
    // A method may be any token.
    let known = [
        "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT",
    ];
    let method = Some(request.method().as_str()).filter(|method| known.contains(method));
    Refusal(Failure {
        status: 405,
        ..Failure::usage(format!(
            "{} is not possible for this resource; the header Allow names what is",
            method.unwrap_or("this method")
        ))
    })
}

/// A JSON answer. What could command the terminal that shows it stands in it as `\uXXXX`, which means the
/// same.
fn json(value: &impl serde::Serialize) -> Result<Response, Refusal> {
    let text = serde_json::to_string(value).map_err(|error| Refusal(Failure::unexpected(error)))?;
    let mut response = Response::new(Body::from(escape::json(&text).into_owned()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
