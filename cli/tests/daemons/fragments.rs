//! Files in fragments and under every policy: put, looked at, read whole and in parts.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use mutualstore_client::{ByteRange, Client, GetOptions, PutOptions};
use serde_json::Value;

use crate::common::{Net, eventually, noise};

/// Bytes of AES-GCM's tag, one to each segment.
const TAG: u64 = 16;
const SEGMENT_PLAINTEXT: u64 = 65_520;
/// Plaintext that one shard of 1 MiB holds.
const SHARD_PLAINTEXT: u64 = 16 * SEGMENT_PLAINTEXT;

/// Bytes of the blocks of this kind, in the order of the file.
fn lengths(stat: &Value, kind: &str) -> Vec<u64> {
    let stripes = stat["stripes"].as_array().unwrap().iter();
    let of_kind = stripes.filter(|stripe| stripe["kind"] == kind);
    of_kind
        .map(|stripe| stripe["length_bytes"].as_u64().unwrap())
        .collect()
}

/// What `first..=last` of a file reads as.
fn part(client: &Client, link: &str, first: u64, last: u64) -> Vec<u8> {
    let options = GetOptions {
        range: Some(ByteRange {
            first,
            last: Some(last),
        }),
        ..GetOptions::default()
    };
    let mut read = Vec::new();
    client
        .get(link, &options, &mut read, None, &mut |_, _| ())
        .unwrap();
    read
}

#[test]
fn fragments_are_put_and_read_back() {
    let net = Net::up(6, &["--seed", "31"]);
    let reader = Client::open(&net.data_dir(4)).unwrap();
    let most = 4 * 2 * SHARD_PLAINTEXT;
    for (seed, size, code) in [
        (1, 4, "copies:3"),
        (2, 5, "rs:2+2"),
        (3, 100_000, "copies:3"),
        (4, 100_003, "rs:2+2"),
        (5, 4 * SEGMENT_PLAINTEXT, "xor:3"),
        (6, 1_000_001, "xor:3"),
        (7, most, "rs:2+2"),
    ] {
        let bytes = noise(seed, usize::try_from(size).unwrap());
        let link = net.put(0, &bytes, &["--code", code, "--fragments", "4"]);
        let stat = net.stat(1, &link);
        let expected: Vec<u64> = (0..4)
            .map(|block| {
                let length = size * (block + 1) / 4 - size * block / 4;
                length + TAG * length.div_ceil(SEGMENT_PLAINTEXT)
            })
            .collect();
        assert_eq!(lengths(&stat, "data"), expected, "{size} bytes as {code}");
        assert_eq!(lengths(&stat, "manifest").len(), 1);
        assert_eq!(stat["health"], "safe");
        net.expect(3, &link, &bytes);
        let edge = size / 4;
        for (first, last) in [
            (0, 0),
            (edge - 1, edge),
            (edge, edge),
            (0, size - 1),
            (size - 1, size - 1),
            (size / 2, size * 3 / 4),
        ] {
            let [from, to] = [first, last].map(|at| usize::try_from(at).unwrap());
            assert!(
                part(&reader, &link, first, last) == bytes[from..=to],
                "{first}-{last} of {size} as {code}"
            );
        }
    }
    let stored = net.stored();
    refusals(&net, most);
    broken_off(&reader);
    eventually("what failed leaves nothing", || {
        (net.stored() <= stored).then_some(())
    });
    let listed = net.run(4, &["ls", "--json"]).ok().json();
    assert_eq!(listed["files"], Value::Array(Vec::new()));
}

/// What cannot be cut is refused by one line that says what would do.
fn refusals(net: &Net, most: u64) {
    let path = net.file("refused");
    let refused = |length: u64, flags: &[&str], mention: &str| {
        fs::write(&path, noise(9, usize::try_from(length).unwrap())).unwrap();
        let said = net.run(2, &[&["put", path.to_str().unwrap()], flags].concat());
        let said = said.fails(2);
        assert!(said.stderr.contains(mention), "{}", said.stderr);
    };
    let four = ["--code", "rs:2+2", "--fragments", "4"];
    refused(most + 1, &four, "give 5 or more");
    refused(3, &four, "a file of 3 bytes cannot be cut into 4 fragments");
    refused(0, &four, "a file of 0 bytes");
    refused(9, &["--scope", "file"], "no groups");
    refused(9, &["--placement", "random", "--scope", "fragment"], "no groups");
    refused(
        9,
        &["--code", "copies:3", "--placement", "buddies:2"],
        "buddies:2 cannot hold the 3 shards",
    );
    refused(9, &["--placement", "nearby"], "nearby");
}

/// A body of unknown length is refused, and one that ends too early is no file.
fn broken_off(client: &Client) {
    let options = PutOptions {
        fragments: Some(4),
        ..PutOptions::default()
    };
    let bytes = noise(10, 300_000);
    let put = |length| client.put(&mut &bytes[..], length, &options, None, &mut |_, _| ());
    let refused = put(None).unwrap_err();
    assert_eq!(refused.exit_code(), 2);
    assert!(refused.to_string().contains("Content-Length"), "{refused}");
    put(Some(300_001)).unwrap_err();
}

#[test]
fn what_comes_through_a_pipe_is_cut_too() {
    let net = Net::up(3, &["--seed", "32"]);
    let bytes = noise(1, 200_001);
    let words = ["put", "-", "--fragments", "3", "--code", "copies:2", "--quiet"];
    let mut child = net
        .command(0, &words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let link = String::from_utf8(output.stdout).unwrap();
    let link = link.trim_end();
    assert_eq!(lengths(&net.stat(1, link), "data").len(), 3);
    net.expect(2, link, &bytes);
}

#[test]
fn placement_is_what_the_file_has() {
    let net = Net::up(6, &["--seed", "33", "--", "--placement", "buddies:5"]);
    let path = net.file("placed");
    let put = |size: usize, flags: &[&str]| {
        let bytes = noise(size as u64, size);
        fs::write(&path, &bytes).unwrap();
        let words = [&["put", path.to_str().unwrap(), "--json"], flags].concat();
        let put = net.run(0, &words).ok().json();
        let link = put["link"].as_str().unwrap().to_owned();
        net.expect(5, &link, &bytes);
        let stat = net.stat(1, &link);
        assert_eq!(
            (&stat["placement"], &stat["scope"]),
            (&put["placement"], &put["scope"])
        );
        stat
    };
    let anchors = |stat: &Value| -> Vec<Value> {
        let stripes = stat["stripes"].as_array().unwrap().iter();
        stripes.map(|stripe| stripe["anchor"].clone()).collect()
    };
    for size in [100, 100_000] {
        let copies = ["--code", "copies:3"];
        let default = put(size, &copies);
        assert_eq!(
            (&default["placement"], &default["scope"]),
            (&"buddies:5".into(), &"file".into())
        );
        let found = anchors(&default);
        assert_eq!(found[0].as_str().unwrap().len(), 64);
        assert!(found.iter().all(|anchor| *anchor == found[0]), "{found:?}");

        let apart = put(size, &[&copies[..], &["--scope", "fragment"]].concat());
        assert_eq!(apart["scope"], "fragment");
        assert!(anchors(&apart).iter().all(Value::is_null));

        for policy in ["successors", "random", "copysets", "buddies"] {
            let stat = put(size, &[&copies[..], &["--placement", policy]].concat());
            assert_eq!(stat["placement"], policy);
            let has_groups = ["copysets", "buddies"].contains(&policy);
            assert_eq!(stat["scope"].is_null(), !has_groups);
            assert!(anchors(&stat).iter().all(|anchor| anchor.is_null() != has_groups));
        }
    }
    for (policy, is_one_group) in [("buddies:6", false), ("buddies:7", true)] {
        let words = [
            "put",
            path.to_str().unwrap(),
            "--code",
            "copies:3",
            "--placement",
            policy,
            "--quiet",
        ];
        let put = net.run(0, &words).ok();
        assert_eq!(
            put.stderr
                .contains("groups of 7, more than 6 peers: all are one group"),
            is_one_group,
            "{}",
            put.stderr
        );
    }
}
