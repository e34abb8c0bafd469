//! Keeping the ring's picture of this peer true, and what this peer knows of the others.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mutualstore_contract::reply::DaemonFile;
use mutualstore_dht::custody::Standing;
use mutualstore_dht::ring::{Phase, SelfChange};
use mutualstore_dht::writer::Outlook;
use mutualstore_dht::{Contact, Id, Others, Peer};
use mutualstore_net::{Net, NetworkInfo, Reason, Refusal};

use super::Membership;
use super::core::State;
use crate::clock::unix_ms;
use crate::datadir::files::BookEntry;
use crate::error::Failure;
use crate::format::link::Link;

/// The address book is written this long after it changed: what changes together is written once, and a peer
/// that is killed soon after it joined still finds the others again.
const BOOK_AFTER: Duration = Duration::from_millis(250);
/// With an unknown code, a stripe's shards lie with this many successors or more.
pub(crate) const LIKELY_HOLDERS: usize = 6;

/// Keeps the contact and `daemon.json` true to where this peer listens.
pub(crate) async fn follow_addresses(member: Arc<Membership>, mut info: DaemonFile) {
    let Some(net) = member.remote.net() else { return };
    let mut changes = net.address_changes();
    loop {
        member.publish_addresses();
        let listen = member.listen_addresses();
        if listen != info.listen {
            info.listen = listen;
            tracing::info!(listen = info.listen.join(","), "addresses changed");
            if let Err(error) = member.data.save_daemon_file(&info) {
                tracing::warn!(%error, "daemon.json names addresses of before");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Each question locks the machines for itself: a deletion of many stripes asks many.
impl Outlook for Membership {
    fn alive(&self) -> usize {
        self.others(|others| others.alive())
    }

    fn is_excused(&self, peer: Peer, is_kept: bool) -> bool {
        self.others(|others| others.is_excused(peer, is_kept))
    }

    fn sees_half(&self) -> bool {
        self.others(|others| others.sees_half())
    }

    fn suspects(&self, stripe: Id, count: usize, is_kept: bool) -> Vec<Peer> {
        self.others(|others| others.suspects(stripe, count, is_kept))
    }
}

impl Membership {
    /// The network as the transport wants it: none yet when it is only provisional.
    pub(crate) fn network_info(&self) -> NetworkInfo {
        let network = self.network();
        if network.adopted {
            NetworkInfo {
                id: network.id,
                secret: network.secret,
                unit: network.unit,
                r: network.r,
            }
        } else {
            NetworkInfo::default()
        }
    }

    /// What the ring is to a user: a peer that has not found its network yet is joining, although it serves
    /// meanwhile as a ring of one.
    pub(crate) fn phase(&self) -> Phase {
        self.core.read(|state| {
            if self.network().adopted {
                state.engine.ring.phase()
            } else {
                Phase::Joining
            }
        })
    }

    /// Whoever this is, a peer or an address, does not let this peer into its network.
    pub(super) fn barred_by(&self, who: impl fmt::Display, refusal: &Refusal) {
        let mut barred = self.joining.barred.lock().unwrap_or_else(PoisonError::into_inner);
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
        let barred = self.core.read(|state| state.engine.ring.is_barred());
        let why = self
            .joining
            .barred
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
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

    /// How the other peers are now. `look` runs under the lock of the machines: it asks one question.
    pub(crate) fn others<R>(&self, look: impl FnOnce(Others<'_>) -> R) -> R {
        let now = self.core.now();
        let look = |state: &State| look(Others::new(&state.engine.ring, &state.engine.custody, now));
        self.core.read(look)
    }

    /// Where this peer would look for a stripe if everybody were there: those of the first `count` that do
    /// not answer now.
    pub(crate) fn absent_successors(&self, stripe: Id, count: usize) -> Vec<Peer> {
        self.others(|others| others.absent_successors(stripe, count))
    }

    /// Live and suspect peers, this one included: what a code is chosen for.
    pub(crate) fn peers_counted(&self) -> usize {
        self.others(|others| others.counted())
    }

    /// All others ever known, as users see them.
    pub(crate) fn standings(&self) -> Vec<(Contact, Standing)> {
        let all = |others: Others<'_>| {
            let others = others.standings();
            others
                .map(|(contact, standing)| (contact.clone(), standing))
                .collect()
        };
        self.others(all)
    }

    /// Every peer in the address book, this one included, however long it has been away.
    pub(crate) fn peers_known(&self) -> usize {
        self.core.read(|state| 1 + state.engine.ring.peers().count())
    }

    /// Tells the ring where others are to dial this peer. Whoever was out of reach is asked again: it may
    /// have been this peer that was.
    pub(crate) fn publish_addresses(&self) {
        let Some(net) = self.remote.net() else { return };
        let addresses = net.contact_addresses();
        self.core.with(|state, now| {
            if *state.engine.ring.me().addresses != *addresses {
                let change = SelfChange {
                    addresses: Some(addresses.into()),
                    ..SelfChange::default()
                };
                state.engine.ring.update_self(now, change);
            }
            // Also when an interface came back with the address it had.
            state.engine.ring.ask_book(now);
        });
    }

    /// Where this peer listens, with `/p2p/`.
    pub(crate) fn listen_addresses(&self) -> Vec<String> {
        let listening = |net: &Net| {
            let addresses = net.listen_addresses().into_iter();
            addresses.map(|address| net.with_peer(&address)).collect()
        };
        self.remote.net().map(listening).unwrap_or_default()
    }

    /// The address book changed; it is written soon.
    pub(super) fn book_dirty(&self) {
        self.book_changed.notify_one();
    }

    /// Writes the address book now.
    pub(crate) fn save_book(&self) {
        let now = unix_ms() / 1000;
        let book: Vec<BookEntry> = self.core.read(|state| {
            let entries = state.engine.ring.book(self.core.now()).into_iter();
            entries
                .map(|entry| BookEntry {
                    last_seen: now.saturating_sub(entry.age.as_secs()),
                    contact: entry.contact,
                })
                .collect()
        });
        if let Some(net) = self.remote.net() {
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
pub(crate) async fn keep_book(member: Arc<Membership>) {
    loop {
        // Also at the start: the gate learns who is known.
        member.save_book();
        member.book_changed.notified().await;
        tokio::time::sleep(BOOK_AFTER).await;
    }
}
