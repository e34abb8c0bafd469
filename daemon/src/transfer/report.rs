//! What a person hears of a put: its report, or why nothing was stored.

use mutualstore_contract::reply::PutReport;
use mutualstore_contract::units::counted;
use mutualstore_dht::writer::{Lacking, Placed};
use mutualstore_erasure::Code;

use crate::error::Failure;
use crate::format::link::Link;
use crate::format::placement::Placement;

/// Of a file whose stripes were stored like this; its size and the time it took are not known here.
pub(super) fn of_put(link: &Link, code: Code, placement: Placement, stripes: &[Placed]) -> PutReport {
    let stored: usize = stripes.iter().map(|placed| placed.holders.len()).sum();
    let total: usize = stripes.iter().map(|placed| usize::from(placed.n)).sum();
    let bare = stripes
        .iter()
        .any(|placed| placed.holders.len() <= usize::from(placed.k) && placed.n > placed.k);
    let of = format!("{stored} of {} stored", counted(total, "shard"));
    let warning = match (stored < total, bare) {
        (_, true) => Some(format!("{of}: unprotected until repaired")),
        (true, false) => Some(format!("{of}; the rest follows when peers return")),
        (false, false) => None,
    };
    PutReport {
        link: link.to_string(),
        size_bytes: 0,
        stripes: stripes.len() as u64,
        code: code.to_string(),
        placement: placement.policy.to_string(),
        scope: placement.scope(),
        shards_stored: stored as u64,
        shards_total: total as u64,
        seconds: 0.0,
        warning,
    }
}

/// For what fails before anything is visible.
pub(super) fn nothing_stored(error: impl Into<Failure>) -> Failure {
    let failure = error.into();
    Failure {
        message: format!("nothing was stored: {}", failure.message),
        ..failure
    }
}

/// Too few peers took their shard of a stripe.
pub(super) fn too_few(placed: &Placed, why: Lacking, degraded: bool) -> Failure {
    let (found, n) = (placed.holders.len(), placed.n);
    let least = Placed::least(placed.k, placed.n, degraded);
    let peers = counted(n, "peer");
    if why.no_space {
        return Failure::no_space(format!(
            "{found} of {peers} took their shard of a stripe ({least} needed); nothing was stored; free \
             space, add peers, or choose a code with fewer shards"
        ));
    }
    let hint = if degraded {
        ""
    } else {
        ", or accept less with --degraded"
    };
    let cure = match why.broken_disks {
        0 => "try again when more peers are up".to_owned(),
        1 => "the disk of one peer fails (its log says how); try again when that is mended".to_owned(),
        many => format!("the disks of {many} peers fail (their logs say how); try again when that is mended"),
    };
    Failure::refused(format!(
        "{found} of {peers} took their shard of a stripe ({least} needed); nothing was stored; {cure}{hint}"
    ))
}

/// Shards that were stored are lost again before the commit: their holders are gone, or gave them up when
/// this daemon stood still for longer than they wait.
pub(super) fn expired(placed: &Placed, needed: usize) -> Failure {
    let (left, n) = (placed.holders.len(), placed.n);
    Failure::refused(format!(
        "{left} of {n} shards of a stripe are left of those stored before ({needed} needed): their peers are \
         gone, or this daemon stood still for longer than they wait; nothing was stored; put it again"
    ))
}
