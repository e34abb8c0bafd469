//! The store and custody side by side, with changes of one shard that meet.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use mutualstore_dht::custody::{Custody, CustodyConfig};
use mutualstore_dht::ring::{Ring, RingConfig};
use mutualstore_dht::{Contact, PeerState, Signature, Time, VirtualNodes};
use mutualstore_erasure::{Code, Policy, encode};
use mutualstore_store::StoreConfig;
use tempfile::TempDir;

use super::*;
use crate::wire::peer::NO_TOKEN;

const FILL: u8 = 0xa7;

fn machines() -> Core {
    let peer = Peer::new([1; 32]);
    let contact = Contact {
        peer,
        version: 1,
        virtual_nodes: [0].into_iter().collect::<VirtualNodes>(),
        addresses: ["/ip4/127.0.0.1/tcp/1".to_owned()].into(),
        capacity: 1 << 30,
        used: 0,
        state: PeerState::Accepting,
        zone: "".into(),
        signature: Signature::default(),
    };
    let ring = Ring::new(RingConfig::default(), contact, Vec::new(), 1, Time::ZERO);
    let custody = Custody::new(CustodyConfig::default(), peer, 1, Time::ZERO);
    Core::new(ring, custody, Instant::now())
}

fn shard() -> VerifiedShard {
    let block = Bytes::from(vec![FILL; 2000]);
    let mut shards = encode(Code::Copies(1), Policy::Successors, [0; 32], [3; 32], block).unwrap();
    shards.remove(0)
}

/// Flips the last byte of everything that looks like the shard's payload.
fn damage(segments: &Path) {
    for file in fs::read_dir(segments).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let ends: Vec<usize> = bytes
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0] == FILL && pair[1] != FILL)
            .map(|(at, _)| at)
            .collect();
        for at in ends {
            bytes[at] ^= 1;
        }
        // In place: the store keeps its files open.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
}

fn keeper(store: Store, core: &Arc<Core>) -> ShardKeeper {
    ShardKeeper::new(store, Duration::from_hours(1), Arc::clone(core), Arc::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn custody_believes_what_the_store_holds_whoever_drops_and_repairs_at_once() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let core = Arc::new(machines());
    let shards = Arc::new(keeper(store, &core));
    let (stripe, index) = (Id::new(*shard().stripe().as_bytes()), shard().index());
    let mut dropped = 0;
    for round in 0..300 {
        shards.keep(shard(), Keep::Committed, NO_TOKEN).await.unwrap();
        damage(&dir.path().join("segments"));
        let mut tasks = Vec::new();
        for reader in 0..4 {
            let shards = Arc::clone(&shards);
            tasks.push(tokio::spawn(async move {
                if reader == 3 {
                    shards.keep(shard(), Keep::Committed, NO_TOKEN).await.unwrap();
                } else {
                    shards.find(stripe, index, true).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let held = shards.store.meta(key(stripe, index)).is_some();
        dropped += u32::from(!held);
        let believed = core.read(|state| state.engine.custody.believes(stripe, index.into()));
        assert_eq!(believed, held, "round {round}");
        // What was stored while others looked at the damaged one is not dropped in its place.
        if held {
            let found = shards.find(stripe, index, true).await;
            assert!(matches!(found, Local::Found(_)), "round {round}: {found:?}");
        }
    }
    assert!(dropped < 300);
    assert!(shards.bad.get() > 0);
}

#[tokio::test]
async fn a_shard_the_store_lost_unnoticed_is_missed_by_the_next_comparison() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let core = Arc::new(machines());
    let shards = keeper(store, &core);
    let (stripe, index) = (Id::new(*shard().stripe().as_bytes()), shard().index());
    shards.keep(shard(), Keep::Committed, NO_TOKEN).await.unwrap();
    assert!(core.read(|state| state.engine.custody.believes(stripe, index.into())));
    shards.store.remove(&[key(stripe, index)]).unwrap();
    assert_eq!(shards.reconcile(None, 10), Some((stripe, index.into())));
    assert!(!core.read(|state| state.engine.custody.believes(stripe, index.into())));
    assert_eq!(shards.reconcile(None, 10), None);
}

/// A writer takes the answer for shards that are kept for good.
#[tokio::test]
async fn a_locator_is_committed_with_the_shards_and_is_none_itself() {
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let core = Arc::new(machines());
    let shards = keeper(store, &core);
    let block = Bytes::from(vec![FILL; 2000]);
    let shard = encode(Code::Copies(2), Policy::Random, [0; 32], [3; 32], block)
        .unwrap()
        .remove(0);
    let (stripe, writer) = (Id::new(*shard.stripe().as_bytes()), Peer::new([1; 32]));
    let locator = Locator::new(shard.header().clone(), vec![(0, writer)]).unwrap();
    let (token, lease) = ([5; 16], Duration::from_mins(1));
    let pending = Keep::Pending { lease, writer };
    let is_pending = |index| {
        let meta = shards.store.meta(key(stripe, index)).unwrap();
        matches!(meta.state, StoreState::Pending { .. })
    };
    shards.keep_locator(locator, pending, token).await.unwrap();
    for answer in [
        shards.renew(vec![stripe], token, lease).await.unwrap(),
        shards.commit(vec![stripe], Some(token)).await.unwrap(),
    ] {
        assert_eq!(answer, [false]);
    }
    assert!(!is_pending(LOCATOR));
    shards.keep(shard, pending, token).await.unwrap();
    assert!(is_pending(0));
    assert_eq!(shards.commit(vec![stripe], Some(token)).await.unwrap(), [true]);
    assert!(!is_pending(0));
}
