//! Clients that put and delete stripes: the daemon's machines ([`mutualstore_dht::writer`]), driven over the
//! simulated network.
//!
//! A writer whose process is stopped goes on when that does; one that dies leaves its put to the leases, or
//! to a commit that got through and spreads.
//!
//! Simpler than in the daemon: a client has one stripe, never `--degraded`; it sees at once where shards
//! are that it looks for or rebuilds from; leases are not renewed, so that nothing is made good before the
//! commit; a second attempt to delete knows nothing of the first.

mod delete;
mod put;

use std::collections::BTreeMap;

use mutualstore_dht::custody::{LOCATOR, Shape};
use mutualstore_dht::ring::LookupId;
use mutualstore_dht::writer::Answer;
use mutualstore_dht::{Contact, Id, Time};

use self::delete::Deletion;
use self::put::Put;
use super::disk::{Stored, Tenure};
use super::host::Host;
use super::message::Body;
use super::world::{Event, Who, World, micros};

/// A peer that has not answered after so long does not.
const DEADLINE: u64 = 1_000_000;

/// Between a writer and holders; `client` is the number of a put or a deletion.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Keep {
        client: u64,
        stripe: Id,
        index: u8,
        shape: Shape,
        until: u64,
    },
    Kept {
        client: u64,
        index: u8,
        answer: Answer,
    },
    /// Answered by `Kept` with the index of locators.
    Locate {
        client: u64,
        stripe: Id,
        shape: Shape,
        until: u64,
        holders: Vec<(u8, Who)>,
    },
    Commit {
        client: u64,
        stripe: Id,
    },
    /// None: there is no answer.
    Committed {
        client: u64,
        held: Option<bool>,
    },
    Discard {
        stripe: Id,
    },
    StoreTombstone {
        client: u64,
        stripe: Id,
        shape: Shape,
    },
    TombstoneStored {
        client: u64,
        taken: bool,
    },
}

impl Message {
    /// What a closed port says to it.
    pub(crate) fn refused(&self) -> Option<Self> {
        let answer = Answer::Silent;
        Some(match *self {
            Self::Keep { client, index, .. } => Self::Kept {
                client,
                index,
                answer,
            },
            Self::Locate { client, .. } => Self::Kept {
                client,
                index: LOCATOR,
                answer,
            },
            Self::Commit { client, .. } => Self::Committed { client, held: None },
            Self::StoreTombstone { client, .. } => Self::TombstoneStored { client, taken: false },
            Self::Discard { .. }
            | Self::Kept { .. }
            | Self::Committed { .. }
            | Self::TombstoneStored { .. } => return None,
        })
    }
}

/// What a client does.
#[derive(Debug)]
enum Client {
    Put(Box<Put>),
    Delete(Box<Deletion>),
}

impl Client {
    /// Through which host, in which of its lives.
    fn host(&self) -> (Who, u32) {
        match self {
            Self::Put(put) => (put.writer, put.life),
            Self::Delete(deletion) => (deletion.through, deletion.life),
        }
    }
}

/// Clients that wait, and how earlier ones fared.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    clients: BTreeMap<u64, Client>,
    /// Lookups on their way: of which host, in which of its lives, for which put.
    looking: BTreeMap<(Who, u32, LookupId), u64>,
    /// What they found.
    found: BTreeMap<u64, Vec<Contact>>,
    /// When each client goes on at the latest.
    wakes: BTreeMap<u64, u64>,
    next: u64,
    pub(crate) acknowledged: u64,
}

impl World {
    /// Whether clients still wait: those of hosts that died do not.
    pub(crate) fn is_writing(&self) -> bool {
        let mut hosts = self.writers.clients.values().map(Client::host);
        hosts.any(|(who, life)| {
            self.host(who)
                .is_some_and(|host| host.is_up() && host.life == life)
        })
    }

    fn write(&mut self, from: Who, to: Who, message: Message) {
        self.send(from, to, None, Body::Writer(message));
    }

    /// Now, as the machines of clients count it.
    fn time(&self) -> Time {
        Time::from_micros(self.now)
    }

    fn lease(&self) -> u64 {
        let custody = self.setup.custody.as_ref();
        custody.map_or(0, |custody| micros(custody.pending_lease))
    }

    /// A client may have something to do.
    pub(crate) fn advance(&mut self, number: u64) {
        let Some(client) = self.writers.clients.remove(&number) else {
            self.writers.found.remove(&number);
            return;
        };
        if self.writers.wakes.get(&number).is_some_and(|at| *at <= self.now) {
            self.writers.wakes.remove(&number);
        }
        let (who, life) = client.host();
        if !self.lives(who, life) {
            if self.stall(who, life, Event::Writer(number)) {
                self.writers.clients.insert(number, client);
            }
            return;
        }
        let next = match client {
            Client::Put(put) => self
                .advance_put(number, put)
                .map(|(put, due)| (Client::Put(put), due)),
            Client::Delete(deletion) => self
                .advance_delete(number, deletion)
                .map(|(deletion, due)| (Client::Delete(deletion), due)),
        };
        if let Some((client, due)) = next {
            self.writers.clients.insert(number, client);
            let wake = self.writers.wakes.get(&number).copied();
            if let Some(due) = due.filter(|due| wake.is_none_or(|wake| wake > *due)) {
                self.writers.wakes.insert(number, due);
                self.schedule(due, Event::Writer(number));
            }
        } else {
            self.writers.wakes.remove(&number);
        }
    }

    pub(crate) fn writer_message(&mut self, to: Who, from: Who, from_life: u32, message: Message) {
        let answer = match message {
            Message::Keep {
                client,
                stripe,
                index,
                shape,
                until,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored = until > self.now && self.store(to, (stripe, index), Stored { shape, tenure });
                let answer = self.answer(to, stored);
                Message::Kept {
                    client,
                    index,
                    answer,
                }
            }
            Message::Locate {
                client,
                stripe,
                shape,
                until,
                holders,
            } => {
                let tenure = Tenure::Pending { until, writer: from };
                let stored =
                    until > self.now && self.keep_locator(to, stripe, Stored { shape, tenure }, holders);
                Message::Kept {
                    client,
                    index: LOCATOR,
                    answer: self.answer(to, stored),
                }
            }
            Message::Commit { client, stripe } => Message::Committed {
                client,
                held: Some(self.commit(to, stripe)),
            },
            Message::Discard { stripe } => return self.take_back(to, stripe),
            Message::StoreTombstone {
                client,
                stripe,
                shape,
            } => Message::TombstoneStored {
                client,
                taken: self.store_tombstone(to, stripe, shape),
            },
            Message::Kept { client, .. }
            | Message::Committed { client, .. }
            | Message::TombstoneStored { client, .. } => return self.heard(client, from, &message),
        };
        self.send(to, from, Some(from_life), Body::Writer(answer));
    }

    /// Gives a client an answer, if it still waits.
    fn heard(&mut self, number: u64, from: Who, answer: &Message) {
        let Some(mut client) = self.writers.clients.remove(&number) else {
            return;
        };
        match (&mut client, answer) {
            (Client::Put(put), Message::Kept { index, answer, .. }) => {
                self.settle_store(put, *index, from, *answer);
            }
            (Client::Put(put), Message::Committed { held, .. }) => self.settle_ask(put, from, *held),
            (Client::Delete(deletion), Message::TombstoneStored { taken, .. }) => {
                self.settle_tombstone(deletion, from, *taken);
            }
            (Client::Put(_) | Client::Delete(_), _) => {}
        }
        self.writers.clients.insert(number, client);
        self.advance(number);
    }

    fn answer(&self, who: Who, stored: bool) -> Answer {
        if stored {
            Answer::Stored
        } else if self.host(who).is_some_and(Host::is_full) {
            Answer::Full
        } else {
            Answer::Refused
        }
    }
}
