//! Lookups in rings whose messages arrive at once: what the state machines cost.

#![allow(missing_docs, reason = "benches are named by what they measure")]

use std::collections::BTreeMap;
use std::time::Duration;

use mutualstore_dht::ring::{BookEntry, Event, LookupId, Ring, RingConfig};
use mutualstore_dht::{Contact, Id, Peer, PeerState, Signature, Time};

/// Length of successor lists.
const R: usize = 4;

fn main() {
    divan::main();
}

/// Rings that know each other, and their time.
struct Network {
    rings: BTreeMap<Peer, Ring>,
    now: Time,
    /// Lookups that ended, and the peers that each asked.
    ended: Vec<(LookupId, usize)>,
}

fn contact(number: u16) -> Contact {
    let mut key = [0; 32];
    key.iter_mut()
        .zip(number.to_be_bytes())
        .for_each(|(to, from)| *to = from);
    Contact {
        peer: Peer::new(key),
        version: 1,
        virtual_nodes: (0..8).collect(),
        addresses: [format!("/memory/{number}")].into(),
        capacity: 1 << 30,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    }
}

impl Network {
    /// So many peers, joined by the first one, after two minutes.
    fn new(peers: u16) -> Self {
        let now = Time::ZERO;
        let entry = |contact| BookEntry {
            contact,
            age: Duration::ZERO,
        };
        let start = |number: u16| {
            let book = (number > 0).then(|| entry(contact(0))).into_iter().collect();
            let config = RingConfig {
                r: R,
                max_learned: 0,
                ..RingConfig::default()
            };
            let ring = Ring::new(config, contact(number), book, number.into(), now);
            (contact(number).peer, ring)
        };
        let mut network = Self {
            rings: (0..peers).map(start).collect(),
            now,
            ended: Vec::new(),
        };
        for _ in 0..1200 {
            network.now = network.now + Duration::from_millis(100);
            for ring in network.rings.values_mut() {
                ring.handle_timeout(network.now);
            }
            network.deliver();
        }
        network
    }

    /// Carries messages until nobody says anything.
    fn deliver(&mut self) {
        loop {
            let mut calls = Vec::new();
            for (from, ring) in &mut self.rings {
                calls.extend(std::iter::from_fn(|| ring.poll_transmit()).map(|call| (*from, call)));
                while let Some(event) = ring.poll_event() {
                    if let Event::LookupDone {
                        id,
                        outcome: Ok(found),
                    } = event
                    {
                        self.ended.push((id, found.path.len()));
                    }
                }
            }
            if calls.is_empty() {
                break;
            }
            for (from, call) in calls {
                let receiver = self.rings.get_mut(&call.to.peer);
                let answer = receiver.map(|ring| ring.handle_request(self.now, from, call.request));
                if let (Some(ring), Some(answer)) = (self.rings.get_mut(&from), answer) {
                    ring.handle_response(self.now, call.id, answer);
                }
            }
        }
    }

    /// Peers that were asked.
    fn lookup(&mut self, target: Id) -> usize {
        let (_, ring) = self.rings.iter_mut().next().expect("there are peers");
        let id = ring.lookup(self.now, target, R);
        self.deliver();
        let (ended, asked) = self.ended.pop().expect("nothing is lost");
        assert_eq!(ended, id);
        asked
    }
}

/// From the first peer to points all around the circle, by the number of peers. Few others are remembered,
/// so that most lookups ask.
#[divan::bench(args = [16, 128], sample_count = 20)]
fn lookup(bencher: divan::Bencher<'_, '_>, peers: u16) {
    let mut network = Network::new(peers);
    let asked: usize = points().map(|point| network.lookup(point)).sum();
    assert!(asked > 0, "the first peer knows everybody");
    let mut points = points().cycle();
    bencher.bench_local(|| points.next().map(|point| network.lookup(point)));
}

fn points() -> impl Iterator<Item = Id> + Clone {
    (0..=u8::MAX).map(|point| Id::new([point.wrapping_mul(61); 32]))
}
