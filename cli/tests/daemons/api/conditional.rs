//! Conditional and range requests (RFC 9110 §13–14), of whole tables and by the tools that people use.

use std::fs;
use std::io;
use std::process::{Command, Output};

use super::client::{Answer, Api};
use crate::common::{Net, noise};

const TEXT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Long before anything was put.
const PAST: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

type Row = (&'static str, u16, Option<(usize, usize)>);

/// Headers, separated by `|`; the status; first and last byte of the answer, of 36. `E` and `D` stand for the
/// file's entity tag and date, `P` for [`PAST`].
const REQUESTS: [Row; 46] = [
    ("", 200, None),
    ("Range: bytes=0-9", 206, Some((0, 9))),
    ("Range: Bytes=0-9", 206, Some((0, 9))),
    ("range: BYTES=00-009", 206, Some((0, 9))),
    ("Range: bytes=30-", 206, Some((30, 35))),
    ("Range: bytes=-6", 206, Some((30, 35))),
    ("Range: bytes=-600", 206, Some((0, 35))),
    ("Range: bytes=0-", 206, Some((0, 35))),
    ("Range: bytes=30-18446744073709551616", 206, Some((30, 35))),
    ("Range: bytes=36-", 416, None),
    ("Range: bytes=18446744073709551616-", 416, None),
    ("Range: bytes=99999999999999999999999999-", 416, None),
    ("Range: bytes=-0", 416, None),
    ("Range: bytes=+0-1", 200, None),
    ("Range: bytes=5-2", 200, None),
    ("Range: bytes=0 - 1", 200, None),
    ("Range: bytes=a-b", 200, None),
    ("Range: bytes=0-1,4-5", 200, None),
    ("Range: bytes=0-1|Range: bytes=0-1", 200, None),
    ("Range: lines=0-1", 200, None),
    ("Range: bytes=0-9|If-Range: E", 206, Some((0, 9))),
    ("Range: bytes=0-9|If-Range: D", 206, Some((0, 9))),
    ("Range: bytes=0-9|If-Range: \"other\"", 200, None),
    ("Range: bytes=0-9|If-Range: W/E", 200, None),
    ("Range: bytes=0-9|If-Range: P", 200, None),
    ("If-Match: E", 200, None),
    ("If-Match: *", 200, None),
    ("If-Match: \"x\", E", 200, None),
    ("If-Match: \"x\"|If-Match: E", 200, None),
    ("If-Match: \"x\"", 412, None),
    ("If-Match: W/E", 412, None),
    ("If-Match: \"x\"|Range: bytes=0-9", 412, None),
    ("If-None-Match: E", 304, None),
    ("If-None-Match: \"x\",E", 304, None),
    ("If-None-Match: *", 304, None),
    ("If-None-Match: W/E", 304, None),
    ("If-None-Match: \"x\"|If-None-Match: E", 304, None),
    ("If-None-Match: \"x\"", 200, None),
    ("If-None-Match: E|Range: bytes=0-9", 304, None),
    ("If-Modified-Since: D", 304, None),
    ("If-Modified-Since: P", 200, None),
    ("If-Modified-Since: never", 200, None),
    ("If-Modified-Since: D|If-None-Match: \"x\"", 200, None),
    ("If-Unmodified-Since: D", 200, None),
    ("If-Unmodified-Since: P", 412, None),
    ("If-Unmodified-Since: P|If-Match: E", 200, None),
];

#[test]
fn conditional_and_range_requests_are_answered_as_rfc_9110_says() {
    let net = Net::up(1, &[]);
    let link = net.put(0, TEXT, &["--name", "alphabet.txt"]);
    let api = Api::of(&net, 0);
    let request = format!("GET /v1/files/{link}");
    let whole = api.ask(&request, &[]);
    let (etag, date) = (
        whole.header("etag").unwrap(),
        whole.header("last-modified").unwrap(),
    );
    for (headers, status, part) in REQUESTS {
        let value = |name: &str, value: &str| match value {
            "D" => date.to_owned(),
            "P" => PAST.to_owned(),
            tags if name.starts_with("If-") => tags.replace('E', etag),
            plain => plain.to_owned(),
        };
        let filled = headers.split('|').filter_map(|header| {
            let (name, given) = header.split_once(": ")?;
            Some(format!("{name}: {}", value(name, given)))
        });
        let filled: Vec<String> = filled.collect();
        let filled: Vec<&str> = filled.iter().map(String::as_str).collect();
        let answer = api.ask(&request, &filled);
        assert_eq!(answer.status, status, "{headers}");
        has_what_it_must(&answer, headers, &whole, part);
        // HEAD says the same of the whole; ranges are for GET.
        let head = api.ask(&request.replace("GET", "HEAD"), &filled);
        let expected = if matches!(status, 206 | 416) { 200 } else { status };
        assert_eq!(
            (head.status, head.body.as_slice()),
            (expected, b"".as_slice()),
            "HEAD {headers}"
        );
        if expected == 200 {
            let names = [
                "content-length",
                "etag",
                "last-modified",
                "content-type",
                "content-disposition",
            ];
            for name in names {
                assert_eq!(head.header(name), whole.header(name), "HEAD {headers}");
            }
        }
    }
}

/// Checks headers and body of an answer of a certain status.
fn has_what_it_must(answer: &Answer, headers: &str, whole: &Answer, part: Option<(usize, usize)>) {
    let content_range = match (answer.status, part) {
        (416, _) => Some("bytes */36".to_owned()),
        (_, Some((first, last))) => Some(format!("bytes {first}-{last}/36")),
        (_, None) => None,
    };
    assert_eq!(
        answer.header("content-range"),
        content_range.as_deref(),
        "{headers}"
    );
    assert_eq!(
        answer.header("x-content-type-options"),
        Some("nosniff"),
        "{headers}"
    );
    if answer.status >= 400 {
        assert!(
            answer.json()["error"].is_string() && answer.json()["code"] == 2,
            "{headers}"
        );
        return;
    }
    assert_eq!(answer.header("etag"), whole.header("etag"), "{headers}");
    if answer.status == 304 {
        assert_eq!(
            (answer.header("content-type"), answer.body.as_slice()),
            (None, b"".as_slice()),
            "{headers}"
        );
        return;
    }
    let bytes = part.map_or(TEXT, |(first, last)| &TEXT[first..=last]);
    assert_eq!(answer.body, bytes, "{headers}");
    assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{headers}");
    assert_eq!(
        answer.header("content-length"),
        Some(bytes.len().to_string().as_str()),
        "{headers}"
    );
}

#[test]
fn range_of_an_empty_file_is_all_of_it_or_none() {
    let net = Net::up(1, &[]);
    let empty = net.put(0, b"", &["--name", "nothing"]);
    let api = Api::of(&net, 0);
    let line = format!("GET /v1/files/{empty}");
    for (range, status) in [
        ("bytes=-1", 200),
        ("bytes=0-", 416),
        ("bytes=-0", 416),
        ("bytes=0-0", 416),
    ] {
        let answer = api.ask(&line, &[&format!("Range: {range}")]);
        assert_eq!(answer.status, status, "{range} of nothing");
        let expected = (status == 416).then_some("bytes */0");
        assert_eq!(answer.header("content-range"), expected, "{range} of nothing");
    }
}

#[test]
fn tools_of_others_resume_a_download() {
    let net = Net::up(1, &[]);
    let bytes = noise(1, 300_000);
    let link = net.put(0, &bytes, &[]);
    let api = Api::of(&net, 0);
    let (url, bearer) = (
        format!("http://{}/v1/files/{link}", api.address),
        format!("Authorization: bearer {}", api.token),
    );
    let run = |command: &mut Command| -> Option<Output> {
        match command.output() {
            // Only where the tool is installed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            output => Some(output.unwrap()),
        }
    };
    let part = net.file("part");
    for length in [0, 1, 123_456, bytes.len()] {
        fs::write(&part, &bytes[..length]).unwrap();
        let resumed = Command::new("curl")
            .args(["-sS", "-C", "-", "-H", &bearer, "-o"])
            .arg(&part)
            .arg(&url)
            .output();
        if matches!(&resumed, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        assert!(
            fs::read(&part).unwrap() == bytes,
            "curl, {length} bytes there: {resumed:?}"
        );
    }
    if let Some(output) = run(Command::new("curl").args(["-sS", "-r", "100-199", "-H", &bearer, &url])) {
        assert!(output.stdout == bytes[100..200], "{output:?}");
    }
    fs::write(&part, &bytes[..123_456]).unwrap();
    let mut wget = Command::new("wget");
    wget.args(["-q", "-c", "--header", &bearer, "-O"])
        .arg(&part)
        .arg(&url);
    if let Some(output) = run(&mut wget) {
        assert!(fs::read(&part).unwrap() == bytes, "wget: {output:?}");
    }
}
