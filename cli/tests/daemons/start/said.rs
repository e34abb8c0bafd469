//! What a daemon logs where nobody listens, and what commands print of names somebody else chose.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use mutualstore_client::Client;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;

use super::{Daemon, daemon};
use crate::common::{Net, eventually, mutualstore, noise, turn};

/// A pipe that is full: whoever writes to it waits until somebody reads.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    for length in [4096, 1] {
        while writer.write(&vec![b'.'; length]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A daemon that says all there is to say, and nobody reads.
fn unheard(place: &Path, name: &str, words: &[&str]) -> (Daemon, [PipeReader; 2]) {
    let (out, to_out) = full_pipe();
    let (err, to_err) = full_pipe();
    let dir = place.join(name);
    let child = daemon(&dir, words).stdout(to_out).stderr(to_err).spawn().unwrap();
    let unheard = Daemon { child, dir };
    eventually("it answers", || {
        (unheard.say(&["status"]).code == 0).then_some(())
    });
    (unheard, [out, err])
}

#[test]
fn a_daemon_nobody_listens_to_serves_on_and_stops() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let mut founder = Daemon::start(place, "founder", &[]);
    let invite = founder.invite();
    let (mut quiet, _pipes) = unheard(place, "quiet", &["--join", &invite]);
    let (mut loud, [_out, mut err]) = unheard(place, "loud", &["--join", &invite, "--log", "trace"]);
    quiet.joins(3);
    founder.child.kill().unwrap();
    founder.ended();
    for daemon in [&quiet, &loud] {
        eventually("it knows that the founder is gone", || {
            (daemon.status()["peers_known"] == 2).then_some(())
        });
    }
    quiet.signal(Signal::HUP);
    quiet.joins(2);
    quiet.signal(Signal::TERM);
    assert_eq!(quiet.ended().code(), Some(0));

    // More than the queue holds, then somebody reads again.
    let port: u16 = loud.address().split('/').nth(4).unwrap().parse().unwrap();
    let client = Client::open(&loud.dir).unwrap();
    eventually("lines are dropped", || {
        for _ in 0..100 {
            TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
        (client.metrics().unwrap().get("log_lines_dropped_total").unwrap() > 0).then_some(())
    });
    let reading = thread::spawn(move || {
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        while !String::from_utf8_lossy(&heard).contains(" log lines dropped") {
            let read = err.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended without saying that lines were dropped");
            heard.extend_from_slice(&buffer[..read]);
        }
    });
    eventually("it says that lines were dropped", || {
        loud.status();
        reading.is_finished().then_some(())
    });
    reading.join().unwrap();
    loud.signal(Signal::TERM);
    assert_eq!(loud.ended().code(), Some(0));
}

#[test]
fn equal_warnings_are_counted_and_the_limit_of_files_is_named() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("limited");
    let (log, words) = (place.path().join("limited.err"), daemon(&dir, &[]));
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "ulimit -n 64; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_mutualstore"),
    ]);
    shell
        .args(words.get_args())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap());
    let mut limited = Daemon {
        child: shell.spawn().unwrap(),
        dir,
    };
    limited.answers();
    let finding = limited.finding("open files");
    assert_eq!(finding["state"], "warning", "{finding}");
    assert!(
        finding["found"].as_str().unwrap().contains("64 may be"),
        "{finding}"
    );

    let address = limited.address();
    let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
    let connections: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", port)))
        .collect();
    eventually("the end of ten seconds of equal warnings", || {
        limited.log().contains("times more in 10 s").then_some(())
    });
    let logged = limited.log();
    assert!(logged.lines().count() < 60, "{logged}");
    drop(connections);
}

/// Names that command a terminal or deceive who reads them; none of them has a slash.
fn evil_names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = [
        "\x1b]0;T\x07",
        "\x1b[31mred\x1b[0m",
        "a\rb\nc\td",
        "\u{9b}31m\u{85}",
        "del\x7f",
        "exe\u{202e}txt\u{2066}x\u{2069}",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    for seed in 0..6 {
        let name: Vec<u8> = noise(seed, 40)
            .into_iter()
            .filter(|byte| !b"\0/".contains(byte))
            .collect();
        names.push(name);
    }
    names.into_iter().map(OsString::from_vec).collect()
}

#[track_caller]
fn harmless(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let evil = |c: char| {
        c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    assert!(!text.contains(evil), "{what}: {text:?}");
}

/// Commands that take a path and need no daemon.
fn without_a_daemon(path: &OsStr, below: &Path) {
    let word = |text: &'static str| OsStr::new(text);
    let alone = |words: &[&OsStr]| {
        let output = mutualstore().args(words).output().unwrap();
        harmless(&format!("{words:?}"), &[output.stdout, output.stderr].concat());
    };
    for dir in [path, below.as_os_str()] {
        alone(&[word("status"), word("--data-dir"), dir]);
        alone(&[word("doctor"), word("--data-dir"), dir]);
        alone(&[word("daemon"), word("--data-dir"), dir]);
        alone(&[
            word("daemon"),
            word("--data-dir"),
            below.as_os_str(),
            word("--config"),
            dir,
        ]);
        alone(&[word("testnet"), word("ls"), word("--dir"), dir]);
        alone(&[word("key"), word("import"), dir]);
        alone(&[word("status"), word("--api"), dir, word("--token-file"), dir]);
        alone(&[
            word("status"),
            word("--api"),
            word("http://127.0.0.1:1"),
            word("--token-file"),
            dir,
        ]);
        alone(&[word("daemon"), word("--join"), dir]);
    }
}

#[test]
fn no_name_and_no_path_commands_a_terminal() {
    let net = Net::up(1, &["--seed", "11"]);
    let place = net.file("evil");
    fs::create_dir(&place).unwrap();
    let says = |words: &[&OsStr]| {
        let mut command = mutualstore();
        command.args(words).arg("--data-dir").arg(net.data_dir(0));
        let output = command.current_dir(net.file("")).output().unwrap();
        harmless(&format!("{words:?}"), &output.stdout);
        harmless(&format!("{words:?}"), &output.stderr);
        output
    };
    for name in evil_names() {
        let path = place.join(&name);
        let (path, word) = (path.as_os_str(), |text: &'static str| OsStr::new(text));
        for words in [
            &[word("put"), path][..],
            &[word("get"), path],
            &[word("stat"), &name],
            &[word("lookup"), &name],
            &[word("put"), word("/etc/hostname"), word("--code"), &name],
            &[word("put"), word("/etc/hostname"), word("--placement"), &name],
            &[word("forget"), &name],
            &[word("repair"), word("--peer"), &name],
            &[&name],
            &[word("ls"), &name],
        ] {
            says(words);
        }
        fs::write(path, "content").unwrap();
        let put = says(&[word("put"), path]);
        assert!(put.status.success(), "{put:?}");
        let link = OsString::from_vec(put.stdout.trim_ascii().to_vec());
        for words in [&["ls"][..], &["ls", "--json"], &["repair", "--wait"]] {
            let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
            assert!(says(&words).status.success());
        }
        for words in [
            &[word("stat"), &link][..],
            &[word("stat"), &link, word("--json")],
            &[word("get"), &link, word("--force")],
            &[word("get"), &link, word("--json"), word("--force")],
            &[word("get"), &link, word("-o"), path],
            &[word("rm"), &link],
        ] {
            says(words);
        }
        without_a_daemon(path, &place.join(&name).join("below"));
    }
}

#[test]
fn a_log_is_escaped() {
    let _turn = turn();
    let place = tempfile::tempdir().unwrap();
    let name = "dir \x1b]0;T\x07\n\u{202e}";
    let dir = place.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("book.json"), "damaged").unwrap();
    let daemon = Daemon::start(place.path(), name, &[]);
    let log = daemon.log();
    harmless("log", log.as_bytes());
    assert!(
        log.contains("is damaged") && log.contains("\\u{1b}]0;T\\u{7}\\n\\u{202e}"),
        "{log}"
    );
}
