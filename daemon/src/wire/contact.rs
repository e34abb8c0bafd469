//! Identifiers, peers and contacts.

use bytes::Bytes;
use mutualstore_dht::{Contact, Id, Peer, PeerState};
use mutualstore_proto::wire;
use prost::Message;

use super::Malformed;

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

pub(super) fn contact(message: wire::Contact) -> Result<Contact, Malformed> {
    let state = match message.state() {
        wire::WirePeerState::Accepting => PeerState::Accepting,
        wire::WirePeerState::Full => PeerState::Full,
        wire::WirePeerState::Draining => PeerState::Draining,
    };
    let indices = message.virtual_nodes.iter().map(|index| u16::try_from(*index));
    let contact = Contact {
        peer: peer(&message.peer)?,
        version: message.version,
        virtual_nodes: indices
            .collect::<Result<_, _>>()
            .map_err(|_| Malformed("a virtual node's index"))?,
        addresses: message.addresses.into(),
        capacity: message.capacity,
        used: message.used,
        state,
    };
    if contact.is_valid() {
        Ok(contact)
    } else {
        Err(Malformed("a contact beyond its limits"))
    }
}

pub(super) fn wire_contact(contact: &Contact) -> wire::Contact {
    let state = match contact.state {
        PeerState::Accepting => wire::WirePeerState::Accepting,
        PeerState::Full => wire::WirePeerState::Full,
        PeerState::Draining => wire::WirePeerState::Draining,
    };
    wire::Contact {
        peer: wire_peer(&contact.peer),
        version: contact.version,
        virtual_nodes: contact
            .virtual_nodes
            .iter()
            .map(|index| u32::from(*index))
            .collect(),
        addresses: contact.addresses.to_vec(),
        capacity: contact.capacity,
        used: contact.used,
        state: state.into(),
    }
}

/// A contact as it travels in the hello.
pub fn encode_contact(contact: &Contact) -> Bytes {
    wire_contact(contact).encode_to_vec().into()
}

/// Parses and validates a contact from the hello.
pub fn decode_contact(bytes: Bytes) -> Result<Contact, Malformed> {
    contact(wire::Contact::decode(bytes)?)
}
