//! Nothing acknowledged is lost, while everything breaks.

use crate::common::say;

const KILLS: u64 = 60;

#[test]
fn nothing_acknowledged_is_lost() {
    let said = say([
        "testnet",
        "chaos",
        "--minutes",
        "3",
        "--kills",
        "60",
        "--peers",
        "12",
        "--seed",
        "4",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{}\n{}", said.text(), said.stderr);
    let report = said.json();
    let faults = report["faults"].as_object().unwrap();
    let disks = report["disks"].as_bool().unwrap();
    assert_eq!(faults.len(), if disks { 13 } else { 12 }, "{faults:?}");
    for (fault, toll) in faults {
        let (injected, survived) = (toll["injected"].as_u64(), toll["survived"].as_u64());
        assert!(injected > Some(0), "{fault}");
        assert_eq!(injected, survived, "{fault}");
    }
    let kills: u64 = faults.values().map(|toll| toll["kills"].as_u64().unwrap()).sum();
    assert!(kills >= KILLS, "{kills}");
    for operation in ["puts", "gets", "deletes", "checks", "named_writes", "named_reads"] {
        assert!(
            report["operations"][operation]["done"].as_u64() > Some(0),
            "{operation}"
        );
    }
    assert!(report["passed"]["flipped_bits"].as_u64() > Some(0));
    assert!(report["passed"]["cut_connections"].as_u64() > Some(0));
}

#[test]
fn what_cannot_be_run_is_refused() {
    say(["testnet", "chaos", "--peers", "5"]).fails(2);
    say(["testnet", "chaos", "--minutes", "0"]).fails(2);
    say(["testnet", "chaos", "--minutes", "nan"]).fails(2);
}
