//! How evenly keys and bytes fall, computed with the ring's own identifiers and choice of places.

use std::collections::BTreeMap;

use itertools::Itertools;
use mutualstore_dht::choice::{CANDIDATES, choose};
use mutualstore_dht::contact::MAX_INDEX;
use mutualstore_dht::{Contact, Id, Peer};
use rand_chacha::rand_core::Rng;

use super::super::{contact, generator, stripe_id};
use super::{Sizes, Table, two};

/// Keys per peer in (d), on average.
const KEYS: u64 = 100;
/// Virtual nodes per unit of capacity in (f).
const PER_UNIT: u16 = 4;

fn peer(seed: u64, number: u64) -> Peer {
    Peer::new(*stripe_id(seed ^ 0x7065_6572, number).as_bytes())
}

/// (d) Keys per peer over the mean, by virtual nodes.
pub(super) fn keys(sizes: Sizes) -> Table {
    let (peers, _) = sizes.keepers;
    let counted = [1u16, 2, 5, 10, 20].into_iter().map(|nodes| {
        let mut circle: BTreeMap<Id, usize> = BTreeMap::new();
        for (number, at) in (0..).zip(0..peers) {
            let peer = peer(sizes.seed, number);
            circle.extend((0..nodes).map(|index| (peer.virtual_node(index), at)));
        }
        let mut counts = vec![0u64; peers];
        for key in 0..KEYS * peers as u64 {
            let id = stripe_id(sizes.seed, key);
            let owner = circle.range(id..).chain(&circle).next();
            if let Some(count) = owner.and_then(|(_, at)| counts.get_mut(*at)) {
                *count += 1;
            }
        }
        counts.sort_unstable();
        (nodes, counts)
    });
    let percentile =
        |counts: &[u64], of: usize| two(ratio(counts.get(of * (peers - 1) / 100).copied().unwrap_or(0)));
    let published = |nodes: u16| match nodes {
        1 => "4.8",
        20 => "1.6",
        _ => "",
    };
    Table::of(
        'd',
        format!(
            "keys per peer over the mean, {peers} peers, {KEYS} keys each on average; published: Stoica \
             2003, 99th percentile 4.8 with one virtual node, 1.6 with 20"
        ),
        counted,
        &[
            ("virtual nodes", &|(nodes, _)| nodes.to_string()),
            ("1st percentile", &|(_, counts)| percentile(counts, 1)),
            ("median", &|(_, counts)| percentile(counts, 50)),
            ("99th percentile", &|(_, counts)| percentile(counts, 99)),
            ("99th published", &|(nodes, _)| published(*nodes).to_owned()),
        ],
    )
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn ratio(count: u64) -> f64 {
    count as f64 / KEYS as f64
}

/// (f) Bytes per capacity over the mean, with and without choosing places.
pub(super) fn bytes(sizes: Sizes) -> Table {
    let (_, most) = sizes.keepers;
    let networks = [12, 36, 100, 1000].into_iter().filter(|peers| *peers <= most);
    let spreads = networks.flat_map(|peers| {
        let [plain, chosen] = [false, true].map(|choosing| contacts(sizes.seed, peers, choosing));
        [1, 3, 6].map(|n| (peers, n, spread(&plain, n), spread(&chosen, n)))
    });
    Table::of(
        'f',
        format!(
            "bytes stored per capacity over the mean: capacities 1 to 10, {PER_UNIT} virtual nodes per unit, \
             n copies, endless small files"
        ),
        spreads,
        &[
            ("peers", &|(peers, ..)| peers.to_string()),
            ("n", &|(_, n, ..)| n.to_string()),
            ("largest, indices 0, 1, ...", &|(_, _, (_, most), _)| two(*most)),
            ("least", &|(_, _, (least, _), _)| two(*least)),
            ("largest, chosen", &|(.., (_, most))| two(*most)),
            ("least", &|(.., (least, _))| two(*least)),
        ],
    )
}

/// Peers that came one after the other, each of capacity 1 to 10.
fn contacts(seed: u64, peers: usize, choosing: bool) -> Vec<Contact> {
    let mut rng = generator(seed, 3);
    let mut all: Vec<Contact> = Vec::with_capacity(peers);
    for number in 0..peers {
        let peer = peer(seed, number as u64);
        let capacity = 1 + rng.next_u64() % 10;
        let nodes = PER_UNIT * u16::try_from(capacity).unwrap_or(1);
        let mut unused: Vec<u16> = (0..MAX_INDEX).collect();
        for last in (1..unused.len()).rev() {
            unused.swap(last, super::super::below(&mut rng, last + 1));
        }
        let groups = unused.chunks(CANDIDATES).take(usize::from(nodes));
        let groups: Vec<Vec<u16>> = groups.map(<[u16]>::to_vec).collect();
        let mut indices = if choosing {
            choose(peer, &[], &groups, all.iter())
        } else {
            (0..nodes).collect()
        };
        indices.sort_unstable();
        all.push(contact(peer, indices.into(), capacity));
    }
    all
}

/// Least and largest load per capacity over the mean, when each point of the circle is stored by the first
/// `n` distinct peers after it.
fn spread(contacts: &[Contact], n: usize) -> (f64, f64) {
    let numbered = (0..).zip(contacts);
    let nodes = numbered.flat_map(|(at, contact)| contact.ids().map(move |id| (id, at)));
    let circle: BTreeMap<Id, usize> = nodes.collect();
    let mut loads = vec![0.0; contacts.len()];
    let mut before = circle.keys().next_back().copied().unwrap_or_default();
    for id in circle.keys() {
        let arc = fraction(id.distance_from(&before));
        let after = circle.range(*id..).chain(&circle).map(|(_, at)| *at);
        for holder in after.unique().take(n) {
            if let Some(load) = loads.get_mut(holder) {
                *load += arc;
            }
        }
        before = *id;
    }
    let capacity = |contact: &Contact| f64::from(u32::try_from(contact.capacity).unwrap_or(1));
    let capacities = contacts.iter().map(capacity);
    let mean = loads.iter().sum::<f64>() / capacities.clone().sum::<f64>();
    let relative = loads.iter().zip(capacities);
    let relative = relative.map(|(load, capacity)| load / capacity / mean);
    relative.fold((f64::MAX, 0.0), |(least, most), load| {
        (f64::min(least, load), f64::max(most, load))
    })
}

/// A distance as a part of the circle.
#[expect(clippy::cast_precision_loss, reason = "a part")]
fn fraction(distance: Id) -> f64 {
    distance.prefix() as f64 / 2f64.powi(64)
}
