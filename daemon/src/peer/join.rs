//! Joining a network: what was given to join is dialled until somebody of it answers.
//!
//! The first round may end the start of the daemon before it serves: where those to be joined answer that
//! they do not let this peer in, waiting does not help. Who only does not answer may do so later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, stream};
use mutualstore_dht::contact::virtual_nodes_for;
use mutualstore_net::{DialError, NetworkInfo, Reason, STAGGER};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use zeroize::Zeroizing;

use super::Membership;
use crate::datadir::network::Join;
use crate::wire::contact::decode_contact;

/// Between two rounds over the join addresses: doubles up to the maximum.
const JOIN_RETRY: Duration = Duration::from_millis(250);
const JOIN_RETRY_MAX: Duration = Duration::from_secs(10);
/// Addresses of an old address book dialled at once.
const HINTS_AT_ONCE: usize = 8;
/// A start waits so long for the first round, then it serves. Who is up answers in a fraction of it.
const FIRST_ROUND: Duration = Duration::from_secs(3);

/// What is known of the network to be joined.
#[derive(Default)]
pub(super) struct Joining {
    /// Where peers may be found whose entries in the address book they did not sign.
    hints: Vec<String>,
    /// Join addresses through which nobody was met yet, and why.
    unanswered: Mutex<BTreeMap<String, String>>,
    /// Who refused this peer last, and why.
    pub(super) barred: Mutex<Option<(Reason, String)>>,
}

impl Joining {
    /// Nobody was asked yet.
    pub(super) fn new(hints: Vec<String>) -> Self {
        Self {
            hints,
            ..Self::default()
        }
    }
}

/// Somebody to be joined does not let this peer in, and will not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Where it was found.
    pub(crate) address: String,
    pub(crate) why: Why,
}

/// Why somebody does not let this peer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is of a closed network, and this peer was given no secret.
    Closed,
    /// Its network has another secret.
    OtherSecret,
    /// It is of another network than this peer.
    OtherNetwork,
    /// It is of another network than the one this peer was invited to.
    NotInvited,
}

impl Why {
    /// What whoever is there is, to be said behind its address.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Closed => "is of a closed network",
            Self::OtherSecret => "is of a network with another secret",
            Self::OtherNetwork => "is of another network than this data directory",
            Self::NotInvited => "is of another network than the one to be joined",
        }
    }

    /// What to do about it.
    pub(crate) fn cure(self) -> &'static str {
        match self {
            Self::Closed => {
                "join by an invite, which `mutualstore invite` prints on one of its peers, with --join @FILE"
            }
            Self::OtherSecret => "ask one of its members for an invite (`mutualstore invite`)",
            Self::OtherNetwork => {
                "give the address of a peer of its own network, or join the other one with another \
                 --data-dir"
            }
            Self::NotInvited => "ask one of its members for a new invite (`mutualstore invite`)",
        }
    }
}

/// How the first round ends, seen from the start of the daemon.
pub(crate) struct Verdict(oneshot::Receiver<Option<Refused>>);

/// The other end of it.
pub(crate) struct Judge(oneshot::Sender<Option<Refused>>);

/// A pair of them.
pub(crate) fn verdict() -> (Judge, Verdict) {
    let (judge, verdict) = oneshot::channel();
    (Judge(judge), Verdict(verdict))
}

impl Verdict {
    /// Waits for the first round, not for long; who refused, if that ends the start. From then on nothing
    /// does.
    pub(crate) async fn wait(mut self) -> Option<Refused> {
        if let Ok(verdict) = timeout(FIRST_ROUND, &mut self.0).await {
            return verdict.ok().flatten();
        }
        self.0.close();
        self.0.try_recv().ok().flatten()
    }
}

/// Dials what is to be joined until each has answered once, adopting the network of the first if this peer
/// has none yet; then the ring knows somebody to ask and goes on by itself. One answer is not enough: after a
/// mass restart an address that is still silent may lead to another ring that has to be merged with. The
/// addresses of an invite are those of one peer, tried together: one of them is enough.
pub(crate) async fn join(member: Arc<Membership>, judge: Judge) {
    let joins: Vec<&[String]> = member.config.join.iter().map(Join::addresses).collect();
    for address in joins.iter().copied().flatten() {
        member
            .unanswered()
            .insert(address.clone(), "not tried yet".to_owned());
    }
    let mut round = Round::over(&member, joins).await;
    let refused = round.refused_for_good(&member);
    let ends = refused.is_some();
    // Nobody waits for it any more where the daemon serves.
    if judge.0.send(refused).is_ok() && ends {
        return;
    }
    let mut wait = JOIN_RETRY;
    loop {
        for line in &round.said {
            tracing::warn!("{line}");
        }
        if round.left.is_empty() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(JOIN_RETRY_MAX);
        round = Round::over(&member, round.left).await;
    }
}

/// What came of dialling everything once.
#[derive(Default)]
struct Round<'a> {
    /// What has to be dialled again.
    left: Vec<&'a [String]>,
    refused: Vec<Refused>,
    silent: bool,
    met: bool,
    /// What is new, for the log.
    said: Vec<String>,
}

impl<'a> Round<'a> {
    async fn over(member: &Arc<Membership>, joins: Vec<&'a [String]>) -> Self {
        let mut round = Self::default();
        for addresses in joins {
            match dial_any(member, addresses, &mut round.said).await {
                Dialled::Met => {
                    round.met = true;
                    continue;
                }
                Dialled::Own => continue,
                Dialled::Silent => round.silent = true,
                Dialled::Refused(refused) => round.refused.push(refused),
            }
            round.left.push(addresses);
        }
        round
    }

    /// Who refused, if nothing can come of all this. A peer without any secret that meets a closed network
    /// need not wait for the others. A member is not turned away by its own network: that may be mended
    /// there.
    fn refused_for_good(&self, member: &Membership) -> Option<Refused> {
        let first = self.refused.first().filter(|_| !self.met)?;
        if member.network().adopted {
            let elsewhere = |refused: &Refused| refused.why == Why::OtherNetwork;
            return (!self.silent && self.refused.iter().all(elsewhere)).then(|| first.clone());
        }
        let stranger = self.refused.iter().find(|refused| refused.why == Why::Closed);
        stranger.or((!self.silent).then_some(first)).cloned()
    }
}

/// Looks for the peers of an address book that an older version wrote: each that is there says itself who it
/// is.
pub(crate) async fn follow_hints(member: Arc<Membership>) {
    let mut silent = member.joining.hints.clone();
    let mut wait = JOIN_RETRY;
    while !silent.is_empty() && wait < JOIN_RETRY_MAX {
        let dials = silent.into_iter().map(|address| {
            let member = Arc::clone(&member);
            async move {
                let error = dial(&member, &address).await.err()?;
                if let DialError::Refused(refusal) = &error
                    && refusal.reason.is_lasting()
                {
                    tracing::warn!(
                        "{address}, of the address book: {}",
                        error.to_string().escape_debug()
                    );
                }
                Some(address)
            }
        });
        let asked = stream::iter(dials).buffer_unordered(HINTS_AT_ONCE);
        silent = asked.filter_map(std::future::ready).collect().await;
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
}

/// What came of dialling the addresses of one peer.
enum Dialled {
    /// One answered.
    Met,
    /// All are this peer itself.
    Own,
    /// None answers, or who does cannot be joined now.
    Silent,
    /// Who answers does not let this peer in, and will not.
    Refused(Refused),
}

/// Dials addresses of one peer, the next one when those before failed or took long.
async fn dial_any(member: &Arc<Membership>, addresses: &[String], said: &mut Vec<String>) -> Dialled {
    let mut refused = None;
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
                    member.unanswered().retain(|known, _| !addresses.contains(known));
                    return Dialled::Met;
                };
                let lasting = member.refused_at(address, &error);
                let text = match &lasting {
                    Some(Refused { why, .. }) => format!("{}: {}", why.what(), why.cure()),
                    None => error.to_string(),
                };
                refused = lasting.or(refused);
                let before = member.unanswered().insert(address.clone(), text.clone());
                own &= error == DialError::Own;
                if error != DialError::Own && before.as_ref() != Some(&text) {
                    said.push(format!("join: {address}: {text}; keeps trying, serves meanwhile"));
                }
                next = Instant::now();
            }
            () = sleep_until(next), if waiting.len() > 0 => {
                dialling.extend(waiting.next().map(async |address| (address, dial(member, address).await)));
                next = Instant::now() + STAGGER;
            }
            else => return match refused {
                Some(refused) => Dialled::Refused(refused),
                None if own => Dialled::Own,
                None => Dialled::Silent,
            },
        }
    }
}

async fn dial(member: &Arc<Membership>, address: &str) -> Result<(), DialError> {
    let Some(net) = member.remote.net() else {
        return Ok(());
    };
    if !member.network().adopted {
        let learned = net.learn(address, &member.invited()).await?;
        member.adopt(&learned.network);
    }
    let dialed = net.dial(address).await?;
    match decode_contact(dialed.contact, &member.verifier) {
        Ok(contact) if contact.peer == dialed.peer => {
            member
                .core
                .with(|state, now| state.engine.ring.introduce(now, contact));
        }
        Ok(_) => tracing::warn!(peer = %dialed.peer, "introduced itself as another peer; that is ignored"),
        Err(error) => tracing::warn!(peer = %dialed.peer, %error, "answered in a way not understood"),
    }
    tracing::info!(peer = %dialed.peer, address, "join: answered");
    Ok(())
}

impl Membership {
    /// Join addresses through which nobody was met yet, and how the last attempt ended.
    pub(crate) fn unanswered(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.joining
            .unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What whoever is at an address given to join is, if it does not let this peer in and that does not
    /// change by itself. If it is of the network this peer belongs to, the ring is told.
    fn refused_at(&self, address: &str, error: &DialError) -> Option<Refused> {
        let DialError::Refused(refusal) = error else {
            return None;
        };
        let member = self.network().adopted;
        let another = refusal.reason == Reason::WrongNetwork;
        if member && refusal.reason.is_lasting() && !another {
            self.barred_by(address, refusal);
            self.core.with(|state, now| state.engine.ring.handle_barred(now));
        }
        let invited = member || self.config.join.iter().any(Join::has_secret);
        let why = match (another, refusal.reason == Reason::WrongSecret) {
            (true, _) if member => Why::OtherNetwork,
            (true, _) => Why::NotInvited,
            (false, true) if invited => Why::OtherSecret,
            (false, true) => Why::Closed,
            (false, false) => return None,
        };
        let address = address.to_owned();
        Some(Refused { address, why })
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
        let count = virtual_nodes_for(self.config.settings.capacity.0, network.unit);
        let r = usize::try_from(network.r).unwrap_or(usize::MAX);
        if let Err(error) = self.data.save_network(&network) {
            tracing::error!(%error, "cannot join");
            return;
        }
        self.core.with(|state, now| {
            // Together, so that what is kept from now on are places in the new network.
            self.verifier.enter(network.id);
            *self.network.write().unwrap_or_else(PoisonError::into_inner) = network;
            state.engine.ring.adopt(now, r, count);
        });
        if let Some(net) = self.remote.net() {
            net.adopt(self.network_info());
        }
    }

    /// What the invite and the configuration say of the network to be joined: its id, all zero if any will
    /// do, and its secret.
    fn invited(&self) -> NetworkInfo {
        let (id, secret) = match self.config.join.iter().find_map(Join::invite) {
            Some(invite) => (invite.network, invite.secret.clone()),
            None => ([0; 32], Zeroizing::default()),
        };
        let id = self.config.settings.network.map_or(id, |network| network.0);
        NetworkInfo {
            id,
            secret,
            unit: 0,
            r: 0,
        }
    }
}
