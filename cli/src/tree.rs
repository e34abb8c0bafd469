//! `put -r` and `get -r`: whole directories, with empty ones, times and the executable bit.
//!
//! Run again, only what is missing goes: a file of the same size and time is taken for the same. What is put
//! gets its keys in batches, each all or nothing, so an interrupted put goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use indicatif::ProgressBar;
use mutualstore_client::{Client, ClientError, GetOptions, NamesQuery, Naming, PutOptions, Source};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{Batch, Enter, EnterDirectory, ListedName, NameKind};
use mutualstore_contract::units::counted;

use crate::local::{is_executable_of, modified_ns_of, time_of};
use crate::names::split;
use crate::output::{CliError, Screen, advance};
use crate::target::{Target, remove_stale};

/// Files on their way at the same time.
const WIDTH: usize = 8;
/// Files that get their keys together.
const BATCH: usize = 100;

/// What is to be put.
struct Local {
    path: PathBuf,
    key: String,
    length: u64,
    modified_ns: i64,
    executable: bool,
    directory: bool,
}

impl Local {
    fn new(path: PathBuf, key: String, meta: &Metadata) -> Self {
        let directory = meta.is_dir();
        Self {
            path,
            key: if directory { format!("{key}/") } else { key },
            length: if directory { 0 } else { meta.len() },
            modified_ns: modified_ns_of(meta).unwrap_or_default(),
            executable: is_executable_of(meta),
            directory,
        }
    }

    fn is(&self, there: &ListedName) -> bool {
        let kind = if self.directory {
            NameKind::Directory
        } else {
            NameKind::File
        };
        there.kind == kind
            && there.size_bytes == self.length
            && there.modified_ns == self.modified_ns
            && there.executable == self.executable
    }
}

/// Walks a file or directory. What cannot be put is named and left out.
fn walk(path: &Path, key: &str, found: &mut Vec<Local>, screen: &Screen) -> Result<(), CliError> {
    let unreadable = |error: io::Error| CliError::Usage(format!("cannot read {}: {error}", path.display()));
    let meta = fs::symlink_metadata(path).map_err(unreadable)?;
    if !meta.is_dir() && !meta.is_file() {
        screen.warning(format!("{} is a link or no file; left out", path.display()));
        return Ok(());
    }
    found.push(Local::new(path.to_owned(), key.to_owned(), &meta));
    if meta.is_dir() {
        let mut children = fs::read_dir(path)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(unreadable)?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let name = child.file_name();
            let Some(name) = name.to_str() else {
                screen.warning(format!(
                    "{}: its name is not UTF-8; left out",
                    child.path().display()
                ));
                continue;
            };
            walk(&child.path(), &format!("{key}/{name}"), found, screen)?;
        }
    }
    Ok(())
}

/// What directories and files are to be put, by key.
fn locals(sources: &[PathBuf], prefix: &str, screen: &Screen) -> Result<Vec<Local>, CliError> {
    let mut found = Vec::new();
    for source in sources {
        let key = if prefix.is_empty() || prefix.ends_with('/') {
            let whole = source.canonicalize();
            let whole = whole
                .map_err(|error| CliError::Usage(format!("cannot read {}: {error}", source.display())))?;
            let name = whole.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| {
                CliError::Usage(format!(
                    "{} has no name that a key can have; name one",
                    source.display()
                ))
            })?;
            format!("{prefix}{name}")
        } else {
            prefix.to_owned()
        };
        walk(source, &key, &mut found, screen)?;
    }
    Ok(found)
}

/// What runs side by side, and its first failure.
struct Crew<'a, T> {
    work: Mutex<std::slice::Iter<'a, T>>,
    failure: Mutex<Option<CliError>>,
}

impl<'a, T: Sync> Crew<'a, T> {
    fn run(all: &'a [T], each: impl Fn(&'a T) -> Result<(), CliError> + Sync) -> Result<(), CliError> {
        let crew = Self {
            work: Mutex::new(all.iter()),
            failure: Mutex::new(None),
        };
        thread::scope(|scope| {
            for _ in 0..WIDTH.min(all.len()) {
                scope.spawn(|| crew.member(&each));
            }
        });
        let failure = crew.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }

    fn member(&self, each: &impl Fn(&'a T) -> Result<(), CliError>) {
        loop {
            let failed = self
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some();
            let next = self.work.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(one) = next.filter(|_| !failed) else {
                return;
            };
            if let Err(error) = each(one) {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                return;
            }
        }
    }
}

/// Puts files and directories under `/BUCKET/PREFIX`.
pub(crate) fn put(
    client: &Client,
    sources: &[PathBuf],
    to: &str,
    options: &PutOptions,
    screen: &Screen,
) -> Result<(), CliError> {
    let (bucket, prefix) = split(to)?;
    let found = locals(sources, prefix, screen)?;
    let query = NamesQuery {
        prefix: prefix.to_owned(),
        fresh: true,
        ..NamesQuery::default()
    };
    let there = client.names(bucket, &query)?.files;
    let there: BTreeMap<&str, &ListedName> = there.iter().map(|name| (name.name.as_str(), name)).collect();
    let new = |local: &&Local| there.get(local.key.as_str()).is_none_or(|there| !local.is(there));
    let wanted: Vec<&Local> = found.iter().filter(new).collect();
    let total: u64 = wanted.iter().map(|local| local.length).sum();
    let bar = screen.bar("put");
    let putting = Putting {
        client,
        bucket,
        options,
        screen,
        bar: &bar,
        done: AtomicU64::new(0),
        total,
        warned: AtomicBool::new(false),
    };
    let mut left_out = 0;
    for part in wanted.chunks(BATCH) {
        left_out += putting.part(part)?;
    }
    bar.finish_and_clear();
    let (skipped, written) = (found.len() - wanted.len(), wanted.len() - left_out);
    if screen.json {
        screen.document(&serde_json::json!({
            "written": written, "unchanged": skipped, "left_out": left_out, "size_bytes": total,
        }))?;
    } else {
        screen.note(format!(
            "{} put under {to}, {skipped} unchanged",
            counted(written, "key")
        ));
    }
    if left_out == 0 {
        return Ok(());
    }
    Err(CliError::Found {
        code: exit::REFUSED,
        message: format!(
            "{} could not be read, or changed meanwhile; all else is put; run it again for the rest",
            counted(left_out, "file")
        ),
    })
}

/// A put of many files.
struct Putting<'a> {
    client: &'a Client,
    bucket: &'a str,
    options: &'a PutOptions,
    screen: &'a Screen,
    bar: &'a ProgressBar,
    done: AtomicU64,
    /// Bytes of all files.
    total: u64,
    /// The daemon's warning was shown.
    warned: AtomicBool,
}

impl Putting<'_> {
    /// Puts files, which get their keys together, and directories. How many files could not be read.
    fn part(&self, part: &[&Local]) -> Result<usize, CliError> {
        let entered = Mutex::new(Vec::new());
        let left_out = AtomicUsize::new(0);
        let directories = part.iter().filter(|local| local.directory);
        let directories = directories.map(|local| EnterDirectory {
            key: local.key.clone(),
            modified_ns: local.modified_ns,
        });
        let files: Vec<&Local> = part.iter().copied().filter(|local| !local.directory).collect();
        let outcome = Crew::run(&files, |local| {
            match self.stage(local) {
                Ok(entry) => entered.lock().unwrap_or_else(PoisonError::into_inner).push(entry),
                Err(ClientError::Input(error)) => {
                    left_out.fetch_add(1, Ordering::Relaxed);
                    let path = local.path.display();
                    self.bar.suspend(|| {
                        self.screen
                            .warning(format!("cannot read {path}: {error}; left out"));
                    });
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        });
        // What is stored gets its key, also where the rest failed.
        let batch = Batch {
            enter: entered.into_inner().unwrap_or_else(PoisonError::into_inner),
            directories: directories.collect(),
            ..Batch::default()
        };
        if !batch.enter.is_empty() || !batch.directories.is_empty() {
            self.client.apply(self.bucket, &batch)?;
        }
        outcome?;
        Ok(left_out.into_inner())
    }

    /// Stores a file that gets its key later.
    fn stage(&self, local: &Local) -> Result<Enter, ClientError> {
        let mut source = Source::open(&local.path, false).map_err(ClientError::Input)?;
        let options = PutOptions {
            to: Some(format!("/{}/{}", self.bucket, local.key)),
            naming: Naming::Stage,
            ..self.options.clone()
        };
        let length = source.length();
        let reply = self
            .client
            .put(&mut source, length, &options, None, &mut |_, _| ())?;
        if let Some(warning) = &reply.body.warning
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            self.bar.suspend(|| self.screen.warning(warning));
        }
        let moved = self.done.fetch_add(local.length, Ordering::Relaxed) + local.length;
        advance(self.bar, moved, Some(self.total));
        Ok(Enter {
            key: local.key.clone(),
            link: reply.body.link,
            size_bytes: reply.body.size_bytes,
            modified_ns: local.modified_ns,
            executable: local.executable,
        })
    }
}

/// Where a key goes below a directory; none if no file can have such a path.
fn place(dir: &Path, rest: &str) -> Option<PathBuf> {
    let mut path = dir.to_owned();
    let parts = rest.strip_suffix('/').unwrap_or(rest).split('/');
    for part in parts {
        if part.is_empty() || part == "." || part == ".." || part.contains('\0') || part.len() > 255 {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

/// A key and where it goes.
struct Wanted {
    name: ListedName,
    path: PathBuf,
}

/// What goes where. What a file system cannot have is named and left out.
fn wanted(names: Vec<ListedName>, prefix: &str, dir: &Path, screen: &Screen) -> Vec<Wanted> {
    let keys: BTreeSet<String> = names.iter().map(|name| name.name.clone()).collect();
    let is_parent = |key: &str| {
        let inside = format!("{key}/");
        keys.range(inside.clone()..)
            .next()
            .is_some_and(|next| next.starts_with(&inside))
    };
    let mut all = Vec::new();
    for name in names {
        let rest = name.name.get(prefix.len()..).unwrap_or_default();
        if rest.is_empty() {
            continue;
        }
        match place(dir, rest) {
            Some(path) if name.kind == NameKind::Directory || !is_parent(&name.name) => {
                all.push(Wanted { name, path });
            }
            Some(_) => screen.warning(format!(
                "{:?} is a file and a directory; the file is left out",
                name.name
            )),
            None => screen.warning(format!("{:?} can be no path here; left out", name.name)),
        }
    }
    all
}

/// Gets all keys that begin with `/BUCKET/PREFIX` into a directory.
pub(crate) fn get(
    client: &Client,
    from: &str,
    dir: &Path,
    force: bool,
    screen: &Screen,
) -> Result<(), CliError> {
    let (bucket, prefix) = split(from)?;
    let prefix = if prefix.is_empty() || prefix.ends_with('/') {
        prefix.to_owned()
    } else {
        format!("{prefix}/")
    };
    let query = NamesQuery {
        prefix: prefix.clone(),
        fresh: true,
        ..NamesQuery::default()
    };
    let names = client.names(bucket, &query)?.files;
    if names.is_empty() {
        return Err(CliError::Found {
            code: exit::NOT_FOUND,
            message: format!("no key begins with {from:?}; nothing was written"),
        });
    }
    let all = wanted(names, &prefix, dir, screen);
    make_room(&all, dir)?;
    let files: Vec<&Wanted> = all.iter().filter(|one| one.name.kind == NameKind::File).collect();
    let missing: Vec<&Wanted> = files.iter().copied().filter(|one| !is_here(one)).collect();
    let total: u64 = missing.iter().map(|one| one.name.size_bytes).sum();
    let differing = AtomicUsize::new(0);
    let (bar, done) = (screen.bar("get"), AtomicU64::new(0));
    Crew::run(&missing, |one| {
        if !force && fs::symlink_metadata(&one.path).is_ok() {
            differing.fetch_add(1, Ordering::Relaxed);
            let path = one.path.display();
            bar.suspend(|| screen.warning(format!("{path} is here and differs; left out")));
            return Ok(());
        }
        get_one(client, bucket, one, (force, screen))?;
        let moved = done.fetch_add(one.name.size_bytes, Ordering::Relaxed) + one.name.size_bytes;
        advance(&bar, moved, Some(total));
        Ok(())
    })?;
    bar.finish_and_clear();
    set_times(&all)?;
    let (skipped, differing) = (files.len() - missing.len(), differing.into_inner());
    let written = missing.len() - differing;
    if screen.json {
        screen.document(&serde_json::json!({
            "written": written, "unchanged": skipped, "left_out": differing, "size_bytes": done.into_inner(),
        }))?;
    } else {
        screen.note(format!(
            "{} written to {}, {skipped} unchanged",
            counted(written, "file"),
            dir.display()
        ));
    }
    if differing == 0 {
        return Ok(());
    }
    Err(CliError::Found {
        code: exit::USAGE,
        message: format!(
            "{} differ here and stayed as they are; all else is written; --force overwrites them",
            counted(differing, "file")
        ),
    })
}

/// Whether a file of the same size and time is where it goes.
fn is_here(one: &Wanted) -> bool {
    fs::metadata(&one.path).is_ok_and(|meta| {
        meta.is_file()
            && meta.len() == one.name.size_bytes
            && modified_ns_of(&meta) == Some(one.name.modified_ns)
            && is_executable_of(&meta) == one.name.executable
    })
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::Usage(format!("cannot write {}: {error}", path.display()))
}

/// Makes all directories, and removes what an interrupted `get` left in them.
fn make_room(all: &[Wanted], dir: &Path) -> Result<(), CliError> {
    let directory = |one: &'_ Wanted| match one.name.kind {
        NameKind::Directory => Some(one.path.clone()),
        NameKind::File | NameKind::Deleted => one.path.parent().map(Path::to_owned),
    };
    for dir in std::iter::once(dir.to_owned()).chain(all.iter().filter_map(directory)) {
        fs::create_dir_all(&dir).map_err(|error| unwritable(&dir, &error))?;
    }
    let parents: BTreeSet<&Path> = all.iter().filter_map(|one| one.path.parent()).collect();
    parents.into_iter().for_each(remove_stale);
    Ok(())
}

/// Gives directories their times, inner ones first: what is written into a directory changes its time.
fn set_times(all: &[Wanted]) -> Result<(), CliError> {
    let directories = all.iter().filter(|one| one.name.kind == NameKind::Directory);
    for one in directories.rev() {
        let open = File::open(&one.path);
        let set = open.and_then(|dir| dir.set_modified(time_of(one.name.modified_ns)));
        set.map_err(|error| unwritable(&one.path, &error))?;
    }
    Ok(())
}

fn get_one(
    client: &Client,
    bucket: &str,
    one: &Wanted,
    (force, screen): (bool, &Screen),
) -> Result<(), CliError> {
    let mut target = Target::at(&one.path, force)?;
    let options = GetOptions {
        version: Some(one.name.version.clone()),
        ..GetOptions::default()
    };
    let name = format!("/{bucket}/{}", one.name.name);
    let got = client.get(&name, &options, &mut target, None, &mut |_, _| ());
    got.inspect_err(|_| screen.warning(format!("{name:?} is not got")))?;
    target.set(time_of(one.name.modified_ns), one.name.executable)?;
    target.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_lead_elsewhere_have_no_place() {
        let dir = Path::new("/to");
        assert_eq!(place(dir, "a/b").unwrap(), Path::new("/to/a/b"));
        assert_eq!(place(dir, "a/").unwrap(), Path::new("/to/a"));
        for bad in ["../a", "a/../../b", "/etc", "a//b", ".", "a\0b", ""] {
            assert!(place(dir, bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn first_failure_ends_all() {
        let all: Vec<usize> = (0..100).collect();
        let ran = AtomicU64::new(0);
        let outcome = Crew::run(&all, |one| {
            ran.fetch_add(1, Ordering::Relaxed);
            if *one == 3 {
                return Err(CliError::Usage("three".to_owned()));
            }
            Ok(())
        });
        assert!(outcome.is_err());
        assert!(Crew::run(&all, |_| Ok(())).is_ok());
    }
}
