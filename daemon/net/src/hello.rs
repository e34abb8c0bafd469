//! The hello over a fresh stream: are these two processes peers of the same network?
//!
//! Order and messages stand in [`mutualstore_proto::hello`]. The proof is
//! `HMAC-SHA256(secret, "mutualstore/hello/1" ‖ role u8 ‖ dialer ‖ listener ‖ dialer's nonce ‖ listener's
//! nonce ‖ network id)`, role 0 for the dialer's and 1 for the listener's, peers as their 32-byte keys. It
//! need not cover the rest: noise has authenticated the channel. An open network has the empty secret and
//! runs the same steps.
//!
//! A dialer without a network (or without its parameters) learns them from the listener and uses the
//! connection for nothing else; see [`Remote::adopting`].

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use mutualstore_dht::Peer;
use mutualstore_proto::hello::{
    Class, Hello, HelloError, HelloMessage, MAX_CONTACT, MAX_MESSAGE, Proof, Reason, Refusal, VERSION,
};
use ring::hmac;

use super::NetworkInfo;

/// What this side says of itself.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) peer: Peer,
    pub(super) network: NetworkInfo,
    pub(super) instance: [u8; 16],
    pub(super) contact: Bytes,
}

/// What the other side said and proved.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) class: Class,
    pub(super) instance: [u8; 16],
    pub(super) contact: Bytes,
    /// The listener's network; without secret.
    pub(super) network: NetworkInfo,
    /// Whether the dialer only came to learn the network.
    pub(super) adopting: bool,
}

/// Why a hello ended without a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloFailure {
    /// The other side does not want us.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// We do not want the other side; it was told.
    #[error("we refuse: {0}")]
    Refusing(Refusal),
    /// The stream broke.
    #[error("connection lost in the hello: {0}")]
    Io(#[from] io::Error),
}

fn refusal(reason: Reason, text: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        text: text.into(),
    }
}

/// Runs the hello as the dialer. Bounded in bytes; the caller bounds the time.
pub(super) async fn dial<S>(
    stream: &mut S,
    to: Peer,
    local: &Local,
    class: Class,
) -> Result<Remote, HelloFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ours = hello(local, class);
    send(stream, &HelloMessage::Hello(ours.clone())).await?;
    let theirs = expect_hello(stream).await?;
    if let Err(refusal) = check(&theirs, &ours, &theirs) {
        return Err(refuse(stream, refusal).await);
    }
    let transcript = Transcript {
        dialer: local.peer,
        listener: to,
        dialled: &ours,
        listened: &theirs,
    };
    let mac = transcript.prove(&local.network, Side::Dialer);
    let contact = local.contact.clone();
    send(stream, &HelloMessage::Proof(Proof { mac, contact })).await?;
    let proof = expect_proof(stream).await?;
    if !transcript.verify(&local.network, Side::Listener, &proof.mac) {
        return Err(refuse(stream, wrong_secret()).await);
    }
    Ok(transcript.remote(Side::Listener, proof.contact))
}

/// A dialer that proved itself and waits for our answer.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) remote: Remote,
    ours: Proof,
}

/// Runs the hello as the listener up to the point where only [`accept`] or [`refuse`] is left.
pub(super) async fn listen<S>(stream: &mut S, from: Peer, local: &Local) -> Result<Proven, HelloFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = expect_hello(stream).await?;
    let ours = hello(local, theirs.class);
    if let Err(refusal) = check(&theirs, &theirs, &ours) {
        return Err(refuse(stream, refusal).await);
    }
    send(stream, &HelloMessage::Hello(ours.clone())).await?;
    let transcript = Transcript {
        dialer: from,
        listener: local.peer,
        dialled: &theirs,
        listened: &ours,
    };
    let proof = expect_proof(stream).await?;
    if !transcript.verify(&local.network, Side::Dialer, &proof.mac) {
        return Err(refuse(stream, wrong_secret()).await);
    }
    let mac = transcript.prove(&local.network, Side::Listener);
    let contact = local.contact.clone();
    Ok(Proven {
        remote: transcript.remote(Side::Dialer, proof.contact),
        ours: Proof { mac, contact },
    })
}

/// Says yes to the dialer.
pub(super) async fn accept<S: AsyncWrite + Unpin>(stream: &mut S, proven: &Proven) -> io::Result<()> {
    send(stream, &HelloMessage::Proof(proven.ours.clone())).await
}

/// Tells the other side why not, and waits until it hung up so that the words arrive. The caller bounds
/// the time.
pub(super) async fn refuse<S>(stream: &mut S, refusal: Refusal) -> HelloFailure
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Whether the words arrive changes nothing for this side.
    if send(stream, &HelloMessage::Refusal(refusal.clone()))
        .await
        .is_ok()
        && stream.close().await.is_ok()
    {
        drain(stream).await;
    }
    HelloFailure::Refusing(refusal)
}

/// Reads until the other side hangs up.
pub(super) async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 512];
    while let Ok(1..) = stream.read(&mut ignored).await {}
}

fn wrong_secret() -> Refusal {
    refusal(Reason::WrongSecret, "the proof of the network's secret failed")
}

fn hello(local: &Local, class: Class) -> Hello {
    Hello {
        version: VERSION,
        network: local.network.id,
        nonce: rand::random(),
        class,
        instance: local.instance,
        unit: local.network.unit,
        r: local.network.r,
    }
}

/// Whether the two hellos fit. Both sides ask the same, the listener first, so both know why not.
fn check(theirs: &Hello, dialled: &Hello, listened: &Hello) -> Result<(), Refusal> {
    if !theirs.speaks_with(VERSION) {
        let text = format!(
            "one side speaks protocol {VERSION}, the other {}; update the older mutualstore",
            theirs.version
        );
        return Err(refusal(Reason::Version, text));
    }
    if dialled.class != listened.class {
        return Err(refusal(
            Reason::NotMutualStore,
            "the class changed between the hellos",
        ));
    }
    if !is_member(listened) {
        return Err(refusal(
            Reason::NoNetwork,
            "the dialled peer waits to join one itself; the first peer of a network starts without --join",
        ));
    }
    let agree = |dialled: u64, listened: u64| dialled == 0 || dialled == listened;
    if dialled.network != [0; 32] && dialled.network != listened.network {
        return Err(refusal(
            Reason::WrongNetwork,
            "the peers belong to different networks",
        ));
    }
    if !agree(dialled.unit, listened.unit) || !agree(dialled.r.into(), listened.r.into()) {
        let text = format!(
            "the dialer has unit {} and r {}, the dialled peer {} and {}",
            dialled.unit, dialled.r, listened.unit, listened.r
        );
        return Err(refusal(Reason::ParametersDiffer, text));
    }
    Ok(())
}

/// Whether the sender knows its network and the parameters.
fn is_member(hello: &Hello) -> bool {
    hello.network != [0; 32] && hello.unit != 0 && hello.r != 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Dialer,
    Listener,
}

/// Both hellos and who said them.
#[derive(Debug)]
struct Transcript<'a> {
    dialer: Peer,
    listener: Peer,
    dialled: &'a Hello,
    listened: &'a Hello,
}

impl Transcript<'_> {
    fn message(&self, side: Side) -> Vec<u8> {
        let role = match side {
            Side::Dialer => 0,
            Side::Listener => 1,
        };
        let mut message = b"mutualstore/hello/1".to_vec();
        message.push(role);
        message.extend(self.dialer.as_bytes());
        message.extend(self.listener.as_bytes());
        message.extend(self.dialled.nonce);
        message.extend(self.listened.nonce);
        message.extend(self.listened.network);
        message
    }

    fn prove(&self, network: &NetworkInfo, side: Side) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &network.secret);
        let tag = hmac::sign(&key, &self.message(side));
        let mut mac = [0; 32];
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        mac
    }

    fn verify(&self, network: &NetworkInfo, side: Side, mac: &[u8; 32]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &network.secret);
        hmac::verify(&key, &self.message(side), mac).is_ok()
    }

    fn remote(&self, side: Side, contact: Bytes) -> Remote {
        let hello = match side {
            Side::Dialer => self.dialled,
            Side::Listener => self.listened,
        };
        Remote {
            class: hello.class,
            instance: hello.instance,
            contact,
            network: NetworkInfo {
                id: self.listened.network,
                unit: self.listened.unit,
                r: self.listened.r,
                ..NetworkInfo::default()
            },
            adopting: !is_member(self.dialled),
        }
    }
}

async fn expect_hello<S>(stream: &mut S) -> Result<Hello, HelloFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match receive(stream).await? {
        HelloMessage::Hello(hello) => Ok(hello),
        HelloMessage::Refusal(refusal) => Err(HelloFailure::Refused(refusal)),
        HelloMessage::Proof(_) => Err(out_of_order(stream).await),
    }
}

async fn expect_proof<S>(stream: &mut S) -> Result<Proof, HelloFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match receive(stream).await? {
        HelloMessage::Proof(proof) => Ok(proof),
        HelloMessage::Refusal(refusal) => Err(HelloFailure::Refused(refusal)),
        HelloMessage::Hello(_) => Err(out_of_order(stream).await),
    }
}

async fn out_of_order<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> HelloFailure {
    refuse(
        stream,
        refusal(Reason::NotMutualStore, "hello messages out of order"),
    )
    .await
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &HelloMessage) -> io::Result<()> {
    let body = message.encode();
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(&body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

async fn receive<S>(stream: &mut S) -> Result<HelloMessage, HelloFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(refuse(stream, refusal(Reason::NotMutualStore, "hello message too long")).await);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    match HelloMessage::decode(body.into()) {
        Ok(message) => Ok(message),
        Err(error @ (HelloError::Malformed | HelloError::Magic | HelloError::Field(_))) => {
            Err(refuse(stream, refusal(Reason::NotMutualStore, error.to_string())).await)
        }
    }
}

/// A contact the hello can carry; a longer one is a mistake of our own and left out.
pub(super) fn bounded(contact: Bytes) -> Bytes {
    if contact.len() <= MAX_CONTACT {
        contact
    } else {
        Bytes::new()
    }
}
