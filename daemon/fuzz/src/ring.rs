//! Calls of the ring's state machine, by a peer whose neighbours say whatever they like.

use std::collections::BTreeSet;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use mutualstore_dht::ring::{
    BookEntry, Event, Failure, LookupId, MAX_CONTACTS, MAX_WITHOUT, Phase, Request, Response, Ring,
    RingConfig, SelfChange, Transmit,
};
use mutualstore_dht::{Contact, Id, Peer, PeerState, Signature, Time};

/// Peers there are; the ring's own is the first.
const PEERS: u8 = 24;
/// Requests that one call may send: everybody known, for each of the few virtual nodes.
const MAX_SENT: usize = 256;
/// Timers due at one moment, at most.
const MAX_DUE: usize = 512;

/// The bytes are a seed, an address book and calls.
pub fn operations(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    if let Ok(mut driver) = Driver::new(&mut input) {
        while !input.is_empty() && driver.act(&mut input).is_ok() {
            driver.settle();
        }
        driver.end();
    }
}

/// The peer with this number.
pub(crate) fn peer(number: u8) -> Peer {
    Peer::new([number.wrapping_mul(37); 32])
}

fn id(input: &mut Unstructured) -> Result<Id> {
    // Few points of the circle, so that they meet.
    Ok(Id::new([input.arbitrary::<u8>()? & 0xf3; 32]))
}

fn any_peer(input: &mut Unstructured) -> Result<Peer> {
    Ok(peer(input.int_in_range(0..=PEERS - 1)?))
}

fn contact(input: &mut Unstructured) -> Result<Contact> {
    let number = input.int_in_range(0..=PEERS - 1)?;
    let byte: u8 = input.arbitrary()?;
    Ok(Contact {
        version: if byte == 255 {
            u64::MAX
        } else {
            u64::from(byte & 15)
        },
        state: match byte >> 4 & 3 {
            0 | 1 => PeerState::Accepting,
            2 => PeerState::Full,
            _ => PeerState::Draining,
        },
        virtual_nodes: (0..=u16::from(byte >> 6)).collect(),
        ..plain(number)
    })
}

fn plain(number: u8) -> Contact {
    Contact {
        peer: peer(number),
        version: 1,
        virtual_nodes: vec![0].into(),
        addresses: [format!("/memory/{number}")].into(),
        capacity: 1 << 30,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    }
}

fn contacts(input: &mut Unstructured) -> Result<Vec<Contact>> {
    let count = input.int_in_range(0..=12)?;
    (0..count).map(|_| contact(input)).collect()
}

fn request(input: &mut Unstructured) -> Result<Request> {
    Ok(match input.int_in_range(0..=3)? {
        0 => Request::Ping {
            held: if input.arbitrary()? {
                Some(contact(input)?)
            } else {
                None
            },
        },
        1 => Request::Neighbours {
            contact: contact(input)?,
            member: input.arbitrary()?,
            of: (0..input.int_in_range(0..=4)?)
                .map(|_| id(input))
                .collect::<Result<_>>()?,
            digest: input.arbitrary()?,
        },
        2 => Request::Next {
            target: id(input)?,
            count: input.arbitrary()?,
            without: (0..input.int_in_range(0..=4)?)
                .map(|_| any_peer(input))
                .collect::<Result<_>>()?,
        },
        _ => Request::Leave {
            contact: contact(input)?,
        },
    })
}

/// An answer to any question: who answers need not keep to what was asked.
fn response(input: &mut Unstructured) -> Result<Response> {
    Ok(match input.int_in_range(0..=7)? {
        0 | 1 => Response::Pong {
            contact: contact(input)?,
            member: input.arbitrary()?,
        },
        2 => Response::Same,
        3 => Response::Contacts(contacts(input)?),
        4 => Response::Found(contacts(input)?),
        5 => Response::Closer(contacts(input)?),
        6 => Response::Busy,
        _ => Response::Ack,
    })
}

fn failure(input: &mut Unstructured) -> Result<Failure> {
    let all = [
        Failure::Unreachable,
        Failure::TimedOut,
        Failure::Refused,
        Failure::Barred,
    ];
    input.choose(&all).copied()
}

/// A ring, what it asked, and what it owes.
struct Driver {
    ring: Ring,
    now: Time,
    r: usize,
    version: u64,
    asked: Vec<Transmit>,
    /// Lookups and walks that have not ended.
    open: BTreeSet<LookupId>,
}

impl Driver {
    fn new(input: &mut Unstructured) -> Result<Self> {
        let seed = input.arbitrary()?;
        let book = contacts(input)?
            .into_iter()
            .filter(|contact| contact.peer != peer(0));
        let entry = |contact| BookEntry {
            contact,
            age: Duration::from_mins(1),
        };
        let config = RingConfig {
            r: input.int_in_range(4..=8)?,
            virtual_nodes: input.int_in_range(0..=4)?,
            max_book: 16,
            max_learned: 8,
            ..RingConfig::default()
        };
        let (r, now) = (config.r, Time::from_micros(1));
        let ring = Ring::new(config, plain(0), book.map(entry).collect(), seed, now);
        let mut driver = Self {
            ring,
            now,
            r,
            version: 0,
            asked: Vec::new(),
            open: BTreeSet::new(),
        };
        driver.settle();
        Ok(driver)
    }

    /// One call.
    fn act(&mut self, input: &mut Unstructured) -> Result<()> {
        let now = self.now;
        match input.int_in_range(0..=15)? {
            0..=2 => self.answer(input)?,
            3 | 4 => {
                let from = input.int_in_range(1..=PEERS - 1)?;
                let answer = self.ring.handle_request(now, peer(from), request(input)?);
                check_answer(&answer);
            }
            5 => {
                if let Some(call) = self.take(input)? {
                    self.ring.handle_failure(now, call.id, failure(input)?);
                }
            }
            6 | 7 => self.advance(Duration::from_millis(input.int_in_range(0..=20_000)?)),
            8 => self.ring.add_contact(now, contact(input)?),
            9 => self.ring.introduce(now, contact(input)?),
            10 => {
                let lookup = self.ring.lookup(now, id(input)?, input.int_in_range(1..=40)?);
                assert!(self.open.insert(lookup));
            }
            11 => {
                let walk = self.ring.walk(now);
                assert!(self.open.insert(walk));
            }
            12 => self.ring.handle_disconnect(now, any_peer(input)?),
            13 => self.ring.hear(now, peer(input.int_in_range(1..=PEERS - 1)?)),
            14 => self.ring.update_self(now, change(input)?),
            _ => match input.int_in_range(0..=3)? {
                0 => self.ring.leave(now),
                1 => self.ring.ask_book(now),
                2 => self.ring.handle_barred(now),
                _ => self.ring.adopt(now, self.r, input.int_in_range(1..=4)?),
            },
        }
        Ok(())
    }

    fn take(&mut self, input: &mut Unstructured) -> Result<Option<Transmit>> {
        if self.asked.is_empty() {
            return Ok(None);
        }
        let at = input.choose_index(self.asked.len())?;
        Ok(Some(self.asked.swap_remove(at)))
    }

    fn answer(&mut self, input: &mut Unstructured) -> Result<()> {
        if let Some(call) = self.take(input)? {
            let response = response(input)?;
            self.ring.handle_response(self.now, call.id, response);
        }
        Ok(())
    }

    /// Time goes by, and what comes due is done when it is due.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10 * MAX_DUE {
            let Some(due) = self.ring.poll_timeout().filter(|due| *due <= end) else {
                break;
            };
            self.now = due.max(self.now);
            self.ring.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Takes out what the ring wants and checks what must hold after every call.
    fn settle(&mut self) {
        for _ in 0..MAX_DUE {
            if self.ring.poll_timeout().is_none_or(|due| due > self.now) {
                break;
            }
            self.ring.handle_timeout(self.now);
        }
        assert!(
            self.ring.poll_timeout().is_none_or(|due| due > self.now),
            "a timer stays due"
        );
        let sent: Vec<Transmit> = std::iter::from_fn(|| self.ring.poll_transmit()).collect();
        assert!(sent.len() <= MAX_SENT, "{} requests after one call", sent.len());
        for call in &sent {
            assert!(call.to.is_valid() && call.to.peer != peer(0));
            assert!(call.deadline > Duration::ZERO && call.deadline <= Duration::from_secs(30));
            if let Request::Next { without, .. } = &call.request {
                assert!(without.len() <= MAX_WITHOUT);
            }
        }
        self.asked.extend(sent);
        while let Some(event) = self.ring.poll_event() {
            match event {
                Event::LookupDone { id, .. } | Event::WalkDone { id, .. } => {
                    assert!(self.open.remove(&id), "{id:?} ends twice");
                }
                Event::PhaseChanged(_)
                | Event::PeerUp(_)
                | Event::PeerDown(_)
                | Event::Departed(_)
                | Event::PeerChanged(_)
                | Event::Positioned(_)
                | Event::BookChanged
                | Event::Left => {}
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let ring = &self.ring;
        let me = ring.me();
        assert!(me.is_valid() && me.peer == peer(0));
        assert!(me.version >= self.version, "the own contact goes back");
        self.version = me.version;
        assert!(ring.is_alive(me.peer));
        let circle: Vec<(Id, Peer)> = ring.circle().collect();
        assert!(circle.is_sorted_by(|a, b| a.0 < b.0));
        assert!(circle.iter().all(|(_, peer)| ring.is_alive(*peer)));
        for own in me.ids() {
            assert!(circle.contains(&(own, me.peer)));
            let list: BTreeSet<Peer> = ring.successor_list(own).map(|contact| contact.peer).collect();
            assert!(list.len() <= self.r && !list.contains(&me.peer));
            assert_eq!(list.len(), ring.successor_list(own).count());
        }
        assert!(
            ring.alive()
                .all(|contact| contact.is_valid() && contact.peer != me.peer)
        );
        assert!(ring.book(self.now).len() <= usize::from(PEERS));
    }

    /// Whatever happened, lookups and walks end by themselves, and who has left asks nothing.
    fn end(&mut self) {
        self.advance(Duration::from_secs(25));
        assert!(self.open.is_empty(), "{:?} do not end", self.open);
        if self.ring.phase() == Phase::Left {
            self.asked.clear();
            self.advance(Duration::from_secs(25));
            assert!(self.asked.is_empty());
        }
    }
}

fn change(input: &mut Unstructured) -> Result<SelfChange> {
    let states = [PeerState::Accepting, PeerState::Full, PeerState::Draining];
    Ok(SelfChange {
        state: Some(*input.choose(&states)?),
        used: Some(input.arbitrary::<u32>()?.into()),
        capacity: None,
        addresses: Some([String::from_utf8_lossy(input.bytes(3)?).into_owned()].into()),
    })
}

fn check_answer(answer: &Response) {
    match answer {
        Response::Contacts(contacts) | Response::Found(contacts) => assert!(contacts.len() <= MAX_CONTACTS),
        Response::Closer(contacts) => assert!(contacts.len() <= 8),
        Response::Pong { contact, .. } => assert_eq!(contact.peer, peer(0)),
        Response::Same | Response::Busy | Response::Ack => {}
    }
}
