//! Names in trouble: a member that lies, clocks that are wrong, a full ring.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{adopt, get, keys, phrase, put};
use crate::common::{Net, Said, eventually, mutualstore, noise};

/// A daemon of its own, killed when it is dropped.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts a peer that was killed as one that lies; returns when it serves.
fn start_liar(net: &Net, index: usize) -> Alone {
    let mut command = mutualstore();
    command.args(["daemon", "--adversary", "liar", "--data-dir"]);
    command.arg(net.data_dir(index));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut liar = Alone(child.unwrap());
    let mut line = String::new();
    let said = liar.0.stdout.as_mut().unwrap();
    BufReader::new(said).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line}");
    liar
}

#[test]
fn member_that_lies_hides_no_names() {
    let net = Net::up(7, &["--seed", "101"]);
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    // One that has nothing but the words until the end.
    adopt(&net, 3, &words);
    net.kill(2);
    let liar = start_liar(&net, 2);
    let buckets: Vec<String> = (0..6).map(|number| format!("bucket{number}")).collect();
    for bucket in &buckets {
        net.run(0, &["bucket", "create", bucket]).ok();
        for number in 0..6 {
            put(
                &net,
                number % 2,
                bucket.as_bytes(),
                &format!("/{bucket}/{number}"),
            );
        }
        net.run(1, &["rm", &format!("/{bucket}/5")]).ok();
    }
    for device in [0, 1] {
        for bucket in &buckets {
            let expected = (0..5).map(|number| (number.to_string(), "file".to_owned()));
            let expected: Vec<_> = expected.collect();
            assert_eq!(
                keys(&net, device, &[&format!("/{bucket}/")]),
                expected,
                "{bucket}"
            );
            for number in 0..5 {
                let read = get(&net, device, &[&format!("/{bucket}/{number}")]).ok();
                assert_eq!(read.stdout, bucket.as_bytes());
            }
        }
    }
    eventually("a new device lists all", || {
        let said = net.run(3, &["ls", "-r", "--json", "/"]);
        (said.code == 0 && said.json()["files"].as_array()?.len() == 30).then_some(())
    });
    drop(liar);
}

/// What makes a process's clock wrong, compiled; none without a C compiler that makes libraries.
fn clock(net: &Net) -> Option<PathBuf> {
    let library = net.file("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemons/names/clock.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    let made = compile.status().is_ok_and(|status| status.success());
    if !made {
        eprintln!("skipped: cc made no library that sets clocks wrong");
    }
    made.then_some(library)
}

#[test]
fn wrong_clocks_lose_and_hide_nothing() {
    let net = Net::up(5, &["--seed", "102"]);
    let Some(clock) = clock(&net) else { return };
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "times"]).ok();
    let restart = |index: usize, ahead_s: i64| {
        net.kill(index);
        let mut start = net.testnet_command("start", &["--peer", &index.to_string()]);
        start.env("LD_PRELOAD", &clock);
        start.env("CLOCK_AHEAD_S", ahead_s.to_string());
        Said::of(start.output().unwrap()).ok();
    };
    // Of clocks a minute off, what is written later shows, whoever wrote it.
    restart(0, 60);
    restart(1, -60);
    for number in 0..6 {
        let (device, other) = (number % 2, 1 - number % 2);
        let text = number.to_string();
        keys(&net, device, &["/times/"]);
        put(&net, device, text.as_bytes(), "/times/one");
        for reader in [device, other] {
            keys(&net, reader, &["/times/"]);
            assert_eq!(get(&net, reader, &["/times/one"]).ok().stdout, text.as_bytes());
        }
    }
    let versions = net.run(0, &["ls", "--versions", "--json", "/times/"]).ok().json();
    let versions = versions["files"].as_array().unwrap();
    assert_eq!(versions.len(), 6);
    assert!(
        versions.iter().all(|version| version["conflict"] == false),
        "{versions:?}"
    );
    // An hour or years off, nothing is written, and what is there can be read.
    let file = net.file("late");
    fs::write(&file, "late").unwrap();
    let write = || net.run(1, &["put", file.to_str().unwrap(), "/times/late"]);
    for ahead_s in [3600, -3600, 100_000_000, -100_000_000] {
        restart(1, ahead_s);
        eventually("the wrong clock is noticed", || {
            let said = write();
            assert_ne!(said.code, 0, "written {ahead_s} s ahead");
            (said.code == 5 && said.stderr.contains("this machine's clock")).then_some(())
        });
        net.run(1, &["rm", "/times/one"]).fails(5);
        net.run(1, &["mv", "/times/one", "/times/two"]).fails(5);
        assert_eq!(get(&net, 1, &["/times/one"]).ok().stdout, b"5");
    }
    net.kill(1);
    net.start(1);
    eventually("the clock is right again", || (write().code == 0).then_some(()));
    // Nor when nobody answers any more who says what time it is.
    restart(1, 100_000_000);
    keys(&net, 1, &["/times/"]);
    let others = [0, 2, 3, 4];
    for index in others {
        net.kill(index);
    }
    let said = net.run(1, &["rm", "/times/late"]).fails(5);
    assert!(said.stderr.contains("this machine's clock"), "{}", said.stderr);
    net.kill(1);
    for index in others {
        net.start(index);
    }
    net.start(1);
    let there = |key: &str| (key.to_owned(), "file".to_owned());
    assert_eq!(keys(&net, 0, &["/times/"]), [there("late"), there("one")]);
}

#[test]
fn names_of_a_full_ring_are_deleted() {
    let net = Net::up(3, &["--seed", "103", "--capacity", "24MiB"]);
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "full"]).ok();
    // A head holds some eight of them.
    let key = |number: usize| format!("{number:03}/{}", "long".repeat(220));
    for number in 0..30 {
        put(&net, 0, b"x", &format!("/full/{}", key(number)));
    }
    let mut unnamed = Vec::new();
    for length in [1 << 20, 1000] {
        let file = net.file("filler");
        loop {
            fs::write(&file, noise(unnamed.len() as u64, length)).unwrap();
            let said = net.run(0, &["put", "--unnamed", file.to_str().unwrap()]);
            if said.code == 7 {
                break;
            }
            unnamed.push(said.ok().word());
        }
    }
    for number in 0..20 {
        net.run(0, &["rm", &format!("/full/{}", key(number))]).ok();
    }
    let left = |device: usize| keys(&net, device, &["-r", "/full/"]).len();
    assert_eq!((left(0), left(1)), (10, 10));
    // Many at once, and by another device.
    net.run(1, &["rm", "-r", "/full/"]).ok();
    assert_eq!((left(0), left(1)), (0, 0));
    net.kill(0);
    net.start(0);
    assert_eq!(left(0), 0);
    for link in unnamed {
        net.run(0, &["rm", &link]).ok();
    }
    eventually("there is room again", || {
        let file = net.file("filler");
        (net.run(0, &["put", file.to_str().unwrap(), "/full/new"]).code == 0).then_some(())
    });
    for number in 0..30 {
        put(&net, 0, b"y", &format!("/full/{}", key(number)));
    }
    assert_eq!((left(0), left(1)), (31, 31));
}
