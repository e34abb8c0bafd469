use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::ShardError;

const OWNER: [u8; 32] = [7; 32];

fn code(name: &str) -> Code {
    name.parse().unwrap()
}

/// Bytes without a period that a shard length could share.
fn block(len: usize) -> Bytes {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn stripe(code: Code, block: &Bytes) -> Vec<VerifiedShard> {
    encode(code, Policy::Successors, [0; 32], OWNER, block.clone()).unwrap()
}

/// The members of `shards` whose bit is set.
fn subset(shards: &[VerifiedShard], bits: u32) -> Vec<VerifiedShard> {
    shards
        .iter()
        .filter(|shard| bits >> shard.index() & 1 == 1)
        .cloned()
        .collect()
}

/// A stripe whose header has a wrong hash for one shard, without that shard.
fn lying_about(code: Code, index: u8, block: &Bytes) -> (Header, Vec<VerifiedShard>) {
    let honest = stripe(code, block);
    let header = honest[0].header();
    let hashes: Vec<_> = (0..code.n())
        .map(|at| {
            if at == index {
                [0; 32]
            } else {
                *header.hash(at).unwrap()
            }
        })
        .collect();
    let header = Header::new(code, header.policy(), [0; 32], header.block_len(), OWNER, &hashes);
    let shards = honest.into_iter().map(|shard| {
        let (_, index, payload) = shard.into_parts();
        Shard {
            header: header.clone(),
            index,
            payload,
        }
        .verify()
    });
    let (good, bad): (Vec<_>, Vec<_>) = shards.partition(Result::is_ok);
    assert_eq!(
        bad,
        [Err(ShardError::Corrupt {
            stripe: header.id(),
            index
        })]
    );
    (header, good.into_iter().map(Result::unwrap).collect())
}

/// Computed by a separate implementation from the text of the format.
/// The chunks of a block as one; a single chunk is not copied.
fn concat(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [whole] => whole.clone(),
        _ => chunks.concat().into(),
    }
}

#[test]
fn golden() {
    let shards = stripe(code("rs:2+2"), &Bytes::from_static(b"hello"));
    let payloads: Vec<&[u8]> = shards.iter().map(|shard| shard.payload().as_ref()).collect();
    assert_eq!(
        payloads,
        [&b"hel"[..], b"lo\0", &[0x60, 0x71, 0xb4], &[0x64, 0x7b, 0xd8]]
    );
    let golden = [
        "010002020200",
        &"00".repeat(32),
        "00000005",
        &"07".repeat(32),
        "d6a81f224bbf2f7c22baddbd5d40730eb20cfb0b3d74e10cab61788214caceb1",
        "f758354435b2ad5fd86d74001d57aea58a6cedf9a8526f7d6ed10409c224443f",
        "d1077b1b4dbabffa8cb87455c6d89c94cb5890097986fe9a21e8d3b9b9075665",
        "04a72db41deca0ee58ba1b7bdf9e6ddfae5bc7e834def9627f64d8df9a168ec2",
    ];
    assert_eq!(format!("{:x}", shards[0].header().encode()), golden.concat());
    let id = "29c3c44a2ab9b2a56f681c4a2045823b3f0d35565efeb699205474fbaf7d1d49";
    assert_eq!(shards[0].stripe().to_string(), id);

    let cycle = |times: usize| Bytes::from((0..=250).collect::<Vec<u8>>().repeat(times));
    let anchor = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let shards = encode(code("rs:4+2"), Policy::Copysets, anchor, [255; 32], cycle(400)).unwrap();
    let id = "1081901ef16b339fbe604e1309903d213824d177396e4ee52ca3809949791bed";
    assert_eq!(shards[5].stripe().to_string(), id);

    let shards = encode(code("rs:8+4"), Policy::Successors, [0; 32], [0; 32], cycle(40)).unwrap();
    let id = "10ef042f8c24f77659f3287567b7e6df40292a5cff8e92a91521b2ff76f8919c";
    assert_eq!(shards[0].stripe().to_string(), id);
}

#[test]
fn every_subset_of_small_codes() {
    for name in [
        "copies:1", "copies:3", "xor:2", "xor:5", "rs:1+2", "rs:2+2", "rs:4+2", "rs:3+5", "rs:8+4",
    ] {
        let code = code(name);
        let (k, n) = (code.k(), code.n());
        for len in [1, k - 1, k, k + 1, 3 * k + 1, 200] {
            let Some(block) = Some(block(usize::from(len))).filter(|block| !block.is_empty()) else {
                continue;
            };
            let shards = stripe(code, &block);
            assert_eq!(shards.len(), usize::from(n));
            for bits in 0..1u32 << n {
                let given = subset(&shards, bits);
                let distinct = u8::try_from(given.len()).unwrap();
                let decoded = decode(&given).map(|chunks| concat(&chunks));
                if distinct >= k {
                    assert_eq!(decoded, Ok(block.clone()), "{name}, {len} bytes, shards {bits:b}");
                } else {
                    let needed = if distinct == 0 { 1 } else { k };
                    assert_eq!(decoded, Err(DecodeError::TooFew { needed, distinct }));
                }
            }
        }
    }
}

#[test]
fn every_shard_is_rebuilt_from_any_k() {
    for name in ["copies:3", "xor:3", "rs:4+2"] {
        let code = code(name);
        let shards = stripe(code, &block(1001));
        let all: Vec<u8> = (0..code.n()).collect();
        for bits in (0..1u32 << code.n()).filter(|bits| bits.count_ones() == u32::from(code.k())) {
            assert_eq!(
                reconstruct(&subset(&shards, bits), &all),
                Ok(shards.clone()),
                "{name}, {bits:b}"
            );
        }
    }
}

#[test]
fn reconstruct_answers_in_the_order_asked() {
    let shards = stripe(code("rs:3+3"), &block(100));
    let given = [
        shards[4].clone(),
        shards[1].clone(),
        shards[4].clone(),
        shards[5].clone(),
    ];
    let wanted = [5, 0, 1, 0, 3];
    let answer = reconstruct(&given, &wanted).unwrap();
    assert_eq!(answer, wanted.map(|index| shards[usize::from(index)].clone()));
    assert_eq!(reconstruct(&given, &[]), Ok(vec![]));
}

#[test]
fn what_is_at_hand_needs_no_others() {
    let shards = stripe(code("rs:3+3"), &block(100));
    assert_eq!(reconstruct(&shards[4..5], &[4]), Ok(vec![shards[4].clone()]));
    assert_eq!(
        reconstruct(&shards[4..5], &[3]),
        Err(DecodeError::TooFew {
            needed: 3,
            distinct: 1
        })
    );
}

#[test]
fn repeated_shards_count_once() {
    let shards = stripe(code("rs:2+2"), &block(100));
    let given = [shards[3].clone(), shards[3].clone(), shards[3].clone()];
    assert_eq!(
        decode(&given),
        Err(DecodeError::TooFew {
            needed: 2,
            distinct: 1
        })
    );
}

#[test]
fn mixed_and_unknown_shards() {
    let (one, other) = (
        stripe(code("rs:2+2"), &block(100)),
        stripe(code("rs:2+2"), &block(99)),
    );
    let mixed = [one[0].clone(), other[1].clone()];
    let error = DecodeError::MixedStripes(one[0].stripe(), other[0].stripe());
    assert_eq!(decode(&mixed), Err(error));
    assert_eq!(reconstruct(&mixed, &[0]), Err(error));
    assert_eq!(
        reconstruct(&one, &[1, 4]),
        Err(DecodeError::NoSuchIndex { index: 4, n: 4 })
    );
    assert_eq!(
        reconstruct(&[], &[0]),
        Err(DecodeError::TooFew {
            needed: 1,
            distinct: 0
        })
    );
}

#[test]
fn a_lie_about_parity_is_found() {
    for (name, index) in [("rs:4+2", 5), ("xor:3", 3), ("copies:3", 2)] {
        let block = block(1000);
        let (header, shards) = lying_about(code(name), index, &block);
        let error = DecodeError::Inconsistent {
            stripe: header.id(),
            index,
        };
        assert_eq!(reconstruct(&shards, &[index]), Err(error), "{name}");
        assert_eq!(
            decode(&shards).map(|chunks| concat(&chunks)),
            Ok(block),
            "the block itself is whole"
        );
    }
}

#[test]
fn a_lie_about_data_is_found() {
    for (name, index) in [("rs:4+2", 1), ("xor:3", 0), ("copies:3", 0)] {
        let (header, shards) = lying_about(code(name), index, &block(1000));
        let error = DecodeError::Inconsistent {
            stripe: header.id(),
            index,
        };
        assert_eq!(decode(&shards), Err(error), "{name}");
    }
}

#[test]
fn encode_refuses() {
    let refused = |code, block| encode(code, Policy::Successors, [0; 32], OWNER, block).unwrap_err();
    let xor1 = Code::Xor(1);
    assert_eq!(
        refused(xor1, block(10)),
        EncodeError::Code(CodeError::TooFewShards { code: xor1 })
    );
    assert_eq!(refused(code("rs:4+2"), Bytes::new()), EncodeError::Empty);
    let (len, max) = (2 * MAX_SHARD_LEN + 1, 2 * MAX_SHARD_LEN);
    let code = code("xor:2");
    assert_eq!(
        refused(code, Bytes::from(vec![0; len])),
        EncodeError::TooLong { len, code, max }
    );
    assert_eq!(
        stripe(code, &Bytes::from(vec![0; max]))[2].payload().len(),
        MAX_SHARD_LEN
    );
}

#[test]
fn the_tail_is_padded_with_zeros() {
    let shards = stripe(code("rs:4+2"), &Bytes::from_static(&[1, 2, 3, 4, 5]));
    let payloads: Vec<&[u8]> = shards[..4].iter().map(|shard| shard.payload().as_ref()).collect();
    assert_eq!(payloads, [[1, 2], [3, 4], [5, 0], [0, 0]]);
    let chunks = decode(&shards).unwrap();
    assert_eq!(chunks, [&[1, 2][..], &[3, 4], &[5]]);
}

#[test]
fn whole_data_shards_are_not_copied() {
    let block = block(4001);
    let shards = stripe(code("rs:4+2"), &block);
    for (shard, slice) in shards.iter().zip(block.chunks_exact(1001)) {
        assert_eq!(shard.payload().as_ptr(), slice.as_ptr());
    }
    for (chunk, shard) in decode(&shards).unwrap().iter().zip(&shards) {
        assert_eq!(chunk.as_ptr(), shard.payload().as_ptr());
    }
    let copies = stripe(code("copies:3"), &block);
    assert!(
        copies
            .iter()
            .all(|copy| copy.payload().as_ptr() == block.as_ptr())
    );
    assert_eq!(concat(&decode(&copies[2..]).unwrap()).as_ptr(), block.as_ptr());
}

#[test]
fn xor_is_the_exclusive_or() {
    let block = block(3 * 70_000);
    let shards = stripe(code("xor:3"), &block);
    for (at, &byte) in shards[3].payload().iter().enumerate() {
        assert_eq!(byte, block[at] ^ block[70_000 + at] ^ block[140_000 + at]);
    }
}

#[test]
fn shards_of_several_columns() {
    let block = block(3 * 150_000 - 1);
    let shards = stripe(code("rs:3+2"), &block);
    assert_eq!(decode(&shards[2..]).map(|chunks| concat(&chunks)), Ok(block));
}

#[test]
fn damaged_shards_are_refused() {
    let shards = stripe(code("rs:2+2"), &block(9));
    let header = shards[0].header().clone();
    let stripe = header.id();
    for good in &shards {
        let shard = Shard::from(good.clone());
        assert_eq!(shard.clone().verify_for(&stripe), Ok(good.clone()));
        let other = StripeId::from([0; 32]);
        let error = ShardError::OtherStripe {
            expected: other,
            found: stripe,
        };
        assert_eq!(shard.clone().verify_for(&other), Err(error));
        for at in 0..shard.payload.len() {
            for bit in 0..8 {
                let mut payload = shard.payload.to_vec();
                payload[at] ^= 1 << bit;
                let bad = Shard {
                    payload: payload.into(),
                    ..shard.clone()
                };
                assert_eq!(
                    bad.verify(),
                    Err(ShardError::Corrupt {
                        stripe,
                        index: shard.index
                    })
                );
            }
        }
        for index in (0..=255).filter(|&index| index != good.index()) {
            let error = if index < 4 {
                ShardError::Corrupt { stripe, index }
            } else {
                ShardError::NoSuchIndex { stripe, index, n: 4 }
            };
            assert_eq!(
                Shard {
                    index,
                    ..shard.clone()
                }
                .verify(),
                Err(error)
            );
        }
        for payload in [
            shard.payload.slice(1..),
            [shard.payload.as_ref(), &[0]].concat().into(),
            Bytes::new(),
        ] {
            let error = ShardError::Length {
                stripe,
                index: shard.index,
                found: payload.len(),
                expected: shard.payload.len(),
            };
            assert_eq!(
                Shard {
                    payload,
                    ..shard.clone()
                }
                .verify(),
                Err(error)
            );
        }
    }
}

fn codes() -> impl Strategy<Value = Code> {
    prop_oneof![
        (1..=64u8).prop_map(Code::Copies),
        (2..=63u8).prop_map(Code::Xor),
        (1..=63u8)
            .prop_flat_map(|data| (Just(data), 1..=64 - data))
            .prop_map(|(data, parity)| Code::ReedSolomon { data, parity }),
    ]
}

/// A code, a block for it, and k of its shards' indices in any order.
fn cases() -> impl Strategy<Value = (Code, Bytes, Vec<u8>)> {
    let block = prop::collection::vec(any::<u8>(), 1..2000).prop_map(Bytes::from);
    (codes(), block).prop_flat_map(|(code, block)| {
        let indices: Vec<u8> = (0..code.n()).collect();
        let given = subsequence(indices, usize::from(code.k())).prop_shuffle();
        (Just(code), Just(block), given)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_k_shards_of_any_code((code, block, given) in cases()) {
        let shards = stripe(code, &block);
        let mut given: Vec<_> = given.iter().map(|&index| shards[usize::from(index)].clone()).collect();
        prop_assert_eq!(concat(&decode(&given).unwrap()), block);
        let all: Vec<u8> = (0..code.n()).collect();
        prop_assert_eq!(reconstruct(&given, &all), Ok(shards));
        given.pop();
        let needed = if given.is_empty() { 1 } else { code.k() };
        let distinct = code.k() - 1;
        prop_assert_eq!(decode(&given), Err(DecodeError::TooFew { needed, distinct }));
    }

    /// A shard that came through a flipped byte anywhere is refused, unless it is of another stripe
    /// altogether, which the asker notices.
    #[test]
    fn any_flipped_byte((code, block, given) in cases(), at: prop::sample::Index, flip in 1..=255u8) {
        let shards = stripe(code, &block);
        let (header, index, payload) = shards[usize::from(given[0])].clone().into_parts();
        let mut bytes = [header.encode().as_ref(), &[index], &payload].concat();
        *at.get_mut(&mut bytes) ^= flip;
        let (head, rest) = bytes.split_at(header.encode().len());
        if let Ok(read) = Header::decode(head) {
            let shard = Shard { header: read, index: rest[0], payload: Bytes::copy_from_slice(&rest[1..]) };
            // Copies are interchangeable: only there may a shard pass for another one of its stripe.
            let copy = shard.header == header && rest[1..] == payload && code.k() == 1 && rest[0] < code.n();
            prop_assert_eq!(shard.verify_for(&header.id()).is_ok(), copy);
        }
    }
}

#[test]
fn a_group_smaller_than_the_stripe_is_refused() {
    let coded = |peers: u8| {
        let group = Some(peers.try_into().unwrap());
        let block = Bytes::from_static(b"hello");
        encode(
            Code::Copies(3),
            Policy::Buddies { group },
            [0; 32],
            [0; 32],
            block,
        )
    };
    assert_eq!(coded(3).unwrap().len(), 3);
    let error = GroupError {
        group: 2,
        code: Code::Copies(3),
    };
    assert_eq!(coded(2), Err(EncodeError::Group(error)));
}
