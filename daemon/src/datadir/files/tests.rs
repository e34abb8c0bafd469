use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use mutualstore_dht::{Peer, SignContact as _};

use super::*;
use crate::format::crypt::public_key;
use crate::wire::signed::Signer;

fn open() -> (tempfile::TempDir, DataDir) {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDir::open(&root.path().join("data")).unwrap();
    (root, directory)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn secrets_are_made_once_and_are_for_the_owner_only() {
    let (_root, directory) = open();
    let identity = directory.identity().unwrap();
    assert_eq!(identity, directory.identity().unwrap());
    assert_ne!(identity, directory.account().unwrap());
    let token = directory.token().unwrap();
    assert_eq!(token.len(), 64);
    assert_eq!(
        fs::read_to_string(directory.path().join("token")).unwrap().trim(),
        token.as_str()
    );
    assert_eq!(mode(directory.path()), 0o700);
    for name in ["identity", "account", "token"] {
        assert_eq!(mode(&directory.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_damaged_identity_is_an_error_and_stays() {
    let (_root, directory) = open();
    directory.identity().unwrap();
    let path = directory.path().join("identity");
    let good = fs::read_to_string(&path).unwrap();
    for bad in [
        "",
        "\n",
        &good[..63],
        &good[1..],
        &good.replace(&good[..1], "g"),
        &format!("{good}00"),
    ] {
        fs::write(&path, bad).unwrap();
        let error = directory.identity().unwrap_err();
        assert!(matches!(error, FileError::Damaged { .. }), "{bad}");
        assert!(error.to_string().contains("identity is damaged"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
}

#[test]
fn one_daemon_per_directory() {
    let (_root, directory) = open();
    let path = directory.path().to_owned();
    assert!(matches!(DataDir::open(&path), Err(FileError::InUse { .. })));
    drop(directory);
    DataDir::open(&path).unwrap();
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "").unwrap();
    assert!(matches!(
        DataDir::open(&path),
        Err(FileError::NotADirectory { .. })
    ));
    assert!(matches!(
        DataDir::open(&path.join("below")),
        Err(FileError::Io { .. })
    ));
}

#[test]
fn writing_replaces_and_leaves_nothing_else() {
    let (_root, directory) = open();
    let path = directory.path().join("some");
    write_atomic(&path, b"one", 0o600).unwrap();
    write_atomic(&path, b"two", 0o600).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert!(write_atomic(&directory.path().join("missing/some"), b"", 0o600).is_err());
    let taken = directory.path().join("directory");
    fs::create_dir(&taken).unwrap();
    assert!(write_atomic(&taken, b"", 0o600).is_err());
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["directory", "lock", "some"]);
}

#[test]
fn what_a_crash_left_is_removed() {
    let (_root, directory) = open();
    let stale = directory.path().join(".book.json.0123456789abcdef.tmp");
    fs::write(&stale, "half").unwrap();
    let path = directory.path().to_owned();
    drop(directory);
    DataDir::open(&path).unwrap();
    assert!(!stale.exists());
}

#[test]
fn virtual_nodes_are_kept_in_the_order_they_were_chosen() {
    let (_root, directory) = open();
    assert!(directory.virtual_nodes().unwrap().is_empty());
    directory.add_virtual_nodes(&[7, 3]).unwrap();
    directory.add_virtual_nodes(&[MAX_INDEX - 1, 0]).unwrap();
    assert_eq!(directory.virtual_nodes().unwrap(), [7, 3, MAX_INDEX - 1, 0]);

    for bad in ["[1,1]", "[2048]", "{}", "[1", "[-1]"] {
        fs::write(directory.path().join("vnodes.json"), bad).unwrap();
        assert!(
            matches!(directory.virtual_nodes(), Err(FileError::Damaged { .. })),
            "{bad}"
        );
    }
}

#[test]
fn the_book_reads_back_and_is_dropped_when_damaged() {
    let (_root, directory) = open();
    let verifier = Arc::new(Verifier::new([9; 32]));
    assert_eq!(directory.book(&verifier).unwrap(), Book::default());
    let signed = |seed: u8, contact: &Contact| {
        let mut contact = Contact {
            peer: Peer::new(public_key(&[seed; 32])),
            ..contact.clone()
        };
        contact.signature = Signer::new(&[seed; 32], Arc::clone(&verifier)).sign(&contact);
        contact
    };
    let contact = Contact {
        peer: Peer::new([3; 32]),
        version: 5,
        virtual_nodes: [1, 9].into(),
        addresses: ["/ip4/192.0.2.1/tcp/1".to_owned()].into(),
        capacity: 1 << 30,
        used: 7,
        state: PeerState::Draining,
        zone: "rack-1".into(),
        signature: Signature::default(),
    };
    let book = [
        BookEntry {
            contact: signed(3, &contact),
            last_seen: 77,
        },
        BookEntry {
            contact: signed(4, &contact),
            last_seen: 0,
        },
    ];
    directory.save_book(&book).unwrap();
    let read = directory.book(&verifier).unwrap();
    assert_eq!((read.entries.as_slice(), read.hints.len()), (book.as_slice(), 0));
    let elsewhere = directory.book(&Verifier::new([8; 32])).unwrap();
    assert_eq!((elsewhere.entries.len(), elsewhere.hints.len()), (0, 2));
    let path = directory.path().join("book.json");
    let text = fs::read_to_string(&path).unwrap();
    for bad in [
        text.replace("12D3", "13D3"),
        text.replace('9', "99999"),
        text.replace(']', ""),
        text.replace("/ip4/", "/ip4/\\u001b"),
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(directory.book(&verifier).unwrap(), Book::default());
    }
}

#[test]
fn a_book_without_signatures_only_says_where_to_look() {
    let (_root, directory) = open();
    let peers: Vec<Peer> = (1..=3).map(|seed| Peer::new(public_key(&[seed; 32]))).collect();
    let entry = |peer: &Peer, last_seen: u64| {
        serde_json::json!({
            "peer": peer.to_string(), "version": u64::MAX, "virtual_nodes": [1],
            "addresses": ["/ip4/192.0.2.1/tcp/1"], "capacity": 1, "last_seen": last_seen,
        })
    };
    let old: Vec<_> = peers
        .iter()
        .zip(1..)
        .map(|(peer, seen)| entry(peer, seen))
        .collect();
    let path = directory.path().join("book.json");
    fs::write(&path, serde_json::to_string(&old).unwrap()).unwrap();
    let book = directory.book(&Verifier::new([9; 32])).unwrap();
    assert_eq!(book.entries, []);
    let named = |peer: &Peer| format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}");
    assert_eq!(book.hints, [&peers[2], &peers[1], &peers[0]].map(named));
}

#[test]
fn the_network_is_kept_and_damage_is_an_error() {
    let (_root, directory) = open();
    assert_eq!(directory.network().unwrap(), None);
    let network = Network::found(1 << 20, 16);
    directory.save_network(&network).unwrap();
    assert_eq!(directory.network().unwrap(), Some(network));
    let path = directory.path().join("network.json");
    assert_eq!(mode(&path), 0o600);
    fs::write(&path, "{").unwrap();
    assert!(matches!(directory.network(), Err(FileError::Damaged { .. })));
}

#[test]
fn daemon_info_comes_and_goes() {
    let (_root, directory) = open();
    let path = directory.path().join("daemon.json");
    let info = DaemonFile {
        pid: 7,
        peer: Peer::new([1; 32]).to_string(),
        api: "http://127.0.0.1:1".to_owned(),
        listen: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
        started: 5,
        lock: directory.lock_id(),
    };
    directory.save_daemon_file(&info).unwrap();
    let read: DaemonFile = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(read, info);
    directory.remove_daemon_info().unwrap();
    directory.remove_daemon_info().unwrap();
    assert!(!path.exists());
}
