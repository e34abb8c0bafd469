//! What the corpora hold: a few inputs for each target, made by the real encoders.

mod messages;
mod tree;

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mutualstore_daemon::datadir::files::{BookEntry, DataDir};
use mutualstore_daemon::datadir::journal::Journal;
use mutualstore_daemon::datadir::keys::Keys;
use mutualstore_daemon::datadir::network::{Invite, Network};
use mutualstore_daemon::format::crypt::public_key;
use mutualstore_daemon::format::link::Link;
use mutualstore_daemon::format::locator::write_holders;
use mutualstore_daemon::format::manifest::parts::{Joined, List, Making, Part};
use mutualstore_daemon::format::manifest::{Body, IndexBlock, Manifest};
use mutualstore_daemon::format::placement::Placement;
use mutualstore_daemon::wire::contact::encode_contact;
use mutualstore_daemon::wire::signed::{Signer, Verifier};
use mutualstore_dht::{Contact, Id, Peer, PeerState, SignContact, Signature};
use mutualstore_erasure::{Code, Header, Policy, StripeId, encode};
use mutualstore_net::frame;
use mutualstore_store::{Key, State, Store, StoreConfig};
use mutualstore_tree::codec::Fields;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::tempdir;
use zeroize::Zeroizing;

use crate::local::SALT;
use crate::wire::{NETWORK, SEED};
use messages::{
    dht_requests, dht_responses, hellos, own_requests, own_responses, shard_requests, shard_responses,
};

const ID: Id = Id::new([0xab; 32]);
const PEER: Peer = Peer::new([0xcd; 32]);
const TOKEN: [u8; 16] = [0xef; 16];

/// The inputs of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "peer_request" => own_requests()
            .iter()
            .chain(&dht_requests())
            .map(|m| m.encode().into())
            .collect(),
        "peer_response" => own_responses()
            .iter()
            .chain(&dht_responses())
            .map(|m| m.encode().into())
            .collect(),
        "shard_request" => shard_requests()
            .iter()
            .map(|message| message.encode().into())
            .collect(),
        "shard_response" => shard_responses()
            .iter()
            .map(|message| message.encode().into())
            .collect(),
        "contact" => vec![encode_contact(&contact()).into(), form()],
        "hello" => hellos().iter().map(|message| message.encode().into()).collect(),
        "frame" => frames(),
        "stripe_header" => headers().iter().map(|header| header.encode().into()).collect(),
        "shard" => codes()
            .iter()
            .map(|code| [&code.to_wire()[..], &[0, 5], &block(300)].concat())
            .collect(),
        "link" => vec![link().to_string().into(), [[1; 68].as_slice(), &[0; 4]].concat()],
        "invite" => vec![invite().to_string().into(), invite_body()],
        "manifest" => manifests()
            .iter()
            .map(|manifest| manifest.encode().unwrap().into())
            .chain([joined()])
            .collect(),
        "index_block" => index_blocks(),
        "locator" => locators(),
        "tombstone" => vec![block(32 + 32 + 2 + 40), block(32 + 32 + 2 + 1)],
        "sealed_block" => vec![block(32 + 13), block(32 + 13 + 100), block(32 + 13 + 4000)],
        "key_file" => key_files(),
        "record" => vec![b"content".to_vec(), Vec::new(), tree::record()],
        "head" => tree::heads(),
        "entry" => tree::all_entries(),
        "run_block" => vec![tree::block()],
        "run_tail" => vec![tree::tail()],
        "journal" => journals(),
        "configuration" => configurations(),
        "address_book" => address_books(),
        "network_file" => network_files(),
        "segment" => segments(),
        "conditions" => conditions(),
        "ring_operations" | "custody_operations" => (1..=16)
            .map(|size| noise(target.len() + size, 64 * size))
            .collect(),
        other => panic!("{other} has no inputs"),
    }
}

/// Bytes that repeat no small pattern.
fn block(length: usize) -> Vec<u8> {
    noise(7, length)
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed as u64).fill_bytes(&mut bytes);
    bytes
}

fn contact() -> Contact {
    let contact = Contact {
        peer: Peer::new(public_key(&SEED)),
        version: 3,
        virtual_nodes: vec![0, 5, 2047].into(),
        addresses: [
            "/ip4/192.0.2.7/tcp/4001".to_owned(),
            "/dns/a.example/tcp/1".to_owned(),
        ]
        .into(),
        capacity: 10 << 30,
        used: 1 << 20,
        state: PeerState::Full,
        zone: "attic".into(),
        signature: Signature::default(),
    };
    let signer = Signer::new(&SEED, Arc::new(Verifier::new(NETWORK)));
    Contact {
        signature: signer.sign(&contact),
        ..contact
    }
}

/// What the signature of the contact covers, which begins behind the first tag and its length.
fn form() -> Vec<u8> {
    let encoded = encode_contact(&contact());
    let start = encoded
        .windows(32)
        .position(|bytes| bytes == contact().peer.as_bytes())
        .unwrap();
    encoded[start..encoded.len() - 66].to_vec()
}

fn frames() -> Vec<Vec<u8>> {
    let kinds = [
        frame::Kind::Request,
        frame::Kind::Response,
        frame::Kind::Ping,
        frame::Kind::Bye,
    ];
    let lengths = [(100, 65_536), (0, 1000), (0, 0), (0, 0)];
    let encoded = kinds.into_iter().zip(lengths).map(|(kind, (head, payload))| {
        let mut bytes = Vec::new();
        let header = frame::Header {
            kind,
            id: 7,
            head,
            payload,
        };
        header.put(&mut bytes);
        bytes
    });
    encoded.collect()
}

fn codes() -> [Code; 4] {
    let rs = |data, parity| Code::ReedSolomon { data, parity };
    [Code::Copies(3), Code::Xor(4), rs(4, 2), rs(20, 10)]
}

fn headers() -> Vec<Header> {
    let policies = [
        Policy::Successors,
        Policy::Random,
        Policy::Copysets,
        Policy::from_wire(0xff).unwrap(),
    ];
    let header = |(code, policy)| {
        let shards = encode(code, policy, [1; 32], [2; 32], block(300).into()).unwrap();
        shards[0].header().clone()
    };
    codes().into_iter().zip(policies).map(header).collect()
}

fn link() -> Link {
    Link {
        manifest: [1; 32],
        key: Zeroizing::new([2; 32]),
        tag: [3; 4],
    }
}

fn invite() -> Invite {
    Invite {
        network: [1; 32],
        secret: Zeroizing::new(vec![2; 32]),
        addresses: vec![
            "/ip4/192.0.2.7/tcp/4001".to_owned(),
            "/ip6/::1/tcp/4001".to_owned(),
        ],
    }
}

fn invite_body() -> Vec<u8> {
    let text = invite().to_string();
    let mut body = bs58::decode(&text["mutualinvite1".len()..]).into_vec().unwrap();
    body.truncate(body.len() - 4);
    body
}

/// A root of two parts.
fn joined() -> Vec<u8> {
    let making = Making {
        code: Code::ReedSolomon { data: 4, parity: 2 },
        shard_size: 1 << 20,
        placement: Placement::default(),
    };
    let part = |size, ids: u8| Part {
        key: Zeroizing::new([3; 32]),
        size,
        making,
        fragments: None,
        depth: 0,
        ids: (0..ids).map(|number| StripeId::from([number; 32])).collect(),
    };
    let root = Joined {
        created: 1_700_000_000_000,
        making,
        name: "a.bin".to_owned(),
        media_type: String::new(),
        list: List::Parts(vec![part(5 << 20, 2), part(7, 1)]),
        fields: Fields::new(),
    };
    root.encode().unwrap().into()
}

fn manifests() -> Vec<Manifest> {
    let inline = Manifest {
        size: 5,
        created: 1_700_000_000_000,
        code: Code::ReedSolomon { data: 4, parity: 2 },
        shard_size: 1 << 20,
        name: "a.txt".to_owned(),
        media_type: "text/plain".to_owned(),
        placement: Placement::default(),
        fragments: None,
        body: Body::Inline(Bytes::from_static(b"hello")),
    };
    let stripes = |depth, count: u8| Body::Stripes {
        depth,
        ids: (0..count).map(|number| StripeId::from([number; 32])).collect(),
    };
    let block = inline.geometry().block_plaintext();
    let whole = Manifest {
        size: 3 * block - 1,
        body: stripes(0, 3),
        ..inline.clone()
    };
    let deep = Manifest {
        size: 2048 * block,
        body: stripes(1, 2),
        ..inline.clone()
    };
    let cut = Manifest {
        size: 100_001,
        fragments: NonZeroU32::new(4),
        placement: Placement {
            policy: Policy::Copysets,
            anchor: [5; 32],
        },
        body: stripes(0, 4),
        ..inline.clone()
    };
    vec![inline, whole, deep, cut]
}

fn index_blocks() -> Vec<Vec<u8>> {
    let block = |level: u8, number: u64, blocks: u64, count: u8| {
        let ids = (0..count).map(|number| StripeId::from([number; 32])).collect();
        let plaintext = IndexBlock { level, number, ids }.encode();
        [
            &[level][..],
            &number.to_be_bytes(),
            &blocks.to_be_bytes(),
            &plaintext,
        ]
        .concat()
    };
    vec![block(1, 1, 2049, 2), block(2, 0, 3 * 2047, 3)]
}

fn locators() -> Vec<Vec<u8>> {
    let located = headers().into_iter().map(|header| {
        let bytes = header.encode();
        let length = u16::try_from(bytes.len()).unwrap();
        let holders = write_holders(&[(0, PEER), (1, Peer::new([0xce; 32]))]);
        [&length.to_be_bytes()[..], &bytes, &holders].concat()
    });
    located.collect()
}

fn key_files() -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    for name in ["identity", "account"] {
        fs::write(dir.path().join(name), "11".repeat(32)).unwrap();
    }
    let text = Keys::read(dir.path()).unwrap().unwrap().to_text();
    let unchecked = text.split_inclusive('\n').take(3).collect::<String>();
    vec![text.as_bytes().to_vec(), unchecked.into()]
}

fn journals() -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let mut put = journal.begin(&TOKEN, 1_700_000_000_000).unwrap();
    put.stripe(&StripeId::from([1; 32]), &[(0, PEER), (1, PEER)])
        .unwrap();
    put.mark_exposed(b"header", "sealed").unwrap();
    put.mark_committing("sealed entry").unwrap();
    put.mark_deleting("sealed deletion").unwrap();
    let whole = fs::read(dir.path().join("journal").join(hex::encode(TOKEN))).unwrap();
    // The same records with one byte of length and no checksum, for the target to seal.
    let mut bare = Vec::new();
    let mut rest = whole.as_slice();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let (body, after) = after.split_at(usize::from(head[3]));
        bare.push(head[3]);
        bare.extend(body);
        rest = after;
    }
    vec![whole, bare]
}

fn configurations() -> Vec<Vec<u8>> {
    let full = "capacity = \"10GiB\"\nlisten = [\"/ip4/0.0.0.0/tcp/4001\"]\n\
                api = \"127.0.0.1:4280\"\n\
                join = [\"/ip4/192.0.2.7/tcp/4001\"]\nsuccessors = 16\nrepair = true\n\
                repair_delay = \"15m\"\nrepair_rate = \"10MiB\"\ncache = \"64MiB\"\n\
                placement = \"buddies:12\"\nlog = \"info\"\n";
    vec![b"capacity = \"1GiB\"\n".to_vec(), full.into()]
}

fn address_books() -> Vec<Vec<u8>> {
    let unsigned = Contact {
        peer: PEER,
        signature: Signature::default(),
        ..contact()
    };
    let entry = |contact| BookEntry {
        contact,
        last_seen: 1_700_000_000,
    };
    let dir = tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    data.save_book(&[entry(contact()), entry(unsigned)]).unwrap();
    vec![read(dir.path(), "book.json")]
}

fn network_files() -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    let network = Network {
        id: NETWORK,
        secret: Zeroizing::new(vec![2; 32]),
        ..Network::found_open(10 << 30, 16)
    };
    data.save_network(&network).unwrap();
    vec![read(dir.path(), "network.json")]
}

fn read(directory: &Path, name: &str) -> Vec<u8> {
    fs::read(directory.join(name)).unwrap()
}

/// Segments of one store: complete, and as it stands while the store is open.
fn segments() -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let config = StoreConfig {
        capacity: 64 << 20,
        ..StoreConfig::default()
    };
    let (store, _) = Store::open(dir.path(), config).unwrap();
    let key = |index| Key {
        stripe: [index; 32],
        index,
    };
    let pending = State::Pending {
        until_unix_ms: 5,
        writer: [9; 32],
    };
    store
        .put(key(1), State::Committed, TOKEN, b"header", &block(200))
        .unwrap();
    store.put(key(2), pending, TOKEN, b"header", &block(20)).unwrap();
    store.put(key(3), pending, TOKEN, b"header", &block(20)).unwrap();
    store
        .put(key(4), State::Committed, TOKEN, b"header", b"short")
        .unwrap();
    store.commit(&[key(2)]).unwrap();
    store.renew(&[key(3)], 99).unwrap();
    store.remove(&[key(4)]).unwrap();
    store.put_tombstone([4; 32], b"header", &[1; 64], 7).unwrap();
    let segment = || {
        let mut files = fs::read_dir(dir.path().join("segments")).unwrap();
        let path = files.next().unwrap().unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let salt = u64::from_str_radix(name.split_once('-').unwrap().1, 16).unwrap();
        with_salt(fs::read(&path).unwrap(), salt)
    };
    let open = segment();
    store.close().unwrap();
    vec![open, segment()]
}

/// The segment as it would stand under the salt of the target, but for the checksums.
fn with_salt(mut segment: Vec<u8>, salt: u64) -> Vec<u8> {
    for (from, to) in [(salt, SALT), (!salt, !SALT)] {
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        for at in 0..segment.len().saturating_sub(8) {
            if segment[at..].starts_with(&from) {
                segment[at..at + 8].copy_from_slice(&to);
            }
        }
    }
    let end = segment
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    segment.truncate(end.next_multiple_of(64));
    segment
}

fn conditions() -> Vec<Vec<u8>> {
    let lines = [
        "\0bytes=0-99",
        "\0bytes=-5\n\x01\"a1b2\"",
        "\0bytes=5-\n\x02\"a1b2\", *\n\x03W/\"a1b2\"",
        "\x04Tue, 14 Nov 2023 22:13:20 GMT\n\x05Tue, 14 Nov 2023 22:13:20 GMT",
        "\0bytes=18446744073709551616-",
    ];
    lines
        .iter()
        .map(|lines| [&1000_u64.to_be_bytes()[..], lines.as_bytes()].concat())
        .collect()
}
