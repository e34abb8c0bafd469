//! Who gets in: idle sockets, copies of an identity, contacts that somebody else forged.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use serde_json::Value;

use crate::common::{Net, Said, eventually, mutualstore, noise};

mod forger;

/// A daemon started by hand, on ports of its own; killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(data_dir: &Path, words: &[&str]) -> Self {
        let child = mutualstore()
            .args([
                "daemon",
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
                "--api",
                "127.0.0.1:0",
            ])
            .args(["--exit-on-stdin-close", "--data-dir"])
            .arg(data_dir)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A client command for whoever serves this directory.
fn at(data_dir: &Path, words: &[&str]) -> Said {
    let output = mutualstore().args(words).arg("--data-dir").arg(data_dir).output();
    Said::of(output.unwrap())
}

fn ring_of(data_dir: &Path) -> Option<Value> {
    let said = at(data_dir, &["status", "--json"]);
    (said.code == 0).then(|| said.json())
}

#[test]
fn a_copy_of_a_live_data_directory_is_refused_by_its_network_and_says_why() {
    let net = Net::up(3, &[]);
    let bytes = noise(1, 100_000);
    let link = net.put(1, &bytes, &[]);
    let copy = net.file("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(net.data_dir(1))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());

    // What the copy says of the original's daemon is no news of its own.
    let said = at(&copy, &["status"]).fails(6);
    assert!(said.stderr.contains("copy"), "{}", said.stderr);

    let daemon = Daemon::start(&copy, &[]);
    let status = eventually("the copy is refused", || {
        ring_of(&copy).filter(|status| status["ring"] == "refused")
    });
    let why = status["refused"].as_str().unwrap().to_owned();
    assert!(why.contains("same identity"), "{why}");
    assert_eq!(status["peers_known"], 1);
    assert!(!Client::open(&copy).unwrap().healthy().unwrap());
    for flags in [&[][..], &["--code", "copies:1"]] {
        let said = at(&copy, &[&["put", "/etc/hostname"], flags].concat()).fails(8);
        assert!(said.stderr.contains("refuses this peer"), "{}", said.stderr);
    }
    at(&copy, &["rm", &link]).fails(8);
    let said = at(&copy, &["doctor", "--json"]);
    assert_eq!(said.code, 1);
    let findings = said.json()["findings"].clone();
    let ring = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["check"] == "ring");
    let ring = ring.unwrap();
    assert_eq!(ring["state"], "bad");
    assert!(
        ring["cure"].as_str().unwrap().contains("Stop one of the two"),
        "{ring}"
    );

    // It stays so, and the original does not notice.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert_eq!(ring_of(&copy).unwrap()["ring"], "refused");
        assert_eq!(net.status(1)["ring"], "joined");
        thread::sleep(Duration::from_millis(250));
    }
    net.expect(1, &link, &bytes);
    net.put(1, &noise(2, 1000), &[]);

    // Once the original is gone for good, the copy is the peer.
    net.kill(1);
    eventually("the copy joins", || {
        ring_of(&copy).filter(|status| status["ring"] == "joined")
    });
    drop(daemon);
}

#[test]
fn a_member_with_another_secret_is_refused_and_not_alone() {
    let net = Net::up(2, &[]);
    net.kill(1);
    let dir = net.data_dir(1);
    let path = dir.join("network.json");
    let mut network: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let secret = network["secret"].as_str().unwrap().to_owned();
    network["secret"] = "11".repeat(32).into();
    std::fs::write(&path, network.to_string()).unwrap();

    let daemon = Daemon::start(&dir, &[]);
    let status = eventually("refused", || {
        ring_of(&dir).filter(|status| status["ring"] == "refused")
    });
    assert!(
        status["refused"].as_str().unwrap().contains("network secret"),
        "{status}"
    );
    at(&dir, &["put", "/etc/hostname"]).fails(8);
    drop(daemon);
    let said = net.testnet("start", &["--peer", "1"]).fails(8);
    assert!(
        said.stderr.contains("is not let in: ") && said.stderr.contains("wrong network secret"),
        "{}",
        said.stderr
    );
    std::fs::write(&path, "{").unwrap();
    let said = net.testnet("start", &["--peer", "1"]).fails(2);
    assert!(said.stderr.contains("network.json is damaged"), "{}", said.stderr);

    network["secret"] = secret.into();
    std::fs::write(&path, network.to_string()).unwrap();
    let daemon = Daemon::start(&dir, &[]);
    eventually("joined again", || {
        ring_of(&dir).filter(|status| status["ring"] == "joined")
    });
    drop(daemon);
}

/// Sockets that are opened again whenever the other side closes them.
struct Idlers {
    stop: Arc<AtomicBool>,
    /// Connections closed by the other side.
    closed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Idlers {
    /// Keeps `count` sockets open to a port, each saying `greeting` and no more.
    fn sit(port: u16, count: usize, greeting: &'static [u8]) -> Self {
        const EACH: usize = 50;
        let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count / EACH).map(|_| {
            let (stop, closed) = (Arc::clone(&stop), Arc::clone(&closed));
            thread::spawn(move || {
                let mut sockets: Vec<Option<TcpStream>> =
                    (0..EACH).map(|_| connect(port, greeting)).collect();
                while !stop.load(Ordering::Relaxed) {
                    for socket in &mut sockets {
                        if !socket.as_mut().is_some_and(is_open) {
                            closed.fetch_add(1, Ordering::Relaxed);
                            *socket = connect(port, greeting);
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            closed,
            threads,
        }
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn connect(port: u16, greeting: &[u8]) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.write_all(greeting).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn is_open(socket: &mut TcpStream) -> bool {
    let mut bytes = [0; 512];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

fn port_of(net: &Net, index: usize) -> u16 {
    let listen = net.peers()[index]["listen"].clone();
    let text = listen
        .as_str()
        .map_or_else(|| listen[0].as_str().unwrap().to_owned(), str::to_owned);
    let mut parts = text.split('/').skip_while(|part| *part != "tcp");
    parts.nth(1).unwrap().parse().unwrap()
}

/// The shortest of several puts.
fn put_time(net: &Net, seed: u64) -> Duration {
    let times = (0..5).map(|turn| {
        let bytes = noise(seed + turn, 300_000);
        let begun = Instant::now();
        net.put(0, &bytes, &[]);
        begun.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn sockets_that_say_nothing_or_half_a_handshake_keep_nobody_out() {
    let net = Net::up(4, &[]);
    let ports: Vec<u16> = (0..4).map(|index| port_of(&net, index)).collect();
    for greeting in [&b""[..], b"\x13/multistream/1.0.0\n\x07/noise\n"] {
        let sit = || -> Vec<Idlers> {
            let sit = |port: &u16| Idlers::sit(*port, 200, greeting);
            ports.iter().map(sit).collect()
        };
        // Side by side, and again where something else took the processors.
        let mut idlers = Vec::new();
        let mut times = Vec::new();
        while times.last().is_none_or(|(quiet, busy)| *busy > 2 * *quiet) {
            assert!(times.len() < 10, "without and with idle sockets: {times:?}");
            idlers.clear();
            let quiet = put_time(&net, 10);
            idlers = sit();
            times.push((quiet, put_time(&net, 20)));
        }
        let before = net.alive().len();
        net.testnet("add", &["--count", "1"]).ok();
        eventually("the newcomer is a member", || {
            (net.status(before)["ring"] == "joined").then_some(())
        });
        eventually("idle sockets are closed", || {
            let closed = idlers
                .iter()
                .all(|idlers| idlers.closed.load(Ordering::Relaxed) >= 200);
            closed.then_some(())
        });
    }
}

#[test]
fn a_forged_contact_changes_nothing_anywhere() {
    let net = Net::up(4, &[]);
    let link = net.put(0, &noise(1, 200_000), &[]);
    let dirs: Vec<_> = (0..4).map(|index| net.data_dir(index)).collect();
    let true_of = |dir: &Path| -> Vec<(String, Value, Value)> {
        let ring = at(dir, &["ring", "--json"]).ok().json();
        let peers = ring["peers"].as_array().unwrap().iter();
        let mut known: Vec<_> = peers
            .map(|peer| {
                let id = peer["peer"].as_str().unwrap().to_owned();
                (id, peer["addresses"].clone(), peer["capacity_bytes"].clone())
            })
            .collect();
        known.sort_by(|a, b| a.0.cmp(&b.0));
        known
    };
    let before: Vec<_> = dirs.iter().map(|dir| true_of(dir)).collect();
    let hostile = forger::Forger::join(&dirs[0]);
    hostile.forge_everything(&dirs);
    let forged = |dir: &Path| {
        let metrics = Client::open(dir).unwrap().metrics().unwrap();
        metrics.get("contacts_forged_total").unwrap()
    };
    eventually("every daemon has met forged contacts", || {
        dirs.iter().all(|dir| forged(dir) >= 20).then_some(())
    });
    for (dir, before) in dirs.iter().zip(before) {
        let mut after = true_of(dir);
        after.retain(|(id, ..)| *id != hostile.peer());
        assert_eq!(after, before);
    }
    for index in 0..4 {
        assert_eq!(net.status(index)["ring"], "joined");
        net.expect(index, &link, &noise(1, 200_000));
    }
    drop(hostile);
}
