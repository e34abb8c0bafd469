//! Random scenarios by the hundred, and what to say when one fails.

use std::num::NonZero;
use std::thread;

use mutualstore_dht::Flaw;
use mutualstore_dht::records::HOLDERS;
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;

use super::injector::{self, Outcome};
use super::link::{Change, Network};
use super::policy::Policy;
use super::scenario::{Action, Keeping, Pick, Scenario, Step};
use super::work::Work;
use super::{below, chance, generator, pick, uniform};

const ONE: Pick = Pick::Count(1);
const MOST: Pick = Pick::Share(0.7);
const ALL: Pick = Pick::Share(1.0);

/// Draws the scenario of a seed with about so many peers.
pub fn draw(seed: u64, peers: usize) -> Scenario {
    let mut rng = generator(seed, 2);
    let rng = &mut rng;
    let r = one_of(rng, &[4, 6, 8, 12, 16]);
    // One in three stays within what successor lists bear, so that one ring can be demanded all the time.
    let gentle = chance(rng, 0.34);
    let custody = chance(rng, 0.6).then(|| keeping(rng, r, peers));
    let most = 1 + u16::try_from(below(rng, 5)).unwrap_or(0);
    let mut scenario = Scenario {
        title: format!("drawn from seed {seed}"),
        source: format!("mutualstore testnet sim fuzz --peers {peers} --seed {seed} --seeds 1"),
        seed: Some(seed),
        peers: (peers / 2 + below(rng, peers / 2 + 1)).max(1),
        virtual_nodes: [1, most],
        r,
        // Custody needs to know those who hold the same stripes.
        max_learned: (custody.is_none() && chance(rng, 0.4)).then(|| below(rng, 16)),
        choose: chance(rng, 0.3),
        join_every_s: one_of(rng, &[0.0, 0.02, 0.2, 0.5]),
        disconnects: chance(rng, 0.7),
        one_ring: gentle,
        settle_s: 400.0,
        network: network(rng, gentle),
        custody,
        step: Vec::new(),
    };
    let drains = scenario
        .custody
        .as_mut()
        .and_then(|custody| lay_out(custody, seed));
    let mut puts = 2 + below(rng, 20);
    let mut faults = if gentle {
        gentle_faults(rng, r)
    } else if scenario.custody.is_some() && chance(rng, 0.3) {
        // Each side repairs what the other one has: afterwards there is much to trim, and two primaries that
        // order it.
        puts += 30;
        split_faults(rng)
    } else {
        wild_faults(rng, peers)
    };
    if scenario.custody.is_some() && chance(rng, 0.6) {
        faults.push((Action::ForgeOrders { count: 3 }, 5.0));
    }
    if scenario.custody.is_some() && chance(rng, 0.5) {
        faults.push((Action::Delete { count: 2 }, 20.0));
    }
    let puts = if scenario.custody.is_some() { puts } else { 0 };
    let length = 60.0 + 120.0 * uniform(rng);
    scenario.step = timetable(rng, faults, puts, length);
    if let Some(share) = drains {
        drain(&mut scenario.step, share);
    }
    if scenario.custody.is_some() && chance(rng, 0.12) {
        scenario.step.extend(wedged_primaries(rng, &scenario.step));
    } else if scenario.custody.is_some() {
        lie(&mut scenario, seed);
    }
    let mut rng = generator(seed, 7);
    if chance(&mut rng, 0.66) {
        record(&mut scenario, &mut rng);
    }
    scenario
}

/// The same with records alone: no stripe is put, and all that happens does so within a minute.
pub fn draw_records(seed: u64, peers: usize) -> Scenario {
    let mut rng = generator(seed, 8);
    let rng = &mut rng;
    let gentle = chance(rng, 0.34);
    let r = one_of(rng, &[6, 8, 16]);
    let most = 1 + u16::try_from(below(rng, 5)).unwrap_or(0);
    let faults = if gentle {
        gentle_faults(rng, r)
    } else if chance(rng, 0.3) {
        split_faults(rng)
    } else {
        wild_faults(rng, peers)
    };
    // Within a minute as often as otherwise within three.
    let mut faults: Vec<Fault> = faults
        .into_iter()
        .map(|(action, mean)| (action, mean / 3.0))
        .collect();
    if chance(rng, 0.4) {
        faults.push((Action::ForgeOrders { count: 3 }, 3.0));
    }
    let length = 20.0 + 40.0 * uniform(rng);
    let mut scenario = Scenario {
        title: format!("records, drawn from seed {seed}"),
        source: format!("mutualstore testnet sim fuzz --records --peers {peers} --seed {seed} --seeds 1"),
        seed: Some(seed),
        peers: (peers / 2 + below(rng, peers / 2 + 1)).max(1),
        virtual_nodes: [1, most],
        r,
        max_learned: None,
        choose: false,
        join_every_s: one_of(rng, &[0.0, 0.02, 0.2]),
        disconnects: chance(rng, 0.7),
        one_ring: gentle,
        settle_s: 400.0,
        network: network(rng, gentle),
        custody: Some(Keeping::default()),
        step: timetable(rng, faults, 0, length),
    };
    if chance(rng, 0.2) {
        lie(&mut scenario, seed);
    }
    record(&mut scenario, rng);
    scenario
}

fn network(rng: &mut ChaCha8Rng, gentle: bool) -> Network {
    Network {
        delay_ms: [0.2, one_of(rng, &[1.0, 5.0, 40.0, 120.0])],
        jitter_ms: one_of(rng, &[0.5, 5.0, 50.0]),
        slow: sometimes(rng, 0.3, |_| 0.02),
        loss: sometimes(rng, if gentle { 0.0 } else { 0.3 }, |rng| 0.05 * uniform(rng)),
        duplicate: sometimes(rng, 0.3, |rng| 0.1 * uniform(rng)),
    }
}

/// Devices publish and others read, and disks of devices are cloned.
fn record(scenario: &mut Scenario, rng: &mut ChaCha8Rng) {
    let end = scenario.step.last().map(|step| step.at);
    let Some(end) = end.filter(|_| scenario.custody.is_some()) else {
        return;
    };
    // Daemons take no less: who holds records learns by lookups of those that are nearer.
    scenario.r = scenario.r.max(HOLDERS);
    let mut steps = Vec::new();
    let pace = one_of(rng, &[1.0, 4.0, 12.0]);
    let mut at = 0.0;
    while at < end && steps.len() < 200 {
        at += pace * 2.0 * uniform(rng);
        let action = match below(rng, 3) {
            0 => Action::ReadRecords { count: 2 },
            _ => Action::Record {
                count: 1 + below(rng, 3),
            },
        };
        steps.push((at.min(end), action));
    }
    for _ in 0..below(rng, 3) {
        steps.push((end * uniform(rng), Action::CloneDevice {}));
    }
    for (at, action) in steps {
        insert(&mut scenario.step, Step::once(at, action));
    }
}

/// One host leaves in order after this part of all steps.
fn drain(steps: &mut Vec<Step>, share: f64) {
    let Some(last) = steps.last().map(|step| step.at) else {
        return;
    };
    insert(steps, Step::once(last * share, Action::Drain { who: ONE }));
}

/// Puts a step where its time comes, behind those of the same time.
fn insert(steps: &mut Vec<Step>, step: Step) {
    steps.insert(steps.partition_point(|other| other.at <= step.at), step);
}

/// In one of two, somebody lies from some moment on, and others leave, die and are wiped meanwhile: drawn
/// from numbers of its own, as policies are.
fn lie(scenario: &mut Scenario, seed: u64) {
    let mut rng = generator(seed, 6);
    let rng = &mut rng;
    let end = scenario.step.last().map(|step| step.at);
    let (Some(end), Some(keeping)) = (end.filter(|_| chance(rng, 0.5)), &mut scenario.custody) else {
        return;
    };
    // Stripes with room for a liar and a lost host.
    if keeping.n - keeping.k < 2 && keeping.k > 1 {
        keeping.k -= 1;
    }
    // Where hosts are nearly full, what is taken and made good makes them full and not full in turn: views
    // are never all the latest.
    keeping.capacity = Keeping::default().capacity;
    // The one honest holder left may be the seventh after the liar: it audits in each seventh round of a
    // minute.
    scenario.settle_s = 900.0;
    let spare = usize::from(keeping.n - keeping.k);
    let begin = end * uniform(rng);
    let mut part = |odds| if chance(rng, odds) { uniform(rng) } else { 1.0 };
    let lie = Action::Lie {
        stripes: part(0.3),
        hosts: part(0.3),
        who: Pick::Count(if chance(rng, 0.2) { 2.min(spare) } else { 1 }),
    };
    let mut steps = vec![(begin, lie)];
    let drains = below(rng, 3);
    for _ in 0..drains {
        let at = begin + (end - begin) * uniform(rng);
        steps.push((at, Action::Drain { who: ONE }));
    }
    // Each loss is made good before the next one.
    let mut at = end;
    for _ in 0..below(rng, 5) {
        at += 20.0 + 80.0 * uniform(rng);
        let who = count(rng, 3);
        let loss = match below(rng, 4) {
            0 => Action::Retire { who: ONE },
            1 => Action::Kill { who },
            _ => Action::Wipe { who },
        };
        steps.push((at, loss));
        steps.push((at + 5.0, Action::Restart { who: MOST }));
    }
    for (at, action) in steps {
        insert(&mut scenario.step, Step::once(at, action));
    }
}

/// A calm in the end, but that some primaries do not repair and a few hosts die.
fn wedged_primaries(rng: &mut ChaCha8Rng, before: &[Step]) -> Vec<Step> {
    let begin = before.last().map_or(0.0, |step| step.at) + 1.0;
    let part = Pick::Share(0.1 + 0.3 * uniform(rng));
    let steps = [
        (0.0, Action::Heal {}),
        (0.0, Action::Network(Change::default())),
        (0.0, Action::Thaw { who: ALL }),
        (0.0, Action::Restart { who: ALL }),
        (60.0, Action::Wedge { who: part }),
        (61.0, Action::Kill { who: count(rng, 2) }),
        (400.0, put(1, 0.0)),
    ];
    steps
        .into_iter()
        .map(|(after, action)| Step::once(begin + after, action))
        .collect()
}

/// A number drawn with these odds, otherwise 0.
fn sometimes(rng: &mut ChaCha8Rng, odds: f64, number: fn(&mut ChaCha8Rng) -> f64) -> f64 {
    if chance(rng, odds) { number(rng) } else { 0.0 }
}

fn one_of<T: Copy + Default>(rng: &mut ChaCha8Rng, items: &[T]) -> T {
    pick(rng, items).copied().unwrap_or_default()
}

fn keeping(rng: &mut ChaCha8Rng, r: usize, peers: usize) -> Keeping {
    let codes: [(u8, u8); 6] = [(1, 2), (1, 3), (2, 3), (4, 5), (4, 6), (8, 12)];
    let fitting: Vec<(u8, u8)> = codes
        .into_iter()
        .filter(|(_, n)| usize::from(*n) + 4 <= r.max(8) && usize::from(*n) <= peers / 3)
        .collect();
    let (k, n) = pick(rng, &fitting).copied().unwrap_or((1, 2));
    Keeping {
        k,
        n,
        capacity: if chance(rng, 0.2) {
            12 + below(rng, 20)
        } else {
            1_000_000
        },
        pending_lease_s: one_of(rng, &[40.0, 60.0]),
        ..Keeping::default()
    }
}

/// Draws the policies, and when a host is drained, if one is: from numbers of their own, so that everything
/// else in a seed's scenario is what it was before there were policies.
fn lay_out(custody: &mut Keeping, seed: u64) -> Option<f64> {
    let mut rng = generator(seed, 5);
    let rng = &mut rng;
    let policies = {
        use Policy::{Buddies, Copysets, Mixed, Random, Successors};
        [Successors, Successors, Random, Copysets, Buddies, Mixed, Mixed]
    };
    custody.placement = pick(rng, &policies).copied().unwrap_or_default();
    if custody.placement == Policy::Buddies && chance(rng, 0.5) {
        let wider = u8::try_from(below(rng, 1 + usize::from(custody.n))).unwrap_or(0);
        custody.group = Some(custody.n + wider);
    }
    if custody.placement.needs_roster() && chance(rng, 0.5) {
        custody.stripes_per_anchor = 4;
    }
    let drained = custody.placement != Policy::Successors && chance(rng, 0.25);
    drained.then(|| uniform(rng))
}

/// What can happen, each with its mean time between two.
type Fault = (Action, f64);

fn count(rng: &mut ChaCha8Rng, most: usize) -> Pick {
    Pick::Count(1 + below(rng, most))
}

fn join(count: usize, over_s: f64) -> Action {
    Action::Join { count, over_s }
}

fn cut_off(who: Pick, one_way: bool) -> Action {
    Action::Part { who, one_way }
}

fn put(count: usize, dawdle_s: f64) -> Action {
    Action::Put { count, dawdle_s }
}

/// Faults that leave of r peers in a row one alive until the next round.
fn gentle_faults(rng: &mut ChaCha8Rng, r: usize) -> Vec<Fault> {
    let few = (r / 4).max(1);
    let all = vec![
        (Action::Kill { who: count(rng, few) }, 25.0),
        (Action::PowerOff { who: ONE }, 30.0),
        (Action::Restart { who: count(rng, few) }, 20.0),
        (join(1 + below(rng, 4), 0.5), 20.0),
        (Action::Leave { who: ONE }, 30.0),
        (Action::Wipe { who: ONE }, 30.0),
    ];
    subset(rng, all)
}

fn wild_faults(rng: &mut ChaCha8Rng, peers: usize) -> Vec<Fault> {
    let few = (peers / 8).max(1);
    let size = 1 + u16::try_from(below(rng, 8)).unwrap_or(0);
    let part = Pick::Share(0.2 + 0.4 * uniform(rng));
    let all = vec![
        (Action::Kill { who: count(rng, few) }, 12.0),
        (Action::Kill { who: part.clone() }, 60.0),
        (Action::PowerOff { who: count(rng, few) }, 20.0),
        (Action::Restart { who: MOST }, 12.0),
        (Action::RestartForgetful { who: count(rng, few) }, 20.0),
        (Action::Freeze { who: count(rng, few) }, 15.0),
        (Action::Thaw { who: MOST }, 12.0),
        (join(1 + below(rng, few), 1.0), 20.0),
        (Action::Leave { who: ONE }, 25.0),
        (cut_off(part, chance(rng, 0.3)), 50.0),
        (Action::Heal {}, 30.0),
        (
            Action::Network(Change {
                loss: 0.2 * uniform(rng),
                duplicate: 0.1,
                slow: 0.05,
                ..Change::default()
            }),
            40.0,
        ),
        (Action::Wipe { who: count(rng, few) }, 20.0),
        (Action::Retire { who: ONE }, 40.0),
        (
            Action::Resize {
                who: count(rng, few),
                virtual_nodes: size,
            },
            25.0,
        ),
        (
            Action::Clock {
                who: Pick::Share(0.3),
                offset_s: one_of(rng, &[-86_400, -5, 5, 86_400]),
            },
            60.0,
        ),
    ];
    subset(rng, all)
}

fn split_faults(rng: &mut ChaCha8Rng) -> Vec<Fault> {
    let part = Pick::Share(0.3 + 0.3 * uniform(rng));
    vec![
        (cut_off(part, chance(rng, 0.2)), 30.0),
        (Action::Heal {}, 20.0),
        (Action::Kill { who: ONE }, 20.0),
        (Action::Restart { who: MOST }, 15.0),
        (join(1, 0.0), 20.0),
    ]
}

fn subset(rng: &mut ChaCha8Rng, all: Vec<Fault>) -> Vec<Fault> {
    let share = 0.25 + 0.6 * uniform(rng);
    all.into_iter().filter(|_| chance(rng, share)).collect()
}

/// When what happens.
fn timetable(rng: &mut ChaCha8Rng, faults: Vec<Fault>, puts: usize, length: f64) -> Vec<Step> {
    let calm = 15.0 * uniform(rng);
    let mut steps = Vec::new();
    let mut step = |at: f64, action: Action| steps.push(Step::once(at, action));
    for (action, mean) in faults {
        let rate = 0.5 + uniform(rng);
        let mut at = calm;
        loop {
            at += -mean * rate * (1.0 - uniform(rng)).ln();
            if at > length {
                break;
            }
            step(at, action.clone());
        }
    }
    for _ in 0..puts {
        let at = length * uniform(rng);
        let dawdle_s = sometimes(rng, 0.4, |rng| 30.0 * uniform(rng));
        step(at, put(1 + below(rng, 3), dawdle_s));
    }
    steps.sort_by(|a, b| a.at.total_cmp(&b.at));
    steps
}

/// How a batch of seeds went.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How many scenarios ran.
    pub seeds: u64,
    /// Runs in which an invariant did not hold, by seed.
    pub failures: Vec<(u64, Outcome)>,
    /// Events handled.
    pub events: u64,
    /// Virtual time, in seconds.
    pub virtual_s: f64,
    /// Stripes acknowledged.
    pub acknowledged: u64,
    /// Records acknowledged.
    pub recorded: u64,
    /// What they took.
    pub work: Work,
    /// Digest over all runs.
    pub trace: u64,
}

impl Batch {
    /// Counts a run.
    pub fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.virtual_s += outcome.virtual_s;
        self.acknowledged += outcome.acknowledged;
        self.recorded += outcome.recorded;
        self.work += outcome.work;
        self.trace = self.trace.wrapping_add(outcome.trace);
        if outcome.violation.is_some() {
            self.failures.push((seed, outcome));
            self.failures.sort_by_key(|(seed, _)| *seed);
        }
    }
}

/// Runs the scenarios that `draw` draws of `seeds` seeds from `first` on, on all processors. After each run
/// `stop` is asked whether to go on.
pub fn batch(
    (first, seeds): (u64, u64),
    (draw, peers): (fn(u64, usize) -> Scenario, usize),
    flaw: Option<Flaw>,
    stop: &(dyn Fn(&Batch) -> bool + Sync),
) -> Batch {
    let batch = Mutex::new(Batch::default());
    let left = Mutex::new(0..seeds);
    let next = || left.lock().next();
    let width = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                while let Some(number) = next() {
                    let seed = first.wrapping_add(number);
                    let scenario = draw(seed, peers);
                    let outcome = injector::run(&scenario, seed, flaw);
                    let mut batch = batch.lock();
                    batch.add(seed, outcome);
                    if stop(&batch) {
                        *left.lock() = 0..0;
                    }
                }
            });
        }
    });
    batch.into_inner()
}
