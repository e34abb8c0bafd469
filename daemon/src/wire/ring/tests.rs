//! What the ring says survives the wire; what it never says is refused.

use std::sync::Arc;

use mutualstore_dht::contact::{MAX_ADDRESSES, MAX_INDEX};
use mutualstore_dht::{Id, Peer, PeerState, SignContact as _, Signature};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::format::crypt::public_key;
use crate::wire::signed::Signer;

fn verifier() -> Arc<Verifier> {
    Arc::new(Verifier::new([7; 32]))
}

fn signed(seed: [u8; 32], contact: Contact) -> Contact {
    let contact = Contact {
        peer: Peer::new(public_key(&seed)),
        ..contact
    };
    let signature = Signer::new(&seed, verifier()).sign(&contact);
    Contact { signature, ..contact }
}

fn any_contact() -> impl Strategy<Value = Contact> {
    let states = prop_oneof![
        Just(PeerState::Accepting),
        Just(PeerState::Full),
        Just(PeerState::Draining),
    ];
    let indices = btree_set(0..MAX_INDEX, 1..=usize::from(MAX_VIRTUAL_NODES));
    let addresses = btree_set("/[a-z0-9./]{0,40}", 0..=MAX_ADDRESSES);
    let rest = (any::<u64>(), any::<u64>(), any::<u64>(), states, "[!-~]{0,64}");
    (any::<[u8; 32]>(), indices, addresses, rest).prop_map(
        |(seed, indices, addresses, (version, capacity, used, state, zone))| {
            let contact = Contact {
                peer: Peer::new(seed),
                version,
                virtual_nodes: indices.into_iter().collect(),
                addresses: addresses.into_iter().collect(),
                capacity,
                used,
                state,
                zone: zone.into(),
                signature: Signature::default(),
            };
            signed(seed, contact)
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    let of = vec(
        any::<[u8; 32]>().prop_map(Id::new),
        0..=usize::from(MAX_VIRTUAL_NODES),
    );
    prop_oneof![
        proptest::option::of(any_contact()).prop_map(|held| Request::Ping { held }),
        (any_contact(), any::<bool>(), of, any::<u64>()).prop_map(|(contact, member, of, digest)| {
            Request::Neighbours {
                contact,
                member,
                of,
                digest,
            }
        }),
        (any::<[u8; 32]>(), any::<u16>(), vec(any::<[u8; 32]>(), 0..8)).prop_map(
            |(target, count, without)| Request::Next {
                target: Id::new(target),
                count,
                without: without.into_iter().map(Peer::new).collect(),
            },
        ),
        any_contact().prop_map(|contact| Request::Leave { contact }),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    prop_oneof![
        (any_contact(), any::<bool>()).prop_map(|(contact, member)| Response::Pong { contact, member }),
        Just(Response::Same),
        vec(any_contact(), 0..8).prop_map(Response::Contacts),
        vec(any_contact(), 0..8).prop_map(Response::Found),
        vec(any_contact(), 0..8).prop_map(Response::Closer),
        Just(Response::Busy),
        Just(Response::Ack),
    ]
}

fn decode_request(bytes: &[u8]) -> Result<Request, Malformed> {
    request(wire::RingRequest::decode(bytes)?, &verifier())
}

fn decode_response(bytes: &[u8]) -> Result<Response, Malformed> {
    response(wire::RingResponse::decode(bytes)?, &verifier())
}

/// The contacts a message carries.
fn carried(response: Response) -> Vec<Contact> {
    match response {
        Response::Pong { contact, .. } => vec![contact],
        Response::Contacts(contacts) | Response::Found(contacts) | Response::Closer(contacts) => contacts,
        Response::Same | Response::Busy | Response::Ack => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_survive_the_wire(sent in any_request()) {
        let bytes = wire_request(&sent).encode_to_vec();
        prop_assert_eq!(decode_request(&bytes), Ok(sent));
    }

    #[test]
    fn answers_survive_the_wire(sent in any_response()) {
        let bytes = wire_response(&sent).encode_to_vec();
        prop_assert_eq!(decode_response(&bytes), Ok(sent));
    }

    #[test]
    fn damaged_answers_are_refused_or_within_their_limits(
        sent in any_response(),
        at: prop::sample::Index,
        flip in 1..=u8::MAX,
        cut: prop::sample::Index,
    ) {
        let mut bytes = wire_response(&sent).encode_to_vec();
        let place = at.index(bytes.len());
        bytes[place] ^= flip;
        for bytes in [bytes.as_slice(), &bytes[..cut.index(bytes.len())]] {
            let contacts = decode_response(bytes).map(carried).unwrap_or_default();
            prop_assert!(contacts.len() <= MAX_CONTACTS);
            prop_assert!(contacts.iter().all(Contact::is_valid));
        }
    }
}

fn contact() -> Contact {
    let contact = Contact {
        peer: Peer::new([0; 32]),
        version: 1,
        virtual_nodes: vec![1].into(),
        addresses: ["/ip4/192.0.2.1/tcp/1".to_owned()].into(),
        capacity: 1,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    };
    signed([1; 32], contact)
}

/// Of somebody else: a higher version at other addresses.
fn forged() -> Contact {
    Contact {
        version: u64::MAX,
        addresses: ["/ip4/192.0.2.66/tcp/1".to_owned()].into(),
        ..contact()
    }
}

#[test]
fn forged_contacts_are_left_out_of_answers() {
    let lists: [fn(Vec<Contact>) -> Response; 3] = [Response::Contacts, Response::Found, Response::Closer];
    for list in lists {
        let decoded = |contacts| decode_response(&wire_response(&list(contacts)).encode_to_vec());
        let honest = signed([2; 32], contact());
        let read = decoded(vec![forged(), honest.clone(), forged()]);
        assert_eq!(read, Ok(list(vec![honest])));
        assert!(decoded(vec![forged(); MAX_FORGED + 1]).is_err());
    }
}

#[test]
fn a_message_that_needs_a_forged_contact_is_refused() {
    let pong = Response::Pong {
        contact: forged(),
        member: true,
    };
    assert!(decode_response(&wire_response(&pong).encode_to_vec()).is_err());
    let requests = [
        Request::Ping { held: Some(forged()) },
        Request::Leave { contact: forged() },
        Request::Neighbours {
            contact: forged(),
            member: true,
            of: Vec::new(),
            digest: 0,
        },
    ];
    for request in requests {
        assert!(decode_request(&wire_request(&request).encode_to_vec()).is_err());
    }
}

#[test]
fn messages_of_no_kind_and_too_many_points_or_contacts_are_refused() {
    assert!(decode_request(&[]).is_err());
    assert!(decode_response(&[]).is_err());
    let contact = wire_contact(&contact());
    let points = |count| {
        let kind = Some(wire::ring_request::Kind::Neighbours(wire::Neighbours {
            contact: Some(contact.clone()),
            of: vec![Bytes::from_static(&[2; 32]); count],
            ..wire::Neighbours::default()
        }));
        decode_request(&wire::RingRequest { kind }.encode_to_vec())
    };
    assert!(points(256).is_ok());
    assert!(points(257).is_err());
    let contacts = |count| {
        let contacts = vec![contact.clone(); count];
        let kind = Some(wire::ring_response::Kind::Found(wire::Contacts { contacts }));
        decode_response(&wire::RingResponse { kind }.encode_to_vec())
    };
    assert!(contacts(MAX_CONTACTS).is_ok());
    assert!(contacts(MAX_CONTACTS + 1).is_err());
    let kind = Some(wire::ring_response::Kind::Pong(wire::Pong::default()));
    assert!(decode_response(&wire::RingResponse { kind }.encode_to_vec()).is_err());
}
