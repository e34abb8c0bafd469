//! What questions cost the index.

use tempfile::TempDir;

use super::super::*;
use super::memory::MemoryDisk;
use super::{HEADER, MIB, config, key};

#[test]
fn question_about_one_stripe_reads_no_other() {
    let disk = MemoryDisk::new(1);
    let dir = TempDir::new().unwrap();
    let (store, _) = Store::open_on(&disk.as_disk(), dir.path(), config(64 * MIB)).unwrap();
    let second = Key { index: 9, ..key(50) };
    for key in (0..100).map(key).chain([second]) {
        let put = store.put(key, State::Committed, [1; 16], HEADER, b"shard");
        assert_eq!(put.unwrap(), PutOutcome::Stored);
    }
    disk.paged();
    let held = store.indices(&second.stripe).into_iter();
    assert_eq!(
        held.map(|(index, _)| index).collect::<Vec<_>>(),
        [key(50).index, 9]
    );
    assert_eq!(disk.paged(), 2, "entries read");
    assert_eq!(store.indices(&[0xff; 32]), []);
    assert_eq!(disk.paged(), 0, "entries read");
}
