use super::*;
use axum::http::HeaderValue;

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

#[test]
fn request_with_conditions_selects_as_rfc_9110_says() {
    use Selected::{Part, Unsatisfiable, Whole};
    let unmodified = Selected::Unmet(Unmet::NotModified);
    let failed = Selected::Unmet(Unmet::PreconditionFailed);
    let range = ("range", "bytes=0-9");
    for (lines, expected) in [
        (vec![], Whole),
        (vec![("if-match", "\"tag\"")], Whole),
        (vec![("if-match", "*")], Whole),
        (vec![("if-match", "\"other\"")], failed),
        (vec![("if-match", "W/\"tag\"")], failed),
        (vec![("if-match", "tag")], failed),
        (vec![("if-match", "")], failed),
        (vec![("if-match", "\"a\", \"tag\"")], Whole),
        (vec![("if-match", "\"a,\"tag\",b\"")], failed),
        (vec![("if-match", "\"a\""), ("if-match", "\"tag\"")], Whole),
        (vec![("if-none-match", "\"tag\"")], unmodified),
        (vec![("if-none-match", "W/\"tag\"")], unmodified),
        (vec![("if-none-match", "*")], unmodified),
        (vec![("if-none-match", "\"a\",\t\"tag\" , \"b\"")], unmodified),
        (vec![("if-none-match", "\"a,b\",,\"tag\"")], unmodified),
        (
            vec![("if-none-match", "\"a\""), ("if-none-match", "W/\"tag\"")],
            unmodified,
        ),
        (vec![("if-none-match", "\"other\"")], Whole),
        (vec![("if-none-match", "w/\"tag\"")], Whole),
        (vec![("if-none-match", "tag")], Whole),
        (vec![("if-modified-since", DATE)], unmodified),
        (vec![("if-modified-since", LATER)], unmodified),
        (vec![("if-modified-since", EARLIER)], Whole),
        (vec![("if-modified-since", "yesterday")], Whole),
        (
            vec![("if-modified-since", LATER), ("if-modified-since", LATER)],
            Whole,
        ),
        (vec![("if-unmodified-since", DATE)], Whole),
        (vec![("if-unmodified-since", EARLIER)], failed),
        (vec![("if-unmodified-since", "soon")], Whole),
        // The order of §13.2.2: tags go before dates, what must be before what need not be sent again.
        (
            vec![("if-match", "\"tag\""), ("if-unmodified-since", EARLIER)],
            Whole,
        ),
        (
            vec![("if-none-match", "\"other\""), ("if-modified-since", LATER)],
            Whole,
        ),
        (
            vec![("if-match", "\"other\""), ("if-none-match", "\"tag\"")],
            failed,
        ),
        (
            vec![("if-match", "\"tag\""), ("if-none-match", "\"tag\"")],
            unmodified,
        ),
        (
            vec![("if-unmodified-since", EARLIER), ("if-none-match", "\"tag\"")],
            failed,
        ),
        (vec![range], Part(0, 9)),
        (vec![("range", "bytes=500-")], Unsatisfiable),
        (vec![range, ("if-range", "\"tag\"")], Part(0, 9)),
        (vec![range, ("if-range", "W/\"tag\"")], Whole),
        (vec![range, ("if-range", "\"other\"")], Whole),
        (vec![range, ("if-range", "tag")], Whole),
        (vec![range, ("if-range", "*")], Whole),
        (vec![range, ("if-range", DATE)], Part(0, 9)),
        (vec![range, ("if-range", EARLIER)], Whole),
        (vec![range, ("if-range", LATER)], Whole),
        (
            vec![range, ("if-range", "\"tag\""), ("if-range", "\"tag\"")],
            Whole,
        ),
        (vec![("if-range", "\"other\"")], Whole),
        (vec![("range", "bytes=500-"), ("if-range", "\"other\"")], Whole),
        (vec![range, ("if-none-match", "\"tag\"")], unmodified),
        (vec![("range", "bytes=500-"), ("if-match", "\"other\"")], failed),
    ] {
        let given = headers(&lines);
        assert_eq!(
            select(&Method::GET, &given, &current(), 100),
            expected,
            "{lines:?}"
        );
        let to_head = match expected {
            Part(..) | Unsatisfiable => Whole,
            other @ (Whole | Selected::Unmet(_)) => other,
        };
        assert_eq!(
            select(&Method::HEAD, &given, &current(), 100),
            to_head,
            "HEAD {lines:?}"
        );
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
