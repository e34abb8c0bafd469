//! Lives of hosts: added, started, killed, stopped, told of others, gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mutualstore_dht::custody::{self, Custody, Holding, Item, Shape};
use mutualstore_dht::ring::{Ring, SelfChange};
use mutualstore_dht::{Contact, Engine, Peer, PeerState, Time};
use sha2::{Digest, Sha256};

use super::disk::Disk;
use super::host::Host;
use super::message::Body;
use super::world::{Crash, DIAL, Event, Who, World};
use super::{contact, mix};

/// Fewer hosts than this may not keep a ring one.
const LEAST: usize = 3;

impl World {
    /// A new host that joins through one of `vias`, or founds a network.
    pub(crate) fn add(&mut self, virtual_nodes: u16, capacity: usize, vias: &[Who]) -> Who {
        let who = Who::try_from(self.hosts.len()).unwrap_or(Who::MAX);
        let mut hash = Sha256::new();
        hash.update(b"simulated peer");
        hash.update(self.setup.seed.to_be_bytes());
        hash.update(who.to_be_bytes());
        let peer = Peer::new(hash.finalize().into());
        let indices = if self.setup.choose { 0 } else { virtual_nodes };
        let contact = Contact {
            addresses: self.setup.addresses.clone(),
            ..contact(peer, (0..indices).collect(), u64::from(virtual_nodes) << 30)
        };
        self.numbers.insert(peer, who);
        self.hosts.push(Host {
            peer,
            virtual_nodes,
            engine: None,
            disk: Disk::default(),
            locators: BTreeMap::new(),
            sets: BTreeMap::new(),
            capacity,
            contact,
            book: Vec::new(),
            book_at: 0,
            joins: vias.to_vec(),
            life: 0,
            born: 0,
            wake: u64::MAX,
            walk: None,
            rosters: <[_; 2]>::default(),
            clock: 0,
            frozen: None,
            stalled: Vec::new(),
            dark: false,
            calls: BTreeMap::new(),
            greeted: BTreeMap::new(),
            revision: 0,
            wedged: false,
            lies: None,
            retired: false,
            sent: 0,
        });
        self.start(who);
        who
    }

    /// Starts the process of a host.
    pub(crate) fn start(&mut self, who: Who) {
        let now = self.now;
        let seed = mix(self.setup.seed ^ mix(u64::from(who) << 32 | now));
        let mut config = self.setup.ring.clone();
        let custody = self.setup.custody.clone();
        let (choose, roster) = (self.setup.choose, self.setup.roster);
        let host = self.hosts.get_mut(who as usize);
        let Some(host) = host.filter(|host| !host.is_up() && !host.retired) else {
            return;
        };
        host.life += 1;
        host.born = now;
        self.unrest.last = now;
        host.dark = false;
        host.wedged = false;
        host.frozen = None;
        host.wake = u64::MAX;
        host.walk = roster.then_some(now + DIAL.0);
        host.rosters = <[_; 2]>::default();
        host.greeted.clear();
        host.contact.version = (1_600_000_000_000_i64 + host.clock).unsigned_abs() + now / 1000;
        host.contact.used = 0;
        host.contact.state = PeerState::Accepting;
        if choose {
            config.virtual_nodes = host.virtual_nodes;
        }
        let away = Duration::from_micros(now.saturating_sub(host.book_at));
        let mut book = std::mem::take(&mut host.book);
        for entry in &mut book {
            entry.age = entry.age.saturating_add(away);
        }
        let first = host.life == 1 && !host.joins.is_empty();
        let mut ring = Ring::new(config.clone(), host.contact.clone(), book, seed, Time::ZERO);
        if first {
            ring.adopt(Time::ZERO, config.r, config.virtual_nodes);
        }
        let custody = custody
            .filter(|_| !host.is_liar())
            .map(|custody| Custody::new(custody, host.peer, mix(seed), Time::ZERO));
        host.engine = Some(Engine::new(ring, custody));
        host.revision = 0;
        let (life, joins) = (host.life, host.joins.clone());
        self.inventory(who);
        self.schedule_lies(who);
        self.checks.host_changed(who);
        self.settle(who);
        self.publish(who);
        for via in joins {
            self.schedule(now, Event::Dial(who, life, via, DIAL.0));
        }
    }

    /// Tells custody what the disk holds.
    fn inventory(&mut self, who: Who) {
        let Some(host) = self.host(who) else { return };
        let disk = host.disk.iter();
        let holdings = disk.map(|(key, stored)| stored.holding(*key, host, &self.hosts));
        let records = host.sets.iter().map(|(id, set)| Holding {
            stripe: *id,
            item: Item::of_records(set.digest()),
            shape: Shape::RECORDS,
            tenure: custody::Tenure::Committed,
        });
        let holdings: Vec<Holding> = holdings.chain(records).collect();
        let engine = self.host_mut(who).and_then(|host| host.engine.as_mut());
        if let Some(custody) = engine.and_then(|engine| engine.custody.as_mut()) {
            for holding in holdings {
                custody.insert(Time::ZERO, holding);
            }
        }
    }

    /// Ends a process without a warning.
    pub(crate) fn crash(&mut self, who: Who, how: Crash) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(who as usize) else {
            return;
        };
        let Some(Engine { ring, .. }) = host.engine.take() else {
            return;
        };
        self.unrest.last = now;
        self.unrest.harmed = true;
        host.book = ring.book(host.local(now));
        host.book_at = now;
        host.contact = ring.me().clone();
        host.frozen = None;
        host.stalled.clear();
        host.calls.clear();
        host.dark = how == Crash::Machine;
        self.checks.host_changed(who);
        // Hardly anybody is left to keep the ring: several may come of it.
        self.checks.one_ring &= self.those(Host::is_running).len() >= LEAST;
        if how == Crash::Process && self.setup.disconnects {
            for other in self.those(Host::is_up) {
                self.send(who, other, None, Body::Disconnect);
            }
        }
    }

    /// Takes the address book of a host that is down.
    pub(crate) fn forget_book(&mut self, who: Who) {
        if let Some(host) = self.host_mut(who).filter(|host| !host.is_up()) {
            host.book.clear();
        }
    }

    /// Sets a host's wall clock off by `millis` from its next start on.
    pub(crate) fn set_clock(&mut self, who: Who, millis: i64) {
        if let Some(host) = self.host_mut(who) {
            host.clock = millis;
        }
    }

    /// Gives a host that is down other virtual nodes.
    pub(crate) fn resize(&mut self, who: Who, virtual_nodes: u16) {
        let choose = self.setup.choose;
        if let Some(host) = self.host_mut(who).filter(|host| !host.is_up()) {
            host.virtual_nodes = virtual_nodes;
            let kept = usize::from(virtual_nodes);
            if choose {
                host.contact.virtual_nodes = host.contact.virtual_nodes.iter().take(kept).copied().collect();
            } else {
                host.contact.virtual_nodes = (0..virtual_nodes).collect();
            }
        }
    }

    /// SIGSTOP: messages wait, time goes on.
    pub(crate) fn freeze(&mut self, who: Who) {
        if let Some(host) = self.host_mut(who).filter(|host| host.is_running()) {
            host.frozen = Some(Vec::new());
            self.unrest.harmed = true;
        }
    }

    /// Lets a stopped process go on.
    pub(crate) fn thaw(&mut self, who: Who) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(who as usize) else {
            return;
        };
        let Some(waiting) = host.frozen.take() else { return };
        self.unrest.last = now;
        let wake = host.wake;
        let stalled = std::mem::take(&mut host.stalled);
        for message in waiting {
            self.schedule(now, Event::Arrive(Box::new(message)));
        }
        for event in stalled {
            self.schedule(now, event);
        }
        if wake != u64::MAX {
            self.schedule(wake, Event::Wake(who));
        }
    }

    /// Somebody gives a host the address of another one.
    pub(crate) fn introduce(&mut self, who: Who, via: Who) {
        let life = self.host(who).map_or(0, |host| host.life);
        if let Some(host) = self.host_mut(who) {
            host.joins.push(via);
        }
        self.schedule(self.now, Event::Dial(who, life, via, DIAL.0));
    }

    /// One host of each group of running ones that know nobody outside.
    pub(crate) fn groups(&self) -> Vec<Who> {
        // Those about to leave join nobody to anybody.
        let running = self.those(Host::stays);
        let mut group: BTreeMap<Who, Who> = running.iter().map(|who| (*who, *who)).collect();
        for who in &running {
            let Some(host) = self.host(*who) else { continue };
            let known = host.ring().into_iter().flat_map(Ring::peers);
            let known = known.filter_map(|(contact, _)| self.who(contact.peer));
            for other in known.chain(host.joins.iter().copied()) {
                if let (Some(mine), Some(theirs)) = (group.get(who).copied(), group.get(&other).copied()) {
                    let merged = group.values_mut().filter(|of| **of == theirs);
                    merged.for_each(|of| *of = mine);
                }
            }
        }
        group.into_values().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A host takes no more shards, and wants to be rid of those it has.
    pub(crate) fn drain(&mut self, who: Who) {
        self.unrest.last = self.now;
        let change = SelfChange {
            state: Some(PeerState::Draining),
            ..SelfChange::default()
        };
        self.act(who, |ring, now| ring.update_self(now, change));
    }

    /// The ring announces its departure; the host is gone for good soon after.
    pub(crate) fn leave(&mut self, who: Who) {
        self.unrest.last = self.now;
        self.unrest.harmed = true;
        self.act(who, Ring::leave);
    }

    /// Gone for good, with its disk.
    pub(crate) fn retire(&mut self, who: Who) {
        self.crash(who, Crash::Machine);
        self.wipe(who);
        if let Some(host) = self.host_mut(who) {
            host.retired = true;
        }
    }
}
