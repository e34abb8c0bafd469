//! Whether the peer is a member of its network, and who else can become one.

use mutualstore_contract::reply::{RingState, Status};
use mutualstore_contract::units::counted;

use super::Finding;

pub(super) fn ring(status: &Status) -> Finding {
    if status.ring == RingState::Joining && status.network.is_none() {
        return no_network(status);
    }
    if let Some(why) = &status.refused {
        return refused(why);
    }
    let found = format!("{}, {} known", status.ring, counted(status.peers_known, "peer"));
    match status.ring.as_str() {
        "joined" => Finding::ok("ring", found),
        "alone" => Finding::warning(
            "ring",
            found,
            "invite others (`mutualstore invite`), or join them: `mutualstore daemon --join @FILE` with \
             their invite",
        ),
        _ => Finding::bad(
            "ring",
            found,
            "see that the peers given to --join run and can be reached",
        ),
    }
}

/// What is to be joined, and belongs to another network than this peer.
pub(super) fn elsewhere(status: &Status) -> Option<Finding> {
    let is_elsewhere =
        |(_, why): &(&String, &String)| why.contains("of another network than this data directory");
    let (address, _) = status.join.iter().find(is_elsewhere)?;
    let found = format!("{address}, which is to be joined, is of another network than this data directory");
    let cure = "start the daemon with --join and an address or an invite of its own network, or take `join` \
                out of its config.toml";
    Some(if status.ring == RingState::Joined {
        Finding::warning("join", found, cure)
    } else {
        Finding::bad("join", found, cure)
    })
}

/// The peers of its own network do not let this one in. The cure is in the reason.
pub(super) fn refused(why: &str) -> Finding {
    let cures = [
        (
            "same identity",
            "another daemon runs with this identity: this directory was copied while it ran, or started \
             twice. Stop one of the two for good; to run both, start this one with a fresh data directory \
             and an invite",
        ),
        (
            "network secret",
            "the secret in network.json is not the network's: restore it from a copy, or join anew with an \
             invite",
        ),
        (
            "wrong network",
            "if it is this directory that was left behind, join with an invite in a fresh one; else start \
             the peers of its own network",
        ),
        (
            "parameters differ",
            "unit or r in network.json are not the network's: restore it from a copy, or join anew with an \
             invite",
        ),
        (
            "protocol version",
            "run the same version of mutualstore on all peers",
        ),
    ];
    let cure = cures.iter().find(|(reason, _)| why.contains(reason));
    let by = if why.contains("wrong network:") {
        "refused by peers it knows, which belong to another network by now"
    } else {
        "refused by its own network"
    };
    Finding::bad(
        "ring",
        format!("{by}: {why}"),
        cure.map_or("ask whoever runs that peer", |(_, cure)| cure),
    )
}

/// A peer with something to join stays without a network until one of the addresses leads to one.
fn no_network(status: &Status) -> Finding {
    let tried = status
        .join
        .iter()
        .map(|(address, error)| format!("{address} ({error})"));
    let tried: Vec<String> = tried.collect();
    Finding::bad(
        "ring",
        format!(
            "in no network yet; none of the addresses given to --join leads to one: {}",
            tried.join(", ")
        ),
        "see that these peers run and can be reached; a closed network is joined by an invite (`mutualstore \
         invite` on one of its peers, `mutualstore daemon --join @FILE` here); if none is in a network, \
         start one without --join (and without `join` in its config.toml): it founds the network, invites, \
         and the others follow",
    )
}

/// Who can join.
pub(super) fn admission(status: &Status) -> Finding {
    match status.open {
        None => Finding::ok("admission", "in no network yet"),
        Some(false) => Finding::ok("admission", "closed: an invite is needed to join"),
        Some(true) => Finding::warning(
            "admission",
            "open: whoever reaches a peer of this network joins it, and can harm what is stored",
            "for what must last, found a closed network in a new data directory (a first start without \
             --open) and put the files there",
        ),
    }
}
