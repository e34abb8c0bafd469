use proptest::prelude::*;

use super::*;
use crate::shard::sha256;

/// A header of a block of 5 bytes under `rs:2+2`, each shard's hash a row of one digit.
fn header() -> Header {
    let code = Code::ReedSolomon { data: 2, parity: 2 };
    Header::new(
        code,
        Policy::Copysets,
        [0xaa; 32],
        5,
        [0xbb; 32],
        &[[1; 32], [2; 32], [3; 32], [4; 32]],
    )
}

#[test]
fn layout() {
    let golden = [
        "0100",   // version, kind
        "020202", // rs, k, m
        "02",     // copysets
        &"aa".repeat(32),
        "00000005",
        &"bb".repeat(32),
        &"01".repeat(32),
        &"02".repeat(32),
        &"03".repeat(32),
        &"04".repeat(32),
    ]
    .concat();
    let bytes = header().encode();
    assert_eq!(format!("{bytes:x}"), golden);
    let id = sha256(&[b"mutualstore/stripe/1", bytes.as_ref()].concat());
    assert_eq!(header().id().as_bytes(), &id);
}

#[test]
fn fields() {
    let header = header();
    assert_eq!(header.code().to_string(), "rs:2+2");
    assert_eq!(header.policy(), Policy::Copysets);
    assert_eq!(header.anchor(), &[0xaa; 32]);
    assert_eq!(header.owner(), &[0xbb; 32]);
    assert_eq!((header.block_len(), header.shard_len()), (5, 3));
    assert_eq!(header.hash(0), Some(&[1; 32]));
    assert_eq!(header.hash(3), Some(&[4; 32]));
    assert_eq!(header.hash(4), None);
    assert_eq!(Header::decode(&header.encode()), Ok(header));
}

#[test]
fn refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = header().encode().to_vec();
        bytes[at] = byte;
        Header::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 2), HeaderError::Version(2));
    assert_eq!(with(1, 1), HeaderError::ReservedKind(1));
    assert_eq!(with(2, 3), HeaderError::Code(CodeError::Unknown(3)));
    assert_eq!(
        with(3, 0),
        HeaderError::Code("rs:0+2".parse::<Code>().unwrap_err())
    );
    assert_eq!(
        with(3, 63),
        HeaderError::Code("rs:63+2".parse::<Code>().unwrap_err())
    );
    assert_eq!(
        with(4, 3),
        HeaderError::Length {
            found: 202,
            expected: 234
        }
    );
    assert_eq!(with(5, 4), HeaderError::Policy(PolicyError));
    assert_eq!(with(41, 0), HeaderError::EmptyBlock);
    let code = header().code();
    assert_eq!(
        with(38, 1),
        HeaderError::ShardsTooLong {
            block_len: 0x0100_0005,
            code
        }
    );
}

#[test]
fn block_length_bound() {
    let with_len = |len: u32| {
        let mut bytes = header().encode().to_vec();
        bytes[38..42].copy_from_slice(&len.to_be_bytes());
        Header::decode(&bytes)
    };
    assert_eq!(with_len(2 * 1024 * 1024).unwrap().shard_len(), MAX_SHARD_LEN);
    assert!(matches!(
        with_len(2 * 1024 * 1024 + 1),
        Err(HeaderError::ShardsTooLong { .. })
    ));
    assert!(matches!(
        with_len(u32::MAX),
        Err(HeaderError::ShardsTooLong { .. })
    ));
    assert_eq!(with_len(1).unwrap().shard_len(), 1);
}

#[test]
fn only_the_whole_header_is_one() {
    let bytes = header().encode();
    for len in 0..bytes.len() {
        let cut = Header::decode(&bytes[..len]);
        assert!(
            matches!(cut, Err(HeaderError::Length { found, .. }) if found == len),
            "{len}: {cut:?}"
        );
    }
    let longer = [bytes.as_ref(), &[0]].concat();
    assert_eq!(
        Header::decode(&longer),
        Err(HeaderError::Length {
            found: 203,
            expected: 202
        })
    );
}

#[test]
fn longest() {
    let header = Header::new(
        Code::Copies(64),
        Policy::Successors,
        [0; 32],
        1,
        [0; 32],
        &[[0; 32]; 64],
    );
    assert_eq!(header.encode().len(), MAX_HEADER_LEN);
}

#[test]
fn groups_hold_the_stripe() {
    let with = |policy: u8| {
        let mut bytes = header().encode().to_vec();
        bytes[5] = policy;
        Header::decode(&bytes)
    };
    let group = |peers: u8| Policy::Buddies {
        group: Some(peers.try_into().unwrap()),
    };
    assert_eq!(with(3).unwrap().policy(), Policy::Buddies { group: None });
    assert_eq!(with(0x84).unwrap().policy(), group(4));
    assert_eq!(with(0xff).unwrap().policy(), group(127));
    let code = header().code();
    assert_eq!(with(0x83), Err(HeaderError::Group(GroupError { group: 3, code })));
    assert_eq!(with(0x80), Err(HeaderError::Policy(PolicyError)));
}

#[test]
fn stripe_id_text() {
    let text = "0123456789abcdef".repeat(4);
    let id: StripeId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    assert_eq!(format!("{id:?}"), "01234567");
    assert_eq!(text.to_uppercase().parse(), Ok(id));
    for text in [
        &text[1..],
        &format!("{text}0"),
        &format!("{text}00"),
        &text.replace('f', "g"),
        &"é".repeat(32),
        "",
    ] {
        assert_eq!(text.parse::<StripeId>(), Err(StripeIdError), "{text}");
    }
}

proptest! {
    /// Nothing panics, and what is read is what would be written.
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    /// The same for bytes that get past the first checks.
    #[test]
    fn nearly_headers(
        code in 0u8..4,
        k in 0u8..6,
        m in 0u8..6,
        policy in prop_oneof![0u8..6, 0x7f..0x8cu8, Just(0xff)],
        len in prop::sample::select(vec![0, 1, 5, 1 << 20, 1 << 22, u32::MAX]),
        hashes in 0usize..12,
        extra in prop::sample::select(vec![0, 0, 0, 1, 31]),
    ) {
        let mut bytes = vec![1, 0, code, k, m, policy];
        bytes.extend([9; 32]);
        bytes.extend(len.to_be_bytes());
        bytes.resize(FIXED_LEN + 32 * hashes + extra, 7);
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
            prop_assert_eq!(usize::from(header.code().n()), hashes);
            prop_assert_eq!(extra, 0);
            prop_assert!((1..=MAX_SHARD_LEN).contains(&header.shard_len()));
            let fields = [header.code().to_wire().as_slice(), &[header.policy().to_wire()]].concat();
            prop_assert_eq!(fields, [code, k, m, policy]);
        }
    }

    /// A flipped bit gives no header or the header of another stripe.
    #[test]
    fn flipped_bit(at in 0usize..202, bit in 0u8..8) {
        let mut bytes = header().encode().to_vec();
        bytes[at] ^= 1 << bit;
        if let Ok(other) = Header::decode(&bytes) {
            prop_assert_ne!(other.id(), header().id());
            prop_assert_ne!(other, header());
        }
    }
}
