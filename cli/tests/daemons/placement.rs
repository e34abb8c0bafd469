//! Placement policies on real daemons: where shards go, what becomes of them when a peer dies, how they are
//! found.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{Net, eventually, noise, say, turn};

const FILES: u64 = 24;

/// Sets of peers that hold the fragments of a file, one for each.
fn holders(stat: &Value) -> Vec<BTreeSet<String>> {
    let stripes = stat["stripes"].as_array().unwrap().iter();
    let data = stripes.filter(|stripe| stripe["kind"] == "data");
    data.map(|stripe| {
        let shards = stripe["shards"].as_array().unwrap().iter();
        let live = shards.filter(|shard| shard["state"] == "ok");
        live.map(|shard| shard["peer"].as_str().unwrap().to_owned())
            .collect()
    })
    .collect()
}

fn group(stripe: &Value) -> BTreeSet<String> {
    let peers = stripe["group"].as_array().unwrap().iter();
    peers.map(|peer| peer.as_str().unwrap().to_owned()).collect()
}

/// Files of four fragments under a policy, each put through another peer.
fn load(net: &Net, policy: &[&str]) -> Vec<(String, Vec<u8>)> {
    let put = |number: u64| {
        let bytes = noise(number, 100_000);
        let mut flags = vec!["--code", "copies:3", "--fragments", "4", "--placement"];
        flags.extend(policy);
        let link = net.put(usize::try_from(number).unwrap() % 12, &bytes, &flags);
        (link, bytes)
    };
    (0..FILES).map(put).collect()
}

#[test]
fn shards_go_where_the_policy_says_and_stay_there_when_a_peer_dies() {
    let net = Net::up(12, &["--seed", "41"]);
    let random = load(&net, &["random"]);
    let copysets = load(&net, &["copysets"]);
    let spread = load(&net, &["copysets", "--scope", "fragment"]);
    let buddies = load(&net, &["buddies"]);
    let sets = |net: &Net, files: &[(String, Vec<u8>)]| -> Vec<Vec<BTreeSet<String>>> {
        files
            .iter()
            .map(|(link, _)| holders(&net.stat(5, link)))
            .collect()
    };
    let distinct = |sets: &[Vec<BTreeSet<String>>]| sets.iter().flatten().cloned().collect::<BTreeSet<_>>();

    let of_random = sets(&net, &random);
    assert!(of_random.iter().flatten().all(|set| set.len() == 3));
    assert!(
        distinct(&of_random).len() > 48,
        "96 fragments in {}",
        distinct(&of_random).len()
    );

    let runs = distinct(&sets(&net, &copysets));
    assert!(runs.len() <= 4 && runs.is_subset(&distinct(&sets(&net, &spread))));
    assert_eq!(
        distinct(&sets(&net, &spread)).len(),
        4,
        "96 fragments in four runs"
    );
    for set in &runs {
        assert!(runs.iter().all(|other| other == set || other.is_disjoint(set)));
    }
    for (link, _) in &copysets {
        let stat = net.stat(7, link);
        assert_eq!(distinct(&[holders(&stat)]).len(), 1, "a file keeps to one run");
        assert_eq!(
            (&stat["placement"], &stat["scope"]),
            (&"copysets".into(), &"file".into())
        );
        let stripes = stat["stripes"].as_array().unwrap();
        assert!(stripes.iter().all(|stripe| group(stripe) == holders(&stat)[0]));
    }
    for (link, _) in &buddies {
        let stat = net.stat(2, link);
        let stripes = stat["stripes"].as_array().unwrap();
        let data = stripes.iter().filter(|stripe| stripe["kind"] == "data");
        for (stripe, set) in data.zip(holders(&stat)) {
            assert!(group(stripe).len() == 6 && set.is_subset(&group(stripe)));
        }
    }

    net.kill(9);
    let all: Vec<&(String, Vec<u8>)> = [&random, &copysets, &spread, &buddies]
        .into_iter()
        .flatten()
        .collect();
    for (link, bytes) in &all {
        net.expect(3, link, bytes);
    }
    eventually("all files safe again", || {
        let safe = all.iter().all(|(link, _)| net.stat(1, link)["health"] == "safe");
        safe.then_some(())
    });
    let after = distinct(&sets(&net, &spread));
    assert_eq!(after.len(), 4, "what lay together lies together again: {after:?}");
    for file in sets(&net, &buddies) {
        let peers: BTreeSet<&String> = file.iter().flatten().collect();
        assert!(peers.len() <= 6, "a file of buddies on {} peers", peers.len());
    }
    let (link, bytes) = all[0];
    net.expect(8, link, bytes);
}

#[test]
fn a_deleted_file_is_gone_under_every_policy() {
    let net = Net::up(8, &["--seed", "42"]);
    for policy in ["random", "copysets", "buddies", "buddies:5"] {
        let bytes = noise(7, 300_000);
        let link = net.put(0, &bytes, &["--code", "rs:2+2", "--placement", policy]);
        let small = net.put(0, &bytes[..100], &["--code", "rs:2+2", "--placement", policy]);
        for link in [link, small] {
            let id = net.stat(3, &link)["stripes"][0]["id"]
                .as_str()
                .unwrap()
                .to_owned();
            let found = net.run(6, &["lookup", &id, "--json"]).ok().json();
            assert!(!found["shards"].as_array().unwrap().is_empty(), "{policy}");
            net.run(0, &["rm", &link]).ok();
            let gone = net.run(5, &["get", &link, "-o", "-"]);
            assert_eq!(gone.code, 3, "{policy}: {}", gone.stderr);
        }
    }
    eventually("no shard and no locator left", || {
        let empty = (0..8).all(|peer| net.status(peer)["used_bytes"] == 0);
        empty.then_some(())
    });
}

#[test]
fn what_cannot_be_placed_is_refused_in_one_line() {
    let net = Net::up(3, &["--seed", "43"]);
    let file = net.file("file");
    std::fs::write(&file, noise(1, 1000)).unwrap();
    let (file, out) = (file.to_str().unwrap(), net.file("out"));
    for (flags, said) in [
        (&["--code", "copies:4", "--placement", "copysets"][..], "4 peers"),
        (
            &["--code", "copies:3", "--placement", "buddies:2"],
            "buddies:2 cannot hold",
        ),
        (&["--placement", "random", "--scope", "file"], "scope"),
        (&["--placement", "chance"], "unknown placement policy"),
        (&["--fragments", "2000"], "fragments"),
    ] {
        let put = net.run(0, &[&["put", file], flags].concat());
        assert!(
            put.code == 2 || put.code == 5,
            "{flags:?}: {} {}",
            put.code,
            put.stderr
        );
        assert!(put.stderr.contains(said), "{flags:?}: {}", put.stderr);
    }
    // It is peers that lack, not space.
    let large = net.file("large");
    std::fs::write(&large, noise(2, 100_000)).unwrap();
    let large = large.to_str().unwrap();
    net.run(0, &["put", large, "--code", "rs:8+4", "--degraded"])
        .fails(5);
    for (flags, said) in [
        (&["--peers", "2", "--kill", "1"][..], "needs 3 peers; 2"),
        (&["--peers", "4", "--kill", "4"], "leaves nobody"),
        (
            &["--peers", "4", "--kill", "2", "--schemes", "buddies:2"],
            "no groups can be formed",
        ),
        (
            &["--peers", "4", "--kill", "2", "--fragments", "0"],
            "cannot be cut",
        ),
    ] {
        let words = ["testnet", "experiment", "loss", "--out", out.to_str().unwrap()];
        let run = say([&words, flags].concat());
        assert_eq!(run.code, 2, "{flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{flags:?}: {}", run.stderr);
    }
}

#[test]
fn loss_is_counted_in_three_ways_that_agree() {
    let place = tempfile::tempdir().unwrap();
    let _turn = turn();
    let line = "testnet experiment loss --peers 5 -k 2 --files 10 --fragments 3 --kill 2,3 --patterns 1 \
                --schemes random,copysets,buddies:4,xor:2@successors --seed 3 --json --out";
    let words = line.split_ascii_whitespace().chain(place.path().to_str());
    let found = say(words).ok().json();
    let report = std::fs::read_to_string(place.path().join("report.html")).unwrap();
    assert!(report.contains("<svg") && report.contains("killed at once") && !report.contains("<script"));
    assert_eq!(found["experiments"][0]["cells"], 4);
    let csv = std::fs::read_to_string(place.path().join("loss.csv")).unwrap();
    // put, get, and for each number of dead: read, asked, map, killed; then all patterns of each number.
    assert_eq!(csv.lines().count(), 1 + 4 * (2 + 2 * 4 + 2));
    let map = std::fs::read_dir(place.path().join("loss")).unwrap();
    assert_eq!(map.count(), 5, "one map for each scheme, and the journal");
}
