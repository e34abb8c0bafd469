use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn capacity() -> Overrides {
    Overrides {
        capacity: Some(Size(1 << 30)),
        ..Overrides::default()
    }
}

fn load(directory: &Path, flags: Overrides, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let (config, given) = Config::load_from(directory, flags, variables)?;
    given.keep(directory)?;
    Ok(config)
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_first_start_needs_a_capacity_and_later_ones_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    assert!(message(load(directory.path(), Overrides::default(), &[])).contains("--capacity"));
    assert!(!directory.path().join(FILE).exists());
    let first = load(directory.path(), capacity(), &[]).unwrap();
    assert_eq!(
        first,
        Config {
            capacity: 1 << 30,
            ..Config::default()
        }
    );
    assert_eq!(load(directory.path(), Overrides::default(), &[]).unwrap(), first);
    let mode = fs::metadata(directory.path().join(FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn later_layers_win_and_what_was_given_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let extra = directory.path().join("extra.toml");
    fs::write(
        &extra,
        "repair_delay = \"2m\"\nwrite_timeout = \"2s\"\npending_lease = \"2s\"\n",
    )
    .unwrap();
    fs::write(
        directory.path().join(FILE),
        "capacity = \"1GiB\"\nrepair_delay = \"1m\"\nwrite_timeout = \"1s\"\npending_lease = \"1s\"\ncache = \
         5\n",
    )
    .unwrap();
    let flags = Overrides {
        file: Some(extra),
        pending_lease: Some(Duration::from_secs(4)),
        exit_on_stdin_close: true,
        ..Overrides::default()
    };
    let variables = [
        ("MUTUALSTORE_WRITE_TIMEOUT", "3s"),
        ("MUTUALSTORE_PENDING_LEASE", "3s"),
    ];
    let config = load(directory.path(), flags, &variables).unwrap();
    let expected = Config {
        capacity: 1 << 30,
        cache: 5,
        repair_delay: Duration::from_mins(2),
        write_timeout: Duration::from_secs(3),
        pending_lease: Duration::from_secs(4),
        exit_on_stdin_close: true,
        ..Config::default()
    };
    assert_eq!(config, expected);
    let again = load(directory.path(), Overrides::default(), &[]).unwrap();
    assert_eq!(
        again,
        Config {
            exit_on_stdin_close: false,
            ..expected
        }
    );
}

#[test]
fn every_key_reads_back_from_the_file_and_from_the_environment() {
    let peer = "/ip4/192.0.2.1/tcp/4001";
    let variables = [
        ("MUTUALSTORE_CAPACITY", "2GiB"),
        ("MUTUALSTORE_LISTEN", "/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/5"),
        ("MUTUALSTORE_ANNOUNCE", peer),
        ("MUTUALSTORE_DAEMON_API", "192.0.2.1:8080"),
        ("MUTUALSTORE_JOIN", peer),
        ("MUTUALSTORE_NETWORK", &"ab".repeat(32)),
        ("MUTUALSTORE_UNIT", "64MiB"),
        ("MUTUALSTORE_SUCCESSORS", "20"),
        ("MUTUALSTORE_REPAIR", "off"),
        ("MUTUALSTORE_REPAIR_DELAY", "1h 30m"),
        ("MUTUALSTORE_REPAIR_RATE", "10MiB/s"),
        ("MUTUALSTORE_PENDING_LEASE", "7m"),
        ("MUTUALSTORE_WRITE_TIMEOUT", "1500ms"),
        ("MUTUALSTORE_TOMBSTONE_RETENTION", "60d"),
        ("MUTUALSTORE_LINK_RATE", "100Mbit"),
        ("MUTUALSTORE_STABILIZE", "250ms"),
        ("MUTUALSTORE_CACHE", "1MiB"),
        ("MUTUALSTORE_PLACEMENT", "buddies:12"),
        ("MUTUALSTORE_LOG", "debug"),
        ("MUTUALSTORE_READ_AHEAD", "128MiB"),
        ("MUTUALSTORE_API_INSECURE", "on"),
        ("MUTUALSTORE_API", "http://127.0.0.1:1"),
        ("MUTUALSTORE_TOKEN", "for clients"),
        ("HOME", "/nowhere"),
    ];
    let expected = Config {
        capacity: 2 << 30,
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned(), "/ip6/::1/tcp/5".to_owned()],
        announce: vec![peer.to_owned()],
        api: "192.0.2.1:8080".parse().unwrap(),
        join: vec![Join::Address(peer.to_owned())],
        open: false,
        network: Some([0xAB; 32]),
        unit: Some(64 << 20),
        successors: 20,
        repair: false,
        repair_delay: Duration::from_mins(90),
        repair_rate: Some(10 << 20),
        pending_lease: Duration::from_mins(7),
        write_timeout: Duration::from_millis(1500),
        tombstone_retention: Duration::from_hours(60 * 24),
        link_rate: Some(12_500_000),
        stabilize: Duration::from_millis(250),
        cache: 1 << 20,
        placement: "buddies:12".parse().unwrap(),
        log: "debug".to_owned(),
        read_ahead: 128 << 20,
        api_insecure: true,
        exit_on_stdin_close: false,
    };
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(
        load(directory.path(), Overrides::default(), &variables).unwrap(),
        expected
    );
    assert_eq!(
        load(directory.path(), Overrides::default(), &[]).unwrap(),
        expected
    );
}

#[test]
fn values_out_of_bounds_are_named_and_nothing_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (variable, value, mention) in [
        ("CAPACITY", "0", "at least 16MiB"),
        ("CAPACITY", "15MiB", "at least 16MiB"),
        ("CAPACITY", "much", "MUTUALSTORE_CAPACITY"),
        ("UNIT", "0", "unit is 0"),
        ("SUCCESSORS", "4", "5 to 64"),
        ("SUCCESSORS", "x", "number"),
        ("REPAIR", "maybe", "on nor off"),
        ("REPAIR_DELAY", "0s", "repair_delay"),
        ("REPAIR_DELAY", "soon", "not a duration"),
        ("REPAIR_RATE", "1", "repair_rate"),
        ("LINK_RATE", "1bit", "link_rate"),
        ("LINK_RATE", "124999B/s", "at least 1Mbit"),
        ("PENDING_LEASE", "1ms", "pending_lease"),
        ("WRITE_TIMEOUT", "1ms", "write_timeout"),
        ("TOMBSTONE_RETENTION", "1ms", "tombstone_retention"),
        ("STABILIZE", "1ms", "stabilize"),
        ("READ_AHEAD", "1MiB", "at least 8MiB"),
        ("API_INSECURE", "maybe", "on nor off"),
        ("DAEMON_API", "0.0.0.0:0", "--api-insecure"),
        ("DAEMON_API", "[::]:80", "--api-insecure"),
        ("STABILIZE", "2h", "stabilize"),
        ("PLACEMENT", "nearby", "placement is nearby"),
        ("PLACEMENT", "buddies:0", "G from 1 to 127"),
        ("NETWORK", "abc", "64 hex digits"),
        ("LISTEN", ",", "listen"),
        ("LISTEN", "127.0.0.1:80", "listen"),
        ("ANNOUNCE", "/ip4/1.2.3.4/tcp/0", "announce"),
        ("JOIN", "nobody", "join"),
        ("JOIN", "mutualinvite1xyz", "truncated or mistyped"),
        ("DAEMON_API", "http://127.0.0.1:1", "ADDRESS:PORT"),
    ] {
        let variable = format!("MUTUALSTORE_{variable}");
        let flags = if variable.ends_with("CAPACITY") {
            Overrides::default()
        } else {
            capacity()
        };
        let text = message(load(directory.path(), flags, &[(&variable, value)]));
        assert!(text.contains(mention), "{variable}={value}: {text}");
        assert!(!directory.path().join(FILE).exists());
    }
}

#[test]
fn bad_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    for bad in [
        "capacity = ",
        "colour = 1",
        "capacity = -1",
        "capacity = \"1 apple\"",
        "repair = 1",
        "[a]\nb = 1",
    ] {
        fs::write(&path, bad).unwrap();
        let text = message(load(directory.path(), capacity(), &[]));
        assert!(text.contains("config.toml"), "{text}");
    }
    fs::write(&path, "capacity = 1073741824\nrepair = false\n").unwrap();
    assert!(
        !load(directory.path(), Overrides::default(), &[]).unwrap().repair,
        "plain TOML types do as well"
    );
    let missing = Overrides {
        file: Some("/nowhere/x.toml".into()),
        ..Overrides::default()
    };
    assert!(message(load(directory.path(), missing, &[])).contains("no configuration file"));
}

#[test]
fn an_unchanged_file_keeps_its_comments() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let text = "# mine\ncapacity = \"1GiB\"\n";
    fs::write(&path, text).unwrap();
    load(directory.path(), capacity(), &[]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn free_ports_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let listen = [
        "/ip4/0.0.0.0/tcp/0",
        "/ip6/::1/tcp/0",
        "/ip4/127.0.0.1/tcp/9",
        "/ip4/127.0.0.1/tcp/0",
    ]
    .map(str::to_owned);
    let flags = Overrides {
        listen: Some(listen.to_vec()),
        ..capacity()
    };
    let mut config = load(directory.path(), flags, &[]).unwrap();
    let bound = [
        "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/ip4/192.0.2.1/tcp/7",
        "/ip6/::1/tcp/8",
        "/ip4/127.0.0.1/tcp/7",
        "/ip4/127.0.0.1/tcp/6",
    ];
    config
        .keep_ports(directory.path(), &bound.map(str::to_owned))
        .unwrap();
    let expected = [
        "/ip4/0.0.0.0/tcp/7",
        "/ip6/::1/tcp/8",
        "/ip4/127.0.0.1/tcp/9",
        "/ip4/127.0.0.1/tcp/6",
    ]
    .map(str::to_owned);
    assert_eq!(config.listen, expected);
    assert_eq!(
        load(directory.path(), Overrides::default(), &[]).unwrap().listen,
        expected
    );
}

#[test]
fn the_unit_of_a_new_network_follows_its_founder() {
    let config = Config {
        capacity: 800,
        ..Config::default()
    };
    assert_eq!(config.founding_unit(), 100);
    assert_eq!(
        Config {
            unit: Some(7),
            ..config
        }
        .founding_unit(),
        7
    );
}

#[test]
fn a_slow_link_has_fewer_stripes_on_their_way() {
    let config = |link_rate| Config {
        link_rate,
        ..Config::default()
    };
    let stripe = 6 << 20;
    assert_eq!(config(None).stripes_ahead(stripe, 3), 3);
    assert_eq!(config(None).link_time(stripe), Duration::ZERO);
    assert_eq!(config(Some(12_500_000)).stripes_ahead(stripe, 3), 3);
    assert_eq!(config(Some(4 * MIN_LINK_RATE)).stripes_ahead(stripe, 3), 2);
    assert_eq!(config(Some(MIN_LINK_RATE)).stripes_ahead(stripe, 3), 1);
    assert_eq!(
        config(Some(MIN_LINK_RATE)).link_time(250_000),
        Duration::from_secs(2)
    );
}
