//! Addresses on real interfaces: network namespaces, several listen addresses, interfaces that come and go.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::common::{Said, eventually, mutualstore, say, turn};

/// Exit code of `testnet netns` where namespaces are not available.
const UNAVAILABLE: i32 = 5;

/// `testnet netns` with these flags; none where this machine makes no namespaces for us.
fn netns(flags: &[&str]) -> Option<Value> {
    let _turn = turn();
    let words = ["testnet", "netns", "--json", "--size", "4MiB", "--down", "1s"];
    let said = say(words.iter().chain(flags));
    if said.code == UNAVAILABLE {
        eprintln!("skipped: {}", said.fails(UNAVAILABLE).stderr.trim_end());
        return None;
    }
    let report = said.ok().json();
    assert_eq!(report["holds"], true, "{report:#}");
    Some(report)
}

#[test]
fn contacts_on_real_interfaces_are_right_everywhere_and_follow_an_interface_that_moves() {
    let Some(report) = netns(&[
        "--peers", "4", "--family", "both", "--family", "ipv6", "--starts", "1",
    ]) else {
        return;
    };
    let starts = report["starts"].as_array().unwrap();
    assert_eq!(starts.len(), 2);
    for start in starts {
        assert_eq!(start["loopback_told"], 0, "{start:#}");
        assert!(start["healed_seconds"].is_number(), "{start:#}");
        assert_eq!(start["order"].as_array().unwrap().len(), 4);
    }
}

#[test]
fn peer_whose_only_interface_moves_is_found_again() {
    let Some(report) = netns(&["--peers", "3", "--interfaces", "1", "--family", "ipv4"]) else {
        return;
    };
    assert_eq!(report["starts"][0]["moved_interfaces"], serde_json::json!([0]));
}

#[test]
fn netns_refuses_numbers_that_mean_nothing() {
    let said = say(["testnet", "netns", "--peers", "1"]);
    if said.code != UNAVAILABLE {
        said.fails(2);
    }
}

/// A daemon that ends with the test.
struct Daemon {
    process: Child,
    ready: String,
}

impl Daemon {
    fn start(dir: &Path, flags: &[&str]) -> Self {
        let mut process = mutualstore()
            .args([
                "daemon",
                "--capacity",
                "64MiB",
                "--exit-on-stdin-close",
                "--data-dir",
            ])
            .arg(dir)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert!(ready.starts_with("ready "), "{ready}");
        Self { process, ready }
    }

    /// The first address it says it listens on.
    fn listen(&self) -> String {
        let listen = self
            .ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix("listen="));
        listen.unwrap().split(',').next().unwrap().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended by itself already, perhaps.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn ask(dir: &Path, words: &[&str]) -> Said {
    let dir = dir.to_str().unwrap();
    say(words.iter().copied().chain(["--data-dir", dir]))
}

/// Addresses of the contacts that a daemon holds, by peer: whether each is alive, and what it tells.
fn contacts(dir: &Path) -> Vec<(bool, Vec<String>)> {
    let ring = ask(dir, &["ring", "--json"]).ok().json();
    let texts = |value: &Value| value.as_str().unwrap().to_owned();
    let contact = |peer: &Value| {
        let addresses = peer["addresses"].as_array().unwrap().iter().map(texts).collect();
        (peer["state"] == "alive", addresses)
    };
    ring["peers"].as_array().unwrap().iter().map(contact).collect()
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}

#[test]
fn peer_on_every_interface_beside_one_on_loopback_reaches_it_and_is_reached() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (local, wide) = (dir.path().join("local"), dir.path().join("wide"));
    let first = Daemon::start(&local, &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let invite = ask(&local, &["invite"]).ok().word();
    let second = Daemon::start(&wide, &["--listen", "/ip4/0.0.0.0/tcp/0", "--join", &invite]);
    assert!(first.listen().starts_with("/ip4/127.0.0.1/"));
    for place in [&local, &wide] {
        eventually("both know each other", || {
            let contacts = contacts(place);
            (contacts.len() == 2 && contacts.iter().all(|(alive, _)| *alive)).then_some(())
        });
        let published: Vec<String> = contacts(place)
            .into_iter()
            .flat_map(|(_, published)| published)
            .collect();
        assert!(
            published
                .iter()
                .any(|address| address == first.listen().split("/p2p/").next().unwrap())
        );
    }
    // The one on every interface publishes loopback only where the machine has nothing else.
    let (_, published) = contacts(&wide).into_iter().next().unwrap();
    assert!(
        published.iter().all(|address| is_loopback(address))
            || !published.iter().any(|address| is_loopback(address))
    );
    assert!(
        second.listen().contains(&published[0]),
        "{published:?} {}",
        second.listen()
    );
    // Both ways: each takes a copy of what the other one stores.
    let file = dir.path().join("file");
    std::fs::write(&file, crate::common::noise(7, 300_000)).unwrap();
    for place in [&local, &wide] {
        let stored = ask(place, &["put", file.to_str().unwrap(), "--json"]).ok().json();
        assert_eq!(stored["code"], "copies:2");
        assert_eq!(stored["shards_stored"], stored["shards_total"]);
    }
}

#[test]
fn daemon_listens_on_both_families_at_once_with_the_same_port() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let port = mutualstore_fleet::spawn::free_port(&mut std::collections::BTreeSet::new());
    let (v4, v6) = (
        format!("/ip4/127.0.0.1/tcp/{port}"),
        format!("/ip6/::1/tcp/{port}"),
    );
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 on this machine");
        return;
    }
    let _daemon = Daemon::start(dir.path(), &["--listen", &v4, "--listen", &v6]);
    let (_, published) = contacts(dir.path()).into_iter().next().unwrap();
    assert_eq!(published, [v4, v6]);
    let other = tempfile::tempdir().unwrap();
    let flags = ["--listen", &format!("/ip6/::1/tcp/{port}")];
    let said = say([
        "daemon",
        "--capacity",
        "64MiB",
        "--data-dir",
        other.path().to_str().unwrap(),
    ]
    .into_iter()
    .chain(flags));
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(said.stderr.contains("already in use"), "{}", said.stderr);
}
