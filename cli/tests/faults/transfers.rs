//! Files in: producers that take their time, sources that change, networks that are too small.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mutualstore_testnet::client::Client;

use crate::common::{Net, Said, eventually, noise};

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
    eventually("stripes are stored", || (pending(&net, 1) > 0).then_some(()));
    net.kill(1);
    thread::sleep(LEASE * 3);
    net.start(1);
    feed(&mut put, rest);
    net.expect(2, &end(put).ok().word(), &bytes);
}
