use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;

fn any_id() -> impl Strategy<Value = Id> {
    any::<[u8; 32]>().prop_map(Id::new)
}

fn any_peer() -> impl Strategy<Value = Peer> {
    any::<[u8; 32]>().prop_map(Peer::new)
}

fn any_item() -> impl Strategy<Value = Item> {
    any::<u8>().prop_map(|byte| of_byte(byte, 0))
}

fn any_listing() -> impl Strategy<Value = Listing> {
    let shard = (
        any::<[u8; 31]>(),
        1..mutualstore_dht::custody::LOCATOR,
        any::<u8>(),
        any::<u8>(),
        any::<u32>(),
        any::<bool>(),
    );
    (any::<u8>(), vec(shard, 0..8)).prop_map(|(bucket, shards)| {
        let mut entries: Vec<Entry> = shards
            .into_iter()
            .map(|(prefix, n, k, index, shard_len, committed)| {
                let mut stripe = [bucket; 32];
                stripe[..31].copy_from_slice(&prefix);
                let shape = Shape {
                    k: k % n + 1,
                    n,
                    shard_len,
                    placement: Placement::Successors,
                };
                Entry {
                    stripe: Id::new(stripe),
                    item: Item::Shard(index % n),
                    shape,
                    committed,
                }
            })
            .collect();
        entries.sort_by_key(|entry| (entry.stripe, entry.item));
        entries.dedup_by_key(|entry| (entry.stripe, entry.item));
        Listing {
            bucket,
            from: Id::default(),
            to: Id::new([255; 32]),
            entries,
        }
    })
}

fn any_order() -> impl Strategy<Value = TrimOrder> {
    (
        any_id(),
        any_item(),
        any_peer(),
        vec((any::<u8>(), any_peer()), 0..8),
    )
        .prop_map(|(stripe, item, keep, others)| TrimOrder {
            stripe,
            item,
            keep,
            others,
        })
}

fn any_question() -> impl Strategy<Value = Question> {
    let trim = proptest::option::of(1..=u64::MAX);
    (any_id(), any_item(), trim).prop_map(|(stripe, item, trim)| Question { stripe, item, trim })
}

fn any_pin() -> impl Strategy<Value = Pin> {
    (any_id(), any_item(), any::<u64>()).prop_map(|(stripe, item, trim)| Pin { stripe, item, trim })
}

fn any_request() -> impl Strategy<Value = Request> {
    let report = (any::<u64>(), any::<u64>(), any::<u64>(), vec(any_listing(), 0..4));
    prop_oneof![
        report.prop_map(|(instance, sequence, total, listings)| {
            Request::Report(Report {
                instance,
                sequence,
                total,
                listings,
            })
        }),
        Just(Request::Solicit),
        vec(any_id(), 0..8).prop_map(|stripes| Request::Commit { stripes }),
        vec(any_order(), 0..8).prop_map(|orders| Request::Trim { orders }),
        vec(any_question(), 0..8).prop_map(|questions| Request::Confirm { questions }),
        vec(any_pin(), 0..8).prop_map(|pins| Request::Release { pins }),
        vec(any_id(), 0..8).prop_map(|stripes| Request::Status { stripes }),
        vec(any_id(), 0..8).prop_map(|stripes| Request::Audit { stripes }),
        vec(any_id(), 0..8).prop_map(|stripes| Request::Held { stripes }),
        vec((any_id(), any::<u8>()), 0..8).prop_map(|totals| Request::Audited { totals }),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    let differs = proptest::option::of(vec(any::<(u8, u64)>(), 0..8));
    let items = proptest::collection::btree_set(any_item(), 0..8);
    let holds =
        (items, any::<bool>(), vec(any_peer(), 0..8)).prop_map(|(items, under_repair, reported)| Holds {
            items: items.into_iter().collect(),
            under_repair,
            reported,
        });
    let status = prop_oneof![Just(Status::None), Just(Status::Pending), Just(Status::Committed)];
    prop_oneof![
        (differs, vec((any_id(), any_peer()), 0..8))
            .prop_map(|(differs, elsewhere)| Response::Reported(Reported { differs, elsewhere })),
        Just(Response::Taken),
        vec(any::<bool>(), 0..8).prop_map(Response::Confirmed),
        vec(status, 0..8).prop_map(Response::Statuses),
        vec(holds, 0..8).prop_map(Response::Held),
    ]
}

fn parse(request: &Request) -> Result<Request, Malformed> {
    let bytes = wire_request(request).encode_to_vec();
    super::request(wire::CustodyRequest::decode(bytes.as_slice())?)
}

proptest! {
    #[test]
    fn requests_come_back(request in any_request()) {
        prop_assert_eq!(parse(&request), Ok(request));
    }

    #[test]
    fn responses_come_back(response in any_response()) {
        let bytes = wire_response(&response).encode_to_vec();
        let message = wire::CustodyResponse::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(super::response(message), Ok(response));
    }

    #[test]
    fn garbage_is_refused_or_valid(bytes in vec(any::<u8>(), 0..256)) {
        if let Ok(message) = wire::CustodyRequest::decode(bytes.as_slice())
            && let Ok(request) = super::request(message)
        {
            prop_assert_eq!(parse(&request), Ok(request));
        }
    }
}

#[test]
fn limits_hold() {
    let beyond = vec![Id::default(); MAX_ENTRIES + 1];
    assert_eq!(
        parse(&Request::Commit {
            stripes: beyond.clone()
        }),
        Err(TOO_MANY)
    );
    assert_eq!(parse(&Request::Status { stripes: beyond }), Err(TOO_MANY));
    let stripes = vec![Id::default(); MAX_ASKED + 1];
    assert_eq!(parse(&Request::Held { stripes }), Err(TOO_MANY));
    let totals = vec![(Id::default(), 0); MAX_ENTRIES + 1];
    assert_eq!(parse(&Request::Audited { totals }), Err(TOO_MANY));
    let message = wire_response(&Response::Held(vec![Holds::default(); MAX_ASKED + 1]));
    assert_eq!(super::response(message), Err(TOO_MANY));
    let question = Question {
        stripe: Id::default(),
        item: Item::Shard(0),
        trim: None,
    };
    assert_eq!(
        parse(&Request::Confirm {
            questions: vec![question; MAX_ENTRIES + 1]
        }),
        Err(TOO_MANY)
    );
    let pin = Pin {
        stripe: Id::default(),
        item: Item::Shard(0),
        trim: 1,
    };
    let pins = vec![pin; MAX_ENTRIES + 1];
    assert_eq!(parse(&Request::Release { pins }), Err(TOO_MANY));
    let peer = Peer::new([0; 32]);
    let order = |others| TrimOrder {
        stripe: Id::default(),
        item: Item::Shard(0),
        keep: peer,
        others,
    };
    assert_eq!(
        parse(&Request::Trim {
            orders: vec![order(Vec::new()); MAX_ENTRIES + 1]
        }),
        Err(TOO_MANY)
    );
    assert_eq!(
        parse(&Request::Trim {
            orders: vec![order(vec![(0, peer); 257])]
        }),
        Err(TOO_MANY)
    );
    let reported = Reported {
        differs: Some(vec![(0, 0); BUCKETS + 1]),
        elsewhere: Vec::new(),
    };
    let message = wire_response(&Response::Reported(reported));
    assert_eq!(super::response(message), Err(TOO_MANY));
}

#[test]
fn a_listing_must_keep_its_word() {
    let shape = Shape {
        k: 1,
        n: 2,
        shard_len: 1,
        placement: Placement::Successors,
    };
    let entry = |index| Entry {
        stripe: Id::default(),
        item: Item::Shard(index),
        shape,
        committed: true,
    };
    let report = |bucket, entries| {
        let listing = Listing {
            bucket,
            from: Id::default(),
            to: Id::default(),
            entries,
        };
        parse(&Request::Report(Report {
            listings: vec![listing],
            ..Report::default()
        }))
    };
    assert!(report(0, vec![entry(0), entry(1)]).is_ok());
    assert!(report(0, vec![entry(1), entry(0)]).is_err(), "out of order");
    assert!(report(0, vec![entry(0), entry(0)]).is_err(), "twice");
    assert!(report(0, vec![entry(2)]).is_err(), "no such index");
    assert!(report(1, vec![entry(0)]).is_err(), "another bucket");
    let shape = Shape {
        k: 3,
        n: 2,
        shard_len: 1,
        placement: Placement::Successors,
    };
    assert!(
        report(0, vec![Entry { shape, ..entry(0) }]).is_err(),
        "k beyond n"
    );
    let empty = wire::CustodyRequest { kind: None };
    assert!(super::request(empty).is_err());
}
