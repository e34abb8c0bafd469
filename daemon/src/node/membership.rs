//! Keeping the ring's picture of this peer true, and what this peer knows of the others.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mutualstore_contract::reply::DaemonFile;
use mutualstore_dht::custody::Standing;
use mutualstore_dht::ring::{Liveness, Phase, SelfChange};
use mutualstore_dht::{Contact, Id, Peer, PeerState, Time};

use super::Node;
use super::core::State;
use super::shards::unix_ms;
use crate::error::Failure;
use crate::files::BookEntry;
use crate::link::Link;
use crate::spare;
use mutualstore_net::{Net, Reason, Refusal};

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

/// Keeps the contact and `daemon.json` true to where this peer listens.
pub(crate) async fn follow_addresses(node: Arc<Node>, mut info: DaemonFile) {
    let Some(net) = node.net() else { return };
    let mut changes = net.address_changes();
    loop {
        node.publish_addresses();
        let listen = node.listen_addresses();
        if listen != info.listen {
            info.listen = listen;
            tracing::info!(listen = info.listen.join(","), "addresses changed");
            if let Err(error) = node.data.save_daemon_file(&info) {
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

    /// Whoever this is, a peer or an address, does not let this peer into its network.
    pub(super) fn barred_by(&self, who: impl fmt::Display, refusal: &Refusal) {
        let mut barred = self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("{who}: {}", refusal.to_string().escape_debug());
        *barred = Some((refusal.reason, text));
    }

    /// Why the network this peer belongs to does not let it in: who refused it last, and with which words.
    /// None as long as anybody does, or nobody was met.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal_and_reason().map(|(_, text)| text)
    }

    /// The same, with the reason if it is known.
    fn refusal_and_reason(&self) -> Option<(Option<Reason>, String)> {
        let barred = self.core.read(|state| state.ring.is_barred());
        let why = self.barred.lock().unwrap_or_else(PoisonError::into_inner).clone();
        barred.then(|| why.map_or_else(Default::default, |(reason, text)| (Some(reason), text)))
    }

    /// Refuses to change anything in a network that does not let this peer in.
    pub(crate) fn check_admitted(&self) -> Result<(), Failure> {
        self.refusal_and_reason().map_or(Ok(()), |(reason, why)| {
            let cause = if reason == Some(Reason::WrongNetwork) {
                "the peers known here belong to another network"
            } else {
                "the network refuses this peer"
            };
            let text = format!(
                "{cause} ({why}), so nothing can be stored or deleted from here; `mutualstore doctor` names \
                 the cure"
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

    /// The ring chose virtual nodes. Those of a peer that has not found its network yet are not for long.
    pub(super) fn keep_places(&self, chosen: &[u16]) {
        if self.network().adopted
            && let Err(error) = self.data.add_virtual_nodes(chosen)
        {
            tracing::error!(%error, "cannot keep the indices of the virtual nodes; the next start chooses \
                                     others");
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
