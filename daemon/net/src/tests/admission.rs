//! Who may connect: the hello, instances, limits, listening.

use mutualstore_proto::hello::{Hello, HelloMessage, VERSION};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_with_the_reason() {
    type Change = fn(&mut NetworkInfo);
    let member = start(1, config()).await;
    let stranger = |seed, change: Change| {
        let mut config = config();
        change(&mut config.network);
        start(seed, config)
    };
    let cases: [(Change, Reason); 4] = [
        (|network| network.id = [8; 32], Reason::WrongNetwork),
        (
            |network| network.secret = Zeroizing::new(b"guess".to_vec()),
            Reason::WrongSecret,
        ),
        (|network| network.unit = 1, Reason::ParametersDiffer),
        (|network| network.r = 8, Reason::ParametersDiffer),
    ];
    for (seed, (change, reason)) in (10..).zip(cases) {
        let other = stranger(seed, change).await;
        assert_eq!(refused(other.net.dial(&member.address()).await), reason);
        assert_eq!(refused(member.net.dial(&other.address()).await), reason);
        let called = other.call(&member, "hello?").await;
        assert!(matches!(called, Err(CallError::Barred(refusal)) if refusal.reason == reason));
    }
    assert_eq!(member.net.connections(), 0);
    assert!(member.service.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_versions_and_other_protocols_are_refused() {
    let (a, b) = pair().await;
    let mut wire = raw(&a, &b).await;
    let hello = |version| {
        let hello = Hello {
            version,
            network: network().id,
            nonce: [0; 16],
            class: Class::Rpc,
            instance: [0; 16],
            unit: network().unit,
            r: network().r,
        };
        HelloMessage::Hello(hello).encode()
    };
    for (message, reason) in [
        (hello(VERSION - 1), Reason::Version),
        (hello(VERSION + 1), Reason::Version),
        (Bytes::from_static(b"GET /"), Reason::NotMutualStore),
    ] {
        let length = u32::try_from(message.len()).unwrap();
        wire.stream.write_all(&length.to_be_bytes()).await.unwrap();
        wire.stream.write_all(&message).await.unwrap();
        wire.stream.flush().await.unwrap();
        let mut answer = Vec::new();
        bounded(wire.stream.read_to_end(&mut answer)).await.unwrap();
        let HelloMessage::Refusal(refusal) = HelloMessage::decode(Bytes::from(answer).slice(4..)).unwrap()
        else {
            panic!("not refused");
        };
        assert_eq!(refusal.reason, reason);
        wire = raw(&a, &b).await;
    }
    // A length beyond the limit is refused before the bytes come.
    wire.stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    wire.stream.flush().await.unwrap();
    hung_up(&mut wire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_learns_the_network_and_then_belongs_to_it() {
    let member = start(1, config()).await;
    let secret = network().secret;
    let nothing = NetworkInfo {
        secret: secret.clone(),
        ..NetworkInfo::default()
    };
    let joiner = start(
        2,
        NetConfig {
            network: nothing,
            ..config()
        },
    )
    .await;
    assert!(matches!(
        joiner.call(&member, "too early").await,
        Err(CallError::Refused(_))
    ));
    assert_eq!(
        refused(member.net.dial(&joiner.address()).await),
        Reason::NoNetwork
    );

    let dialed = joiner
        .net
        .dial(&joiner.net.with_peer("/ip4/127.0.0.1/tcp/1"))
        .await;
    assert_eq!(dialed, Err(DialError::Own));
    let dialed = joiner
        .net
        .dial(&member.net.with_peer(&member.address()))
        .await
        .unwrap();
    assert_eq!(
        (dialed.peer, &dialed.contact),
        (member.net.peer(), &member.service.contact)
    );
    assert_eq!(
        (dialed.network.id, dialed.network.unit, dialed.network.r),
        (network().id, 1 << 30, 16)
    );
    assert_eq!((joiner.net.connections(), member.net.connections()), (0, 0));
    assert_eq!(member.knows(&joiner), 0);

    joiner.net.adopt(NetworkInfo {
        secret,
        ..dialed.network
    });
    assert_eq!(joiner.call(&member, "hello").await.unwrap(), "hello");
    assert_eq!((member.knows(&joiner), joiner.knows(&member)), (1, 1));

    let uninvited = start(
        3,
        NetConfig {
            network: NetworkInfo::default(),
            ..config()
        },
    )
    .await;
    assert_eq!(
        refused(uninvited.net.dial(&member.address()).await),
        Reason::WrongSecret
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_network_may_ask_for_this_one() {
    let member = start(1, config()).await;
    let provisional = NetworkInfo {
        id: [5; 32],
        unit: 1,
        r: 1,
        ..NetworkInfo::default()
    };
    let other = start(
        2,
        NetConfig {
            network: provisional,
            ..config()
        },
    )
    .await;
    let invited = NetworkInfo {
        unit: 0,
        r: 0,
        ..network()
    };
    let dialed = other.net.learn(&member.address(), &invited).await.unwrap();
    assert_eq!(
        (dialed.network.id, dialed.network.unit, dialed.network.r),
        (network().id, 1 << 30, 16)
    );
    assert_eq!((other.net.connections(), member.net.connections()), (0, 0));
    let elsewhere = NetworkInfo {
        id: [8; 32],
        ..invited
    };
    let dialed = other.net.learn(&member.address(), &elsewhere).await;
    assert_eq!(refused(dialed), Reason::WrongNetwork);
    let uninvited = other.net.learn(&member.address(), &NetworkInfo::default()).await;
    assert_eq!(refused(uninvited), Reason::WrongSecret);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_is_refused_until_the_first_is_dead() {
    let b = start(2, config()).await;
    let first = start(1, config()).await;
    assert_eq!(first.call(&b, "first").await.unwrap(), "first");
    let second = start(1, config()).await;
    assert_eq!(
        refused(second.net.dial(&b.address()).await),
        Reason::DuplicateInstance
    );
    assert_eq!(first.call(&b, "still").await.unwrap(), "still");
    first.net.shutdown().await;
    let dialed = bounded(async {
        loop {
            if let Ok(dialed) = second.net.dial(&b.address()).await {
                return dialed;
            }
        }
    });
    assert_eq!(dialed.await.peer, b.net.peer());
    assert_eq!(second.call(&b, "mine now").await.unwrap(), "mine now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_from_elsewhere_is_refused_while_the_known_one_answers() {
    let b = start(2, config()).await;
    let (first, second) = (start(1, config()).await, start(1, config()).await);
    let known = first.net.listen_addresses();
    b.service
        .elsewhere
        .lock()
        .unwrap()
        .insert(first.net.peer(), known);
    assert_eq!(
        refused(second.net.dial(&b.address()).await),
        Reason::DuplicateInstance
    );
    assert_eq!(b.net.connections(), 0);
    // The one that is known may come from wherever it likes.
    assert_eq!(first.call(&b, "me").await.unwrap(), "me");
    first.net.shutdown().await;
    bounded(async { while second.net.dial(&b.address()).await.is_err() {} }).await;
    assert_eq!(second.call(&b, "mine now").await.unwrap(), "mine now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_hellos_and_silent_sockets_keep_nobody_out() {
    let b = start(2, config()).await;
    let a = start(1, config()).await;
    let port: u16 = b.address().rsplit('/').next().unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(raw(&a, &b).await);
    }
    assert_eq!(a.call(&b, "in").await.unwrap(), "in");
    eventually("silent connections end", || b.net.waiting() == 0).await;
    for mut wire in stalled {
        hung_up(&mut wire).await;
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_answers_no_ping_makes_room() {
    let b = start(
        2,
        NetConfig {
            instance_timeout: Duration::from_millis(100),
            ..config()
        },
    )
    .await;
    let a = start(1, config()).await;
    let mut silent = raw_after_hello(&a, &b, Class::Rpc).await;
    eventually("connected", || b.net.connections() == 1).await;
    assert_eq!(a.call(&b, "alive").await.unwrap(), "alive");
    hung_up(&mut silent).await;
    assert_eq!(b.net.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_refuse_further_connections() {
    let b = start(
        2,
        NetConfig {
            max_connections_per_peer: 1,
            ..config()
        },
    )
    .await;
    let a = start(1, config()).await;
    let mut first = raw_after_hello(&a, &b, Class::Rpc).await;
    let mut second = raw(&a, &b).await;
    let local = Local {
        peer: a.net.peer(),
        network: network(),
        instance: [7; 16],
        contact: Bytes::new(),
    };
    let failure = hello::dial(&mut second.stream, b.net.peer(), &local, Class::Shards).await;
    let Err(hello::HelloFailure::Refused(refusal)) = failure else {
        panic!("not refused")
    };
    assert_eq!(refusal.reason, Reason::TooManyConnections);
    hung_up(&mut second).await;
    first.stream.close().await.unwrap();
    eventually("room again", || b.net.connections() == 0).await;

    let full = start(
        3,
        NetConfig {
            max_connections: 0,
            ..config()
        },
    )
    .await;
    assert!(matches!(a.call(&full, "x").await, Err(CallError::Refused(_))));
    assert_eq!(full.call(&a, "x").await, Err(CallError::Busy));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_does_not_come_ends_the_connection() {
    let b = start(
        2,
        NetConfig {
            hello_timeout: Duration::from_millis(100),
            ..config()
        },
    )
    .await;
    let a = start(1, config()).await;
    let mut wire = raw(&a, &b).await;
    hung_up(&mut wire).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_says_what_is_wrong_with_an_address() {
    let a = start(1, config()).await;
    let start = |address: String| {
        let config = NetConfig {
            listen: vec![address],
            ..config()
        };
        Net::start([2; 32], config, Arc::clone(&a.service) as Arc<dyn Service>)
    };
    assert!(matches!(
        start(a.address()).await,
        Err(StartError::AddressInUse { .. })
    ));
    assert!(matches!(
        start("/ip4/127.0.0.1/udp/1".to_owned()).await,
        Err(StartError::BadAddress { .. })
    ));
    assert!(matches!(
        start("127.0.0.1:1".to_owned()).await,
        Err(StartError::BadAddress { .. })
    ));
    let everywhere = start("/ip4/0.0.0.0/tcp/0".to_owned()).await.unwrap();
    let addresses = everywhere.listen_addresses();
    assert!(
        addresses
            .iter()
            .all(|address| !address.contains("0.0.0.0") && !address.ends_with("tcp/0"))
    );
    assert!(addresses.iter().any(|address| address.contains("127.0.0.1")));
    let published = everywhere.contact_addresses();
    assert!(published.iter().all(|address| addresses.contains(address)));
    let loopback = published.iter().filter(|address| address.contains("127.0.0.1"));
    assert!(loopback.count() == 0 || published.len() == 1, "{published:?}");
    everywhere.shutdown().await;
}

#[test]
fn secrets_are_not_printed() {
    let text = format!(
        "{:?}",
        NetConfig {
            network: network(),
            ..NetConfig::default()
        }
    );
    assert!(!text.contains("secret") && !text.contains("115, 101"), "{text}");
}
