//! Looking after peers: repair, scrub, forget, leave.

use std::time::Duration;

use indicatif::ProgressBar;
use mutualstore_client::{Client, ClientError, Reply};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{Departure, LeaveReport};
use mutualstore_contract::units::Size;
use mutualstore_contract::units::counted;

use crate::connect::Connect;
use crate::output::{CliError, Screen, advance, event_lines};

/// How often a departure is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args, Debug)]
pub(crate) struct RepairArgs {
    /// Rebuild what this peer held, on all peers; its id, or at least 6 letters of its beginning or end
    #[arg(long)]
    peer: Option<String>,
    /// Come back when nothing is missing any more
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Rebuilds what is missing now.
pub(crate) fn repair(args: &RepairArgs, screen: &Screen) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let spinner = screen.spinner("repairing");
    let events = event_lines(&spinner);
    let outcome = client.repair(args.peer.as_deref(), args.wait, Some(events));
    spinner.finish_and_clear();
    let reply = outcome?;
    let report = reply.body;
    if screen.json {
        screen.document(&reply.json)?;
    } else {
        screen.line(format!(
            "{} ({}) rebuilt, {} pending",
            counted(report.regenerated, "shard"),
            Size(report.bytes),
            report.pending
        ))?;
    }
    if report.unrecoverable.is_empty() {
        return Ok(());
    }
    for stuck in &report.unrecoverable {
        let name = stuck.name.as_deref().unwrap_or("of a file put elsewhere");
        screen.warning(format!("cannot be rebuilt now: {name}: {}", stuck.reason));
    }
    let gone = report.unrecoverable.iter().filter(|stuck| stuck.gone).count();
    Err(CliError::Found {
        code: exit::UNRECOVERABLE,
        message: beyond_repair(gone, report.unrecoverable.len() - gone),
    })
}

/// What to expect of files, or stripes of others' files, of which too few shards exist, or are there.
fn beyond_repair(gone: usize, away: usize) -> String {
    let things = |count| match count {
        1 => "1 file or stripe".to_owned(),
        count => format!("{count} files or stripes"),
    };
    let lost = format!(
        "{} cannot be rebuilt: too few of the shards are left, those of peers that are away counted",
        things(gone)
    );
    let waiting = format!(
        "{} cannot be rebuilt until peers that hold the shards are back",
        things(away)
    );
    match (gone, away) {
        (_, 0) => lost,
        (0, _) => waiting,
        _ => format!("{lost}; {waiting}"),
    }
}

#[derive(clap::Args, Debug)]
pub(crate) struct ScrubArgs {
    /// Come back when everything was read
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Reads and verifies every shard the daemon holds.
pub(crate) fn scrub(args: &ScrubArgs, screen: &Screen) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let spinner = screen.spinner("reading every shard");
    let outcome = client.scrub(args.wait);
    spinner.finish_and_clear();
    let reply = outcome?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let report = reply.body;
    if !report.done {
        return screen.line("begun; `mutualstore status --json` counts what was read and what was bad");
    }
    for shard in &report.bad_shards {
        screen.warning(format!("CORRUPTED_BLOCK {shard}"));
    }
    let cure = if report.bad == 0 {
        ""
    } else {
        "; they were dropped and are rebuilt from other peers"
    };
    screen.line(format!(
        "{} read, {} bad{cure}",
        counted(report.checked, "shard"),
        report.bad
    ))
}

#[derive(clap::Args, Debug)]
pub(crate) struct ForgetArgs {
    /// Its id, or at least 6 letters of its beginning or end
    peer: String,
    #[command(flatten)]
    connect: Connect,
}

/// Tells all peers that one is gone for good.
pub(crate) fn forget(args: &ForgetArgs, screen: &Screen) -> Result<(), CliError> {
    if args.peer.is_empty() {
        return Err(CliError::Usage(
            "whom? give the peer's id, or 6 letters of its beginning or end".to_owned(),
        ));
    }
    let reply = args.connect.client()?.forget(&args.peer)?;
    if screen.json {
        return screen.document(&reply.json);
    }
    let forgotten = reply.body;
    screen.line(format!(
        "{} is forgotten by {}; what it held is rebuilt now",
        forgotten.peer,
        counted(forgotten.told, "peer")
    ))?;
    for peer in &forgotten.silent {
        screen.warning(format!(
            "{peer} did not answer and waits for it until `repair_delay` is over"
        ));
    }
    Ok(())
}

#[derive(clap::Args, Debug)]
pub(crate) struct LeaveArgs {
    /// Come back when the daemon has left and ended
    #[arg(long)]
    wait: bool,
    /// Leave also when not all can be handed over; what stays behind is rebuilt from what others hold
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Has the daemon hand everything over, leave the ring and end.
pub(crate) fn leave(args: &LeaveArgs, screen: &Screen) -> Result<(), CliError> {
    let client = args.connect.client()?;
    let mut reply = client.leave(args.force)?;
    if args.wait {
        let bar = screen.bar("handing over");
        let end = watch(&client, reply, &bar);
        bar.finish_and_clear();
        reply = end?;
    }
    let report = &reply.body;
    if let (Departure::Stuck, Some(reason)) = (report.state, &report.reason) {
        let message = format!(
            "not left: {reason}; nothing is lost, the peer goes on; add peers, or leave with --force"
        );
        return Err(CliError::Found {
            code: exit::REFUSED,
            message,
        });
    }
    if screen.json {
        return screen.document(&reply.json);
    }
    screen.line(match report.state {
        Departure::Left if report.committed_bytes > 0 => format!(
            "left with {} that nobody has taken: the others rebuild it from theirs where they can; the \
             daemon has ended",
            Size(report.committed_bytes)
        ),
        Departure::Left => "left: all it held is with others, and the daemon has ended".to_owned(),
        Departure::Stays | Departure::Draining | Departure::Stuck => format!(
            "leaving: what it holds is handed over, {} ({}), then the daemon ends",
            counted(report.shards, "shard"),
            Size(report.committed_bytes)
        ),
    })
}

/// Follows a departure to its end.
fn watch(
    client: &Client,
    mut reply: Reply<LeaveReport>,
    bar: &ProgressBar,
) -> Result<Reply<LeaveReport>, CliError> {
    let all = reply.body.committed_bytes;
    loop {
        match reply.body.state {
            Departure::Draining => {}
            Departure::Stays | Departure::Stuck => return Ok(reply),
            Departure::Left => break,
        }
        advance(bar, all.saturating_sub(reply.body.committed_bytes), Some(all));
        std::thread::sleep(LOOK);
        reply = client.leaving()?;
    }
    while !is_over(client.leaving()) {
        std::thread::sleep(LOOK);
    }
    Ok(reply)
}

/// Whether nobody answers any more.
fn is_over(answer: Result<Reply<LeaveReport>, ClientError>) -> bool {
    answer.is_err_and(|error| error.exit_code() == exit::NO_DAEMON)
}
