//! Several peers in one process, over real sockets on 127.0.0.1: what the tests share, and calls.

mod admission;
mod broken;
mod detour;
mod dial;
mod rate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use mutualstore_proto::hello::Reason;

use super::frame::{Header, Kind};
use super::hello::{self, Local};
use super::swarm::Wire;
use super::*;

/// Long enough for any step on a loaded machine, short enough to end a hanging test.
const PATIENCE: Duration = Duration::from_secs(30);

/// Echoes. `stall` never answers, `panic` panics, `swallow` answers with the head alone.
struct Echo {
    contact: Bytes,
    seen: Mutex<Vec<Seen>>,
    /// Where peers were before.
    elsewhere: Mutex<HashMap<Peer, Vec<String>>>,
    /// Shard requests being served now, and at most.
    serving: Mutex<(usize, usize)>,
    /// Shard requests with the head `gated` wait for one permit each.
    gate: Semaphore,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Hello(Peer, Bytes),
    Disconnected(Peer),
}

impl Echo {
    fn seen(&self, what: &Seen) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|other| *other == what).count()
    }
}

impl Service for Echo {
    fn contact(&self) -> Bytes {
        self.contact.clone()
    }

    fn hello(&self, peer: Peer, contact: Bytes) {
        self.seen.lock().unwrap().push(Seen::Hello(peer, contact));
    }

    fn elsewhere(&self, peer: Peer, contact: &Bytes) -> Vec<String> {
        let elsewhere = self.elsewhere.lock().unwrap();
        let known = elsewhere.get(&peer).filter(|_| contact != "at home");
        known.cloned().unwrap_or_default()
    }

    fn addresses(&self, peer: Peer) -> Vec<String> {
        let elsewhere = self.elsewhere.lock().unwrap();
        elsewhere.get(&peer).cloned().unwrap_or_default()
    }

    fn disconnected(&self, peer: Peer) {
        self.seen.lock().unwrap().push(Seen::Disconnected(peer));
    }

    fn rpc(self: Arc<Self>, _: Peer, body: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            assert_ne!(body, "panic");
            if body == "stall" {
                std::future::pending::<()>().await;
            }
            if body == "too much" {
                return vec![0; MAX_RPC_BODY + 1].into();
            }
            body
        }
        .boxed()
    }

    fn shard(self: Arc<Self>, _: Peer, head: Bytes, payload: Bytes) -> BoxFuture<'static, (Bytes, Bytes)> {
        async move {
            if head == "stall" {
                std::future::pending::<()>().await;
            }
            {
                let mut serving = self.serving.lock().unwrap();
                serving.0 += 1;
                serving.1 = serving.1.max(serving.0);
            }
            if head == "gated" {
                self.gate.acquire().await.unwrap().forget();
            }
            self.serving.lock().unwrap().0 -= 1;
            if head == "swallow" {
                return (head, Bytes::new());
            }
            (head, payload)
        }
        .boxed()
    }
}

struct TestPeer {
    net: Net,
    service: Arc<Echo>,
}

impl TestPeer {
    fn target(&self) -> Target {
        Target {
            peer: self.net.peer(),
            addresses: self.net.listen_addresses(),
        }
    }

    fn address(&self) -> String {
        self.net.listen_addresses().remove(0)
    }

    async fn call(&self, to: &TestPeer, body: &'static str) -> Result<Bytes, CallError> {
        self.net
            .call(&to.target(), Bytes::from_static(body.as_bytes()), PATIENCE)
            .await
    }

    fn knows(&self, other: &TestPeer) -> usize {
        let hello = Seen::Hello(other.net.peer(), other.service.contact.clone());
        self.service.seen(&hello)
    }

    fn lost(&self, other: &TestPeer) -> usize {
        self.service.seen(&Seen::Disconnected(other.net.peer()))
    }
}

fn network() -> NetworkInfo {
    NetworkInfo {
        id: [9; 32],
        secret: Zeroizing::new(b"secret".to_vec()),
        unit: 1 << 30,
        r: 16,
    }
}

fn config() -> NetConfig {
    NetConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        network: network(),
        ..NetConfig::default()
    }
}

async fn start(seed: u8, config: NetConfig) -> TestPeer {
    let service = Arc::new(Echo {
        contact: vec![seed; 100].into(),
        seen: Mutex::default(),
        elsewhere: Mutex::default(),
        serving: Mutex::default(),
        gate: Semaphore::new(0),
    });
    let net = Net::start([seed; 32], config, Arc::clone(&service) as Arc<dyn Service>)
        .await
        .unwrap();
    TestPeer { net, service }
}

async fn pair() -> (TestPeer, TestPeer) {
    (start(1, config()).await, start(2, config()).await)
}

/// Polls until `condition` holds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends a test that hangs.
async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("hangs")
}

/// A connection of `from` to `to` without hello.
async fn raw(from: &TestPeer, to: &TestPeer) -> Wire {
    let addresses = to
        .net
        .listen_addresses()
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    bounded(from.net.shared.connect(Some(to.net.peer()), addresses))
        .await
        .unwrap()
}

/// A connection with a good hello, driven by the test.
async fn raw_after_hello(from: &TestPeer, to: &TestPeer, class: Class) -> Wire {
    let mut wire = raw(from, to).await;
    let local = Local {
        peer: from.net.peer(),
        network: network(),
        instance: [7; 16],
        contact: Bytes::from_static(b"raw"),
    };
    bounded(hello::dial(&mut wire.stream, to.net.peer(), &local, class))
        .await
        .unwrap();
    wire
}

/// Reads until the other side hangs up, which it must.
async fn hung_up(wire: &mut Wire) {
    bounded(hello::drain(&mut wire.stream)).await;
}

fn refused<T: std::fmt::Debug>(result: Result<T, DialError>) -> Reason {
    match result {
        Err(DialError::Refused(refusal)) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_both_ways_over_one_connection() {
    let (a, b) = pair().await;
    assert_eq!(a.call(&b, "there").await.unwrap(), "there");
    let back = Target {
        peer: a.net.peer(),
        addresses: Vec::new(),
    };
    let answer = b.net.call(&back, Bytes::from_static(b"and back"), PATIENCE).await;
    assert_eq!(answer.unwrap(), "and back");
    let many = (0..64).map(|_| async {
        let (there, back) = tokio::join!(a.call(&b, "x"), b.call(&a, "y"));
        (there.unwrap(), back.unwrap())
    });
    assert!(
        bounded(join_all(many))
            .await
            .iter()
            .all(|(x, y)| x == "x" && y == "y")
    );
    assert_eq!((a.net.connections(), b.net.connections()), (1, 1));
    assert!(a.net.is_connected(b.net.peer()) && b.net.is_connected(a.net.peer()));
    assert_eq!((a.knows(&b), b.knows(&a)), (1, 1));
    let counters = a.net.counters();
    assert_eq!(counters.dials.load(std::sync::atomic::Ordering::Relaxed), 1);
    let frames = counters.rpc.frames_in.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(frames, 1 + 1 + 2 * 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_requests_may_wait_and_the_next_is_busy() {
    let (a, b) = pair().await;
    let limit = Duration::from_millis(300);
    let target = b.target();
    // Connected, all of them are sent at once.
    assert_eq!(a.call(&b, "first").await.unwrap(), "first");
    let stalled = (0..256).map(|_| a.net.call(&target, Bytes::from_static(b"stall"), limit).boxed());
    let stalled = bounded(join_all(stalled)).await;
    assert!(stalled.iter().all(|result| *result == Err(CallError::TimedOut)));
    let next = a.net.call(&b.target(), Bytes::from_static(b"next"), limit).await;
    assert_eq!(next, Err(CallError::Busy));
    // The other direction has a window of its own.
    assert_eq!(b.call(&a, "back").await.unwrap(), "back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_share_a_dial_and_crossed_dials_settle() {
    let quick = || NetConfig {
        idle: Duration::from_millis(300),
        ..config()
    };
    let (a, b) = (start(1, quick()).await, start(2, quick()).await);
    let crossed = (0..16).map(|_| async { tokio::join!(a.call(&b, "x"), b.call(&a, "y")) });
    for (there, back) in bounded(join_all(crossed)).await {
        assert!(there.is_ok() && back.is_ok());
    }
    for peer in [&a, &b] {
        assert!(
            peer.net
                .counters()
                .dials
                .load(std::sync::atomic::Ordering::Relaxed)
                <= 1
        );
    }
    // Kept in use, at most one remains; it is the one both prefer.
    let deadline = Instant::now() + PATIENCE;
    while a.net.connections() > 1 || b.net.connections() > 1 {
        assert!(Instant::now() < deadline, "crossed connections never settle");
        tokio::time::sleep(Duration::from_millis(20)).await;
        a.call(&b, "x").await.unwrap();
        b.call(&a, "y").await.unwrap();
    }
    // Left alone, it is closed, and neither side takes that for a death.
    eventually("idle close", || {
        a.net.connections() == 0 && b.net.connections() == 0
    })
    .await;
    assert_eq!((a.lost(&b), b.lost(&a)), (0, 0));
    assert_eq!(b.call(&a, "again").await.unwrap(), "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_meets_an_idle_close_is_sent_again() {
    let idle = Duration::from_millis(20);
    let (a, b) = (
        start(1, NetConfig { idle, ..config() }).await,
        start(2, NetConfig { idle, ..config() }).await,
    );
    for round in 0..60_u64 {
        // Dialled, and so closed, by one side, about when the other calls.
        a.call(&b, "x").await.unwrap();
        tokio::time::sleep(idle.saturating_sub(Duration::from_micros(100 * (round % 10)))).await;
        assert_eq!(b.call(&a, "y").await.unwrap(), "y");
        tokio::time::sleep(idle).await;
    }
    assert_eq!((a.lost(&b), b.lost(&a)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_travel_in_a_window_and_do_not_hold_up_calls() {
    let (a, b) = pair().await;
    let calls = (0..64_u8).map(|i| {
        let (net, target) = (a.net.clone(), b.target());
        async move {
            let payload = Bytes::from(vec![i; 1024 * 1024]);
            let (head, back) = net
                .shard_call(&target, vec![i].into(), payload.clone())
                .await
                .unwrap();
            assert_eq!(head, vec![i]);
            assert!(back == payload);
        }
    });
    bounded(join_all(calls)).await;
    assert!(b.service.serving.lock().unwrap().1 <= 16);
    assert_eq!(a.net.connections(), 1);

    // A full window of stuck requests, one more behind it, and an rpc beside them.
    let gated = (0..17).map(|_| {
        let (net, target) = (a.net.clone(), b.target());
        tokio::spawn(async move {
            net.shard_call(&target, Bytes::from_static(b"gated"), Bytes::new())
                .await
        })
    });
    let gated: Vec<_> = gated.collect();
    eventually("16 are served", || b.service.serving.lock().unwrap().0 == 16).await;
    assert_eq!(a.call(&b, "meanwhile").await.unwrap(), "meanwhile");
    assert_eq!(b.service.serving.lock().unwrap().1, 16);
    b.service.gate.add_permits(17);
    for call in bounded(join_all(gated)).await {
        assert_eq!(call.unwrap().unwrap().0, "gated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limits_are_not_sent_and_bad_answers_fail_the_call() {
    let (a, b) = pair().await;
    let large = Bytes::from(vec![0; MAX_RPC_BODY + 1]);
    assert_eq!(
        a.net.call(&b.target(), large, PATIENCE).await,
        Err(CallError::TooLarge)
    );
    let large = Bytes::from(vec![0; MAX_SHARD_PAYLOAD + 1]);
    assert_eq!(
        a.net.shard_call(&b.target(), Bytes::new(), large).await,
        Err(CallError::TooLarge)
    );
    assert_eq!(a.net.connections(), 0);
    for body in ["too much", "panic"] {
        assert!(
            matches!(a.call(&b, body).await, Err(CallError::Refused(_))),
            "{body}"
        );
    }
    assert_eq!(a.call(&b, "still there").await.unwrap(), "still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_ports_and_wrong_peers_are_unreachable_without_waiting() {
    // Far longer than the test may take: only a refusal by the system can end these dials.
    let slow = NetConfig {
        dial_timeout: PATIENCE * 4,
        ..config()
    };
    let a = start(1, slow).await;
    let (b, c) = (start(2, config()).await, start(3, config()).await);
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port())
    };
    assert_eq!(bounded(a.net.dial(&dead)).await, Err(DialError::Unreachable));
    assert_eq!(a.net.dial("nowhere").await, Err(DialError::BadAddress));
    let call = |addresses| {
        let to = Target {
            peer: b.net.peer(),
            addresses,
        };
        let net = a.net.clone();
        async move { bounded(net.call(&to, Bytes::from_static(b"x"), PATIENCE)).await }
    };
    assert_eq!(call(vec![dead.clone()]).await, Err(CallError::Unreachable));
    assert_eq!(call(vec![]).await, Err(CallError::Unreachable));
    assert_eq!(call(vec![c.address()]).await, Err(CallError::Unreachable));
    let all = vec![dead, c.address(), "nonsense".to_owned(), b.address()];
    assert_eq!(call(all).await, Ok(Bytes::from_static(b"x")));
    assert_eq!(a.net.dial(&a.address()).await, Err(DialError::Own));
}
