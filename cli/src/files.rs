//! `get ls stat rm`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use mutualstore_client::{ByteRange, GetOptions};
use mutualstore_contract::escape;
use mutualstore_contract::reply::{Health, ShardState, StripeStat};
use mutualstore_contract::units::Size;
use mutualstore_daemon::format::names::harmless;

use crate::connect::Connect;
use crate::link::LinkArg;
use crate::output::{CliError, Rows, Screen, advance, event_lines, short_peer};
use crate::put::is_standard;
use crate::target::Target;

/// Stripe ids are long; so much tells the stripes of one file apart.
const ID_SHOWN: usize = 16;

#[derive(clap::Args, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    link: LinkArg,
    /// With -r: the directory it goes to
    #[arg(value_name = "DIR", requires = "recursive")]
    dir: Option<PathBuf>,
    /// All keys below /BUCKET/KEY: run again, it gets what is missing
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
        let one_file = args.output.is_some() || args.range.is_some() || !args.without.is_empty();
        if one_file || args.version.is_some() || args.at.is_some() {
            return Err(CliError::Usage(
                "-r goes with none of -o, --range, --version, --at and --without".to_owned(),
            ));
        }
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
    crate::names::check_key(&link)?;
    let client = args.connect.client()?;
    let mut target = match &args.output {
        Some(_) if to_stdout => Target::Stdout(io::stdout()),
        Some(path) => Target::at(path, args.force)?,
        None => {
            let name = match link.strip_prefix('/') {
                Some(path) => path.rsplit('/').next().map(str::to_owned),
                None => client.head(&link)?.name,
            };
            Target::at(Path::new(&harmless(&name.unwrap_or_default())), args.force)?
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
    if !args.named.is_plain() {
        return Err(CliError::Usage(
            "-l, -r, --versions, --deleted and --conflicts are for keys: `ls -l /BUCKET/`, `ls -r /`"
                .to_owned(),
        ));
    }
    let client = args.connect.client()?;
    let mut buckets = Vec::new();
    if args.pattern.is_none() {
        // A daemon that has not met the others cannot know them.
        let known = client.buckets().map(|reply| reply.body.buckets);
        buckets.extend(known.unwrap_or_default());
    }
    let mut reply = client.list(args.pattern.as_deref(), args.fresh)?;
    if screen.json {
        if let serde_json::Value::Object(document) = &mut reply.json {
            document.insert("buckets".to_owned(), serde_json::json!(buckets));
        }
        return screen.document(&reply.json);
    }
    for bucket in &buckets {
        screen.line(format!("/{}/", bucket.name))?;
    }
    if !buckets.is_empty() && reply.body.files.is_empty() {
        return Ok(());
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
    /// /BUCKET/KEY, and all keys below it
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
    crate::names::check_key(&link)?;
    if link.starts_with('/') {
        return crate::names::remove(&args.connect.client()?, &link, screen);
    }
    let reply = args.connect.client()?.delete(&link)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let deleted = reply.body;
    if let Some(named) = &deleted.named {
        crate::names::note_deleted(named, screen);
        return Ok(());
    }
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
}
