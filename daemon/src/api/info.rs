//! This peer and its ring over HTTP: status, ring, lookup, invite, metrics, health.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mutualstore_dht::custody::Standing;
use mutualstore_dht::ring::Phase;
use mutualstore_dht::{Contact, Id};
use serde::Serialize;

use super::files::StatShard;
use super::query::{FromQuery, Given, Query};
use super::{Api, Refusal, json};
use crate::error::Failure;
use crate::link::Link;
use crate::network::Invite;
use crate::node::Node;
use crate::node::survey::{RingCheck, check_ring};
use crate::process::{self, ProcessUse};
use crate::transfer::health;
use crate::transfer::sweep::Tally;

/// What the ring is to a user.
fn ring_name(node: &Node) -> &'static str {
    if node.refusal().is_some() {
        return "refused";
    }
    match node.phase() {
        Phase::Alone => "alone",
        Phase::Joining => "joining",
        Phase::Joined => "joined",
        Phase::Leaving | Phase::Left => "leaving",
    }
}

#[derive(Serialize)]
struct Status {
    peer: String,
    version: &'static str,
    capacity_bytes: u64,
    used_bytes: u64,
    pending_bytes: u64,
    shards: u64,
    locators: u64,
    virtual_nodes: usize,
    ring: &'static str,
    /// Who does not let this peer in, and why; only while `ring` is `refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// None before one is joined.
    network: Option<String>,
    /// Whether anybody can join it; none before one is joined.
    open: Option<bool>,
    /// Join addresses through which nobody was met yet, each with how the last attempt ended.
    join: BTreeMap<String, String>,
    peers_known: usize,
    /// Files put through this peer, by health as it is remembered.
    files: Tally,
    /// Age of the oldest of these answers.
    files_age_seconds: Option<u32>,
    /// How many of these files have which code.
    codes: BTreeMap<String, usize>,
    repair: Repair,
    stripes_home: StripesHome,
    scrub: Scrub,
    write_failures_total: u64,
    /// Whether the API may be served beyond loopback, in plain text.
    api_insecure: bool,
    process: ProcessUse,
    uptime_seconds: f64,
}

/// Who answers: lets a client make sure that it talks to the daemon it means, at no cost.
#[derive(Serialize)]
struct Identity {
    peer: String,
    pid: u32,
    /// As in `daemon.json`.
    started: u64,
}

pub(super) async fn identity(State(api): State<Api>) -> Result<Response, Refusal> {
    let identity = Identity {
        peer: api.node.me.to_string(),
        pid: std::process::id(),
        started: api.node.started_ms,
    };
    std::future::ready(json(&identity)).await
}

#[derive(Serialize)]
struct Repair {
    pending: usize,
    running: usize,
    parked: usize,
    regenerated_total: u64,
    /// Begun in place of a home that did not.
    taken_over_total: u64,
    bytes_total: u64,
}

/// Stripes this peer is the home of, by health.
#[derive(Serialize)]
struct StripesHome {
    safe: usize,
    degraded: usize,
    /// Repaired here and not yet counted by another peer.
    uncounted: usize,
    endangered: usize,
    lost: usize,
    pending: usize,
}

/// Shards re-read: every read verifies, and what does not verify is dropped and counted.
#[derive(Serialize)]
struct Scrub {
    checked_total: u64,
    bad_total: u64,
}

/// How this peer looks to a few others, asked now.
pub(super) async fn outside(State(api): State<Api>) -> Result<Response, Refusal> {
    json(&crate::node::outside::look(&api.node).await)
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
    let node = &api.node;
    let (files, files_age_seconds, codes) = node.tally(query.fresh).await?;
    let usage = node.shards.usage();
    let network = node.network();
    let (health, virtual_nodes, alive) = node.core.read(|state| {
        let alive = state.ring.alive().count();
        (
            state.custody.stats(),
            state.ring.me().virtual_nodes.len(),
            alive + 1,
        )
    });
    json(&Status {
        peer: node.me.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        capacity_bytes: usage.capacity,
        used_bytes: usage.committed_bytes,
        pending_bytes: usage.pending_bytes,
        shards: usage.shards,
        locators: usage.locators,
        virtual_nodes,
        ring: ring_name(node),
        refused: node.refusal(),
        network: network.adopted.then(|| hex::encode(network.id)),
        open: network.is_open(),
        join: node.unanswered().clone(),
        peers_known: alive,
        files,
        files_age_seconds,
        codes: codes.into_iter().collect(),
        repair: Repair {
            pending: health.repairs_waiting + health.repairs_running,
            running: health.repairs_running,
            parked: health.parked,
            regenerated_total: health.regenerated_total,
            taken_over_total: health.taken_over_total,
            bytes_total: health.bytes_total,
        },
        stripes_home: StripesHome {
            safe: health.safe,
            degraded: health.degraded,
            uncounted: health.unaudited,
            endangered: health.endangered,
            lost: health.lost,
            pending: health.pending,
        },
        scrub: Scrub {
            checked_total: node.shards.checked.get(),
            bad_total: node.shards.bad.get(),
        },
        write_failures_total: node.shards.write_failures.get(),
        api_insecure: node.config.api_insecure,
        process: process::current(),
        uptime_seconds: node.started.elapsed().as_secs_f64(),
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

#[derive(Serialize)]
struct Ring {
    peers: Vec<RingPeer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingers: Option<Vec<Finger>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<RingCheck>,
}

#[derive(Serialize)]
struct RingPeer {
    peer: String,
    virtual_nodes: usize,
    /// Of its virtual nodes: their ids are computed from these.
    indices: Vec<u16>,
    capacity_bytes: u64,
    used_bytes: u64,
    share: f64,
    addresses: Vec<String>,
    state: &'static str,
}

#[derive(Serialize)]
struct Finger {
    target: String,
    id: String,
    peer: String,
}

pub(super) async fn ring(
    State(api): State<Api>,
    Query(query): Query<RingQuery>,
) -> Result<Response, Refusal> {
    let node = &api.node;
    let known: Vec<(Contact, &'static str)> = if query.walk {
        let walk = node
            .core
            .walk()
            .await
            .ok_or_else(|| Failure::refused("the ring is being joined"))?;
        walk.answered
            .into_iter()
            .map(|contact| (contact, "alive"))
            .collect()
    } else {
        known_peers(node)
    };
    let shares = shares(&known);
    let peers = known
        .into_iter()
        .zip(shares)
        .map(|((contact, state), share)| RingPeer {
            peer: contact.peer.to_string(),
            virtual_nodes: contact.virtual_nodes.len(),
            indices: contact.virtual_nodes.to_vec(),
            capacity_bytes: contact.capacity,
            used_bytes: contact.used,
            share,
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
        node.core.read(|state| state.ring.fingers().map(finger).collect())
    });
    let check = if query.check {
        Some(check_ring(node).await?)
    } else {
        None
    };
    json(&Ring {
        peers,
        fingers,
        check,
    })
}

fn known_peers(node: &Node) -> Vec<(Contact, &'static str)> {
    let me = node.core.read(|state| state.ring.me().clone());
    let others = node.standings().into_iter().map(|(contact, standing)| {
        let name = match standing {
            Standing::Live => "alive",
            Standing::Suspect => "suspect",
            Standing::Gone => "gone",
        };
        (contact, name)
    });
    std::iter::once((me, "alive")).chain(others).collect()
}

/// Which part of the circle each live peer is responsible for; 0 for those that are not alive.
fn shares(peers: &[(Contact, &'static str)]) -> Vec<f64> {
    let alive = peers
        .iter()
        .enumerate()
        .filter(|(_, (_, state))| *state == "alive");
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

#[derive(Serialize)]
struct Lookup {
    id: String,
    hops: u32,
    timeouts: u32,
    milliseconds: f64,
    path: Vec<String>,
    holders: Vec<String>,
    /// What holders, homes and locators say of the stripe with that id.
    shards: Vec<StatShard>,
}

fn target_of(node: &Node, text: &str) -> Result<Id, Failure> {
    if text.starts_with("mutual") {
        let link: Link = text.parse()?;
        node.check_link(&link)?;
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
    let id = target_of(&api.node, &target)?;
    let begun = Instant::now();
    let count = usize::try_from(api.node.network().r).unwrap_or(usize::MAX);
    let found = api.node.core.lookup(id, count).await.map_err(Failure::refused)?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    let shards = health::shards_of(&api.node, id).await;
    json(&Lookup {
        id: id.to_string(),
        hops: found.hops,
        timeouts: found.timeouts,
        milliseconds,
        path: found.path.iter().map(ToString::to_string).collect(),
        holders: found
            .contacts
            .iter()
            .map(|contact| contact.peer.to_string())
            .collect(),
        shards: shards.iter().map(StatShard::from).collect(),
    })
}

#[derive(Serialize)]
struct InviteReply {
    invite: String,
}

pub(super) async fn invite(State(api): State<Api>) -> Result<Response, Refusal> {
    let network = api.node.network();
    if !network.adopted {
        let text = "this peer has not joined a network yet, so it can invite nobody; `mutualstore doctor` \
                    says what it waits for";
        return Err(Failure::refused(text).into());
    }
    let addresses = api.node.core.read(|state| state.ring.me().addresses.clone());
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

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let text = api.node.metrics.render(&api.node).map_err(Failure::unexpected)?;
    let mut response = text.into_response();
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    std::future::ready(Ok(response)).await
}

pub(super) async fn health(State(api): State<Api>) -> Response {
    let phase = ring_name(&api.node);
    let status = match phase {
        "alone" | "joined" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    std::future::ready((status, phase).into_response()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use mutualstore_dht::{Peer, PeerState, Signature};

    #[test]
    fn shares_cover_the_circle() {
        let contact = |n: u8, virtual_nodes: Vec<u16>| Contact {
            peer: Peer::new([n; 32]),
            version: 1,
            virtual_nodes: virtual_nodes.into(),
            addresses: [].into(),
            capacity: 1,
            used: 0,
            state: PeerState::Accepting,
            zone: "".into(),
            signature: Signature::default(),
        };
        let one = shares(&[(contact(1, vec![3]), "alive")]);
        assert!((one[0] - 1.0).abs() < 1e-9);
        let many = [
            (contact(1, vec![1, 2]), "alive"),
            (contact(2, vec![7]), "gone"),
            (contact(3, vec![9]), "alive"),
        ];
        let shares = shares(&many);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(shares[1].abs() < 1e-12);
    }
}
