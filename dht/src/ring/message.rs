//! What rings say to each other and to their driver.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Contact, Id, Peer, PeerState, Time};

/// An answer carries at most this many contacts.
pub const MAX_CONTACTS: usize = 256;

/// A step of a lookup names at most this many peers that did not answer.
pub const MAX_WITHOUT: usize = 32;

/// Names one request of this ring, so that the driver can hand back what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a lookup or a walk of this ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u64);

/// A question to another peer. The transport proves who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Are you there?
    Ping {
        /// The receiver's contact as the asker holds it, if it is newer than what the receiver said last. A
        /// receiver whose clock went back outdoes it before it answers; the signature shows that it was its
        /// own.
        held: Option<Contact>,
    },
    /// Stabilize and notify in one (Zave 2017): here I am; who follows these points in your view?
    Neighbours {
        /// The asker.
        contact: Contact,
        /// Whether the asker is a member of a ring; the receiver takes it into its table only then.
        member: bool,
        /// The asker's virtual nodes whose first successor is at the receiver, at most 256. Empty: the
        /// asker's neighbourhood has just changed, and the receiver, a predecessor, should ask soon.
        of: Vec<Id>,
        /// Digest of the asker's own answer to the question; see [`Response::Same`].
        digest: u64,
    },
    /// One step of an iterative lookup.
    Next {
        /// The point looked for.
        target: Id,
        /// How many distinct peers at or after it are wanted.
        count: u16,
        /// Peers that did not answer the asker: no hops for it, and worth a ping. At most [`MAX_WITHOUT`].
        without: Vec<Peer>,
    },
    /// The sender leaves the ring for good.
    Leave {
        /// The sender; its version counts as dead.
        contact: Contact,
    },
}

/// An answer, given from local state alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Ping`], at once in every phase.
    Pong {
        /// The answering peer.
        contact: Contact,
        /// Whether it is a member of a ring.
        member: bool,
    },
    /// To [`Request::Neighbours`]: the asker's digest equals the receiver's.
    Same,
    /// To [`Request::Neighbours`]: the union, over the points asked for, of the first r distinct peers after
    /// each, without the asker and with the receiver in its place. At most [`MAX_CONTACTS`].
    Contacts(Vec<Contact>),
    /// To [`Request::Next`]: the receiver owns the arc of the target. The first distinct peers at or after
    /// the target in the order of the circle, without the asker, with the receiver in its place; in the end
    /// the one before the target if the receiver is the first after it.
    Found(Vec<Contact>),
    /// To [`Request::Next`]: peers nearer to the target, at most 8.
    Closer(Vec<Contact>),
    /// The receiver is joining or leaving and answers no question of state. Not a failure.
    Busy,
    /// To [`Request::Leave`].
    Ack,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens at the peer's addresses, or the connection broke.
    Unreachable,
    /// No answer within the deadline.
    TimedOut,
    /// The peer refused the connection or the request.
    Refused,
    /// The peer does not let this one into its network: another secret, other parameters, a twin that lives.
    Barred,
}

/// A request for the driver to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// For [`super::Ring::handle_response`] and [`super::Ring::handle_failure`].
    pub id: RequestId,
    /// Whom to ask, and where it is.
    pub to: Contact,
    /// The question.
    pub request: Request,
    /// How long an answer counts. The ring keeps this deadline itself. A driver that waits a few seconds
    /// longer and hands over late answers too keeps slow peers from being taken for dead.
    pub deadline: Duration,
}

/// Where a peer stands in its own ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A ring of one: no other peer is reachable. Entries of the address book are tried again and again.
    Alone,
    /// Looking for a ring, or for the lists of all own virtual nodes.
    Joining,
    /// A member with a list for each virtual node.
    Joined,
    /// Announced its departure, waiting for acknowledgements.
    Leaving,
    /// Gone; asks and answers nothing but pings.
    Left,
}

/// What became of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first distinct peers at or after the target, this one included in its place.
    pub contacts: Vec<Contact>,
    /// The peers that answered, in that order; empty when the answer was known here.
    pub path: Vec<Peer>,
    /// Questions answered.
    pub hops: u32,
    /// Questions that failed.
    pub timeouts: u32,
}

/// A lookup that found nothing. No state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// This peer is no member of a ring; ask again when it has joined.
    #[error("not a member of a ring")]
    NotJoined,
    /// Neither the time nor the hops allowed were enough; a retry starts from what was learned.
    #[error("no answer in time after {hops} answers and {timeouts} failures")]
    TimedOut {
        /// Questions answered.
        hops: u32,
        /// Questions that failed.
        timeouts: u32,
    },
    /// Every peer known to lie nearer was asked in vain; a retry helps once the ring has repaired itself.
    #[error("nobody left to ask after {hops} answers and {timeouts} failures")]
    Exhausted {
        /// Questions answered.
        hops: u32,
        /// Questions that failed.
        timeouts: u32,
    },
}

/// Something the driver or custody may care about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// See [`super::Ring::phase`].
    PhaseChanged(Phase),
    /// The peer entered the table of the living.
    PeerUp(Peer),
    /// The peer died or left.
    PeerDown(Peer),
    /// The peer said that it leaves for good: nobody need wait for it. Comes behind its [`Self::PeerDown`].
    Departed(Peer),
    /// The contact of a living peer has changed, or what this one says of itself but its use.
    PeerChanged(Peer),
    /// New virtual nodes were chosen: these indices, in this order. The driver keeps them before it sends the
    /// next request, and hands them back in the contact at the next start; they are chosen once.
    Positioned(Vec<u16>),
    /// A lookup begun by [`super::Ring::lookup`] ended.
    LookupDone {
        /// What [`super::Ring::lookup`] returned.
        id: LookupId,
        /// What it found, or why it found nothing.
        outcome: Result<Found, LookupError>,
    },
    /// A walk ended.
    WalkDone {
        /// What [`super::Ring::walk`] returned.
        id: LookupId,
        /// The members that answered this walk, this peer included, in the order of their first virtual nodes
        /// on the circle.
        answered: Vec<Contact>,
        /// Those heard of that did not answer as members.
        silent: Vec<Peer>,
    },
    /// [`super::Ring::book`] is worth writing down.
    BookChanged,
    /// The departure is announced; the daemon may stop.
    Left,
}

/// Whether a peer lives, as far as this ring knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Counted among the living.
    Alive,
    /// Does not answer at the moment.
    Suspect,
    /// From the address book or heard of, and not met: it may live, but who is in the ring is met before
    /// long.
    Unmet {
        /// When it was last heard, or noted by this peer since it started.
        since: Time,
    },
    /// Did not answer, or left.
    Dead {
        /// When it was given up.
        since: Time,
    },
}

/// A peer worth remembering over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookEntry {
    /// Its last known contact.
    pub contact: Contact,
    /// Time since it was last heard, or heard of when it never answered.
    pub age: Duration,
}

/// What this peer changes about itself; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelfChange {
    /// Whether it takes new shards.
    pub state: Option<PeerState>,
    /// Bytes in use. Changes of less than 1 % of the capacity wait for more.
    pub used: Option<u64>,
    /// Bytes of disk given.
    pub capacity: Option<u64>,
    /// Where it can be dialled, best first.
    pub addresses: Option<Arc<[String]>>,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "alone",
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::Leaving => "leaving",
            Self::Left => "left",
        })
    }
}
