//! This peer and its ring over HTTP: status, ring, lookup, invite, metrics, health.

use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mutualstore_contract::reply::{
    Finger, Identity, InviteReply, Lookup, PeerState, RepairCounters, Ring, RingPeer, RingState,
    ScrubCounters, Status, StripesHome,
};
use mutualstore_dht::custody::Standing;
use mutualstore_dht::ring::Phase;
use mutualstore_dht::{Contact, Id};

use super::files::shard_stat;
use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json, metrics};
use crate::datadir::network::Invite;
use crate::error::Failure;
use crate::format::link::Link;
use crate::peer::survey::check_ring;
use crate::process;
use crate::transfer::health;

/// What the ring is to a user.
fn ring_name(api: &Api) -> RingState {
    if api.app.member.refusal().is_some() {
        return RingState::Refused;
    }
    match api.app.member.phase() {
        Phase::Alone => RingState::Alone,
        Phase::Joining => RingState::Joining,
        Phase::Joined => RingState::Joined,
        Phase::Leaving | Phase::Left => RingState::Leaving,
    }
}

pub(super) async fn identity(State(api): State<Api>) -> Result<Response, Refusal> {
    let identity = Identity {
        peer: api.app.member.me.to_string(),
        pid: std::process::id(),
        started: Some(api.app.started_ms),
    };
    std::future::ready(json(&identity)).await
}

/// How this peer looks to a few others, asked now.
pub(super) async fn outside(State(api): State<Api>) -> Result<Response, Refusal> {
    json(&crate::peer::outside::look(&api.app.member).await)
}

pub(super) struct StatusQuery {
    /// Ask how the files are doing now.
    fresh: bool,
}

impl FromQuery for StatusQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            fresh: given.flag("fresh")?,
        })
    }
}

pub(super) async fn status(
    State(api): State<Api>,
    Query(query): Query<StatusQuery>,
) -> Result<Response, Refusal> {
    let (files, files_age_seconds, codes) = api.app.transfers.tally(query.fresh).await?;
    let usage = api.app.keeper.usage();
    let network = api.app.member.network();
    let (health, virtual_nodes, alive) = api.app.member.core.read(|state| {
        let alive = state.engine.ring.alive().count();
        (
            state.engine.custody.stats(),
            state.engine.ring.me().virtual_nodes.len(),
            alive + 1,
        )
    });
    let (buckets_waiting, records_rolled_back_total) = api.app.names.outlook();
    json(&Status {
        buckets_waiting,
        records_rolled_back_total,
        peer: api.app.member.me.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity_bytes: usage.capacity,
        used_bytes: usage.committed_bytes.saturating_sub(usage.records_bytes),
        pending_bytes: usage.pending_bytes,
        shards: usage.shards,
        locators: usage.locators,
        virtual_nodes: virtual_nodes as u64,
        ring: ring_name(&api),
        refused: api.app.member.refusal(),
        network: network.adopted.then(|| hex::encode(network.id)),
        open: network.is_open(),
        join: api.app.member.unanswered().clone(),
        peers_known: alive as u64,
        files,
        files_age_seconds: files_age_seconds.map(u64::from),
        codes: codes
            .into_iter()
            .map(|(code, files)| (code, files as u64))
            .collect(),
        repair: RepairCounters {
            pending: (health.repairs_waiting + health.repairs_running) as u64,
            running: health.repairs_running as u64,
            parked: health.parked as u64,
            regenerated_total: health.regenerated_total,
            taken_over_total: health.taken_over_total,
            bytes_total: health.bytes_total,
        },
        stripes_home: StripesHome {
            safe: health.safe as u64,
            degraded: health.degraded as u64,
            uncounted: health.unaudited as u64,
            endangered: health.endangered as u64,
            lost: health.lost as u64,
            pending: health.pending as u64,
        },
        scrub: ScrubCounters {
            checked_total: api.app.keeper.checked.get(),
            bad_total: api.app.keeper.bad.get(),
        },
        write_failures_total: api.app.keeper.write_failures.get(),
        api_insecure: api.app.member.config.settings.api_insecure.is_on(),
        process: process::current(),
        uptime_seconds: api.app.started.elapsed().as_secs_f64(),
    })
}

pub(super) struct RingQuery {
    walk: bool,
    fingers: bool,
    check: bool,
}

impl FromQuery for RingQuery {
    fn from_query(given: &mut Given) -> Result<Self, Failure> {
        Ok(Self {
            walk: given.flag("walk")?,
            fingers: given.flag("fingers")?,
            check: given.flag("check")?,
        })
    }
}

pub(super) async fn ring(
    State(api): State<Api>,
    Query(query): Query<RingQuery>,
) -> Result<Response, Refusal> {
    let known: Vec<(Contact, PeerState)> = if query.walk {
        let walk = api
            .app
            .member
            .core
            .walk()
            .await
            .ok_or_else(|| Failure::refused("the ring is being joined"))?;
        walk.answered
            .into_iter()
            .map(|contact| (contact, PeerState::Alive))
            .collect()
    } else {
        known_peers(&api)
    };
    let shares = shares(&known);
    let peers = known
        .into_iter()
        .zip(shares)
        .map(|((contact, state), share)| RingPeer {
            peer: contact.peer.to_string(),
            virtual_nodes: contact.virtual_nodes.len() as u64,
            indices: contact.virtual_nodes.to_vec(),
            capacity_bytes: Some(contact.capacity),
            used_bytes: Some(contact.used),
            share: Some(share),
            addresses: contact.addresses.to_vec(),
            state,
        });
    let peers = peers.collect();
    let fingers = query.fingers.then(|| {
        let finger = |(own, exponent, contact): (Id, u8, &Contact)| {
            let target = own.add_power_of_two(exponent);
            let nearest = contact.ids().min_by_key(|id| id.distance_from(&target));
            Finger {
                target: target.to_string(),
                id: nearest.map(|id| id.to_string()).unwrap_or_default(),
                peer: contact.peer.to_string(),
            }
        };
        api.app
            .member
            .core
            .read(|state| state.engine.ring.fingers().map(finger).collect())
    });
    let check = if query.check {
        Some(check_ring(&api.app.member).await?)
    } else {
        None
    };
    json(&Ring {
        peers,
        fingers,
        check,
    })
}

fn known_peers(api: &Api) -> Vec<(Contact, PeerState)> {
    let me = api.app.member.core.read(|state| state.engine.ring.me().clone());
    let others = api.app.member.standings().into_iter().map(|(contact, standing)| {
        let name = match standing {
            Standing::Live => PeerState::Alive,
            Standing::Suspect => PeerState::Suspect,
            Standing::Gone => PeerState::Gone,
        };
        (contact, name)
    });
    std::iter::once((me, PeerState::Alive)).chain(others).collect()
}

/// Which part of the circle each live peer is responsible for; 0 for those that are not alive.
fn shares(peers: &[(Contact, PeerState)]) -> Vec<f64> {
    let alive = peers
        .iter()
        .enumerate()
        .filter(|(_, (_, state))| *state == PeerState::Alive);
    let mut nodes: Vec<(Id, usize)> = alive
        .flat_map(|(at, (contact, _))| contact.ids().map(move |id| (id, at)))
        .collect();
    nodes.sort_unstable();
    let mut shares = vec![0.0; peers.len()];
    let mut previous = nodes.last().map(|(id, _)| *id);
    for (id, at) in &nodes {
        if let (Some(from), Some(share)) = (previous.replace(*id), shares.get_mut(*at)) {
            *share += if nodes.len() == 1 {
                1.0
            } else {
                fraction(&id.distance_from(&from))
            };
        }
    }
    shares
}

/// A distance as a part of the whole circle; the first 64 bits are enough.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn fraction(distance: &Id) -> f64 {
    let (high, _) = distance.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*high) as f64 / 2f64.powi(64)
}

fn target_of(api: &Api, text: &str) -> Result<Id, Failure> {
    if text.starts_with("mutual") {
        let link: Link = text.parse()?;
        api.app.member.check_link(&link)?;
        return Ok(Id::new(link.manifest));
    }
    let bytes = hex::decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes
        .map(Id::new)
        .ok_or_else(|| Failure::usage("neither a link nor an id of 64 hexadecimal digits"))
}

pub(super) async fn lookup(State(api): State<Api>, Path(target): Path<String>) -> Result<Response, Refusal> {
    let id = target_of(&api, &target)?;
    let begun = Instant::now();
    let count = usize::try_from(api.app.member.network().r).unwrap_or(usize::MAX);
    let found = api
        .app
        .member
        .core
        .lookup(id, count)
        .await
        .map_err(Failure::refused)?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    let shards = health::shards_of(&api.app.transfers, id).await;
    json(&Lookup {
        id: id.to_string(),
        hops: found.hops.into(),
        timeouts: found.timeouts.into(),
        milliseconds,
        path: found.path.iter().map(ToString::to_string).collect(),
        holders: found
            .contacts
            .iter()
            .map(|contact| contact.peer.to_string())
            .collect(),
        shards: shards.iter().map(shard_stat).collect(),
    })
}

pub(super) async fn invite(State(api): State<Api>) -> Result<Response, Refusal> {
    let network = api.app.member.network();
    if !network.adopted {
        let text = "this peer has not joined a network yet, so it can invite nobody; `mutualstore doctor` \
                    says what it waits for";
        return Err(Failure::refused(text).into());
    }
    let addresses = api
        .app
        .member
        .core
        .read(|state| state.engine.ring.me().addresses.clone());
    if addresses.is_empty() {
        let text = "no interface that this peer listens on is up, so nobody could reach it; bring one up, or \
                    give an address with --announce";
        return Err(Failure::refused(text).into());
    }
    let invite = Invite {
        network: network.id,
        secret: network.secret.clone(),
        addresses: addresses.to_vec(),
    };
    std::future::ready(json(&InviteReply {
        invite: invite.to_string(),
    }))
    .await
}

pub(super) async fn show_metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let text = metrics::render(&api).map_err(Failure::unexpected)?;
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    std::future::ready(Ok(response)).await
}

pub(super) async fn health(State(api): State<Api>) -> Response {
    let phase = ring_name(&api);
    let status = match phase {
        RingState::Alone | RingState::Joined => StatusCode::OK,
        RingState::Joining | RingState::Refused | RingState::Leaving => StatusCode::SERVICE_UNAVAILABLE,
    };
    std::future::ready((status, phase.as_str()).into_response()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_dht::{Peer, Signature};

    #[test]
    fn shares_cover_the_circle() {
        let contact = |n: u8, virtual_nodes: Vec<u16>| Contact {
            peer: Peer::new([n; 32]),
            version: 1,
            virtual_nodes: virtual_nodes.into(),
            addresses: [].into(),
            capacity: 1,
            used: 0,
            state: mutualstore_dht::PeerState::Accepting,
            zone: "".into(),
            signature: Signature::default(),
        };
        let one = shares(&[(contact(1, vec![3]), PeerState::Alive)]);
        assert!((one[0] - 1.0).abs() < 1e-9);
        let many = [
            (contact(1, vec![1, 2]), PeerState::Alive),
            (contact(2, vec![7]), PeerState::Gone),
            (contact(3, vec![9]), PeerState::Alive),
        ];
        let shares = shares(&many);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(shares[1].abs() < 1e-12);
    }
}
