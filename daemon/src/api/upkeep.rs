//! Looking after the network over HTTP: repair, forget, scrub, leave.

use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::Response;
use mutualstore_contract::reply::{self, Forgotten, LeaveReport, RepairReport, ScrubReport};
use mutualstore_dht::Peer;

use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::maintenance::departure::Departure;

/// A `repair --wait` looks this often whether anything is left to do, and gives up after that long.
const REPAIR_POLL: Duration = Duration::from_millis(250);
const REPAIR_WAIT: Duration = Duration::from_mins(10);
/// So often in a row nothing may be left before that is believed: reports are on their way.
const QUIET: u32 = 4;
/// Letters of a peer's id that are enough to name it.
const ENOUGH: usize = 6;

pub(super) struct RepairQuery {
    peer: Option<String>,
    wait: bool,
}

impl FromQuery for RepairQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            peer: given.text("peer"),
            wait: given.flag("wait")?,
        })
    }
}

/// Rebuilds what is missing: as this peer is its primary, or of what a peer held as any peer is.
pub(super) async fn repair(
    State(api): State<Api>,
    Query(query): Query<RepairQuery>,
) -> Result<Response, Refusal> {
    let everywhere = query.peer.is_some();
    let (before, silent) = if let Some(peer) = &query.peer {
        api.app.maintenance.mend_all(Some(named(&api, peer)?)).await
    } else {
        (api.app.maintenance.mend(None), Vec::new())
    };
    let until = Instant::now() + REPAIR_WAIT;
    let mut quiet = 0;
    let after = loop {
        let now = if everywhere {
            api.app.maintenance.mend_all(None).await.0
        } else {
            api.app.maintenance.mending()
        };
        quiet = if now.pending == 0 { quiet + 1 } else { 0 };
        if !query.wait || quiet >= QUIET || Instant::now() >= until {
            break now;
        }
        tokio::time::sleep(REPAIR_POLL).await;
    };
    let unrecoverable = if everywhere || query.wait {
        api.app.maintenance.stuck().await?
    } else {
        Vec::new()
    };
    json(&RepairReport {
        regenerated: after.regenerated.saturating_sub(before.regenerated),
        bytes: after.bytes.saturating_sub(before.bytes),
        pending: after.pending,
        silent: silent.iter().map(Peer::to_string).collect(),
        unrecoverable,
    })
}

/// A peer is gone for good: nobody waits for it any longer.
pub(super) async fn forget(State(api): State<Api>, Path(peer): Path<String>) -> Result<Response, Refusal> {
    let peer = named(&api, &peer)?;
    if api.app.member.core.is_alive(peer) {
        let text = format!(
            "{peer} answers, or has done so a moment ago; `mutualstore leave` there, or stop it, and try \
             again in some seconds"
        );
        return Err(Failure::refused(text).into());
    }
    let (_, silent) = api.app.maintenance.mend_all(Some(peer)).await;
    json(&Forgotten {
        peer: peer.to_string(),
        told: api.app.member.core.alive().len().saturating_sub(silent.len()) as u64,
        silent: silent.iter().map(Peer::to_string).collect(),
    })
}

/// The peer known here whose id is this text, or alone begins or ends so.
fn named(api: &Api, text: &str) -> Result<Peer, Failure> {
    let known = api.app.member.core.read(|state| {
        let others = state.engine.ring.peers().map(|(contact, _)| contact.peer);
        others.chain([api.app.member.me]).collect::<Vec<_>>()
    });
    let fits = |peer: &&Peer| {
        let id = peer.to_string();
        id == text || text.len() >= ENOUGH && (id.starts_with(text) || id.ends_with(text))
    };
    let mut fitting = known.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(peer), None) => Ok(*peer),
        (Some(_), Some(_)) => Err(Failure::usage(format!("more than one peer is named like {text}"))),
        (None, _) => Err(Failure::not_found(format!(
            "no peer {text} is known here; `mutualstore ring` lists them"
        ))),
    }
}

pub(super) struct ScrubQuery {
    wait: bool,
}

impl FromQuery for ScrubQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            wait: given.flag("wait")?,
        })
    }
}

/// Reads every shard held here, beginning now.
pub(super) async fn scrub(
    State(api): State<Api>,
    Query(query): Query<ScrubQuery>,
) -> Result<Response, Refusal> {
    let pass = api.app.maintenance.scrub.begin();
    let report = if query.wait {
        let found = api.app.maintenance.scrub.wait(pass).await;
        ScrubReport { done: true, ..found }
    } else {
        ScrubReport::default()
    };
    json(&report)
}

pub(super) struct LeaveQuery {
    force: bool,
}

impl FromQuery for LeaveQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            force: given.flag("force")?,
        })
    }
}

/// Hands everything over, then leaves the ring and ends the process.
pub(super) async fn leave(
    State(api): State<Api>,
    Query(query): Query<LeaveQuery>,
) -> Result<Response, Refusal> {
    api.app.maintenance.leave(query.force)?;
    leaving(State(api)).await
}

/// How far that is.
pub(super) async fn leaving(State(api): State<Api>) -> Result<Response, Refusal> {
    let usage = api.app.keeper.usage();
    let (state, reason) = match api.app.maintenance.departure() {
        Departure::Stays => (reply::Departure::Stays, None),
        Departure::Draining => (reply::Departure::Draining, None),
        Departure::Stuck(reason) => (reply::Departure::Stuck, Some(reason)),
        Departure::Left => (reply::Departure::Left, None),
    };
    let report = LeaveReport {
        state,
        shards: usage.shards,
        committed_bytes: usage.committed_bytes,
        reason,
    };
    std::future::ready(json(&report)).await
}
