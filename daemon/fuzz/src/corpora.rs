//! Runs every target over its corpus and over mutations of it, by a seeded generator.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{TARGETS, Target, seeds};

/// An input never grows beyond this, in bytes.
const MAX_INPUT: usize = 16 << 10;
/// Numbers that lie at the edge of something.
const EDGES: [u64; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

fn directory(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name)
}

/// The inputs kept for a target, in the order of their names.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory(target)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % (bound.max(1) as u64)).unwrap()
}

/// One change: a bit, a byte, a number, a cut, a repetition, or the tail of another input.
fn mutate(rng: &mut ChaCha8Rng, input: &mut Vec<u8>, other: &[u8]) {
    let at = below(rng, input.len());
    let to = (at + 1 + below(rng, 16)).min(input.len());
    match below(rng, 8) {
        0 | 1 => input
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 1 << (at % 8)),
        2 => input
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte = rng.next_u32().to_be_bytes()[0]),
        3 => {
            let edge = EDGES[below(rng, EDGES.len())].to_be_bytes();
            let width = [1, 2, 4, 8][below(rng, 4)];
            let bytes = &edge[8 - width..];
            input
                .iter_mut()
                .skip(at)
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
        }
        4 => input.truncate(at),
        5 => drop(input.drain(at.min(to)..to)),
        6 => {
            let again = input[at.min(to)..to].to_vec();
            input.splice(at.min(to)..at.min(to), again);
        }
        _ => {
            input.truncate(at);
            input.extend(&other[below(rng, other.len())..]);
        }
    }
    input.truncate(MAX_INPUT);
}

/// Says which input it was that broke the target.
fn attempt(target: &Target, input: &[u8]) {
    let holds = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
    assert!(holds, "{} does not hold for {}", target.name, hex::encode(input));
}

fn try_out(target: &Target) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "{} has no corpus", target.name);
    for input in &corpus {
        attempt(target, input);
    }
    let seed = std::env::var("FUZZ_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..target.mutations {
        let mut input = corpus[below(&mut rng, corpus.len())].clone();
        let other = &corpus[below(&mut rng, corpus.len())];
        for _ in 0..=below(&mut rng, 4) {
            mutate(&mut rng, &mut input, other);
        }
        attempt(target, &input);
    }
}

#[test]
fn every_target_holds_over_its_corpus_and_mutations() {
    thread::scope(|scope| {
        for target in TARGETS {
            let named = thread::Builder::new().name(target.name.to_owned());
            named.spawn_scoped(scope, || try_out(target)).unwrap();
        }
    });
}

#[test]
#[ignore = "writes the corpora anew, from the encoders"]
fn write_corpora() {
    for target in TARGETS {
        let directory = directory(target);
        fs::create_dir_all(&directory).unwrap();
        for (number, input) in seeds::of(target.name).into_iter().enumerate() {
            fs::write(directory.join(format!("{number:02}")), input).unwrap();
        }
    }
}
