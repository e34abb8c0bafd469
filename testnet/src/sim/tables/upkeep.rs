//! What keeping a ring costs when nobody looks anything up.

use std::time::Duration;

use mutualstore_dht::ring::RingConfig;

use super::super::lab::{Lab, Plan, Weigh, ratio};
use super::{Sizes, Table, two};

/// How long messages are counted.
const COUNTED: u32 = 120;
/// Under churn a peer lives so many seconds on average.
const LIFE: f64 = 600.0;

/// (g) Messages and bytes per peer and second, at rest and under churn.
pub(super) fn maintenance(sizes: Sizes, weigh: Weigh) -> Table {
    let mut table = Table::new(
        'g',
        format!(
            "maintenance per peer and second, questions and answers, with the daemon's own intervals (r = \
             16, a round every 2 s); churn: a peer lives {LIFE:.0} s on average"
        ),
        &[
            "peers",
            "virtual nodes",
            "messages at rest",
            "bytes at rest",
            "messages under churn",
            "bytes under churn",
        ],
    );
    for peers in [16, 64, 256, 1024]
        .into_iter()
        .filter(|peers| *peers <= sizes.kept)
    {
        for virtual_nodes in [1, 8] {
            let mut lab = Lab::new(Plan {
                ring: RingConfig::default(),
                virtual_nodes,
                weigh: Some(weigh),
                seed: sizes.seed,
            });
            lab.grow(peers, Duration::from_millis(20));
            lab.settle(Duration::from_secs(2), 300);
            lab.pass(Duration::from_mins(2));
            let rest = count(&mut lab, 0.0);
            let churn = count(&mut lab, peer_rate(peers));
            table.row(&[
                &peers,
                &virtual_nodes,
                &two(rest.0),
                &format!("{:.0}", rest.1),
                &two(churn.0),
                &format!("{:.0}", churn.1),
            ]);
        }
    }
    table
}

/// Deaths, and joins, per second.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn peer_rate(peers: usize) -> f64 {
    peers as f64 / LIFE
}

/// Messages and bytes per peer and second.
fn count(lab: &mut Lab, rate: f64) -> (f64, f64) {
    let before = lab.counters();
    let mut lived = 0;
    for _ in 0..COUNTED {
        lab.change(rate);
        lab.pass(Duration::from_secs(1));
        lived += lab.running() as u64;
    }
    let after = lab.counters();
    (
        ratio(after.messages - before.messages, lived),
        ratio(after.bytes - before.bytes, lived),
    )
}
