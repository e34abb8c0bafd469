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

fn search(lab: &mut Lab, lookups: u64) -> Found {
    for _ in 0..lookups {
        lab.look_up();
    }
    lab.found()
}

/// (a) Mean hops in rings of growing size.
pub(super) fn paths(sizes: Sizes) -> Table {
    let mut table = Table::new(
        'a',
        "hops of a lookup at rest; published: Stoica 2003, 1/2 log2 N; (e): the same with learned contacts",
        &[
            "peers",
            "published",
            "plain, r = 4",
            "plain, r = 16",
            "(e) learning, r = 16",
        ],
    );
    let round = Duration::from_secs(30);
    let mut peers = 8;
    while peers <= sizes.largest {
        let hops =
            |ring: &RingConfig| two(search(&mut grown(ring, peers, sizes.seed), sizes.lookups).mean_hops());
        let plain16 = plain(16, round);
        let published = f64::from(peers.ilog2()) / 2.0;
        table.row(&[
            &peers,
            &two(published),
            &hops(&plain(4, round)),
            &hops(&plain16),
            &hops(&learning(&plain16)),
        ]);
        peers *= 2;
    }
    table
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
    let mut table = Table::new(
        'b',
        format!(
            "{} peers, r = 20, a share dies at once, {} lookups at that moment; published: Stoica 2003; (e): \
             the same with learned contacts",
            sizes.peers, sizes.lookups
        ),
        &[
            "died %",
            "hops published",
            "hops",
            "(e) hops",
            "time-outs published",
            "time-outs",
            "(e) time-outs",
            "failed",
            "(e) failed",
        ],
    );
    for (percent, hops, timeouts) in FAILURES {
        let plain = plain(20, NEVER);
        let measure = |ring: &RingConfig| {
            let mut lab = grown(ring, sizes.peers, sizes.seed);
            lab.kill(sizes.peers * percent as usize / 100);
            search(&mut lab, sizes.lookups)
        };
        let (ours, learned) = (measure(&plain), measure(&learning(&plain)));
        table.row(&[
            &percent,
            &two(hops),
            &two(ours.mean_hops()),
            &two(learned.mean_hops()),
            &two(timeouts),
            &two(ours.mean_timeouts()),
            &two(learned.mean_timeouts()),
            &ours.failures,
            &learned.failures,
        ]);
    }
    table
}

/// (c) Peers come and go while one lookup a second runs.
pub(super) fn churn(sizes: Sizes) -> Table {
    let mut table = Table::new(
        'c',
        format!(
            "{} peers, r = 20, a round every 30 s, so many joins and as many deaths a second, one lookup a \
             second, {} of them; published: Stoica 2003, over all rates; (e): the same with learned contacts",
            sizes.peers, sizes.lookups
        ),
        &[
            "per second",
            "hops published",
            "hops",
            "(e) hops",
            "time-outs",
            "(e) time-outs",
            "failed per 10000 published",
            "failed per 10000",
            "(e) failed per 10000",
        ],
    );
    for per_hundred in (5..=40).step_by(5) {
        let plain = plain(20, Duration::from_secs(30));
        let measure = |ring: &RingConfig| {
            let mut lab = grown(ring, sizes.peers, sizes.seed);
            for _ in 0..sizes.lookups {
                lab.look_up();
                lab.change(f64::from(per_hundred) / 100.0);
                lab.pass(Duration::from_secs(1));
            }
            lab.found()
        };
        let (ours, learned) = (measure(&plain), measure(&learning(&plain)));
        let failed = |found: Found| format!("{:.0}", ratio(found.failures * 10_000, found.lookups));
        table.row(&[
            &two(f64::from(per_hundred) / 100.0),
            &"3.8-4.1",
            &two(ours.mean_hops()),
            &two(learned.mean_hops()),
            &two(ours.mean_timeouts()),
            &two(learned.mean_timeouts()),
            &"0-16",
            &failed(ours),
            &failed(learned),
        ]);
    }
    table
}
