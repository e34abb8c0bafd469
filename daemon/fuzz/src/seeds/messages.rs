//! Messages of every kind.

use bytes::Bytes;
use mutualstore_daemon::format::locator::write_holders;
use mutualstore_daemon::wire::contact::encode_contact;
use mutualstore_daemon::wire::peer::{
    Mending, PeerRequest, PeerResponse, StripeHoldings, WireLocator, WireTombstone,
};
use mutualstore_daemon::wire::shard::{ShardRequest, ShardResponse, ShardStatus};
use mutualstore_dht::custody::{self, Entry, Holds, Item, Listing, Pin, Question, Report, Reported, Shape};
use mutualstore_dht::{Id, placement, ring};
use mutualstore_proto::hello::{Class, Hello, HelloMessage, Proof, Reason, Refusal};

use super::{ID, PEER, TOKEN, contact};
use crate::wire::NETWORK;

pub(super) fn own_requests() -> Vec<PeerRequest> {
    let tombstone = WireTombstone {
        stripe: ID,
        header: Bytes::from_static(b"header"),
        signature: vec![1; 64].into(),
    };
    let locator = WireLocator {
        header: Bytes::from_static(b"header"),
        holders: write_holders(&[(1, PEER)]),
    };
    vec![
        PeerRequest::Commit(TOKEN, vec![ID, ID]),
        PeerRequest::Discard(TOKEN, vec![ID]),
        PeerRequest::Renew(TOKEN, vec![ID], 60_000),
        PeerRequest::Tombstones(vec![tombstone]),
        PeerRequest::Locate(TOKEN, 5, vec![locator]),
        PeerRequest::Holdings(vec![ID]),
        PeerRequest::Survey,
        PeerRequest::Mending,
        PeerRequest::Mend(None),
        PeerRequest::Mend(Some(PEER)),
        PeerRequest::Probe,
    ]
}

pub(super) fn dht_requests() -> Vec<PeerRequest> {
    let rings = [
        ring::Request::Ping {
            held: Some(contact()),
        },
        ring::Request::Neighbours {
            contact: contact(),
            member: true,
            of: vec![ID],
            digest: 9,
        },
        ring::Request::Next {
            target: ID,
            count: 16,
            without: vec![PEER],
        },
        ring::Request::Leave { contact: contact() },
    ];
    let order = custody::TrimOrder {
        stripe: ID,
        item: Item::Shard(1),
        keep: PEER,
        others: vec![(0, PEER)],
    };
    let (question, pin) = (
        Question {
            stripe: ID,
            item: Item::Shard(1),
            trim: Some(7),
        },
        Pin {
            stripe: ID,
            item: Item::Locator,
            trim: 7,
        },
    );
    let custodies = [
        custody::Request::Report(report()),
        custody::Request::Solicit,
        custody::Request::Commit { stripes: vec![ID] },
        custody::Request::Trim { orders: vec![order] },
        custody::Request::Confirm {
            questions: vec![question],
        },
        custody::Request::Status { stripes: vec![ID] },
        custody::Request::Audit { stripes: vec![ID] },
        custody::Request::Held { stripes: vec![ID] },
        custody::Request::Release { pins: vec![pin] },
        custody::Request::Audited {
            totals: vec![(ID, 6)],
        },
    ];
    let rings = rings.into_iter().map(PeerRequest::Ring);
    rings
        .chain(custodies.into_iter().map(PeerRequest::Custody))
        .collect()
}

fn report() -> Report {
    let entry = |item, placement| Entry {
        stripe: ID,
        item,
        shape: Shape {
            k: 4,
            n: 6,
            shard_len: 1000,
            placement,
        },
        committed: true,
    };
    let buddies = placement::Placement::Buddies {
        group: 12,
        anchor: ID,
    };
    Report {
        instance: 1,
        sequence: 2,
        total: 3,
        listings: vec![Listing {
            bucket: 0xab,
            from: Id::new([0; 32]),
            to: Id::new([0xff; 32]),
            entries: vec![
                entry(Item::Shard(0), placement::Placement::Successors),
                entry(Item::Shard(1), placement::Placement::Random),
                entry(Item::Locator, placement::Placement::Copysets { anchor: ID }),
                entry(Item::Tombstone, buddies),
            ],
        }],
    }
}

pub(super) fn own_responses() -> Vec<PeerResponse> {
    let holdings = StripeHoldings {
        held: vec![(1, true), (2, false)],
        known: vec![(3, PEER)],
    };
    let mending = Mending {
        pending: 1,
        regenerated: 2,
        bytes: 3,
    };
    vec![
        PeerResponse::Done(vec![true, false]),
        PeerResponse::Holdings(vec![holdings, StripeHoldings::default()]),
        PeerResponse::Survey(vec![PEER], 8),
        PeerResponse::Mending(mending),
        PeerResponse::Probed {
            unix_ms: 1_700_000_000_000,
            reached: true,
        },
        PeerResponse::Refused("leaving".to_owned()),
    ]
}

pub(super) fn dht_responses() -> Vec<PeerResponse> {
    let rings = [
        ring::Response::Pong {
            contact: contact(),
            member: true,
        },
        ring::Response::Same,
        ring::Response::Contacts(vec![contact(), contact()]),
        ring::Response::Found(vec![contact()]),
        ring::Response::Closer(vec![]),
        ring::Response::Busy,
        ring::Response::Ack,
    ];
    let holds = Holds {
        items: vec![Item::Shard(1), Item::Tombstone],
        under_repair: true,
        reported: vec![PEER],
    };
    let reported = Reported {
        differs: Some(vec![(1, 2), (9, 3)]),
        elsewhere: vec![(ID, PEER)],
    };
    let custodies = [
        custody::Response::Reported(reported),
        custody::Response::Taken,
        custody::Response::Confirmed(vec![true, false]),
        custody::Response::Statuses(vec![custody::Status::None, custody::Status::Committed]),
        custody::Response::Held(vec![holds, Holds::default()]),
    ];
    let rings = rings.into_iter().map(PeerResponse::Ring);
    rings
        .chain(custodies.into_iter().map(PeerResponse::Custody))
        .collect()
}

pub(super) fn shard_requests() -> Vec<ShardRequest> {
    vec![
        ShardRequest::Store {
            header: Bytes::from_static(b"header"),
            index: 3,
            token: TOKEN,
            lease_ms: 600_000,
        },
        ShardRequest::Fetch {
            stripe: ID,
            want: 5,
            exact: true,
        },
    ]
}

pub(super) fn shard_responses() -> Vec<ShardResponse> {
    vec![
        ShardResponse {
            header: Bytes::from_static(b"header"),
            index: 3,
            ..ShardResponse::status(ShardStatus::Ok, "")
        },
        ShardResponse::status(ShardStatus::Full, "no space"),
    ]
}

pub(super) fn hellos() -> Vec<HelloMessage> {
    vec![
        HelloMessage::Hello(Hello {
            version: 2,
            network: NETWORK,
            nonce: [2; 16],
            class: Class::Shards,
            instance: [3; 16],
            unit: 10 << 30,
            r: 16,
        }),
        HelloMessage::Proof(Proof {
            mac: [4; 32],
            contact: encode_contact(&contact()),
        }),
        HelloMessage::Refusal(Refusal {
            reason: Reason::WrongSecret,
            text: "no".to_owned(),
        }),
    ]
}
