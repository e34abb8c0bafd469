//! Messages to bytes and back, signatures included.

#![allow(missing_docs, reason = "benches are named by what they measure")]

use std::sync::Arc;

use mutualstore_daemon::format::crypt::public_key;
use mutualstore_daemon::wire::peer::{PeerRequest, PeerResponse};
use mutualstore_daemon::wire::signed::{Signer, Verifier};
use mutualstore_dht::custody::{self, Entry, Item, Listing, Report, Shape};
use mutualstore_dht::placement::Placement;
use mutualstore_dht::{Contact, Id, Peer, PeerState, SignContact, Signature, ring};

fn main() {
    divan::main();
}

fn contact(number: u8, network: &Arc<Verifier>) -> Contact {
    let seed = [number; 32];
    let contact = Contact {
        peer: Peer::new(public_key(&seed)),
        version: 1,
        virtual_nodes: (0..32).collect(),
        addresses: ["/ip4/192.0.2.7/tcp/4001".to_owned()].into(),
        capacity: 10 << 30,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    };
    Contact {
        signature: Signer::new(&seed, network.clone()).sign(&contact),
        ..contact
    }
}

/// The answer of a neighbour, with 16 contacts.
fn contacts() -> PeerResponse {
    let network = Arc::new(Verifier::new([9; 32]));
    let contacts = (0..16).map(|number| contact(number, &network));
    PeerResponse::Ring(ring::Response::Contacts(contacts.collect()))
}

/// A report of 3000 shards.
fn report() -> PeerRequest {
    let entry = |number: u16| {
        let mut stripe = [0; 32];
        stripe
            .iter_mut()
            .zip(number.to_be_bytes())
            .for_each(|(to, from)| *to = from);
        Entry {
            stripe: Id::new(stripe),
            item: Item::Shard(0),
            shape: Shape {
                k: 4,
                n: 6,
                shard_len: 1 << 20,
                placement: Placement::Successors,
            },
            committed: true,
        }
    };
    let listing = Listing {
        bucket: 0,
        from: Id::new([0; 32]),
        to: Id::new([0xff; 32]),
        entries: (0..3000).map(entry).collect(),
    };
    PeerRequest::Custody(custody::Request::Report(Report {
        listings: vec![listing],
        ..Report::default()
    }))
}

#[divan::bench]
fn encode_report(bencher: divan::Bencher<'_, '_>) {
    let report = report();
    bencher.bench(|| report.encode());
}

#[divan::bench]
fn decode_report(bencher: divan::Bencher<'_, '_>) {
    let (bytes, network) = (report().encode(), Verifier::new([9; 32]));
    assert!(PeerRequest::decode(bytes.clone(), &network).is_ok());
    bencher.bench(|| PeerRequest::decode(bytes.clone(), &network));
}

/// By a verifier that has met none of the contacts.
#[divan::bench]
fn decode_new_contacts(bencher: divan::Bencher<'_, '_>) {
    let bytes = contacts().encode();
    bencher
        .with_inputs(|| Verifier::new([9; 32]))
        .bench_refs(|network| PeerResponse::decode(bytes.clone(), network));
}

#[divan::bench]
fn decode_known_contacts(bencher: divan::Bencher<'_, '_>) {
    let (bytes, network) = (contacts().encode(), Verifier::new([9; 32]));
    bencher.bench(|| PeerResponse::decode(bytes.clone(), &network));
}
