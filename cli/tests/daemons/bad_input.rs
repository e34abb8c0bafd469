//! Bad input gets one clear line and the documented exit code, and loses nothing.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mutualstore_client::Client;
use mutualstore_daemon::format::link::Link;
use serde_json::Value;

use crate::common::{Net, Said, eventually, free_port, mutualstore, noise, say};

const MIB: usize = 1 << 20;

/// A daemon in the foreground, killed in the end.
struct Daemon(Child);

impl Daemon {
    fn start(words: &[&str]) -> Self {
        let mut command = mutualstore();
        command.arg("daemon").args(words).arg("--exit-on-stdin-close");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn links_paths_and_options() {
    let net = Net::up(5, &["--seed", "1", "--", "--write-timeout", "2s"]);
    let bytes = noise(1, 2 * MIB);
    let link = net.put(0, &bytes, &[]);
    let refused = |words: &[&str], code: i32| net.run(1, words).fails(code).stderr;

    refused(&["get", "nonsense", "-o", "-"], 2);
    refused(&["stat", "../../etc/passwd"], 2);
    let truncated = &link[..link.len() - 3];
    assert!(refused(&["get", truncated, "-o", "-"], 2).contains("truncated"));
    refused(&["lookup", "zz"], 2);
    let name = "n".repeat(70_000);
    assert!(refused(&["put", "/dev/null", "--name", &name], 2).contains("at most 1024"));

    // Right in form: another network's, and one that nobody stored.
    let mut foreign: Link = link.parse().unwrap();
    foreign.tag[0] ^= 1;
    refused(&["get", &foreign.to_string(), "-o", "-"], 8);
    let mut unknown: Link = link.parse().unwrap();
    unknown.manifest[0] ^= 1;
    refused(&["get", &unknown.to_string(), "-o", "-"], 3);
    refused(&["stat", &unknown.to_string()], 3);

    refused(&["put", "/nonexistent/file"], 2);
    assert!(refused(&["put", "/"], 2).contains("directory"));
    refused(&["put", "/etc/hostname", "--code", "rs:0+2"], 2);
    refused(&["put", "/etc/hostname", "--code", "three"], 2);
    refused(&["put", "/etc/hostname", "--shard-size", "1000"], 2);
    let too_few = net.run(
        1,
        &["put", net.file("to-put").to_str().unwrap(), "--code", "rs:4+2"],
    );
    assert!([2, 5].contains(&too_few.code), "{too_few:?}");
    refused(&["get", &link, "--range", "99999999-", "-o", "-"], 2);

    // Nothing is overwritten, and nothing half shows up.
    let mine = net.file("mine");
    fs::write(&mine, "mine").unwrap();
    refused(&["get", &link, "-o", mine.to_str().unwrap()], 2);
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    net.run(1, &["get", &link, "-o", mine.to_str().unwrap(), "--force"])
        .ok();
    assert!(fs::read(&mine).unwrap() == bytes);
    refused(&["get", &link, "-o", "/nonexistent/file"], 2);

    let empty = net.put(1, b"", &[]);
    net.expect(4, &empty, b"");
    assert_eq!(net.stat(2, &empty)["size_bytes"], 0);

    // Only what was meant to be stored is listed.
    assert_eq!(
        net.run(1, &["ls", "--json"]).ok().json()["files"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let listed = net.testnet("ls", &["--json"]).ok().json();
    let api = listed["peers"][0]["api"].as_str().unwrap();
    let token = net.file("token");
    fs::write(&token, "wrong").unwrap();
    say(["status", "--api", api, "--token-file", token.to_str().unwrap()]).fails(8);
}

#[test]
fn daemons_that_cannot_start() {
    let place = tempfile::tempdir().unwrap();
    let dir = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    say(["status", "--data-dir", &dir("none")]).fails(6);
    say([
        "status",
        "--api",
        "http://127.0.0.1:1",
        "--token-file",
        "/dev/null",
    ])
    .fails(6);
    for words in [
        &["--capacity", "0"][..],
        &[],
        &["--capacity", "64MiB", "--listen", "nowhere"],
    ] {
        let said = say([&["daemon", "--data-dir", &dir("bad")], words].concat());
        assert_eq!(said.code, 2, "{words:?}: {}", said.stderr);
    }
    assert_eq!(
        say(["daemon", "--data-dir", "/dev/null/dir", "--capacity", "64MiB"]).code,
        2
    );

    // Joins a dead address: serves alone meanwhile, so that nobody waits for it.
    let (one, two) = (dir("one"), dir("two"));
    let dead = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let loopback = "/ip4/127.0.0.1/tcp/0";
    let _daemon = Daemon::start(&[
        "--data-dir",
        &one,
        "--capacity",
        "64MiB",
        "--listen",
        loopback,
        "--join",
        dead,
    ]);
    let status = eventually("the daemon answers", || {
        let said = say(["status", "--data-dir", &one, "--json"]);
        (said.code == 0).then(|| said.json())
    });
    assert_eq!(status["ring"], "joining", "{status}");

    let in_use = say(["daemon", "--data-dir", &one, "--capacity", "64MiB"]);
    assert_eq!(in_use.code, 2, "{}", in_use.stderr);
    let daemon: serde_json::Value =
        serde_json::from_slice(&fs::read(format!("{one}/daemon.json")).unwrap()).unwrap();
    let api = daemon["api"].as_str().unwrap().trim_start_matches("http://");
    let taken = say([
        "daemon",
        "--data-dir",
        &two,
        "--capacity",
        "64MiB",
        "--listen",
        loopback,
        "--api",
        api,
    ]);
    assert_eq!(taken.code, 2, "{}", taken.stderr);
}

/// The directory can still join any network.
#[test]
fn nothing_stays_of_a_start_that_cannot_listen() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("new");
    let nobodys = "/ip4/192.0.2.1/tcp/1";
    let said = say([
        "daemon",
        "--data-dir",
        dir.to_str().unwrap(),
        "--capacity",
        "64MiB",
        "--listen",
        nobodys,
    ]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    assert!(!dir.exists(), "{:?}", fs::read_dir(&dir));
}

/// Words and files are shown so that a terminal obeys nothing and one line is enough.
#[test]
fn messages_are_one_readable_line() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().to_str().unwrap().to_owned();
    for (content, expected) in [
        (
            "foo = 5\n",
            "config.toml: line 1, column 1: unknown field `foo`, expected one of ",
        ),
        (
            "capacity = \"1GiB\"\nrepair_delay = 5\n",
            "config.toml: line 2, column 16: invalid type: integer `5`, expected a string",
        ),
        (
            "capacity = \"1GiB\u{1b}[31m\"\n",
            "config.toml: line 1, column 17: ",
        ),
        ("\n\ncapacity = '1", "config.toml: line 3, column "),
    ] {
        fs::write(place.path().join("config.toml"), content).unwrap();
        let said = say(["daemon", "--data-dir", &dir]).fails(2);
        assert!(said.stderr.contains(expected), "{}", said.stderr);
        assert!(!said.stderr.contains("\\n"), "{}", said.stderr);
    }
    let said = say(["put", "x", "--fragments", "\u{1b}[31m"]).fails(2);
    assert!(said.stderr.contains("'\\u{1b}[31m'"), "{}", said.stderr);
    let said = say(["\u{1b}[31m\u{202e}"]).fails(2);
    assert!(said.stderr.contains("'\\u{1b}[31m\\u{202e}'"), "{}", said.stderr);
    for name in ["n".repeat(3000), "two words ".repeat(400)] {
        let said = say(["put", &name]).fails(2);
        assert!(
            said.stderr.contains('…') && said.stderr.len() < 1700,
            "{}",
            said.stderr
        );
        assert!(said.stderr.contains("File name too long"), "{}", said.stderr);
    }
}

#[test]
fn one_thing_is_counted_in_the_singular() {
    let net = Net::up(1, &[]);
    net.put(0, &noise(1, 1000), &["--code", "copies:1"]);
    let said = net.run(0, &["doctor"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("alone, 1 peer known"), "{text}");
    let text = net.run(0, &["scrub", "--wait"]).ok().text();
    assert!(text.starts_with("1 shard read, 0 bad"), "{text}");
}

fn status(dir: &str) -> Value {
    say(["status", "--data-dir", dir, "--json"]).ok().json()
}

fn get(dir: &str, link: &Link) -> Said {
    say(["get", &link.to_string(), "-o", "-", "--data-dir", dir])
}

/// A change of `link`.
fn other(link: &Link, change: impl FnOnce(&mut Link)) -> Link {
    let mut other = link.clone();
    change(&mut other);
    other
}

/// A peer without a network gives no advice that would store a file on itself alone.
fn puts_are_refused(dir: &str) {
    for code in [&[][..], &["--code", "rs:2+2"]] {
        let said = say([&["put", "/etc/hostname", "--data-dir", dir], code].concat()).fails(5);
        assert!(
            said.stderr.contains("not a member of a network"),
            "{}",
            said.stderr
        );
        assert!(!said.stderr.contains("copies:1"), "{}", said.stderr);
    }
}

/// Each says what it waits for, serves what it can, and follows as soon as one founds a network; links made
/// before are good from then on.
#[test]
fn peers_that_wait_for_a_network() {
    let place = tempfile::tempdir().unwrap();
    let dir = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (x, y, founder) = (dir("x"), dir("y"), dir("founder"));
    let start = |dir: &str, listen: &str, join: &[&str]| {
        let own = ["--data-dir", dir, "--capacity", "64MiB", "--listen", listen];
        let daemon = Daemon::start(&[&own, join].concat());
        eventually("the daemon answers", || {
            (say(["status", "--data-dir", dir]).code == 0).then_some(())
        });
        daemon
    };
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let anywhere = "/ip4/127.0.0.1/tcp/0";
    let _x = start(&x, anywhere, &["--join", &address]);
    let daemon: Value = serde_json::from_slice(&fs::read(format!("{x}/daemon.json")).unwrap()).unwrap();
    let x_address = daemon["listen"][0].as_str().unwrap();
    let _y = start(&y, anywhere, &["--join", x_address]);

    let error = eventually("y was refused", || {
        let error = status(&y)["join"][x_address].as_str().unwrap().to_owned();
        error.starts_with("refused: ").then_some(error)
    });
    assert!(error.starts_with("refused: not in a network yet: "), "{error}");
    let found = say(["doctor", "--data-dir", &y]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    let found = found.text();
    assert!(
        found.contains(x_address) && found.contains("start one without --join"),
        "{found}"
    );
    assert!(!found.contains("copies:1"), "{found}");
    for waiting in [&x, &y] {
        let answer = status(waiting);
        assert_eq!(
            (&answer["ring"], &answer["network"]),
            (&"joining".into(), &Value::Null)
        );
        assert!(!Client::open(Path::new(waiting)).unwrap().healthy().unwrap());
        say(["invite", "--data-dir", waiting]).fails(5);
        puts_are_refused(waiting);
    }

    let bytes = noise(1, MIB);
    let path = dir("to-put");
    fs::write(&path, &bytes).unwrap();
    let put = ["put", &path, "--code", "copies:1", "--quiet", "--data-dir", &x];
    let word = say(put).ok().word();
    let link: Link = word.parse().unwrap();
    assert!(get(&x, &link).ok().stdout == bytes);
    let foreign = other(&link, |link| link.tag = [1; 4]);
    get(&x, &foreign).fails(5);

    let _founder = start(&founder, &address, &["--open"]);
    for peer in [&x, &y, &founder] {
        eventually("all are joined", || {
            let answer = status(peer);
            (answer["ring"] == "joined" && answer["peers_known"] == 3).then_some(())
        });
        assert!(Client::open(Path::new(peer)).unwrap().healthy().unwrap());
        say(["invite", "--data-dir", peer]).ok();
    }
    for peer in [&founder, &y, &x] {
        eventually("the file is there", || {
            let got = get(peer, &link);
            (got.code == 0).then(|| assert!(got.stdout == bytes))
        });
        say(["stat", &word, "--data-dir", peer]).ok();
        say(["lookup", &word, "--data-dir", peer]).ok();
        get(peer, &foreign).fails(8);
        get(peer, &other(&link, |link| link.manifest[0] ^= 1)).fails(3);
        get(peer, &other(&link, |link| link.key[0] ^= 1)).fails(8);
    }
}

#[test]
fn a_full_peer_refuses_and_keeps_what_it_has() {
    let net = Net::up(1, &["--capacity", "32MiB", "--unit", "4MiB"]);
    let small = noise(1, MIB);
    let link = net.put(0, &small, &["--quiet"]);
    let before = net.stored();
    let path = net.file("big");
    fs::write(&path, noise(2, 64 * MIB)).unwrap();
    assert_eq!(
        net.run(0, &["put", "--unnamed", path.to_str().unwrap(), "--quiet"])
            .code,
        7
    );
    eventually("the space is free again", || {
        (net.stored() == before).then_some(())
    });
    net.expect(0, &link, &small);
    let other = net.put(0, &noise(3, MIB), &["--quiet"]);
    net.expect(0, &other, &noise(3, MIB));
}

/// What a failed put took and gave back is there for the next one, whichever peer filled up.
#[test]
fn full_peers_take_shards_again_when_space_returns() {
    let net = Net::up(3, &["--capacity", "32MiB", "--unit", "4MiB"]);
    let path = net.file("big");
    fs::write(&path, noise(2, 64 * MIB)).unwrap();
    let big = ["put", path.to_str().unwrap(), "--code", "copies:3", "--quiet"];
    assert_eq!(net.run(0, &big).code, 7);
    for peer in 0..3 {
        let bytes = noise(peer as u64, MIB);
        let link = net.put(peer, &bytes, &["--code", "copies:3", "--quiet"]);
        net.expect((peer + 1) % 3, &link, &bytes);
    }
}

/// A put from a pipe, of which the first bytes have been sent.
fn begin_put(command: &mut Command, bytes: &[u8]) -> Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    child
}

#[test]
fn clients_and_peers_killed_in_the_middle() {
    let net = Net::up(
        9,
        &[
            "--seed",
            "3",
            "--",
            "--repair-delay",
            "2s",
            "--pending-lease",
            "10s",
        ],
    );
    let bytes = noise(1, 24 * MIB);
    let (first, rest) = bytes.split_at(12 * MIB);
    let before = net.stored();

    // The client: nothing visible, space freed.
    let mut child = begin_put(&mut net.command(0, &["put", "-", "--code", "rs:4+2"]), first);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        net.run(0, &["ls", "--json"]).ok().json()["files"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    eventually("the space is free again", || {
        let pending = |index| net.status(index)["pending_bytes"].as_u64().unwrap_or(0);
        (net.stored() == before && (0..9).map(pending).sum::<u64>() == 0).then_some(())
    });

    // A peer in the middle of a put.
    let mut child = begin_put(&mut net.command(0, &["put", "-", "--code", "rs:4+2"]), first);
    net.kill(4);
    child.stdin.take().unwrap().write_all(rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let link = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    net.expect(8, &link, &bytes);
    net.becomes(8, &link, "safe");

    // A peer in the middle of a get.
    let mut get = net.command(1, &["get", &link, "-o", "-"]);
    let mut child = get.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut got = vec![0; MIB];
    stdout.read_exact(&mut got).unwrap();
    net.kill(6);
    stdout.read_to_end(&mut got).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(got == bytes);
}
