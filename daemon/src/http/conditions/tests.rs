use axum::http::HeaderValue;

use super::Selected::{Part, Unsatisfiable, Whole};
use super::*;

/// 1994-11-15T12:45:26Z, with a fraction that HTTP cannot say.
const MODIFIED: Duration = Duration::from_millis(784_903_526_250);
const DATE: &str = "Tue, 15 Nov 1994 12:45:26 GMT";
const EARLIER: &str = "Tue, 15 Nov 1994 12:45:25 GMT";
const LATER: &str = "Tue, 15 Nov 1994 12:45:27 GMT";

fn current() -> Validators {
    Validators::new("tag", Some(UNIX_EPOCH + MODIFIED))
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let parsed = lines.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    let mut headers = HeaderMap::new();
    for (name, value) in parsed {
        headers.append(name, value);
    }
    headers
}

const UNMODIFIED: Selected = Selected::Unmet(Unmet::NotModified);
const FAILED: Selected = Selected::Unmet(Unmet::PreconditionFailed);
const RANGE: (&str, &str) = ("range", "bytes=0-9");
const BEYOND: (&str, &str) = ("range", "bytes=500-");

/// What requests of 100 bytes with one header select.
const OF_ONE: [((&str, &str), Selected); 24] = [
    (("if-match", "\"tag\""), Whole),
    (("if-match", "*"), Whole),
    (("if-match", "\"other\""), FAILED),
    (("if-match", "W/\"tag\""), FAILED),
    (("if-match", "tag"), FAILED),
    (("if-match", ""), FAILED),
    (("if-match", "\"a\", \"tag\""), Whole),
    (("if-match", "\"a,\"tag\",b\""), FAILED),
    (("if-none-match", "\"tag\""), UNMODIFIED),
    (("if-none-match", "W/\"tag\""), UNMODIFIED),
    (("if-none-match", "*"), UNMODIFIED),
    (("if-none-match", "\"a\",\t\"tag\" , \"b\""), UNMODIFIED),
    (("if-none-match", "\"a,b\",,\"tag\""), UNMODIFIED),
    (("if-none-match", "\"other\""), Whole),
    (("if-none-match", "w/\"tag\""), Whole),
    (("if-none-match", "tag"), Whole),
    (("if-modified-since", DATE), UNMODIFIED),
    (("if-modified-since", LATER), UNMODIFIED),
    (("if-modified-since", EARLIER), Whole),
    (("if-modified-since", "yesterday"), Whole),
    (("if-unmodified-since", DATE), Whole),
    (("if-unmodified-since", EARLIER), FAILED),
    (("if-unmodified-since", "soon"), Whole),
    (("if-range", "\"other\""), Whole),
];

/// What requests of 100 bytes with two headers select. The order of §13.2.2: tags go before dates, what must
/// be before what need not be sent again.
const OF_TWO: [([(&str, &str); 2], Selected); 20] = [
    ([("if-match", "\"a\""), ("if-match", "\"tag\"")], Whole),
    (
        [("if-none-match", "\"a\""), ("if-none-match", "W/\"tag\"")],
        UNMODIFIED,
    ),
    (
        [("if-modified-since", LATER), ("if-modified-since", LATER)],
        Whole,
    ),
    ([("if-match", "\"tag\""), ("if-unmodified-since", EARLIER)], Whole),
    (
        [("if-none-match", "\"other\""), ("if-modified-since", LATER)],
        Whole,
    ),
    ([("if-match", "\"other\""), ("if-none-match", "\"tag\"")], FAILED),
    (
        [("if-match", "\"tag\""), ("if-none-match", "\"tag\"")],
        UNMODIFIED,
    ),
    (
        [("if-unmodified-since", EARLIER), ("if-none-match", "\"tag\"")],
        FAILED,
    ),
    ([RANGE, ("if-range", "\"tag\"")], Part(0, 9)),
    ([RANGE, ("if-range", "W/\"tag\"")], Whole),
    ([RANGE, ("if-range", "\"other\"")], Whole),
    ([RANGE, ("if-range", "tag")], Whole),
    ([RANGE, ("if-range", "*")], Whole),
    ([RANGE, ("if-range", DATE)], Part(0, 9)),
    ([RANGE, ("if-range", EARLIER)], Whole),
    ([RANGE, ("if-range", LATER)], Whole),
    ([BEYOND, ("if-range", "\"tag\"")], Unsatisfiable),
    ([BEYOND, ("if-range", "\"other\"")], Whole),
    ([RANGE, ("if-none-match", "\"tag\"")], UNMODIFIED),
    ([BEYOND, ("if-match", "\"other\"")], FAILED),
];

#[test]
fn request_with_conditions_selects_as_rfc_9110_says() {
    let ones = OF_ONE.iter().map(|(line, expected)| (vec![*line], *expected));
    let twos = OF_TWO.iter().map(|(lines, expected)| (lines.to_vec(), *expected));
    let plain = [
        (vec![], Whole),
        (vec![RANGE], Part(0, 9)),
        (vec![BEYOND], Unsatisfiable),
    ];
    for (lines, expected) in ones.chain(twos).chain(plain) {
        let given = headers(&lines);
        assert_eq!(
            select(&Method::GET, &given, &current(), 100),
            expected,
            "{lines:?}"
        );
        // Ranges are for GET.
        let to_head = match expected {
            Part(..) | Unsatisfiable => Whole,
            other @ (Whole | Selected::Unmet(_)) => other,
        };
        let selected = select(&Method::HEAD, &given, &current(), 100);
        assert_eq!(selected, to_head, "HEAD {lines:?}");
    }
}

#[test]
fn writing_method_with_conditions_is_refused_with_412_only() {
    for (line, exists, expected) in [
        (("if-none-match", "*"), true, Err(Unmet::PreconditionFailed)),
        (("if-none-match", "*"), false, Ok(())),
        (
            ("if-none-match", "W/\"tag\""),
            true,
            Err(Unmet::PreconditionFailed),
        ),
        (("if-match", "*"), true, Ok(())),
        (("if-match", "*"), false, Err(Unmet::PreconditionFailed)),
        (("if-match", "\"tag\""), false, Err(Unmet::PreconditionFailed)),
        (("if-modified-since", LATER), true, Ok(())),
        (
            ("if-unmodified-since", EARLIER),
            true,
            Err(Unmet::PreconditionFailed),
        ),
        (("if-unmodified-since", EARLIER), false, Ok(())),
    ] {
        let current = exists.then(current);
        let outcome = precondition(&Method::PUT, &headers(&[line]), current.as_ref());
        assert_eq!(outcome, expected, "{line:?}, exists: {exists}");
    }
}

#[test]
fn representation_without_a_date_ignores_conditions_on_dates() {
    let undated = Validators::new("tag", None);
    for line in [("if-modified-since", LATER), ("if-unmodified-since", EARLIER)] {
        assert_eq!(
            select(&Method::GET, &headers(&[line]), &undated, 100),
            Selected::Whole
        );
    }
    let ranged = headers(&[("range", "bytes=0-9"), ("if-range", DATE)]);
    assert_eq!(select(&Method::GET, &ranged, &undated, 100), Selected::Whole);
    let tomorrow = SystemTime::now() + Duration::from_hours(24);
    assert_eq!(Validators::new("tag", Some(tomorrow)).last_modified(), None);
    assert_eq!(current().last_modified().unwrap(), DATE);
}
