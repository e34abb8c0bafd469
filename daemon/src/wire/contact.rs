//! Identifiers, peers and contacts.
//!
//! Every contact that does not stand in this process already comes in through [`hearsay`]: in the hello, in pings and
//! pongs, neighbours, lookups, walks, departures. The address book on disk asks the same [`Verifier`]. Invites and
//! `--join` carry addresses only; custody and surveys name peers only.

use bytes::Bytes;
use mutualstore_dht::{Contact, Id, Peer, PeerState, Signature};
use mutualstore_proto::wire;
use prost::Message;

use super::Malformed;
use super::signed::Verifier;

pub(super) fn id(bytes: &Bytes) -> Result<Id, Malformed> {
    let bytes: [u8; 32] = bytes
        .as_ref()
        .try_into()
        .map_err(|_| Malformed("an id has 32 bytes"))?;
    Ok(Id::new(bytes))
}

pub(super) fn wire_id(id: &Id) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

pub(super) fn peer(bytes: &Bytes) -> Result<Peer, Malformed> {
    id(bytes).map(|id| Peer::new(*id.as_bytes()))
}

pub(super) fn wire_peer(peer: &Peer) -> Bytes {
    Bytes::copy_from_slice(peer.as_bytes())
}

pub(super) fn index(number: u32) -> Result<u8, Malformed> {
    u8::try_from(number).map_err(|_| Malformed("a shard index is below 256"))
}

/// Validates a contact and whose it is: the one way in for contacts from the network. None if its peer did not sign it.
pub(super) fn hearsay(message: &wire::Contact, verifier: &Verifier) -> Result<Option<Contact>, Malformed> {
    let contact = parse(&message.body, &message.signature)?;
    Ok(verifier.verify(&contact, &message.body).then_some(contact))
}

/// A contact that a message cannot do without.
pub(super) fn contact(message: &wire::Contact, verifier: &Verifier) -> Result<Contact, Malformed> {
    hearsay(message, verifier)?.ok_or(Malformed("a contact that its peer did not sign"))
}

pub(super) fn wire_contact(contact: &Contact) -> wire::Contact {
    wire::Contact {
        body: form(contact).into(),
        signature: Bytes::copy_from_slice(&contact.signature.0),
    }
}

/// A contact as it travels in the hello.
pub fn encode_contact(contact: &Contact) -> Bytes {
    wire_contact(contact).encode_to_vec().into()
}

/// Parses and validates a contact from the hello.
pub fn decode_contact(bytes: Bytes, verifier: &Verifier) -> Result<Contact, Malformed> {
    contact(&wire::Contact::decode(bytes)?, verifier)
}

/// The one byte form of a contact, which is also what its signature covers; numbers big-endian:
/// peer 32 ‖ version u64 ‖ capacity u64 ‖ used u64 ‖ state u8 (0 accepting, 1 full, 2 draining) ‖ count of virtual
/// nodes u16 ‖ each index u16 ‖ count of addresses u8 ‖ each length u16 and text ‖ length of the zone u8 and text.
/// What is beyond the limits of a contact has no form others take.
pub(super) fn form(contact: &Contact) -> Vec<u8> {
    let state = match contact.state {
        PeerState::Accepting => 0,
        PeerState::Full => 1,
        PeerState::Draining => 2,
    };
    let mut form = Vec::with_capacity(512);
    form.extend(contact.peer.as_bytes());
    for number in [contact.version, contact.capacity, contact.used] {
        form.extend(number.to_be_bytes());
    }
    form.push(state);
    form.extend(
        u16::try_from(contact.virtual_nodes.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    for index in contact.virtual_nodes.iter() {
        form.extend(index.to_be_bytes());
    }
    form.push(u8::try_from(contact.addresses.len()).unwrap_or(u8::MAX));
    for address in contact.addresses.iter() {
        form.extend(u16::try_from(address.len()).unwrap_or(u16::MAX).to_be_bytes());
        form.extend(address.as_bytes());
    }
    form.push(u8::try_from(contact.zone.len()).unwrap_or(u8::MAX));
    form.extend(contact.zone.as_bytes());
    form
}

/// Reads [`form`] and checks every limit; whose signature it is, is not looked at.
fn parse(body: &[u8], signature: &[u8]) -> Result<Contact, Malformed> {
    let contact = Reader(body).contact().ok_or(Malformed("a contact's form"))?;
    let signature = signature
        .try_into()
        .map_err(|_| Malformed("a signature has 64 bytes"))?;
    let contact = Contact {
        signature: Signature(signature),
        ..contact
    };
    if contact.is_valid() {
        Ok(contact)
    } else {
        Err(Malformed("a contact beyond its limits"))
    }
}

/// What is left to read. Nothing is allocated before it is known to be there.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn contact(mut self) -> Option<Contact> {
        let peer = Peer::new(self.array()?);
        let version = u64::from_be_bytes(self.array()?);
        let capacity = u64::from_be_bytes(self.array()?);
        let used = u64::from_be_bytes(self.array()?);
        let state = match self.array()? {
            [0] => PeerState::Accepting,
            [1] => PeerState::Full,
            [2] => PeerState::Draining,
            [_] => return None,
        };
        let count = u16::from_be_bytes(self.array()?);
        let indices = (0..count).map(|_| self.array().map(u16::from_be_bytes));
        let virtual_nodes: Box<[u16]> = indices.collect::<Option<_>>()?;
        let [count] = self.array()?;
        let addresses = (0..count).map(|_| {
            let length = u16::from_be_bytes(self.array()?);
            self.text(length)
        });
        let addresses: Vec<String> = addresses.collect::<Option<_>>()?;
        let [length] = self.array()?;
        let zone = self.text(length.into())?;
        self.0.is_empty().then(|| Contact {
            peer,
            version,
            virtual_nodes: virtual_nodes.into(),
            addresses: addresses.into(),
            capacity,
            used,
            state,
            zone: zone.into(),
            signature: Signature::default(),
        })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn text(&mut self, length: u16) -> Option<String> {
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        str::from_utf8(text).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests;
