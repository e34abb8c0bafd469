//! What is refused before a handler sees it, and what every answer has in common.

use std::net::IpAddr;

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{Api, Refusal};
use crate::error::Failure;
use crate::http::serve::Via;

/// What a client without a token is told to bring.
pub(super) const CHALLENGE: &str = "Bearer realm=\"mutualstore\"";
/// Longest text that an extractor says of a request it refuses, bytes.
const REASON: usize = 4096;

/// Lets a request with the right token pass, as far as there are connections for it.
pub(super) async fn authorize(
    State(api): State<Api>,
    Extension(via): Extension<Via>,
    request: Request,
    next: Next,
) -> Response {
    let given = token_of(request.headers()).unwrap_or_default();
    if !bool::from(given.as_bytes().ct_eq(api.token.as_bytes())) {
        return Refusal(Failure::wrong_token()).into_response();
    }
    match via.all.admit(&via.connection) {
        Ok(()) => next.run(request).await,
        Err(busy) => Refusal(Failure::refused(busy)).into_response(),
    }
}

/// The token of the only `Authorization` header. The scheme may be in any case (RFC 9110 §11.1).
fn token_of(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let (scheme, token) = line.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// Refuses what a browser sends for a page of somebody else: with its `Origin`, or to a name that somebody
/// else resolved to this machine.
pub(super) async fn same_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let hosts: Vec<&HeaderValue> = headers.get_all(HOST).iter().collect();
    // The authority of an absolute target goes before the header (RFC 9112 §3.2.2).
    let named = request.uri().authority().cloned();
    let host = match (named, hosts.as_slice()) {
        (Some(authority), _) => Some(authority),
        (None, []) => None,
        (None, [host]) => match Authority::try_from(host.as_bytes()) {
            Ok(host) => Some(host),
            Err(_) => return Refusal(Failure::usage("the header Host names no host")).into_response(),
        },
        (None, _) => return Refusal(Failure::usage("the header Host is there twice")).into_response(),
    };
    let local = api.bound.ip().is_loopback();
    let foreign_host = local && host.as_ref().is_some_and(|host| !is_loopback(host.host()));
    let own = host.as_ref().map(|host| format!("http://{host}"));
    let foreign_origin = headers
        .get(ORIGIN)
        .is_some_and(|origin| own.is_none_or(|own| !own.as_bytes().eq_ignore_ascii_case(origin.as_bytes())));
    if foreign_host || foreign_origin {
        let text = "this API answers neither pages of other origins nor other names than this machine's own";
        return Refusal(Failure::not_allowed(text)).into_response();
    }
    next.run(request).await
}

/// Whether a host is this machine by its loopback name or address.
fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost")
        || bare
            .unwrap_or(host)
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Forbids guessing of types, and gives errors that came from elsewhere the form of ours.
pub(super) async fn complete(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_plain = content_type.is_some_and(|kind| kind.starts_with(b"text/plain"));
    let mut response = if is_error && status != StatusCode::SERVICE_UNAVAILABLE && is_plain {
        in_our_form(response).await
    } else {
        response
    };
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn in_our_form(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, REASON).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => head.status.canonical_reason().unwrap_or("refused").to_owned(),
        text => text.to_owned(),
    };
    let failure = Failure {
        status: head.status.as_u16(),
        ..Failure::usage(message)
    };
    head.headers.remove(CONTENT_LENGTH);
    head.headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, Body::from(failure.to_json()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_of_one_bearer_header_is_taken_whatever_the_case_of_its_scheme() {
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(AUTHORIZATION, HeaderValue::from_str(line).unwrap());
            }
            token_of(&headers).map(str::to_owned)
        };
        for line in ["Bearer abc", "bearer abc", "BEARER   abc"] {
            assert_eq!(of(&[line]).as_deref(), Some("abc"), "{line}");
        }
        for lines in [
            &["Basic abc"][..],
            &["abc"],
            &["Bearerabc"],
            &[""],
            &["Bearer abc", "Bearer abc"],
            &[],
        ] {
            assert_eq!(of(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn loopback_has_names_and_addresses() {
        for host in [
            "localhost",
            "LocalHost",
            "localhost.",
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
