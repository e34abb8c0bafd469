//! A member that lies: forged trims, false claims, stolen pending shards.

use crate::common::{say, turn};

/// Runs `testnet adversary liar` and answers its report.
fn lie(flags: &[&str]) -> serde_json::Value {
    let _turn = turn();
    let said = say(["testnet", "adversary", "liar", "--json"].iter().chain(flags));
    let report = said.json();
    assert_eq!(said.code, 0, "{report:#}");
    report
}

/// The same with 8 members and 30 files, of which none may be lost or come back wrong.
fn lie_harmlessly(flags: &[&str]) -> serde_json::Value {
    let usual = ["--peers", "8", "--files", "30", "--seconds", "15"];
    let report = lie(&[&usual, flags].concat());
    assert_eq!(
        (&report["files"], &report["files_lost"], &report["wrong_bytes"]),
        (&30.into(), &0.into(), &0.into()),
        "{report:#}"
    );
    report
}

#[test]
fn files_with_a_liar_and_a_dead_member_come_back_whole() {
    let report = lie_harmlessly(&["--kill", "1", "--largest", "false"]);
    assert_eq!(report["role"], "liar");
}

#[test]
fn files_with_a_liar_of_the_largest_capacity_come_back_whole() {
    let report = lie_harmlessly(&["--largest", "true"]);
    assert_eq!(report["capacity_ratio"], 4);
}

#[test]
fn too_few_members_for_the_code_are_refused_in_one_line() {
    say(["testnet", "adversary", "liar", "--peers", "6"]).fails(2);
    say(["testnet", "adversary", "liar", "--kill", "2"]).fails(2);
    say(["testnet", "adversary", "saint"]).fails(2);
}
