//! Copysets of `successors` as a function of virtual nodes: of drawn rings, and of the living one.

use mutualstore_client::ClientError;
use mutualstore_contract::reply;
use mutualstore_dht::Peer;
use mutualstore_erasure::{Code, Policy};
use statrs::function::factorial::binomial;

use super::{Loss, Reading, VIRTUAL_NODES};
use crate::analysis::{self, Model, Ring, point};
use crate::findings::{Figure, Group, Point, Series, Table, grouped, real, table};

/// Virtual nodes of each peer.
const STEPS: [usize; 5] = [1, 2, 4, VIRTUAL_NODES, 16];

/// Different sets of holders on the living ring, for stripes of `shards`.
pub(super) fn of_living(ring: &reply::Ring, shards: usize) -> Result<usize, ClientError> {
    let unexpected = |what: String| ClientError::Unexpected { what };
    let mut nodes = Vec::new();
    for (number, listed) in ring.peers.iter().enumerate() {
        let peer: Peer = listed
            .peer
            .parse()
            .map_err(|error| unexpected(format!("{}: {error}", listed.peer)))?;
        let point = |index: &u16| (point(&peer.virtual_node(*index)), number);
        nodes.extend(listed.indices.iter().map(point));
    }
    let sets = Ring::new(ring.peers.len(), nodes).holder_sets(shards);
    sets.map(|sets| sets.distinct())
        .map_err(|error| unexpected(error.to_string()))
}

/// What virtual nodes make of a network.
struct Row {
    peers: usize,
    code: String,
    virtual_nodes: usize,
    drawn: f64,
    living: Option<usize>,
    possible: f64,
    dead: usize,
    any: f64,
}

/// The table, the figure and the sentence; nothing where no scheme is `successors`.
pub(super) fn of_virtual_nodes(loss: &Loss, readings: &[Reading]) -> Option<(Table, Figure, String)> {
    let rows = rows(loss, readings);
    let last = rows.last()?;
    let of_last = |row: &&Row| (row.peers, &row.code) == (last.peers, &last.code);
    let first = rows.iter().find(of_last)?;
    let note = format!(
        "Virtual nodes under `successors`, {} on {} peers: with one each {:.0} copysets and {:.0} % of a \
         chance to lose any of {} files when {} peers die, with {} each {:.0} copysets of {:.0} that are \
         possible, and {:.0} %: more virtual nodes even out load and spread risk at the same time.",
        last.code,
        last.peers,
        first.drawn,
        100.0 * first.any,
        loss.files,
        last.dead,
        last.virtual_nodes,
        last.drawn,
        last.possible,
        100.0 * last.any,
    );
    Some((table(loss, &rows), figure(&rows), note))
}

fn rows(loss: &Loss, readings: &[Reading]) -> Vec<Row> {
    let successors = Policy::Successors.to_string();
    let measured = readings.iter().filter(|reading| reading.placement == successors);
    let networks = grouped(measured, |reading| (reading.peers, &reading.code));
    let of_network = |network: &Group<'_, Reading>| {
        let (peers, code) = (network.peers, network.code.parse::<Code>().ok());
        let living = network.all.iter().find_map(|reading| reading.ring_copysets);
        let row = |virtual_nodes| {
            let (code, fragments) = (code?, usize::try_from(loss.fragments).ok()?);
            let scheme = analysis::Scheme::Successors(virtual_nodes);
            let model = Model::new(peers, code, scheme, fragments).ok()?;
            let dead = model.first_loss();
            Some(Row {
                peers,
                code: code.to_string(),
                virtual_nodes,
                drawn: model.copysets()?,
                living: living.filter(|_| virtual_nodes == VIRTUAL_NODES),
                possible: binomial(peers as u64, code.n().into()),
                dead,
                any: model.any_lost(loss.files, dead),
            })
        };
        STEPS.into_iter().filter_map(row).collect::<Vec<_>>()
    };
    networks.iter().flat_map(of_network).collect()
}

fn table(loss: &Loss, rows: &[Row]) -> Table {
    let title = format!(
        "Copysets of successors by virtual nodes: of drawn rings (the mean), of the living one, and what \
         they cost {} files when as many peers die as one stripe does not bear",
        loss.files
    );
    table!(title, rows, |row| {
        "peers" => row.peers,
        "code" => row.code.as_str(),
        "virtual nodes each" => row.virtual_nodes,
        "copysets, drawn" => row.drawn,
        "of the living ring" => row.living,
        "possible" => row.possible,
        "dead" => row.dead,
        "any file lost, expected %" => 100.0 * row.any,
    })
}

fn figure(rows: &[Row]) -> Figure {
    let name = |row: &Row| format!("{}, {} peers", row.code, row.peers);
    let mut networks = grouped(rows, name);
    networks.sort_by_key(|network| name(network));
    let both = networks.iter().flat_map(|network| {
        let point = |row: &&Row, y| Point::new(real(row.virtual_nodes), y);
        let drawn = network.all.iter().map(|row| point(row, row.drawn));
        let living = network
            .all
            .iter()
            .filter_map(|row| Some(point(row, real(row.living?))));
        [
            Series::reference(name(network), drawn),
            Series::measured(name(network), living),
        ]
    });
    Figure::new(
        "Copysets of successors by virtual nodes: drawn rings, and the living ones",
        ["virtual nodes of each peer", "copysets"],
        both.filter(|series| !series.points.is_empty()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(peer: u8, indices: &[u16]) -> reply::RingPeer {
        reply::RingPeer {
            peer: Peer::new([peer; 32]).to_string(),
            virtual_nodes: indices.len() as u64,
            indices: indices.to_vec(),
            capacity_bytes: None,
            used_bytes: None,
            share: None,
            addresses: Vec::new(),
            state: reply::PeerState::Alive,
        }
    }

    #[test]
    fn living_ring_has_the_sets_its_virtual_nodes_make() {
        let ring = |indices: &[u16]| reply::Ring {
            peers: (1..=9).map(|peer| listed(peer, indices)).collect(),
            fingers: None,
            check: None,
        };
        assert_eq!(of_living(&ring(&[0]), 3).unwrap(), 9);
        let more = of_living(&ring(&[0, 1, 2, 3]), 3).unwrap();
        assert!((10..=36).contains(&more), "{more}");
        assert_eq!(of_living(&ring(&[0, 1]), 9).unwrap(), 1);
        of_living(&ring(&[0]), 10).unwrap_err();
        let mut odd = ring(&[0]);
        odd.peers[3].peer = "12D3KooW".to_owned();
        of_living(&odd, 3).unwrap_err();
    }
}
