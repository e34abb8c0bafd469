//! Conditional requests (RFC 9110 §13): whether a request is carried out, and with which bytes it is
//! answered.
//!
//! [`precondition`] is for every method, [`select`] for those that read. Malformed conditions: a member of a
//! list that is no entity tag matches nothing, a date that is none is as if it were not there, and an
//! `If-Range` that is neither asks for the whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use axum::http::{HeaderMap, HeaderName, Method};

use super::range::{self, Asked};

/// What tells one representation of a resource from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// A strong entity tag, with its quotes.
    pub etag: String,
    /// When it came to be, to the second; none where that is not known.
    modified: Option<SystemTime>,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// 304: the client has what it asks for.
    NotModified,
    /// 412: the resource is not in the state that the client wants it to be in.
    PreconditionFailed,
}

/// What a GET or HEAD is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// The whole is sent, with status 200.
    Whole,
    /// 206: from the first byte to the last, which is included.
    Part(u64, u64),
    /// Nothing of the range is there: status 416.
    Unsatisfiable,
    /// 304 or 412.
    Unmet(Unmet),
}

impl Validators {
    /// The strong tag of `opaque`, which has no quotes, controls or spaces. A date that is still to come
    /// counts as none.
    pub fn new(opaque: &str, modified: Option<SystemTime>) -> Self {
        let to_the_second = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).ok()?;
            (time <= SystemTime::now()).then(|| UNIX_EPOCH + Duration::from_secs(since.as_secs()))
        };
        Self {
            etag: format!("\"{opaque}\""),
            modified: modified.and_then(to_the_second),
        }
    }

    /// The value of `Last-Modified`.
    pub fn last_modified(&self) -> Option<String> {
        self.modified.map(httpdate::fmt_http_date)
    }

    /// Compares as `If-Match` and `If-Range` do: weak tags never match.
    fn matches_strongly(&self, tag: &[u8]) -> bool {
        tag == self.etag.as_bytes()
    }

    /// Compares as `If-None-Match` does.
    fn matches_weakly(&self, tag: &[u8]) -> bool {
        self.matches_strongly(tag.strip_prefix(b"W/").unwrap_or(tag))
    }
}

/// Evaluates the conditions of a request in the order of §13.2.2, `If-Range` aside. `current` is none where
/// the resource does not exist.
pub fn precondition(method: &Method, headers: &HeaderMap, current: Option<&Validators>) -> Result<(), Unmet> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let modified = current.and_then(|current| current.modified);
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, &IF_MATCH, current, Validators::matches_strongly) {
            return Err(Unmet::PreconditionFailed);
        }
    } else if let (Some(since), Some(modified)) = (date(headers, &IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Err(Unmet::PreconditionFailed);
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if any_tag(headers, &IF_NONE_MATCH, current, Validators::matches_weakly) {
            return Err(if reads {
                Unmet::NotModified
            } else {
                Unmet::PreconditionFailed
            });
        }
    } else if let (Some(since), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), modified)
        && reads
        && modified <= since
    {
        return Err(Unmet::NotModified);
    }
    Ok(())
}

/// What a GET or HEAD of a representation of `size` bytes is answered with.
pub fn select(method: &Method, headers: &HeaderMap, current: &Validators, size: u64) -> Selected {
    if let Err(unmet) = precondition(method, headers, Some(current)) {
        return Selected::Unmet(unmet);
    }
    // §14.2: ranges are defined for GET only.
    if *method != Method::GET || !unchanged(headers, current) {
        return Selected::Whole;
    }
    match range::asked(headers, size) {
        Asked::Whole => Selected::Whole,
        Asked::Part(first, last) => Selected::Part(first, last),
        Asked::Unsatisfiable => Selected::Unsatisfiable,
    }
}

/// Whether there is no `If-Range`, or it names this very representation (§13.1.5).
fn unchanged(headers: &HeaderMap, current: &Validators) -> bool {
    let mut lines = headers.get_all(IF_RANGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => {
            let text = line.as_bytes();
            // Dates are compared for equality; that of what never changes is a strong validator.
            let same_date = || current.modified.is_some() && current.modified == parse_date(text);
            current.matches_strongly(text) || same_date()
        }
        (Some(_), Some(_)) => false,
    }
}

/// Whether `*` stands for what exists or one of the tags in all lines of a header matches it.
fn any_tag(
    headers: &HeaderMap,
    name: &HeaderName,
    current: Option<&Validators>,
    matches: impl Fn(&Validators, &[u8]) -> bool,
) -> bool {
    let Some(current) = current else {
        return false;
    };
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| members(line.as_bytes()))
        .any(|member| member == b"*" || matches(current, member))
}

/// The members of a list of entity tags. A tag may contain commas, but no quotes.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let parts = line.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.map(|part| {
        let space = |byte: &u8| matches!(*byte, b' ' | b'\t');
        let start = part.iter().take_while(|byte| space(byte)).count();
        let end = part.iter().rev().take_while(|byte| space(byte)).count();
        part.get(start..part.len() - end).unwrap_or_default()
    })
}

/// The date of a header that is there once and has one.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_date(line.as_bytes()),
        _ => None,
    }
}

fn parse_date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests;
