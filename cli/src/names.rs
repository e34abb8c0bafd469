//! `bucket`, and what `put`, `ls` and `rm` do with names: `/BUCKET/KEY`.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use clap::Subcommand;
use mutualstore_client::{Client, NamesQuery};
use mutualstore_contract::escape;
use mutualstore_contract::reply::{
    Batch, Bucket, CopyName, Health, ListedName, NameKind, NameList, RemoveName, Settings,
};
use mutualstore_contract::units::{Size, counted};

use crate::connect::Connect;
use crate::output::{CliError, Rows, Screen};

#[derive(clap::Args, Debug)]
pub(crate) struct BucketArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a bucket
    Create(CreateArgs),
    /// List the buckets
    Ls(Connect),
    /// Set what holds for a bucket, or show what was set
    Set(SetArgs),
}

#[derive(clap::Args, Debug)]
struct SetArgs {
    /// The bucket
    name: String,
    /// How long old versions are to be kept, as in 30d: noted, and not acted on yet
    #[arg(long, value_name = "TIME")]
    keep_versions: Option<String>,
    /// The code of its files: auto, copies:N, xor:K or rs:K+M
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    /// Its name: 3 to 63 characters: a-z, 0-9, . and -
    name: String,
    #[command(flatten)]
    connect: Connect,
}

/// How keys are listed.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command")]
pub(crate) struct ListArgs {
    /// Of keys: their kind, size, time and version too
    #[arg(long, short)]
    long: bool,
    /// Of keys: those in directories too
    #[arg(long, short)]
    recursive: bool,
    /// Of keys: all versions that are kept
    #[arg(long)]
    versions: bool,
    /// Of keys: what was deleted too
    #[arg(long)]
    deleted: bool,
    /// Of keys: only those that two devices wrote at the same time
    #[arg(long)]
    conflicts: bool,
}

/// Runs a bucket command.
pub(crate) fn bucket(args: &BucketArgs, screen: &Screen) -> Result<(), CliError> {
    match &args.command {
        Command::Create(args) => {
            let reply = args.connect.client()?.create_bucket(&args.name)?;
            if screen.json {
                return screen.document(&reply.json);
            }
            let what = if reply.body.new { "is made" } else { "was there" };
            screen.note(format!("bucket {} {what}", reply.body.bucket));
            Ok(())
        }
        Command::Ls(connect) => buckets(&connect.client()?, screen),
        Command::Set(args) => set(args, screen),
    }
}

fn set(args: &SetArgs, screen: &Screen) -> Result<(), CliError> {
    let given = [("keep-versions", &args.keep_versions), ("code", &args.code)];
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
    let settings: BTreeMap<String, String> = given.collect();
    let client = args.connect.client()?;
    let reply = if settings.is_empty() {
        client.settings(&args.name)?
    } else {
        client.set(&args.name, &Settings { settings })?
    };
    if screen.json {
        return screen.document(&reply.json);
    }
    for (name, value) in reply.body.settings {
        screen.line(format!("{}={}", escape::line(&name), escape::line(&value)))?;
    }
    Ok(())
}

fn buckets(client: &Client, screen: &Screen) -> Result<(), CliError> {
    let reply = client.buckets()?;
    if screen.json {
        let buckets = reply.body.buckets;
        return screen.document(&serde_json::json!({ "buckets": buckets, "files": [], "next": null }));
    }
    for bucket in reply.body.buckets {
        screen.line(format!("/{}/", bucket.name))?;
    }
    Ok(())
}

/// Lists what a path without its first `/` names: buckets, or keys of one.
pub(crate) fn list(
    client: &Client,
    path: &str,
    args: &ListArgs,
    fresh: bool,
    screen: &Screen,
) -> Result<(), CliError> {
    let listed = if path.is_empty() {
        if !args.recursive {
            return buckets(client, screen);
        }
        everywhere(client, args, fresh)?
    } else {
        let path = format!("/{path}");
        let (bucket, prefix) = split(&path)?;
        client.names(bucket, &args.query(prefix, fresh))?
    };
    if screen.json {
        return screen.document(&listed);
    }
    if args.long || args.versions {
        let mut rows = Rows::new(["KEY", "KIND", "SIZE", "MODIFIED", "HEALTH", "VERSION", ""], &[2]);
        for prefix in &listed.prefixes {
            let blank = String::new;
            let (key, kind) = (escape::line(prefix).into_owned(), "prefix".to_owned());
            rows.add([key, kind, blank(), blank(), blank(), blank(), blank()]);
        }
        for name in &listed.files {
            rows.add(row(name));
        }
        return screen.table(&rows);
    }
    for prefix in &listed.prefixes {
        screen.line(escape::line(prefix))?;
    }
    for name in &listed.files {
        screen.line(escape::line(&name.name))?;
    }
    Ok(())
}

impl ListArgs {
    fn query(&self, prefix: &str, fresh: bool) -> NamesQuery {
        NamesQuery {
            prefix: prefix.to_owned(),
            delimiter: (!self.recursive).then(|| "/".to_owned()),
            versions: self.versions,
            deleted: self.deleted,
            conflicts: self.conflicts,
            fresh,
            health: fresh && self.long,
        }
    }

    /// Whether anything is asked for that only keys have.
    pub(crate) fn is_plain(&self) -> bool {
        !(self.long || self.recursive || self.versions || self.deleted || self.conflicts)
    }
}

/// The keys of all buckets, as `/BUCKET/KEY`.
fn everywhere(client: &Client, args: &ListArgs, fresh: bool) -> Result<NameList, CliError> {
    let mut all = NameList {
        files: Vec::new(),
        prefixes: Vec::new(),
        next: None,
    };
    for Bucket { name: bucket, .. } in client.buckets()?.body.buckets {
        let listed = client.names(&bucket, &args.query("", fresh))?;
        all.files.extend(listed.files.into_iter().map(|file| ListedName {
            name: format!("/{bucket}/{}", file.name),
            ..file
        }));
    }
    Ok(all)
}

fn row(name: &ListedName) -> [String; 7] {
    let size = match name.kind {
        NameKind::File => Size(name.size_bytes).to_string(),
        NameKind::Directory | NameKind::Deleted => String::new(),
    };
    [
        escape::line(&name.name).into_owned(),
        name.kind.to_string(),
        size,
        name.modified.clone(),
        name.health.map_or("-", Health::as_str).to_owned(),
        name.version.clone(),
        if name.conflict { "conflict" } else { "" }.to_owned(),
    ]
}

/// Marks a key as deleted.
pub(crate) fn remove(client: &Client, name: &str, screen: &Screen) -> Result<(), CliError> {
    let reply = client.delete_name(name)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    note_deleted(name, screen);
    Ok(())
}

/// Says what deleting a name does, and does not.
pub(crate) fn note_deleted(name: &str, screen: &Screen) {
    screen.note(format!(
        "deleted {}; its versions are kept, and take the space that they took",
        escape::line(name)
    ));
}

/// Where a file is to be put: `/BUCKET/KEY`.
pub(crate) fn destination(text: &str) -> Result<&str, String> {
    match text.strip_prefix('/').and_then(|path| path.split_once('/')) {
        Some((bucket, _)) if !bucket.is_empty() => Ok(text),
        Some(_) | None => Err("expected /BUCKET/KEY, or /BUCKET/ for the file's own name".to_owned()),
    }
}

/// A destination that ends in `/` with the file's own name behind it.
pub(crate) fn with_own(to: &str, own: Option<&OsStr>) -> Result<String, CliError> {
    if !to.ends_with('/') {
        return Ok(to.to_owned());
    }
    let own = own.ok_or_else(|| CliError::Usage("standard input has no name; give it a key".to_owned()))?;
    let own = own.to_str().ok_or_else(|| {
        CliError::Usage("the file's name is not UTF-8, which keys are; give it a key".to_owned())
    })?;
    Ok(format!("{to}{own}"))
}

/// Splits `/BUCKET/KEY`; the key may be empty where it stands for all of a bucket.
pub(crate) fn split(name: &str) -> Result<(&str, &str), CliError> {
    let path = name.strip_prefix('/');
    let parts = path.map(|path| path.split_once('/').unwrap_or((path, "")));
    parts
        .filter(|(bucket, _)| !bucket.is_empty())
        .ok_or_else(|| CliError::Usage(format!("{name:?}: expected /BUCKET/KEY")))
}

/// Refuses what names a bucket and no key in it; links pass.
pub(crate) fn check_key(word: &str) -> Result<(), CliError> {
    if word.starts_with('/') && split(word)?.1.is_empty() {
        return Err(CliError::Usage(format!(
            "{word:?} names no key: expected /BUCKET/KEY, or -r for all keys of the bucket"
        )));
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub(crate) struct MoveArgs {
    /// What: /BUCKET/KEY
    from: String,
    /// Where to: /BUCKET/KEY, or /BUCKET/KEY/ for the same name in there
    to: String,
    /// All keys below it too
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(clap::Args, Debug)]
pub(crate) struct RestoreArgs {
    /// What: /BUCKET/KEY
    name: String,
    /// The version that shows again, as `ls --versions` shows it
    #[arg(long, value_name = "VERSION")]
    version: String,
    #[command(flatten)]
    connect: Connect,
}

/// Copies or moves keys.
pub(crate) fn copy(args: &MoveArgs, moved: bool, screen: &Screen) -> Result<(), CliError> {
    let (bucket, from) = split(&args.from)?;
    let (other, to) = split(&args.to)?;
    if !args.recursive {
        check_key(&args.from)?;
    }
    let to = target(from, to, args.recursive);
    let copy = CopyName {
        from: from.to_owned(),
        to,
        bucket: Some(other.to_owned()),
        recursive: args.recursive,
        version: None,
        moved,
    };
    let batch = Batch {
        copy: vec![copy],
        ..Batch::default()
    };
    let what = if moved { "moved" } else { "copied" };
    apply(&args.connect.client()?, bucket, &batch, what, screen)
}

/// What `from` is to become. Directories stay directories: what ends in `/` goes on to.
fn target(from: &str, to: &str, recursive: bool) -> String {
    let is_directory = from.is_empty() || from.ends_with('/');
    let own = from.trim_end_matches('/');
    let own = own.rsplit_once('/').map_or(own, |(_, own)| own);
    let into = to.is_empty() || to.ends_with('/');
    let end = if is_directory { "/" } else { "" };
    match (into, recursive && is_directory) {
        // All that is in it.
        (true, true) => to.to_owned(),
        (true, false) => format!("{to}{own}{end}"),
        (false, _) => format!("{to}{end}"),
    }
}

/// An old version of a key shows again, as a new one.
pub(crate) fn restore(args: &RestoreArgs, screen: &Screen) -> Result<(), CliError> {
    let (bucket, key) = split(&args.name)?;
    let copy = CopyName {
        from: key.to_owned(),
        to: key.to_owned(),
        bucket: None,
        recursive: false,
        version: Some(args.version.clone()),
        moved: false,
    };
    let batch = Batch {
        copy: vec![copy],
        ..Batch::default()
    };
    apply(&args.connect.client()?, bucket, &batch, "restored", screen)
}

/// Marks all keys that begin so as deleted.
pub(crate) fn remove_all(client: &Client, name: &str, screen: &Screen) -> Result<(), CliError> {
    let (bucket, key) = split(name)?;
    let batch = Batch {
        remove: vec![RemoveName {
            key: key.to_owned(),
            recursive: true,
        }],
        ..Batch::default()
    };
    apply(client, bucket, &batch, "deleted", screen)
}

fn apply(client: &Client, bucket: &str, batch: &Batch, what: &str, screen: &Screen) -> Result<(), CliError> {
    let reply = client.apply(bucket, batch)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let written = usize::try_from(reply.body.written).unwrap_or(usize::MAX);
    screen.note(format!("{what}: {} written", counted(written, "key")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_become_directories() {
        for (from, to, recursive, becomes) in [
            ("a", "b", false, "b"),
            ("a/x", "b/", false, "b/x"),
            ("a/x", "", false, "x"),
            ("e/", "f", false, "f/"),
            ("e/", "f/", false, "f/e/"),
            ("a/", "b", true, "b/"),
            ("a/", "b/", true, "b/"),
            ("a", "b/", true, "b/a"),
            ("a", "b", true, "b"),
            ("", "b", true, "b/"),
            ("", "", true, ""),
        ] {
            assert_eq!(target(from, to, recursive), becomes, "{from} {to} {recursive}");
        }
    }

    #[test]
    fn destinations_name_a_bucket() {
        for good in ["/abc/x", "/abc/", "/abc/a/b/"] {
            assert_eq!(destination(good), Ok(good));
        }
        for bad in ["abc/x", "/abc", "/", "//x", ""] {
            assert!(destination(bad).is_err(), "{bad}");
        }
        assert_eq!(with_own("/abc/a/", Some(OsStr::new("x"))).unwrap(), "/abc/a/x");
        assert_eq!(with_own("/abc/a", None).unwrap(), "/abc/a");
        assert!(with_own("/abc/a/", None).is_err());
    }
}
