//! Files by name: buckets, versions, several devices of one account, and an account from its words.

mod trees;
mod trouble;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use serde_json::Value;

use crate::api::client::Api;
use crate::common::{Net, Said, eventually, mutualstore, noise};

/// `account restore` into a data directory, with these words on standard input.
fn restore(dir: &Path, words: &str) -> Said {
    let mut command = mutualstore();
    command.args(["account", "restore", "--data-dir"]).arg(dir);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
    Said::of(child.wait_with_output().unwrap())
}

fn phrase(net: &Net, index: usize) -> String {
    net.run(index, &["account", "phrase"]).ok().word()
}

/// Makes a peer a device of the account with these words, which it was not before.
fn adopt(net: &Net, index: usize, words: &str) {
    net.kill(index);
    let dir = net.data_dir(index);
    fs::remove_file(dir.join("account")).unwrap();
    // None if it wrote no names.
    drop(fs::remove_dir_all(dir.join("names")));
    restore(&dir, words).ok();
    net.start(index);
}

fn put(net: &Net, index: usize, bytes: &[u8], name: &str) {
    let file = net.file("source");
    fs::write(&file, bytes).unwrap();
    net.run(index, &["put", file.to_str().unwrap(), name]).ok();
}

fn get(net: &Net, index: usize, words: &[&str]) -> Said {
    net.run(index, &[&["get", "-o", "-"], words].concat())
}

/// The keys of a listing, with what they are.
fn keys(net: &Net, index: usize, words: &[&str]) -> Vec<(String, String)> {
    let listed = net
        .run(index, &[&["ls", "--fresh", "--json"], words].concat())
        .ok()
        .json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names = listed["files"].as_array().unwrap().iter();
    let prefixes = listed["prefixes"].as_array().unwrap().iter();
    let names = names.map(|name| (text(&name["name"]), text(&name["kind"])));
    names
        .chain(prefixes.map(|prefix| (text(prefix), "prefix".to_owned())))
        .collect()
}

#[test]
fn names_are_the_same_on_all_devices_and_come_back_from_words() {
    let net = Net::up(6, &["--seed", "91"]);
    let words = phrase(&net, 0);
    assert_eq!(words.split(' ').count(), 24);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "photos"]).ok();
    let (old, new) = (noise(1, 100_000), noise(2, 5000));
    put(&net, 0, &old, "/photos/2026/a.jpg");
    put(&net, 0, b"b", "/photos/b");

    let there = |key: &str, kind: &str| (key.to_owned(), kind.to_owned());
    assert_eq!(
        keys(&net, 1, &["/photos"]),
        [there("b", "file"), there("2026/", "prefix")]
    );
    assert_eq!(get(&net, 1, &["/photos/2026/a.jpg"]).ok().stdout, old);
    put(&net, 1, &new, "/photos/2026/a.jpg");
    eventually("the first device sees what the second wrote", || {
        (get(&net, 0, &["/photos/2026/a.jpg"]).ok().stdout == new).then_some(())
    });
    let versions = net
        .run(0, &["ls", "--versions", "--json", "/photos/2026/"])
        .ok()
        .json();
    let versions = versions["files"].as_array().unwrap();
    assert_eq!(versions.len(), 2);
    let oldest = versions[1]["version"].as_str().unwrap();
    assert_eq!(
        get(&net, 0, &["--version", oldest, "/photos/2026/a.jpg"])
            .ok()
            .stdout,
        old
    );

    net.run(0, &["rm", "/photos/b"]).ok();
    assert_eq!(keys(&net, 1, &["/photos"]), [there("2026/", "prefix")]);
    assert!(keys(&net, 1, &["--deleted", "/photos"]).contains(&there("b", "deleted")));
    get(&net, 1, &["/photos/b"]).fails(3);
    net.run(1, &["rm", "/photos/b"]).fails(3);

    is_set_and_listed(&net);

    // Both devices are lost.
    adopt(&net, 2, &words);
    for index in [0, 1] {
        net.testnet("kill", &["--peer", &index.to_string(), "--wipe"])
            .ok();
    }
    eventually("what was written is there", || {
        let said = get(&net, 2, &["/photos/2026/a.jpg"]);
        (said.code == 0 && said.stdout == new).then_some(())
    });
    assert_eq!(keys(&net, 2, &["-r", "/photos"]), [there("2026/a.jpg", "file")]);
    assert_eq!(net.run(2, &["ls", "/"]).ok().word(), "/photos/");
}

/// Devices are listed, and what is set for a bucket holds.
fn is_set_and_listed(net: &Net) {
    let devices = net.run(1, &["account", "devices", "--json"]).ok().json();
    let of = |bucket: &str| {
        let devices = devices["devices"].as_array().unwrap().iter();
        devices.filter(|device| device["bucket"] == bucket).count()
    };
    assert_eq!((of(""), of("photos")), (1, 2));
    net.run(
        0,
        &[
            "bucket",
            "set",
            "photos",
            "--code",
            "copies:2",
            "--keep-versions",
            "7d",
        ],
    )
    .ok();
    let set = net.run(0, &["bucket", "set", "photos"]).ok().text();
    assert_eq!(set, "code=copies:2\nkeep-versions=7d\n");
    net.run(0, &["bucket", "set", "photos", "--code", "copies:0"])
        .fails(2);
    net.run(0, &["bucket", "set", "photos", "--colour", "red"])
        .fails(2);
    put(net, 0, b"coded", "/photos/coded");
    assert_eq!(
        net.run(0, &["ls", "--fresh", "--json", "/photos/coded"])
            .ok()
            .json()["files"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    net.run(0, &["rm", "/photos/coded"]).ok();
}

#[test]
fn many_names_are_there_after_all_restart() {
    let net = Net::up(4, &["--seed", "92"]);
    let words = phrase(&net, 0);
    net.run(0, &["bucket", "create", "many"]).ok();
    let mut expected = Vec::new();
    for number in 0..150 {
        let name = format!("{:03}", number * 7 % 150);
        put(&net, 0, name.as_bytes(), &format!("/many/{name}"));
        expected.push((name, "file".to_owned()));
    }
    expected.sort();
    assert_eq!(keys(&net, 0, &["-r", "/many"]), expected);
    for index in 0..4 {
        net.kill(index);
    }
    for index in 0..4 {
        net.start(index);
    }
    adopt(&net, 3, &words);
    for index in [0, 3] {
        eventually("all names are back", || {
            let said = net.run(index, &["ls", "-r", "--json", "/many"]);
            let listed = (said.code == 0).then(|| said.json())?;
            (listed["files"].as_array()?.len() == 150).then_some(())
        });
        assert_eq!(keys(&net, index, &["-r", "/many"]), expected);
        assert_eq!(get(&net, index, &["/many/077"]).ok().stdout, b"077");
    }
}

#[test]
fn wrong_words_and_names_are_one_line_each() {
    let net = Net::up(3, &["--seed", "93"]);
    let words = phrase(&net, 0);
    let place = net.file("fresh");
    let refuses = |words: &str, why: &str| {
        let said = restore(&place, words).fails(2);
        assert!(said.stderr.contains(why), "{}", said.stderr);
        assert!(!place.join("account").exists());
    };
    refuses("", "0 words");
    let (first, rest) = words.split_once(' ').unwrap();
    refuses(&format!("{first}x {rest}"), "word 1 is none");
    refuses(rest, "23 words");
    restore(
        &place,
        &format!("  {}\n", words.to_uppercase().replace(' ', "\n")),
    )
    .ok();
    restore(&place, &words).ok();
    let other = phrase(&net, 1);
    let said = restore(&place, &other).fails(2);
    assert!(said.stderr.contains("another account"), "{}", said.stderr);

    for bucket in ["ab", "Photos", "10.0.0.1", "a_b"] {
        net.run(0, &["bucket", "create", bucket]).fails(2);
    }
    let file = net.file("file");
    fs::write(&file, "x").unwrap();
    let put = |to: &str| net.run(0, &["put", file.to_str().unwrap(), to]);
    put("/nowhere/x").fails(3);
    put("nowhere").fails(2);
    net.run(0, &["bucket", "create", "there"]).ok();
    put(&format!("/there/{}", "k".repeat(1025))).fails(2);
    put(&format!("/there/{}", "k".repeat(1024))).ok();
    get(&net, 0, &["/there/other"]).fails(3);
    for index in 0..3 {
        let log = mutualstore_fleet::spawn::log_tail(&net.data_dir(index));
        assert!(!log.contains(rest), "words stand in a log");
    }
}

#[test]
fn file_without_a_destination_is_one_of_the_account() {
    let net = Net::up(3, &["--seed", "95"]);
    let file = net.file("thesis.pdf");
    fs::write(&file, "one").unwrap();
    let put = |flags: &[&str]| {
        let said = net
            .run(0, &[&["put", file.to_str().unwrap()], flags].concat())
            .ok();
        let name = said.stderr.lines().next().unwrap_or_default();
        (said.word(), name.to_owned())
    };
    let (first, name) = put(&[]);
    assert_eq!(name, "/files/thesis.pdf");
    fs::write(&file, "two").unwrap();
    let (second, name) = put(&[]);
    assert_eq!(name, "/files/thesis.pdf (2)");
    assert_eq!(put(&["--name", "other"]).1, "/files/other");
    let (unnamed, name) = put(&["--unnamed"]);
    assert_eq!(name, "");
    let of_files = keys(&net, 0, &["/files/"]).into_iter().map(|(key, _)| key);
    assert_eq!(
        of_files.collect::<Vec<_>>(),
        ["other", "thesis.pdf", "thesis.pdf (2)"]
    );
    assert_eq!(get(&net, 0, &["/files/thesis.pdf"]).ok().stdout, b"one");
    assert_eq!(get(&net, 0, &[&second]).ok().stdout, b"two");

    let listed = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(listed["buckets"][0]["name"], "files");
    assert_eq!(listed["files"].as_array().unwrap().len(), 1);
    assert_eq!(listed["files"][0]["link"], unnamed);
    let all = net.run(0, &["ls", "-r", "--json", "/"]).ok().json();
    assert_eq!(all["files"][1]["name"], "/files/thesis.pdf");
    assert_eq!(all["files"][1]["link"], first);
    let long = net
        .run(0, &["ls", "-l", "--fresh", "--json", "/files/"])
        .ok()
        .json();
    assert_eq!(long["files"][1]["health"], "safe");
    let stat = net.run(0, &["stat", "--json", "/files/thesis.pdf"]).ok().json();
    assert_eq!(stat["size_bytes"], 3);
    net.run(0, &["lookup", "/files/thesis.pdf"]).ok();
    net.run(0, &["stat", "/files/thesis"]).fails(3);

    // All that was put here is watched, with a name or without.
    let status = net.run(0, &["status", "--json"]).ok().json();
    assert_eq!(status["files"]["safe"], 4);

    // The name goes; the file stays, as an old version does.
    let said = net.run(0, &["rm", &first]).ok();
    assert!(said.stderr.contains("/files/thesis.pdf;"), "{}", said.stderr);
    get(&net, 0, &["/files/thesis.pdf"]).fails(3);
    let said = net.run(0, &["rm", &first]).fails(2);
    assert!(said.stderr.contains("old version"), "{}", said.stderr);
    assert_eq!(get(&net, 0, &[&first]).ok().stdout, b"one");
    assert_eq!(put(&[]).1, "/files/thesis.pdf");
    net.run(0, &["rm", &unnamed]).ok();
    get(&net, 0, &[&unnamed]).fails(3);

    // Several, each under its own name.
    let other = net.file("a.txt");
    fs::write(&other, "a").unwrap();
    let both = ["put", "--json", file.to_str().unwrap(), "a.txt"];
    let stored = net.run(0, &both).ok().json();
    let stored = stored["files"].as_array().unwrap();
    assert_eq!(
        (&stored[0]["key"], &stored[1]["key"]),
        (&"thesis.pdf (3)".into(), &"a.txt".into())
    );
    net.run(0, &["ls", "//"]).fails(2);
}

/// How many files of the data directory's journal there are.
fn journalled(net: &Net, index: usize) -> usize {
    fs::read_dir(net.data_dir(index).join("journal")).unwrap().count()
}

#[test]
fn what_holders_do_not_take_is_noted_and_goes_out_later() {
    let net = Net::up(4, &["--seed", "96"]);
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "notes"]).ok();
    for number in 0..60 {
        put(
            &net,
            0,
            b"x",
            &format!("/notes/{number:02}/{}", "long".repeat(60)),
        );
    }
    put(&net, 0, b"y", "/notes/stays");
    assert_eq!(journalled(&net, 0), 0);
    for index in 1..4 {
        net.kill(index);
    }
    // More than a record holds, and after it one name.
    let said = net.run(0, &["rm", "-r", "/notes/"]).fails(5);
    assert!(said.stderr.contains("noted here"), "{}", said.stderr);
    net.run(0, &["mv", "/notes/stays", "/notes/moved"]).fails(3);
    let gone = |index: usize| {
        let said = net.run(index, &["ls", "-r", "--json", "/notes"]);
        (said.code == 0 && said.json()["files"].as_array().unwrap().is_empty()).then_some(())
    };
    eventually("what is noted shows here", || gone(0));
    net.kill(0);
    for index in 1..4 {
        net.start(index);
    }
    assert_eq!(keys(&net, 1, &["-r", "/notes"]).len(), 61);
    net.start(0);
    eventually("what was noted went out", || gone(1));
    eventually("what went out is noted no longer", || {
        let dirs = fs::read_dir(net.data_dir(0).join("names")).unwrap();
        let mut noted = dirs.map(|dir| dir.unwrap().path().join("noted"));
        (!noted.any(|path| path.exists())).then_some(())
    });
    assert_eq!(journalled(&net, 0), 0);
}

/// Requests with conditions at the same time: one of them is the first.
#[test]
fn conditions_hold_when_the_key_changes() {
    let net = Net::up(3, &["--seed", "99"]);
    net.run(0, &["bucket", "create", "races"]).ok();
    let api = Api::of(&net, 0);
    let headers = ["If-None-Match: *", "Content-Length: 1", "Connection: close"];
    let put = || {
        let head = api.head("PUT /v1/names/races/one", &headers);
        api.raw(&(head + "x")).status
    };
    for _ in 0..5 {
        let made = thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(put)).collect();
            all.into_iter()
                .map(|one| one.join().unwrap())
                .filter(|status| *status == 201)
                .count()
        });
        assert_eq!(made, 1);
        net.run(0, &["rm", "/races/one"]).ok();
    }
}

/// Copies a directory of files and directories.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Two devices go on from one disk: under the same number, until holders say so.
#[test]
fn devices_with_a_cloned_disk_lose_nothing() {
    let net = Net::up(5, &["--seed", "98"]);
    let words = phrase(&net, 0);
    net.run(0, &["bucket", "create", "twins"]).ok();
    put(&net, 0, b"before", "/twins/before");
    adopt(&net, 1, &words);
    net.kill(0);
    net.kill(1);
    let names = |index: usize| net.data_dir(index).join("names");
    drop(fs::remove_dir_all(names(1)));
    copy_all(&names(0), &names(1));
    net.start(0);
    net.start(1);
    let mut expected: Vec<(String, String)> = vec![("before".to_owned(), "file".to_owned())];
    for number in 0..12 {
        for device in [0, 1] {
            let key = format!("{number:02} of {device}");
            put(&net, device, key.as_bytes(), &format!("/twins/{key}"));
            expected.push((key, "file".to_owned()));
        }
    }
    expected.sort();
    for device in [0, 1] {
        eventually("both list all", || {
            (keys(&net, device, &["-r", "/twins"]) == expected).then_some(())
        });
        assert_eq!(get(&net, device, &["/twins/07 of 1"]).ok().stdout, b"07 of 1");
    }
    let devices = net.run(0, &["account", "devices", "--json"]).ok().json();
    let of = devices["devices"].as_array().unwrap().iter();
    let writers = of
        .filter(|device| device["bucket"] == "twins")
        .map(|device| device["writer"].as_str().unwrap());
    let writers: std::collections::BTreeSet<&str> = writers.collect();
    assert!(writers.len() >= 2, "{writers:?}");
}

/// Shards of all peers.
fn shards(net: &Net) -> u64 {
    let held = net.alive().into_iter();
    held.map(|index| net.status(index)["shards"].as_u64().unwrap())
        .sum()
}

#[test]
fn lists_of_names_that_were_put_together_go() {
    let net = Net::up(3, &["--seed", "97", "--", "--purge-grace", "2s"]);
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "lists"]).ok();
    // A head holds some 8 KiB of them, and eight lists become one.
    let key = |number: usize| format!("{number:02}/{}", "long".repeat(200));
    for number in 0..85 {
        put(&net, 0, b"", &format!("/lists/{}", key(number)));
    }
    // Small files are two copies in a ring of three.
    let files = 85 * 2;
    eventually("eight lists are one", || {
        let left = shards(&net).checked_sub(files)?;
        // One that eight became, and those since; each has three shards at most.
        (left > 0 && left <= 3 * 3).then_some(())
    });
    assert_eq!(keys(&net, 1, &["-r", "/lists"]).len(), 85);
    net.kill(0);
    net.start(0);
    eventually("all is there after a restart", || {
        let said = net.run(0, &["ls", "-r", "--json", "/lists"]);
        (said.code == 0 && said.json()["files"].as_array()?.len() == 85).then_some(())
    });
}
