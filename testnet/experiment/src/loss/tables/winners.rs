//! Who loses least, and by how much: placements of one code beside each other, and codes under one placement.

use std::cmp::Reverse;

use itertools::Itertools;

use super::{files, is_counted, placement, scheme};
use crate::findings::{Datum, ends, grouped};
use crate::loss::Reading;

/// Values less far apart than this ratio count as the same: two rings differ as much under one placement.
const ALIKE: f64 = 1.05;
/// Schemes named where several are alike.
const NAMED: usize = 3;

/// Something that readings are told apart by.
type Name = fn(&Reading) -> String;

/// One note for each comparison of several that differ.
pub(super) fn notes(readings: &[Reading]) -> Vec<String> {
    let counted = || readings.iter().filter(|reading| is_counted(reading));
    let code: Name = |reading| reading.code.clone();
    let mut notes = Vec::new();
    for (shared, name) in [(code, placement as Name), (placement, code)] {
        for group in grouped(counted(), |reading| {
            (shared(reading), reading.peers, reading.dead)
        }) {
            let [any, lost] = compare(&group.all, name);
            let compared = [("files lost", lost), ("patterns that cost any file", any)].into_iter();
            let mut compared = compared.filter_map(|(what, compared)| Some(format!("{what}: {}", compared?)));
            let compared = compared.join("; ");
            if !compared.is_empty() {
                let (dead, peers) = (group.dead, group.peers);
                notes.push(format!("{}, {dead} of {peers} dead: {compared}.", shared(&group)));
            }
        }
    }
    notes
}

/// What loses least in the largest network, when as few peers die as cost a file under some scheme.
pub(super) fn advice(readings: &[Reading]) -> Vec<String> {
    let counted = || readings.iter().filter(|reading| is_counted(reading));
    let lossy = counted().filter(|reading| reading.any_lost > Some(0.0));
    let hardest = lossy.max_by_key(|reading| (reading.peers, Reverse(reading.dead)));
    let Some(Reading { peers, dead, .. }) = hardest else {
        return Vec::new();
    };
    let same = counted().filter(|reading| (reading.peers, reading.dead) == (*peers, *dead));
    let aims = [
        "to lose any file as seldom as possible",
        "to lose as few files as possible",
    ];
    let advice = |(aim, compared): (&str, Option<String>)| {
        let best = compared?;
        Some(format!(
            "{aim} when {dead} of {peers} peers die at once, take what does best: {best}."
        ))
    };
    let compared = compare(&same.collect::<Vec<_>>(), scheme);
    aims.into_iter().zip(compared).filter_map(advice).collect()
}

/// The parts of the patterns that cost any file, and of the files lost.
fn compare(readings: &[&Reading], name: Name) -> [Option<String>; 2] {
    let parts: [fn(&Reading) -> Option<f64>; 2] = [
        |reading| reading.any_lost,
        |reading| Some(reading.files_lost? / files(reading)),
    ];
    parts.map(|part| extremes(readings, name, part))
}

/// The least and the greatest part, and with what; none where there is nothing to tell apart.
fn extremes(readings: &[&Reading], name: Name, part: fn(&Reading) -> Option<f64>) -> Option<String> {
    let parts = readings
        .iter()
        .filter_map(|reading| Some((part(reading)?, name(reading))));
    let (parts, names): (Vec<f64>, Vec<String>) = parts.unzip();
    let (least, most) = ends(&parts)?;
    if most <= least * ALIKE {
        return None;
    }
    let like = |like: &dyn Fn(f64) -> bool| {
        let same = parts.iter().zip(&names).filter(|(part, _)| like(**part));
        all_of(&same.map(|(_, name)| name.as_str()).collect::<Vec<_>>())
    };
    let times = (least > 0.0).then(|| format!(", {} times as many", Datum::from(most / least)));
    let times = times.unwrap_or_default();
    Some(format!(
        "fewest, {} %, with {}, most, {} %, with {}{times}",
        Datum::from(100.0 * least),
        like(&|part| part <= least * ALIKE),
        Datum::from(100.0 * most),
        like(&|part| part * ALIKE >= most),
    ))
}

fn all_of(schemes: &[&str]) -> String {
    let named = schemes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match schemes.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(code: &str, placement: &str, files_lost: f64, any_lost: f64) -> Reading {
        serde_json::from_value(serde_json::json!({
            "peers": 36, "code": code, "placement": placement, "files": 100, "fragments": 4,
            "method": "all", "dead": 3, "patterns": 7140, "victims": "", "copysets": 1,
            "file_sets": 1, "seconds": 0.0,
            "files_lost": files_lost, "any_lost": any_lost,
        }))
        .unwrap()
    }

    #[test]
    fn placements_of_one_code_and_codes_of_one_placement_are_compared() {
        let readings = [
            counted("copies:3", "random", 0.056, 0.056),
            counted("copies:3", "copysets", 0.055, 0.002),
            counted("xor:4", "random", 16.8, 1.0),
            counted("rs:8+4", "successors", 0.0, 0.0),
        ];
        assert_eq!(
            notes(&readings),
            [
                "copies:3, 3 of 36 dead: patterns that cost any file: fewest, 0.200 %, with copysets, most, \
                 5.60 %, with random, 28.0 times as many.",
                "random, 3 of 36 dead: files lost: fewest, 0.056 %, with copies:3, most, 16.8 %, with xor:4, \
                 300 times as many; patterns that cost any file: fewest, 5.60 %, with copies:3, most, 100 %, \
                 with xor:4, 17.9 times as many.",
            ]
        );
    }

    #[test]
    fn winners_that_are_alike_share_and_zero_has_no_multiple() {
        let lost = [
            ("copysets", 0.0),
            ("buddies", 0.0),
            ("random", 0.099),
            ("successors", 0.1),
        ];
        let readings = lost.map(|(placement, any)| counted("copies:3", placement, 1.0, any));
        assert_eq!(
            notes(&readings),
            [
                "copies:3, 3 of 36 dead: patterns that cost any file: fewest, 0.00 %, with copysets, \
                 buddies, most, 10.0 %, with random, successors."
            ]
        );
        let alike = lost.map(|(placement, _)| counted("copies:3", placement, 1.0, 0.0));
        assert!(notes(&alike).is_empty());
    }
}
