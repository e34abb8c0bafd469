//! What a put is asked to do, and whether it can, before a byte is taken.

use std::num::NonZeroU32;

use mutualstore_contract::reply::Scope;
use mutualstore_contract::units::{Size, counted};
use mutualstore_dht::ring::Phase;
use mutualstore_dht::writer::Placed;
use mutualstore_dht::{Contact, PeerState};
use mutualstore_erasure::{Code, Policy};

use crate::datadir::list::InBucket;
use crate::error::Failure;
use crate::format::manifest::{Geometry, MAX_SHARD_SIZE};
use crate::keeper::usage::FULL_ABOVE;
use crate::transfer::Transfers;

/// What the person asked for.
#[derive(Clone, Debug)]
pub(crate) struct PutOptions {
    pub(crate) name: String,
    /// `None`: the code that fits the network.
    pub(crate) code: Option<Code>,
    /// Bytes of a shard at most.
    pub(crate) shard_size: u32,
    pub(crate) policy: Policy,
    /// Of policies with groups.
    pub(crate) scope: Scope,
    /// Cut into blocks of equal size instead of blocks of full shards.
    pub(crate) fragments: Option<Fragments>,
    pub(crate) degraded: bool,
    /// Bytes of the file, where they are known.
    pub(crate) length: Option<u64>,
    /// Of a file in a bucket.
    pub(crate) bucket: Option<InBucket>,
}

/// Into how many fragments to cut a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragments {
    pub(crate) count: NonZeroU32,
    /// Bytes of the file: they end the fragments.
    pub(crate) size: u64,
}

/// Bytes of shards that a peer takes before it is full, by its own word; one shard more may go in.
fn free_of(contact: &Contact) -> u64 {
    let full = contact.capacity / 100 * FULL_ABOVE;
    full.saturating_sub(contact.used)
        .saturating_add(u64::from(MAX_SHARD_SIZE))
}

/// Refuses a put that needs to know others as long as this peer has not met its network.
pub(crate) fn check_member(transfers: &Transfers) -> Result<(), Failure> {
    if transfers.member.phase() != Phase::Joining {
        return Ok(());
    }
    let text = if transfers.member.network().adopted {
        "this peer has not met the others of its network yet, so nothing was stored; try again when \
         `mutualstore status` says `joined`; `mutualstore doctor` names whom it waits for"
    } else {
        "this peer is not a member of a network yet, so nothing was stored; `mutualstore doctor` says what \
         it waits for; an invite lets it in: `mutualstore invite` on a member, `mutualstore daemon --join \
         @FILE` here"
    };
    Err(Failure::refused(text))
}

impl PutOptions {
    /// Of a file of so many bytes in a bucket.
    pub(crate) fn of_bucket(bucket: InBucket, length: u64) -> Self {
        Self {
            name: String::new(),
            code: None,
            shard_size: MAX_SHARD_SIZE,
            policy: Policy::default(),
            scope: Scope::default(),
            fragments: None,
            degraded: false,
            length: Some(length),
            bucket: Some(bucket),
        }
    }

    /// The code to use, and what the person should know about it.
    pub(super) fn decide(&self, transfers: &Transfers) -> Result<(Code, Option<String>), Failure> {
        transfers.member.check_admitted()?;
        let (code, warning) = self.choose_code(transfers)?;
        let policy = self.policy.check(code);
        policy.map_err(|error| Failure::usage(format!("placement {error}")))?;
        self.layout(code, 0).check().map_err(Failure::usage)?;
        self.check_room(transfers, code)?;
        Ok((code, warning))
    }

    /// Refuses a file that the peers that are there cannot hold together, by what they say of themselves:
    /// filling them first would only take what others could use. A stripe puts one shard with a peer at most.
    /// In a ring of which only a part is known, and while somebody is out of touch, peers tell as they are
    /// asked.
    fn check_room(&self, transfers: &Transfers, code: Code) -> Result<(), Failure> {
        let Some(length) = self.length.filter(|_| transfers.member.knows_everybody()) else {
            return Ok(());
        };
        // What one peer gets if it has a shard of every stripe.
        let each = length.div_ceil(u64::from(code.k()));
        let least = u64::from(code.n()).min(Placed::least(code.k(), code.n(), self.degraded) as u64);
        let peers = transfers.member.core.alive();
        if transfers.member.peers_counted() > peers.len() {
            // Who is only out of touch may be back with room.
            return Ok(());
        }
        let takes = |contact: &&Contact| contact.state != PeerState::Draining;
        let free: Vec<u64> = peers.iter().filter(takes).map(free_of).collect();
        let usable: u64 = free.iter().map(|free| (*free).min(each)).sum();
        let needed = each.saturating_mul(least);
        // Where too few peers take shards, it is peers that lack: the put finds out.
        if (free.len() as u64) < least || usable >= needed {
            return Ok(());
        }
        let all = free.iter().sum();
        let whole = each.saturating_mul(u64::from(code.n()));
        Err(Failure::no_space(format!(
            "a file of {} takes {} as {code}, no more than {} of it with one peer, and the {} there \
             have {} free; nothing was stored; free space, add peers, or choose a code with fewer shards",
            Size(length),
            Size(whole),
            Size(each),
            counted(free.len(), "peer"),
            Size(all),
        )))
    }

    /// How a file is laid out of which `size` bytes were seen.
    pub(super) fn layout(&self, code: Code, size: u64) -> Geometry {
        let size = self.fragments.map_or(size, |fragments| fragments.size);
        let count = self.fragments.map(|fragments| fragments.count);
        Geometry::new(size, code, self.shard_size).cut(count)
    }

    fn choose_code(&self, transfers: &Transfers) -> Result<(Code, Option<String>), Failure> {
        let r = usize::try_from(transfers.member.network().r).unwrap_or(usize::MAX);
        let Some(code) = self.code else {
            check_member(transfers)?;
            let code = Code::auto(transfers.member.peers_counted());
            let warning = (code == Code::Copies(1))
                .then(|| "this peer is alone: the file exists once and dies with this disk".to_owned());
            return Ok((code, warning));
        };
        code.check_ring(r)
            .map_err(|error| Failure::usage(format!("code {code}: {error}")))?;
        let (known, needed) = (transfers.member.peers_known(), usize::from(code.n()));
        if known < needed && !self.degraded {
            check_member(transfers)?;
            return Err(Failure::refused(format!(
                "code {code} needs {needed} peers and {known} are known; add peers, choose another code, or \
                 accept less with --degraded"
            )));
        }
        Ok((code, None))
    }
}
