//! A deletion in a ring of eight peers of which some are away.

use super::*;
use crate::testing::peer;

const TIMEOUT: Duration = Duration::from_secs(10);
const STRIPE: Id = Id::new([7; 32]);
/// 4 + 2 shards, at peers 0 to 5 of eight.
const TARGET: Target = Target {
    stripe: STRIPE,
    k: 4,
    n: 6,
};

/// Eight peers of which some are away.
struct Ring {
    away: Vec<usize>,
    gone: bool,
}

impl Ring {
    fn whole() -> Self {
        Self::without(&[])
    }

    fn without(away: &[usize]) -> Self {
        Self {
            away: away.to_vec(),
            gone: false,
        }
    }

    fn answers(&self, who: Peer) -> bool {
        !self.away.iter().any(|away| peer(*away) == who)
    }

    /// What is seen: shards where no tombstone is, the others under tombstones, and on record all.
    fn seen(&self, keepers: &BTreeSet<Peer>) -> Seen {
        let mut seen = Seen {
            keepers: keepers.clone(),
            answered: (0..8).map(peer).filter(|peer| self.answers(*peer)).collect(),
            ..Seen::default()
        };
        for index in 0..TARGET.n {
            let (number, at) = (usize::from(index), peer(usize::from(index)));
            if self.away.contains(&number) {
                seen.unreachable.insert(index, at);
            } else if !keepers.contains(&at) {
                seen.held.insert((index, at));
            }
        }
        seen
    }
}

impl Outlook for Ring {
    fn alive(&self) -> usize {
        8 - self.away.len()
    }

    fn is_excused(&self, who: Peer, is_kept: bool) -> bool {
        self.gone && is_kept && !self.answers(who)
    }

    fn sees_half(&self) -> bool {
        self.gone || self.away.len() <= 3
    }

    fn suspects(&self, _: Id, _: usize, is_kept: bool) -> Vec<Peer> {
        let away = self.away.iter().filter(|_| !(self.gone && is_kept));
        away.map(|number| peer(*number)).collect()
    }
}

/// Drives it in a ring; `accepts` says who takes a tombstone. Returns how long it took and who has it.
fn drive(
    deleting: &mut Deleting,
    ring: &Ring,
    accepts: impl Fn(Time, Peer) -> bool,
) -> (Duration, BTreeSet<Peer>) {
    let (mut now, mut keepers) = (Time::ZERO, BTreeSet::new());
    while !deleting.is_over() {
        match deleting.poll(now, ring) {
            Some(Delete::Look) => deleting.handle_look(vec![ring.seen(&keepers)]),
            Some(Delete::Replicate { to, stripes }) => {
                let taken: BTreeSet<Id> = stripes.iter().copied().filter(|_| accepts(now, to)).collect();
                keepers.extend(taken.iter().map(|_| to));
                deleting.handle_replicated(to, &stripes, &taken);
            }
            Some(Delete::Spread {
                stripe,
                count,
                keepers: had,
            }) => {
                let free = (0..8)
                    .map(peer)
                    .filter(|peer| ring.answers(*peer) && !had.contains(peer));
                let taken: Vec<Peer> = free.take(count).collect();
                keepers.extend(&taken);
                deleting.handle_spread(stripe, taken);
            }
            None if deleting.is_over() => {}
            None => now = deleting.poll_timeout().expect("something is to come"),
        }
    }
    (now.since(Time::ZERO), keepers)
}

fn deleting() -> Deleting {
    Deleting::new(vec![TARGET], BTreeMap::new(), TIMEOUT)
}

#[test]
fn every_holder_gets_the_tombstone() {
    let mut deleting = deleting();
    let (took, keepers) = drive(&mut deleting, &Ring::whole(), |_, _| true);
    assert_eq!((took, keepers), (Duration::ZERO, (0..6).map(peer).collect()));
    assert_eq!(deleting.outcome(), Ok(0));
}

#[test]
fn fewer_than_k_shards_may_be_left() {
    let mut three = deleting();
    drive(&mut three, &Ring::without(&[0, 1, 2]), |_, _| true);
    assert_eq!(three.outcome(), Ok(3));
    let mut four = deleting();
    let (took, _) = drive(&mut four, &Ring::without(&[0, 1, 2, 3]), |_, _| true);
    assert_eq!((took, four.outcome()), (TIMEOUT, Err(1)));
    assert_eq!(four.away().get(&STRIPE).map(BTreeMap::len), Some(4));
}

#[test]
fn who_is_gone_for_long_does_not_count() {
    let mut deleting = deleting();
    let mut ring = Ring::without(&[0, 1, 2, 3]);
    ring.gone = true;
    drive(&mut deleting, &ring, |_, _| true);
    assert_eq!(deleting.outcome(), Ok(0));
}

/// All holders are gone, and come back: nobody would tell them.
#[test]
fn who_is_gone_for_long_counts_where_no_tombstone_is() {
    let mut deleting = deleting();
    let mut ring = Ring::without(&[0, 1, 2, 3, 4, 5]);
    ring.gone = true;
    assert_eq!(drive(&mut deleting, &ring, |_, _| true).0, TIMEOUT);
    assert_eq!(deleting.outcome(), Err(1));
}

#[test]
fn holder_that_does_not_take_it_is_asked_again() {
    let mut deleting = deleting();
    let busy = Time::ZERO + Duration::from_secs(3);
    let takes = |now, _| now >= busy;
    let (took, keepers) = drive(&mut deleting, &Ring::whole(), takes);
    assert_eq!((took, keepers.len()), (Duration::from_secs(3), 6));
    assert_eq!(deleting.outcome(), Ok(0));
}

#[test]
fn shard_at_two_peers_is_gone_only_at_both() {
    let mut deleting = Deleting::new(vec![Target { k: 1, ..TARGET }], BTreeMap::new(), TIMEOUT);
    let ring = Ring::whole();
    assert_eq!(deleting.poll(Time::ZERO, &ring), Some(Delete::Look));
    let held = BTreeSet::from([(0, peer(0)), (0, peer(1))]);
    let seen = Seen {
        held,
        ..Seen::default()
    };
    deleting.handle_look(vec![seen]);
    while let Some(order) = deleting.poll(Time::ZERO, &ring) {
        match order {
            Delete::Replicate { to, stripes } => {
                let taken = stripes.iter().copied().filter(|_| to == peer(1)).collect();
                deleting.handle_replicated(to, &stripes, &taken);
            }
            Delete::Spread { stripe, .. } => deleting.handle_spread(stripe, (1..7).map(peer)),
            Delete::Look => unreachable!("it rests first"),
        }
    }
    assert!(!deleting.is_over());
}

#[test]
fn who_comes_back_after_the_look_still_counts() {
    let away = (0..4).map(|index| (index, peer(usize::from(index)))).collect();
    let mut deleting = Deleting::new(vec![TARGET], BTreeMap::from([(STRIPE, away)]), TIMEOUT);
    assert_eq!(deleting.poll(Time::ZERO, &Ring::whole()), Some(Delete::Look));
    // Peers 0 to 3 were away when the others were asked, and nobody has them on record.
    let mut seen = Ring::without(&[0, 1, 2, 3]).seen(&BTreeSet::from([peer(4), peer(5)]));
    seen.unreachable.clear();
    deleting.handle_look(vec![seen]);
    while let Some(order) = deleting.poll(Time::ZERO, &Ring::whole()) {
        if let Delete::Spread { stripe, .. } = order {
            deleting.handle_spread(stripe, [peer(6)]);
        }
    }
    assert!(!deleting.is_over() && deleting.outcome() == Err(1));
}

#[test]
fn few_tombstones_are_spread_at_the_same_time() {
    let ring = Ring::whole();
    let stripes = 2 * AT_ONCE;
    let targets = (0..stripes).map(|number| Target {
        stripe: Id::new([u8::try_from(number).expect("few"); 32]),
        ..TARGET
    });
    let mut deleting = Deleting::new(targets.collect(), BTreeMap::new(), TIMEOUT);
    assert_eq!(deleting.poll(Time::ZERO, &ring), Some(Delete::Look));
    let kept = Seen {
        keepers: BTreeSet::from([peer(0)]),
        ..Seen::default()
    };
    deleting.handle_look(vec![kept; stripes]);
    let orders = |deleting: &mut Deleting| {
        let spread = std::iter::from_fn(|| deleting.poll(Time::ZERO, &ring));
        spread
            .filter(|order| matches!(order, Delete::Spread { .. }))
            .count()
    };
    assert_eq!(orders(&mut deleting), AT_ONCE);
    deleting.handle_spread(Id::default(), [peer(1), peer(2)]);
    assert_eq!(orders(&mut deleting), 1);
}

#[test]
fn nothing_found_is_deleted_only_where_half_are_seen() {
    let unseen = |ring: &Ring| {
        let mut deleting = deleting();
        let mut now = Time::ZERO;
        while !deleting.is_over() {
            match deleting.poll(now, ring) {
                Some(_) => deleting.handle_look(vec![Seen::default()]),
                None if deleting.is_over() => {}
                None => now = deleting.poll_timeout().expect("something is to come"),
            }
        }
        deleting.outcome()
    };
    assert_eq!(unseen(&Ring::without(&[6, 7])), Ok(2));
    assert_eq!(unseen(&Ring::without(&[3, 4, 5, 6, 7])), Err(1));
}
