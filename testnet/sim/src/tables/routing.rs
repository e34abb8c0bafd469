//! Lookups: how long their paths are, at rest, after mass death and under churn.

use std::time::Duration;

use mutualstore_dht::ring::RingConfig;

use super::super::lab::{Found, Lab, Plan, ratio};
use super::{Sizes, Table, two};

/// So seldom that hardly a round comes between a fault and the lookups that suffer from it.
const NEVER: Duration = Duration::from_hours(1);

/// A ring as in the papers: one virtual node, lists of `r`, fingers, and nothing else known.
fn plain(r: usize, stabilize: Duration) -> RingConfig {
    RingConfig {
        r,
        stabilize,
        quick_rounds: 0,
        book_probe: NEVER,
        max_learned: 0,
        lookup_timeout: Duration::from_mins(2),
        ..RingConfig::default()
    }
}

/// The same with what this ring does besides: all it ever learned of serves lookups.
fn learning(ring: &RingConfig) -> RingConfig {
    RingConfig {
        max_learned: RingConfig::default().max_learned,
        ..ring.clone()
    }
}

/// A ring of so many peers, one virtual node each, that has come to rest and has its fingers.
fn grown(ring: &RingConfig, peers: usize, seed: u64) -> Lab {
    let round = ring.stabilize;
    let mut lab = Lab::new(Plan {
        ring: ring.clone(),
        virtual_nodes: 1,
        weigh: None,
        seed,
    });
    // A tenth of the ring in each round; fingers are refreshed two a round.
    lab.grow(peers, round * 10 / u32::try_from(peers).unwrap_or(u32::MAX));
    lab.settle(round, 400);
    lab.pass(round * 10);
    lab.found();
    lab
}

/// (a) Mean hops in rings of growing size.
pub(super) fn paths(sizes: Sizes) -> Table {
    let round = Duration::from_secs(30);
    let (plain4, plain16) = (plain(4, round), plain(16, round));
    let learning16 = learning(&plain16);
    let hops = |peers: usize, ring: &RingConfig| {
        two(grown(ring, peers, sizes.seed).search(sizes.lookups).mean_hops())
    };
    let peers = std::iter::successors(Some(8), |peers| Some(peers * 2));
    Table::of(
        'a',
        "hops of a lookup at rest; published: Stoica 2003, 1/2 log2 N; (e): the same with learned contacts",
        peers.take_while(|peers| *peers <= sizes.largest),
        &[
            ("peers", &ToString::to_string),
            ("published", &|peers: &usize| two(f64::from(peers.ilog2()) / 2.0)),
            ("plain, r = 4", &|peers| hops(*peers, &plain4)),
            ("plain, r = 16", &|peers| hops(*peers, &plain16)),
            ("(e) learning, r = 16", &|peers| hops(*peers, &learning16)),
        ],
    )
}

/// Stoica 2003, table II: share of peers that fail, mean path, mean time-outs.
const FAILURES: [(u32, f64, f64); 6] = [
    (0, 3.84, 0.0),
    (10, 4.03, 0.60),
    (20, 4.22, 1.17),
    (30, 4.44, 2.02),
    (40, 4.69, 3.23),
    (50, 5.09, 5.10),
];

/// (b) A share of the peers dies at once; lookups before anybody could repair anything.
pub(super) fn failures(sizes: Sizes) -> Table {
    let plain = plain(20, NEVER);
    let measured = FAILURES.into_iter().map(|(percent, hops, timeouts)| {
        let measure = |ring: &RingConfig| {
            let mut lab = grown(ring, sizes.peers, sizes.seed);
            lab.kill(sizes.peers * percent as usize / 100);
            lab.search(sizes.lookups)
        };
        (
            percent,
            hops,
            timeouts,
            measure(&plain),
            measure(&learning(&plain)),
        )
    });
    Table::of(
        'b',
        format!(
            "{} peers, r = 20, a share dies at once, {} lookups at that moment; published: Stoica 2003; (e): \
             the same with learned contacts",
            sizes.peers, sizes.lookups
        ),
        measured,
        &[
            ("died %", &|(percent, ..)| percent.to_string()),
            ("hops published", &|(_, hops, ..)| two(*hops)),
            ("hops", &|(.., ours, _)| two(ours.mean_hops())),
            ("(e) hops", &|(.., learned)| two(learned.mean_hops())),
            ("time-outs published", &|(_, _, timeouts, ..)| two(*timeouts)),
            ("time-outs", &|(.., ours, _)| two(ours.mean_timeouts())),
            ("(e) time-outs", &|(.., learned)| two(learned.mean_timeouts())),
            ("failed", &|(.., ours, _)| ours.failures.to_string()),
            ("(e) failed", &|(.., learned)| learned.failures.to_string()),
        ],
    )
}

/// (c) Peers come and go while one lookup a second runs.
pub(super) fn churn(sizes: Sizes) -> Table {
    let plain = plain(20, Duration::from_secs(30));
    let measured = (5..=40).step_by(5).map(|per_hundred| {
        let rate = f64::from(per_hundred) / 100.0;
        let measure = |ring: &RingConfig| {
            let mut lab = grown(ring, sizes.peers, sizes.seed);
            for _ in 0..sizes.lookups {
                lab.look_up();
                lab.change(rate);
                lab.pass(Duration::from_secs(1));
            }
            lab.found()
        };
        (rate, measure(&plain), measure(&learning(&plain)))
    });
    let failed = |found: &Found| format!("{:.0}", ratio(found.failures * 10_000, found.lookups));
    Table::of(
        'c',
        format!(
            "{} peers, r = 20, a round every 30 s, so many joins and as many deaths a second, one lookup a \
             second, {} of them; published: Stoica 2003, over all rates; (e): the same with learned contacts",
            sizes.peers, sizes.lookups
        ),
        measured,
        &[
            ("per second", &|(rate, ..)| two(*rate)),
            ("hops published", &|_| "3.8-4.1".to_owned()),
            ("hops", &|(_, ours, _)| two(ours.mean_hops())),
            ("(e) hops", &|(.., learned)| two(learned.mean_hops())),
            ("time-outs", &|(_, ours, _)| two(ours.mean_timeouts())),
            ("(e) time-outs", &|(.., learned)| two(learned.mean_timeouts())),
            ("failed per 10000 published", &|_| "0-16".to_owned()),
            ("failed per 10000", &|(_, ours, _)| failed(ours)),
            ("(e) failed per 10000", &|(.., learned)| failed(learned)),
        ],
    )
}
