//! `put`: one file, or with a name several and whole directories.

use std::fs::File;
use std::io::{self, Read, Seek, StdinLock};
use std::path::{Path, PathBuf};

use mutualstore_client::{Changed, ClientError, Naming, PutOptions, Source};
use mutualstore_contract::escape;
use mutualstore_contract::units::Size;
use mutualstore_daemon::format::manifest::{MAX_FRAGMENTS, MAX_NAME};
use mutualstore_erasure::Policy;

use crate::connect::Connect;
use crate::output::{CliError, Screen, advance, event_lines};

#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command")]
pub(crate) struct PutArgs {
    /// Files, or - for standard input, and with -r directories; last /BUCKET/KEY, or /BUCKET/KEY/ for their
    /// own names in there. Without, a file gets /files/NAME, or `NAME (2)` where that is taken, and standard
    /// input without --name a link alone
    #[arg(required = true, value_name = "PATH... [/BUCKET/KEY]")]
    paths: Vec<PathBuf>,
    /// Directories too, with all that is in them: run again, it puts what is missing
    #[arg(long, short)]
    recursive: bool,
    /// Without /BUCKET/KEY: the name of the file [default: its own]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Give it no name: it has its link alone, and `ls` of this daemon lists it
    #[arg(long, conflicts_with = "recursive")]
    unnamed: bool,
    /// How it is protected: auto, copies:N, xor:K or rs:K+M
    #[arg(long)]
    code: Option<String>,
    /// How peers are chosen: successors, random, copysets, buddies or buddies:G, groups of G peers, the last
    /// ones of more where that does not come out even, one of all where there are fewer [default: what the
    /// daemon was started with, successors]
    #[arg(long, value_name = "POLICY")]
    placement: Option<Policy>,
    /// What keeps to one group under copysets and buddies, the file or each of its fragments [default: file]
    #[arg(long, value_parser = ["file", "fragment"])]
    scope: Option<String>,
    /// Cut it into F fragments of equal length instead of blocks of full shards
    #[arg(
        long,
        value_name = "F",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FRAGMENTS))
    )]
    fragments: Option<u32>,
    /// Largest shard, 64KiB to 1MiB
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<Size>,
    /// Accept just enough shards to read it: unprotected until repaired
    #[arg(long)]
    degraded: bool,
    /// Store a file even if it changes while it is read, and say so: what is stored may be a mixture, and
    /// ends where the file ended when it was opened [default: nothing is stored and the exit code is 5]
    #[arg(long)]
    allow_changing: bool,
    #[command(flatten)]
    connect: Connect,
}

fn name(text: &str) -> Result<String, String> {
    if text.len() <= MAX_NAME {
        return Ok(text.to_owned());
    }
    Err(format!(
        "it is {} bytes long; at most {MAX_NAME} are possible",
        text.len()
    ))
}

/// Where a file goes that is put without a destination.
const DEFAULT: &str = "/files/";

/// Stores files; the links are the only thing on standard output.
pub(crate) fn put(args: &PutArgs, screen: &Screen) -> Result<(), CliError> {
    let (sources, to) = destination_of(&args.paths)?;
    args.check(sources, to)?;
    if args.recursive || (sources.len() > 1 && to.is_some()) {
        return put_all(args, sources, to, screen);
    }
    if sources.len() > 1 {
        // Nothing is stored where one of them is none.
        for path in sources {
            open(path, args.allow_changing)?;
        }
    }
    let mut stored = Vec::new();
    for path in sources {
        let file = put_one(args, path, to, screen)?;
        if !screen.json {
            note(&file, screen)?;
        }
        stored.push(file);
    }
    match stored.as_slice() {
        _ if !screen.json => Ok(()),
        [file] => screen.document(file),
        files => screen.document(&serde_json::json!({ "files": files })),
    }
}

/// Says what a file that was put is called, and its link.
fn note(stored: &serde_json::Value, screen: &Screen) -> Result<(), CliError> {
    let text = |field: &str| stored.get(field)?.as_str().map(escape::line);
    if let (Some(bucket), Some(key)) = (text("bucket"), text("key")) {
        screen.note(format!("/{bucket}/{key}"));
        screen.note("its link reads this version, for as long as the version is kept");
    }
    screen.line(text("link").unwrap_or_default())
}

impl PutArgs {
    /// Refuses what makes no sense together.
    fn check(&self, sources: &[PathBuf], to: Option<&str>) -> Result<(), CliError> {
        let refused = |why: &str| Err(CliError::Usage(format!("{why}; nothing was stored")));
        if to.is_some() && self.unnamed {
            return refused("--unnamed and a name exclude each other");
        }
        if (to.is_some() || self.recursive) && self.name.is_some() {
            return refused("--name is for a file without /BUCKET/KEY, where the key is the name");
        }
        if sources.len() > 1 && self.name.is_some() {
            return refused("--name is for one file");
        }
        if self.recursive && (self.fragments.is_some() || self.allow_changing) {
            return refused("-r goes with neither --fragments nor --allow-changing");
        }
        Ok(())
    }

    /// What is put without a destination, and has a name, gets one.
    fn free_name(&self, path: &Path) -> Option<String> {
        let own = path.file_name().filter(|_| !is_standard(path));
        let own = own.map(|own| own.to_string_lossy().into_owned());
        let name = self.name.clone().or(own)?;
        Some(format!("{DEFAULT}{name}"))
    }
}

/// What is to be put, and the name at the end, if there is one.
fn destination_of(paths: &[PathBuf]) -> Result<(&[PathBuf], Option<&str>), CliError> {
    let Some((last, sources)) = paths.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Ok((paths, None));
    };
    let Some(name) = last.to_str().filter(|name| name.starts_with('/')) else {
        return Ok((paths, None));
    };
    let name = crate::names::destination(name).map_err(|why| CliError::Usage(format!("{name}: {why}")))?;
    Ok((sources, Some(name)))
}

fn put_all(args: &PutArgs, sources: &[PathBuf], to: Option<&str>, screen: &Screen) -> Result<(), CliError> {
    let client = args.connect.client()?;
    if to.is_none() {
        client.create_bucket(DEFAULT.trim_matches('/'))?;
    }
    let to = to.unwrap_or(DEFAULT);
    let directory = sources.iter().find(|source| source.is_dir());
    if let Some(directory) = directory.filter(|_| !args.recursive) {
        let message = format!(
            "{} is a directory; put -r takes it with all that is in it",
            directory.display()
        );
        return Err(CliError::Usage(message));
    }
    if sources.len() > 1 && !to.ends_with('/') {
        let message = format!("{to}: several files need a name that ends in /");
        return Err(CliError::Usage(message));
    }
    let options = PutOptions {
        code: args.code.clone(),
        placement: args.placement.map(|policy| policy.to_string()),
        scope: args.scope.clone(),
        shard_size: args.shard_size.map(|size| size.0),
        degraded: args.degraded,
        ..PutOptions::default()
    };
    crate::tree::put(&client, sources, to, &options, screen)
}

/// Stores a file; what the daemon says of it.
fn put_one(
    args: &PutArgs,
    path: &Path,
    to: Option<&str>,
    screen: &Screen,
) -> Result<serde_json::Value, CliError> {
    let mut input = open(path, args.allow_changing)?;
    let mut length = input.length();
    let own_name = path.file_name().filter(|_| !is_standard(path));
    let named = match to {
        Some(to) => Some(crate::names::with_own(to, own_name)?),
        None if args.unnamed => None,
        None => args.free_name(path),
    };
    let options = PutOptions {
        name: args
            .name
            .clone()
            .or_else(|| own_name.map(|name| name.to_string_lossy().into_owned())),
        code: args.code.clone(),
        placement: args.placement.map(|policy| policy.to_string()),
        scope: args.scope.clone(),
        fragments: args.fragments,
        shard_size: args.shard_size.map(|size| size.0),
        degraded: args.degraded,
        naming: if named.is_some() && to.is_none() {
            Naming::Free
        } else {
            Naming::Replace
        },
        to: named,
        modified_ns: crate::local::modified_ns(path),
        executable: crate::local::is_executable(path),
    };
    let client = args.connect.client()?;
    let mut spool = None;
    if args.fragments.is_some() && length.is_none() {
        let (file, bytes) = spooled(&mut input)?;
        (spool, length) = (Some(file), Some(bytes));
    }
    let bar = screen.bar("put");
    let events = event_lines(&bar);
    let bytes: &mut dyn Read = match &mut spool {
        Some(file) => file,
        None => &mut input,
    };
    let outcome = client.put(bytes, length, &options, Some(events), &mut |done, total| {
        advance(&bar, done, total);
    });
    bar.finish_and_clear();
    let mut reply = outcome?;
    if let Some(warning) = &reply.body.warning {
        screen.warning(warning);
    }
    if let Some(what) = input.changed() {
        screen.warning(format!(
            "{} changed while it was read ({what}): what is stored may be a mixture",
            path.display()
        ));
        if let serde_json::Value::Object(document) = &mut reply.json {
            document.insert("source_changed".to_owned(), what.into());
        }
    }
    Ok(reply.json)
}

/// Whether a path is standard input or output.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes to put.
enum Input {
    Standard(StdinLock<'static>),
    File(Source),
}

impl Input {
    /// How many they are, when that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Standard(_) => None,
            Self::File(source) => source.length(),
        }
    }

    /// What of the file changed while it was read.
    fn changed(&self) -> Option<&'static str> {
        match self {
            Self::Standard(_) => None,
            Self::File(source) => source.changed(),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Standard(stdin) => stdin.read(buffer),
            Self::File(source) => source.read(buffer),
        }
    }
}

fn open(path: &Path, allow_changing: bool) -> Result<Input, CliError> {
    if is_standard(path) {
        return Ok(Input::Standard(io::stdin().lock()));
    }
    let unreadable = |error| CliError::Usage(format!("cannot read {}: {error}", path.display()));
    let source = Source::open(path, allow_changing).map_err(unreadable)?;
    if source.is_dir().map_err(unreadable)? {
        let message = format!(
            "{} is a directory; `put -r` takes it with all that is in it",
            path.display()
        );
        return Err(CliError::Usage(message));
    }
    Ok(Input::File(source))
}

/// The same bytes in a file without a name, for where their number has to be known beforehand.
fn spooled(input: &mut impl Read) -> Result<(File, u64), CliError> {
    let mut copy = || {
        let mut file = tempfile::tempfile()?;
        let length = io::copy(input, &mut file)?;
        file.rewind()?;
        Ok((file, length))
    };
    let unkept = |error: io::Error| {
        let inner = error.get_ref();
        if inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Changed>) {
            return ClientError::Input(error);
        }
        let why = format!("it goes to a temporary file first, because of its fragments: {error}");
        ClientError::Input(io::Error::new(error.kind(), why))
    };
    Ok(copy().map_err(unkept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spooled_is_the_same_and_counted() {
        let bytes = vec![7; 100_000];
        let (mut file, length) = spooled(&mut &bytes[..]).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!((read, length), (bytes, 100_000));
    }

    #[test]
    fn what_cannot_be_put_is_said_before_a_daemon_is_asked() {
        let message = |path: &str| open(Path::new(path), false).err().unwrap().to_string();
        assert!(message("/").contains("is a directory"));
        assert!(message("/nonexistent").starts_with("cannot read /nonexistent"));
        assert_eq!(open(Path::new("/dev/null"), false).unwrap().length(), None);
    }
}
