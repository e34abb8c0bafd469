use super::membership::refused;
use super::*;

fn status(ring: &str, peers_known: u64, used_bytes: u64, lost: u64) -> Status {
    serde_json::from_value(serde_json::json!({
        "peer": "A", "version": "0", "capacity_bytes": 1000, "used_bytes": used_bytes, "shards": 0,
        "virtual_nodes": 8, "ring": ring, "peers_known": peers_known,
        "files": { "safe": 1, "degraded": 0, "endangered": 0, "lost": lost },
        "repair": { "pending": 0, "regenerated_total": 0, "bytes_total": 0 },
        "process": { "cpu_seconds": 0.0, "rss_bytes": 0 }, "uptime_seconds": 1.0
    }))
    .unwrap()
}

fn states(status: Status) -> Vec<Grade> {
    daemon(Ok(status)).iter().map(|finding| finding.state).collect()
}

#[test]
fn what_is_wrong_has_a_cure() {
    use Grade::{Bad, Ok, Warning};
    assert_eq!(states(status("joined", 12, 0, 0)), [Ok; 7]);
    assert_eq!(
        states(status("alone", 1, 950, 1)),
        [Ok, Warning, Ok, Warning, Warning, Bad, Ok]
    );
    let silent = daemon(Err(ClientError::TimedOut { base: "x".to_owned() }));
    assert!(
        silent
            .iter()
            .chain(&daemon(Result::Ok(status("joining", 1, 950, 1))))
            .all(|finding| { finding.state == Ok || finding.cure.is_some() })
    );
    assert_eq!(silent[0].state, Bad);
}

#[test]
fn a_peer_without_a_network_says_what_it_tries_and_promises_nothing() {
    let mut status = status("joining", 1, 0, 0);
    let address = "/ip4/192.0.2.1/tcp/4001".to_owned();
    status.join.insert(address, "unreachable".to_owned());
    let found = daemon(Ok(status));
    assert!(
        found[1]
            .found
            .ends_with(": /ip4/192.0.2.1/tcp/4001 (unreachable)")
    );
    assert!(found[1].cure.as_ref().unwrap().contains("without --join"));
    assert!(found[3].found.contains("refused without --code"));
}

#[test]
fn who_belongs_to_another_network_is_not_taken_for_the_own_one() {
    let mut status = status("alone", 1, 0, 0);
    assert_eq!(elsewhere(&status).map(|finding| finding.state), None);
    let why = "is of another network than this data directory: give the address of a peer of its own network";
    status
        .join
        .insert("/ip4/192.0.2.1/tcp/4001".to_owned(), why.to_owned());
    let finding = elsewhere(&status).unwrap();
    assert_eq!(finding.state, Grade::Bad);
    assert!(finding.found.starts_with("/ip4/192.0.2.1/tcp/4001, "));
    let known = refused("12D3: wrong network: the peers belong to different networks");
    assert!(!known.found.contains("own network"), "{}", known.found);
    let own = refused("12D3: wrong network secret: the proof of the network's secret failed");
    assert!(own.found.contains("own network") && own.cure.unwrap().contains("secret in network.json"));
}

#[test]
fn an_open_network_is_a_warning() {
    let mut status = status("joined", 12, 0, 0);
    for (open, state) in [
        (None, Grade::Ok),
        (Some(false), Grade::Ok),
        (Some(true), Grade::Warning),
    ] {
        status.open = open;
        assert_eq!(admission(&status).state, state);
    }
}

#[test]
fn directories_and_secrets() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let found = directory(dir.path());
    assert_eq!(
        found.iter().map(|finding| finding.state).collect::<Vec<_>>(),
        [Grade::Ok, Grade::Ok]
    );
    fs::write(dir.path().join("token"), "x").unwrap();
    fs::set_permissions(dir.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(directory(dir.path())[2].state, Grade::Bad);
    assert_eq!(directory(Path::new("/nonexistent"))[0].state, Grade::Bad);
}

#[test]
fn codes_say_how_many_peers_they_need() {
    let needed = ["copies:3", "xor:4", "rs:8+4"].map(shards);
    assert_eq!(needed, [Some(3), Some(5), Some(12)]);
    assert!(
        ["", "rs:4", "xor:a", "copies:1+1"]
            .iter()
            .all(|code| shards(code).is_none())
    );
}

#[test]
fn damaged_shards_are_a_warning() {
    let mut status = status("joined", 12, 0, 0);
    status.scrub.bad_total = 1;
    assert_eq!(damage(&status).state, Grade::Warning);
}

#[test]
fn writes_that_failed_are_reported() {
    let mut status = status("joined", 12, 0, 0);
    assert!(writes(&status).is_none());
    status.write_failures_total = 3;
    assert_eq!(writes(&status).map(|finding| finding.state), Some(Grade::Bad));
}

#[test]
fn few_files_are_reported_before_they_are_used_up() {
    let mut status = status("joined", 12, 0, 0);
    assert!(open_files(&status).is_none());
    for (open, limit, state) in [
        (10, 1 << 20, Grade::Ok),
        (10, 1024, Grade::Warning),
        (60, 64, Grade::Bad),
    ] {
        (status.process.files_open, status.process.files_limit) = (open, Some(limit));
        assert_eq!(open_files(&status).map(|finding| finding.state), Some(state));
    }
}

#[test]
fn a_clock_before_this_program_is_wrong() {
    assert_eq!(clock(UNIX_EPOCH).state, Grade::Bad);
    assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(EARLIEST)).state, Grade::Ok);
}
