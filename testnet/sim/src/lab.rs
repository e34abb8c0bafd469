//! Large rings to measure: grown, struck, looked through.
//!
//! The same hosts, network and clock as in scenarios, without custody, and without checks that look at all
//! hosts after every event; what is measured is compared with the true circle.

use std::collections::BTreeMap;
use std::time::Duration;

use mutualstore_dht::Id;
use mutualstore_dht::ring::{LookupId, Request, Response, RingConfig};

use super::host::Host;
use super::link::Network;
use super::world::{Counters, Crash, Setup, Who, World, micros, seconds};
use super::{stripe_id, uniform};

/// Members a newcomer is told of: one of them may die before it has joined.
const INVITING: usize = 3;

/// Bytes of questions and answers on the wire.
pub type Weigh = fn(Weighed<'_>) -> usize;

/// A message of the ring.
#[derive(Clone, Copy, Debug)]
pub enum Weighed<'a> {
    /// A question.
    Request(&'a Request),
    /// An answer.
    Response(&'a Response),
}

/// What kind of network a lab has.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) ring: RingConfig,
    pub(crate) virtual_nodes: u16,
    pub(crate) weigh: Option<Weigh>,
    pub(crate) seed: u64,
}

/// What lookups came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) lookups: u64,
    /// Sum of peers that answered, of those that ended.
    pub(crate) hops: u64,
    /// Sum of questions without an answer.
    pub(crate) timeouts: u64,
    /// The first of the peers named that runs is not the right one.
    pub(crate) failures: u64,
}

impl Found {
    pub(crate) fn mean_hops(&self) -> f64 {
        ratio(self.hops, self.lookups)
    }

    pub(crate) fn mean_timeouts(&self) -> f64 {
        ratio(self.timeouts, self.lookups)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// See the module head.
pub(crate) struct Lab {
    world: World,
    plan: Plan,
    /// Virtual nodes of the hosts that run.
    circle: BTreeMap<Id, Who>,
    /// Lookups without an answer yet: target, and the right peer when they began.
    open: BTreeMap<(Who, LookupId), (Id, Option<Who>)>,
    asked: u64,
    found: Found,
}

impl Lab {
    /// One host.
    pub(crate) fn new(plan: Plan) -> Self {
        let address = "/ip4/203.0.113.77/tcp/4701".to_owned();
        let mut world = World::new(Setup {
            ring: plan.ring.clone(),
            custody: None,
            // About the round trips of Stoica et al. 2003: 50 ms one way.
            network: Network {
                delay_ms: [20.0, 80.0],
                ..Network::default()
            },
            disconnects: false,
            roster: false,
            choose: false,
            addresses: [address].into(),
            weigh: plan.weigh,
            seed: plan.seed,
            flaw: None,
        });
        world.checks.patient = true;
        let mut lab = Self {
            world,
            plan,
            circle: BTreeMap::new(),
            open: BTreeMap::new(),
            asked: 0,
            found: Found::default(),
        };
        lab.join();
        lab
    }

    /// A newcomer joins through some random members, if there are any.
    pub(crate) fn join(&mut self) {
        let via: Vec<Who> = (0..INVITING).filter_map(|_| self.member()).collect();
        let who = self.world.add(self.plan.virtual_nodes, 0, &via);
        let ids = self.world.ring(who).into_iter().flat_map(|ring| ring.me().ids());
        self.circle.extend(ids.map(|id| (id, who)));
    }

    /// A random host that runs and is no newcomer, if there is one but for the first.
    fn member(&mut self) -> Option<Who> {
        let hosts = self.world.hosts.len();
        for _ in 0..1000 {
            let who = Who::try_from(self.world.random(hosts)).unwrap_or(Who::MAX);
            if self.world.host(who).is_some_and(is_member) {
                return Some(who);
            }
        }
        let first = self.world.those(is_member).first().copied();
        first.or_else(|| self.world.those(Host::is_running).first().copied())
    }

    /// Until there are so many hosts, newcomers join, one after `every`.
    pub(crate) fn grow(&mut self, hosts: usize, every: Duration) {
        let mut due = self.world.now;
        while self.world.hosts.len() < hosts {
            self.join();
            due += micros(every);
            self.world.run(due);
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.world.now + micros(time);
        self.world.run(end);
        self.collect();
    }

    /// Waits until every list is as it should be, looking after every `look`; the seconds it took, `none` if
    /// it is not after `most` looks.
    pub(crate) fn settle(&mut self, look: Duration, most: u32) -> Option<f64> {
        let begun = self.now();
        for _ in 0..most {
            if self.world.ring_problem().is_none() {
                return Some(self.now() - begun);
            }
            self.pass(look);
        }
        None
    }

    /// So many random hosts die without a word.
    pub(crate) fn kill(&mut self, count: usize) {
        for who in self.world.random_hosts(count, Host::is_up) {
            for id in self.world.ring(who).into_iter().flat_map(|ring| ring.me().ids()) {
                self.circle.remove(&id);
            }
            self.world.crash(who, Crash::Machine);
        }
    }

    /// What one second of churn brings: so many joins and as many deaths on average, at its beginning.
    pub(crate) fn change(&mut self, rate: f64) {
        for _ in 0..self.drawn(rate) {
            self.join();
        }
        let deaths = self.drawn(rate);
        self.kill(deaths);
    }

    /// A number with this mean (Poisson, by Knuth's product of uniform numbers).
    fn drawn(&mut self, mean: f64) -> usize {
        let (least, mut product, mut count) = ((-mean).exp(), uniform(&mut self.world.rng), 0);
        while product > least {
            product *= uniform(&mut self.world.rng);
            count += 1;
        }
        count
    }

    /// A random member looks for the successor of a random point.
    pub(crate) fn look_up(&mut self) {
        self.asked += 1;
        let target = stripe_id(!self.plan.seed, self.asked);
        let Some(who) = self.member() else { return };
        let right = self.successor(target);
        let r = self.plan.ring.r;
        let lookup = self.world.act(who, |ring, now| ring.lookup(now, target, r));
        if let Some(lookup) = lookup {
            self.found.lookups += 1;
            self.open.insert((who, lookup), (target, right));
        }
    }

    /// What so many lookups at once come to.
    pub(crate) fn search(&mut self, lookups: u64) -> Found {
        for _ in 0..lookups {
            self.look_up();
        }
        self.found()
    }

    /// What the lookups that were begun since the last call came to; waits for them.
    pub(crate) fn found(&mut self) -> Found {
        let mut waited = 0;
        self.collect();
        while !self.open.is_empty() && waited < 300 {
            self.pass(Duration::from_secs(1));
            waited += 1;
        }
        // Whoever asked is dead.
        self.found.lookups -= self.open.len() as u64;
        self.open.clear();
        std::mem::take(&mut self.found)
    }

    fn collect(&mut self) {
        while let Some((who, lookup, outcome)) = self.world.lookups.pop_front() {
            let Some((target, before)) = self.open.remove(&(who, lookup)) else {
                continue;
            };
            let Ok(found) = outcome else {
                self.found.failures += 1;
                continue;
            };
            self.found.hops += u64::from(found.hops);
            self.found.timeouts += u64::from(found.timeouts);
            // Who looked for it now asks the first, and the next if that is dead: the final hop, which is not
            // counted.
            let contacts = found.contacts.iter();
            let mut named = contacts.filter_map(|contact| self.world.who(contact.peer));
            let named = named.find(|who| self.world.running(*who).is_some());
            let right = named.is_some() && (named == before || named == self.successor(target));
            let newcomer = named.and_then(|who| self.world.host(who));
            let newcomer = newcomer.is_some_and(|host| !is_member(host));
            self.found.failures += u64::from(!right && !newcomer);
        }
    }

    /// The first host at or after a point that is a member.
    fn successor(&self, target: Id) -> Option<Who> {
        let nodes = self.circle.range(target..).chain(self.circle.range(..target));
        let mut owners = nodes.map(|(_, who)| *who);
        owners.find(|who| self.world.host(*who).is_some_and(is_member))
    }

    pub(crate) fn counters(&self) -> Counters {
        self.world.counters
    }

    /// Virtual time, in seconds.
    pub(crate) fn now(&self) -> f64 {
        seconds(self.world.now)
    }

    /// Hosts that run.
    pub(crate) fn running(&self) -> usize {
        self.world.those(Host::is_running).len()
    }

    /// Virtual nodes that run.
    pub(crate) fn nodes(&self) -> usize {
        self.circle.len()
    }
}

/// Whether it is a member of the ring, not of one of its own.
fn is_member(host: &Host) -> bool {
    let ring = host.ring().filter(|_| host.is_running());
    ring.is_some_and(|ring| ring.is_member() && ring.alive().next().is_some())
}
