use std::collections::HashMap;

use mutualstore_contract::reply::Scope;
use proptest::prelude::*;

use super::*;
use crate::format::crypt::{BlockBuffer, FileCipher, Kind};

const RS: Code = Code::ReedSolomon { data: 4, parity: 2 };

fn id(number: u64) -> StripeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    StripeId::from(bytes)
}

fn inline(content: &'static [u8]) -> Manifest {
    Manifest {
        size: content.len() as u64,
        created: 0x0102_0304_0506,
        code: RS,
        shard_size: 1 << 20,
        name: "a.txt".to_owned(),
        media_type: "text/plain".to_owned(),
        placement: Placement::default(),
        fragments: None,
        body: Body::Inline(Bytes::from_static(content)),
    }
}

fn list(blocks: u64) -> Manifest {
    let size = blocks * Geometry::new(0, RS, 1 << 20).block_plaintext();
    let ids = (0..tree::units(blocks, tree::depth(blocks))).map(id).collect();
    Manifest {
        size,
        body: Body::Stripes {
            depth: tree::depth(blocks),
            ids,
        },
        ..inline(b"")
    }
}

fn anchored() -> Placement {
    Placement {
        policy: Policy::Copysets,
        anchor: [0xAB; 32],
    }
}

/// A file of `count` fragments of 100 bytes.
fn in_fragments(count: u32) -> Manifest {
    Manifest {
        size: 100 * u64::from(count),
        fragments: NonZeroU32::new(count),
        ..list(u64::from(count))
    }
}

/// A manifest of each form.
fn forms() -> Vec<Manifest> {
    let placed = |manifest: Manifest| Manifest {
        placement: anchored(),
        ..manifest
    };
    vec![
        inline(b"hello"),
        list(3),
        in_fragments(3),
        placed(inline(b"hello")),
        placed(list(3)),
        placed(in_fragments(3)),
    ]
}

#[test]
fn golden_inline() {
    let bytes = "01 0000000000000002 0000010203040506 020402 00100000 0005612e747874 \
                 000a746578742f706c61696e 00 6869";
    let manifest = inline(b"hi");
    assert_eq!(hex::encode(manifest.encode().unwrap()), bytes.replace(' ', ""));
    assert_eq!(Manifest::parse(&manifest.encode().unwrap()), Ok(manifest));
}

#[test]
fn golden_list() {
    let bytes = "01 00000000003ffc01 0000000000000000 000102 00010000 0000 0000 01 00 0041";
    let ids = (0..65).fold(String::new(), |ids, number| {
        ids + &hex::encode(id(number).as_bytes())
    });
    let manifest = Manifest {
        size: 64 * 65520 + 1,
        created: 0,
        code: Code::Copies(3),
        shard_size: 64 << 10,
        name: String::new(),
        media_type: String::new(),
        placement: Placement::default(),
        fragments: None,
        body: Body::Stripes {
            depth: 0,
            ids: (0..65).map(id).collect(),
        },
    };
    assert_eq!(
        hex::encode(manifest.encode().unwrap()),
        bytes.replace(' ', "") + &ids
    );
    let index = IndexBlock {
        level: 1,
        number: 0,
        ids: vec![id(5)],
    };
    assert_eq!(hex::encode(index.encode()), format!("010001{:016x}{:048x}", 5, 0));
}

#[test]
fn golden_placed() {
    let head =
        "01 0000000000000002 0000010203040506 020402 00100000 0005612e747874 000a746578742f706c61696e 02 02";
    let bytes = head.replace(' ', "") + &"ab".repeat(32) + "00000000" + "006869";
    let manifest = Manifest {
        placement: anchored(),
        ..inline(b"hi")
    };
    assert_eq!(hex::encode(manifest.encode().unwrap()), bytes);
    let head =
        "01 00000000000000c8 0000010203040506 020402 00100000 0005612e747874 000a746578742f706c61696e 02 00";
    let ids = hex::encode(id(0).as_bytes()) + &hex::encode(id(1).as_bytes());
    let bytes = head.replace(' ', "") + &"00".repeat(32) + "00000002" + "01000002" + &ids;
    assert_eq!(hex::encode(in_fragments(2).encode().unwrap()), bytes);
}

#[test]
fn a_placement_has_one_form() {
    let plain = inline(b"hi").encode().unwrap();
    let (head, content) = plain.split_at(plain.len() - 3);
    let parse = |policy: u8, anchor: u8, fragments: u8, content: &[u8]| {
        let placed = [&[2, policy], &[anchor; 32][..], &[0, 0, 0, fragments]].concat();
        Manifest::parse(&[head, &placed, content].concat().into())
    };
    assert_eq!(
        parse(0, 0, 0, content),
        Err(ManifestError::Placement),
        "nothing to say"
    );
    let deeper = [&[2, 1], &[0; 32][..], &[0; 4], content].concat();
    assert_eq!(parse(1, 0, 0, &deeper), Err(ManifestError::Kind(2)), "said twice");
    for policy in [0, 1] {
        assert_eq!(
            parse(policy, 1, 0, content),
            Err(ManifestError::Placement),
            "an anchor without groups"
        );
    }
    assert_eq!(parse(4, 0, 0, content), Err(ManifestError::Policy(PolicyError)));
    let group = GroupError { group: 5, code: RS };
    assert_eq!(parse(0x85, 0, 0, content), Err(ManifestError::Group(group)));
    assert_eq!(
        parse(1, 0, 1, content),
        Err(ManifestError::Content { size: 2 }),
        "fragments are not inline"
    );
    for (policy, anchor) in [(1, 0), (2, 0), (2, 9), (3, 9), (0x86, 9)] {
        let read = parse(policy, anchor, 0, content).unwrap();
        assert_eq!(read.placement.policy.to_wire(), policy);
        assert_eq!(read.placement.anchor, [anchor; 32]);
    }
}

#[test]
fn an_empty_file_is_inline() {
    let manifest = inline(b"");
    assert_eq!(Manifest::parse(&manifest.encode().unwrap()), Ok(manifest.clone()));
    let list = Manifest {
        body: Body::Stripes {
            depth: 0,
            ids: vec![],
        },
        ..manifest
    };
    assert_eq!(list.encode(), Err(ManifestError::Content { size: 0 }));
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    for manifest in forms() {
        let root = manifest.encode().unwrap();
        for end in 0..root.len() {
            assert!(Manifest::parse(&root.slice(..end)).is_err(), "cut at {end}");
        }
        let longer = Bytes::from([&root[..], &[0]].concat());
        assert!(Manifest::parse(&longer).is_err());
    }
}

#[test]
fn every_flipped_byte_is_refused_or_another_manifest() {
    for manifest in forms() {
        let root = manifest.encode().unwrap();
        for at in 0..root.len() {
            let mut bad = root.to_vec();
            bad[at] ^= 1;
            let bad = Bytes::from(bad);
            if let Ok(other) = Manifest::parse(&bad) {
                assert_ne!(other, manifest, "byte {at}");
                assert_eq!(other.encode().unwrap(), bad, "one encoding each, byte {at}");
            }
        }
    }
}

#[test]
fn limits_are_named() {
    let fails = |manifest: Manifest| manifest.encode().unwrap_err();
    for shard_size in [0, 1, 65_535, 65_537, (1 << 20) + (64 << 10), u32::MAX] {
        assert_eq!(
            fails(Manifest {
                shard_size,
                ..inline(b"")
            }),
            ManifestError::ShardSize(shard_size.into())
        );
    }
    let name = "n".repeat(MAX_NAME + 1);
    assert!(matches!(
        fails(Manifest { name, ..inline(b"") }),
        ManifestError::TooLong { what: "name", .. }
    ));
    let media_type = "n".repeat(MAX_MEDIA_TYPE + 1);
    assert!(matches!(
        fails(Manifest {
            media_type,
            ..inline(b"")
        }),
        ManifestError::TooLong { .. }
    ));
    assert_eq!(
        fails(Manifest {
            size: 3,
            ..inline(b"hi")
        }),
        ManifestError::Content { size: 3 }
    );
    let large = Bytes::from(vec![0; 16_385]);
    let large = Manifest {
        size: 16_385,
        body: Body::Inline(large),
        ..inline(b"")
    };
    assert_eq!(fails(large), ManifestError::Content { size: 16_385 });
    let mut short = list(3);
    short.size += 1;
    assert_eq!(fails(short.clone()), ManifestError::Content { size: short.size });
    let deep = Manifest {
        body: Body::Stripes {
            depth: 1,
            ids: vec![id(0)],
        },
        ..list(3)
    };
    assert_eq!(
        fails(deep.clone()),
        ManifestError::Content { size: deep.size },
        "not the least depth"
    );
}

#[test]
fn foreign_roots_are_refused_by_name() {
    let good = inline(b"hi").encode().unwrap();
    let parse = |at: usize, byte: u8| {
        let mut bad = good.to_vec();
        bad[at] = byte;
        Manifest::parse(&bad.into()).unwrap_err()
    };
    assert_eq!(parse(0, 2), ManifestError::Version(2));
    assert!(matches!(parse(17, 9), ManifestError::Code(_)));
    assert!(matches!(parse(24, 0xFF), ManifestError::TooLong { .. }));
    assert_eq!(parse(26, 0xFF), ManifestError::Text);
    assert_eq!(parse(43, 7), ManifestError::Kind(7));
}

#[test]
fn debug_shows_neither_name_nor_content() {
    let shown = format!("{:?}", inline(b"secret"));
    assert!(!shown.contains("a.txt") && !shown.contains("secret"));
}

#[test]
fn roots_and_index_blocks_stay_small() {
    let full = IndexBlock {
        level: 1,
        number: 0,
        ids: (0..FANOUT as u64).map(id).collect(),
    };
    assert!(
        full.encode().len() <= crate::format::crypt::SEGMENT_PLAINTEXT,
        "one segment"
    );
    let name = "n".repeat(MAX_NAME);
    let media_type = "n".repeat(MAX_MEDIA_TYPE);
    let root = Manifest {
        name,
        media_type,
        ..list(FANOUT as u64)
    }
    .encode()
    .unwrap();
    assert!(root.len() < 128 << 10);
}

/// Index blocks by level and number, as a reader finds them.
struct Stored {
    blocks: HashMap<(u8, u64), Bytes>,
    next: u64,
}

impl Stored {
    fn settle(&mut self, builder: &mut ManifestBuilder, block: Option<IndexBlock>) {
        if let Some(block) = block {
            let held = self.blocks.insert((block.level, block.number), block.encode());
            assert_eq!(held, None, "a place, and so a nonce, is used once");
            self.next += 1;
            let more = builder.stored(block.level, id(1 << 40 | self.next));
            self.settle(builder, more);
        }
    }
}

fn build(blocks: u64) -> (Body, Stored) {
    let mut builder = ManifestBuilder::new();
    let mut stored = Stored {
        blocks: HashMap::new(),
        next: 0,
    };
    for number in 0..blocks {
        let index = builder.push(id(number));
        stored.settle(&mut builder, index);
    }
    loop {
        match builder.finish() {
            Step::Store(block) => stored.settle(&mut builder, Some(block)),
            Step::Done(body) => return (body, stored),
        }
    }
}

#[test]
fn the_tree_leads_to_every_stripe() {
    const F: u64 = FANOUT as u64;
    for blocks in [1, 2, F - 1, F, F + 1, 2 * F, 2 * F + 1, F * F, F * F + 1] {
        let (body, stored) = build(blocks);
        let manifest = Manifest { body, ..list(blocks) };
        manifest.encode().unwrap();
        let Body::Stripes { depth, ids } = &manifest.body else {
            panic!("a list")
        };
        let probes = [
            0,
            1,
            F - 1,
            F,
            F + 1,
            blocks / 2,
            blocks.saturating_sub(2),
            blocks - 1,
        ];
        for block in probes.into_iter().filter(|block| *block < blocks) {
            let (slot, places) = tree::path(*depth, block);
            assert_eq!(places.len(), usize::from(*depth));
            let mut found = ids[slot];
            for place in places {
                let bytes = &stored.blocks[&(place.level, place.number)];
                let index = IndexBlock::parse(place, blocks, bytes).unwrap();
                found = index.ids[place.slot];
            }
            assert_eq!(found, id(block), "{block} of {blocks}");
        }
    }
}

#[test]
fn index_blocks_of_another_size_or_place_are_refused() {
    let place = IndexPlace {
        level: 1,
        number: 1,
        slot: 0,
    };
    let blocks = FANOUT as u64 + 2;
    let good = IndexBlock {
        level: 1,
        number: 1,
        ids: vec![id(1), id(2)],
    };
    let bytes = good.encode();
    assert_eq!(IndexBlock::parse(place, blocks, &bytes), Ok(good));
    let misfit = ManifestError::Index { level: 1, number: 1 };
    assert_eq!(IndexBlock::parse(place, blocks + 1, &bytes), Err(misfit));
    assert!(IndexBlock::parse(IndexPlace { number: 0, ..place }, blocks, &bytes).is_err());
    assert!(
        IndexBlock::parse(
            IndexPlace {
                number: u64::MAX,
                ..place
            },
            blocks,
            &bytes
        )
        .is_err()
    );
    for end in 0..bytes.len() {
        assert!(
            IndexBlock::parse(place, blocks, &bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(IndexBlock::parse(place, blocks, &[&bytes[..], &[0]].concat()).is_err());
    assert!(IndexBlock::parse(place, blocks, &[&[2], &bytes[1..]].concat()).is_err());
}

#[test]
fn the_largest_file_has_a_shallow_tree() {
    let geometry = Geometry::new(u64::MAX, Code::Copies(1), 64 << 10);
    assert!(tree::depth(geometry.blocks()) <= 5);
}

#[test]
fn full_blocks_put_segments_into_shards_whole() {
    let geometry = Geometry::new(u64::MAX, RS, 1 << 20);
    assert_eq!(geometry.block_plaintext(), 64 * 65_520);
    assert_eq!(geometry.ciphertext_of(0), 4 << 20);
    assert_eq!(geometry.first_segment(3), 192);
    let window = geometry.window(3, 20 * 65_520 + 7..21 * 65_520);
    let piece = Piece {
        shard: 1,
        range: 4 * 65_536..5 * 65_536,
    };
    assert_eq!(
        window,
        Window {
            first_segment: 212,
            pieces: vec![piece],
            plaintext: 7..65_520
        }
    );
    let last = Geometry::new(geometry.block_plaintext() + 16_384, RS, 1 << 20);
    assert_eq!(
        (last.blocks(), last.code_of(0), last.code_of(1)),
        (2, RS, Code::Copies(3))
    );
    assert_eq!(Geometry::new(16_385, RS, 1 << 20).code_of(0), RS);
}

#[test]
fn a_manifest_in_impossible_fragments_is_refused() {
    let mut manifest = in_fragments(4);
    manifest.size = 3;
    assert!(matches!(manifest.encode(), Err(ManifestError::Fragments(_))));
    let mut manifest = in_fragments(4);
    manifest.fragments = NonZeroU32::new(5);
    assert_eq!(manifest.encode(), Err(ManifestError::Content { size: 400 }));
}

fn codes() -> impl Strategy<Value = Code> {
    prop_oneof![
        Just(Code::Copies(2)),
        Just(Code::Xor(3)),
        Just(RS),
        Just(Code::ReedSolomon { data: 8, parity: 4 })
    ]
}

fn placements() -> impl Strategy<Value = Placement> {
    let policies = [
        "successors",
        "random",
        "copysets",
        "buddies",
        "buddies:6",
        "buddies:127",
    ];
    let policy = prop::sample::select(policies.map(|policy| policy.parse::<Policy>().unwrap()).to_vec());
    (
        policy,
        prop_oneof![Just(Scope::File), Just(Scope::Fragment)],
        any::<[u8; 32]>(),
    )
        .prop_map(|(policy, scope, owner)| Placement::new(policy, scope, &owner))
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        if let Ok(manifest) = Manifest::parse(&bytes) {
            prop_assert_eq!(manifest.encode(), Ok(bytes));
        }
    }

    #[test]
    fn manifests_round_trip(
        created: u64, name in "\\PC{0,60}", media_type in "[a-z/]{0,20}", blocks in 0u32..3000,
        cut in 0u64..65_520, placement in placements(), is_cut: bool,
    ) {
        let base = match blocks {
            0 => inline(b"content"),
            _ if is_cut => in_fragments(blocks),
            _ => list(blocks.into()),
        };
        let size = if blocks == 0 || is_cut { base.size } else { base.size - cut };
        let manifest = Manifest { size, created, name, media_type, placement, ..base };
        prop_assert_eq!(Manifest::parse(&manifest.encode().unwrap()), Ok(manifest));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Stores a file as a writer does and reads a range of it from the data shards alone.
    #[test]
    fn ranges_come_back_from_their_pieces(
        code in codes(), size in 1u64..1_200_000, fragments in prop_oneof![Just(0), 1u32..200],
        from in 0u64..1_300_000, length in 0u64..400_000,
    ) {
        let geometry = Geometry::new(size, code, 64 << 10).cut(NonZeroU32::new(fragments));
        prop_assume!(geometry.check().is_ok());
        let file: Vec<u8> = (0..size).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let cipher = FileCipher::new(&[1; 32]);
        let mut read = Vec::new();
        for (block, part) in geometry.blocks_of(from..from + length) {
            let start = usize::try_from(geometry.start_of(block)).unwrap();
            let len = usize::try_from(geometry.plaintext_of(block)).unwrap();
            let mut buffer = BlockBuffer::new(len);
            buffer.push(&file[start..start + len]);
            let sealed = cipher.seal_block(Kind::Data, 0, geometry.first_segment(block), buffer);
            prop_assert_eq!(sealed.len() as u64, geometry.ciphertext_of(block));
            let k = usize::from(geometry.code_of(block).k());
            let shards = sealed.chunks(sealed.len().div_ceil(k)).map(Bytes::copy_from_slice);
            let shards: Vec<Bytes> = shards.collect();
            let window = geometry.window(block, part);
            let piece = |p: &Piece| shards[usize::from(p.shard)].slice(p.range.clone());
            let chunks = window.pieces.iter().map(piece).collect();
            let opened = cipher.open_block(Kind::Data, 0, window.first_segment, chunks).unwrap().concat();
            let most = window.plaintext.len() + 2 * 65_520;
            prop_assert!(opened.len() < most, "no more than the segments needed");
            read.extend_from_slice(&opened[window.plaintext]);
        }
        let clip = |at: u64| usize::try_from(at.min(size)).unwrap();
        prop_assert_eq!(&read, &file[clip(from)..clip(from + length)]);
    }
}
