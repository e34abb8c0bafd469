//! `bucket`, and what `put`, `ls` and `rm` do with names: `/BUCKET/KEY`.

use std::ffi::OsStr;

use clap::Subcommand;
use mutualstore_client::{Client, NamesQuery};
use mutualstore_contract::reply::{Batch, CopyName, ListedName, NameKind, RemoveName, Settings};
use mutualstore_contract::units::{Size, counted};
use mutualstore_daemon::format::names::harmless;

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
    /// Set what holds for a bucket, or show what was set: keep-versions=30d, code=rs:4+2
    Set(SetArgs),
}

#[derive(clap::Args, Debug)]
struct SetArgs {
    /// The bucket
    name: String,
    /// keep-versions=TIME: how long old versions are kept; code=CODE: the code of its files
    #[arg(value_name = "NAME=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    /// Its name: 3 to 63 characters of a-z, 0-9, - and .
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
    let pair = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| CliError::Usage(format!("{text:?}: expected NAME=VALUE; nothing was set")))
    };
    let settings = args.settings.iter().map(pair).collect::<Result<_, _>>()?;
    let client = args.connect.client()?;
    let reply = if args.settings.is_empty() {
        client.settings(&args.name)?
    } else {
        client.set(&args.name, &Settings { settings })?
    };
    if screen.json {
        return screen.document(&reply.json);
    }
    for (name, value) in reply.body.settings {
        screen.line(format!("{}={}", harmless(&name), harmless(&value)))?;
    }
    Ok(())
}

fn buckets(client: &Client, screen: &Screen) -> Result<(), CliError> {
    let reply = client.buckets()?;
    if screen.json {
        return screen.document(&reply.json);
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
    if path.is_empty() {
        return buckets(client, screen);
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let query = NamesQuery {
        prefix: prefix.to_owned(),
        delimiter: (!args.recursive).then(|| "/".to_owned()),
        versions: args.versions,
        deleted: args.deleted,
        conflicts: args.conflicts,
        fresh,
    };
    let listed = client.names(bucket, &query)?;
    if screen.json {
        return screen.document(&serde_json::json!(listed));
    }
    if args.long || args.versions {
        let mut rows = Rows::new(["KEY", "KIND", "SIZE", "MODIFIED", "VERSION", ""], &[2]);
        for prefix in &listed.prefixes {
            let blank = String::new;
            rows.add([
                harmless(prefix),
                "prefix".to_owned(),
                blank(),
                blank(),
                blank(),
                blank(),
            ]);
        }
        for name in &listed.names {
            rows.add(row(name));
        }
        return screen.table(&rows);
    }
    for prefix in &listed.prefixes {
        screen.line(harmless(prefix))?;
    }
    for name in &listed.names {
        screen.line(harmless(&name.key))?;
    }
    Ok(())
}

fn row(name: &ListedName) -> [String; 6] {
    let size = match name.kind {
        NameKind::File => Size(name.size_bytes).to_string(),
        NameKind::Directory | NameKind::Deleted => String::new(),
    };
    [
        harmless(&name.key),
        name.kind.to_string(),
        size,
        name.modified.clone(),
        name.version.clone(),
        if name.conflicts { "conflict" } else { "" }.to_owned(),
    ]
}

/// Marks a key as deleted.
pub(crate) fn remove(client: &Client, name: &str, screen: &Screen) -> Result<(), CliError> {
    let reply = client.delete_name(name)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    screen.note(format!(
        "deleted {}; its versions are kept, and take the space that they took",
        harmless(name)
    ));
    Ok(())
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

/// Splits `/BUCKET/KEY`.
pub(crate) fn split(name: &str) -> Result<(&str, &str), CliError> {
    let parts = name.strip_prefix('/').and_then(|path| path.split_once('/'));
    parts
        .filter(|(bucket, _)| !bucket.is_empty())
        .ok_or_else(|| CliError::Usage(format!("{name:?}: expected /BUCKET/KEY")))
}

#[derive(clap::Args, Debug)]
pub(crate) struct MoveArgs {
    /// What: /BUCKET/KEY
    from: String,
    /// Where to: /BUCKET/KEY, or /BUCKET/KEY/ for the same name in there
    to: String,
    /// All keys that begin with it
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
    let own = from.trim_end_matches('/');
    let own = own.rsplit_once('/').map_or(own, |(_, own)| own);
    let to = if to.is_empty() || to.ends_with('/') && !(args.recursive && from.ends_with('/')) {
        format!("{to}{own}{}", if from.ends_with('/') { "/" } else { "" })
    } else {
        to.to_owned()
    };
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
