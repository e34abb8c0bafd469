//! Peers that break the protocol, fall silent or die.

use super::*;

fn giving_up_after(ms: u64) -> NetConfig {
    NetConfig {
        progress_timeout: Duration::from_millis(ms),
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaches_of_the_protocol_end_the_connection() {
    let (a, b) = pair().await;
    let header = |kind, id, head, payload| {
        let mut bytes = Vec::new();
        Header {
            kind,
            id,
            head,
            payload,
        }
        .put(&mut bytes);
        bytes
    };
    let cases = [
        (
            "oversize request",
            Class::Rpc,
            header(Kind::Request, 1, 0, MAX_RPC_BODY + 1),
        ),
        (
            "oversize shard",
            Class::Shards,
            header(Kind::Request, 1, 0, u32::MAX as usize),
        ),
        (
            "oversize head",
            Class::Shards,
            header(Kind::Request, 1, MAX_SHARD_HEAD + 1, 0),
        ),
        ("unasked answer", Class::Rpc, header(Kind::Response, 1, 0, 0)),
        ("unknown kind", Class::Rpc, vec![9; Header::LEN]),
    ];
    for (what, class, bytes) in cases {
        // Nothing follows the header, so only its check can end the connection.
        let mut wire = raw_after_hello(&a, &b, class).await;
        eventually("connected", || b.net.connections() == 1).await;
        wire.stream.write_all(&bytes).await.unwrap();
        wire.stream.flush().await.unwrap();
        hung_up(&mut wire).await;
        eventually(what, || b.net.connections() == 0).await;
    }
    eventually("reported", || b.lost(&a) == 5).await;
    // A window and one more request.
    let mut wire = raw_after_hello(&a, &b, Class::Rpc).await;
    let mut flood = Vec::new();
    for id in 1..=257 {
        flood.extend(header(Kind::Request, id, 0, 5));
        flood.extend(b"stall");
    }
    // The other side may hang up before all is written.
    drop(wire.stream.write_all(&flood).await);
    drop(wire.stream.flush().await);
    hung_up(&mut wire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_does_not_go_on_ends_the_connection() {
    let b = start(2, giving_up_after(100)).await;
    let a = start(1, config()).await;
    for length in [3, Header::LEN] {
        let mut wire = raw_after_hello(&a, &b, Class::Shards).await;
        let mut bytes = Vec::new();
        Header {
            kind: Kind::Request,
            id: 1,
            head: 0,
            payload: 1000,
        }
        .put(&mut bytes);
        wire.stream.write_all(&bytes[..length]).await.unwrap();
        wire.stream.flush().await.unwrap();
        hung_up(&mut wire).await;
    }
    eventually("counted", || {
        b.net
            .counters()
            .stalled
            .load(std::sync::atomic::Ordering::Relaxed)
            == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_service_that_stalls_fails_its_calls() {
    let a = start(1, giving_up_after(200)).await;
    let b = start(2, config()).await;
    let target = b.target();
    let calls = (0..3).map(|_| {
        a.net
            .shard_call(&target, Bytes::from_static(b"stall"), Bytes::new())
            .boxed()
    });
    for result in bounded(join_all(calls)).await {
        assert_eq!(result, Err(CallError::TimedOut));
    }
    eventually("given up", || {
        a.net.connections() == 0 && b.net.connections() == 0
    })
    .await;
    // The next call gets a new connection; on a machine so slow that nothing moves for 200 ms, a later one.
    bounded(async {
        while a
            .net
            .shard_call(&target, Bytes::from_static(b"new"), Bytes::new())
            .await
            .is_err()
        {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_given_up_after_the_progress_timeout() {
    let a = start(1, giving_up_after(200)).await;
    let b = start(2, config()).await;
    // The raw side accepted our hello and never answers.
    let mut silent = raw_after_hello(&b, &a, Class::Rpc).await;
    eventually("connected", || a.net.connections() == 1).await;
    let to = Target {
        peer: b.net.peer(),
        addresses: Vec::new(),
    };
    bounded(async {
        while a.net.is_connected(b.net.peer()) {
            let answer = a
                .net
                .call(&to, Bytes::from_static(b"?"), Duration::from_millis(50))
                .await;
            assert_ne!(answer.map(drop), Ok(()));
        }
    })
    .await;
    hung_up(&mut silent).await;
    eventually("reported", || a.lost(&b) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_dies_fails_its_calls_and_is_reported() {
    let (a, b) = pair().await;
    let (net, target) = (a.net.clone(), b.target());
    let rpc = tokio::spawn(async move {
        net.call(&target, Bytes::from_static(b"stall"), PATIENCE * 2)
            .await
    });
    let (net, target) = (a.net.clone(), b.target());
    let shard = tokio::spawn(async move {
        net.shard_call(&target, Bytes::from_static(b"gated"), Bytes::new())
            .await
    });
    eventually("both classes", || a.net.connections() == 2).await;
    eventually("served", || b.service.serving.lock().unwrap().0 == 1).await;
    let rpc_in = || {
        b.net
            .counters()
            .rpc
            .frames_in
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    eventually("asked", || rpc_in() == 1).await;
    b.net.shutdown().await;
    assert_eq!(bounded(rpc).await.unwrap(), Err(CallError::Closed));
    assert_eq!(bounded(shard).await.unwrap(), Err(CallError::Closed));
    eventually("reported once", || a.lost(&b) == 1).await;
    assert_eq!(a.net.connections(), 0);
    assert_eq!(b.lost(&a), 0);
    assert_eq!(a.call(&b, "anybody?").await, Err(CallError::Unreachable));
}
