//! Carries out the steps of a scenario, then lets faults stop and waits for peace.

use std::time::Duration;

use mutualstore_dht::ring::{Found, LookupId, RingConfig};
use mutualstore_dht::{Flaw, Id};
use rand_chacha::ChaCha8Rng;

use super::check::{Violation, distinct};
use super::generator;
use super::host::Host;
use super::liar::Lies;
use super::memory::Memory;
use super::scenario::{Action, Pick, Scenario, Step};
use super::work::Work;
use super::world::{Crash, Event, WALK, Who, World, micros, seconds};

/// Between two looks at whether all is well.
const LOOK: u64 = 1_000_000;
/// How long idle traffic is counted.
const IDLE: Duration = Duration::from_mins(1);
/// So often it is counted where somebody lies: what a liar takes is repaired, more and more rarely.
const IDLE_BY: usize = 5;
/// Lookups compared with the truth in the end.
const LOOKUPS: u64 = 40;
/// Round trips above this, in seconds, may make lookups end without an answer.
const LONG_TRIP_S: f64 = 1.0;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// Events handled.
    pub events: u64,
    /// Virtual time that passed, in seconds.
    pub virtual_s: f64,
    /// When all was well after faults stopped, in seconds since then.
    pub settled_s: f64,
    /// Digest of everything that happened.
    pub trace: u64,
    /// Stripes clients were told are stored.
    pub acknowledged: u64,
    /// Records devices were told are stored.
    pub recorded: u64,
    /// What it took.
    pub work: Work,
    /// The last events before the violation that concern the hosts or stripes it names, in words.
    pub recent: Vec<String>,
}

/// Runs a scenario with a seed, with a flaw planted in every host if one is given and the build has them;
/// once more if an invariant does not hold, for the last events of those concerned.
pub fn run(scenario: &Scenario, seed: u64, flaw: Option<Flaw>) -> Outcome {
    let play = |memory| {
        let mut world = World::new(scenario.setup(seed, flaw));
        world.memory = memory;
        let mut run = Run {
            scenario,
            world,
            lots: generator(seed, 4),
            begun: 0,
            settled_s: 0.0,
        };
        run.play();
        (run.world, run.settled_s)
    };
    let (world, settled_s) = play(None);
    let mut outcome = Outcome {
        violation: world.checks.violation.clone(),
        events: world.counters.events,
        virtual_s: seconds(world.now),
        settled_s,
        trace: world.trace(),
        acknowledged: world.writers.acknowledged,
        recorded: world.records.count(),
        work: world.counters.work,
        recent: Vec::new(),
    };
    drop(world);
    if let Some(violation) = &outcome.violation {
        let (again, _) = play(Some(Memory::about(violation)));
        outcome.recent = again.memory.map(Memory::into_lines).unwrap_or_default();
    }
    outcome
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    /// Draws the policies of puts: what else is drawn is the same under all.
    lots: ChaCha8Rng,
    /// When the steps' time began.
    begun: u64,
    settled_s: f64,
}

/// What was asked before the peace has ended one way or another after this time, in microseconds.
const AFTERMATH: u64 = 15_000_000;

/// A step in no scenario: one of many who join over a time.
const NEWCOMER: usize = usize::MAX;

impl Action {
    /// How long it takes.
    fn lasts(&self) -> u64 {
        if let Self::Join { over_s, .. } = self {
            span(*over_s)
        } else {
            0
        }
    }
}

fn span(seconds: f64) -> u64 {
    micros(Duration::from_secs_f64(seconds.clamp(0.0, 1e7)))
}

impl Run<'_> {
    fn is_broken(&self) -> bool {
        self.world.checks.violation.is_some()
    }

    fn play(&mut self) {
        let every = span(self.scenario.join_every_s);
        for _ in 0..self.scenario.peers {
            self.join();
            let end = self.world.now + every;
            self.world.run(end);
        }
        if self.scenario.one_ring {
            self.gather();
        }
        self.begun = self.world.now;
        for (number, step) in self.scenario.step.iter().enumerate() {
            let at = self.begun + span(step.at);
            self.world.schedule(at, Event::Step(number));
        }
        let last = |step: &Step| span(step.until.unwrap_or(step.at)) + step.action.lasts();
        let end = self.begun + self.scenario.step.iter().map(last).max().unwrap_or(0) + 1;
        while !self.is_broken() && self.world.now < end {
            self.world.run(end);
            while let Some(number) = self.world.steps.pop_front() {
                self.step(number);
            }
        }
        self.make_peace();
        self.settle();
        self.look_up();
        self.world.listen();
    }

    /// Lets the initial hosts find each other: rings that form apart merge before there must be one.
    fn gather(&mut self) {
        let end = self.world.now + span(self.scenario.settle_s);
        while !self.is_broken() && self.world.now < end && self.world.ring_problem().is_some() {
            let next = self.world.now + LOOK;
            self.world.run(next);
        }
        self.world.checks.one_ring = true;
    }

    fn join(&mut self) {
        let [few, many] = self.scenario.virtual_nodes;
        let more = self.world.random(usize::from(many - few) + 1);
        let size = few + u16::try_from(more).unwrap_or(0);
        // Those that join rings of their own meanwhile make rings that merge later.
        let joined = self.world.checks.one_ring;
        let known = |host: &Host| host.is_running() && (!joined || host.is_joined());
        let mut vias = self.world.random_hosts(2, known);
        if vias.is_empty() {
            vias = self.world.random_hosts(2, |host| !host.retired);
        }
        let keeping = self.scenario.custody.as_ref();
        let capacity = keeping.map_or(0, |keeping| keeping.capacity);
        self.world.add(size, capacity, &vias);
    }

    fn step(&mut self, number: usize) {
        if number == NEWCOMER {
            self.join();
            return;
        }
        let Some(step) = self.scenario.step.get(number).cloned() else {
            return;
        };
        if let Some(every) = step.every {
            let next = self.world.now + span(every);
            if next <= self.begun + span(step.until.unwrap_or(step.at)) {
                self.world.schedule(next, Event::Step(number));
            }
        }
        if let Some(memory) = &mut self.world.memory {
            memory.step(self.world.now, format!("{:?}", step.action));
        }
        self.act(&step.action);
    }

    fn pick(&mut self, who: &Pick, wanted: impl Fn(&Host) -> bool) -> Vec<Who> {
        match who {
            Pick::Count(count) => self.world.random_hosts(*count, wanted),
            Pick::Share(share) => {
                let all = self.world.those(&wanted).len();
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a count"
                )]
                let count = (all as f64 * share).round() as usize;
                self.world.random_hosts(count, wanted)
            }
            Pick::These(hosts) => {
                let there = |who: &Who| self.world.host(*who).is_some_and(&wanted);
                hosts.iter().copied().filter(there).collect()
            }
        }
    }

    fn act(&mut self, action: &Action) {
        let down = |host: &Host| !host.is_up() && !host.retired;
        let stopped = |host: &Host| host.is_up() && !host.is_running();
        let crash = |how| move |world: &mut World, who| world.crash(who, how);
        match action {
            Action::Join { count, over_s } => self.join_many(*count, *over_s),
            Action::Kill { who } => self.each(who, Host::is_up, crash(Crash::Process)),
            Action::PowerOff { who } => self.each(who, Host::is_up, crash(Crash::Machine)),
            Action::Restart { who } => self.each(who, down, World::start),
            Action::RestartForgetful { who } => {
                self.each(who, down, |world, who| {
                    world.forget_book(who);
                    world.start(who);
                });
            }
            Action::Wipe { who } => self.destroy(who, World::wipe),
            Action::Retire { who } => self.destroy(who, World::retire),
            Action::Freeze { who } => self.each(who, Host::is_running, World::freeze),
            Action::Thaw { who } => self.each(who, stopped, World::thaw),
            Action::Wedge { who } => {
                self.each(who, Host::is_running, |world, who| world.wedge(who, true));
            }
            Action::Drain { who } => self.each(who, Host::is_running, World::drain),
            Action::Leave { who } => self.each(who, Host::is_running, World::leave),
            Action::Part { who, one_way } => {
                let hosts = self.pick(who, |_| true);
                self.world.links.part(hosts, *one_way);
                self.world.unrest.harmed = true;
            }
            Action::Heal {} => self.world.heal(),
            Action::Network(change) => {
                change.apply(&mut self.world.links.network);
                self.world.unrest.last = self.world.now;
                self.world.unrest.harmed = true;
            }
            Action::Put { count, dawdle_s } => self.put(*count, *dawdle_s),
            Action::Delete { count } => {
                self.each(&Pick::Count(*count), Host::is_running, World::delete);
            }
            Action::Read { count } => {
                self.each(&Pick::Count(*count), Host::is_joined, World::read);
            }
            Action::Record { count } => (0..*count).for_each(|_| self.world.record()),
            Action::CloneDevice {} => self.world.clone_device(),
            Action::ReadRecords { count } => (0..*count).for_each(|_| self.world.read_records()),
            Action::Lie { who, stripes, hosts } => {
                let (stripes, hosts) = (*stripes, *hosts);
                let lies = Lies { stripes, hosts };
                self.each(who, Host::is_joined, |world, who| world.lie(who, lies));
            }
            Action::ForgeOrders { count } => {
                for _ in 0..*count {
                    self.world.forge_order();
                }
                self.world.forge_yields();
            }
            Action::Resize { who, virtual_nodes } => {
                self.each(who, down, |world, who| {
                    world.resize(who, *virtual_nodes);
                    world.start(who);
                });
            }
            Action::Clock { who, offset_s } => {
                let offset_ms = offset_s.saturating_mul(1000);
                self.each(who, |_| true, |world, who| world.set_clock(who, offset_ms));
            }
        }
    }

    fn each(&mut self, who: &Pick, wanted: impl Fn(&Host) -> bool, act: impl Fn(&mut World, Who)) {
        for who in self.pick(who, wanted) {
            act(&mut self.world, who);
        }
    }

    /// Takes disks, or hosts, that no acknowledged stripe depends on.
    fn destroy(&mut self, who: &Pick, destroy: impl Fn(&mut World, Who)) {
        for who in self.pick(who, |host| !host.retired) {
            if self.world.may_wipe(who) && self.world.those(Host::is_running).len() > 1 {
                destroy(&mut self.world, who);
            }
        }
    }

    fn join_many(&mut self, count: usize, over_s: f64) {
        let each = span(over_s) / u64::try_from(count).unwrap_or(1).max(1);
        let mut due = self.world.now;
        for _ in 0..count {
            if each == 0 {
                self.join();
            } else {
                self.world.schedule(due, Event::Step(NEWCOMER));
                due += each;
            }
        }
    }

    fn put(&mut self, count: usize, dawdle_s: f64) {
        let Some(keeping) = &self.scenario.custody else {
            return;
        };
        for _ in 0..count {
            for writer in self.world.random_hosts(1, Host::is_running) {
                let policy = keeping.placement.draw(&mut self.lots);
                let dawdle = Duration::from_secs_f64(dawdle_s);
                self.world.put(writer, (keeping, policy), dawdle);
            }
        }
    }

    /// Faults stop.
    fn make_peace(&mut self) {
        self.world.check_taken_over();
        for who in self.world.those(|host| host.wedged) {
            self.world.wedge(who, false);
        }
        self.world.peace = true;
        self.world.heal();
        self.world.steps.clear();
        let network = &mut self.world.links.network;
        self.world.unrest.harmed |= network.loss > 0.0 || network.slow > 0.0;
        (network.loss, network.duplicate, network.slow) = (0.0, 0.0, 0.0);
        (network.delay_ms, network.jitter_ms) =
            (self.scenario.network.delay_ms, self.scenario.network.jitter_ms);
        for who in self.world.those(|host| host.is_up() && !host.is_running()) {
            self.world.thaw(who);
        }
        for who in self.world.those(|host| !host.is_up() && !host.retired) {
            self.world.start(who);
        }
        // Groups that know nobody outside, as when all whom a newcomer was told of are gone for good, need a
        // word.
        let groups = self.world.groups();
        for pair in groups.windows(2) {
            if let [one, other] = pair {
                self.world.introduce(*one, *other);
            }
        }
    }

    /// Waits until everything is as it should, no longer than the scenario allows. Questions that nobody
    /// answered before the peace may yet make somebody doubt the living: it is not over before all those have
    /// ended.
    fn settle(&mut self) {
        let begun = self.world.now;
        let end = begun + span(self.scenario.settle_s);
        let mut well = None;
        while !self.is_broken() {
            let problem = self.world.problem();
            if let Some((invariant, problem)) = problem {
                well = None;
                if self.world.now >= end {
                    self.world.violate(Violation::liveness(invariant, problem));
                    return;
                }
            } else {
                let since = *well.get_or_insert(self.world.now);
                let over = self.world.now >= end.min(begun + AFTERMATH);
                if over && !self.world.say_again() {
                    self.settled_s = seconds(since - begun);
                    if let Some(detail) = self.world.tree_problem() {
                        let invariant = "the tree has what was acknowledged";
                        self.world.violate(Violation::custody(invariant, detail));
                    }
                    return;
                }
                if self.world.now >= end + AFTERMATH {
                    let detail = self.world.displaced_detail();
                    return self
                        .world
                        .violate(Violation::liveness("devices say again", detail));
                }
            }
            let next = self.world.now + LOOK;
            self.world.run(next);
        }
    }

    /// Lookups from anywhere find what is there.
    fn look_up(&mut self) {
        let mut wanted: Vec<(Who, Id)> = Vec::new();
        for number in 0..LOOKUPS {
            let target = super::stripe_id(!self.world.setup.seed, number);
            let who = self.world.random_hosts(1, Host::is_running);
            wanted.extend(who.into_iter().map(|who| (who, target)));
        }
        // Lookups end in time rather than succeed: where round trips are long some are asked again.
        let far = self.scenario.round_trip_s() > LONG_TRIP_S;
        let tries = if far { 5 } else { 1 };
        for last in (0..tries).rev() {
            let (again, wrong) = self.world.look_for(&wanted);
            let silent = again.first().filter(|_| last == 0);
            let problem = wrong.or_else(|| silent.map(|(.., detail)| detail.clone()));
            if let Some(detail) = problem {
                let violation = Violation::liveness("lookups find the truth", detail);
                return self.world.violate(violation);
            }
            wanted = again.into_iter().map(|(who, target, _)| (who, target)).collect();
        }
    }
}

/// What must hold in the end.
impl World {
    /// What is not as it should be in the end.
    fn problem(&self) -> Option<(&'static str, String)> {
        if let Some(problem) = self.ring_problem() {
            return Some(("the rings become one", problem));
        }
        if self.is_writing() {
            return Some(("puts end", "clients still wait".to_owned()));
        }
        if self.is_recording() {
            return Some(("records end", "devices still wait".to_owned()));
        }
        if let Some(problem) = self.record_problem() {
            return Some(("records come to their places", problem));
        }
        let problem = self.stripe_problem()?;
        Some(("stripes come to their places", problem))
    }

    /// Looks up all of these at once: those without an answer, and what is wrong about another one.
    fn look_for(&mut self, wanted: &[(Who, Id)]) -> (Vec<(Who, Id, String)>, Option<String>) {
        let circle = self.true_circle();
        self.lookups.clear();
        let mut asked: Vec<(Who, LookupId, Id)> = Vec::new();
        for (who, target) in wanted {
            let id = self.act(*who, |ring, now| ring.lookup(now, *target, 3));
            asked.extend(id.map(|id| (*who, id, *target)));
        }
        let end = self.now + micros(RingConfig::default().lookup_timeout) + LOOK;
        self.run(end);
        let answers: Vec<(Who, LookupId, Result<Found, _>)> = self.lookups.drain(..).collect();
        let mut silent = Vec::new();
        for (who, id, target) in asked {
            let answer = answers.iter().find(|(at, lookup, _)| (*at, *lookup) == (who, id));
            let found: Option<Vec<Who>> = answer.and_then(|(.., outcome)| {
                let contacts = outcome.as_ref().ok()?.contacts.iter();
                let found = contacts.filter_map(|contact| self.who(contact.peer));
                Some(found.collect())
            });
            let expected: Vec<Who> = distinct(&circle, target).take(3).collect();
            if found.as_ref() == Some(&expected) {
                continue;
            }
            let ended =
                answer.map(|(.., outcome)| outcome.as_ref().map(|found| (found.hops, found.timeouts)));
            let detail = format!("host {who} found {found:?} at {target:?}, not {expected:?}: {ended:?}");
            if found.is_some() {
                return (silent, Some(detail));
            }
            silent.push((who, target, detail));
        }
        (silent, None)
    }

    /// Traffic is back to idle; where somebody lies, in the end.
    fn listen(&mut self) {
        let times = if self.liars() > 0 { IDLE_BY } else { 1 };
        for left in (0..times).rev() {
            if self.checks.violation.is_some() {
                return;
            }
            match self.overhear() {
                Some(violation) if left == 0 => self.violate(violation),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Counts the traffic of a while; what is wrong with it.
    fn overhear(&mut self) -> Option<Violation> {
        // What a liar sends is its own affair.
        let honest = |host: &&Host| !host.is_liar();
        let sent = |world: &Self| -> u64 {
            let hosts = world.hosts.iter().filter(honest);
            hosts.map(|host| host.sent).sum()
        };
        let before = sent(self);
        let work = std::mem::take(&mut self.counters.work);
        // Stripes that lack shards for want of room are tried again and again.
        let mut stripes = self.truth.stripes.values();
        let short = stripes.any(|stripe| stripe.distinct() < usize::from(stripe.shape.n));
        let end = self.now + micros(IDLE);
        self.run(end);
        let idle = self.counters.work;
        self.counters.work += work;
        let hosts = self.those(Host::is_running);
        let mut bound = self.idle_bound(&hosts);
        if self.liars() > 0 {
            // Whom it orders to drop a shard asks for itself, and what it takes is repaired.
            bound += bound / 4;
        }
        let requests = sent(self) - before;
        if requests > bound {
            let (span, hosts) = (IDLE.as_secs(), hosts.len());
            let detail = format!(
                "{requests} requests in {span} s among {hosts} hosts, expected {bound} at most: {idle:?}"
            );
            return Some(Violation::liveness("traffic is back to idle", detail));
        } else if !short
            // A liar may take what honest hosts have more than once, and they repair that, more and more
            // rarely.
            && self.liars() == 0
            && idle.moved() > 0
        {
            let last = self.counters.moved;
            let last = last.map(|moved| format!("{moved:?}: {}", self.whereabouts(moved)));
            let Work {
                regenerated,
                copied,
                dropped,
                located,
                merged,
                ..
            } = idle;
            let detail = format!(
                "{regenerated} shards regenerated, {copied} copied, {dropped} dropped, {located} locators \
                 written, {merged} sets of records put together while nothing happened, last of {}",
                last.unwrap_or_default()
            );
            return Some(Violation::liveness("repair is back to idle", detail));
        }
        None
    }

    /// Requests expected at most while nothing happens: per host one question for each virtual node and some
    /// more each round, lookups for fingers, a report to every primary each idle period and one
    /// more for doubt.
    fn idle_bound(&self, hosts: &[Who]) -> u64 {
        let config = &self.setup.ring;
        let rounds = micros(IDLE) / micros(config.stabilize).max(1) + 2;
        let count = hosts.len() as u64;
        let running = hosts.iter().filter_map(|who| self.host(*who));
        let nodes: u64 = running.map(|host| u64::from(host.virtual_nodes)).sum();
        let fingers = if count > config.r as u64 { 2 * 8 } else { 0 };
        let reports = self.setup.custody.as_ref().map_or(0, |custody| {
            IDLE.as_secs() / custody.exchange_idle.as_secs().max(1) + 2
        });
        let walks = if self.hosts.iter().any(|host| host.walk.is_some()) {
            (micros(IDLE) / WALK + 1) * count * (count + nodes / 16)
        } else {
            0
        };
        // Forged orders have every holder ask about what it holds, more and more rarely.
        let lying = self.liars() > 0;
        let lies = if lying { count * count * 16 } else { 0 };
        lies + rounds * (nodes + count * (4 + fingers)) + reports * count * count.min(64) + walks
    }
}
