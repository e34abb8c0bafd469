//! What is absurd about a scenario.

use std::fmt::Display;
use std::ops::RangeInclusive;

use mutualstore_dht::ring::RingConfig;

use super::{Action, Keeping, MAX_PEERS, Pick, Scenario, Step};

/// Most steps of a scenario, every repetition counted.
const MAX_STEPS: f64 = 1e6;
/// With custody a host must hear of so many peers beyond its lists.
const MIN_LEARNED: usize = 16;
/// Writers commit so long before the leases end, in seconds.
const MARGIN_S: f64 = 10.0;
/// A lease must outlast the deadlines of the questions that are asked at its end, in seconds.
const MIN_LEASE_S: f64 = 15.0;
/// Most virtual nodes of all hosts there ever are.
const MAX_NODES: f64 = 4e6;

/// What is wrong, unless it is fine.
pub(crate) fn ensure(fine: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if fine { Ok(()) } else { Err(wrong()) }
}

/// Fails unless a key is in its range; `unit` follows the bounds.
pub(crate) fn within<T: PartialOrd + Display + Copy>(
    name: &str,
    value: T,
    range: RangeInclusive<T>,
    unit: &str,
) -> Result<(), String> {
    ensure(range.contains(&value), || {
        let (least, most) = range.into_inner();
        format!("`{name}` is {value}, expected {least} to {most}{unit}")
    })
}

impl Scenario {
    /// Fails with what cannot be run, the first of it.
    pub(super) fn check(&self) -> Result<(), String> {
        let [few, many] = self.virtual_nodes;
        within("peers", self.peers, 1..=MAX_PEERS, "")?;
        ensure(few > 0 && few <= many && many <= 256, || {
            format!("`virtual_nodes` is {few} to {many}, expected 1 to 256, the smaller first")
        })?;
        within("r", self.r, 4..=256, "")?;
        within("settle_s", self.settle_s, 0.0..=1e7, " seconds")?;
        within("join_every_s", self.join_every_s, 0.0..=1e7, " seconds")?;
        self.network.check()?;
        if let Some(keeping) = &self.custody {
            keeping.check(self.r)?;
            self.check_haste(keeping)?;
        }
        self.step.iter().try_for_each(|step| step.check(self.hosts()))?;
        self.check_excess()
    }

    /// With custody hosts need the time and the memory that its promises take.
    fn check_haste(&self, keeping: &Keeping) -> Result<(), String> {
        let learned = self.max_learned.unwrap_or(RingConfig::default().max_learned);
        let (placement, hosts) = (keeping.placement, self.hosts());
        let known = f64::from(u32::try_from(learned).unwrap_or(u32::MAX));
        ensure(!placement.needs_roster() || known >= hosts, || {
            format!(
                "`placement` is {placement}, for which all must know all, but {hosts:.0} hosts are more than \
                 `max_learned`, {learned}"
            )
        })?;
        ensure(
            self.max_learned.is_none_or(|learned| learned >= MIN_LEARNED),
            || {
                format!(
                    "`max_learned` is below {MIN_LEARNED}: with custody primaries must hear of holders far \
                     away"
                )
            },
        )?;
        let trip = self.round_trip_s();
        let (pin, lease) = (3.0 * trip, (10.0 * trip).max(MIN_LEASE_S));
        ensure(keeping.pin_s >= pin, || {
            format!(
                "`pin_s` is {}, expected 3 round trips at least, {pin:.1} s here",
                keeping.pin_s
            )
        })?;
        for step in &self.step {
            let Action::Put { dawdle_s, .. } = step.action else {
                continue;
            };
            ensure(dawdle_s + MARGIN_S <= keeping.pending_lease_s, || {
                format!(
                    "a put dawdles {dawdle_s} s, expected {MARGIN_S} s less than `pending_lease_s`: leases \
                     are not renewed here"
                )
            })?;
        }
        ensure(keeping.pending_lease_s >= lease, || {
            format!(
                "`pending_lease_s` is {}, expected {MIN_LEASE_S} and 10 round trips at least, {lease:.1} s \
                 here",
                keeping.pending_lease_s
            )
        })
    }

    fn check_excess(&self) -> Result<(), String> {
        let needs_custody = self.step.iter().any(|step| {
            matches!(
                step.action,
                Action::Put { .. }
                    | Action::Delete { .. }
                    | Action::Read { .. }
                    | Action::ForgeOrders { .. }
                    | Action::Record { .. }
                    | Action::CloneDevice {}
                    | Action::ReadRecords { .. }
                    | Action::Lie { .. }
            )
        });
        ensure(self.custody.is_some() || !needs_custody, || {
            "steps that put, delete, read, record, forge orders or lie need a [custody] section".to_owned()
        })?;
        let steps: f64 = self.step.iter().map(Step::times).sum();
        ensure(steps <= MAX_STEPS, || {
            format!("{steps:.0} steps in all, expected at most {MAX_STEPS:.0}")
        })?;
        let hosts = self.hosts();
        let nodes = hosts * f64::from(self.virtual_nodes[1]);
        ensure(nodes <= MAX_NODES, || {
            format!("{hosts:.0} hosts with {nodes:.0} virtual nodes in all, expected at most {MAX_NODES:.0}")
        })
    }
}

impl Keeping {
    fn check(&self, r: usize) -> Result<(), String> {
        let (k, n) = (self.k, self.n);
        ensure(k > 0 && k <= n && usize::from(n) + 4 <= r.max(10), || {
            format!(
                "a code with k = {k} and n = {n} needs 1 <= k <= n <= r - 4, or n <= 6 where r is below 10"
            )
        })?;
        let seconds = [self.repair_delay_s, self.pending_lease_s, self.pin_s];
        ensure(
            seconds.iter().all(|seconds| (0.1..=1e6).contains(seconds)),
            || "`repair_delay_s`, `pending_lease_s` and `pin_s` are 0.1 to 1000000 seconds".to_owned(),
        )?;
        self.check_placement()
    }
}

impl Step {
    fn check(&self, hosts: f64) -> Result<(), String> {
        let (at, begins) = (self.at, self.at..=1e7);
        let fine = (0.0..=1e7).contains(&at) && self.until.is_none_or(|until| begins.contains(&until));
        ensure(fine, || {
            format!("the step at {at:.0} s: `at` and `until` are 0 to 10000000, `until` not before `at`")
        })?;
        ensure(
            self.every.is_none_or(|every| (0.001..=1e7).contains(&every)),
            || "`every` is 0.001 to 10000000 seconds".to_owned(),
        )?;
        ensure(self.every.is_some() == self.until.is_some(), || {
            format!("the step at {at} s: `every` and `until` go together")
        })?;
        self.action.check(hosts)
    }
}

impl Action {
    fn check(&self, hosts: f64) -> Result<(), String> {
        let times = 1..=1_000_000;
        match self {
            Self::Kill { who }
            | Self::PowerOff { who }
            | Self::Restart { who }
            | Self::RestartForgetful { who }
            | Self::Wipe { who }
            | Self::Retire { who }
            | Self::Freeze { who }
            | Self::Thaw { who }
            | Self::Drain { who }
            | Self::Leave { who }
            | Self::Wedge { who }
            | Self::Part { who, .. }
            | Self::Clock { who, .. } => who.check(hosts),
            Self::Heal {} | Self::CloneDevice {} => Ok(()),
            Self::Network(change) => change.check(),
            Self::Join { count, over_s } => {
                let fine = (1..=MAX_PEERS).contains(count) && (0.0..=1e7).contains(over_s);
                ensure(fine, || format!("{count} joins over {over_s} s are absurd"))
            }
            Self::Put { count, dawdle_s } => {
                let fine = times.contains(count) && (0.0..=1e6).contains(dawdle_s);
                ensure(fine, || format!("{count} puts that wait {dawdle_s} s are absurd"))
            }
            Self::ForgeOrders { count }
            | Self::Delete { count }
            | Self::Read { count }
            | Self::Record { count }
            | Self::ReadRecords { count } => ensure(times.contains(count), || {
                format!("{count} of them at once are absurd")
            }),
            // Sizes are checked alone.
            Self::Resize { virtual_nodes, .. } => ensure((1..=256).contains(virtual_nodes), || {
                format!("{virtual_nodes} virtual nodes, expected 1 to 256")
            }),
            Self::Lie {
                who,
                stripes,
                hosts: share,
            } => {
                who.check(hosts)?;
                let fine = [stripes, share].iter().all(|share| (0.0..=1.0).contains(*share));
                ensure(fine, || {
                    format!("`stripes` and `hosts` are {stripes} and {share}, expected 0.0 to 1.0")
                })
            }
        }
    }
}

impl Pick {
    fn check(&self, hosts: f64) -> Result<(), String> {
        match self {
            Self::Share(share) => ensure((0.0..=1.0).contains(share), || {
                format!("`who` is {share}: a share is 0.0 to 1.0, a count is whole")
            }),
            Self::Count(count) => ensure(*count > 0, || {
                "`who` is 0: nobody; expected a count from 1".to_owned()
            }),
            Self::These(these) => {
                ensure(!these.is_empty(), || {
                    "`who` is []: nobody; expected numbers of hosts".to_owned()
                })?;
                let absent = these.iter().find(|who| f64::from(**who) >= hosts);
                absent.map_or(Ok(()), |absent| {
                    Err(format!(
                        "`who` names host {absent}, but there are {hosts:.0}, the first being 0"
                    ))
                })
            }
        }
    }
}
