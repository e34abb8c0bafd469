//! The simulator on itself: every scenario in the tree holds, random ones hold, chances come from the seed
//! alone.

use std::fs;
use std::path::Path;

use mutualstore_dht::Flaw;

use super::fuzz;
use super::injector::run;
use super::scenario::Scenario;

/// The scenarios in the tree, by name, in order.
fn scenarios() -> Vec<(String, Scenario)> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")).unwrap();
    let read = files.map(|file| {
        let path = file.unwrap().path();
        let scenario = Scenario::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_name().unwrap().to_string_lossy().into_owned(), scenario)
    });
    let mut all: Vec<(String, Scenario)> = read.collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

#[test]
fn scenarios_of_the_tree_hold() {
    let all = scenarios();
    assert!(all.len() >= 10);
    for (name, scenario) in all {
        let outcome = run(&scenario, scenario.seed.unwrap_or(1), None);
        assert!(outcome.violation.is_none(), "{name}: {:?}", outcome.violation);
        let acknowledged = outcome.acknowledged + outcome.recorded;
        assert!(scenario.custody.is_none() || acknowledged > 0, "{name}");
    }
}

/// Runs scenarios, of which none may break.
fn hold(seeds: u64, of: (fn(u64, usize) -> Scenario, usize)) -> fuzz::Batch {
    let batch = fuzz::batch((1, seeds), of, None, &|_| false);
    let broken: Vec<_> = batch
        .failures
        .iter()
        .map(|(seed, outcome)| (seed, &outcome.violation))
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
    batch
}

#[test]
fn random_scenarios_hold() {
    let batch = hold(2000, (fuzz::draw, 20));
    assert!(batch.acknowledged > 2000 && batch.recorded > 2000);
}

#[test]
fn random_records_hold() {
    let batch = hold(500, (fuzz::draw_records, 14));
    assert!(batch.recorded > 5000);
}

#[test]
fn runs_of_one_seed_are_equal() {
    let trace = |seed| run(&fuzz::draw(seed, 16), seed, None).trace;
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
    let scenario = fuzz::draw(5, 16);
    assert_ne!(run(&scenario, 1, None).trace, run(&scenario, 2, None).trace);
    assert_eq!(Scenario::parse(&scenario.to_toml()).unwrap(), scenario);
}

#[test]
fn broken_scenario_is_refused_in_one_line() {
    let good = "title = \"t\"\nsource = \"s\"\npeers = 3\n";
    assert!(Scenario::parse(good).is_ok());
    let step = |step: &str| format!("{good}[[step]]\nat = 1.0\n{step}\n");
    let bad = [
        String::new(),
        "peers = 3".to_owned(),
        good.replace('3', "0"),
        good.replace('3', "1000000"),
        good.replace('3', "-1"),
        format!("{good}virtual_nodes = [4, 2]\n"),
        format!("{good}r = 2\n"),
        format!("{good}settle_s = nan\n"),
        format!("{good}pears = 3\n"),
        format!("{good}[network]\nloss = 1.5\n"),
        format!("{good}[custody]\nk = 9\nn = 6\n"),
        format!("{good}[custody]\nplacement = \"nearby\"\n"),
        format!("{good}[custody]\ngroup = 8\n"),
        format!("{good}[custody]\nplacement = \"buddies\"\ngroup = 5\n"),
        format!("{good}[custody]\nplacement = \"copysets\"\nstripes_per_anchor = 0\n"),
        format!("{good}[custody]\nplacement = \"random\"\nstripes_per_anchor = 4\n"),
        good.replace('3', "40\nmax_learned = 20\n[custody]\nplacement = \"copysets\""),
        step("do = \"read\"\ncount = 1"),
        step("do = \"drain\"\nwho = 0"),
        step("do = \"explode\""),
        step("do = \"kill\""),
        step("do = \"kill\"\nwho = 1.5"),
        step("do = \"kill\"\nwho = 0"),
        step("do = \"kill\"\nwho = []"),
        step("do = \"kill\"\nwho = [0, 77777]"),
        step("do = \"network\"\ndelay_ms = [9.0, 1.0]"),
        step("do = \"network\"\nlos = 0.1"),
        step("do = \"kill\"\nwho = 1\nwhom = 2"),
        step("do = \"join\"\ncount = 0"),
        step("do = \"kill\"\nwho = 1\nevery = 1.0"),
    ];
    for text in bad {
        let problem = Scenario::parse(&text).unwrap_err().to_string();
        assert!(
            !problem.is_empty() && !problem.contains('\n'),
            "{text}: {problem}"
        );
    }
}

#[test]
fn step_of_delays_lasts_until_the_peace() {
    let text = |delay: &str| {
        format!(
            "title = \"slow\"\nsource = \"here\"\npeers = 6\n[[step]]\nat = 5.0\ndo = \"network\"\n{delay}\n\
             [[step]]\nat = 60.0\ndo = \"heal\"\n"
        )
    };
    let ended = |delay| run(&Scenario::parse(&text(delay)).unwrap(), 1, None);
    let (quick, slow) = (ended(""), ended("delay_ms = [300.0, 600.0]"));
    assert!(slow.violation.is_none(), "{:?}", slow.violation);
    assert_ne!(quick.trace, slow.trace);
}

/// The first of these random scenarios that meets a flaw, and what it broke.
fn caught_at_random(flaw: Flaw, seeds: (u64, u64)) -> Option<String> {
    let batch = fuzz::batch(seeds, (fuzz::draw, 20), Some(flaw), &|batch| {
        !batch.failures.is_empty()
    });
    let (seed, outcome) = batch.failures.first()?;
    assert!(!outcome.recent.is_empty(), "nothing to read");
    let invariant = outcome.violation.as_ref()?.invariant;
    Some(format!("seed {seed}, {} runs: {invariant}", batch.seeds))
}

/// The first scenario of the tree that meets a flaw.
fn caught_by_a_scenario(flaw: Flaw) -> Option<String> {
    let custody = |(_, scenario): &(_, Scenario)| scenario.custody.is_some();
    for (name, scenario) in scenarios().into_iter().filter(custody) {
        for seed in 1..=8 {
            if let Some(violation) = run(&scenario, seed, Some(flaw)).violation {
                return Some(format!("{name}, seed {seed}: {}", violation.invariant));
            }
        }
    }
    None
}

/// Where flaws were met that a search takes long to meet: a scenario, of the tree or random, and a seed.
/// Only time is lost if one is not met there any more.
const MET_BEFORE: [(Flaw, &str, u64); 9] = [
    (Flaw::JoinWithPart, "random", 174),
    (Flaw::NoCommitSpread, "random", 92),
    (Flaw::ExpireWithoutAsking, "random", 127),
    (Flaw::DeleteUnkept, "random", 121),
    (Flaw::OvertakeOwn, "clones_cut_off.toml", 1),
    (Flaw::NoRedirect, "random_restarts.toml", 4),
    (Flaw::CountTwice, "loss_under_a_liar.toml", 1),
    (Flaw::DoubtForEver, "loss_under_a_liar.toml", 1),
    (Flaw::BelievePrimaries, "loss_under_a_liar.toml", 1),
];

fn caught_where_it_was_before(flaw: Flaw) -> Option<String> {
    let (_, name, seed) = MET_BEFORE.into_iter().find(|(met, ..)| *met == flaw)?;
    let of_the_tree = scenarios().into_iter().find(|(file, _)| file == name);
    let scenario = of_the_tree.map_or_else(|| fuzz::draw(seed, 20), |(_, scenario)| scenario);
    let violation = run(&scenario, seed, Some(flaw)).violation?;
    Some(format!("{name}, seed {seed}: {}", violation.invariant))
}

/// What few random scenarios meet, one of those in the tree may be about, which costs less than many more.
#[test]
fn planted_flaws_are_all_caught() {
    let mut missed = Vec::new();
    for (name, flaw) in Flaw::ALL {
        let caught = caught_where_it_was_before(flaw)
            .or_else(|| caught_at_random(flaw, (1, 130)))
            .or_else(|| caught_by_a_scenario(flaw))
            .or_else(|| caught_at_random(flaw, (131, 270)));
        match caught {
            Some(how) => println!("{name}: {how}"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}
