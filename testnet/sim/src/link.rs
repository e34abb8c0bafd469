//! What the network between two hosts does to a message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::chance;
use super::scenario::{ensure, within};
use super::world::Who;

/// How messages fare between hosts that are not parted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Shortest and longest base delay of a link in one direction, in milliseconds. Each link has its own,
    /// drawn once.
    pub delay_ms: [f64; 2],
    /// Every message takes up to so much longer, in milliseconds: later ones overtake earlier ones.
    pub jitter_ms: f64,
    /// Share of messages that take ten times as long.
    pub slow: f64,
    /// Share of messages lost.
    pub loss: f64,
    /// Share of messages delivered twice.
    pub duplicate: f64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            delay_ms: [0.2, 2.0],
            jitter_ms: 1.0,
            slow: 0.0,
            loss: 0.0,
            duplicate: 0.0,
        }
    }
}

impl Network {
    /// What is absurd about these numbers.
    pub(crate) fn check(&self) -> Result<(), String> {
        let [short, long] = self.delay_ms;
        ensure(
            (0.0..=60_000.0).contains(&short) && (short..=60_000.0).contains(&long),
            || format!("`delay_ms` is {short} to {long}, expected 0 to 60000, the shorter first"),
        )?;
        within("jitter_ms", self.jitter_ms, 0.0..=60_000.0, "")?;
        within("loss", self.loss, 0.0..=0.9, "")?;
        within("duplicate", self.duplicate, 0.0..=0.9, "")?;
        within("slow", self.slow, 0.0..=0.9, "")
    }
}

/// What a step changes about the network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Share of messages lost.
    pub loss: f64,
    /// Share of messages delivered twice.
    pub duplicate: f64,
    /// Share of messages that take ten times as long.
    pub slow: f64,
    /// Shortest and longest base delay, as in [`Network`]; none: as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<[f64; 2]>,
    /// Most that a message takes longer, as in [`Network`]; none: as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<f64>,
}

impl Change {
    pub(crate) fn apply(&self, network: &mut Network) {
        *network = Network {
            delay_ms: self.delay_ms.unwrap_or(network.delay_ms),
            jitter_ms: self.jitter_ms.unwrap_or(network.jitter_ms),
            slow: self.slow,
            loss: self.loss,
            duplicate: self.duplicate,
        };
    }

    /// What is absurd about it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut network = Network::default();
        self.apply(&mut network);
        network.check()
    }
}

/// The links: parameters, and who is cut off from whom.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) network: Network,
    seed: u64,
    /// Sides of a partition; hosts not named are on side 0.
    sides: BTreeMap<Who, u8>,
    /// From which side messages do not reach which.
    walls: BTreeSet<(u8, u8)>,
}

impl Links {
    pub(crate) fn new(network: Network, seed: u64) -> Self {
        Self {
            network,
            seed,
            sides: BTreeMap::new(),
            walls: BTreeSet::new(),
        }
    }

    /// Puts `hosts` behind a wall: nothing they send arrives elsewhere, and unless `one_way` nothing reaches
    /// them.
    pub(crate) fn part(&mut self, hosts: impl IntoIterator<Item = Who>, one_way: bool) {
        let side = self.sides.values().max().copied().unwrap_or(0).saturating_add(1);
        let others: BTreeSet<u8> = self.sides.values().copied().chain([0]).collect();
        for other in others {
            self.walls.insert((side, other));
            if !one_way {
                self.walls.insert((other, side));
            }
        }
        self.sides.extend(hosts.into_iter().map(|host| (host, side)));
    }

    pub(crate) fn heal(&mut self) {
        self.sides.clear();
        self.walls.clear();
    }

    /// Whether nobody is cut off from anybody.
    pub(crate) fn is_whole(&self) -> bool {
        self.walls.is_empty()
    }

    /// Whether messages get from one host to the other.
    pub(crate) fn passes(&self, from: Who, to: Who) -> bool {
        if self.walls.is_empty() {
            return true;
        }
        let side = |host| self.sides.get(&host).copied().unwrap_or(0);
        !self.walls.contains(&(side(from), side(to)))
    }

    /// How long a message takes, once for each time it arrives.
    pub(crate) fn arrivals(&self, rng: &mut ChaCha8Rng, from: Who, to: Who) -> [Option<Duration>; 2] {
        let network = &self.network;
        if !self.passes(from, to) || chance(rng, network.loss) {
            return [None, None];
        }
        let first = self.delay(rng, from, to);
        let second = chance(rng, network.duplicate).then(|| self.delay(rng, from, to));
        [Some(first), second]
    }

    pub(crate) fn delay(&self, rng: &mut ChaCha8Rng, from: Who, to: Who) -> Duration {
        let [short, long] = self.network.delay_ms;
        let pair = (u64::from(from) << 32 | u64::from(to)) ^ self.seed;
        let base = short + (long - short) * super::fraction(super::mix(pair));
        let mut delay = base + self.network.jitter_ms * super::uniform(rng);
        if chance(rng, self.network.slow) {
            delay *= 10.0;
        }
        Duration::from_secs_f64(delay / 1000.0)
    }
}
