//! A deterministic simulator of whole networks: the daemon's own ring and custody machines on virtual hosts.
//!
//! Time is virtual, chance comes from one seed, nothing depends on the machine it runs on: the same scenario
//! with the same seed gives the same trace, another seed another one.
//!
//! * `world`: hosts, messages in flight, the clock; drives the machines as the daemon does.
//! * `message`: what they send; `host`: one of them; `lives`: how they start and end.
//! * [`link`]: delay, loss, duplication, partitions.
//! * `disk`: what survives a crash; carries out custody's effects by bookkeeping.
//! * `writer`: clients that put and delete stripes, with the daemon's machines.
//! * [`policy`]: the placement policy of a put; `placed`: what must hold of it, and of locators.
//! * `check`: what must hold after every event, and what must hold in the end.
//! * `cycles`: whether following successors leads once around.
//! * `local`: what one host may do at one moment, judged by what all of them know.
//! * `liar`: members that lie, and what must hold where they do.
//! * `memory`: the last events before a failure, in words.
//! * [`scenario`]: what happens when, as a file or drawn at random.
//! * [`injector`]: carries it out.
//! * [`lab`]: large rings to measure; [`tables`]: what the papers measured, on them; [`scale`]: how
//!   large they can be.
//! * [`fuzz`]: many random scenarios, and what to do when one fails; `work`: how much they took.

pub mod check;
mod cycles;
mod disk;
pub mod fuzz;
mod host;
pub mod injector;
pub mod lab;
mod liar;
pub mod link;
mod lives;
mod local;
mod memory;
mod message;
mod placed;
pub mod policy;
mod records;
pub mod scale;
pub mod scenario;
pub mod tables;
#[cfg(test)]
mod tests;
mod work;
mod world;
mod writer;

pub use self::work::Work;
pub use mutualstore_dht::Flaw;
use mutualstore_dht::{Contact, Peer, PeerState, Signature, VirtualNodes};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A generator for one of several purposes of a run.
fn generator(seed: u64, purpose: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(mix(seed) ^ purpose)
}

/// Spreads a number over 64 bits (`SplitMix64`, Steele et al. 2014).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "a share")]
fn fraction(number: u64) -> f64 {
    (number >> 11) as f64 / (1u64 << 53) as f64
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    fraction(rng.next_u64())
}

fn chance(rng: &mut ChaCha8Rng, share: f64) -> bool {
    share > 0.0 && uniform(rng) < share
}

/// A number below `bound`; 0 when there is none.
fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
    usize::try_from(rng.next_u64() % bound).unwrap_or(0)
}

/// One of these.
fn pick<'a, T>(rng: &mut ChaCha8Rng, items: &'a [T]) -> Option<&'a T> {
    items.get(below(rng, items.len()))
}

/// Some of these, in the order drawn.
fn sample<T: Copy>(rng: &mut ChaCha8Rng, items: &[T], count: usize) -> Vec<T> {
    let mut pool = items.to_vec();
    let mut drawn = Vec::new();
    while drawn.len() < count && !pool.is_empty() {
        drawn.push(pool.swap_remove(below(rng, pool.len())));
    }
    drawn
}

/// The contact of a peer of which nothing else matters.
fn contact(peer: Peer, virtual_nodes: VirtualNodes, capacity: u64) -> Contact {
    Contact {
        peer,
        version: 0,
        virtual_nodes,
        addresses: [].into(),
        capacity,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    }
}

/// The id of the stripe with this number.
fn stripe_id(seed: u64, number: u64) -> mutualstore_dht::Id {
    let mut bytes = [0; 32];
    for (at, chunk) in (0u64..).zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&mix(seed ^ mix(number << 8 | at)).to_be_bytes());
    }
    mutualstore_dht::Id::new(bytes)
}
