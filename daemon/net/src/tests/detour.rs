//! Connections that lead nowhere any more.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;

/// Passes on what comes for `to` until it is cut: then bytes stay where they are and nothing is closed.
async fn cable(to: &TestPeer) -> (String, watch::Sender<bool>) {
    let port = to.address().rsplit('/').next().unwrap().parse::<u16>().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut is_cut = is_cut.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(is_cut.wait_for(|cut| *cut).await) } => std::future::pending().await,
                }
            });
        }
    });
    (address, cut)
}

/// `b` behind a cable, and known to `a` at `more` beside.
async fn behind_cable(a: &TestPeer, b: &TestPeer, more: Vec<String>) -> (Target, watch::Sender<bool>) {
    let (cabled, cut) = cable(b).await;
    let addresses: Vec<String> = std::iter::once(cabled).chain(more).collect();
    a.service
        .elsewhere
        .lock()
        .unwrap()
        .insert(b.net.peer(), addresses.clone());
    let to = Target {
        peer: b.net.peer(),
        addresses,
    };
    (to, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connection_is_left_for_another_address_and_its_request_asked_again() {
    // Far longer than the test may take: only a detour ends the wait.
    let slow = NetConfig {
        progress_timeout: PATIENCE * 4,
        ..config()
    };
    let (a, b) = (start(1, slow).await, start(2, config()).await);
    let (to, cut) = behind_cable(&a, &b, vec![b.address()]).await;
    let call = |head: &'static str| {
        let (net, to) = (a.net.clone(), to.clone());
        async move { bounded(net.shard_call(&to, Bytes::from_static(head.as_bytes()), Bytes::new())).await }
    };
    assert_eq!(call("first").await.unwrap().0, "first");
    let ask = |text: &'static str| a.net.call(&to, Bytes::from_static(text.as_bytes()), PATIENCE);
    assert_eq!(ask("first").await.unwrap(), "first");
    cut.send_replace(true);
    let (shard, rpc) = tokio::join!(call("second"), ask("second"));
    assert_eq!(
        (shard.unwrap().0, rpc.unwrap()),
        ("second".into(), "second".into())
    );
    assert_eq!((a.lost(&b), b.lost(&a)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answer_is_waited_for_although_there_is_another_address() {
    let (a, b) = pair().await;
    let (to, _cut) = behind_cable(&a, &b, vec![b.address()]).await;
    let waiting = tokio::spawn({
        let (net, to) = (a.net.clone(), to.clone());
        async move {
            net.shard_call(&to, Bytes::from_static(b"gated"), Bytes::new())
                .await
        }
    });
    eventually("served", || b.service.serving.lock().unwrap().0 == 1).await;
    let pings = || {
        b.net
            .counters()
            .shards
            .frames_in
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let before = pings();
    eventually("asked whether it lives", || pings() > before).await;
    b.service.gate.add_permits(1);
    assert_eq!(bounded(waiting).await.unwrap().unwrap().0, "gated");
    assert_eq!(a.net.connections(), 1);
    assert_eq!(b.service.serving.lock().unwrap().1, 1);
}
