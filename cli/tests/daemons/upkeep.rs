//! What keeps files whole over years: scrub, leave, forget, keys, deletions that were cut short.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::common::{Net, eventually, mutualstore, noise, say};

const MIB: usize = 1 << 20;

#[test]
fn damage_is_found_and_healed() {
    // Nothing but the scrub can notice: nobody goes, and nobody reads.
    let net = Net::up(8, &["--seed", "21", "--", "--repair-delay", "10s"]);
    let bytes = noise(5, 9 * MIB + 1);
    let link = net.put(0, &bytes, &["--code", "rs:4+2"]);
    net.becomes(0, &link, "safe");
    let held = net.status(2)["shards"].as_u64().unwrap();
    assert!(held > 0);
    let damaged = net
        .testnet("corrupt", &["--peer", "2", "--count", "1000", "--json"])
        .ok()
        .json();
    let damaged = damaged["shards"].as_array().unwrap();
    assert_eq!(damaged.len() as u64, held);
    let report = net.run(2, &["scrub", "--wait", "--json"]).ok().json();
    assert_eq!(
        (report["checked"].as_u64(), report["bad"].as_u64()),
        (Some(held), Some(held))
    );
    let found: Vec<&Value> = report["bad_shards"].as_array().unwrap().iter().collect();
    assert!(damaged.iter().all(|shard| found.contains(&shard)));
    net.becomes(1, &link, "safe");
    for index in net.alive() {
        net.expect(index, &link, &bytes);
    }
    let scrub = net.status(2)["scrub"].clone();
    assert!(scrub["bad_total"].as_u64() >= Some(held), "{scrub}");

    // By name, noticed by whoever reads: the bytes are right all the same.
    let shard = net.stat(0, &link)["stripes"][1]["shards"][0].clone();
    let stripe = net.stat(0, &link)["stripes"][1]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let holder = net.index_of(shard["peer"].as_str().unwrap()).to_string();
    let name = format!("{stripe}:{}", shard["index"]);
    net.testnet("corrupt", &["--peer", &holder, "--shard", &name])
        .ok();
    for index in net.alive() {
        net.expect(index, &link, &bytes);
    }
    net.becomes(0, &link, "safe");
}

#[test]
fn the_only_copy_is_handed_over() {
    let net = Net::up(8, &["--seed", "22", "--", "--repair-delay", "1h"]);
    let files: Vec<(String, Vec<u8>)> = (0..12)
        .map(|seed| {
            let bytes = noise(seed, 1 + usize::try_from(seed).unwrap() * 300_000);
            (net.put(0, &bytes, &["--code", "copies:1"]), bytes)
        })
        .collect();
    for leaver in ["3", "5", "6"] {
        let index = leaver.parse().unwrap();
        let said = net.run(index, &["leave", "--wait", "--json"]).ok().json();
        assert_eq!(
            (said["state"].as_str(), said["committed_bytes"].as_u64()),
            (Some("left"), Some(0))
        );
    }
    eventually("their processes end", || (net.alive().len() == 5).then_some(()));
    for index in net.alive() {
        for (link, bytes) in &files {
            net.expect(index, link, bytes);
        }
    }
    eventually("all walk around without them", || {
        let alive = net.alive();
        alive
            .iter()
            .all(|index| net.walk(*index).len() == 5)
            .then_some(())
    });

    // Whoever left is waited for by nobody, however long the repair delay is.
    for index in net.alive() {
        let ring = net.run(index, &["ring", "--json"]).ok().json();
        let states: Vec<&str> = ring["peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|peer| peer["state"].as_str().unwrap())
            .collect();
        let count = |state: &str| states.iter().filter(|other| **other == state).count();
        assert_eq!((count("alive"), count("suspect")), (5, 0), "{states:?}");
    }
    let fits = net.put(0, &noise(98, MIB), &[]);
    let stat = net.run(0, &["stat", &fits, "--json"]).ok().json();
    assert_eq!(
        (&stat["code"], &stat["health"]),
        (&"rs:2+2".into(), &"safe".into()),
        "{stat}"
    );

    // Five shards on five peers: nobody can go, unless by force.
    let bytes = noise(99, 2 * MIB);
    let wide = net.put(0, &bytes, &["--code", "rs:3+2"]);
    net.becomes(0, &wide, "safe");
    let leaver = net.alive()[1];
    net.run(leaver, &["leave", "--wait"]).fails(5);
    net.run(leaver, &["leave"]).fails(5);
    net.becomes(0, &wide, "safe");
}

#[test]
fn a_peer_that_gives_less_than_it_holds_is_relieved() {
    let net = Net::up(9, &["--capacity", "256MiB", "--seed", "25"]);
    let bytes = noise(9, 200 * MIB);
    let link = net.put(0, &bytes, &["--code", "rs:4+2"]);
    net.becomes(0, &link, "safe");
    let used = |index: usize| net.status(index)["used_bytes"].as_u64().unwrap();
    let fullest = (1..9).max_by_key(|index| used(*index)).unwrap();
    let before = used(fullest);
    let capacity = before / 2;
    assert!(capacity > 16 << 20, "{before}");
    net.kill(fullest);
    let file = net.data_dir(0).parent().unwrap().join("testnet.json");
    let mut testnet: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    testnet["peers"][fullest]["capacity_bytes"] = capacity.into();
    fs::write(&file, testnet.to_string()).unwrap();
    net.start(fullest);
    eventually("it holds what fits", || (used(fullest) <= capacity).then_some(()));
    net.becomes(0, &link, "safe");
    for index in net.alive() {
        net.expect(index, &link, &bytes);
    }
}

#[test]
fn who_is_forgotten_is_replaced_at_once() {
    let net = Net::up(8, &["--seed", "23", "--", "--repair-delay", "1h"]);
    let bytes = noise(7, 5 * MIB);
    let link = net.put(0, &bytes, &["--code", "rs:4+2"]);
    net.becomes(0, &link, "safe");
    let holder = |stripe: usize, shard: usize| {
        net.stat(0, &link)["stripes"][stripe]["shards"][shard]["peer"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let victims: Vec<String> = {
        let all = (0..6).map(|shard| holder(1, shard));
        all.filter(|peer| net.index_of(peer) != 0).take(2).collect()
    };
    net.run(0, &["forget", &victims[0]]).fails(5);
    net.run(0, &["forget", "12D3KooWNobodyIsCalledThis"]).fails(3);
    for victim in &victims {
        let index = net.index_of(victim).to_string();
        net.testnet("kill", &["--peer", &index, "--wipe"]).ok();
    }
    eventually("they are missed", || {
        let said = net.run(0, &["forget", &victims[0], "--json"]);
        assert!(said.code == 0 || said.code == 5, "{}", said.stderr);
        (said.code == 0).then_some(())
    });
    // The second one by what `repair` is told.
    let report = eventually("the second one is missed too", || {
        let said = net
            .run(0, &["repair", "--peer", &victims[1], "--wait", "--json"])
            .ok();
        (net.stat(0, &link)["health"] == "safe").then(|| said.json())
    });
    assert_eq!(report["pending"], 0);
    net.expect(0, &link, &bytes);
}

#[test]
fn a_deletion_that_was_cut_short_is_finished_and_a_key_moves() {
    let flags = ["--seed", "24", "--", "--repair-delay", "5s"];
    let net = Net::up(7, &flags);
    let bytes = noise(8, 64 * MIB);
    let small_shards = ["--code", "rs:2+2", "--shard-size", "64KiB"];
    let link = net.put(0, &bytes, &small_shards);
    let kept = net.put(0, b"kept", &["--code", "copies:3"]);
    let before = net.stored();
    let mut rm = net.command(0, &["rm", &link]);
    let mut rm = rm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The journal says so before the first tombstone goes out.
    eventually("tombstones spread", || (net.stored() < before).then_some(()));
    net.kill(0);
    assert!(
        !rm.wait().unwrap().success(),
        "the file was too small to be deleted slowly"
    );

    let key = net.file("key");
    let key = key.to_str().unwrap();
    net.run(0, &["key", "export", key]).ok();
    net.run(0, &["key", "export", key]).fails(2);
    net.start(0);
    let rest = 3 * 4096;
    eventually("the next start finishes it", || {
        (net.stored() <= rest).then_some(())
    });
    for index in net.alive() {
        assert_eq!(net.run(index, &["get", &link, "-o", "-"]).code, 3);
        net.expect(index, &kept, b"kept");
    }

    net.run(1, &["rm", &kept]).fails(8);
    deletes_elsewhere(&net, key, &kept);
}

/// Another daemon with that key may delete what this account put.
fn deletes_elsewhere(net: &Net, key: &str, kept: &str) {
    let elsewhere = net.file("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    say(["key", "import", key, "--data-dir", elsewhere]).ok();
    assert_eq!(
        fs::read(net.data_dir(0).join("account")).unwrap(),
        fs::read(format!("{elsewhere}/account")).unwrap()
    );
    net.run(0, &["key", "import", key]).fails(2);
    net.kill(0);
    let invite = net.run(1, &["invite"]).ok().word();
    let mut daemon = mutualstore();
    daemon.args([
        "daemon",
        "--data-dir",
        elsewhere,
        "--capacity",
        "1GiB",
        "--api",
        "127.0.0.1:0",
    ]);
    daemon.args([
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--join",
        &invite,
        "--exit-on-stdin-close",
    ]);
    let mut daemon = daemon
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is joined and may delete", || {
        let said = say(["rm", kept, "--data-dir", elsewhere]);
        (said.code == 0).then_some(())
    });
    // What was read lately is remembered for some seconds.
    eventually("it is gone for others too", || {
        (net.run(1, &["get", kept, "-o", "-"]).code == 3).then_some(())
    });
    drop(daemon.stdin.take());
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn wedged_primaries_are_taken_over() {
    let net = Net::up(9, &["--seed", "26", "--", "--repair-delay", "2s"]);
    let bytes = noise(26, 120 * MIB);
    let link = net.put(0, &bytes, &["--code", "rs:3+2"]);
    // One holder of the manifest repairs: nobody else would know of it.
    let manifest = &net.stat(0, &link)["stripes"][0];
    let active = net.index_of(manifest["shards"][1]["peer"].as_str().unwrap());
    let mut others = (1..9).filter(|index| *index != active);
    // Three of nine live, hold shards, answer, and never repair anything.
    for idle in others.by_ref().take(3) {
        net.kill(idle);
        let file = net.data_dir(idle).join("config.toml");
        let kept = fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = kept
            .lines()
            .filter(|line| !line.starts_with("repair ="))
            .collect();
        fs::write(&file, format!("repair = \"off\"\n{}", kept.join("\n"))).unwrap();
        net.start(idle);
    }
    net.becomes(0, &link, "safe");
    net.kill(others.next().unwrap());
    net.becomes(0, &link, "degraded");
    net.becomes(0, &link, "safe");
    let taken_over = |index: &usize| net.status(*index)["repair"]["taken_over_total"].as_u64().unwrap();
    assert!(net.alive().iter().map(taken_over).sum::<u64>() > 0);
    for index in net.alive() {
        net.expect(index, &link, &bytes);
    }
}

/// After a restart it stands in the address book only.
#[test]
fn who_was_gone_before_a_restart_is_not_waited_for() {
    let net = Net::up(5, &["--seed", "27", "--", "--repair-delay", "2s"]);
    let bytes = noise(27, 3 * MIB);
    let link = net.put(0, &bytes, &["--code", "xor:2"]);
    let lost = net.ids(&[4]).remove(0);
    let is_gone = |index: usize| {
        let ring = net.run(index, &["ring", "--json"]).ok().json();
        let found = ring["peers"]
            .as_array()?
            .iter()
            .find(|peer| peer["peer"] == *lost)?;
        (found["state"] == "gone").then_some(())
    };
    net.kill(4);
    eventually("all miss it", || net.alive().into_iter().try_for_each(is_gone));
    net.kill(0);
    net.start(0);
    eventually("it is gone for who just started", || is_gone(0));
    // As many peers are counted as by those who saw it go.
    let code = |index: usize| net.stat(index, &net.put(index, b"small", &[]))["code"].clone();
    assert_eq!(code(0), code(1));
    net.becomes(0, &link, "safe");
    net.run(0, &["rm", &link]).ok();
}

/// Nobody has met it, and nobody waits for it to delete what it may hold.
#[test]
fn who_was_gone_before_all_restarted_can_be_forgotten() {
    let net = Net::up(6, &["--seed", "28", "--", "--repair-delay", "1h"]);
    let bytes = noise(28, 3 * MIB);
    let link = net.put(0, &bytes, &["--code", "copies:3"]);
    net.becomes(0, &link, "safe");
    let stat = net.stat(0, &link);
    let holders = stat["stripes"][1]["shards"].as_array().unwrap().iter();
    let holders = holders.map(|shard| shard["peer"].as_str().unwrap());
    let lost = holders
        .map(|peer| (net.index_of(peer), peer))
        .find(|(index, _)| *index != 0);
    let (victim, lost) = lost.unwrap();
    let knows = |index: usize| {
        let book = fs::read_to_string(net.data_dir(index).join("book.json"));
        book.unwrap_or_default().contains(lost).then_some(())
    };
    eventually("it is in an address book", || knows(0));
    net.testnet("kill", &["--peer", &victim.to_string(), "--wipe"])
        .ok();
    for index in net.alive() {
        net.kill(index);
    }
    for index in (0..6).filter(|index| *index != victim) {
        net.start(index);
    }
    net.becomes(0, &link, "degraded");
    net.run(0, &["rm", &link]).fails(5);
    let forgotten = net.run(0, &["forget", lost, "--json"]).ok().json();
    assert_eq!(
        (
            forgotten["told"].as_u64(),
            forgotten["silent"].as_array().map(Vec::len)
        ),
        (Some(5), Some(0))
    );
    let fitting = net.put(0, b"small", &[]);
    assert_eq!(net.stat(0, &fitting)["code"], "rs:2+2");
    net.run(0, &["rm", &link]).ok();
}

/// Its holder was away in between, so that only a tombstone is left to begin with.
#[test]
fn a_deletion_that_was_refused_is_finished_when_asked_again() {
    let net = Net::up(
        7,
        &[
            "--seed",
            "29",
            "--",
            "--repair-delay",
            "1h",
            "--write-timeout",
            "2s",
        ],
    );
    for placement in ["successors", "random", "copysets", "buddies"] {
        let link = net.put(
            0,
            &noise(30, 9000),
            &["--code", "copies:2", "--placement", placement],
        );
        let stat = net.stat(0, &link);
        let holders = stat["stripes"][0]["shards"].as_array().unwrap().iter();
        let mut holders = holders.map(|shard| net.index_of(shard["peer"].as_str().unwrap()));
        let away = holders.find(|index| *index != 0).unwrap();
        net.kill(away);
        for _ in 0..2 {
            net.run(0, &["rm", &link]).fails(5);
        }
        net.start(away);
        eventually("it is gone", || {
            let said = net.run(0, &["rm", &link]);
            assert!(said.code == 0 || said.code == 5, "{placement}: {}", said.stderr);
            (said.code == 0).then_some(())
        });
        net.run(0, &["rm", &link]).fails(3);
        net.run(0, &["status", "--check"]).ok();
    }
    let listed = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(listed["files"].as_array().map(Vec::len), Some(0), "{listed}");
}

/// It would take all others for gone, and what they hold for deleted.
#[test]
fn who_is_cut_off_deletes_nothing_that_others_hold() {
    let net = Net::up(
        7,
        &[
            "--seed",
            "31",
            "--",
            "--repair-delay",
            "2s",
            "--write-timeout",
            "2s",
        ],
    );
    let bytes = noise(31, 64 << 10);
    let me = net.ids(&[0]).remove(0);
    let holds = |stripe: &Value| {
        let mut shards = stripe["shards"].as_array().unwrap().iter();
        shards.any(|shard| shard["peer"] == *me)
    };
    // Its manifest can be read here, and what it consists of lies elsewhere.
    let link = eventually("a file lies so", || {
        let link = net.put(0, &bytes, &["--code", "copies:2"]);
        let stat = net.stat(0, &link);
        if holds(&stat["stripes"][0]) && !holds(&stat["stripes"][1]) {
            return Some(link);
        }
        net.run(0, &["rm", &link]).ok();
        None
    });
    for index in 1..7 {
        net.kill(index);
    }
    eventually("all are gone", || {
        let ring = net.run(0, &["ring", "--json"]).ok().json();
        let mut others = ring["peers"]
            .as_array()?
            .iter()
            .filter(|peer| peer["peer"] != *me);
        others.all(|peer| peer["state"] == "gone").then_some(())
    });
    net.run(0, &["rm", &link]).fails(5);
    for index in 1..7 {
        net.start(index);
    }
    net.becomes(0, &link, "safe");
    net.run(0, &["rm", &link]).ok();
    eventually("nothing is left", || {
        let held = |index: usize| net.status(index)["shards"].as_u64().unwrap();
        (net.alive().into_iter().map(held).sum::<u64>() == 0).then_some(())
    });
}

/// The two others were gone when it was deleted, and the one that was told is lost right after.
#[test]
fn a_deletion_outlives_what_the_file_would_have() {
    let net = Net::up(
        8,
        &["--seed", "33", "--", "--repair-delay", "2s", "--repair", "off"],
    );
    let (link, holders) = eventually("a file lies elsewhere", || {
        let link = net.put(
            0,
            b"to be deleted",
            &["--code", "copies:3", "--placement", "random"],
        );
        let stat = net.stat(0, &link);
        let holders = stat["stripes"][0]["shards"].as_array().unwrap().iter();
        let holders = holders.map(|shard| net.index_of(shard["peer"].as_str().unwrap()));
        let holders: Vec<usize> = holders.collect();
        if holders.contains(&0) {
            // Its shards would be counted below.
            net.run(0, &["rm", &link]).ok();
            return None;
        }
        Some((link, holders))
    });
    let lost = net.ids(&holders);
    net.kill(holders[0]);
    net.kill(holders[1]);
    eventually("two are gone", || {
        let ring = net.run(0, &["ring", "--json"]).ok().json();
        let peers = ring["peers"].as_array()?.iter();
        let gone =
            peers.filter(|peer| peer["state"] == "gone" && lost.iter().any(|lost| peer["peer"] == *lost));
        (gone.count() == 2).then_some(())
    });
    net.run(0, &["rm", &link]).ok();
    net.testnet("kill", &["--peer", &holders[2].to_string(), "--wipe"])
        .ok();
    net.start(holders[0]);
    net.start(holders[1]);
    eventually("it is gone", || {
        (net.run(0, &["get", &link, "-o", "-"]).code == 3).then_some(())
    });
    eventually("who was away drops it", || {
        let held = |index: &usize| net.status(*index)["shards"].as_u64().unwrap();
        (holders[..2].iter().map(held).sum::<u64>() == 0).then_some(())
    });
}
