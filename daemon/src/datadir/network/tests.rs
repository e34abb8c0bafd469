use proptest::prelude::*;

use super::*;

fn invite() -> Invite {
    Invite {
        network: [5; 32],
        secret: Zeroizing::new(b"secret".to_vec()),
        addresses: vec![
            "/ip4/192.0.2.7/tcp/4001".to_owned(),
            "/dns/peer.example/tcp/1".to_owned(),
        ],
    }
}

fn open() -> Zeroizing<Vec<u8>> {
    Zeroizing::default()
}

#[test]
fn a_provisional_network_is_adopted_once_and_its_links_stay_good_everywhere() {
    let mut network = Network::provisional(8, 16);
    let made_before = network.tag();
    assert_eq!(made_before, ANY_NETWORK);
    assert!(network.knows_tag(made_before));
    network.adopt([1; 32], open(), 64, 12).unwrap();
    assert_eq!(
        (network.id, network.unit, network.r, network.adopted),
        ([1; 32], 64, 12, true)
    );
    assert!(network.knows_tag(made_before));
    assert!(Network::found(8, 16).knows_tag(made_before));
    assert!(network.knows_tag(network.tag()));
    assert!(!network.knows_tag([1; 4]));

    let before = network.clone();
    assert_eq!(network.adopt([1; 32], open(), 65, 13), Ok(()));
    assert_eq!(
        network.adopt([2; 32], open(), 64, 12),
        Err(AdoptError::Belongs { mine: before.tag() })
    );
    assert_eq!(network, before);
}

#[test]
fn a_founded_network_is_not_given_up() {
    let mut network = Network::found(8, 16);
    assert!(network.adopt([1; 32], open(), 8, 16).is_err());
}

#[test]
fn tags_are_as_documented() {
    let network = Network {
        id: [5; 32],
        ..Network::found(1, 1)
    };
    assert_eq!(hex::encode(network.tag()), "994ab9c1");
}

#[test]
fn the_file_reads_back_and_damage_is_named() {
    let mut network = Network::provisional(1 << 20, 16);
    network
        .adopt([9; 32], Zeroizing::new(vec![0, 255]), 1 << 30, 20)
        .unwrap();
    let json = network.to_json();
    assert_eq!(Network::from_json(json.as_bytes()), Ok(network.clone()));
    let older = json.replacen('{', "{ \"aliases\": [],", 1);
    assert_eq!(Network::from_json(older.as_bytes()), Ok(network));
    for end in 0..json.len() {
        assert!(
            Network::from_json(&json.as_bytes()[..end]).is_err(),
            "cut at {end}"
        );
    }
    for (part, damaged) in [
        ("\"id\": \"09", "\"id\": \"0x"),
        ("\"unit\"", "\"untit\""),
        ("1073741824", "0"),
    ] {
        assert!(json.contains(part));
        assert!(
            Network::from_json(json.replace(part, damaged).as_bytes()).is_err(),
            "{damaged}"
        );
    }
}

#[test]
fn debug_shows_no_secret() {
    let mut network = Network::provisional(1, 16);
    network
        .adopt([9; 32], Zeroizing::new(b"hush".to_vec()), 1, 16)
        .unwrap();
    assert!(!format!("{network:?}").contains(&hex::encode("hush")));
    assert!(!format!("{:?}", invite()).contains("secret"));
}

#[test]
fn golden_invite() {
    let text = "mutualinvite15ch7WA62mcFze772CagfDeZpivzVrQFmLMTiFW9UvLvi9fmQYbp3qNirrduvzn4GLkb\
                rN4kWVnKEMNfaJyQWWW7suaSw9JTEVm4vbLWaFR15RZZDoFAS2Hwxnuxk6wM4H";
    assert_eq!(invite().to_string(), text);
    assert_eq!(text.parse(), Ok(invite()));
    assert_eq!(format!("{text}\n").parse(), Ok(Join::Invite(invite())));
}

#[test]
fn every_truncation_and_every_changed_character_is_refused() {
    let text = invite().to_string();
    for end in 0..text.len() {
        assert!(text[..end].parse::<Invite>().is_err(), "cut at {end}");
    }
    for at in 0..text.len() {
        let other = if &text[at..=at] == "x" { "y" } else { "x" };
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert!(changed.parse::<Invite>().is_err(), "{other} at {at}");
    }
}

#[test]
fn each_reason_is_named() {
    assert_eq!("mutual1abc".parse::<Invite>(), Err(ParseInviteError::NotAnInvite));
    assert_eq!(
        "mutualinvite2abc".parse::<Invite>(),
        Err(ParseInviteError::NewerVersion)
    );
    assert_eq!(
        "mutualinvite1abc".parse::<Invite>(),
        Err(ParseInviteError::Damaged)
    );
    let long = format!("mutualinvite1{}", "z".repeat(1_000_000));
    assert_eq!(long.parse::<Invite>(), Err(ParseInviteError::Damaged));
    let bad = Invite {
        addresses: vec!["/ip4/nowhere/tcp/1".to_owned()],
        ..invite()
    };
    assert!(matches!(
        bad.to_string().parse::<Invite>(),
        Err(ParseInviteError::Address(_))
    ));
    let none = Invite {
        addresses: Vec::new(),
        ..invite()
    };
    assert_eq!(none.to_string().parse::<Invite>(), Err(ParseInviteError::Damaged));
}

#[test]
fn addresses() {
    let peer = Peer::new([7; 32]);
    for good in [
        "/ip4/127.0.0.1/tcp/4001".to_owned(),
        "/ip6/::1/tcp/65535".to_owned(),
        format!("/dns4/peer.example.org/tcp/80/p2p/{peer}"),
    ] {
        assert_eq!(check_peer_address(&good), Ok(()), "{good}");
        assert_eq!(good.parse(), Ok(Join::Address(good.clone())));
    }
    assert_eq!(check_listen_address("/ip4/0.0.0.0/tcp/0"), Ok(()));
    for bad in [
        "",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/256.0.0.1/tcp/1",
        "/ip6/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/+1",
        "/ip4/127.0.0.1/tcp/",
        "/ip4/127.0.0.1/tcp/1/",
        "/ip4/127.0.0.1/tcp/1/p2p/nobody",
        "/ip4/127.0.0.1/tcp/1/quic/x",
        "/dns/a b/tcp/1",
        "/onion/x/tcp/1",
    ] {
        assert!(check_peer_address(bad).is_err(), "{bad}");
        assert!(check_listen_address(bad).is_err(), "{bad}");
    }
    assert!(check_peer_address("/ip4/127.0.0.1/tcp/0").is_err());
    assert!(check_listen_address("/dns/localhost/tcp/1").is_err());
    assert!(check_listen_address(&format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}")).is_err());
}

proptest! {
    #[test]
    fn invites_round_trip(
        network: [u8; 32],
        secret in prop::collection::vec(any::<u8>(), 0..=MAX_SECRET),
        ports in prop::collection::vec(1u16.., 1..=MAX_ADDRESSES),
    ) {
        let addresses = ports.iter().map(|port| format!("/ip4/192.0.2.1/tcp/{port}")).collect();
        let invite = Invite { network, secret: Zeroizing::new(secret), addresses };
        prop_assert_eq!(invite.to_string().parse(), Ok(invite));
    }

    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let checksum = short_hash(INVITE_CHECKSUM, &body);
        let text = format!("mutualinvite1{}", bs58::encode([body, checksum.to_vec()].concat()).into_string());
        if let Ok(invite) = text.parse::<Invite>() {
            prop_assert_eq!(invite.to_string(), text);
        }
    }
}
