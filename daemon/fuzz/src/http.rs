//! Headers of requests to the HTTP API.

use std::time::{Duration, UNIX_EPOCH};

use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method};
use mutualstore_daemon::http::conditions::{Selected, Validators, precondition, select};

/// Size u64 ‖ lines of (header u8 ‖ value): a part lies within the representation, only a GET gets one, and a
/// HEAD differs from a GET in nothing else.
pub fn conditions(bytes: &[u8]) {
    let Some((size, lines)) = bytes.split_first_chunk() else {
        return;
    };
    let size = u64::from_be_bytes(*size);
    let names = [
        RANGE,
        IF_RANGE,
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
    ];
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some((name, value)) = line.split_first() else {
            continue;
        };
        let name = names.get(usize::from(*name) % names.len());
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let current = Validators::new("a1b2", Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let got = select(&Method::GET, &headers, &current, size);
    let head = select(&Method::HEAD, &headers, &current, size);
    match got {
        Selected::Part(first, last) => assert!(first <= last && last < size),
        Selected::Whole | Selected::Unsatisfiable | Selected::Unmet(_) => {}
    }
    match got {
        Selected::Unmet(_) => assert_eq!(head, got),
        Selected::Whole | Selected::Unsatisfiable | Selected::Part(..) => assert_eq!(head, Selected::Whole),
    }
    if !headers.contains_key(RANGE) {
        assert!(matches!(got, Selected::Whole | Selected::Unmet(_)));
    }
    let written = precondition(&Method::PUT, &headers, None);
    assert_eq!(written.is_err(), headers.contains_key(IF_MATCH));
}
