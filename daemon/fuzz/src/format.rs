//! What links, invites, keys, manifests and stripes are made of.

use std::ops::Range;

use bytes::Bytes;
use mutualstore_daemon::datadir::keys::Keys;
use mutualstore_daemon::datadir::network::{INVITE_PREFIX, Invite};
use mutualstore_daemon::format::crypt::{
    FileCipher, Kind, SEGMENT_PLAINTEXT, owner_key, sealed_len, sign_deletion,
};
use mutualstore_daemon::format::link::{Link, PREFIX};
use mutualstore_daemon::format::locator::Locator;
use mutualstore_daemon::format::manifest::parts::Joined;
use mutualstore_daemon::format::manifest::{FANOUT, Geometry, IndexBlock, IndexPlace, Manifest};
use mutualstore_daemon::format::tombstone::Tombstone;
use mutualstore_erasure::{
    Code, Header, MAX_HEADER_LEN, MAX_SHARD_LEN, Policy, Shard, StripeId, VerifiedShard, decode, encode,
    reconstruct,
};
use sha2::{Digest, Sha256};

/// The header of a stripe: what decodes is the canonical form, and within bounds.
pub fn stripe_header(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else {
        return;
    };
    assert_eq!(header.encode(), bytes);
    assert!(bytes.len() <= MAX_HEADER_LEN);
    assert!((1..=MAX_SHARD_LEN).contains(&header.shard_len()));
    let n = header.code().n();
    assert!((0..n).all(|index| header.hash(index).is_some()));
    assert!(header.hash(n).is_none());
    assert_eq!(header.id().to_string().parse::<StripeId>(), Ok(header.id()));
    assert!(header.code().check().is_ok() && header.policy().check(header.code()).is_ok());
}

/// A stripe of any code, policy and block, whose shards pass for nothing else: code 3 ‖ policy 1 ‖ seed 1 ‖
/// block. The seed says which shards are at hand and which byte of one is changed.
pub fn shard(bytes: &[u8]) {
    let Some((&[number, k, m, policy, seed], block)) = bytes.split_first_chunk() else {
        return;
    };
    let (Ok(code), Ok(policy)) = (Code::from_wire([number, k, m]), Policy::from_wire(policy)) else {
        return;
    };
    let Ok(shards) = encode(code, policy, [0; 32], [seed; 32], Bytes::copy_from_slice(block)) else {
        return;
    };
    let turn = usize::from(seed) % shards.len();
    let (begin, end) = shards.split_at(turn);
    let turned = [end, begin].concat();
    let at_hand = turned.get(..usize::from(code.k())).unwrap_or_default();
    assert_eq!(decode(at_hand).expect("any k shards decode").concat(), block);
    let all: Vec<u8> = (0..code.n()).collect();
    assert_eq!(reconstruct(at_hand, &all).as_ref(), Ok(&shards));
    at_hand
        .first()
        .cloned()
        .into_iter()
        .for_each(|shard| corrupted(shard, seed));
}

/// A shard with one bit or its index changed is not verified.
fn corrupted(shard: VerifiedShard, seed: u8) {
    let (header, index, payload) = shard.into_parts();
    let mut changed = payload.to_vec();
    let at = usize::from(seed) % changed.len();
    changed
        .iter_mut()
        .skip(at)
        .take(1)
        .for_each(|byte| *byte ^= 1 << (seed % 8));
    let verify = |header, index, payload| {
        let shard = Shard {
            header,
            index,
            payload,
        };
        shard.verify()
    };
    assert!(verify(header.clone(), index, changed.into()).is_err());
    assert!(verify(header.clone(), index, payload.slice(1..)).is_err());
    assert!(verify(header.clone(), header.code().n(), payload.clone()).is_err());
    assert!(verify(header, index, payload).is_ok());
}

/// Base58 of the bytes and the checksum behind them.
fn sealed(prefix: &str, domain: &[u8], body: &[u8]) -> String {
    let hash = Sha256::new().chain_update(domain).chain_update(body).finalize();
    let checksum = hash.first_chunk::<4>().expect("a hash has 32 bytes");
    prefix.to_owned() + &bs58::encode([body, checksum].concat()).into_string()
}

/// A link, as text and as the bytes in one: each has one text.
pub fn link(bytes: &[u8]) {
    let check = |text: &str| {
        if let Ok(link) = text.parse::<Link>() {
            assert_eq!(link.to_string(), text.trim());
        }
    };
    check(&String::from_utf8_lossy(bytes));
    check(&sealed(PREFIX, b"mutualstore/link/1", bytes));
}

/// An invite, as text and as the bytes in one: each has one text.
pub fn invite(bytes: &[u8]) {
    let check = |text: &str| {
        if let Ok(invite) = text.parse::<Invite>() {
            assert_eq!(invite.to_string(), text.trim());
        }
    };
    check(&String::from_utf8_lossy(bytes));
    check(&sealed(
        &format!("{INVITE_PREFIX}1"),
        b"mutualstore/invite/1",
        bytes,
    ));
}

/// The text of `key export`, as it is and with its checksum put right.
pub fn key_file(bytes: &[u8]) {
    let check = |text: &[u8]| {
        if let Ok(keys) = Keys::from_text(text) {
            let again = keys.to_text();
            assert!(Keys::from_text(again.as_bytes()).is_ok_and(|same| same == keys));
            let text = String::from_utf8_lossy(text);
            assert!(again.lines().eq(text.lines()));
        }
    };
    check(bytes);
    let hash = Sha256::digest(bytes);
    let checksum = hash.first_chunk::<4>().expect("a hash has 32 bytes");
    check(&[bytes, format!("check {}\n", hex::encode(checksum)).as_bytes()].concat());
}

/// The root of a manifest: one form, and stripes that make up the file, or parts that do.
pub fn manifest(bytes: &[u8]) {
    if let Ok(joined) = Joined::parse(bytes) {
        assert_eq!(joined.encode().expect("what was parsed is valid"), bytes);
        assert_eq!(joined.list.clone().split(), Ok(joined.list));
    }
    let Ok(manifest) = Manifest::parse(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert_eq!(manifest.encode().expect("what was parsed is valid"), bytes);
    let geometry = manifest.geometry();
    let blocks = geometry.blocks();
    for block in [0, blocks / 2, blocks.saturating_sub(1)] {
        if block < blocks {
            check_block(&geometry, block, manifest.size);
        }
    }
    if blocks > 0 {
        assert_eq!(geometry.start_of(blocks), manifest.size);
    }
}

fn check_block(geometry: &Geometry, block: u64, size: u64) {
    let (start, length) = (geometry.start_of(block), geometry.plaintext_of(block));
    assert!(length > 0 && start + length <= size);
    let found: Vec<(u64, Range<u64>)> = geometry.blocks_of(start..start + length).collect();
    assert_eq!(found, [(block, 0..length)]);
    let code = geometry.code_of(block);
    let shard_len = geometry.ciphertext_of(block).div_ceil(u64::from(code.k()));
    assert!(shard_len <= MAX_SHARD_LEN as u64);
    for range in [0..length, length - 1..length, length / 2..length] {
        let wanted = range.end - range.start;
        let window = geometry.window(block, range);
        let given: usize = window.pieces.iter().map(|piece| piece.range.len()).sum();
        assert_eq!((window.plaintext.end - window.plaintext.start) as u64, wanted);
        assert!(sealed_len(window.plaintext.end as u64) <= given as u64);
        let within = |end: usize| end as u64 <= shard_len;
        assert!(
            window
                .pieces
                .iter()
                .all(|piece| piece.shard < code.k() && within(piece.range.end))
        );
    }
}

/// A big-endian number of at most 8 bytes.
fn number_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// An index block: level u8 ‖ number u64 ‖ stripes of the file u64 ‖ its plaintext.
pub fn index_block(bytes: &[u8]) {
    let Some((&[level, ref place @ ..], plaintext)) = bytes.split_first_chunk::<17>() else {
        return;
    };
    let (number, blocks) = place.split_at(8);
    let place = IndexPlace {
        level,
        number: number_of(number),
        slot: 0,
    };
    if let Ok(block) = IndexBlock::parse(place, number_of(blocks), plaintext) {
        assert_eq!(block.encode(), plaintext);
        assert!(block.ids.len() <= FANOUT);
    }
}

/// The header whose length stands before it, and what follows.
fn behind_header(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (header, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((Header::decode(header).ok()?, rest))
}

/// A locator: length of the header u16 ‖ header ‖ holders.
pub fn locator(bytes: &[u8]) {
    let Some((header, holders)) = behind_header(bytes) else {
        return;
    };
    let n = header.code().n();
    if let Some(locator) = Locator::parse(header, holders) {
        assert_eq!(locator.payload(), holders);
        assert!(locator.holders().iter().all(|(index, _)| *index < n));
    }
}

/// A tombstone: account 32 ‖ key of the file 32 ‖ bit u16 ‖ block. The owner's signature is taken; with the
/// bit changed, cut or from another account it is not.
pub fn tombstone(bytes: &[u8]) {
    let Some((account, rest)) = bytes.split_first_chunk::<32>() else {
        return;
    };
    let Some((key, rest)) = rest.split_first_chunk::<32>() else {
        return;
    };
    let Some((&bit, block)) = rest.split_first_chunk() else {
        return;
    };
    let owner = owner_key(account, key);
    let block = Bytes::copy_from_slice(block);
    let Ok(shards) = encode(Code::Copies(2), Policy::Successors, [0; 32], owner, block) else {
        return;
    };
    let Some(header) = shards.first().map(|shard| shard.header().clone()) else {
        return;
    };
    let stripe = header.id();
    let mut signature = sign_deletion(account, key, stripe.as_bytes());
    let tombstone = Tombstone::verify(header.clone(), &signature).expect("the owner signed it");
    assert_eq!(tombstone.stripe().as_bytes(), stripe.as_bytes());
    let mut other = *account;
    other.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    assert!(Tombstone::verify(header.clone(), &sign_deletion(&other, key, stripe.as_bytes())).is_none());
    assert!(Tombstone::verify(header.clone(), signature.split_at(63).0).is_none());
    let bit = usize::from(u16::from_be_bytes(bit) % 512);
    signature
        .iter_mut()
        .skip(bit / 8)
        .take(1)
        .for_each(|byte| *byte ^= 1 << (bit % 8));
    assert!(Tombstone::verify(header, &signature).is_none());
}

/// A sealed block: key 32 ‖ level u8 ‖ first segment u64 ‖ cut u32 ‖ bytes. The bytes are no block of that
/// key; sealed by it they open however they are cut, and not after one of them was changed.
pub fn sealed_block(bytes: &[u8]) {
    let Some((key, rest)) = bytes.split_first_chunk::<32>() else {
        return;
    };
    let Some((&[level, ref first @ ..], rest)) = rest.split_first_chunk::<9>() else {
        return;
    };
    let Some((&cut, content)) = rest.split_first_chunk() else {
        return;
    };
    let first = number_of(first);
    let cipher = FileCipher::new(key);
    let open = |chunks| {
        cipher
            .open_block(Kind::Manifest, level, first, chunks)
            .map(|chunks| chunks.concat())
    };
    assert!(
        open(vec![Bytes::copy_from_slice(content)]).is_ok_and(|plain| plain.is_empty()) == content.is_empty()
    );
    if content.len() > 2 * SEGMENT_PLAINTEXT {
        return;
    }
    let sealed = cipher.seal_bytes(Kind::Manifest, level, first, content);
    assert_eq!(sealed.len() as u64, sealed_len(content.len() as u64));
    let at = u32::from_be_bytes(cut) as usize % (sealed.len() + 1);
    let chunks = vec![sealed.slice(..at), sealed.slice(at..)];
    assert_eq!(open(chunks).expect("what was sealed opens"), content);
    let mut changed = sealed.to_vec();
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1;
        assert!(open(vec![changed.into()]).is_err());
    }
}
