//! Which addresses of a peer are dialled, and in which order.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use super::*;

/// A listener that takes connections and never says anything, and how many it took.
async fn silent() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            held.push(connection);
        }
    });
    (address, taken)
}

fn parsed(addresses: &[String]) -> Vec<Multiaddr> {
    addresses.iter().map(|text| text.parse().unwrap()).collect()
}

async fn connect(from: &TestPeer, to: Peer, addresses: &[String]) -> Result<Wire, OpenFailure> {
    bounded(from.net.shared.connect(Some(to), parsed(addresses))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_address_does_not_hold_up_the_next_and_is_tried_last_afterwards() {
    let slow = NetConfig {
        dial_timeout: PATIENCE * 4,
        ..config()
    };
    let (a, b) = (start(1, slow).await, start(2, config()).await);
    let (hole, taken) = silent().await;
    let addresses = [hole, b.address()];
    connect(&a, b.net.peer(), &addresses).await.unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    // Best known first: the silent one is not even tried.
    connect(&a, b.net.peer(), &addresses).await.unwrap();
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_where_another_peer_answers_is_dropped_for_that_peer_alone() {
    let (a, b) = pair().await;
    let c = start(3, config()).await;
    let wrong = [c.address()];
    assert!(connect(&a, b.net.peer(), &wrong).await.is_err());
    let dropped = |peer| {
        let address = wrong[0].parse().unwrap();
        a.net.shared.routes().is_dropped(peer, &address, Instant::now())
    };
    assert!(dropped(b.net.peer()));
    assert!(!dropped(c.net.peer()));
    connect(&a, b.net.peer(), &[c.address(), b.address()])
        .await
        .unwrap();
    connect(&a, c.net.peer(), &wrong).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_where_this_peer_itself_answers_is_not_dialled_for_others() {
    let a = start(
        1,
        NetConfig {
            listen: vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
            ..config()
        },
    )
    .await;
    let b = start(2, config()).await;
    b.call(&a, "x").await.unwrap();
    let own = a.net.listen_addresses();
    assert!(connect(&a, b.net.peer(), &own).await.is_err());
    // One that is not listed although it is this machine's.
    let port = own[0].rsplit('/').next().unwrap();
    let unlisted = [format!("/ip4/127.9.9.9/tcp/{port}")];
    connect(&b, a.net.peer(), &unlisted).await.unwrap();
    assert!(connect(&a, b.net.peer(), &unlisted).await.is_err());
    let address = unlisted[0].parse().unwrap();
    assert!(
        a.net
            .shared
            .routes()
            .is_dropped(b.net.peer(), &address, Instant::now())
    );
    connect(&a, b.net.peer(), &[unlisted[0].clone(), b.address()])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_of_others_is_dialled_once_a_member_was_met_on_this_machine() {
    let a = start(
        1,
        NetConfig {
            listen: vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
            ..config()
        },
    )
    .await;
    let (b, c) = (start(2, config()).await, start(3, config()).await);
    if a.net.shared.place().is_on_loopback() {
        // This machine has nothing but loopback.
        a.call(&c, "x").await.unwrap();
        return;
    }
    assert_eq!(a.call(&c, "x").await, Err(CallError::Unreachable));
    assert_eq!(c.service.seen.lock().unwrap().len(), 0);
    b.call(&a, "x").await.unwrap();
    a.call(&c, "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_that_leads_nowhere_is_given_up_when_its_peer_connects_anew() {
    let a = start(
        1,
        NetConfig {
            progress_timeout: Duration::from_secs(4),
            ..config()
        },
    )
    .await;
    let b = start(2, config()).await;
    // It says hello, then nothing any more: as one whose address is gone.
    let mute = raw_after_hello(&b, &a, Class::Rpc).await;
    eventually("there", || a.net.connections() == 1).await;
    let quiet = || {
        let table = a.net.shared.table();
        table.of(b.net.peer())[0].activity.unheard() >= Duration::from_secs(1)
    };
    eventually("quiet", quiet).await;
    let again = raw_after_hello(&b, &a, Class::Rpc).await;
    assert_eq!(a.net.connections(), 2);
    eventually("given up", || a.net.connections() == 1).await;
    drop((mute, again));
}
