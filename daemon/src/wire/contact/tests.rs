//! The form that is signed, and what is refused at the door.

use std::sync::Arc;

use mutualstore_dht::SignContact as _;
use mutualstore_dht::contact::{MAX_ADDRESS_LEN, MAX_ADDRESSES, MAX_INDEX, MAX_VIRTUAL_NODES, MAX_ZONE_LEN};
use proptest::prelude::*;

use super::*;
use crate::format::crypt::public_key;
use crate::wire::signed::Signer;

const NETWORK: [u8; 32] = [9; 32];

fn verifier() -> Arc<Verifier> {
    Arc::new(Verifier::new(NETWORK))
}

fn sign(seed: u8, contact: &Contact, network: [u8; 32]) -> Contact {
    let signer = Signer::new(&[seed; 32], Arc::new(Verifier::new(network)));
    Contact {
        signature: signer.sign(contact),
        ..contact.clone()
    }
}

fn contact() -> Contact {
    let contact = Contact {
        peer: Peer::new(public_key(&[1; 32])),
        version: 0x0102_0304_0506_0708,
        virtual_nodes: vec![1, 2, 0x7ff].into(),
        addresses: ["/ip4/192.0.2.7/tcp/4001".to_owned()].into(),
        capacity: 1 << 40,
        used: 3,
        state: PeerState::Draining,
        zone: "rack-7".into(),
        signature: Signature::default(),
    };
    sign(1, &contact, NETWORK)
}

#[test]
fn the_signed_form_is_these_bytes() {
    let golden = [
        "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c", // peer
        "0102030405060708",                                                 // version
        "0000010000000000",                                                 // capacity
        "0000000000000003",                                                 // used
        "02",                                                               // state
        "00030001000207ff",                                                 // virtual nodes
        "010017",                                                           // addresses
        "2f6970342f3139322e302e322e372f7463702f34303031",
        "06", // zone
        "7261636b2d37",
    ];
    assert_eq!(hex::encode(form(&contact())), golden.concat());
    let signature = concat!(
        "7741633bdfdba08cd3c08e915f5d3506251e6311d10096c553d29176dd6ab1d7",
        "b441010025fa770dddeee2f1b1ddfde5299ba8597cf6340ff4009bf7d001750c"
    );
    assert_eq!(hex::encode(contact().signature.0), signature);
    assert_eq!(
        decode_contact(encode_contact(&contact()), &verifier()),
        Ok(contact())
    );
}

#[test]
fn a_changed_contact_is_not_its_peers_word() {
    type Change = fn(&mut Contact);
    let changes: [Change; 9] = [
        |contact| contact.peer = Peer::new(public_key(&[2; 32])),
        |contact| contact.version += 1,
        |contact| contact.virtual_nodes = vec![1, 2, 3].into(),
        |contact| contact.addresses = ["/ip4/192.0.2.8/tcp/4001".to_owned()].into(),
        |contact| contact.capacity += 1,
        |contact| contact.used += 1,
        |contact| contact.state = PeerState::Accepting,
        |contact| contact.zone = "rack-8".into(),
        |contact| contact.signature = Signature::default(),
    ];
    let verifier = verifier();
    for change in changes {
        // What was verified before does not vouch for what is like it.
        assert!(decode_contact(encode_contact(&contact()), &verifier).is_ok());
        let mut forged = contact();
        change(&mut forged);
        assert!(decode_contact(encode_contact(&forged), &verifier).is_err());
        assert_eq!(hearsay(&wire_contact(&forged), &verifier), Ok(None));
    }
    assert_eq!(verifier.forged(), 18);
}

#[test]
fn another_networks_or_another_peers_signature_is_none() {
    let elsewhere = sign(1, &contact(), [8; 32]);
    assert_eq!(hearsay(&wire_contact(&elsewhere), &verifier()), Ok(None));
    let provisional = sign(1, &contact(), [0; 32]);
    assert_eq!(hearsay(&wire_contact(&provisional), &verifier()), Ok(None));
    let others = sign(2, &contact(), NETWORK);
    assert_eq!(hearsay(&wire_contact(&others), &verifier()), Ok(None));
    let verifier = verifier();
    verifier.enter([8; 32]);
    assert_eq!(hearsay(&wire_contact(&elsewhere), &verifier), Ok(Some(elsewhere)));
}

/// A contact that differs from a valid one in one field, signed as it is.
fn refused(change: impl FnOnce(&mut Contact)) -> bool {
    let mut contact = contact();
    change(&mut contact);
    hearsay(&wire_contact(&sign(1, &contact, NETWORK)), &verifier()).is_err()
}

#[test]
fn contacts_beyond_their_limits_are_refused_though_signed() {
    assert!(!refused(|_| {}));
    assert!(refused(|contact| contact.virtual_nodes = vec![].into()));
    assert!(refused(|contact| contact.virtual_nodes = vec![2, 1].into()));
    assert!(refused(|contact| contact.virtual_nodes = vec![1, 1].into()));
    assert!(refused(|contact| contact.virtual_nodes = vec![MAX_INDEX].into()));
    assert!(refused(
        |contact| contact.virtual_nodes = (0..=MAX_VIRTUAL_NODES).collect()
    ));
    let address = |text: &str| [text.to_owned()].into();
    assert!(refused(|contact| contact.addresses = address("")));
    assert!(refused(|contact| contact.addresses = address("no slash")));
    assert!(refused(
        |contact| contact.addresses = address("/ip4/1\u{1b}]0;T\u{7}")
    ));
    assert!(refused(
        |contact| contact.addresses = address("/dns/b\u{fc}cher/tcp/1")
    ));
    assert!(refused(
        |contact| contact.addresses = address(&format!("/{}", "a".repeat(MAX_ADDRESS_LEN)))
    ));
    assert!(refused(
        |contact| contact.addresses = vec!["/a".to_owned(), "/a".to_owned()].into()
    ));
    let many = |count: usize| (0..count).map(|number| format!("/{number}")).collect();
    assert!(!refused(|contact| contact.addresses = many(MAX_ADDRESSES)));
    assert!(refused(|contact| contact.addresses = many(MAX_ADDRESSES + 1)));
    assert!(refused(|contact| contact.addresses = many(300)));
    assert!(refused(
        |contact| contact.zone = "a".repeat(MAX_ZONE_LEN + 1).into()
    ));
    assert!(refused(|contact| contact.zone = "a b".into()));
    assert!(refused(|contact| contact.zone = "a\n".into()));
}

#[test]
fn the_largest_contact_fits_the_hello() {
    let mut largest = contact();
    largest.virtual_nodes = (0..MAX_VIRTUAL_NODES).collect();
    let address = |number: usize| format!("/{number:0>width$}", width = MAX_ADDRESS_LEN - 1);
    largest.addresses = (0..MAX_ADDRESSES).map(address).collect();
    largest.zone = "z".repeat(MAX_ZONE_LEN).into();
    let largest = sign(1, &largest, NETWORK);
    let bytes = encode_contact(&largest);
    assert!(bytes.len() <= mutualstore_net::MAX_CONTACT);
    assert_eq!(decode_contact(bytes, &verifier()), Ok(largest));
}

proptest! {
    #[test]
    fn damaged_forms_are_refused(at: prop::sample::Index, flip in 1..=u8::MAX, cut: prop::sample::Index) {
        let wire::Contact { body, signature } = wire_contact(&contact());
        let mut damaged = body.to_vec();
        let place = at.index(damaged.len());
        damaged[place] ^= flip;
        for body in [damaged, body[..cut.index(body.len())].to_vec(), [&body[..], &[0]].concat()] {
            let message = wire::Contact { body: body.into(), signature: signature.clone() };
            prop_assert!(!matches!(hearsay(&message, &verifier()), Ok(Some(_))));
        }
    }

    #[test]
    fn any_bytes_are_parsed_to_what_has_just_these_bytes(body: Vec<u8>, signature: Vec<u8>) {
        let forged = parse(&body, &signature);
        prop_assert!(forged.is_err() || forged.is_ok_and(|contact| form(&contact) == body));
    }
}
