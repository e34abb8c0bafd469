//! Joining a network, and keeping the ring's picture of this peer true.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, stream};
use mutualstore_dht::contact::virtual_nodes_for;
use mutualstore_dht::custody::Standing;
use mutualstore_dht::ring::{Liveness, Phase, SelfChange};
use mutualstore_dht::{Contact, Id, Peer, PeerState, Time};
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use super::Node;
use super::core::State;
use super::shards::unix_ms;
use crate::error::Failure;
use crate::files::{BookEntry, DaemonInfo};
use crate::link::Link;
use crate::net::{DialError, Net, NetworkInfo, Reason, Refusal, STAGGER};
use crate::network::Join;
use crate::spare;
use crate::wire::contact::decode_contact;

/// Between two rounds over the join addresses: doubles up to the maximum.
const JOIN_RETRY: Duration = Duration::from_millis(250);
const JOIN_RETRY_MAX: Duration = Duration::from_secs(10);
/// Addresses of an old address book dialled at once.
const HINTS_AT_ONCE: usize = 8;
/// How full this peer is, and whether others could relieve it, is looked at this often even when nothing
/// comes or goes.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// The address book is written this long after it changed: what changes together is written once, and a peer
/// that is killed soon after it joined still finds the others again.
const BOOK_AFTER: Duration = Duration::from_millis(250);
/// Above this share of its capacity a peer is full, in percent,
pub(crate) const FULL_ABOVE: u64 = 95;
/// until it is below this one again.
const ACCEPTING_BELOW: u64 = 90;
/// Above this one, where only less capacity than before leads, it is relieved of shards until it is merely
/// full.
const OVERFULL_ABOVE: u64 = 100;
/// Who is there is met within this after a start.
const MET_WITHIN: Duration = Duration::from_mins(1);
/// With an unknown code, a stripe's shards lie with this many successors or more.
pub(crate) const LIKELY_HOLDERS: usize = 6;

/// Dials what is to be joined until each has answered once, adopting the network of the first if this peer
/// has none yet; then the ring knows somebody to ask and goes on by itself. One answer is not enough: after a
/// mass restart an address that is still silent may lead to another ring that has to be merged with. The
/// addresses of an invite are those of one peer, tried together: one of them is enough.
///
/// A peer in no network that is refused by all in the first round, because it lacks the secret of their
/// network, ends: without an invite it never becomes a member. Refused later, it waits on and says why.
pub(crate) async fn join(node: Arc<Node>) {
    let mut joins: Vec<&[String]> = node.config.join.iter().map(Join::addresses).collect();
    for address in joins.iter().copied().flatten() {
        node.unanswered()
            .insert(address.clone(), "not tried yet".to_owned());
    }
    let mut wait = JOIN_RETRY;
    let (mut first_round, given) = (true, joins.len());
    while !joins.is_empty() {
        let mut left = Vec::new();
        let mut closed = Vec::new();
        for addresses in joins {
            match dial_any(&node, addresses).await {
                Dialled::Done => continue,
                Dialled::Silent => {}
                Dialled::Closed(address) => closed.push(address),
            }
            left.push(addresses);
        }
        let refused = first_round && closed.len() == given && !node.network().adopted;
        if let Some(address) = closed.first().filter(|_| refused) {
            let text = node.wrong_secret();
            node.end_refused(Failure::not_allowed(format!(
                "{address} {text}; nothing was joined"
            )));
            return;
        }
        joins = left;
        first_round = false;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(JOIN_RETRY_MAX);
    }
}

/// Looks for the peers of an address book that an older version wrote: each that is there says itself who it
/// is.
pub(crate) async fn follow_hints(node: Arc<Node>) {
    let mut silent = node.hints.clone();
    let mut wait = JOIN_RETRY;
    while !silent.is_empty() && wait < JOIN_RETRY_MAX {
        let dials = silent.into_iter().map(|address| {
            let node = Arc::clone(&node);
            async move { dial(&node, &address).await.err().map(|_| address) }
        });
        let asked = stream::iter(dials).buffer_unordered(HINTS_AT_ONCE);
        silent = asked.filter_map(std::future::ready).collect().await;
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

/// What came of dialling the addresses of one peer.
enum Dialled {
    /// One answered, or all are this peer itself: nothing is left to do.
    Done,
    /// None answers, or who does cannot be joined now.
    Silent,
    /// At this one is a member of a network whose secret this peer does not have.
    Closed(String),
}

/// Dials addresses of one peer, the next one when those before failed or took long.
async fn dial_any(node: &Arc<Node>, addresses: &[String]) -> Dialled {
    let mut closed = None;
    let mut waiting = addresses.iter();
    let mut dialling = FuturesUnordered::new();
    let mut next = Instant::now();
    let mut own = true;
    loop {
        tokio::select! {
            biased;
            Some((address, dialled)) = dialling.next(), if !dialling.is_empty() => {
                let address: &String = address;
                let Err(error) = dialled else {
                    node.unanswered().retain(|known, _| !addresses.contains(known));
                    return Dialled::Done;
                };
                let text = if is_wrong_secret(&error) {
                    closed = Some(address.clone());
                    node.wrong_secret().to_owned()
                } else {
                    error.to_string()
                };
                if let DialError::Refused(refusal) = &error
                    && refusal.reason.is_lasting()
                    && node.network().adopted
                {
                    node.barred_at(address, refusal);
                }
                let before = node.unanswered().insert(address.clone(), text.clone());
                own &= error == DialError::Own;
                if error != DialError::Own && before.as_ref() != Some(&text) {
                    tracing::warn!("join: {address}: {text}; keeps trying, serves meanwhile");
                }
                next = Instant::now();
            }
            () = sleep_until(next), if waiting.len() > 0 => {
                dialling.extend(waiting.next().map(async |address| (address, dial(node, address).await)));
                next = Instant::now() + STAGGER;
            }
            else => return match closed {
                Some(address) => Dialled::Closed(address),
                None if own => Dialled::Done,
                None => Dialled::Silent,
            },
        }
    }
}

/// Whether somebody answers there, of a network whose secret this peer does not have.
fn is_wrong_secret(error: &DialError) -> bool {
    matches!(error, DialError::Refused(refusal) if refusal.reason == Reason::WrongSecret)
}

/// Keeps the contact and `daemon.json` true to where this peer listens.
pub(crate) async fn follow_addresses(node: Arc<Node>, mut info: DaemonInfo) {
    let Some(net) = node.net() else { return };
    let mut changes = net.address_changes();
    loop {
        node.publish_addresses();
        let listen = node.listen_addresses();
        if listen != info.listen {
            info.listen = listen;
            tracing::info!(listen = info.listen.join(","), "addresses changed");
            if let Err(error) = node.data.save_daemon_info(&info) {
                tracing::warn!(%error, "daemon.json names addresses of before");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the ring informed of how full this peer is, and some space back.
pub(crate) async fn tell_usage(node: Arc<Node>) {
    loop {
        node.publish_usage();
        spare::keep(node.data.path());
        tokio::time::sleep(USAGE_EVERY).await;
    }
}

async fn dial(node: &Arc<Node>, address: &str) -> Result<(), DialError> {
    let Some(net) = node.net() else { return Ok(()) };
    if !node.network().adopted {
        let learned = net.learn(address, &node.invited()).await?;
        node.adopt(&learned.network);
    }
    let dialed = net.dial(address).await?;
    match decode_contact(dialed.contact, &node.verifier) {
        Ok(contact) if contact.peer == dialed.peer => {
            node.core.with(|state, now| state.ring.introduce(now, contact));
        }
        Ok(_) => tracing::warn!(peer = %dialed.peer, "introduced itself as another peer; that is ignored"),
        Err(error) => tracing::warn!(peer = %dialed.peer, %error, "answered in a way not understood"),
    }
    tracing::info!(peer = %dialed.peer, address, "join: answered");
    Ok(())
}

/// What a peer is to users.
fn standing(state: &State, peer: Peer, liveness: Liveness, now: Time, repair_delay: Duration) -> Standing {
    match liveness {
        Liveness::Alive => Standing::Live,
        Liveness::Unmet { since } | Liveness::Dead { since } if now.since(since) >= repair_delay => {
            Standing::Gone
        }
        Liveness::Suspect | Liveness::Unmet { .. } | Liveness::Dead { .. } => {
            if state.custody.is_forgotten(peer) {
                Standing::Gone
            } else {
                Standing::Suspect
            }
        }
    }
}

impl Node {
    /// Join addresses through which nobody was met yet, and how the last attempt ended.
    pub(crate) fn unanswered(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a peer with another secret than this one's stands for.
    fn wrong_secret(&self) -> &'static str {
        if self.network().adopted || self.config.join.iter().any(Join::has_secret) {
            "is of a network with another secret: ask one of its members for an invite (`mutualstore invite`)"
        } else {
            "is of a closed network: join by an invite, which `mutualstore invite` prints on one of its \
             peers, with --join @FILE"
        }
    }

    /// Nobody takes this peer in: the process ends and says why.
    fn end_refused(&self, why: Failure) {
        self.refused.get_or_init(|| why);
        self.quit.notify_one();
    }

    /// Why this peer ends, if it was because nobody took it in.
    pub(crate) fn refused_by_network(&self) -> Option<Failure> {
        self.refused.get().cloned()
    }

    /// What the ring is to a user: a peer that has not found its network yet is joining, although it serves
    /// meanwhile as a ring of one.
    pub(crate) fn phase(&self) -> Phase {
        self.core.read(|state| {
            if self.network().adopted {
                state.ring.phase()
            } else {
                Phase::Joining
            }
        })
    }

    /// Another peer does not let this one into its network.
    pub(super) fn barred_by(&self, peer: Peer, refusal: &Refusal) {
        let mut barred = self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        *barred = Some(format!("{peer}: {}", refusal.to_string().escape_debug()));
    }

    /// So does whoever is at an address given to join.
    fn barred_at(&self, address: &str, refusal: &Refusal) {
        let mut barred = self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        *barred = Some(format!("{address}: {}", refusal.to_string().escape_debug()));
        drop(barred);
        self.core.with(|state, now| state.ring.handle_barred(now));
    }

    /// Why the network this peer belongs to does not let it in: who refused it last, and with which words.
    /// None as long as anybody does, or nobody was met.
    pub(crate) fn refusal(&self) -> Option<String> {
        let barred = self.core.read(|state| state.ring.is_barred());
        let why = self.barred.lock().unwrap_or_else(PoisonError::into_inner).clone();
        barred.then(|| why.unwrap_or_default())
    }

    /// Refuses to change anything in a network that does not let this peer in.
    pub(crate) fn check_admitted(&self) -> Result<(), Failure> {
        self.refusal().map_or(Ok(()), |why| {
            let text = format!(
                "the network refuses this peer ({why}), so nothing can be stored or deleted from here; \
                 `mutualstore doctor` names the cure"
            );
            Err(Failure::not_allowed(text))
        })
    }

    /// Refuses links of other networks.
    pub(crate) fn check_link(&self, link: &Link) -> Result<(), Failure> {
        let network = self.network();
        if network.knows_tag(link.tag) {
            Ok(())
        } else if network.adopted {
            Err(Failure::not_allowed("the link belongs to another network"))
        } else {
            Err(Failure::refused(
                "this peer has not joined the network of the link yet; `mutualstore doctor` says what it \
                 waits for",
            ))
        }
    }

    /// Where this peer would look for a stripe if everybody it ever knew were there: those of the first
    /// `count` that do not answer now.
    pub(crate) fn absent_successors(&self, stripe: Id, count: usize) -> Vec<Peer> {
        self.core.read(|state| {
            let place = |contact: &Contact| contact.ids().map(|id| id.distance_from(&stripe)).min();
            let mut all: Vec<(Id, Peer, bool)> = state
                .ring
                .peers()
                .filter_map(|(contact, liveness)| {
                    Some((place(contact)?, contact.peer, liveness != Liveness::Alive))
                })
                .collect();
            all.extend(place(state.ring.me()).map(|at| (at, self.me, false)));
            all.sort_unstable();
            all.into_iter()
                .take(count)
                .filter(|(_, _, absent)| *absent)
                .map(|(_, peer, _)| peer)
                .collect()
        })
    }

    /// Live and suspect peers, this one included: what a code is chosen for. Those in the address book only
    /// count until they would have been met.
    pub(crate) fn peers_counted(&self) -> usize {
        let now = self.core.now();
        let delay = self.config.repair_delay;
        self.core.read(|state| {
            let counts = |peer, liveness| {
                let delay = match liveness {
                    Liveness::Unmet { .. } => delay.min(MET_WITHIN),
                    Liveness::Alive | Liveness::Suspect | Liveness::Dead { .. } => delay,
                };
                standing(state, peer, liveness, now, delay) != Standing::Gone
            };
            let others = state.ring.peers();
            1 + others
                .filter(|(contact, liveness)| counts(contact.peer, *liveness))
                .count()
        })
    }

    /// Whether this peer is in touch with at least half of the others that it knows and nobody said to be
    /// gone for good.
    pub(crate) fn sees_most(&self) -> bool {
        self.core.read(|state| {
            let others = state.ring.peers();
            let counted = others.filter(|(contact, _)| !state.custody.is_forgotten(contact.peer));
            let alive: Vec<bool> = counted.map(|(_, liveness)| liveness == Liveness::Alive).collect();
            2 * alive.iter().filter(|alive| **alive).count() >= alive.len()
        })
    }

    /// All others ever known, as users see them: suspect until their shards are made anew elsewhere, then
    /// gone.
    pub(crate) fn standings(&self) -> Vec<(Contact, Standing)> {
        let now = self.core.now();
        let delay = self.config.repair_delay;
        self.core.read(|state| {
            let others = state.ring.peers();
            others
                .map(|(contact, liveness)| {
                    (
                        contact.clone(),
                        standing(state, contact.peer, liveness, now, delay),
                    )
                })
                .collect()
        })
    }

    /// Whether a peer has been silent for so long, or is said to be gone for good, that its shards are made
    /// anew elsewhere. One that was not met since this peer started may have been silent before.
    pub(crate) fn is_gone(&self, peer: Peer) -> bool {
        let now = self.core.now();
        self.core.read(|state| match state.ring.liveness(peer) {
            Some(liveness) => {
                standing(state, peer, liveness, now, self.config.repair_delay) == Standing::Gone
            }
            None => !state.ring.is_alive(peer),
        })
    }

    /// Every peer in the address book, this one included, however long it has been away.
    pub(crate) fn peers_known(&self) -> usize {
        self.core.read(|state| 1 + state.ring.peers().count())
    }

    /// Tells the ring how full this peer is, when that changed. One whose capacity was lowered below what it
    /// holds is relieved of shards like one that leaves, until the rest fits.
    pub(crate) fn publish_usage(&self) {
        let usage = self.shards.usage();
        let used = usage.used();
        let percent = used.saturating_mul(100) / usage.capacity.max(1);
        let relieved = percent > FULL_ABOVE && self.irreplaceable().is_none();
        let leaving = self.is_leaving();
        self.core.with(|state, now| {
            let me = state.ring.me();
            let next = match me.state {
                PeerState::Accepting | PeerState::Full if relieved && percent > OVERFULL_ABOVE => {
                    PeerState::Draining
                }
                PeerState::Accepting if percent >= FULL_ABOVE => PeerState::Full,
                PeerState::Full if percent < ACCEPTING_BELOW => PeerState::Accepting,
                PeerState::Draining if !leaving && !relieved => PeerState::Full,
                same @ (PeerState::Accepting | PeerState::Full | PeerState::Draining) => same,
            };
            if me.state != next || me.used != used {
                let change = SelfChange {
                    state: Some(next),
                    used: Some(used),
                    ..SelfChange::default()
                };
                state.ring.update_self(now, change);
            }
        });
    }

    /// Tells the ring where others are to dial this peer. Whoever was out of reach is asked again: it may
    /// have been this peer that was.
    pub(crate) fn publish_addresses(&self) {
        let Some(net) = self.net() else { return };
        let addresses = net.contact_addresses();
        self.core.with(|state, now| {
            if *state.ring.me().addresses != *addresses {
                let change = SelfChange {
                    addresses: Some(addresses.into()),
                    ..SelfChange::default()
                };
                state.ring.update_self(now, change);
            }
            // Also when an interface came back with the address it had.
            state.ring.ask_book(now);
        });
    }

    /// Where this peer listens, with `/p2p/`.
    pub(crate) fn listen_addresses(&self) -> Vec<String> {
        let listening = |net: &Net| {
            let addresses = net.listen_addresses().into_iter();
            addresses.map(|address| net.with_peer(&address)).collect()
        };
        self.net().map(listening).unwrap_or_default()
    }

    /// The address book changed; it is written soon.
    pub(super) fn book_dirty(&self) {
        self.book_changed.notify_one();
    }

    /// Writes the address book now.
    pub(crate) fn save_book(&self) {
        let now = unix_ms() / 1000;
        let book: Vec<BookEntry> = self.core.read(|state| {
            let entries = state.ring.book(self.core.now()).into_iter();
            entries
                .map(|entry| BookEntry {
                    last_seen: now.saturating_sub(entry.age.as_secs()),
                    contact: entry.contact,
                })
                .collect()
        });
        if let Some(net) = self.net() {
            let known = book.iter().flat_map(|entry| entry.contact.addresses.iter());
            net.know(known.map(String::as_str));
        }
        if let Err(error) = self.data.save_book(&book) {
            tracing::warn!(%error, "could not write the address book");
        }
    }

    /// Becomes a peer of the network that answered a join address: its parameters decide how many virtual
    /// nodes this peer has.
    fn adopt(&self, found: &NetworkInfo) {
        let mut network = self.network();
        let NetworkInfo { secret, .. } = self.invited();
        if let Err(error) = network.adopt(found.id, secret, found.unit, found.r) {
            tracing::error!(%error, "cannot join");
            return;
        }
        let count = virtual_nodes_for(self.config.capacity, network.unit);
        let r = usize::try_from(network.r).unwrap_or(usize::MAX);
        if let Err(error) = self.data.save_network(&network) {
            tracing::error!(%error, "cannot join");
            return;
        }
        self.core.with(|state, now| {
            // Together, so that what is kept from now on are places in the new network.
            self.verifier.enter(network.id);
            *self.network.write().unwrap_or_else(PoisonError::into_inner) = network;
            state.ring.adopt(now, r, count);
        });
        if let Some(net) = self.net() {
            net.adopt(self.network_info());
        }
    }

    /// The ring chose virtual nodes. Those of a peer that has not found its network yet are not for long.
    pub(super) fn keep_places(&self, chosen: &[u16]) {
        if self.network().adopted
            && let Err(error) = self.data.add_virtual_nodes(chosen)
        {
            tracing::error!(%error, "cannot keep the indices of the virtual nodes; the next start chooses \
                                     others");
        }
    }

    /// What the invite and the configuration say of the network to be joined: its id, all zero if any will
    /// do, and its secret.
    fn invited(&self) -> NetworkInfo {
        let mut invites = self.config.join.iter().filter_map(|join| match join {
            Join::Invite(invite) => Some(invite),
            Join::Address(_) => None,
        });
        let (id, secret) = match invites.next() {
            Some(invite) => (invite.network, invite.secret.clone()),
            None => ([0; 32], Zeroizing::default()),
        };
        let id = self.config.network.unwrap_or(id);
        NetworkInfo {
            id,
            secret,
            unit: 0,
            r: 0,
        }
    }
}

/// Writes the address book soon after it changed.
pub(crate) async fn keep_book(node: Arc<Node>) {
    loop {
        // Also at the start: the gate learns who is known.
        node.save_book();
        node.book_changed.notified().await;
        tokio::time::sleep(BOOK_AFTER).await;
    }
}
