//! Experiments on a few daemons: interrupted, carried on, refused.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Said, eventually, mutualstore, processes_at, say};

const TIMING: &str = "testnet experiment timing --quick --peers 3 --codes copies:1,copies:2 --sizes 1MB,2MB \
                      --clients 1,2 --large 1MB --small-files 3 --shard-sizes 64KiB --shard-file 1MB \
                      --repeat 2 --seed 5";

fn experiment(line: &str, place: &Path) -> Command {
    let mut command = mutualstore();
    command.args(line.split_ascii_whitespace());
    for dir in ["out", "dir"] {
        command.arg(format!("--{dir}")).arg(place.join(dir));
    }
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn an_interrupted_run_is_carried_on() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("dir")).unwrap();
    let journal = place.path().join("out/timing/cells.jsonl");

    let mut command = experiment(TIMING, place.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    // The parameters and three cells.
    eventually("three cells", || (lines(&journal).len() > 3).then_some(()));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("interrupted: what was measured is kept in "),
        "{stderr}"
    );
    assert_eq!(processes_at(&place.path().join("dir")), Vec::<u32>::new());
    assert_eq!(fs::read_dir(place.path().join("dir")).unwrap().count(), 0);

    // As if it had been killed while it wrote.
    let kept = fs::read_to_string(&journal).unwrap();
    let mut file = OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"{\"cell\":{\"code\":\"copies:1\",").unwrap();
    drop(file);
    let mut command = experiment(TIMING, place.path());
    command.arg("--json");
    let found = said(command).ok().json();
    let after = fs::read_to_string(&journal).unwrap();
    assert!(after.starts_with(&kept), "what was measured changed");
    // Per code two sizes, of which one is the large one too, two numbers of clients, small files for both;
    // then one shard size and ranges with and without cache. Twice each.
    let cells = 2 * (2 * (2 + 1 + 2) + 3);
    assert_eq!(after.lines().count(), 1 + cells);
    let timing = &found["experiments"][0];
    assert_eq!(timing["cells"], cells);
    assert_eq!(timing["parameters"]["seed"], 5);
    assert_eq!((&found["quick"], &timing["quick"]), (&true.into(), &true.into()));
    assert_eq!(timing["tables"][0]["rows"].as_array().unwrap().len(), 2 * 5);

    let csv = lines(&place.path().join("out/timing.csv"));
    assert!(csv[0].starts_with("quick,peers,code,"), "{}", csv[0]);
    assert!(
        csv.iter()
            .all(|row| row.split(',').count() == csv[0].split(',').count())
    );
    let readings = after.lines().skip(1).map(|line| {
        let cell: Value = serde_json::from_str(line).unwrap();
        cell["readings"].as_array().unwrap().len()
    });
    assert_eq!(csv.len() - 1, readings.sum::<usize>());

    // All is there: nothing is measured again.
    said(experiment(TIMING, place.path())).ok();
    assert_eq!(fs::read_to_string(&journal).unwrap(), after);
    let other = said(experiment(&TIMING.replace("--seed 5", "--seed 6"), place.path())).fails(2);
    assert!(other.stderr.contains("seed 5, not 6"), "{}", other.stderr);
}

#[test]
fn what_is_served_is_what_is_held() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("dir")).unwrap();
    let line = "testnet experiment load --peers 4 --codes copies:2 --shard-sizes 64KiB --sizes 1MiB \
                --small-files 5 --repeat 1 --quiet";
    said(experiment(line, place.path())).ok();
    let cells = lines(&place.path().join("out/load/cells.jsonl"));
    let mut cases = Vec::new();
    for line in &cells[1..] {
        let cell: Value = serde_json::from_str(line).unwrap();
        let readings = cell["readings"].as_array().unwrap();
        let case = cell["cell"]["case"].as_str().unwrap();
        for op in ["write", "read"] {
            let of_op = || readings.iter().filter(|reading| reading["op"] == op);
            let sum = |field: &str| -> f64 { of_op().map(|reading| reading[field].as_f64().unwrap()).sum() };
            let (requests, expected) = (sum("requests"), sum("expected_requests"));
            assert!((sum("placed_requests") - expected).abs() < 1e-6, "{case} {op}");
            // A shard may be asked for twice where an answer is late.
            assert!(
                requests >= expected - 1e-6,
                "{case} {op}: {requests} of {expected}"
            );
            assert!(
                requests <= 2.0 * expected,
                "{case} {op}: {requests} of {expected}"
            );
            if op == "write" {
                assert!(
                    of_op()
                        .all(|reading| reading["requests"].as_f64() == reading["placed_requests"].as_f64())
                );
            }
        }
        cases.push(case.to_owned());
    }
    assert_eq!(cases, ["equal", "small", "degraded", "weighted", "single"]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let blocked = place.path().join("file");
    fs::write(&blocked, "").unwrap();
    let (out, blocked) = (place.path().join("out"), blocked.to_str().unwrap());
    let out = out.to_str().unwrap();
    for line in [
        "timing --peers 0",
        "timing --peers 5 --codes rs:4+2",
        "timing --codes three",
        "timing --sizes 0",
        "load --clients 2",
        "load --peers 2 --codes copies:3",
        "churn --peers 6 --codes rs:4+2",
        "churn --codes auto",
        "nonsense",
    ] {
        let words = ["testnet", "experiment"].into_iter().chain(line.split(' '));
        say(words.chain(["--out", out])).fails(2);
    }
    assert!(!Path::new(out).exists(), "something was begun");
    let refused = say(["testnet", "experiment", "all", "--quick", "--out", blocked]).fails(2);
    assert!(refused.stderr.contains("cannot use"), "{}", refused.stderr);
    assert_eq!(fs::read(blocked).unwrap(), b"");
}
