//! Files in: producers that take their time, sources that change, networks that are too small.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_client::{Client, PutOptions};
use serde_json::Value;

use crate::common::{Net, Said, eventually, noise, say};

const MIB: usize = 1 << 20;
const LEASE: Duration = Duration::from_secs(1);

/// Starts a put from standard input.
fn begin(command: &mut Command) -> Child {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    piped.spawn().unwrap()
}

fn feed(child: &mut Child, bytes: &[u8]) {
    child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
}

/// No more comes; how it ended.
fn end(mut child: Child) -> Said {
    drop(child.stdin.take());
    Said::of(child.wait_with_output().unwrap())
}

fn metric(net: &Net, index: usize, name: &str) -> u64 {
    let client = Client::open(&net.data_dir(index)).unwrap();
    client.metrics().unwrap().get(name).unwrap()
}

fn pending(net: &Net, index: usize) -> u64 {
    net.status(index)["pending_bytes"].as_u64().unwrap()
}

fn pid(net: &Net, index: usize) -> String {
    net.peers()[index]["pid"].as_u64().unwrap().to_string()
}

fn signal(pid: &str, name: &str) {
    let sent = Command::new("kill").args([name, pid]).status().unwrap();
    assert!(sent.success());
}

fn journal(directory: &Path) -> usize {
    fs::read_dir(directory.join("journal")).unwrap().count()
}

#[test]
fn put_of_a_slow_producer_outlives_its_leases() {
    let net = Net::up(4, &["--", "--pending-lease", "1s"]);
    let bytes = noise(1, 10 * MIB);
    let (first, rest) = bytes.split_at(5 * MIB);
    let begun = Instant::now();
    // With the code that is chosen, with copies, and a small file that waits in memory.
    let mut puts = [
        begin(&mut net.command(0, &["put", "-"])),
        begin(&mut net.command(0, &["put", "-", "--code", "copies:2"])),
    ];
    let mut small = begin(&mut net.command(1, &["put", "-"]));
    feed(&mut small, b"small");
    for put in &mut puts {
        feed(put, first);
    }
    thread::sleep(LEASE * 4);
    for put in &mut puts {
        feed(put, rest);
    }
    thread::sleep(LEASE * 4);
    for put in puts {
        net.expect(2, &end(put).ok().word(), &bytes);
    }
    net.expect(3, &end(small).ok().word(), b"small");
    // Each of two puts asks each of three holders every third of a lease, whatever the number of stripes.
    let rounds = begun.elapsed().as_millis() / (LEASE / 3).as_millis() + 2;
    let renewals = u128::from(metric(&net, 0, "leases_renewed_total"));
    assert!(
        renewals > 0 && renewals <= 2 * 3 * rounds,
        "{renewals} in {rounds} rounds"
    );
}

#[test]
fn put_whose_daemon_dies_in_the_pause_leaves_nothing() {
    let net = Net::up(4, &["--", "--pending-lease", "1s", "--repair-delay", "1s"]);
    let before = net.stored();
    let mut put = begin(&mut net.command(0, &["put", "-"]));
    feed(&mut put, &noise(2, 9 * MIB));
    eventually("stripes are stored", || (pending(&net, 1) > 0).then_some(()));
    net.kill(0);
    let said = end(put);
    assert!([5, 6].contains(&said.code), "{said:?}");
    eventually("the leases end", || {
        (net.stored() == before && (1..4).all(|index| pending(&net, index) == 0)).then_some(())
    });
    net.start(0);
    eventually("the journal is empty", || {
        (pending(&net, 0) == 0 && journal(&net.data_dir(0)) == 0).then_some(())
    });
    assert_eq!(net.stored(), before);
}

#[test]
fn put_whose_daemon_or_holder_stands_still_goes_on() {
    let net = Net::up(4, &["--", "--pending-lease", "1s"]);
    let bytes = noise(3, 10 * MIB);
    let (first, rest) = bytes.split_at(5 * MIB);
    for stopped in [0, 1] {
        let mut put = begin(&mut net.command(0, &["put", "-"]));
        feed(&mut put, first);
        eventually("stripes are stored", || (pending(&net, 2) > 0).then_some(()));
        let pid = pid(&net, stopped);
        signal(&pid, "-STOP");
        thread::sleep(LEASE * 3);
        signal(&pid, "-CONT");
        feed(&mut put, rest);
        net.expect(3, &end(put).ok().word(), &bytes);
    }
}

#[test]
fn put_whose_holder_restarts_in_the_pause_goes_on() {
    let net = Net::up(5, &["--", "--pending-lease", "1s"]);
    let bytes = noise(4, 10 * MIB);
    let (first, rest) = bytes.split_at(5 * MIB);
    let mut put = begin(&mut net.command(0, &["put", "-"]));
    feed(&mut put, first);
    // One of five peers has no shard of a stripe, and of these few stripes one peer may have none at all.
    let holder = eventually("stripes are stored", || {
        (1..5).find(|index| pending(&net, *index) > 0)
    });
    net.kill(holder);
    thread::sleep(LEASE * 3);
    net.start(holder);
    feed(&mut put, rest);
    net.expect(2, &end(put).ok().word(), &bytes);
}

/// A file of 64 MiB, too long for the pipes and buffers on its way.
fn big(net: &Net) -> PathBuf {
    let path = net.file("big");
    fs::write(&path, noise(5, 64 * MIB)).unwrap();
    path
}

/// Changes a file as soon as a put of it has stored something, and returns how the put ended.
fn put_while(net: &Net, path: &Path, flags: &[&str], change: impl FnOnce(&Path)) -> Said {
    let mut words = vec!["put", path.to_str().unwrap(), "--json"];
    words.extend(flags);
    let put = begin(&mut net.command(0, &words));
    eventually("the put is on its way", || (pending(net, 1) > 0).then_some(()));
    change(path);
    end(put)
}

fn rewrite(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"other", 64 * MIB as u64 - 5).unwrap();
}

fn append(path: &Path) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"more").unwrap();
}

fn shorten(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(63 * MIB as u64).unwrap();
}

/// As a program does that wants to hide it.
fn rewrite_and_restore_time(path: &Path) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    rewrite(path);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(before).unwrap();
}

fn nothing_pends(net: &Net) {
    eventually("all is taken back", || {
        (0..4).all(|index| pending(net, index) == 0).then_some(())
    });
}

#[test]
fn put_of_a_file_that_changes_stores_nothing() {
    // The link is slow so that the file changes before its last byte is read.
    let net = Net::up(4, &["--", "--link-rate", "200Mbit"]);
    let before = net.stored();
    for change in [rewrite, append, shorten, rewrite_and_restore_time] {
        let path = big(&net);
        let said = put_while(&net, &path, &[], change).fails(5);
        assert!(
            said.stderr.contains("changed while it was read"),
            "{}",
            said.stderr
        );
    }
    nothing_pends(&net);
    assert_eq!(net.stored(), before);
    let listed = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(listed["files"], Value::Array(Vec::new()));

    let path = big(&net);
    let said = put_while(&net, &path, &["--allow-changing"], append).ok();
    assert!(
        said.stderr.contains("changed while it was read"),
        "{}",
        said.stderr
    );
    assert_eq!(said.json()["source_changed"], "its size");
    net.expect(1, said.json()["link"].as_str().unwrap(), &noise(5, 64 * MIB));
}

#[test]
fn put_of_what_is_no_plain_file_goes_on() {
    let net = Net::up(2, &[]);
    let said = net.run(0, &["put", "/proc/self/status"]).ok();
    let read = net.run(1, &["get", &said.word(), "-o", "-"]).ok().stdout;
    assert!(read.starts_with(b"Name:"), "{read:?}");
    let pipe = net.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let put = begin(&mut net.command(0, &["put", pipe.to_str().unwrap()]));
    let bytes = noise(6, MIB);
    fs::write(&pipe, &bytes).unwrap();
    net.expect(1, &end(put).ok().word(), &bytes);
    let empty = net.run(0, &["put", "/dev/null"]).ok().word();
    net.expect(1, &empty, b"");
}

#[test]
fn put_beyond_the_free_space_is_refused_before_it_is_sent() {
    let net = Net::up(4, &["--capacity", "64MiB"]);
    let path = net.file("sparse");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let stored = |index| metric(&net, index, "shards_stored_total");
    let before: u64 = (0..4).map(stored).sum();
    let said = net.run(0, &["put", path.to_str().unwrap()]).fails(7);
    assert!(
        said.stderr.contains("a file of 1 GiB takes 2 GiB as rs:2+2"),
        "{}",
        said.stderr
    );
    assert_eq!((0..4).map(stored).sum::<u64>(), before);
    let fits = noise(7, 20 * MIB);
    net.expect(1, &net.put(0, &fits, &[]), &fits);
}

/// Puts small files through one peer with several clients.
fn put_many(net: &Net, index: usize, count: usize) {
    let client = Client::open(&net.data_dir(index)).unwrap();
    thread::scope(|scope| {
        for part in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                for number in (part..count).step_by(8) {
                    let bytes = number.to_be_bytes();
                    let options = PutOptions {
                        name: Some(format!("file-{number}")),
                        ..PutOptions::default()
                    };
                    let length = Some(bytes.len() as u64);
                    let put = client.put(&mut &bytes[..], length, &options, None, &mut |_, _| ());
                    put.unwrap();
                }
            });
        }
    });
}

/// `GET` of a path through peer `index`.
fn get(net: &Net, index: usize, path: &str) -> Value {
    let peers = net.peers();
    let api = peers[index]["api"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap();
    let token = fs::read_to_string(net.data_dir(index).join("token")).unwrap();
    let mut stream = TcpStream::connect(api).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn questions(net: &Net, peers: usize) -> u64 {
    (0..peers)
        .map(|index| metric(net, index, "survey_questions_total"))
        .sum()
}

fn list_everything(net: &Net, files: usize) {
    net.status(0);
    let listed = net.run(0, &["ls", "--json"]).ok().json();
    assert_eq!(listed["files"].as_array().unwrap().len(), files);
    assert_eq!(listed["next"], Value::Null);
    let file = &listed["files"][0];
    assert!(
        file["health"].is_string() && file["health_age_seconds"].is_u64(),
        "{file}"
    );
    net.run(0, &["doctor"]);
}

#[test]
fn listings_ask_nobody_and_follow_what_happens() {
    const FILES: usize = 300;
    let net = Net::up(5, &["--", "--repair-delay", "1h"]);
    put_many(&net, 0, FILES);
    let safe = |status: &Value| status["files"]["safe"].as_u64() == Some(FILES as u64);
    // The survey may ask meanwhile for reasons of its own, such as a put that was slow. It comes to rest; a
    // listing that asks never would.
    let asked = eventually("listings that ask nobody", || {
        let before = questions(&net, 5);
        for _ in 0..5 {
            list_everything(&net, FILES);
        }
        (safe(&net.status(0)) && questions(&net, 5) == before).then_some(before)
    });
    // Asked now: a question a peer for each 256 stripes, and not one a file.
    assert!(safe(&net.run(0, &["status", "--fresh", "--json"]).ok().json()));
    let fresh = questions(&net, 5) - asked;
    assert!((1..=5 * 4).contains(&fresh), "{fresh} questions");

    // A peer that goes is noticed without being asked about, and so is its return.
    net.kill(3);
    eventually("files are degraded", || {
        (net.status(0)["files"]["degraded"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(net.run(0, &["status", "--check"]).code, 5);
    net.start(3);
    eventually("files are safe", || safe(&net.status(0)).then_some(()));

    // After a restart nothing is known, and soon everything.
    net.kill(0);
    net.start(0);
    eventually("files are asked about", || safe(&net.status(0)).then_some(()));
}

#[test]
fn list_is_paged() {
    const FILES: usize = 57;
    let net = Net::up(2, &[]);
    put_many(&net, 0, FILES);
    let all = net.run(0, &["ls", "--json"]).ok().json()["files"].clone();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), FILES);
    let link = |file: &Value| file["link"].as_str().unwrap().to_owned();
    let gone = link(&all[20]);
    net.run(0, &["rm", &gone]).ok();
    let mut expected: Vec<String> = all.iter().map(link).collect();
    expected.retain(|link| *link != gone);
    for restarted in [false, true] {
        let (mut found, mut after) = (Vec::new(), String::new());
        let mut pages = 0;
        loop {
            let page = get(&net, 0, &format!("/v1/files?limit=10{after}"));
            let files = page["files"].as_array().unwrap();
            assert!(files.len() <= 10);
            found.extend(files.iter().map(link));
            pages += 1;
            let Some(cursor) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={cursor}");
        }
        assert_eq!((&found, pages), (&expected, 6));
        let some = get(&net, 0, "/v1/files?pattern=file-1?&limit=3");
        assert_eq!(some["files"].as_array().unwrap().len(), 3);
        assert!(some["next"].is_string());
        if !restarted {
            net.kill(0);
            net.start(0);
        }
    }
    let ten = net.run(0, &["ls", "file-1?", "--json"]).ok().json();
    let ten = ten["files"].as_array().unwrap().len();
    assert!(ten == 10 || ten == 9, "{ten}");
    for wrong in ["limit=0", "limit=x", "after=x", "other=1"] {
        assert_eq!(get(&net, 0, &format!("/v1/files?{wrong}"))["code"], 2, "{wrong}");
    }
}

#[test]
fn file_is_got_under_names_that_are_no_text() {
    let net = Net::up(1, &[]);
    let bytes = noise(3, 1000);
    let link = net.put(0, &bytes, &[]);
    let dir = tempfile::tempdir().unwrap();
    for (name, json) in [(&b"z\xff"[..], true), (b"a\nb\x1b]0;T\x07", false)] {
        let path = dir.path().join(OsStr::from_bytes(name));
        let data_dir = net.data_dir(0);
        let mut words: Vec<&OsStr> = ["get", &link, "--data-dir"].map(OsStr::new).to_vec();
        words.extend([data_dir.as_os_str(), OsStr::new("-o"), path.as_os_str()]);
        words.extend(json.then_some(OsStr::new("--json")));
        let said = say(words).ok();
        assert!(fs::read(&path).unwrap() == bytes);
        if json {
            assert_eq!(said.json()["size_bytes"], 1000);
        } else {
            assert_eq!(said.stderr.lines().count(), 1, "{:?}", said.stderr);
            assert!(
                !said.stderr.trim_end().contains(char::is_control),
                "{:?}",
                said.stderr
            );
        }
    }
}
