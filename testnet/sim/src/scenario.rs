//! What happens in a run: a page of TOML, or drawn from a seed.
//!
//! ```toml
//! title = "Three peers in a row die at once"
//! source = "Zave 2017, section 3: successor lists must outlive what dies together"
//! peers = 24
//! virtual_nodes = [1, 4]
//! r = 8
//!
//! [[step]]
//! at = 30.0           # seconds after the last initial peer was started
//! do = "kill"
//! who = 3             # so many at random; 0.25 is a quarter of them; [0, 5] are hosts 0 and 5
//! ```
//!
//! After the last step, faults stop: partitions heal, stopped processes go on, dead ones start again but for
//! those retired, the network loses nothing. Within `settle_s` everything must be as it should.

mod limits;

pub(super) use limits::{ensure, within};

use std::time::Duration;

use mutualstore_dht::Flaw;
use mutualstore_dht::custody::CustodyConfig;
use mutualstore_dht::ring::RingConfig;
use serde::{Deserialize, Serialize};

use super::link::{Change, Network};
use super::policy::Policy;
use super::world::{Setup, Who};

/// Most hosts of a scenario.
pub const MAX_PEERS: usize = 200_000;

/// See the module head. A field is a key of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about.
    pub title: String,
    /// Where it comes from, or why it is here.
    pub source: String,
    /// Seed, when none is given on the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Hosts in the beginning. The first founds the network.
    pub peers: usize,
    /// Fewest and most virtual nodes of a host.
    #[serde(default = "one_each")]
    pub virtual_nodes: [u16; 2],
    /// Distinct peers in a successor list.
    #[serde(default = "sixteen")]
    pub r: usize,
    /// Peers on a circle beyond lists, predecessors and fingers, at most; with custody 16 or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_learned: Option<usize>,
    /// Whether newcomers choose their virtual nodes.
    #[serde(default)]
    pub choose: bool,
    /// Seconds between two initial peers.
    #[serde(default = "half")]
    pub join_every_s: f64,
    /// Whether whoever is connected to a killed process notices at once.
    #[serde(default = "yes")]
    pub disconnects: bool,
    /// Whether there must be one ring all the time: the faults stay within what successor lists bear.
    #[serde(default)]
    pub one_ring: bool,
    /// Seconds after the last step until everything must be as it should.
    #[serde(default = "settle")]
    pub settle_s: f64,
    /// The network.
    #[serde(default)]
    pub network: Network,
    /// Stripes and who keeps them; none: rings alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custody: Option<Keeping>,
    /// What happens.
    #[serde(default)]
    pub step: Vec<Step>,
}

/// Custody in a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keeping {
    /// Shards needed and in all of every stripe.
    pub k: u8,
    /// Shards in all.
    pub n: u8,
    /// Shards a host takes, at most.
    pub capacity: usize,
    /// How long a holder is suspect before its shards count as missing.
    pub repair_delay_s: f64,
    /// Lifetime of a pending shard: at least 15 seconds, and 10 of the longest round trips.
    pub pending_lease_s: f64,
    /// How long a holder that confirmed a shard will not trim it: at least 3 of the longest round trips.
    pub pin_s: f64,
    /// How the holders of a stripe are chosen.
    pub placement: Policy,
    /// Peers in a run of `buddies`, at least n; if not given twice n.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u8>,
    /// So many stripes in a row share an anchor, as those of one file do; 1: each is its own. For `copysets`
    /// and `buddies`.
    pub stripes_per_anchor: u64,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            k: 4,
            n: 6,
            capacity: 1_000_000,
            repair_delay_s: 5.0,
            pending_lease_s: 60.0,
            pin_s: 20.0,
            placement: Policy::Successors,
            group: None,
            stripes_per_anchor: 1,
        }
    }
}

/// One thing that happens, once or again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Seconds after the last initial peer was started.
    pub at: f64,
    /// Again after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<f64>,
    /// Not again after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// What happens.
    #[serde(flatten)]
    pub action: Action,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "`who` is a count, a share like 0.3, or a list of hosts like [0, 5]"
)]
pub enum Pick {
    /// So many at random.
    Count(usize),
    /// Such a share at random.
    Share(f64),
    /// The hosts with these numbers.
    These(Vec<Who>),
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// New hosts join, spread over some seconds.
    Join {
        /// How many.
        count: usize,
        /// Seconds from the first to the last.
        #[serde(default)]
        over_s: f64,
    },
    /// Processes die: connections break, ports refuse.
    Kill {
        /// Of those that run.
        who: Pick,
    },
    /// Machines die: silence.
    PowerOff {
        /// Of those that run.
        who: Pick,
    },
    /// Dead hosts start again.
    Restart {
        /// Of those that are down.
        who: Pick,
    },
    /// Dead hosts start again without their address book.
    RestartForgetful {
        /// Of those that are down.
        who: Pick,
    },
    /// Disks are emptied, as far as no acknowledged stripe falls below k.
    Wipe {
        /// Of all.
        who: Pick,
    },
    /// Hosts are gone for good, as far as no acknowledged stripe falls below k.
    Retire {
        /// Of all.
        who: Pick,
    },
    /// Processes stop (SIGSTOP).
    Freeze {
        /// Of those that run.
        who: Pick,
    },
    /// Processes go on (SIGCONT).
    Thaw {
        /// Of those that are stopped.
        who: Pick,
    },
    /// Hosts go on but do nothing more as primaries: each repair or copy they begin fails. Ends with their
    /// process, or with the last step.
    Wedge {
        /// Of those that run.
        who: Pick,
    },
    /// Hosts take no more shards and are relieved of those they have, until their process ends.
    Drain {
        /// Of those that run.
        who: Pick,
    },
    /// Hosts leave the ring in order.
    Leave {
        /// Of those that run.
        who: Pick,
    },
    /// Hosts are cut off from the rest.
    Part {
        /// Of all.
        who: Pick,
        /// Only what they send is lost.
        #[serde(default)]
        one_way: bool,
    },
    /// All partitions end.
    Heal {},
    /// The network changes.
    Network(Change),
    /// Clients put stripes.
    Put {
        /// How many, each through a host of its own.
        count: usize,
        /// Seconds writers wait between storing and committing: at least 10 less than `pending_lease_s`.
        #[serde(default)]
        dawdle_s: f64,
    },
    /// Owners delete acknowledged stripes.
    Delete {
        /// How many, each through a host of its own.
        count: usize,
    },
    /// Clients read acknowledged stripes by what the first r peers say of them, and must find k shards of
    /// each. Only where nothing else hides shards: no partition, and fewer than n - k holders of any stripe
    /// down.
    Read {
        /// How many, each through a host of its own.
        count: usize,
    },
    /// Devices publish records.
    Record {
        /// How many, one after the other.
        count: usize,
    },
    /// A device's disk is cloned, and both run.
    CloneDevice {},
    /// Readers put records together, through hosts of their own.
    ReadRecords {
        /// How many.
        count: usize,
    },
    /// Somebody who is not the primary orders holders to drop shards, most of which are not excess.
    ForgeOrders {
        /// For so many stripes.
        count: usize,
    },
    /// Hosts lie from then on, whatever becomes of them, as far as no acknowledged stripe falls below k: they
    /// keep nothing, claim everything, and order everybody to drop what they hold.
    Lie {
        /// Of those that are in the ring.
        who: Pick,
        /// About such a share of the stripes; of others they take nothing.
        #[serde(default = "all")]
        stripes: f64,
        /// To such a share of the hosts; to others they say that they hold nothing.
        #[serde(default = "all")]
        hosts: f64,
    },
    /// Hosts that are down get another number of virtual nodes and start.
    Resize {
        /// Of those that are down.
        who: Pick,
        /// How many.
        virtual_nodes: u16,
    },
    /// Wall clocks are off from the next start on.
    Clock {
        /// Of all.
        who: Pick,
        /// By so many seconds.
        offset_s: i64,
    },
}

fn one_each() -> [u16; 2] {
    [1, 1]
}

fn sixteen() -> usize {
    16
}

fn all() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

fn yes() -> bool {
    true
}

fn settle() -> f64 {
    300.0
}

/// A scenario that cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ScenarioError(String);

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                let before = text.get(..span.start).unwrap_or_default();
                before.matches('\n').count() + 1
            });
            let message = error.message().lines().next().unwrap_or_default().to_owned();
            ScenarioError(match line {
                Some(line) => format!("line {line}: {message}"),
                None => message,
            })
        })?;
        scenario.check().map(|()| scenario).map_err(ScenarioError)
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// The longest round trip there ever is but for messages that take ten times as long, in seconds.
    pub(crate) fn round_trip_s(&self) -> f64 {
        let later = self.step.iter().filter_map(|step| {
            let Action::Network(change) = &step.action else {
                return None;
            };
            let delay = change.delay_ms.unwrap_or(self.network.delay_ms);
            Some(delay[1] + change.jitter_ms.unwrap_or(self.network.jitter_ms))
        });
        let at_first = self.network.delay_ms[1] + self.network.jitter_ms;
        later.fold(at_first, f64::max) * 2.0 / 1000.0
    }

    /// Hosts there ever are.
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    fn hosts(&self) -> f64 {
        let mut hosts = self.peers as f64;
        for step in &self.step {
            if let Action::Join { count, .. } = step.action {
                hosts += count as f64 * step.times();
            }
        }
        hosts
    }

    pub(crate) fn setup(&self, seed: u64, flaw: Option<Flaw>) -> Setup {
        let ring = RingConfig {
            flaw,
            r: self.r,
            max_learned: self.max_learned.unwrap_or(RingConfig::default().max_learned),
            ..RingConfig::default()
        };
        Setup {
            ring,
            custody: self.custody.as_ref().map(|keeping| CustodyConfig {
                flaw,
                ..keeping.config(self.r)
            }),
            flaw,
            network: self.network.clone(),
            disconnects: self.disconnects,
            choose: self.choose,
            roster: self
                .custody
                .as_ref()
                .is_some_and(|keeping| keeping.placement.needs_roster()),
            addresses: [].into(),
            weigh: None,
            seed,
        }
    }
}

impl Keeping {
    fn config(&self, r: usize) -> CustodyConfig {
        CustodyConfig {
            repair_delay: Duration::from_secs_f64(self.repair_delay_s),
            pending_lease: Duration::from_secs_f64(self.pending_lease_s),
            pin: Duration::from_secs_f64(self.pin_s),
            settle: Duration::from_secs_f64(self.repair_delay_s.min(5.0)),
            r,
            ..CustodyConfig::default()
        }
    }
}

impl Step {
    /// Something that happens once, to the millisecond.
    pub(super) fn once(at: f64, action: Action) -> Self {
        Self {
            at: (at * 1000.0).round() / 1000.0,
            every: None,
            until: None,
            action,
        }
    }

    /// How often it happens.
    fn times(&self) -> f64 {
        match (self.every, self.until) {
            (Some(every), Some(until)) => ((until - self.at) / every).max(0.0).floor() + 1.0,
            (_, None) | (None, Some(_)) => 1.0,
        }
    }
}
