use super::*;
use crate::datadir::list::{FileList, Listed};
use crate::format::link::Link;

/// A list of files, each with what is remembered of it.
fn files(all: Vec<Watched>) -> (tempfile::TempDir, FileList<Watched>) {
    let directory = tempfile::tempdir().unwrap();
    let list = FileList::open(directory.path(), &[1; 32]).unwrap();
    for (watched, number) in all.into_iter().zip(1..) {
        let listed = Listed {
            name: String::new(),
            size_bytes: 1,
            created: 1,
            code: "copies:2".to_owned(),
            placement: "successors".to_owned(),
            stripes: 1,
            named: false,
            link: Link {
                manifest: [number; 32],
                key: [2; 32].into(),
                tag: [3; 4],
            },
        };
        // The index is filled as it goes once it was read.
        list.index(|_| ()).unwrap();
        list.append(&listed, watched).unwrap();
    }
    (directory, list)
}

fn safe(holders: u64) -> Watched {
    Watched {
        health: Some(Health::Safe),
        due: 900,
        holders,
        ..Watched::default()
    }
}

fn degraded() -> Watched {
    Watched {
        health: Some(Health::Degraded),
        tries: 9,
        ..safe(bit(Peer::new([9; 32])))
    }
}

fn due(list: &FileList<Watched>, now: u32) -> (Vec<u32>, bool) {
    let (batch, _) = list.index(|index| Batch::pick(index, now)).unwrap();
    (batch.numbers, batch.urgent)
}

#[test]
fn files_of_a_peer_that_moved_and_files_not_safe_are_due() {
    let (moved, other) = (Peer::new([4; 32]), Peer::new([5; 32]));
    let (_directory, list) = files(vec![
        safe(bit(moved)),
        safe(bit(other)),
        safe(bit(moved) | bit(other)),
        degraded(),
    ]);
    assert_eq!(due(&list, 10), (Vec::new(), false));
    list.index(|index| mark(index, 10, &BTreeSet::from([moved]), false))
        .unwrap();
    assert_eq!(due(&list, 10), (vec![0, 2, 3], true));
}

#[test]
fn what_was_repaired_makes_files_due_that_are_not_safe() {
    let (_directory, list) = files(vec![safe(1), degraded()]);
    list.index(|index| mark(index, 10, &BTreeSet::new(), true))
        .unwrap();
    assert_eq!(due(&list, 10), (vec![1], true));
    let tries = list.index(|index| index.get(1).unwrap().watched.tries).unwrap();
    assert_eq!(tries, 0);
}

#[test]
fn what_is_unknown_or_urgent_goes_before_what_is_due_in_turn() {
    let (_directory, list) = files(vec![safe(1), Watched::default(), safe(1)]);
    assert_eq!(due(&list, 1000), (vec![1], true));
    list.index(|index| index.get_mut(1).unwrap().watched = safe(1))
        .unwrap();
    assert_eq!(due(&list, 1000), (vec![0, 1, 2], false));
    assert_eq!(due(&list, 899), (Vec::new(), false));
}

#[test]
fn files_that_waited_longest_are_asked_about_first() {
    let since = |due| Watched { due, ..degraded() };
    let (_directory, list) = files(vec![since(9), since(7), since(8)]);
    let urgent =
        |index: &mut Index<Watched>| index.all_mut().for_each(|(_, entry)| entry.watched.urgent = true);
    list.index(urgent).unwrap();
    assert_eq!(due(&list, 10), (vec![1, 2, 0], true));
}

#[test]
fn parts_are_counted_while_they_are_in_memory() {
    let sweep = Sweep::default();
    let part = Part {
        stripe: Id::default(),
        k: 1,
        n: 2,
    };
    assert!(matches!(sweep.keep(vec![part]), Layout::Unknown));
    let kept = sweep.keep(vec![part; 3]);
    assert_eq!(sweep.parts.load(Ordering::Relaxed), 3);
    drop(kept);
    assert_eq!(sweep.parts.load(Ordering::Relaxed), 0);
    let most = sweep.keep(vec![part; MAX_PARTS]);
    assert!(matches!(most, Layout::Known(_)));
    assert!(matches!(sweep.keep(vec![part; 2]), Layout::Unknown));
}
