use super::*;

fn interface(index: u32, ip: &str, prefix: u8) -> Interface {
    Interface {
        ip: ip.parse().unwrap(),
        prefix,
        index,
        runs: true,
    }
}

fn loopback() -> Vec<Interface> {
    vec![interface(1, "127.0.0.1", 8), interface(1, "::1", 128)]
}

fn listeners(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn place(list: &[&str], others: Vec<Interface>) -> Place {
    let mut interfaces = loopback();
    interfaces.extend(others);
    Place::new(&listeners(list), &[], &[], interfaces)
}

fn texts(addresses: &[Multiaddr]) -> Vec<String> {
    addresses.iter().map(Multiaddr::to_string).collect()
}

fn addresses(list: &[&str]) -> Vec<Multiaddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn peer_with_a_wide_address_publishes_neither_loopback_nor_link_local_ones() {
    let others = vec![
        interface(2, "10.9.0.3", 16),
        interface(2, "fe80::1", 64),
        interface(3, "169.254.7.7", 16),
        interface(4, "fd00::3", 64),
    ];
    let place = place(&["0.0.0.0:4001", "[::]:4001"], others);
    assert_eq!(
        texts(&place.published),
        ["/ip4/10.9.0.3/tcp/4001", "/ip6/fd00::3/tcp/4001"]
    );
    assert!(!place.is_on_loopback());
    assert_eq!(
        texts(&place.listening),
        [
            "/ip4/10.9.0.3/tcp/4001",
            "/ip6/fd00::3/tcp/4001",
            "/ip4/169.254.7.7/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip6/::1/tcp/4001",
        ]
    );
}

#[test]
fn peer_on_loopback_only_publishes_it() {
    let place = place(&["127.0.0.1:4001"], vec![interface(2, "10.9.0.3", 16)]);
    assert_eq!(texts(&place.published), ["/ip4/127.0.0.1/tcp/4001"]);
    assert!(place.is_on_loopback());
}

#[test]
fn machine_without_a_network_publishes_loopback_until_it_has_one() {
    let alone = place(&["0.0.0.0:4001"], Vec::new());
    assert_eq!(texts(&alone.published), ["/ip4/127.0.0.1/tcp/4001"]);
    let linked = place(&["0.0.0.0:4001"], vec![interface(2, "169.254.7.7", 16)]);
    assert_eq!(texts(&linked.published), ["/ip4/169.254.7.7/tcp/4001"]);
}

#[test]
fn peer_that_lost_its_network_publishes_what_it_did_before_until_it_has_another() {
    let listeners = listeners(&["0.0.0.0:4001"]);
    let before = addresses(&["/ip4/10.9.0.3/tcp/4001"]);
    let away = Place::new(&listeners, &[], &before, loopback());
    assert_eq!(away.published, before);
    let mut interfaces = loopback();
    interfaces.push(interface(2, "10.9.0.44", 16));
    let back = Place::new(&listeners, &[], &away.published, interfaces);
    assert_eq!(texts(&back.published), ["/ip4/10.9.0.44/tcp/4001"]);
    let local = Place::new(&listeners, &[], &[], loopback());
    assert_eq!(texts(&local.published), ["/ip4/127.0.0.1/tcp/4001"]);
}

#[test]
fn address_of_an_interface_that_is_down_is_not_published() {
    let down = Interface {
        runs: false,
        ..interface(2, "10.9.0.3", 16)
    };
    let up = interface(3, "10.8.0.3", 16);
    let place = place(&["0.0.0.0:1", "10.9.0.3:2", "10.8.0.3:3"], vec![down, up]);
    assert_eq!(
        texts(&place.published),
        ["/ip4/10.8.0.3/tcp/1", "/ip4/10.8.0.3/tcp/3"]
    );
}

#[test]
fn announced_addresses_are_published_as_given() {
    let announced = addresses(&["/dns4/example.org/tcp/9"]);
    let interfaces = vec![interface(2, "10.9.0.3", 16)];
    let place = Place::new(&listeners(&["0.0.0.0:1"]), &announced, &[], interfaces);
    assert_eq!(place.published, announced);
    assert_eq!(texts(&place.listening), ["/ip4/10.9.0.3/tcp/1"]);
}

#[test]
fn contact_of_a_machine_with_many_addresses_stays_within_its_limit() {
    let mut others: Vec<Interface> = (2..20)
        .map(|n| interface(n, &format!("10.{n}.0.1"), 16))
        .collect();
    others.push(interface(30, "fd00::3", 64));
    others.push(interface(31, "203.0.113.9", 24));
    let place = place(&["0.0.0.0:1", "[::]:1"], others);
    let published = texts(&place.published);
    assert_eq!(published.len(), MAX_ADDRESSES);
    assert_eq!(published[0], "/ip4/203.0.113.9/tcp/1");
    assert_eq!(published[1], "/ip6/fd00::3/tcp/1");
}

#[test]
fn loopback_is_dialled_only_from_loopback_and_links_only_from_the_link() {
    let wide = place(&["0.0.0.0:1"], vec![interface(2, "10.9.0.3", 16)]);
    let linked = place(&["0.0.0.0:1"], vec![interface(2, "169.254.7.7", 16)]);
    let dials = |place: &Place, text: &str, on_loopback| place.may_dial(&text.parse().unwrap(), on_loopback);
    for local in [
        "/ip4/127.0.0.1/tcp/9",
        "/ip4/127.8.8.8/tcp/9",
        "/ip6/::1/tcp/9",
        "/ip6/::ffff:127.0.0.1/tcp/9",
    ] {
        assert!(!dials(&wide, local, false), "{local}");
        assert!(dials(&wide, local, true), "{local}");
    }
    assert!(!dials(&wide, "/ip4/169.254.1.1/tcp/9", true));
    assert!(dials(&linked, "/ip4/169.254.1.1/tcp/9", false));
    for useless in ["/ip6/fe80::1/tcp/9", "/ip4/0.0.0.0/tcp/9", "/ip6/::/tcp/9"] {
        assert!(!dials(&linked, useless, true), "{useless}");
    }
    for wide_one in [
        "/ip4/10.1.1.1/tcp/9",
        "/ip6/fd00::9/tcp/9",
        "/dns/a.example/tcp/9",
    ] {
        assert!(dials(&linked, wide_one, false), "{wide_one}");
    }
}

#[test]
fn best_known_address_is_tried_first_then_neighbours_in_turns_of_family() {
    let place = place(&["0.0.0.0:1"], vec![interface(2, "10.9.0.3", 16)]);
    let theirs = addresses(&[
        "/ip4/198.51.100.7/tcp/9",
        "/ip4/10.8.0.7/tcp/9",
        "/ip6/fd00::7/tcp/9",
        "/ip4/10.9.0.7/tcp/9",
    ]);
    assert_eq!(
        texts(&place.order(theirs.clone(), None)),
        [
            "/ip4/10.9.0.7/tcp/9",
            "/ip6/fd00::7/tcp/9",
            "/ip4/198.51.100.7/tcp/9",
            "/ip4/10.8.0.7/tcp/9",
        ]
    );
    let best = "/ip4/10.8.0.7/tcp/9".parse().unwrap();
    assert_eq!(place.order(theirs, Some(&best))[0], best);
}

#[test]
fn this_machine_and_this_peer_are_recognized() {
    let place = place(&["0.0.0.0:4001"], vec![interface(2, "10.9.0.3", 16)]);
    for here in ["127.0.0.1", "127.1.2.3", "::1", "10.9.0.3", "::ffff:10.9.0.3"] {
        assert!(place.is_here(here.parse().unwrap()), "{here}");
    }
    assert!(!place.is_here("10.9.0.4".parse().unwrap()));
    assert!(place.is_own(&"/ip4/10.9.0.3/tcp/4001".parse().unwrap()));
    assert!(!place.is_own(&"/ip4/10.9.0.3/tcp/4002".parse().unwrap()));
}

#[test]
fn named_addresses_are_published_where_the_system_lists_no_interfaces() {
    let listeners = listeners(&["10.9.0.3:1", "[::]:2"]);
    let place = Place::new(&listeners, &[], &[], assumed(&listeners));
    assert_eq!(texts(&place.published), ["/ip4/10.9.0.3/tcp/1"]);
}
