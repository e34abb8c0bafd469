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
    let peers = [16, 64, 256, 1024]
        .into_iter()
        .filter(|peers| *peers <= sizes.kept);
    let networks = peers.flat_map(|peers| [1, 8].map(|virtual_nodes| (peers, virtual_nodes)));
    let measured = networks.map(|(peers, virtual_nodes)| {
        let mut lab = Lab::new(Plan {
            ring: RingConfig::default(),
            virtual_nodes,
            weigh: Some(weigh),
            seed: sizes.seed,
        });
        lab.grow(peers, Duration::from_millis(20));
        lab.settle(Duration::from_secs(2), 300);
        lab.pass(Duration::from_mins(2));
        (
            peers,
            virtual_nodes,
            count(&mut lab, 0.0),
            count(&mut lab, peer_rate(peers)),
        )
    });
    Table::of(
        'g',
        format!(
            "maintenance per peer and second, questions and answers, with the daemon's own intervals (r = \
             16, a round every 2 s); churn: a peer lives {LIFE:.0} s on average"
        ),
        measured,
        &[
            ("peers", &|(peers, ..)| peers.to_string()),
            ("virtual nodes", &|(_, virtual_nodes, ..)| {
                virtual_nodes.to_string()
            }),
            ("messages at rest", &|(_, _, (messages, _), _)| two(*messages)),
            ("bytes at rest", &|(_, _, (_, bytes), _)| format!("{bytes:.0}")),
            ("messages under churn", &|(.., (messages, _))| two(*messages)),
            ("bytes under churn", &|(.., (_, bytes))| format!("{bytes:.0}")),
        ],
    )
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
