//! What one holder reports to one primary, from nothing in common to equal fingerprints.

#![allow(missing_docs, reason = "benches are named by what they measure")]

use std::time::Duration;

use mutualstore_dht::custody::{Custody, CustodyConfig, Holding, Item, Shape, Tenure};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Id, Member, Peer, PeerState, RingView, Time};

const HOLDER: Peer = Peer::new([1; 32]);
const PRIMARY: Peer = Peer::new([2; 32]);

fn main() {
    divan::main();
}

/// The view of one of the two: the other one is the primary of everything.
struct View(Peer);

impl RingView for View {
    fn me(&self) -> Peer {
        self.0
    }

    fn successors(&self, _: Id, limit: usize) -> Vec<Member> {
        let member = |peer| Member {
            peer,
            state: PeerState::Accepting,
        };
        [PRIMARY, HOLDER].into_iter().map(member).take(limit).collect()
    }

    fn is_alive(&self, _: Peer) -> bool {
        true
    }

    fn moves(&self) -> u64 {
        0
    }

    fn is_settled(&self) -> bool {
        true
    }
}

fn stripe(number: u32) -> Id {
    let mut id = [0; 32];
    let bytes = number.wrapping_mul(0x9e37_79b9).to_be_bytes();
    id.iter_mut().rev().zip(bytes).for_each(|(to, from)| *to = from);
    Id::new(id)
}

fn pair(stripes: u32) -> [Custody; 2] {
    let new = |peer| Custody::new(CustodyConfig::default(), peer, 1, Time::ZERO);
    let mut holder = new(HOLDER);
    for number in 0..stripes {
        let holding = Holding {
            stripe: stripe(number),
            item: Item::Shard(1),
            shape: Shape {
                k: 1,
                n: 2,
                shard_len: 1 << 20,
                placement: Placement::Successors,
            },
            tenure: Tenure::Committed,
        };
        holder.insert(Time::ZERO, holding);
    }
    [holder, new(PRIMARY)]
}

/// Five seconds of both, whose messages arrive at once.
fn exchange([holder, primary]: &mut [Custody; 2]) -> usize {
    let mut now = Time::ZERO;
    for _ in 0..50 {
        now = now + Duration::from_millis(100);
        for (custody, peer) in [(&mut *holder, HOLDER), (&mut *primary, PRIMARY)] {
            while custody.poll_timeout().is_some_and(|due| due <= now) {
                custody.handle_timeout(now, &View(peer));
            }
        }
        carry(now, (holder, HOLDER), (primary, PRIMARY));
        carry(now, (primary, PRIMARY), (holder, HOLDER));
    }
    primary.stats().endangered + primary.stats().unsure
}

fn carry(now: Time, (from, sender): (&mut Custody, Peer), (to, receiver): (&mut Custody, Peer)) {
    while let Some(call) = from.poll_transmit() {
        let answer = to.handle_request(now, &View(receiver), sender, call.request);
        from.handle_response(now, &View(sender), call.id, answer);
    }
}

#[divan::bench(args = [1_000, 20_000], sample_count = 20)]
fn first_report(bencher: divan::Bencher<'_, '_>, stripes: u32) {
    let mut check = pair(stripes);
    assert_eq!(exchange(&mut check), stripes as usize);
    bencher.with_inputs(|| pair(stripes)).bench_local_refs(exchange);
}
