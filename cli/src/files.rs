//! `put get ls stat rm`.

use std::fs::File;
use std::io::{self, Read, Seek, StdinLock};
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use mutualstore_client::{ByteRange, Changed, ClientError, GetOptions, PutOptions, Source};
use mutualstore_contract::escape;
use mutualstore_contract::reply::{Health, ShardState, StripeStat};
use mutualstore_contract::units::Size;
use mutualstore_daemon::format::manifest::{MAX_FRAGMENTS, MAX_NAME};
use mutualstore_daemon::format::names::harmless;
use mutualstore_erasure::Policy;

use crate::connect::Connect;
use crate::link::LinkArg;
use crate::output::{CliError, Rows, Screen, advance, event_lines, short_peer};
use crate::target::Target;

/// Stripe ids are long; so much tells the stripes of one file apart.
const ID_SHOWN: usize = 16;

#[derive(clap::Args, Debug)]
pub(crate) struct PutArgs {
    /// The file, or - for standard input; more of them, and directories with -r, where a name follows: last
    /// /BUCKET/KEY, or /BUCKET/KEY/ for their own names in there. Without a name, what is put has a link
    /// alone
    #[arg(required = true, value_name = "PATH... [/BUCKET/KEY]")]
    paths: Vec<PathBuf>,
    /// Directories too, with all that is in them: run again, it puts what is missing
    #[arg(long, short)]
    recursive: bool,
    /// Name kept with the file [default: its own]
    #[arg(long, value_parser = name)]
    name: Option<String>,
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

/// Stores a file; the link is the only thing on standard output.
pub(crate) fn put(args: &PutArgs, screen: &Screen) -> Result<(), CliError> {
    let (sources, to) = destination_of(&args.paths)?;
    if let Some(to) = to.filter(|_| args.recursive || sources.len() > 1) {
        return put_all(args, sources, to, screen);
    }
    match sources {
        [path] => put_one(args, path, to, screen),
        _ => Err(CliError::Usage(
            "several files, or a directory with -r, need a name at the end: /BUCKET/KEY/".to_owned(),
        )),
    }
}

/// What is to be put, and the name at the end, if there is one.
fn destination_of(paths: &[PathBuf]) -> Result<(&[PathBuf], Option<&str>), CliError> {
    let Some((last, sources)) = paths.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Ok((paths, None));
    };
    let name = last.to_str().filter(|name| name.starts_with('/'));
    let name = name.ok_or_else(|| {
        CliError::Usage(format!(
            "{}: expected /BUCKET/KEY after what is to be put",
            last.display()
        ))
    })?;
    let name = crate::names::destination(name).map_err(|why| CliError::Usage(format!("{name}: {why}")))?;
    Ok((sources, Some(name)))
}

fn put_all(args: &PutArgs, sources: &[PathBuf], to: &str, screen: &Screen) -> Result<(), CliError> {
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
    crate::tree::put(&args.connect.client()?, sources, to, &options, screen)
}

fn put_one(args: &PutArgs, path: &Path, to: Option<&str>, screen: &Screen) -> Result<(), CliError> {
    let mut input = open(path, args.allow_changing)?;
    let mut length = input.length();
    let own_name = path.file_name().filter(|_| !is_standard(path));
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
        to: to.map(|to| crate::names::with_own(to, own_name)).transpose()?,
        modified_ns: crate::local::modified_ns(path),
        executable: crate::local::is_executable(path),
        stage: false,
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
    if screen.json {
        screen.document(&reply.json)
    } else {
        screen.line(&reply.body.link)
    }
}

fn is_standard(path: &Path) -> bool {
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
            "{} is a directory; put stores one file (pack it first)",
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

#[derive(clap::Args, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    link: LinkArg,
    /// With -r: the directory it goes to
    #[arg(value_name = "DIR", requires = "recursive")]
    dir: Option<PathBuf>,
    /// All keys that begin with /BUCKET/PREFIX: run again, it gets what is missing
    #[arg(long, short, requires = "dir")]
    recursive: bool,
    /// Where to write it, - for standard output [default: its own name, here]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Only these bytes, counted from 0, the last included
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    range: Option<ByteRange>,
    /// Of a file with a name: this version, as `ls --versions` shows it
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Of a file with a name: as it was at this time, as in 2026-11-30T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "version")]
    at: Option<u64>,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    /// Do not read the shard with this index of any stripe, to exercise reconstruction
    #[arg(long, value_name = "INDEX")]
    without: Vec<u32>,
    #[command(flatten)]
    connect: Connect,
}

/// Fetches a file; whatever goes wrong, no half file shows up under its name.
pub(crate) fn get(args: &GetArgs, screen: &Screen) -> Result<(), CliError> {
    if let Some(dir) = &args.dir {
        return crate::tree::get(
            &args.connect.client()?,
            &args.link.read()?,
            dir,
            args.force,
            screen,
        );
    }
    let to_stdout = args.output.as_deref().is_some_and(is_standard);
    if to_stdout && screen.json {
        return Err(CliError::Usage(
            "-o - and --json both want standard output".to_owned(),
        ));
    }
    let link = args.link.read()?;
    let client = args.connect.client()?;
    let mut target = match &args.output {
        Some(_) if to_stdout => Target::Stdout(io::stdout()),
        Some(path) => Target::at(path, args.force)?,
        None => {
            let name = client.head(&link)?.name.unwrap_or_default();
            Target::at(Path::new(&harmless(&name)), args.force)?
        }
    };
    let options = GetOptions {
        range: args.range,
        without: args.without.clone(),
        version: args.version.clone(),
        at_ms: args.at,
    };
    let bar = screen.bar("get");
    let events = event_lines(&bar);
    let begun = Instant::now();
    let outcome = client.get(&link, &options, &mut target, Some(events), &mut |done, total| {
        advance(&bar, done, total);
    });
    bar.finish_and_clear();
    let size_bytes = outcome?;
    let path = target.finish()?;
    let shown = path.as_ref().map(|path| path.to_string_lossy());
    if screen.json {
        let seconds = begun.elapsed().as_secs_f64();
        return screen
            .document(&serde_json::json!({ "size_bytes": size_bytes, "seconds": seconds, "path": shown }));
    }
    if let Some(shown) = shown {
        screen.note(format!("{} ({})", escape::line(&shown), Size(size_bytes)));
    }
    Ok(())
}

/// Unix milliseconds.
fn moment(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?}: expected a time like 2026-11-30T12:00:00Z");
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_millis()).map_err(|_| wrong())
}

/// `FIRST-LAST`, both included; `FIRST-` reaches to the end.
fn range(text: &str) -> Result<ByteRange, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{text:?} is not a byte number"))
    };
    let (first, last) = text.split_once('-').ok_or("a range is FIRST-LAST")?;
    let first = number(first)?;
    let last = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    if last.is_some_and(|last| last < first) {
        return Err("a range ends after it begins".to_owned());
    }
    Ok(ByteRange { first, last })
}

#[derive(clap::Args, Debug)]
pub(crate) struct LsArgs {
    /// Only names like this, * and ? stand for anything; or /BUCKET/PREFIX: the keys of a bucket; or /: the
    /// buckets
    pattern: Option<String>,
    #[command(flatten)]
    named: crate::names::ListArgs,
    /// Ask the holders of every file how it is doing now, instead of what the daemon remembers
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Lists what was put through the daemon.
pub(crate) fn ls(args: &LsArgs, screen: &Screen) -> Result<(), CliError> {
    if let Some(path) = args
        .pattern
        .as_deref()
        .and_then(|pattern| pattern.strip_prefix('/'))
    {
        return crate::names::list(&args.connect.client()?, path, &args.named, args.fresh, screen);
    }
    let client = args.connect.client()?;
    if args.pattern.is_none() && !screen.json {
        // A daemon that has not met the others cannot know them.
        for bucket in client
            .buckets()
            .map(|reply| reply.body.buckets)
            .unwrap_or_default()
        {
            screen.line(format!("/{}/", bucket.name))?;
        }
    }
    let reply = client.list(args.pattern.as_deref(), args.fresh)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    if reply.body.files.is_empty() {
        screen.note("nothing was put through this daemon yet, or nothing matches");
        return Ok(());
    }
    let mut rows = Rows::new(["NAME", "SIZE", "CREATED", "CODE", "HEALTH", "LINK"], &[1]);
    for file in reply.body.files {
        rows.add([
            harmless(&file.name),
            Size(file.size_bytes).to_string(),
            file.created,
            file.code,
            file.health.map_or("-", Health::as_str).to_owned(),
            file.link,
        ]);
    }
    screen.table(&rows)
}

#[derive(clap::Args, Debug)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    link: LinkArg,
    #[command(flatten)]
    connect: Connect,
}

/// Shows every stripe and shard of a file.
pub(crate) fn stat(args: &StatArgs, screen: &Screen) -> Result<(), CliError> {
    let link = args.link.read()?;
    let reply = args.connect.client()?.stat(&link)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let file = reply.body;
    let heads = ["NAME", "SIZE", "CREATED", "CODE", "PLACEMENT", "SCOPE", "HEALTH"];
    let mut summary = Rows::new(heads, &[1]);
    summary.add([
        harmless(&file.name),
        Size(file.size_bytes).to_string(),
        file.created,
        file.code,
        file.placement,
        file.scope
            .map_or_else(|| "-".to_owned(), |scope| scope.to_string()),
        file.health.as_str().to_owned(),
    ]);
    screen.table(&summary)?;
    screen.line("")?;
    let mut stripes = Rows::new(
        ["STRIPE", "KIND", "LENGTH", "LIVE", "NEEDED", "SHARDS"],
        &[2, 3, 4],
    );
    for stripe in &file.stripes {
        stripes.add([
            stripe.id.get(..ID_SHOWN).unwrap_or(&stripe.id).to_owned(),
            stripe.kind.to_string(),
            Size(stripe.length_bytes).to_string(),
            format!("{}/{}", stripe.live, stripe.shards.len()),
            stripe.needed.to_string(),
            shards(stripe),
        ]);
    }
    screen.table(&stripes)?;
    let mut groups: Vec<&Vec<String>> = file
        .stripes
        .iter()
        .filter_map(|stripe| stripe.group.as_ref())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let peers: Vec<&str> = group.iter().map(|peer| short_peer(peer)).collect();
        screen.line(format!("group of {}: {}", peers.len(), peers.join(" ")))?;
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    link: LinkArg,
    /// All keys that begin with /BUCKET/PREFIX
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Deletes a file on every holder.
pub(crate) fn rm(args: &RmArgs, screen: &Screen) -> Result<(), CliError> {
    let link = args.link.read()?;
    if args.recursive {
        return crate::names::remove_all(&args.connect.client()?, &link, screen);
    }
    if link.starts_with('/') {
        return crate::names::remove(&args.connect.client()?, &link, screen);
    }
    let reply = args.connect.client()?.delete(&link)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let deleted = reply.body;
    let (name, size) = (harmless(&deleted.name), Size(deleted.size_bytes));
    match deleted.shards_left {
        0 => screen.note(format!("deleted {name} ({size})")),
        left => screen.note(format!(
            "deleted {name} ({size}); {left} of its shards, too few to read it, go when their peers are back"
        )),
    }
    Ok(())
}

/// `0:kq3V9aXb 1:missing ...`: the holder, or what is wrong.
fn shards(stripe: &StripeStat) -> String {
    let shard = |shard: &mutualstore_contract::reply::ShardStat| {
        let holder = shard.peer.as_deref().map_or("-", short_peer);
        if shard.state == ShardState::Ok {
            format!("{}:{holder}", shard.index)
        } else {
            format!("{}:{holder} {}", shard.index, shard.state)
        }
    };
    stripe.shards.iter().map(shard).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse() {
        assert_eq!(
            range("0-0"),
            Ok(ByteRange {
                first: 0,
                last: Some(0)
            })
        );
        assert_eq!(range("7-"), Ok(ByteRange { first: 7, last: None }));
        for text in ["", "5", "-5", "5-4", "a-b", "1-2-3", "99999999999999999999-"] {
            assert!(range(text).is_err(), "{text}");
        }
    }

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
