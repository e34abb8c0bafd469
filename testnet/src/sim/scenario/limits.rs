//! What is absurd about a scenario.

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

impl Scenario {
    /// What is absurd about it.
    pub(super) fn problem(&self) -> Option<String> {
        let [few, many] = self.virtual_nodes;
        let span = |name: &str, value: f64| {
            let fine = (0.0..=1e7).contains(&value);
            (!fine).then(|| format!("`{name}` is {value}, expected 0 to 10000000 seconds"))
        };
        if !(1..=MAX_PEERS).contains(&self.peers) {
            return Some(format!("`peers` is {}, expected 1 to {MAX_PEERS}", self.peers));
        }
        if few == 0 || few > many || many > 256 {
            return Some(format!(
                "`virtual_nodes` is {few} to {many}, expected 1 to 256, the smaller first"
            ));
        }
        if !(4..=256).contains(&self.r) {
            return Some(format!("`r` is {}, expected 4 to 256", self.r));
        }
        span("settle_s", self.settle_s)
            .or_else(|| span("join_every_s", self.join_every_s))
            .or_else(|| self.network.problem())
            .or_else(|| self.custody.as_ref().and_then(|keeping| keeping.problem(self.r)))
            .or_else(|| self.haste())
            .or_else(|| self.step.iter().find_map(|step| step.problem(self.hosts())))
            .or_else(|| self.excess())
    }

    /// What custody cannot do with these numbers: its holders must hear of each other, and within its times.
    fn haste(&self) -> Option<String> {
        let keeping = self.custody.as_ref()?;
        let learned = self.max_learned.unwrap_or(RingConfig::default().max_learned);
        if keeping.placement.needs_roster()
            && f64::from(u32::try_from(learned).unwrap_or(u32::MAX)) < self.hosts()
        {
            return Some(format!(
                "`placement` is {}, for which all must know all, but {:.0} hosts are more than \
                 `max_learned`, {learned}",
                keeping.placement,
                self.hosts()
            ));
        }
        if self.max_learned.is_some_and(|learned| learned < MIN_LEARNED) {
            return Some(format!(
                "`max_learned` is below {MIN_LEARNED}: with custody homes must hear of holders far away"
            ));
        }
        let trip = self.round_trip_s();
        let (pin, lease) = (3.0 * trip, (10.0 * trip).max(MIN_LEASE_S));
        if keeping.pin_s < pin {
            return Some(format!(
                "`pin_s` is {}, expected 3 round trips at least, {pin:.1} s here",
                keeping.pin_s
            ));
        }
        let late = self.step.iter().find_map(|step| {
            let Action::Put { dawdle_s, .. } = step.action else {
                return None;
            };
            (dawdle_s + MARGIN_S > keeping.pending_lease_s).then_some(dawdle_s)
        });
        if let Some(dawdle) = late {
            return Some(format!(
                "a put dawdles {dawdle} s, expected {MARGIN_S} s less than `pending_lease_s`: leases are not \
                 renewed here"
            ));
        }
        (keeping.pending_lease_s < lease).then(|| {
            format!(
                "`pending_lease_s` is {}, expected {MIN_LEASE_S} and 10 round trips at least, {lease:.1} s \
                 here",
                keeping.pending_lease_s
            )
        })
    }

    /// What there is too much of in all, or missing.
    fn excess(&self) -> Option<String> {
        let stripes = |step: &Step| {
            matches!(
                step.action,
                Action::Put { .. }
                    | Action::Delete { .. }
                    | Action::Read { .. }
                    | Action::ForgeOrders { .. }
                    | Action::Lie { .. }
            )
        };
        if self.custody.is_none() && self.step.iter().any(stripes) {
            return Some(
                "steps that put, delete, read, forge orders or lie need a [custody] section".to_owned(),
            );
        }
        let steps: f64 = self.step.iter().map(Step::times).sum();
        if steps > MAX_STEPS {
            return Some(format!(
                "{steps:.0} steps in all, expected at most {MAX_STEPS:.0}"
            ));
        }
        let hosts = self.hosts();
        let nodes = hosts * f64::from(self.virtual_nodes[1]);
        (nodes > MAX_NODES).then(|| {
            format!("{hosts:.0} hosts with {nodes:.0} virtual nodes in all, expected at most {MAX_NODES:.0}")
        })
    }
}

impl Keeping {
    fn problem(&self, r: usize) -> Option<String> {
        if self.k == 0 || self.k > self.n || usize::from(self.n) + 4 > r.max(10) {
            return Some(format!(
                "a code with k = {} and n = {} needs 1 <= k <= n <= r - 4, or n <= 6 where r is below 10",
                self.k, self.n
            ));
        }
        let seconds = [self.repair_delay_s, self.pending_lease_s, self.pin_s];
        let fine = seconds.iter().all(|seconds| (0.1..=1e6).contains(seconds));
        if !fine {
            return Some(
                "`repair_delay_s`, `pending_lease_s` and `pin_s` are 0.1 to 1000000 seconds".to_owned(),
            );
        }
        self.placement_problem()
    }
}

impl Step {
    fn problem(&self, hosts: f64) -> Option<String> {
        let time = |value: f64| (0.0..=1e7).contains(&value);
        let begins = self.at..=1e7;
        if !time(self.at) || self.until.is_some_and(|until| !begins.contains(&until)) {
            return Some(format!(
                "the step at {:.0} s: `at` and `until` are 0 to 10000000, `until` not before `at`",
                self.at
            ));
        }
        if self.every.is_some_and(|every| !(0.001..=1e7).contains(&every)) {
            return Some("`every` is 0.001 to 10000000 seconds".to_owned());
        }
        if self.every.is_some() != self.until.is_some() {
            return Some(format!(
                "the step at {} s: `every` and `until` go together",
                self.at
            ));
        }
        self.action.problem(hosts)
    }
}

impl Action {
    /// What is absurd about it where there are never more than so many `hosts`.
    fn problem(&self, hosts: f64) -> Option<String> {
        match self {
            Self::Join { count, over_s } => {
                let fine = (1..=MAX_PEERS).contains(count) && (0.0..=1e7).contains(over_s);
                (!fine).then(|| format!("{count} joins over {over_s} s are absurd"))
            }
            Self::Network(change) => change.problem(),
            Self::Put { count, dawdle_s } => {
                let fine = (1..=1_000_000).contains(count) && (0.0..=1e6).contains(dawdle_s);
                (!fine).then(|| format!("{count} puts that wait {dawdle_s} s are absurd"))
            }
            Self::ForgeOrders { count } | Self::Delete { count } | Self::Read { count } => {
                let fine = (1..=1_000_000).contains(count);
                (!fine).then(|| format!("{count} of them at once are absurd"))
            }
            Self::Resize { virtual_nodes, .. } => {
                let fine = (1..=256).contains(virtual_nodes);
                (!fine).then(|| format!("{virtual_nodes} virtual nodes, expected 1 to 256"))
            }
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
            | Self::Clock { who, .. } => who.problem(hosts),
            Self::Lie {
                who,
                stripes,
                hosts: told,
            } => {
                let shares = [stripes, told].iter().all(|share| (0.0..=1.0).contains(*share));
                let absurd = format!("`stripes` and `hosts` are {stripes} and {told}, expected 0.0 to 1.0");
                who.problem(hosts).or((!shares).then_some(absurd))
            }
            Self::Heal {} => None,
        }
    }
}

impl Pick {
    fn problem(&self, hosts: f64) -> Option<String> {
        match self {
            Self::Share(share) if !(0.0..=1.0).contains(share) => Some(format!(
                "`who` is {share}: a share is 0.0 to 1.0, a count is whole"
            )),
            Self::Count(0) => Some("`who` is 0: nobody; expected a count from 1".to_owned()),
            Self::These(these) if these.is_empty() => {
                Some("`who` is []: nobody; expected numbers of hosts".to_owned())
            }
            Self::These(these) => {
                let absent = these.iter().find(|who| f64::from(**who) >= hosts)?;
                Some(format!(
                    "`who` names host {absent}, but there are {hosts:.0}, the first being 0"
                ))
            }
            Self::Share(_) | Self::Count(_) => None,
        }
    }
}
