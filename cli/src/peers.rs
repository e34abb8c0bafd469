//! `status ring lookup invite`: the peer and its ring.

use std::time::Duration;

use mutualstore_client::RingQuery;
use mutualstore_contract::exit;
use mutualstore_contract::reply::{Ring, Status};
use mutualstore_contract::units::Size;
use mutualstore_contract::units::counted;

use crate::connect::Connect;
use crate::link;
use crate::output::{CliError, Rows, Screen, percent};

#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    /// End with 4 if any file put here is lost, with 5 if not all are safe, as asked now
    #[arg(long)]
    check: bool,
    /// Ask the holders of every file how it is doing now, instead of what the daemon remembers
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Shows this peer.
pub(crate) fn status(args: &StatusArgs, screen: &Screen) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let reply = if args.fresh || args.check {
        client.status_fresh()?
    } else {
        client.status()?
    };
    if screen.json {
        screen.document(&reply.json)?;
    } else {
        screen.table(&status_rows(&reply.body))?;
    }
    if args.check { verdict(&reply.body) } else { Ok(()) }
}

fn status_rows(status: &Status) -> Rows {
    let Status {
        capacity_bytes,
        used_bytes,
        repair,
        process,
        ..
    } = status;
    let uptime = Duration::from_secs_f64(status.uptime_seconds.clamp(0.0, 1e12).round());
    let used = format!(
        "{} of {} ({})",
        Size(*used_bytes),
        Size(*capacity_bytes),
        percent(*used_bytes, *capacity_bytes)
    );
    let health = file_health(status);
    let repaired = format!(
        "{} pending, {} ({}) rebuilt",
        repair.pending,
        counted(repair.regenerated_total, "shard"),
        Size(repair.bytes_total)
    );
    let used_process = format!(
        "{} of memory, {:.1} s of CPU",
        Size(process.rss_bytes),
        process.cpu_seconds
    );
    let lines = [
        ("peer", status.peer.clone()),
        ("version", status.version.clone()),
        ("up", humantime::format_duration(uptime).to_string()),
        ("ring", status.ring.to_string()),
        ("peers known", status.peers_known.to_string()),
        ("virtual nodes", status.virtual_nodes.to_string()),
        ("stored", used),
        ("shards", status.shards.to_string()),
        ("files put here", health),
        ("repair", repaired),
        ("process", used_process),
    ];
    let mut rows = Rows::headless();
    for (name, value) in lines {
        rows.add([name.to_owned(), value]);
        if let ("ring", Some(open)) = (name, status.open) {
            let who = if open {
                "open: whoever reaches a peer joins"
            } else {
                "closed: an invite is needed to join"
            };
            rows.add(["network".to_owned(), who.to_owned()]);
        }
        if name == "ring"
            && let Some(why) = &status.refused
        {
            rows.add(["refused by".to_owned(), why.clone()]);
        }
        if name == "ring" && status.network.is_none() {
            for (address, error) in &status.join {
                rows.add(["joins".to_owned(), format!("{address}: {error}")]);
            }
        }
    }
    rows
}

/// Files by health, and how old that is.
pub(crate) fn file_health(status: &Status) -> String {
    let files = status.files;
    let unknown = match files.unknown {
        0 => String::new(),
        unknown => format!(", {unknown} not asked about yet"),
    };
    let age = match status.files_age_seconds {
        None | Some(0) => String::new(),
        Some(age) => {
            let age = humantime::format_duration(Duration::from_secs(age));
            format!(" (as of {age} ago or less)")
        }
    };
    format!(
        "{} safe, {} degraded, {} endangered, {} lost{unknown}{age}",
        files.safe, files.degraded, files.endangered, files.lost
    )
}

fn verdict(status: &Status) -> Result<(), CliError> {
    let files = status.files;
    let found = |code, message| Err(CliError::Found { code, message });
    if files.lost > 0 {
        return found(
            exit::UNRECOVERABLE,
            format!("{} cannot be recovered now", counted(files.lost, "file")),
        );
    }
    let unsafe_files = files.degraded + files.endangered + files.unknown;
    if unsafe_files > 0 {
        let verb = if unsafe_files == 1 { "is" } else { "are" };
        let files = counted(unsafe_files, "file");
        return found(exit::REFUSED, format!("{files} {verb} not fully protected now"));
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub(crate) struct RingArgs {
    /// Follow the successors all around; list only peers that answered
    #[arg(long)]
    walk: bool,
    /// Show this peer's routing shortcuts
    #[arg(long)]
    fingers: bool,
    /// See that every virtual node reaches every other; ends with 1 if not
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Shows the ring.
pub(crate) fn ring(args: &RingArgs, screen: &Screen) -> Result<(), CliError> {
    let query = RingQuery {
        walk: args.walk,
        fingers: args.fingers,
        check: args.check,
    };
    let spinner = screen.spinner("asking the ring");
    let reply = args.connect.client()?.ring(query);
    spinner.finish_and_clear();
    let reply = reply?;
    if screen.json {
        screen.document(&reply.json)?;
    } else {
        show_ring(&reply.body, screen)?;
    }
    match &reply.body.check {
        Some(check) if !check.ok => {
            let problems = counted(check.problems.len(), "problem");
            let message = format!("the ring is not consistent: {problems}");
            Err(CliError::Found {
                code: exit::UNEXPECTED,
                message,
            })
        }
        Some(_) | None => Ok(()),
    }
}

fn show_ring(ring: &Ring, screen: &Screen) -> Result<(), CliError> {
    let header = ["PEER", "STATE", "VNODES", "CAPACITY", "USED", "SHARE", "ADDRESS"];
    let mut rows = Rows::new(header, &[2, 3, 4, 5]);
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| Size(bytes).to_string());
    for peer in &ring.peers {
        rows.add([
            peer.peer.clone(),
            peer.state.to_string(),
            peer.virtual_nodes.to_string(),
            size(peer.capacity_bytes),
            size(peer.used_bytes),
            peer.share
                .map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
            peer.addresses.first().cloned().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    screen.table(&rows)?;
    if let Some(fingers) = ring.fingers.as_ref().filter(|fingers| !fingers.is_empty()) {
        let mut rows = Rows::new(["TARGET", "VIRTUAL NODE", "PEER"], &[]);
        for finger in fingers {
            rows.add([finger.target.clone(), finger.id.clone(), finger.peer.clone()]);
        }
        screen.line("")?;
        screen.table(&rows)?;
    }
    if let Some(check) = &ring.check {
        screen.line("")?;
        for problem in &check.problems {
            screen.line(problem)?;
        }
        let verdict = if check.ok {
            "every virtual node reaches every other"
        } else {
            "not consistent"
        };
        screen.line(format!("{verdict} ({})", counted(check.lookups, "lookup")))?;
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub(crate) struct LookupArgs {
    /// An identifier (64 hexadecimal digits) or a link; - reads it from standard input
    #[arg(value_name = "ID|LINK")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    what: String,
    #[command(flatten)]
    connect: Connect,
}

/// Shows who is responsible for an identifier.
pub(crate) fn lookup(args: &LookupArgs, screen: &Screen) -> Result<(), CliError> {
    let what = link::read(&args.what)?;
    let reply = args.connect.client()?.lookup(&what)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let lookup = reply.body;
    let mut rows = Rows::headless();
    rows.add(["id".to_owned(), lookup.id]);
    rows.add(["path".to_owned(), lookup.path.join("  ")]);
    rows.add(["hops".to_owned(), lookup.hops.to_string()]);
    rows.add(["time-outs".to_owned(), lookup.timeouts.to_string()]);
    rows.add(["time".to_owned(), format!("{:.1} ms", lookup.milliseconds)]);
    for holder in lookup.holders {
        rows.add(["responsible".to_owned(), holder]);
    }
    for shard in lookup.shards {
        let held = format!("{} {}", shard.peer.unwrap_or_default(), shard.state);
        rows.add([format!("shard {}", shard.index), held]);
    }
    screen.table(&rows)
}

#[derive(clap::Args, Debug)]
pub(crate) struct InviteArgs {
    #[command(flatten)]
    connect: Connect,
}

/// Prints the line that lets another daemon join.
pub(crate) fn invite(args: &InviteArgs, screen: &Screen) -> Result<(), CliError> {
    let reply = args.connect.client()?.invite()?;
    if screen.json {
        screen.document(&reply.json)
    } else {
        screen.line(reply.body.invite)
    }
}
