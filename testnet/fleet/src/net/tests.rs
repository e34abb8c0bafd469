use mutualstore_contract::exit;

use super::*;
use crate::spawn::SpawnError;

fn options() -> UpOptions {
    UpOptions {
        binary: "mutualstore".into(),
        peers: 3,
        capacities: "800MiB,1600MiB".parse().unwrap(),
        unit_bytes: None,
        api_base: Some(65_534),
        seed: Some(1),
        flags: Vec::new(),
    }
}

fn dead(index: usize) -> Peer {
    Peer {
        index,
        pid: 0,
        peer: index.to_string(),
        api: String::new(),
        listen: format!("/listen/{index}"),
        data_dir: PathBuf::new(),
        capacity_bytes: 1,
        alive: false,
        start_ticks: 0,
    }
}

fn testnet(count: usize) -> Testnet {
    Testnet {
        peers: (0..count).map(dead).collect(),
        unit_bytes: 1,
        capacities: Capacities::repeating([1, 2]),
        api_base: Some(65_534),
        seed: 5,
        flags: Vec::new(),
    }
}

#[test]
fn kills_of_one_seed_are_equal_and_distinct() {
    let alive: Vec<usize> = (0..12).collect();
    let drawn = draw(&alive, 5, 42).unwrap();
    assert_eq!(
        drawn,
        draw(&alive.iter().rev().copied().collect::<Vec<_>>(), 5, 42).unwrap()
    );
    assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), 5);
    assert!((0..20).any(|seed| draw(&alive, 5, seed).unwrap() != drawn));
    assert_eq!(draw(&alive, 12, 1).unwrap(), alive);
    assert_eq!(draw(&alive, 13, 1).unwrap_err().exit_code(), exit::USAGE);
}

#[test]
fn testnet_without_flags_has_its_defaults() {
    assert_eq!(options().unit(), 100 << 20);
    assert_eq!(with_repair_delay(&[], "5s"), ["--repair-delay", "5s"]);
    let flags = ["--repair-delay=1h".to_owned(), "--repair".to_owned()];
    assert_eq!(with_repair_delay(&flags, "5s"), flags);
}

#[test]
fn launches_repeat_capacities_and_take_successive_ports() {
    let testnet = testnet(0);
    let launches = launches(Path::new("/net"), &testnet, 0..2).unwrap();
    assert_eq!(launches[1].data_dir, Path::new("/net/1"));
    assert_eq!((launches[0].capacity_bytes, launches[1].capacity_bytes), (1, 2));
    assert_eq!(launches[1].api_port, 65_535);
    assert_eq!(
        super::launches(Path::new("/net"), &testnet, 2..3)
            .unwrap_err()
            .exit_code(),
        exit::USAGE
    );
}

#[test]
fn restarted_peer_joins_the_living_or_whoever_was_there() {
    let mut testnet = testnet(4);
    let launch = relaunch(&testnet, &testnet.peers[1]);
    assert_eq!(launch.join.len(), 3);
    assert!(!launch.join.contains(&"/listen/1".to_owned()));
    testnet.peers[3].alive = true;
    assert_eq!(relaunch(&testnet, &testnet.peers[1]).join, ["/listen/3"]);
}

#[test]
fn command_on_an_unknown_peer_is_refused() {
    let testnet = testnet(2);
    assert_eq!(chosen(&testnet, &[1, 1]).unwrap().len(), 1);
    assert_eq!(chosen(&testnet, &[]).unwrap().len(), 2);
    assert_eq!(
        chosen(&testnet, &[2]).unwrap_err().to_string(),
        "this testnet has no peer 2"
    );
}

#[test]
fn wiped_peer_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["identity", "network.json", "files.jsonl"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("store/segment"), "").unwrap();
    empty(dir.path()).unwrap();
    let left: BTreeSet<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, BTreeSet::from(["identity".into(), "network.json".into()]));
}

#[test]
fn failed_up_leaves_no_testnet() {
    let dir = tempfile::tempdir().unwrap();
    let failure = up(
        dir.path(),
        &UpOptions {
            binary: "/bin/false".into(),
            api_base: None,
            ..options()
        },
    );
    assert!(
        matches!(failure, Err(FleetError::Spawn(SpawnError::Exited { .. }))),
        "{failure:?}"
    );
    assert!(matches!(
        Testnet::load(dir.path()),
        Err(StateError::Missing { .. })
    ));
    assert_eq!(
        up(
            dir.path(),
            &UpOptions {
                peers: 0,
                ..options()
            }
        )
        .unwrap_err()
        .exit_code(),
        exit::USAGE
    );
}

#[test]
fn down_of_dead_peers_wipes_them() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("net");
    fs::create_dir(&place).unwrap();
    testnet(2).save(&place).unwrap();
    assert_eq!(kill(&place, &Victims::Peers(vec![1]), false).unwrap(), [1]);
    assert_eq!(
        kill(&place, &Victims::Random { count: 1, seed: 0 }, false)
            .unwrap_err()
            .exit_code(),
        exit::USAGE
    );
    down(&place, true).unwrap();
    assert!(!place.exists());
    assert!(matches!(
        down(&place, true),
        Err(FleetError::State(StateError::Missing { .. }))
    ));
}
