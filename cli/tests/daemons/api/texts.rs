//! What the API says of queries it does not understand, and of names that command terminals.

use super::client::Api;
use crate::common::{Net, noise};

#[test]
fn query_that_is_not_understood_gets_one_sentence_on_every_route() {
    let net = Net::up(1, &[]);
    let api = Api::of(&net, 0);
    let refused = |line: &str, expected: &str| {
        let answer = api.ask(line, &["Content-Length: 0"]);
        let (status, json) = (answer.status, answer.json());
        let said = json["error"].as_str().unwrap();
        assert_eq!((status, said), (400, expected), "{line}");
        assert_eq!(
            (&json["code"], &json["retry"]),
            (&2.into(), &false.into()),
            "{line}"
        );
    };
    let number = "expected a whole number, not negative and not too large";
    for (line, what) in [
        ("GET /v1/files?limit=-1", "limit is \"-1\""),
        ("GET /v1/files?limit=", "limit is \"\""),
        (
            "GET /v1/files?limit=99999999999999999999999",
            "limit is \"99999999999999999999999\"",
        ),
        ("GET /v1/transfers/x/events?after=a%1b", "after is \"a\\u{1b}\""),
    ] {
        refused(line, &format!("parameter {what}; {number}"));
    }
    for (line, what) in [
        ("GET /v1/files?fresh=yes", "fresh is \"yes\""),
        ("GET /v1/status?fresh=2", "fresh is \"2\""),
        ("GET /v1/ring?walk=&check=1", "walk is \"\""),
        ("POST /v1/repair?wait=on", "wait is \"on\""),
        ("POST /v1/scrub?wait=-1", "wait is \"-1\""),
        ("POST /v1/leave?force=+1", "force is \" 1\""),
        ("PUT /v1/files?degraded=maybe", "degraded is \"maybe\""),
    ] {
        refused(line, &format!("parameter {what}; expected 0 or 1"));
    }
    for (line, known) in [
        ("GET /v1/files?bogus=1", "pattern, limit, after, fresh"),
        (
            "PUT /v1/files?bogus",
            "name, code, placement, scope, fragments, shard_size, degraded",
        ),
        ("GET /v1/status?bogus=1&bogus=2", "fresh"),
        ("GET /v1/ring?bogus=1", "walk, fingers, check"),
        ("POST /v1/repair?bogus=1", "peer, wait"),
        ("POST /v1/scrub?wait=1&bogus=1", "wait"),
        ("POST /v1/leave?bogus=1", "force"),
        ("GET /v1/transfers/x/events?bogus=1", "after"),
    ] {
        refused(
            line,
            &format!("parameter \"bogus\" is not known here; there are: {known}"),
        );
    }
    for (line, name) in [
        ("GET /v1/files?limit=1&limit=2", "limit"),
        ("PUT /v1/files?name=a&name=a", "name"),
        ("POST /v1/repair?wait=1&wait=1", "wait"),
    ] {
        refused(
            line,
            &format!("parameter {name} is given more than once; give it once"),
        );
    }
    assert_eq!(api.ask("GET /v1/ring?walk=1&check=0", &[]).status, 200);
    assert_eq!(net.status(0)["ring"], "alone", "it did not leave");
}

#[test]
fn body_holds_nothing_that_commands_a_terminal() {
    let net = Net::up(1, &[]);
    let name = "a\u{7f}\u{9b}31m\u{202e}\u{1b}[2Jé";
    let link = net.put(0, &noise(3, 100), &["--name", name]);
    let api = Api::of(&net, 0);
    let commands = |text: &str| text.chars().any(|c| c.is_control() || c == '\u{202e}');
    for line in ["GET /v1/files".to_owned(), format!("GET /v1/files/{link}/stat")] {
        let answer = api.ask(&line, &[]);
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert!(!commands(&text), "{text:?}");
        let json = answer.json();
        let listed = if json["name"].is_null() {
            &json["files"][0]["name"]
        } else {
            &json["name"]
        };
        assert_eq!(listed, name);
    }
    let refused = api.ask("PUT /v1/files?code=a%7f%c2%9b", &["Content-Length: 0"]);
    assert!(!commands(&String::from_utf8(refused.body).unwrap()));
}

#[test]
fn put_of_a_part_or_of_coded_bytes_stores_nothing() {
    let net = Net::up(1, &[]);
    let api = Api::of(&net, 0);
    for header in ["Content-Range: bytes 0-0/5", "Content-Encoding: gzip"] {
        let refused = api.ask("PUT /v1/files", &[header, "Content-Length: 0"]);
        assert_eq!(refused.status, 400, "{header}");
        let name = header.split(':').next().unwrap();
        let error = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(name), "{error}");
    }
    let files = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(files["files"].as_array().unwrap().len(), 0);
    assert_eq!(
        api.ask(
            "PUT /v1/files",
            &["Content-Encoding: identity", "Content-Length: 0"]
        )
        .status,
        201
    );
}
