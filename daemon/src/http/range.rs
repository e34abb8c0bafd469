//! The `Range` header (RFC 9110 §14.1–14.2), of which single ranges of bytes are served.
//!
//! A server may ignore any `Range`, so what is malformed, in another unit or asks for several ranges gets the
//! whole representation. The crate `headers` is of no help here: its parser takes `+0`, knows `bytes` in
//! lower case only, and drops numbers beyond 64 bits.

use axum::http::HeaderMap;
use axum::http::header::RANGE;

/// What a `Range` header asks of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of it: there is no range, or none that is served.
    Whole,
    /// The bytes from the first to the last, which is included. Both lie within it.
    Part(u64, u64),
    /// Nothing that it has.
    Unsatisfiable,
}

/// One range as it is written.
enum Spec<'a> {
    /// From a first byte to a last one, or to the end.
    From(Number<'a>, Option<Number<'a>>),
    /// So many bytes at the end.
    Suffix(Number<'a>),
}

/// A number of any length: the count of its digits without leading zeros, then these digits. The order of
/// these pairs is that of the numbers.
type Number<'a> = (usize, &'a str);

/// What the `Range` header asks of a representation of `size` bytes.
pub(crate) fn asked(headers: &HeaderMap, size: u64) -> Asked {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Asked::Whole;
    };
    match line.to_str().ok().and_then(single) {
        Some(spec) => within(&spec, size),
        None => Asked::Whole,
    }
}

/// The only range of a well-formed header in bytes.
fn single(text: &str) -> Option<Spec<'_>> {
    let (unit, set) = text.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") || set.starts_with(is_space) {
        return None;
    }
    // A recipient takes empty elements of a list (§5.6.1.2).
    let elements = set.split(',').map(|element| element.trim_matches(is_space));
    let mut specs = elements.filter(|element| !element.is_empty()).map(spec);
    match (specs.next(), specs.next()) {
        (Some(spec), None) => spec,
        _ => None,
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn spec(text: &str) -> Option<Spec<'_>> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        return Some(Spec::Suffix(number(last)?));
    }
    let first = number(first)?;
    if last.is_empty() {
        return Some(Spec::From(first, None));
    }
    // A last byte before the first makes the range invalid, not unsatisfiable.
    let last = number(last).filter(|last| *last >= first)?;
    Some(Spec::From(first, Some(last)))
}

fn number(text: &str) -> Option<Number<'_>> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = text.trim_start_matches('0');
    is_number.then_some((digits.len(), digits))
}

/// The number; what is beyond 64 bits is beyond every size.
fn value((length, digits): Number) -> u64 {
    if length == 0 {
        0
    } else {
        digits.parse().unwrap_or(u64::MAX)
    }
}

fn within(spec: &Spec, size: u64) -> Asked {
    let end = size.saturating_sub(1);
    match spec {
        Spec::From(first, last) => {
            let first = value(*first);
            if first >= size {
                return Asked::Unsatisfiable;
            }
            Asked::Part(first, last.map_or(end, value).min(end))
        }
        Spec::Suffix(count) => match value(*count) {
            0 => Asked::Unsatisfiable,
            // All of nothing: a part without bytes cannot be said.
            _ if size == 0 => Asked::Whole,
            count => Asked::Part(size.saturating_sub(count), end),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn range_header_of_any_form_is_answered_as_rfc_9110_says() {
        use Asked::{Part, Unsatisfiable, Whole};
        for (text, size, expected) in [
            ("bytes=0-9", 100, Part(0, 9)),
            ("bytes=90-", 100, Part(90, 99)),
            ("bytes=-5", 100, Part(95, 99)),
            ("bytes=-500", 100, Part(0, 99)),
            ("bytes=5-500", 100, Part(5, 99)),
            ("bytes=007-0008", 100, Part(7, 8)),
            ("Bytes=0-9", 100, Part(0, 9)),
            ("BYTES=0-9", 100, Part(0, 9)),
            ("bytes=0-18446744073709551616", 100, Part(0, 99)),
            ("bytes=-18446744073709551616", 100, Part(0, 99)),
            ("bytes=,0-9", 100, Part(0, 9)),
            ("bytes=0-9 , ", 100, Part(0, 9)),
            ("bytes=,\t0-9", 100, Part(0, 9)),
            ("bytes=100-", 100, Unsatisfiable),
            ("bytes=100-200", 100, Unsatisfiable),
            ("bytes=-0", 100, Unsatisfiable),
            ("bytes=18446744073709551616-", 100, Unsatisfiable),
            (
                "bytes=99999999999999999999999-99999999999999999999999",
                100,
                Unsatisfiable,
            ),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=0-0", 0, Unsatisfiable),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=-1", 0, Whole),
            ("bytes=9-3", 100, Whole),
            ("bytes=99999999999999999999999-5", 100, Whole),
            ("bytes=+0-1", 100, Whole),
            ("bytes=0-+1", 100, Whole),
            ("bytes=-+1", 100, Whole),
            ("bytes=--1", 100, Whole),
            ("bytes=-", 100, Whole),
            ("bytes=", 100, Whole),
            ("bytes", 100, Whole),
            ("bytes=1", 100, Whole),
            ("bytes=a-b", 100, Whole),
            ("bytes=0x0-1", 100, Whole),
            ("bytes=0 -1", 100, Whole),
            ("bytes=0- 1", 100, Whole),
            ("bytes= 0-1", 100, Whole),
            ("bytes =0-1", 100, Whole),
            ("bytes=0-1-2", 100, Whole),
            ("bytes=0-1,3-4", 100, Whole),
            ("bytes=0-1,x", 100, Whole),
            ("bytes=200-,300-", 100, Whole),
            ("lines=1-2", 100, Whole),
            ("=0-1", 100, Whole),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(asked(&headers, size), expected, "{text} of {size}");
        }
    }

    #[test]
    fn range_given_twice_or_not_in_ascii_is_ignored() {
        let value = |text| HeaderValue::from_bytes(text).unwrap();
        let mut headers = HeaderMap::from_iter([(RANGE, value(b"bytes=0-1"))]);
        headers.append(RANGE, value(b"bytes=0-1"));
        assert_eq!(asked(&headers, 100), Asked::Whole);
        let headers = HeaderMap::from_iter([(RANGE, value(b"bytes=0-1\xff"))]);
        assert_eq!(asked(&headers, 100), Asked::Whole);
        assert_eq!(asked(&HeaderMap::new(), 100), Asked::Whole);
    }
}
