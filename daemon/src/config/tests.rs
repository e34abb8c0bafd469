use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::{env, fs};

use super::*;

/// The keys of a file with this text.
fn keys(text: &str) -> SettingsLayer {
    toml::from_str(text).unwrap()
}

fn capacity() -> SettingsLayer {
    keys("capacity = '1GiB'")
}

fn load(directory: &Path, flags: Flags, environment: SettingsLayer) -> Result<Config, ConfigError> {
    let (config, given) = Config::merge(directory, flags, environment)?;
    keep(&given, directory)?;
    Ok(config)
}

/// Starts with these keys as flags.
fn start(directory: &Path, settings: SettingsLayer) -> Result<Config, ConfigError> {
    let flags = Flags {
        settings,
        ..Flags::default()
    };
    load(directory, flags, SettingsLayer::default())
}

fn start_again(directory: &Path) -> Result<Config, ConfigError> {
    start(directory, SettingsLayer::default())
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_first_start_needs_a_capacity_and_later_ones_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    assert!(message(start_again(directory.path())).contains("--capacity"));
    assert!(!directory.path().join(FILE).exists());
    let first = start(directory.path(), capacity()).unwrap();
    assert_eq!(first, Config::of("capacity = '1GiB'"));
    assert_eq!(start_again(directory.path()).unwrap(), first);
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
    let flags = Flags {
        settings: keys("pending_lease = '4s'"),
        config: Some(extra),
        exit_on_stdin_close: true,
        ..Flags::default()
    };
    let environment = keys("write_timeout = '3s'\npending_lease = '3s'");
    let config = load(directory.path(), flags, environment).unwrap();
    let expected = Config::of(
        "capacity = '1GiB'\ncache = 5\nrepair_delay = '2m'\nwrite_timeout = '3s'\npending_lease = '4s'",
    );
    assert_eq!(start_again(directory.path()).unwrap(), expected);
    assert_eq!(
        config,
        Config {
            exit_on_stdin_close: true,
            ..expected
        }
    );
}

/// What a process with these variables alone reads from them, as a file or as what is wrong.
fn from_variables<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let child = [
        "--exact",
        "config::tests::child_shows_its_variables",
        "--ignored",
        "--nocapture",
    ];
    let output = Command::new(env::current_exe().unwrap())
        .args(child)
        .env_clear()
        .envs(variables)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (_, said) = said.split_once("<<").expect("the test ran");
    said.split_once(">>").unwrap().0.to_owned()
}

#[test]
#[ignore = "`from_variables` runs it in a process of its own, which has variables of its own"]
fn child_shows_its_variables() {
    let layer = SettingsLayer::from_env().map_err(ConfigError::from);
    let shown = layer.map_or_else(
        |error| error.to_string(),
        |layer| toml::to_string(&layer).unwrap(),
    );
    println!("<<{shown}>>");
}

/// One line for each key; a new key gets one here.
const EVERY_KEY: &str = r#"capacity = "2GiB"
listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/5"]
announce = ["/ip4/192.0.2.1/tcp/4001"]
api = "192.0.2.1:8080"
join = ["/ip4/192.0.2.1/tcp/4001"]
network = "abababababababababababababababababababababababababababababababab"
unit = "64MiB"
successors = 20
repair = "off"
repair_delay = "1h 30m"
repair_rate = "10MiB/s"
pending_lease = "7m"
write_timeout = "1s 500ms"
tombstone_retention = "20days"
purge_grace = "2days"
link_rate = "100Mbit"
stabilize = "250ms"
cache = "1MiB"
read_ahead = "128MiB"
api_insecure = "on"
placement = "buddies:12"
log = "debug"
"#;

#[test]
fn every_key_reads_back_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let first = start(directory.path(), keys(EVERY_KEY)).unwrap();
    assert_eq!(start_again(directory.path()).unwrap(), first);
    let file = fs::read_to_string(directory.path().join(FILE)).unwrap();
    assert!(file.ends_with(EVERY_KEY), "{file}");
    let keys: Vec<_> = Settings::META.fields.iter().map(|field| field.name).collect();
    let lines = EVERY_KEY.lines().map(|line| line.split(' ').next().unwrap());
    assert_eq!(lines.collect::<Vec<_>>(), keys);
}

#[test]
fn every_key_is_read_from_its_variable() {
    let lists = |value: &str| value.trim_matches(['[', ']']).replace('"', "");
    let variables = EVERY_KEY.lines().map(|line| {
        let (key, value) = line.split_once(" = ").unwrap();
        let key = if key == "api" { "daemon_api" } else { key };
        (format!("MUTUALSTORE_{}", key.to_uppercase()), lists(value))
    });
    let variables: Vec<_> = variables.collect();
    let given = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let others = [
        ("MUTUALSTORE_API", "http://127.0.0.1:1"),
        ("MUTUALSTORE_TOKEN", "for clients"),
    ];
    assert_eq!(from_variables(given.chain(others)), EVERY_KEY);
    let empty = variables.iter().map(|(name, _)| (name.as_str(), ""));
    assert_eq!(from_variables(empty), "");
}

#[test]
fn bad_variables_are_named_with_what_is_wrong() {
    for (variable, value, mention) in [
        ("CAPACITY", "much", "not a number with a unit"),
        ("SUCCESSORS", "x", "invalid digit"),
        ("REPAIR", "maybe", "on nor off"),
        ("REPAIR_DELAY", "soon", "not a duration"),
        ("PLACEMENT", "buddies:0", "G from 1 to 127"),
        ("NETWORK", "abc", "'abc' is not an id of 64 hex digits"),
        ("DAEMON_API", "http://127.0.0.1:1", "invalid socket address"),
    ] {
        let variable = format!("MUTUALSTORE_{variable}");
        let text = from_variables([(variable.as_str(), value)]);
        assert!(text.contains(&format!("`{variable}`")), "{text}");
        assert!(text.contains(mention), "{variable}={value}: {text}");
    }
}

#[test]
fn values_out_of_bounds_are_named_and_nothing_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (line, mention) in [
        ("capacity = 0", "at least 16MiB"),
        ("capacity = '15MiB'", "at least 16MiB"),
        ("unit = 0", "unit is 0"),
        ("successors = 4", "5 to 64"),
        ("repair_delay = '0s'", "repair_delay is 0s; at least 100ms"),
        ("repair_rate = '1'", "repair_rate"),
        ("link_rate = '1bit'", "link_rate"),
        ("link_rate = '124999B/s'", "at least 1Mbit"),
        ("pending_lease = '1ms'", "pending_lease"),
        ("write_timeout = '1ms'", "write_timeout"),
        ("tombstone_retention = '1ms'", "tombstone_retention"),
        ("stabilize = '1ms'", "at least 50ms"),
        ("stabilize = '2h'", "at most 1h"),
        ("read_ahead = '1MiB'", "at least 8MiB"),
        ("api = '0.0.0.0:0'", "--api-insecure"),
        ("api = '[::]:80'", "--api-insecure"),
        ("log = 'loud'", "'loud' is no level"),
        ("listen = []", "listen"),
        ("listen = ['127.0.0.1:80']", "listen"),
        ("announce = ['/ip4/1.2.3.4/tcp/0']", "announce"),
        ("join = ['nobody']", "join"),
        ("join = ['mutualinvite1xyz']", "truncated or mistyped"),
    ] {
        let text = message(start(directory.path(), keys(line).with_fallback(capacity())));
        assert!(text.contains(mention), "{line}: {text}");
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
        "repair_delay = 5",
        "placement = 'nearby'",
        "network = 'abc'",
        "[a]\nb = 1",
    ] {
        fs::write(&path, bad).unwrap();
        let text = message(start(directory.path(), capacity()));
        assert!(text.contains("config.toml"), "{text}");
    }
    fs::write(&path, "capacity = 1073741824\nrepair = false\n").unwrap();
    let settings = start_again(directory.path()).unwrap().settings;
    assert_eq!(settings.repair, Switch::Off, "plain TOML types do as well");
    let missing = Flags {
        config: Some("/nowhere/x.toml".into()),
        ..Flags::default()
    };
    let missing = load(directory.path(), missing, SettingsLayer::default());
    assert!(message(missing).contains("no configuration file"));
}

#[test]
fn an_unchanged_file_keeps_its_comments() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let text = "# mine\ncapacity = \"1GiB\"\n";
    fs::write(&path, text).unwrap();
    start(directory.path(), capacity()).unwrap();
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
    let given = SettingsLayer {
        listen: Some(listen.to_vec()),
        ..capacity()
    };
    let mut config = start(directory.path(), given).unwrap();
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
    assert_eq!(config.settings.listen, expected);
    let again = start_again(directory.path()).unwrap();
    assert_eq!(again.settings.listen, expected);
}

#[test]
fn the_unit_of_a_new_network_follows_its_founder() {
    let unit = |text| Config::of(text).settings.founding_unit();
    assert_eq!(unit("capacity = '800MiB'"), 100 << 20);
    assert_eq!(unit("unit = '7MiB'"), 7 << 20);
}

#[test]
fn a_slow_link_has_fewer_stripes_on_their_way() {
    let stripe = 6 << 20;
    for (text, stripes) in [
        ("", 3),
        ("link_rate = '100Mbit'", 3),
        ("link_rate = '4Mbit'", 2),
        ("link_rate = '1Mbit'", 1),
    ] {
        let settings = Config::of(text).settings;
        assert_eq!(settings.stripes_ahead(stripe, 3), stripes, "{text}");
    }
    let time = |text, bytes| Config::of(text).settings.link_time(bytes);
    assert_eq!(time("", stripe), Duration::ZERO);
    assert_eq!(time("link_rate = '1Mbit'", 250_000), Duration::from_secs(2));
}
