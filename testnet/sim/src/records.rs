//! Devices that publish records, and readers of them: the machines of [`mutualstore_dht::records`], driven
//! over the simulated network.
//!
//! Simpler than in the daemon: a record is its stamp, its hash a number by lot; a device publishes one at a
//! time, through one host; whom a record goes to, and who is asked, its host knows from its own view.

mod checks;
mod holders;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mutualstore_dht::records::{
    ASKED, Author, Gathered, Gathering, Publish, Published, Publishing, RecordSet, Stamp,
};
use mutualstore_dht::{Id, Others, Peer, PeerState, RingView, Time};
use mutualstore_tree::bucket::Bucket;
use rand_chacha::rand_core::Rng;

use self::checks::{Acknowledged, Owed};
use self::tree::Tree;
use super::host::Host;
use super::message::Body;
use super::world::{Event, Who, World};

/// A peer that has not answered after so long does not.
const DEADLINE: u64 = 1_000_000;
/// How long a device tries to publish, and a reader to read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that devices say something of.
const BUCKETS: u64 = 3;
/// Devices of a run, clones not counted.
const DEVICES: usize = 4;

/// Between devices or readers and holders; `operation` is a number.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Take {
        operation: u64,
        id: Id,
        stamp: Stamp,
    },
    Taken {
        operation: u64,
        answer: Publish,
    },
    Read {
        operation: u64,
        id: Id,
    },
    /// None: it does not answer.
    Given {
        operation: u64,
        set: Option<RecordSet>,
    },
}

impl Message {
    /// What a closed port says to it.
    pub(crate) fn refused(&self) -> Option<Self> {
        match *self {
            Self::Take { operation, .. } => Some(Self::Taken {
                operation,
                answer: Publish::Silent,
            }),
            Self::Read { operation, .. } => Some(Self::Given { operation, set: None }),
            Self::Taken { .. } | Self::Given { .. } => None,
        }
    }
}

/// A device: what it says and has said survives everything but the loss of its host.
#[derive(Clone, Debug)]
struct Device {
    through: Who,
    id: Id,
    author: Author,
    busy: bool,
    /// How much of each device, the original of a clone among them, its next record says.
    says: Says,
    /// What that is.
    bucket: Bucket,
}

/// How many things of which device.
type Says = BTreeMap<usize, u64>;

#[derive(Debug)]
enum Task {
    Publish {
        device: usize,
        stamp: Stamp,
        publishing: Publishing,
        stored: BTreeSet<Who>,
        acknowledged: bool,
    },
    Read(Reading),
}

#[derive(Debug)]
struct Reading {
    gathering: Gathering,
    set: RecordSet,
    /// The first peers from the id when it began.
    near: Vec<Who>,
    answered: BTreeSet<Who>,
    asked: BTreeSet<Who>,
    /// Hosts that counted as dead when they did not answer.
    dead: BTreeSet<Who>,
    full: bool,
    /// What was acknowledged by then, and who had it.
    owed: Vec<Owed>,
}

#[derive(Debug)]
struct Operation {
    through: Who,
    life: u32,
    id: Id,
    task: Task,
    /// Until when an answer of whom is waited for.
    sent: BTreeMap<Who, u64>,
    wake: u64,
}

/// Devices, what they are at, and what they were told.
#[derive(Debug, Default)]
pub(crate) struct Records {
    devices: Vec<Device>,
    operations: BTreeMap<u64, Operation>,
    next: u64,
    /// What each record says, by its hash.
    said: BTreeMap<[u8; 32], Says>,
    tree: Tree,
    /// Numbers under which two majorities without a common holder have acknowledged different things, or
    /// three devices said their next thing: what is acknowledged may be displaced, until it is said again.
    split: BTreeSet<u64>,
    /// How many records there are of one number and sequence.
    alike: BTreeMap<(u64, u64), usize>,
    acknowledged: BTreeMap<Id, Acknowledged>,
    /// Readings that ended with an answer.
    pub(crate) read: u64,
}

impl Records {
    /// Records of which somebody was told that they are stored.
    pub(crate) fn count(&self) -> u64 {
        self.acknowledged.values().map(|of| of.count).sum()
    }
}

/// What happens in a scenario.
impl World {
    /// A device publishes a record, unless it is at one already.
    pub(crate) fn record(&mut self) {
        if self.records.devices.len() < DEVICES {
            let Some(through) = self.random_hosts(1, Host::is_joined).first().copied() else {
                return;
            };
            let bucket = self.rng.next_u64() % BUCKETS;
            let writer = self.rng.next_u64();
            let device = Device {
                through,
                id: super::stripe_id(self.setup.seed ^ 0x7265_636f, bucket),
                author: Author::new(writer),
                bucket: Tree::bucket(writer),
                busy: false,
                says: Says::new(),
            };
            self.records.devices.push(device);
        }
        let device = self.random(self.records.devices.len());
        self.publish_record(device);
    }

    /// The disk of a device is cloned, and the clone runs on another host.
    pub(crate) fn clone_device(&mut self) {
        let device = self.random(self.records.devices.len().max(1));
        let through = self.random_hosts(1, Host::is_joined).first().copied();
        let original = self.records.devices.get(device).cloned();
        if let (Some(original), Some(through)) = (original, through) {
            self.records.devices.push(Device {
                through,
                busy: false,
                ..original
            });
        }
    }

    /// Somebody reads the records of a key that has some.
    pub(crate) fn read_records(&mut self) {
        let ids: Vec<Id> = self.records.acknowledged.keys().copied().collect();
        let through = self.random_hosts(1, Host::is_joined).first().copied();
        let (Some(id), Some(through)) = (super::pick(&mut self.rng, &ids).copied(), through) else {
            return;
        };
        let full = self.random(4) == 0;
        let Some(host) = self.host(through) else { return };
        let Some(ring) = host.ring() else { return };
        let near: Vec<Peer> = RingView::successors(ring, id, usize::MAX)
            .into_iter()
            .map(|member| member.peer)
            .collect();
        let first = near.iter().take(ASKED).filter_map(|peer| self.who(*peer));
        let task = Task::Read(Reading {
            near: first.collect(),
            gathering: Gathering::new(self.moment(), &near, full, TIMEOUT, self.setup.flaw),
            set: RecordSet::default(),
            answered: BTreeSet::new(),
            asked: BTreeSet::new(),
            dead: BTreeSet::new(),
            full,
            owed: self.owed(id),
        });
        self.begin_operation(through, id, task);
    }

    /// A device says the next thing, under the number that it has.
    fn publish_record(&mut self, device: usize) {
        let hash = self.rng.next_u64();
        let now = self.moment();
        let flaw = self.setup.flaw;
        let Some(of) = self.records.devices.get_mut(device) else {
            return;
        };
        let (through, id) = (of.through, of.id);
        let host = self.hosts.get(through as usize).filter(|host| host.is_joined());
        let near = host.and_then(|host| {
            let ring = host.ring()?;
            let members = RingView::successors(ring, id, usize::MAX).into_iter();
            let staying = members.filter(|member| member.state != PeerState::Draining);
            let near: Vec<Peer> = staying.map(|member| member.peer).collect();
            Some((
                near,
                Others::new(ring, host.custody()?, host.moment(self.now)).counted(),
            ))
        });
        let Some((near, known)) = near else {
            // The device moves on when its host is gone for good, or lies.
            let lost = |host: &Host| host.retired || host.is_liar();
            let honest = |host: &Host| host.is_joined() && !host.is_liar();
            if self.hosts.get(through as usize).is_some_and(lost)
                && let Some(through) = self.random_hosts(1, honest).first().copied()
                && let Some(of) = self.records.devices.get_mut(device)
            {
                of.through = through;
                of.author = Author::new(hash);
                of.bucket.renumber(hash);
                of.busy = false;
            }
            return;
        };
        if of.busy {
            return;
        }
        of.busy = true;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&hash.to_be_bytes());
        let stamp = of.author.pending(flaw).unwrap_or_else(|| {
            *of.says.entry(device).or_default() += 1;
            let stamp = of.author.next(bytes);
            let alike = self
                .records
                .alike
                .entry((stamp.writer, stamp.sequence))
                .or_default();
            *alike += 1;
            // Holders keep two.
            if *alike > 2 {
                self.records.split.insert(stamp.writer);
            }
            self.records.said.insert(stamp.hash, of.says.clone());
            let tree = &mut self.records.tree;
            tree.write(device, &mut of.bucket, self.now / 1000, hash);
            tree.said(stamp.hash, &of.bucket);
            stamp
        });
        let mut publishing = Publishing::new(now, &near, known, TIMEOUT);
        publishing.plant(flaw);
        let task = Task::Publish {
            device,
            stamp,
            publishing,
            stored: BTreeSet::new(),
            acknowledged: false,
        };
        self.begin_operation(through, id, task);
    }

    /// Devices whose records a clone's may have displaced say them again, as they do when they read next.
    /// Whether there was one.
    pub(crate) fn say_again(&mut self) -> bool {
        let displaced = self.displaced();
        for device in &displaced {
            self.publish_record(*device);
        }
        !displaced.is_empty()
    }

    /// Whether somebody is still at something: those of hosts that died are not.
    pub(crate) fn is_recording(&self) -> bool {
        let mut operations = self.records.operations.values();
        operations.any(|operation| {
            let host = self.host(operation.through);
            host.is_some_and(|host| host.is_up() && host.life == operation.life)
        })
    }
}

/// What a device or a reader is at, step by step.
impl World {
    fn moment(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn begin_operation(&mut self, through: Who, id: Id, task: Task) {
        self.records.next += 1;
        let number = self.records.next;
        let operation = Operation {
            through,
            life: self.host(through).map_or(0, |host| host.life),
            id,
            task,
            sent: BTreeMap::new(),
            wake: u64::MAX,
        };
        self.records.operations.insert(number, operation);
        self.advance_operation(number);
    }

    /// An operation may have something to do.
    pub(crate) fn advance_operation(&mut self, number: u64) {
        let Some(mut operation) = self.records.operations.remove(&number) else {
            return;
        };
        if operation.wake <= self.now {
            operation.wake = u64::MAX;
        }
        let (who, life) = (operation.through, operation.life);
        if !self.lives(who, life) {
            if self.stall(who, life, Event::Record(number)) {
                self.records.operations.insert(number, operation);
            } else {
                self.abandon(&operation);
            }
            return;
        }
        let late = operation.sent.iter().filter(|(_, due)| **due <= self.now);
        for from in late.map(|(who, _)| *who).collect::<Vec<_>>() {
            self.settle_operation(&mut operation, from, None);
        }
        let Some(due) = self.step_operation(number, &mut operation) else {
            return;
        };
        let due = operation.sent.values().copied().fold(due, u64::min);
        if due < operation.wake {
            operation.wake = due;
            self.schedule(due, Event::Record(number));
        }
        self.records.operations.insert(number, operation);
    }

    /// The process died: its device may go on when it runs again.
    fn abandon(&mut self, operation: &Operation) {
        if let Task::Publish { device, .. } = operation.task
            && let Some(device) = self.records.devices.get_mut(device)
        {
            device.busy = false;
        }
    }

    /// Takes all steps that an operation can take. When it goes on at the latest; none when it has ended.
    fn step_operation(&mut self, number: u64, operation: &mut Operation) -> Option<u64> {
        let now = self.moment();
        let id = operation.id;
        let mut asked = Vec::new();
        let due = match &mut operation.task {
            Task::Publish {
                stamp, publishing, ..
            } => {
                while let Some(peer) = publishing.poll(now) {
                    let stamp = *stamp;
                    asked.push((
                        peer,
                        Message::Take {
                            operation: number,
                            id,
                            stamp,
                        },
                    ));
                }
                publishing.poll_timeout().map_or(u64::MAX, Time::as_micros)
            }
            Task::Read(Reading { gathering, .. }) => {
                while let Some(peer) = gathering.poll(now) {
                    asked.push((
                        peer,
                        Message::Read {
                            operation: number,
                            id,
                        },
                    ));
                }
                gathering.poll_timeout().as_micros()
            }
        };
        for (peer, message) in asked {
            if let Some(to) = self.who(peer) {
                operation.sent.insert(to, self.now + DEADLINE);
                if let Task::Read(reading) = &mut operation.task {
                    reading.asked.insert(to);
                }
                self.send(operation.through, to, None, Body::Records(message));
            }
        }
        (!self.end_operation(operation)).then_some(due)
    }

    /// Notes what an operation came to. Whether it has ended.
    fn end_operation(&mut self, operation: &mut Operation) -> bool {
        let now = self.moment();
        match &mut operation.task {
            Task::Read(reading) => match reading.gathering.state(now) {
                Gathered::Open => false,
                Gathered::Silent(_) => true,
                Gathered::Done(_) => {
                    self.records.read += 1;
                    self.check_reading(operation.through, operation.id, reading);
                    true
                }
            },
            Task::Publish {
                device,
                stamp,
                publishing,
                stored,
                acknowledged,
            } => {
                let (device, stamp) = (*device, *stamp);
                let over = publishing.is_over();
                match publishing.state() {
                    Published::Acknowledged => {
                        let stored = stored.clone();
                        let first = !std::mem::replace(acknowledged, true);
                        let needed = publishing.needed();
                        self.acknowledge_record(operation.id, (device, stamp), (&stored, needed), first);
                        if let Some(device) = self.records.devices.get_mut(device) {
                            device.busy = false;
                            device.author.acknowledge(stamp);
                        }
                        over
                    }
                    Published::Short { .. } if over => {
                        if let Some(device) = self.records.devices.get_mut(device) {
                            device.busy = false;
                        }
                        true
                    }
                    Published::Short { .. } => false,
                    Published::Doubled(others) => {
                        self.renumber(device, &others);
                        true
                    }
                    Published::Ended => true,
                }
            }
        }
    }

    /// Another device uses the number of this one: it draws a new one, takes in what the other said, and says
    /// all of its own again.
    fn renumber(&mut self, device: usize, others: &[Stamp]) {
        let number = self.rng.next_u64();
        if let Some(of) = self.records.devices.get_mut(device) {
            of.busy = false;
            for stamp in others {
                self.records.tree.heard(&mut of.bucket, stamp);
            }
            of.author.renumber(number, self.setup.flaw);
            of.bucket.renumber(of.author.writer());
        }
        self.publish_record(device);
    }

    /// A host answered, or does not.
    fn settle_operation(&mut self, operation: &mut Operation, from: Who, answer: Option<Answer>) {
        let now = self.moment();
        let waited = operation.sent.remove(&from).is_some();
        let (Some(peer), true) = (self.peer(from), waited) else {
            return;
        };
        let Some(ring) = self.hosts.get(operation.through as usize).and_then(Host::ring) else {
            return;
        };
        match &mut operation.task {
            Task::Publish {
                device,
                publishing,
                stored,
                ..
            } => {
                let device = self.records.devices.get(*device);
                let answer = match (answer, device) {
                    (Some(Answer::Taken(answer)), Some(device)) => device.author.judge(answer),
                    (Some(Answer::Taken(_) | Answer::Given(_)) | None, _) => Publish::Silent,
                };
                if answer == Publish::Stored {
                    stored.insert(from);
                }
                publishing.handle_answer(now, ring, peer, answer);
            }
            Task::Read(Reading {
                gathering,
                set,
                answered,
                dead,
                ..
            }) => {
                let given = match answer {
                    Some(Answer::Given(theirs)) => Some(theirs),
                    Some(Answer::Taken(_)) | None => None,
                };
                if given.is_none() && !RingView::is_alive(ring, peer) {
                    dead.insert(from);
                }
                gathering.handle_answer(now, ring, peer, given.is_some());
                if let Some(theirs) = given {
                    answered.insert(from);
                    for stamp in theirs.stamps() {
                        set.take(stamp);
                    }
                }
            }
        }
    }
}

/// What an answer says.
enum Answer {
    Taken(Publish),
    Given(RecordSet),
}
