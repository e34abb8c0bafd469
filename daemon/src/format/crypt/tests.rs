use proptest::prelude::*;

use super::*;

fn cipher() -> FileCipher {
    FileCipher::new(&[7; 32])
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

#[test]
fn golden_segment() {
    let sealed = cipher().seal_bytes(Kind::Manifest, 2, 5, b"mutualstore");
    assert_eq!(
        hex::encode(&sealed),
        "51e36ee7c3ab533279c6bdd8dc81b40da62e471f01ced609f22968"
    );
}

#[test]
fn golden_owner() {
    assert_eq!(
        hex::encode(owner_key(&[1; 32], &[2; 32])),
        "f00958f030b0154b22ef15c7fc435571dd458da25f32e21060f087c89fa8aec5"
    );
    assert_ne!(owner_key(&[1; 32], &[3; 32]), owner_key(&[1; 32], &[2; 32]));
    assert_ne!(owner_key(&[3; 32], &[2; 32]), owner_key(&[1; 32], &[2; 32]));
}

#[test]
fn lengths_around_segment_boundaries() {
    for len in [
        0,
        1,
        SEGMENT_PLAINTEXT - 1,
        SEGMENT_PLAINTEXT,
        SEGMENT_PLAINTEXT + 1,
        3 * SEGMENT_PLAINTEXT,
    ] {
        let sealed = cipher().seal_bytes(Kind::Data, 0, 9, &pattern(len));
        assert_eq!(sealed.len() as u64, sealed_len(len as u64), "{len}");
        let opened = cipher().open_block(Kind::Data, 0, 9, vec![sealed]).unwrap();
        assert_eq!(opened.concat(), pattern(len), "{len}");
    }
    assert_eq!(sealed_len(16 * SEGMENT_PLAINTEXT as u64), 1 << 20);
}

#[test]
fn a_segment_opens_only_in_its_place_under_its_key() {
    let sealed = cipher().seal_bytes(Kind::Data, 0, 9, b"here");
    let at = |cipher: &FileCipher, kind, level, segment| {
        cipher
            .open_block(kind, level, segment, vec![sealed.clone()])
            .map(|plain| plain.concat())
    };
    assert_eq!(at(&cipher(), Kind::Data, 0, 9), Ok(b"here".to_vec()));
    assert_eq!(
        at(&cipher(), Kind::Data, 0, 8),
        Err(OpenError::Segment { segment: 8 })
    );
    assert_eq!(
        at(&cipher(), Kind::Data, 1, 9),
        Err(OpenError::Segment { segment: 9 })
    );
    assert_eq!(
        at(&cipher(), Kind::Manifest, 0, 9),
        Err(OpenError::Segment { segment: 9 })
    );
    assert_eq!(
        at(&FileCipher::new(&[8; 32]), Kind::Data, 0, 9),
        Err(OpenError::Segment { segment: 9 })
    );
}

#[test]
fn segments_cannot_change_places() {
    let sealed = cipher().seal_bytes(Kind::Data, 0, 0, &pattern(2 * SEGMENT_PLAINTEXT));
    let swapped = vec![sealed.slice(SEGMENT..), sealed.slice(..SEGMENT)];
    assert_eq!(
        cipher().open_block(Kind::Data, 0, 0, swapped),
        Err(OpenError::Segment { segment: 0 })
    );
    let repeated = vec![sealed.slice(..SEGMENT), sealed.slice(..SEGMENT)];
    assert_eq!(
        cipher().open_block(Kind::Data, 0, 0, repeated),
        Err(OpenError::Segment { segment: 1 })
    );
}

#[test]
fn every_flipped_byte_and_every_truncation_is_refused() {
    let sealed = cipher().seal_bytes(Kind::Data, 0, 0, &pattern(40));
    for at in 0..sealed.len() {
        let mut bad = sealed.to_vec();
        bad[at] ^= 1;
        let opened = cipher().open_block(Kind::Data, 0, 0, vec![bad.into()]);
        assert_eq!(opened, Err(OpenError::Segment { segment: 0 }), "byte {at}");
    }
    for end in 1..sealed.len() {
        let opened = cipher().open_block(Kind::Data, 0, 0, vec![sealed.slice(..end)]);
        let expected = if end <= TAG {
            OpenError::Length { length: end }
        } else {
            OpenError::Segment { segment: 0 }
        };
        assert_eq!(opened, Err(expected), "cut at {end}");
    }
}

#[test]
fn unshared_chunks_are_opened_where_they_lie() {
    let sealed = cipher().seal_bytes(Kind::Data, 0, 0, &pattern(SEGMENT_PLAINTEXT + 100));
    let place = sealed.as_ptr();
    let opened = cipher().open_block(Kind::Data, 0, 0, vec![sealed]).unwrap();
    assert_eq!(opened[0].as_ptr(), place);

    let sealed = cipher().seal_bytes(Kind::Data, 0, 0, &pattern(100));
    let keep = sealed.clone();
    cipher().open_block(Kind::Data, 0, 0, vec![sealed]).unwrap();
    assert_eq!(
        keep,
        cipher().seal_bytes(Kind::Data, 0, 0, &pattern(100)),
        "a shared chunk stays as it was"
    );
}

#[test]
fn the_buffer_takes_its_limit_and_no_more() {
    let mut buffer = BlockBuffer::new(10);
    assert!(buffer.is_empty());
    assert_eq!(buffer.push(b"12345678"), 8);
    assert_eq!(buffer.small(), Some(&b"12345678"[..]));
    assert_eq!(buffer.push(b"90abc"), 2);
    assert!(buffer.is_full());
    assert_eq!(buffer.push(b"abc"), 0);
    assert_eq!(buffer.len(), 10);
    let mut large = BlockBuffer::new(SEGMENT_PLAINTEXT);
    large.push(&pattern(SEGMENT_PLAINTEXT));
    assert_eq!(large.small(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_cut_of_the_input_and_of_the_ciphertext(
        len in 0usize..200_000,
        pieces in prop::collection::vec(1usize..70_000, 1..6),
        cuts in prop::collection::vec(0usize..200_000, 0..5),
        first in prop::num::u64::ANY.prop_map(|n| n >> 8),
    ) {
        let plain = pattern(len);
        let mut buffer = BlockBuffer::new(len);
        let mut rest = plain.as_slice();
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let copied = buffer.push(&rest[..rest.len().min(*piece)]);
            rest = &rest[copied..];
        }
        let sealed = cipher().seal_block(Kind::Data, 0, first, buffer);
        prop_assert_eq!(&sealed, &cipher().seal_bytes(Kind::Data, 0, first, &plain));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(sealed.len())).collect();
        cuts.extend([0, sealed.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| sealed.slice(pair[0]..pair[1])).collect();
        let opened = cipher().open_block(Kind::Data, 0, first, chunks).unwrap();
        prop_assert_eq!(opened.concat(), plain);
    }

    #[test]
    fn ranges_of_segments_open_alone(segments in 1usize..5, skip in 0usize..4) {
        let skip = skip.min(segments - 1);
        let plain = pattern(segments * SEGMENT_PLAINTEXT - 7);
        let sealed = cipher().seal_bytes(Kind::Data, 0, 100, &plain);
        let part = sealed.slice(skip * SEGMENT..);
        let opened = cipher().open_block(Kind::Data, 0, 100 + skip as u64, vec![part]).unwrap();
        prop_assert_eq!(opened.concat(), &plain[skip * SEGMENT_PLAINTEXT..]);
    }
}

#[test]
fn only_the_owner_signs_a_deletion() {
    let (account, file, stripe) = ([1; 32], [2; 32], [3; 32]);
    let owner = owner_key(&account, &file);
    let signature = sign_deletion(&account, &file, &stripe);
    assert!(is_deletion(&owner, &stripe, &signature));
    assert!(!is_deletion(&owner, &[4; 32], &signature));
    assert!(!is_deletion(
        &owner,
        &stripe,
        &sign_deletion(&[9; 32], &file, &stripe)
    ));
    assert!(!is_deletion(&owner, &stripe, &signature[..63]));
    assert!(!is_deletion(&[0; 32], &stripe, &signature));
}
