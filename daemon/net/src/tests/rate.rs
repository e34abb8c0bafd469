//! What [`NetConfig::link_rate`] does to real connections. Times are only compared with each other.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

async fn limited(seed: u8, rate: u64) -> TestPeer {
    let link_rate = Some(rate);
    start(
        seed,
        NetConfig {
            link_rate,
            ..config()
        },
    )
    .await
}

/// Sends a shard of `bytes` that comes back as an empty answer.
async fn swallow(from: &TestPeer, to: &TestPeer, bytes: usize) {
    let payload = Bytes::from(vec![7; bytes]);
    let target = to.target();
    let sent = from
        .net
        .shard_call(&target, Bytes::from_static(b"swallow"), payload);
    assert_eq!(bounded(sent).await.unwrap().1, "");
}

/// How long two shards of 1 MiB take together; connections are there before.
async fn time(one: (&TestPeer, &TestPeer), two: (&TestPeer, &TestPeer)) -> Duration {
    tokio::join!(swallow(one.0, one.1, 1), swallow(two.0, two.1, 1));
    let begun = Instant::now();
    tokio::join!(swallow(one.0, one.1, 1 << 20), swallow(two.0, two.1, 1 << 20));
    begun.elapsed()
}

/// A quarter of the rate takes four times as long, the burst and a busy machine aside.
fn assert_about_four(slow: Duration, quick: Duration) {
    let ratio = slow.as_secs_f64() / quick.as_secs_f64();
    assert!((2.0..8.0).contains(&ratio), "{slow:?} / {quick:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_sends_to_two_is_limited_together() {
    let (b, c) = (start(2, config()).await, start(3, config()).await);
    let (slow, quick) = (limited(1, 1_000_000).await, limited(4, 4_000_000).await);
    let slow = time((&slow, &b), (&slow, &c)).await;
    assert_about_four(slow, time((&quick, &b), (&quick, &c)).await);
    // One alone has the rate for itself.
    let alone = limited(5, 1_000_000).await;
    swallow(&alone, &b, 1).await;
    let begun = Instant::now();
    swallow(&alone, &b, 1 << 20).await;
    assert!(begun.elapsed() < slow);
    let waited = |class: &ClassCounters| {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (load(&class.waited_out_us) > 0, load(&class.waited_in_us) > 0)
    };
    assert!(waited(&alone.net.counters().shards).0);
    assert_eq!(waited(&b.net.counters().shards), (false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_receives_from_two_is_limited_together() {
    let (b, c) = (start(2, config()).await, start(3, config()).await);
    let (slow, quick) = (limited(1, 1_000_000).await, limited(4, 4_000_000).await);
    let slow = time((&b, &slow), (&c, &slow)).await;
    assert_about_four(slow, time((&b, &quick), (&c, &quick)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_ahead_of_shards() {
    let (a, b) = (limited(1, 2_000_000).await, limited(2, 2_000_000).await);
    a.call(&b, "connected").await.unwrap();
    swallow(&a, &b, 1).await;
    let done = AtomicUsize::new(0);
    let bulk = join_all((0..8).map(|_| async {
        swallow(&a, &b, 1 << 20).await;
        done.fetch_add(1, Ordering::Relaxed);
    }));
    let calls = async {
        eventually("the transfer runs", || {
            a.net.counters().shards.frames_out.load(Ordering::Relaxed) > 2
        })
        .await;
        let before = done.load(Ordering::Relaxed);
        for _ in 0..10 {
            a.call(&b, "ahead").await.unwrap();
        }
        done.load(Ordering::Relaxed) - before
    };
    // Behind a shard each, they would take longer than all shards.
    let (_, meanwhile) = tokio::join!(bulk, calls);
    assert!(meanwhile < 4, "{meanwhile}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_its_own_rate_holds_up_is_not_taken_for_dead() {
    let progress_timeout = Duration::from_secs(1);
    let impatient = NetConfig {
        progress_timeout,
        ..config()
    };
    // Half a window of each of four connections takes two seconds, and before that nobody may send on.
    let slow = NetConfig {
        link_rate: Some(250_000),
        ..impatient.clone()
    };
    let slow = start(1, slow).await;
    let mut senders = Vec::new();
    for seed in 2..6 {
        senders.push(start(seed, impatient.clone()).await);
    }
    join_all(senders.iter().map(|sender| swallow(sender, &slow, 384 * 1024))).await;
    let stalled = |peer: &TestPeer| peer.net.counters().stalled.load(Ordering::Relaxed);
    assert_eq!(senders.iter().map(stalled).sum::<u64>() + stalled(&slow), 0);
}
