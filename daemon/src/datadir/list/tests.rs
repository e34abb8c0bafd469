use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

fn listed(name: &str) -> Listed {
    Listed {
        name: name.to_owned(),
        size_bytes: 5,
        created: 1_700_000_000_000,
        code: "rs:4+2".to_owned(),
        placement: "successors".to_owned(),
        stripes: 1,
        named: false,
        link: Link {
            manifest: Sha256::digest(name).into(),
            key: Zeroizing::new([2; 32]),
            tag: [3; 4],
        },
    }
}

fn shown(name: &str) -> Shown {
    let listed = listed(name);
    Shown {
        name: listed.name,
        size_bytes: listed.size_bytes,
        created: listed.created,
        code: listed.code,
        named: listed.named,
        link: listed.link.to_string(),
    }
}

/// All that match, in pages of two.
fn files(list: &FileList, pattern: Option<&str>) -> Vec<Shown> {
    let (mut files, mut after) = (Vec::new(), None);
    loop {
        let page = list.page(after, 2, pattern).unwrap();
        assert!(page.files.len() <= 2);
        assert!(page.files.len() == 2 || page.next.is_none());
        files.extend(page.files.into_iter().map(|(_, listed)| listed));
        after = page.next;
        if after.is_none() {
            return files;
        }
    }
}

fn names(list: &FileList, pattern: Option<&str>) -> Vec<String> {
    files(list, pattern).into_iter().map(|entry| entry.name).collect()
}

#[test]
fn files_in_buckets_are_watched_and_not_listed() {
    let directory = tempfile::tempdir().unwrap();
    let open = || FileList::<()>::open(directory.path(), &[1; 32]).unwrap();
    let list = open();
    list.append(&listed("plain"), ()).unwrap();
    let named = Listed {
        named: true,
        ..listed("named")
    };
    list.append_named(&named, ()).unwrap();
    let watched = |list: &FileList| list.index(|index| index.len()).unwrap();
    for list in [list, open()] {
        assert_eq!(names(&list, None), ["plain"]);
        assert_eq!(list.find(&named.link.manifest).unwrap(), None);
        assert_eq!(watched(&list), 2);
    }
    let list = open();
    list.forget_named(&named.link).unwrap();
    list.forget_named(&listed("plain").link).unwrap();
    for list in [list, open()] {
        assert_eq!(
            (names(&list, None), watched(&list)),
            (vec!["plain".to_owned()], 1)
        );
    }
}

#[test]
fn entries_are_found_again_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let list: FileList = FileList::open(directory.path(), &[7; 32]).unwrap();
    assert_eq!(files(&list, None), []);
    for name in ["b.txt", "a\nb", "", "c.txt"] {
        list.append(&listed(name), ()).unwrap();
    }
    drop(list);
    let list: FileList = FileList::open(directory.path(), &[7; 32]).unwrap();
    assert_eq!(files(&list, None), ["b.txt", "a\nb", "", "c.txt"].map(shown));
    assert_eq!(names(&list, Some("*.txt")), ["b.txt", "c.txt"]);
    let mode = fs::metadata(directory.path().join(FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_line_cut_anywhere_costs_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    <FileList>::open(directory.path(), &[7; 32])
        .unwrap()
        .append(&listed("first"), ())
        .unwrap();
    let first = fs::read(&path).unwrap();
    for end in 1..first.len() {
        fs::write(&path, [&first, &first[..end]].concat()).unwrap();
        let list: FileList = FileList::open(directory.path(), &[7; 32]).unwrap();
        list.append(&listed("next"), ()).unwrap();
        let expected = ["first", "next"];
        assert_eq!(names(&list, None), expected, "cut at {end}");
    }
}

#[test]
fn many_writers_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let list: FileList = FileList::open(directory.path(), &[7; 32]).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let list = &list;
            scope.spawn(move || {
                for i in 0..20 {
                    list.append(&listed(&format!("{writer}-{i}")), ()).unwrap();
                }
            });
        }
    });
    let found = names(&list, None);
    assert_eq!(found.len(), 160);
    for writer in 0..8 {
        let own: Vec<_> = found
            .iter()
            .filter(|name| name.starts_with(&format!("{writer}-")))
            .collect();
        let expected: Vec<_> = (0..20).map(|i| format!("{writer}-{i}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
    assert_eq!(lock(&list.synced).entries, 160);
}

#[test]
fn patterns() {
    for (pattern, name, expected) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "anything", true),
        ("?", "é", true),
        ("?", "", false),
        ("*.txt", "a.txt", true),
        ("*.txt", "a.txt.gz", false),
        ("a*b*c", "aXbXbXc", true),
        ("a*b*c", "aXbXbX", false),
        ("**a", "ba", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("[a]", "a", false),
        ("*a*a*a*a*a*b", &"a".repeat(2000), false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
}

/// The definition of a match, exponential.
fn matches_slowly(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], _) => name.is_empty(),
        (['*', rest @ ..], _) => (0..=name.len()).any(|skip| matches_slowly(rest, &name[skip..])),
        ([_, ..], []) => false,
        ([wanted, pattern @ ..], [found, name @ ..]) => {
            (*wanted == '?' || wanted == found) && matches_slowly(pattern, name)
        }
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,7}", name in "[ab]{0,9}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches(&pattern, &name), matches_slowly(&chars(&pattern), &chars(&name)));
    }
}

#[test]
fn deleted_files_keep_their_numbers_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let open = || -> FileList { FileList::open(directory.path(), &[7; 32]).unwrap() };
    let list = open();
    for name in ["a", "b", "c"] {
        list.append(&listed(name), ()).unwrap();
    }
    assert_eq!(list.find(&listed("b").link.manifest).unwrap(), Some(listed("b")));
    list.append_sealed(&list.seal_deletion(&listed("b").link, None))
        .unwrap();
    // Once more: it stands there twice.
    list.append_sealed(&list.seal(&listed("c"))).unwrap();
    for list in [list, open()] {
        assert_eq!(list.find(&listed("b").link.manifest).unwrap(), None);
        let page = list.page(None, 9, None).unwrap();
        assert_eq!(page.next, None);
        assert_eq!(page.files, [(0, shown("a")), (2, shown("c"))]);
        assert_eq!(list.page(Some(0), 9, None).unwrap().files, [(2, shown("c"))]);
        assert_eq!(list.page(Some(9), 9, None).unwrap().files, []);
        assert_eq!(list.index(|index| index.len()).unwrap(), 2);
    }
}

#[test]
fn lines_of_an_older_version_have_an_unknown_number_of_stripes() {
    let mut json = serde_json::to_value(listed("old")).unwrap();
    json.as_object_mut().unwrap().remove("stripes");
    let old: Listed = serde_json::from_value(json).unwrap();
    assert_eq!(old.stripes, 0);
}
