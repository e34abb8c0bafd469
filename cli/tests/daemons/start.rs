//! Who joins, what secrets show, and what a command line or a log says: founding, invites, logging, messages.

mod refused;
mod said;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Net, Said, eventually, free_port, mutualstore, noise, say, turn};

/// A daemon of this process, killed in the end.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Daemon {
    /// Starts one in `place/name`; its output goes to `place/name.out` and `place/name.err`.
    fn spawn(place: &Path, name: &str, words: &[&str], stdin: &[u8]) -> Self {
        let dir = place.join(name);
        let mut command = daemon(&dir, words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(File::create(place.join(format!("{name}.out"))).unwrap())
            .stderr(File::create(place.join(format!("{name}.err"))).unwrap())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        Self { child, dir }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The same; returns when it answers.
    fn start(place: &Path, name: &str, words: &[&str]) -> Self {
        let mut daemon = Self::spawn(place, name, words, b"");
        daemon.answers();
        daemon
    }

    #[track_caller]
    fn answers(&mut self) {
        eventually("the daemon answers", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}: {}", self.log());
            (self.say(&["status"]).code == 0).then_some(())
        });
    }

    /// Waits for its end.
    fn ended(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.child.try_wait().unwrap())
    }

    fn say(&self, words: &[&str]) -> Said {
        say(words.iter().copied().chain(["--data-dir", self.path()]))
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    fn status(&self) -> Value {
        self.say(&["status", "--json"]).ok().json()
    }

    fn address(&self) -> String {
        let text = fs::read(self.dir.join("daemon.json")).unwrap();
        let written: Value = serde_json::from_slice(&text).unwrap();
        written["listen"][0].as_str().unwrap().to_owned()
    }

    fn invite(&self) -> String {
        self.say(&["invite"]).ok().word()
    }

    fn output(&self, ending: &str) -> String {
        fs::read_to_string(self.dir.with_extension(ending)).unwrap()
    }

    fn log(&self) -> String {
        self.output("err")
    }

    /// Waits until it is in a ring of `peers`.
    #[track_caller]
    fn joins(&self, peers: u64) {
        eventually("it is joined", || {
            let status = self.status();
            (status["ring"] == "joined" && status["peers_known"] == peers).then_some(())
        });
    }

    fn finding(&self, check: &str) -> Value {
        let said = self.say(&["doctor", "--json"]);
        let findings = said.json()["findings"].as_array().unwrap().clone();
        let found = findings.into_iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{said:?}"))
    }
}

fn daemon(dir: &Path, words: &[&str]) -> Command {
    let mut command = mutualstore();
    command.arg("daemon").arg("--data-dir").arg(dir);
    command.args(["--capacity", "64MiB"]);
    // Later starts keep their port.
    if !dir.join("config.toml").exists() {
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    }
    command.args(words);
    command
}

fn secret(dir: &Path) -> String {
    let text = fs::read(dir.join("network.json")).unwrap();
    let network: Value = serde_json::from_slice(&text).unwrap();
    network["secret"].as_str().unwrap().to_owned()
}

/// The arguments of all processes of this program.
fn arguments(place: &Path) -> String {
    let shown = Command::new("ps").args(["-ewwo", "args"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    // Other networks of this binary may run beside it.
    let place = place.to_str().unwrap();
    let is_ours = |line: &&str| line.starts_with(env!("CARGO_BIN_EXE_mutualstore")) && line.contains(place);
    let ours = shown.lines().filter(is_ours);
    ours.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_founded_network_is_closed_and_takes_only_the_invited() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let founder = Daemon::start(place, "founder", &[]);
    let key = secret(&founder.dir);
    assert_eq!(hex::decode(&key).unwrap().len(), 32);
    assert_eq!(founder.status()["open"], false);
    assert_eq!(founder.finding("admission")["state"], "ok");
    assert!(!founder.output("out").contains("network=open"));

    let address = founder.address();
    let mut stranger = Daemon::spawn(place, "stranger", &["--join", &address], b"");
    assert_eq!(stranger.ended().code(), Some(8));
    let last = stranger.log().trim_end().lines().last().unwrap().to_owned();
    assert!(
        last.contains("closed network") && last.contains("mutualstore invite"),
        "{last}"
    );
    assert!(!stranger.dir.exists());
    assert_eq!(founder.status()["peers_known"], 1);

    let (invite, file) = (founder.invite(), place.join("invite"));
    fs::write(&file, format!("\n  {invite}\r\n")).unwrap();
    let from_file = format!("@{}", file.display());
    let invited = Daemon::start(place, "invited", &["--join", &from_file]);
    invited.joins(2);
    let mut piped = Daemon::spawn(place, "piped", &["--join", "-"], invite.as_bytes());
    piped.answers();
    piped.joins(3);
    for member in [&invited, &piped] {
        assert_eq!(secret(&member.dir), key);
        assert_eq!(member.status()["open"], false);
        let kept = fs::read_to_string(member.dir.join("config.toml")).unwrap();
        assert!(kept.contains(&invite), "later starts need no --join: {kept}");
    }
    let shown = arguments(place);
    assert!(!shown.contains(&invite) && shown.contains(&from_file), "{shown}");
    for member in [&founder, &invited, &piped] {
        let logged = member.log() + &member.output("out");
        assert!(!logged.contains(&key) && !logged.contains(&invite));
    }
    let again = daemon(&stranger.dir, &["--open", "--join", &from_file])
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
}

#[test]
fn a_joiner_that_waits_says_that_the_network_is_closed() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let joiner = Daemon::start(place.path(), "joiner", &["--join", &address]);
    eventually("it was tried", || {
        (joiner.status()["join"][&address] == "unreachable").then_some(())
    });
    let founder = Daemon::start(place.path(), "founder", &["--listen", &address]);
    eventually("it says why", || {
        let status = joiner.status();
        assert_eq!(status["ring"], "joining");
        let why = status["join"][&address].as_str().unwrap().to_owned();
        why.contains("closed network").then_some(())
    });
    let finding = joiner.finding("ring");
    assert!(
        finding["found"].as_str().unwrap().contains("closed network"),
        "{finding}"
    );
    assert!(
        finding["cure"].as_str().unwrap().contains("mutualstore invite"),
        "{finding}"
    );
    assert_eq!(founder.status()["peers_known"], 1);
    assert_eq!(secret(&joiner.dir), "");
}

#[test]
fn an_open_network_is_explicit_and_shown() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let mut founder = Daemon::start(place, "founder", &["--open"]);
    assert_eq!(secret(&founder.dir), "");
    assert!(founder.output("out").trim_end().ends_with(" network=open"));
    assert!(founder.say(&["status"]).ok().text().contains("open"));
    let finding = founder.finding("admission");
    assert_eq!(finding["state"], "warning", "{finding}");
    let joined = Daemon::start(place, "joined", &["--join", &founder.address()]);
    joined.joins(2);
    assert_eq!(joined.status()["open"], true);
    founder.child.kill().unwrap();
    founder.ended();
    // Founded before networks had secrets: goes on as it is, and is shown.
    let founder = Daemon::start(place, "founder", &[]);
    founder.joins(2);
    assert_eq!(founder.status()["open"], true);

    let mut closed = Daemon::start(place, "closed", &[]);
    closed.child.kill().unwrap();
    closed.ended();
    let said = daemon(&closed.dir, &["--open"]).output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert_eq!((said.status.code(), text.lines().count()), (Some(2), 1), "{text}");
}

#[test]
fn what_cannot_be_joined_is_one_line_without_the_secret() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("dir");
    let file = place.path().join("joins");
    let at = format!("@{}", file.display());
    fs::write(
        &file,
        "utualinvite15ch7WA62mcFze772CagfDeZpivzVrQFmLMTiFW9UvLvi9f\n",
    )
    .unwrap();
    let refused = |words: &[&str], stdin: &[u8]| {
        let mut command = daemon(&dir, words);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let said = child.wait_with_output().unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert_eq!(
            (said.status.code(), text.lines().count()),
            (Some(2), 1),
            "{words:?}: {text}"
        );
        assert!(!text.contains("15ch7WA62mcFze"), "{text}");
        text
    };
    assert!(refused(&["--join", &at], b"").contains("neither an address"));
    assert!(refused(&["--join", "-"], b"\n\n").contains("holds nothing"));
    assert!(refused(&["--join", "-"], &vec![b'x'; 70_000]).contains("longer than"));
    assert!(refused(&["--join", "-", "--exit-on-stdin-close"], b"").contains("@FILE"));
    assert!(refused(&["--join", "@/nonexistent/joins"], b"").contains("cannot read"));
    assert!(refused(&["--join", "mutualinvite15ch7WA62mcFze"], b"").contains("mistyped"));
}

#[test]
fn links_and_invites_never_stand_in_arguments() {
    let net = Net::up(3, &["--seed", "15"]);
    let bytes = noise(15, 3 << 20);
    let link = net.put(0, &bytes, &["--code", "xor:2"]);
    let invite = net.run(1, &["invite"]).ok().word();
    let from_stdin = |words: &[&str], text: &str| {
        let mut command = net.command(0, words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It waits for the link now, and is there to be seen.
        let shown = arguments(&net.file(""));
        assert!(
            !shown.contains("mutual1") && !shown.contains("mutualinvite"),
            "{shown}"
        );
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let typed = format!("{link}\n");
    let got = from_stdin(&["get", "-", "-o", "-"], &typed);
    assert!(got.status.success() && got.stdout == bytes);
    for words in [&["stat", "-"][..], &["lookup", "-"], &["rm", "-"]] {
        let said = from_stdin(words, &typed);
        assert!(
            said.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
    for wrong in ["", "\n", "one two\n"] {
        let said = from_stdin(&["get", "-", "-o", "-"], wrong);
        assert_eq!(said.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&said.stderr).lines().count(), 1);
    }
    net.testnet("add", &["--count", "1"]).ok();
    let shown = arguments(&net.file(""));
    assert!(
        shown.contains("daemon --data-dir") && !shown.contains("mutualinvite"),
        "{shown}"
    );
    let joins = fs::read_to_string(net.data_dir(3).join("join")).unwrap();
    assert!(joins.contains("mutualinvite1"), "{joins}");
    assert!(!joins.contains(&invite) || joins.lines().count() > 1);
    assert_eq!(net.status(3)["open"], false);
}

#[test]
fn bare_names_are_paths_too() {
    let net = Net::up(1, &["--seed", "4"]);
    let there = |words: &[&str]| net.run(0, words);
    assert!(there(&["key", "export", "mykey"]).ok().stderr.is_empty());
    let mode = fs::metadata(net.file("mykey")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    there(&["key", "export", "mykey"]).fails(2);
    for wrong in [".", "..", "new/", "new/.", "net/"] {
        there(&["key", "export", wrong]).fails(2);
    }
    let imported = mutualstore()
        .args(["key", "import", "mykey", "--data-dir", "other"])
        .current_dir(net.file(""))
        .status();
    assert!(imported.unwrap().success());
    assert!(net.file("other/identity").exists());

    let link = net.put(0, b"bytes", &["--quiet"]);
    there(&["get", &link, "-o", "bare"]).ok();
    assert_eq!(fs::read(net.file("bare")).unwrap(), b"bytes");
    let said = there(&["get", &link, "-o", "nowhere/x"]).fails(2).stderr;
    assert!(said.contains("nowhere/x: ") && !said.contains(".part"), "{said}");
    there(&["put", "bare", "--quiet"]).ok();
    let before = fs::read_dir(net.file("")).unwrap().count();
    symlink("nowhere", net.file("dangling")).unwrap();
    for (target, force) in [
        ("dangling", false),
        ("dangling", true),
        ("no/", false),
        (".", true),
        ("no/x", false),
    ] {
        let mut words = vec!["get", &link, "-o", target];
        words.extend(force.then_some("--force"));
        there(&words).fails(2);
    }
    assert_eq!(
        fs::read_dir(net.file("")).unwrap().count(),
        before + 1,
        "nothing is left behind"
    );
    let relative = |words: &[&str]| {
        let mut command = mutualstore();
        command
            .arg("testnet")
            .args(words)
            .args(["--dir", "net"])
            .current_dir(net.file(""));
        assert!(command.status().unwrap().success(), "{words:?}");
    };
    relative(&["ls"]);
    relative(&["add", "--count", "1"]);
    for peer in net.peers() {
        assert!(
            Path::new(peer["data_dir"].as_str().unwrap()).is_absolute(),
            "{peer}"
        );
    }
}

#[test]
fn small_faults_are_one_clear_line() {
    let place = tempfile::tempdir().unwrap();
    for api in ["https://127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1"] {
        let said = say(["status", "--api", api, "--token-file", "/dev/null"]).fails(2);
        assert!(
            said.stderr.contains(api) && !said.stderr.contains("http://https://"),
            "{}",
            said.stderr
        );
    }
    let dir = place.path().to_str().unwrap();
    fs::write(place.path().join("config.toml"), "").unwrap();
    let said = say(["daemon", "--data-dir", dir]).fails(2);
    assert!(
        said.stderr.contains("config.toml gives no `capacity`"),
        "{}",
        said.stderr
    );
}

#[test]
fn what_cannot_be_rebuilt_is_named() {
    let net = Net::up(4, &["--seed", "12", "--", "--repair-delay", "1s"]);
    net.put(
        0,
        &noise(12, 1 << 20),
        &["--code", "rs:2+2", "--name", "precious"],
    );
    // Of some of these the first peer has no copy, nor of their manifests.
    for small in 0..8 {
        let name = format!("small-{small}");
        net.put(0, &noise(small, 4096), &["--code", "rs:2+2", "--name", &name]);
    }
    net.run(0, &["repair", "--wait"]).ok();
    let gone: Vec<String> = net.ids(&[1, 2, 3]);
    net.testnet("kill", &["--peer", "1", "--peer", "2", "--peer", "3"])
        .ok();
    eventually("the peers are missed", || {
        (net.status(0)["peers_known"] == 1).then_some(())
    });
    for words in [&["repair", "--wait"][..], &["repair", "--peer", &gone[0]]] {
        let said = net.run(0, words);
        assert_eq!(said.code, 4, "{}", said.stderr);
        assert!(
            said.stderr.contains("precious") && said.stderr.contains("needed"),
            "{}",
            said.stderr
        );
        let said = net.run(0, &[words, &["--json"]].concat());
        assert_eq!(
            (said.code, &said.json()["unrecoverable"][0]["name"]),
            (4, &"precious".into())
        );
    }
    // Nobody is waited for who is back and has nothing any more.
    let others = ["--peer", "1", "--peer", "2", "--peer", "3"];
    net.testnet("kill", &[&others[..], &["--wipe"]].concat()).ok();
    net.testnet("start", &others).ok();
    let said = eventually("it is known that the shards are gone", || {
        let said = net.run(0, &["repair", "--wait"]);
        assert_eq!(said.code, 4, "{}", said.stderr);
        said.stderr
            .contains("too few of the shards are left")
            .then_some(said)
    });
    let named: Vec<&str> = said
        .stderr
        .lines()
        .filter(|line| line.contains("precious") || line.contains("small-"))
        .collect();
    assert!(named.iter().any(|line| line.contains("precious")), "{named:?}");
    for line in named {
        assert!(
            line.contains("needed, ") && line.contains("the others are gone"),
            "{line}"
        );
    }
    assert!(!said.stderr.contains("are back"), "{}", said.stderr);
    let repaired = net.run(0, &["repair", "--wait", "--json"]).json();
    assert_eq!(repaired["unrecoverable"][0]["gone"], true, "{repaired:#}");
}

#[test]
fn damage_found_at_start_counts() {
    let net = Net::up(3, &["--seed", "13", "--", "--repair", "off"]);
    net.put(0, &noise(13, 2 << 20), &["--code", "copies:3"]);
    net.kill(1);
    net.testnet("corrupt", &["--peer", "1", "--count", "1"]).ok();
    net.start(1);
    assert!(net.status(1)["scrub"]["bad_total"].as_u64().unwrap() > 0);
    let said = net.run(1, &["doctor", "--json"]).json();
    let shards = said["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["check"] == "shards");
    assert_eq!(shards.unwrap()["state"], "warning");
}
