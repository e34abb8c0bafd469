//! Whole directories: put, got, listed, copied, moved and deleted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{adopt, get, keys, phrase, restore};
use crate::api::client::Api;
use crate::common::{Net, Said, eventually, mutualstore, noise};

/// What is below a directory: for each path what it is, its bytes, its time, and whether it is executable.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime, bool)> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let executable = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
            if meta.is_dir() {
                left.push(path.clone());
            }
            let rest = path.strip_prefix(dir).unwrap().to_owned();
            all.insert(rest, (bytes, meta.modified().unwrap(), executable));
        }
    }
    all
}

/// Makes a directory with so many small files, some of them executable, and an empty directory.
fn grow(dir: &Path, files: usize) {
    for number in 0..files {
        let inner = dir.join(format!("{}/{}", number % 7, number % 13));
        fs::create_dir_all(&inner).unwrap();
        let path = inner.join(format!("file {number}.txt"));
        fs::write(&path, noise(number as u64, number % 900)).unwrap();
        if number % 5 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    fs::create_dir_all(dir.join("empty/inner")).unwrap();
    let old = UNIX_EPOCH + Duration::new(86_400 * 365, 123_456_789);
    fs::File::open(dir.join("empty/inner"))
        .unwrap()
        .set_modified(old)
        .unwrap();
}

fn written(said: &Said) -> (u64, u64) {
    let json = said.json();
    (
        json["written"].as_u64().unwrap(),
        json["unchanged"].as_u64().unwrap(),
    )
}

#[test]
fn trees_come_back_the_same_on_another_device() {
    let net = Net::up(4, &["--seed", "94"]);
    let words = phrase(&net, 0);
    adopt(&net, 1, &words);
    net.run(0, &["bucket", "create", "trees"]).ok();
    let source = net.file("source-tree");
    grow(&source, 700);
    std::os::unix::fs::symlink("elsewhere", source.join("link")).unwrap();
    let put = ["put", "-r", source.to_str().unwrap(), "/trees/copy", "--json"];
    let mut first = net
        .command(0, &put)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the first keys are there", || {
        let listed = net.run(1, &["ls", "-r", "--json", "/trees"]).ok().json();
        (listed["files"].as_array()?.len() >= 400).then_some(())
    });
    // Over by then, perhaps.
    drop(first.kill());
    first.wait().unwrap();
    let said = net.run(0, &put).ok();
    assert!(said.stderr.contains("link"), "{}", said.stderr);
    let (new, unchanged) = written(&said);
    assert!(unchanged >= 400, "{unchanged}");
    assert_eq!(written(&net.run(1, &put).ok()), (0, new + unchanged));

    let target = net.file("target-tree");
    let take = ["get", "-r", "/trees/copy", target.to_str().unwrap(), "--json"];
    fs::create_dir_all(&target).unwrap();
    net.run(1, &take).ok();
    fs::remove_file(source.join("link")).unwrap();
    let there = tree(&target);
    for (path, expected) in tree(&source) {
        // Removing the link changed the time of what it was in, which has no key of its own here.
        assert!(there.get(&path) == Some(&expected), "{}", path.display());
    }
    assert_eq!(there.len(), tree(&source).len());
    assert_eq!(written(&net.run(1, &take).ok()).0, 0);

    net.run(0, &["mv", "-r", "/trees/copy/0/", "/trees/moved/"]).ok();
    net.run(0, &["cp", "/trees/moved/1/file 14.txt", "/trees/one"])
        .ok();
    net.run(0, &["rm", "-r", "/trees/copy/1/"]).ok();
    let listed = keys(&net, 1, &["-r", "/trees/moved/"]);
    assert_eq!(listed.iter().filter(|(_, kind)| kind == "file").count(), 100);
    assert!(keys(&net, 1, &["-r", "/trees/copy/0/"]).is_empty());
    assert!(keys(&net, 1, &["-r", "/trees/copy/1/"]).is_empty());
    assert_eq!(get_bytes(&net, "/trees/one"), noise(14, 14));
    net.run(0, &["mv", "/trees/one", "/trees/two"]).ok();
    get(&net, 0, &["/trees/one"]).fails(3);
    let versions = net
        .run(0, &["ls", "--versions", "--json", "/trees/one"])
        .ok()
        .json();
    let old = versions["files"][1]["version"].as_str().unwrap().to_owned();
    net.run(0, &["restore", "/trees/one", "--version", &old]).ok();
    assert_eq!(get_bytes(&net, "/trees/one"), noise(14, 14));

    net.run(0, &["bucket", "create", "other"]).ok();
    net.run(0, &["cp", "-r", "/trees/moved/", "/other/moved/"]).ok();
    let listed = keys(&net, 1, &["-r", "/other/"]);
    assert_eq!(listed.iter().filter(|(_, kind)| kind == "file").count(), 100);
    assert_eq!(get_bytes(&net, "/other/moved/1/file 14.txt"), noise(14, 14));
    net.run(0, &["mv", "/trees/none", "/trees/some"]).fails(3);
    net.run(0, &["rm", "-r", "/trees/none/"]).fails(3);
}

#[test]
fn directories_are_listed_once_and_stay_directories() {
    let net = Net::up(3, &["--seed", "100"]);
    net.run(0, &["bucket", "create", "dirs"]).ok();
    let source = net.file("some");
    grow(&source, 9);
    let put = net.run(0, &["put", "-r", source.to_str().unwrap(), "/dirs/one"]);
    put.ok();
    net.run(0, &["cp", "-r", "/dirs/one/", "/dirs/two"]).ok();
    assert_eq!(
        keys(&net, 0, &["-r", "/dirs/two/"]).len(),
        keys(&net, 0, &["-r", "/dirs/one/"]).len()
    );
    net.run(0, &["mv", "/dirs/two/empty/inner/", "/dirs/three"]).ok();
    let listed: Vec<String> = keys(&net, 0, &["/dirs"])
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(listed, ["one/", "three/", "two/"]);
    let api = Api::of(&net, 0);
    let mut after = String::new();
    let mut paged = Vec::new();
    loop {
        let line = format!("GET /v1/names/dirs?delimiter=/&limit=1{after}");
        let page = api.ask(&line, &[]).json();
        let prefixes = page["prefixes"].as_array().unwrap().iter();
        paged.extend(prefixes.map(|prefix| prefix.as_str().unwrap().to_owned()));
        assert!(page["files"].as_array().unwrap().is_empty());
        let Some(last) = page["next"].as_str() else { break };
        after = format!("&after={last}");
    }
    assert_eq!(paged, listed);

    // A file that cannot be read costs nothing but itself.
    fs::write(source.join("late"), "x").unwrap();
    let gone = source.join("gone");
    fs::write(&gone, "x").unwrap();
    fs::set_permissions(&gone, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&gone).is_err() {
        let said = net
            .run(0, &["put", "-r", source.to_str().unwrap(), "/dirs/one"])
            .fails(5);
        assert!(
            said.stderr.contains("1 file could not be read"),
            "{}",
            said.stderr
        );
    }
    fs::remove_file(&gone).unwrap();
    // What is moved is deleted by its link under its new name.
    let link = net
        .run(0, &["put", source.join("late").to_str().unwrap(), "/dirs/was"])
        .ok()
        .word();
    net.run(0, &["mv", "/dirs/was", "/dirs/is"]).ok();
    net.run(0, &["rm", &link]).ok();
    get(&net, 0, &["/dirs/is"]).fails(3);
    net.run(0, &["rm", "/dirs/"]).fails(2);
    let said = restore(&net.file("nobody"), "").fails(2);
    assert!(said.stderr.contains("0 words"), "{}", said.stderr);
    let mut command = mutualstore();
    let words = "oppose call fog";
    command
        .args(["account", "restore", words, "--data-dir"])
        .arg(net.file("nobody"));
    let said = Said::of(command.output().unwrap()).fails(2);
    assert!(!said.stderr.contains("oppose"), "{}", said.stderr);
}

fn get_bytes(net: &Net, name: &str) -> Vec<u8> {
    get(net, 0, &[name]).ok().stdout
}
