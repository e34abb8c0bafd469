//! The network a peer belongs to, and how another one is invited into it.
//!
//! A peer started without `--join` founds a network with a random id and a random secret. One started with
//! `--join` waits for a network: it serves alone, provisionally, until somebody of a network answers, then
//! adopts that one. Links it makes meanwhile are good in every network, and started again without `--join` it
//! founds one. A network that was founded or joined is never given up for another one.
//!
//! The secret admits peers; it does not encrypt anything. An invite carries it. A network founded with
//! `--open`, or by a version that knew no secrets, has an empty one: whoever reaches one of its peers joins.
//! A secret is neither added to a network nor taken from it later, because its peers would refuse each other
//! meanwhile.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use mutualstore_dht::Peer;
use mutualstore_dht::contact::{MAX_ADDRESS_LEN, MAX_ADDRESSES};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::format::crypt::short_hash;
use crate::format::link::ANY_NETWORK;

/// A network secret is at most this many bytes.
pub const MAX_SECRET: usize = 255;
/// Bytes of the secret of a network founded here.
pub const SECRET: usize = 32;

/// What all peers of a network agree on.
#[derive(Clone, PartialEq, Eq)]
pub struct Network {
    /// Names the network: 32 random bytes; all zero while it is provisional.
    pub id: [u8; 32],
    /// Proved in the hello; empty in an open network; at most [`MAX_SECRET`] bytes.
    pub secret: Zeroizing<Vec<u8>>,
    /// Bytes of capacity per virtual node.
    pub unit: u64,
    /// Distinct peers a successor list reaches.
    pub r: u32,
    /// Founded or joined; false while it is only provisional.
    pub adopted: bool,
}

/// Why another network was not adopted. This peer's network is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// This peer founded or joined a network already.
    #[error("this peer belongs to another network ({}…)", hex::encode(.mine))]
    Belongs {
        /// Tag of the network it belongs to.
        mine: [u8; 4],
    },
}

impl Network {
    /// A network with a random id, a random secret and these parameters.
    pub fn found(unit: u64, r: u32) -> Self {
        let secret: Zeroizing<[u8; SECRET]> = Zeroizing::new(rand::random());
        Self {
            secret: Zeroizing::new(secret.to_vec()),
            ..Self::found_open(unit, r)
        }
    }

    /// A network with a random id, no secret and these parameters: anybody can join it.
    pub fn found_open(unit: u64, r: u32) -> Self {
        Self {
            id: rand::random(),
            adopted: true,
            ..Self::provisional(unit, r)
        }
    }

    /// What a peer works with until it has joined a network.
    pub fn provisional(unit: u64, r: u32) -> Self {
        Self {
            id: [0; 32],
            secret: Zeroizing::default(),
            unit,
            r,
            adopted: false,
        }
    }

    /// Whether anybody can join the network; none while it is provisional.
    pub fn is_open(&self) -> Option<bool> {
        self.adopted.then(|| self.secret.is_empty())
    }

    /// What links carry: the first 4 bytes of SHA-256("mutualstore/network-tag/1" ‖ id), or [`ANY_NETWORK`]
    /// while the network is provisional.
    pub fn tag(&self) -> [u8; 4] {
        if self.adopted {
            tag_of(&self.id)
        } else {
            ANY_NETWORK
        }
    }

    /// Whether a link with this tag was made in this network, or before its network was known.
    pub fn knows_tag(&self, tag: [u8; 4]) -> bool {
        tag == ANY_NETWORK || tag == self.tag()
    }

    /// Takes over the identity and parameters of the network that was joined. Adopting the network the peer
    /// is in already changes nothing, also not its parameters.
    pub fn adopt(
        &mut self,
        id: [u8; 32],
        secret: Zeroizing<Vec<u8>>,
        unit: u64,
        r: u32,
    ) -> Result<(), AdoptError> {
        if self.adopted && self.id == id {
            return Ok(());
        }
        if self.adopted {
            return Err(AdoptError::Belongs { mine: self.tag() });
        }
        *self = Self {
            id,
            secret,
            unit,
            r,
            adopted: true,
        };
        Ok(())
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("tag", &hex::encode(self.tag()))
            .field("open", &self.secret.is_empty())
            .field("unit", &self.unit)
            .field("r", &self.r)
            .field("adopted", &self.adopted)
            .finish_non_exhaustive()
    }
}

fn tag_of(id: &[u8; 32]) -> [u8; 4] {
    short_hash(b"mutualstore/network-tag/1", id)
}

/// The form in `network.json`: byte strings in hex. What else an older version wrote there is ignored.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    secret: String,
    unit: u64,
    successors: u32,
    adopted: bool,
}

impl Network {
    /// The content of `network.json`. It holds the secret.
    pub(crate) fn to_json(&self) -> Zeroizing<String> {
        let stored = Stored {
            id: hex::encode(self.id),
            secret: hex::encode(self.secret.as_slice()),
            unit: self.unit,
            successors: self.r,
            adopted: self.adopted,
        };
        // Text, numbers and a boolean always have a JSON form.
        Zeroizing::new(serde_json::to_string_pretty(&stored).unwrap_or_default())
    }

    /// From the content of `network.json`; the error says which part is wrong.
    pub(crate) fn from_json(text: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let secret = hex::decode(&stored.secret).map_err(|_| "secret is not hex")?;
        if secret.len() > MAX_SECRET {
            return Err("secret is too long".to_owned());
        }
        if stored.unit == 0 || stored.successors == 0 {
            return Err("unit and successors must not be 0".to_owned());
        }
        Ok(Self {
            id: id_from_hex(&stored.id).ok_or("id is not 64 hex digits")?,
            secret: Zeroizing::new(secret),
            unit: stored.unit,
            r: stored.successors,
            adopted: stored.adopted,
        })
    }
}

/// 32 bytes from 64 hex digits.
pub(crate) fn id_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut id = [0; 32];
    hex::decode_to_slice(text, &mut id).ok().map(|()| id)
}

/// Everything a peer needs to join a network, in one line that is as secret as the network is:
/// `mutualinvite1` + base58(version u8 = 1 ‖ network id 32 ‖ secret length u8 ‖ secret ‖ address count u8 ‖
/// count × (length u16 big-endian ‖ address) ‖ checksum 4), where the checksum is the first 4 bytes of
/// SHA-256("mutualstore/invite/1" ‖ what stands before it).
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// Id of the network.
    pub network: [u8; 32],
    /// Secret of the network, empty in an open one.
    pub secret: Zeroizing<Vec<u8>>,
    /// Multiaddresses of peers of it: 1 to 8, best first.
    pub addresses: Vec<String>,
}

/// What every invite begins with.
pub const INVITE_PREFIX: &str = "mutualinvite";

const INVITE_VERSION: u8 = 1;
const INVITE_CHECKSUM: &[u8] = b"mutualstore/invite/1";
/// An invite of more characters than this breaks the limits of its parts. Base58 takes < 1.4 characters a
/// byte.
const MAX_INVITE_TEXT: usize = (40 + MAX_SECRET + MAX_ADDRESSES * (2 + MAX_ADDRESS_LEN)) * 7 / 5;

/// Why a text is no invite of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseInviteError {
    /// It does not begin like an invite.
    #[error("not an invite (invites begin with {INVITE_PREFIX}{INVITE_VERSION})")]
    NotAnInvite,
    /// It begins like an invite of a version this program does not know.
    #[error("an invite of a newer version of mutualstore; this one reads {INVITE_PREFIX}{INVITE_VERSION}…")]
    NewerVersion,
    /// Length, alphabet, checksum or layout is wrong.
    #[error("the invite is truncated or mistyped")]
    Damaged,
    /// It is whole, but whoever made it put something in that is no address.
    #[error("the invite carries a bad address: {0}")]
    Address(#[from] AddressError),
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Parts beyond their limits are cut: `found` and `parse` give none such.
        let secret = self
            .secret
            .get(..self.secret.len().min(MAX_SECRET))
            .unwrap_or_default();
        let addresses = || {
            self.addresses
                .iter()
                .filter(|text| text.len() <= MAX_ADDRESS_LEN)
                .take(MAX_ADDRESSES)
        };
        let mut bytes = Zeroizing::new(vec![INVITE_VERSION]);
        bytes.extend_from_slice(&self.network);
        bytes.push(u8::try_from(secret.len()).unwrap_or_default());
        bytes.extend_from_slice(secret);
        bytes.push(u8::try_from(addresses().count()).unwrap_or_default());
        for address in addresses() {
            bytes.extend_from_slice(&u16::try_from(address.len()).unwrap_or_default().to_be_bytes());
            bytes.extend_from_slice(address.as_bytes());
        }
        let checksum = short_hash(INVITE_CHECKSUM, &bytes);
        bytes.extend_from_slice(&checksum);
        write!(f, "{INVITE_PREFIX}{INVITE_VERSION}")?;
        f.write_str(&Zeroizing::new(bs58::encode(bytes.as_slice()).into_string()))
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Invite({}…, {:?})",
            hex::encode(tag_of(&self.network)),
            self.addresses
        )
    }
}

impl FromStr for Invite {
    type Err = ParseInviteError;

    fn from_str(text: &str) -> Result<Self, ParseInviteError> {
        let rest = text
            .trim()
            .strip_prefix(INVITE_PREFIX)
            .ok_or(ParseInviteError::NotAnInvite)?;
        let encoded = match rest.as_bytes().first() {
            Some(b'1') => rest.get(1..).unwrap_or_default(),
            Some(b'2'..=b'9') => return Err(ParseInviteError::NewerVersion),
            Some(_) | None => return Err(ParseInviteError::NotAnInvite),
        };
        if encoded.len() > MAX_INVITE_TEXT {
            return Err(ParseInviteError::Damaged);
        }
        let bytes = bs58::decode(encoded)
            .into_vec()
            .map_err(|_| ParseInviteError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(ParseInviteError::Damaged)?;
        if *checksum != short_hash(INVITE_CHECKSUM, body) {
            return Err(ParseInviteError::Damaged);
        }
        let invite = Self::from_body(body).ok_or(ParseInviteError::Damaged)?;
        for address in &invite.addresses {
            check_peer_address(address)?;
        }
        Ok(invite)
    }
}

impl Invite {
    fn from_body(body: &[u8]) -> Option<Self> {
        let (version, rest) = body.split_first()?;
        let (network, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (secret, rest) = rest.split_at_checked(usize::from(*length))?;
        let (count, mut rest) = rest.split_first()?;
        let count = usize::from(*count);
        if *version != INVITE_VERSION || !(1..=MAX_ADDRESSES).contains(&count) {
            return None;
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk()?;
            let (address, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            if address.len() > MAX_ADDRESS_LEN {
                return None;
            }
            addresses.push(String::from_utf8(address.to_vec()).ok()?);
            rest = after;
        }
        let secret = Zeroizing::new(secret.to_vec());
        rest.is_empty().then_some(Self {
            network: *network,
            secret,
            addresses,
        })
    }
}

/// Where `--join` points: an address or an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// A multiaddress of a peer, with or without its peer id.
    Address(String),
    /// An invite.
    Invite(Invite),
}

/// Why `--join` was given something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseJoinError {
    /// It begins like an invite but is none.
    #[error(transparent)]
    Invite(#[from] ParseInviteError),
    /// It is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It begins like neither. It is not repeated here: it may be most of an invite.
    #[error(
        "neither an address such as /ip4/192.0.2.7/tcp/4001 nor an invite \
         ({INVITE_PREFIX}{INVITE_VERSION}…); a file that holds them is given as @FILE"
    )]
    Neither,
}

impl FromStr for Join {
    type Err = ParseJoinError;

    fn from_str(text: &str) -> Result<Self, ParseJoinError> {
        let text = text.trim();
        if text.starts_with(INVITE_PREFIX) {
            return Ok(Self::Invite(text.parse()?));
        }
        if !text.starts_with('/') {
            return Err(ParseJoinError::Neither);
        }
        check_peer_address(text)?;
        Ok(Self::Address(text.to_owned()))
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Invite(invite) => invite.fmt(f),
        }
    }
}

impl Join {
    /// The invite, if it is one.
    pub fn invite(&self) -> Option<&Invite> {
        match self {
            Self::Address(_) => None,
            Self::Invite(invite) => Some(invite),
        }
    }

    /// Whether it brings the secret of a closed network.
    pub fn has_secret(&self) -> bool {
        self.invite().is_some_and(|invite| !invite.secret.is_empty())
    }

    /// The addresses to dial, best first.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::Address(address) => std::slice::from_ref(address),
            Self::Invite(invite) => &invite.addresses,
        }
    }
}

/// Why a text is no address this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form that is expected.
    #[error("'{0}' is not an address such as /ip4/192.0.2.7/tcp/4001 (also ip6 and dns; only tcp)")]
    Form(String),
    /// The host part is no address of its kind.
    #[error("'{host}' in '{address}' is not a host of its kind")]
    Host {
        /// The host part.
        host: String,
        /// The whole text.
        address: String,
    },
    /// The port is no number up to 65535, or 0 where a peer is to be dialled.
    #[error("'{port}' in '{address}' is not a usable port")]
    Port {
        /// The port part.
        port: String,
        /// The whole text.
        address: String,
    },
    /// What follows `/p2p/` is no peer id.
    #[error("'{peer}' in '{address}' is not a peer id")]
    Peer {
        /// The text after `/p2p/`.
        peer: String,
        /// The whole text.
        address: String,
    },
    /// A name cannot be listened on.
    #[error("'{0}' cannot be listened on: give /ip4 or /ip6, without a peer id")]
    Listen(String),
}

/// Checks an address to dial: `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER]`, port not 0.
pub fn check_peer_address(address: &str) -> Result<(), AddressError> {
    let parts = split_address(address)?;
    if parts.port == 0 {
        return Err(AddressError::Port {
            port: "0".to_owned(),
            address: address.to_owned(),
        });
    }
    Ok(())
}

/// Checks an address to listen on: `/ip4|ip6/HOST/tcp/PORT`; port 0 takes a free one.
pub fn check_listen_address(address: &str) -> Result<(), AddressError> {
    let parts = split_address(address)?;
    if parts.named || parts.peer.is_some() {
        return Err(AddressError::Listen(address.to_owned()));
    }
    Ok(())
}

/// The parts of an address.
pub(crate) struct AddressParts<'a> {
    /// `ip4`, `ip6`, `dns`, `dns4` or `dns6`.
    pub(crate) kind: &'a str,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    peer: Option<Peer>,
    named: bool,
}

pub(crate) fn split_address(address: &str) -> Result<AddressParts<'_>, AddressError> {
    let form = || AddressError::Form(address.to_owned());
    if address.len() > MAX_ADDRESS_LEN {
        return Err(form());
    }
    let mut parts = address.strip_prefix('/').ok_or_else(form)?.split('/');
    let (kind, host) = parts.next().zip(parts.next()).ok_or_else(form)?;
    let (Some("tcp"), Some(port)) = (parts.next(), parts.next()) else {
        return Err(form());
    };
    let peer = match (parts.next(), parts.next(), parts.next()) {
        (None, None, None) => None,
        (Some("p2p"), Some(peer), None) => Some(peer),
        (Some(_) | None, Some(_) | None, Some(_) | None) => return Err(form()),
    };
    let (named, valid) = match kind {
        "ip4" => (false, host.parse::<Ipv4Addr>().is_ok()),
        "ip6" => (false, host.parse::<Ipv6Addr>().is_ok()),
        "dns" | "dns4" | "dns6" => (true, is_host_name(host)),
        _ => return Err(form()),
    };
    if !valid {
        return Err(AddressError::Host {
            host: host.to_owned(),
            address: address.to_owned(),
        });
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|_| digits);
    let port = number.ok_or_else(|| AddressError::Port {
        port: port.to_owned(),
        address: address.to_owned(),
    })?;
    let peer = peer
        .map(|text| text.parse().map_err(|_| bad_peer(text, address)))
        .transpose()?;
    Ok(AddressParts {
        kind,
        host,
        port,
        peer,
        named,
    })
}

fn bad_peer(peer: &str, address: &str) -> AddressError {
    AddressError::Peer {
        peer: peer.to_owned(),
        address: address.to_owned(),
    }
}

fn is_host_name(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
