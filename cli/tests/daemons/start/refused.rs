//! Starts that are refused: one line, an exit code, and everything is as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Daemon, daemon};
use crate::common::{Said, eventually, free_port, say, turn};

/// Runs a daemon that ends by itself before it serves.
#[track_caller]
fn refused(dir: &Path, words: &[&str], code: i32) -> String {
    let said = Said::of(daemon(dir, words).output().unwrap()).fails(code);
    assert_eq!(said.text(), "", "it never served");
    said.stderr
}

/// The small files of a data directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn kill(mut daemon: Daemon) -> PathBuf {
    daemon.child.kill().unwrap();
    daemon.ended();
    // As a clean stop leaves it.
    fs::remove_file(daemon.dir.join("daemon.json")).unwrap();
    daemon.dir.clone()
}

/// Replaces what config.toml says is to be joined.
fn edit_join(dir: &Path, join: &str) {
    let path = dir.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let others = text.lines().filter(|line| !line.starts_with("join = "));
    let edited: Vec<&str> = others.collect();
    fs::write(&path, format!("{}\njoin = [\"{join}\"]\n", edited.join("\n"))).unwrap();
}

#[test]
fn a_member_is_not_joined_to_another_network() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let own = Daemon::start(place, "own", &[]);
    let other = Daemon::start(place, "other", &[]);
    let file = |name: &str, invite: &str| {
        fs::write(place.join(name), invite).unwrap();
        format!("@{}", place.join(name).display())
    };
    let (own_invite, other_invite) = (file("a", &own.invite()), file("b", &other.invite()));
    let member = Daemon::start(place, "member", &["--join", &own_invite]);
    member.joins(2);
    let dir = kill(member);
    let before = contents(&dir);

    let address = other.address();
    for join in [&other_invite, &address] {
        let line = refused(&dir, &["--join", join], 8);
        assert!(
            line.contains("another network than this data directory"),
            "{line}"
        );
        assert!(line.contains("nothing was changed"), "{line}");
        assert!(contents(&dir) == before, "{join}");
    }
    assert!(refused(&dir, &["--open"], 2).contains("closed network"));
    let line = refused(
        &place.join("new"),
        &["--join", &own_invite, "--join", &other_invite],
        2,
    );
    assert!(line.contains("different networks"), "{line}");
    assert!(!place.join("new").exists());

    edit_join(&dir, &other.invite());
    let edited = contents(&dir);
    assert!(refused(&dir, &[], 8).contains("config.toml"));
    assert!(contents(&dir) == edited);

    // An address that another network took meanwhile keeps nobody from starting, and is named.
    kill(own);
    edit_join(&dir, &address);
    let member = Daemon::start(place, "member", &[]);
    eventually("it is tried", || {
        let why = member.status()["join"][&address].as_str().unwrap().to_owned();
        why.contains("another network").then_some(())
    });
    eventually("its own network is down", || {
        (member.status()["ring"] == "alone").then_some(())
    });
    let finding = member.finding("join");
    assert_eq!(finding["state"], "bad", "{finding}");
    assert!(
        finding["found"].as_str().unwrap().contains("another network"),
        "{finding}"
    );
    let ring = member.finding("ring");
    assert!(!ring["found"].as_str().unwrap().contains("refused"), "{ring}");
}

#[test]
fn a_bare_join_of_a_closed_network_leaves_nothing_behind() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    // Nobody answers yet: it waits, and remembers what for.
    let waiting = Daemon::start(place, "waiting", &["--join", &address]);
    assert!(waiting.output("out").starts_with("ready "));
    let waiting = kill(waiting);
    let before = contents(&waiting);

    let founder = Daemon::start(place, "founder", &["--listen", &address]);
    let new = place.join("not/there");
    for words in [
        &["--join", &address][..],
        &["--join", &address, "--join", "/ip4/127.0.0.1/tcp/1"],
    ] {
        let line = refused(&new, words, 8);
        assert!(line.contains("closed network") && line.contains("mutualstore invite"));
        assert!(line.contains("nothing was joined"), "{line}");
        assert!(!place.join("not").exists());
    }
    let there = place.join("there");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("note"), "mine").unwrap();
    refused(&there, &["--join", &address], 8);
    assert_eq!(fs::read_dir(&there).unwrap().count(), 1);

    let line = refused(&waiting, &[], 8);
    assert!(line.contains("config.toml is as it was"), "{line}");
    assert!(contents(&waiting) == before);
    refused(&waiting, &["--join", &founder.address()], 8);
    assert!(contents(&waiting) == before);
    let invite = place.join("invite");
    fs::write(&invite, founder.invite()).unwrap();
    let at = format!("@{}", invite.display());
    let member = Daemon::start(place, "waiting", &["--join", &at]);
    member.joins(2);
    kill(member);
    Daemon::start(place, "waiting", &[]).joins(2);
}

#[test]
fn open_founds_a_network_and_join_joins_one() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let founder = Daemon::start(place, "founder", &["--open"]);
    let address = founder.address();
    let dir = place.join("second");
    let line = refused(&dir, &["--open", "--join", &address], 2);
    assert!(line.contains("give one of them"), "{line}");
    assert!(!dir.exists());
    let invite = place.join("invite");
    fs::write(&invite, founder.invite()).unwrap();
    let at = format!("@{}", invite.display());
    let second = Daemon::start(place, "second", &["--open", "--join", &at]);
    second.joins(2);
    kill(second);
    // It is known to be open by now.
    Daemon::start(place, "second", &["--open", "--join", &address]).joins(2);
}

#[test]
fn a_wrong_log_filter_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("dir");
    for wrong in ["debgu", "mutualstore_daemon=loud"] {
        let line = refused(&dir, &["--log", wrong], 2);
        assert!(
            line.contains("log is ") && line.contains("such as `info`"),
            "{line}"
        );
        let mut command = daemon(&dir, &[]);
        let said = Said::of(command.env("MUTUALSTORE_LOG", wrong).output().unwrap());
        said.fails(2);
        assert!(!dir.exists());
    }
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.toml"), "capacity = \"64MiB\"\nlog = \"debgu\"\n").unwrap();
    assert!(refused(&dir, &[], 2).contains("'debgu' is no level"));
}

#[test]
fn a_testnet_quotes_the_daemon_that_does_not_start() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let founder = Daemon::start(place.path(), "founder", &[]);
    let address = founder.address();
    let net = place.path().join("net");
    let up = |words: &[&str]| {
        let first = [
            "testnet",
            "up",
            "--peers",
            "2",
            "--dir",
            net.to_str().unwrap(),
            "--",
        ];
        say(first.iter().chain(words))
    };
    assert!(
        up(&["--join", &address])
            .fails(8)
            .stderr
            .contains("closed network")
    );
    assert!(
        up(&["--log", "debgu"])
            .fails(2)
            .stderr
            .contains("'debgu' is no level")
    );
}
