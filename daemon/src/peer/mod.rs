//! This peer as a member of its ring: what it knows of the others, and what they know of it.
//!
//! * [`core`]: ring and custody behind one lock; [`driver`]: carries out what they want.
//! * [`remote`]: questions to other peers.
//! * [`membership`]: telling the ring about ourselves, and what is known of the others; [`join`]: joining a
//!   network.
//! * [`admission`]: which network a start founds or goes on with.
//! * [`census`]: who is in the ring, for policies that place by all peers.
//! * [`outside`]: how this peer looks to others; [`survey`]: whether the ring is one, as its peers see it.

pub(crate) mod admission;
pub(crate) mod census;
pub(crate) mod core;
pub(crate) mod driver;
pub(crate) mod join;
pub(crate) mod membership;
pub(crate) mod outside;
pub(crate) mod remote;
pub(crate) mod survey;

use std::sync::{Arc, PoisonError, RwLock};

use mutualstore_dht::Peer;
use tokio::sync::Notify;

use self::census::Counting;
use self::core::Core;
use self::join::Joining;
use self::remote::Remote;
use crate::config::Config;
use crate::datadir::files::DataDir;
use crate::datadir::network::Network;
use crate::wire::signed::Verifier;

/// The ring part of this peer. Its methods are what the other parts ask of the ring, of the network's
/// identity and of who else is there.
pub(crate) struct Membership {
    pub(crate) me: Peer,
    pub(crate) core: Arc<Core>,
    pub(crate) remote: Remote,
    pub(crate) config: Arc<Config>,
    pub(crate) data: Arc<DataDir>,
    /// Lets in what other peers say of themselves, if they signed it.
    pub(crate) verifier: Arc<Verifier>,
    network: RwLock<Network>,
    joining: Joining,
    counting: Counting,
    book_changed: Notify,
}

/// What a membership is made of.
pub(crate) struct Parts {
    pub(crate) me: Peer,
    pub(crate) core: Arc<Core>,
    pub(crate) config: Arc<Config>,
    pub(crate) data: Arc<DataDir>,
    pub(crate) network: Network,
    pub(crate) verifier: Arc<Verifier>,
    /// Where peers may be found whose entries in the address book they did not sign.
    pub(crate) hints: Vec<String>,
}

impl Membership {
    /// A membership at rest: nothing runs yet.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            me: parts.me,
            core: parts.core,
            remote: Remote::new(Arc::clone(&parts.verifier)),
            config: parts.config,
            data: parts.data,
            verifier: parts.verifier,
            network: RwLock::new(parts.network),
            joining: Joining::new(parts.hints),
            counting: Counting::default(),
            book_changed: Notify::new(),
        }
    }

    /// The network as it is now.
    pub(crate) fn network(&self) -> Network {
        self.network
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
