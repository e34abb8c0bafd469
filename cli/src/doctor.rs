//! `doctor`: what can be checked from here, each finding with its cure, and what cannot be found out.

mod disk;
mod membership;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mutualstore_client::{Client, ClientError};
use mutualstore_contract::exit;
use mutualstore_contract::reply::{RingState, Status};
use mutualstore_contract::units::Size;
use mutualstore_contract::units::counted;
use serde::Serialize;

use self::disk::{flushes, free_space};
use self::membership::{admission, elsewhere, ring};
use crate::connect::{Connect, Place};
use crate::output::{CliError, Rows, Screen, percent};
use crate::peers::file_health;

/// Published before this program was: an earlier clock is wrong. 2026-01-01 in Unix seconds.
const EARLIEST: u64 = 1_767_225_600;

/// Clocks this far apart confuse leases and the ages of tombstones.
const CLOCKS_APART: Duration = Duration::from_mins(1);
/// Peers and clients may open so many connections together, and the shard store has files of its own.
const FEW_FILES: u64 = 2048;

const CANNOT_FIND: [&str; 4] = [
    "whether peers that do not know this one could reach it: only some of those in the ring were asked",
    "whether the clocks of all peers are wrong together: look at `timedatectl`",
    "whether the disk keeps what it acknowledges when the power fails",
    "damage that no read has met yet: `mutualstore scrub --wait` reads everything",
];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warning,
    Bad,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: Grade,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            state: Grade::Ok,
            found: found.into(),
            cure: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            check,
            state: Grade::Warning,
            found: found.into(),
            cure: Some(cure.into()),
        }
    }

    fn bad(check: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            check,
            state: Grade::Bad,
            found: found.into(),
            cure: Some(cure.into()),
        }
    }
}

#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    cannot_find: [&'static str; 4],
}

/// Looks at everything it can; ends with 6 without a daemon, with 1 on another bad finding.
pub(crate) fn run(args: &Args, screen: &Screen) -> Result<(), CliError> {
    let mut findings = vec![processor(), clock(SystemTime::now())];
    let client = match args.connect.place()? {
        Place::DataDir(dir) => {
            findings.extend(directory(&dir));
            Client::open(&dir)
        }
        Place::Api { url, token_file } => Client::with_token_file(&url, &token_file),
    };
    let reached = match client {
        Ok(client) => {
            let status = client.status().map(|reply| reply.body);
            let reached = status.is_ok();
            let codes = status.as_ref().ok().and_then(codes);
            findings.extend(daemon(status));
            findings.extend(outside(&client));
            findings.extend(codes);
            reached
        }
        Err(error) => {
            findings.extend(daemon(Err(error)));
            false
        }
    };
    if let Place::DataDir(dir) = args.connect.place()? {
        if !reached {
            findings.extend(files_of_silent(&dir));
        }
        findings.push(free_space(&dir));
    }
    let bad = findings
        .iter()
        .filter(|finding| finding.state == Grade::Bad)
        .count();
    show(
        Report {
            findings,
            cannot_find: CANNOT_FIND,
        },
        screen,
    )?;
    match (bad, reached) {
        (0, _) => Ok(()),
        (_, reached) => Err(CliError::Found {
            message: format!("to be cured: {}", counted(bad, "finding")),
            code: if reached {
                exit::UNEXPECTED
            } else {
                exit::NO_DAEMON
            },
        }),
    }
}

fn show(report: Report, screen: &Screen) -> Result<(), CliError> {
    if screen.json {
        return screen.document(&report);
    }
    let mut rows = Rows::new(["CHECK", "STATE", "FOUND", "CURE"], &[]);
    for finding in report.findings {
        rows.add([
            finding.check.to_owned(),
            finding.state.as_str().to_owned(),
            finding.found,
            finding.cure.unwrap_or_default(),
        ]);
    }
    screen.table(&rows)?;
    screen.note("\nCannot be found out from here:");
    report
        .cannot_find
        .iter()
        .for_each(|line| screen.note(format!("  {line}")));
    Ok(())
}

/// The erasure coder is compiled for AVX2.
fn processor() -> Finding {
    #[cfg(target_arch = "x86_64")]
    if !std::is_x86_feature_detected!("avx2") {
        return Finding::bad(
            "processor",
            "no AVX2",
            "use a machine with AVX2 (Intel 2013, AMD 2015 or later)",
        );
    }
    Finding::ok("processor", "has what the erasure coder needs")
}

fn clock(now: SystemTime) -> Finding {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let shown = humantime::format_rfc3339_seconds(UNIX_EPOCH + now);
    if now < Duration::from_secs(EARLIEST) {
        return Finding::bad(
            "clock",
            format!("says {shown}"),
            "set it, best by NTP (`timedatectl set-ntp true`)",
        );
    }
    Finding::ok("clock", format!("says {shown}"))
}

fn directory(dir: &Path) -> Vec<Finding> {
    let name = dir.display();
    let Ok(meta) = fs::metadata(dir) else {
        let cure = format!("start a daemon: `mutualstore daemon --data-dir {name} --capacity 10GiB`");
        return vec![Finding::bad(
            "data directory",
            format!("{name} does not exist"),
            cure,
        )];
    };
    let mut findings = Vec::new();
    match tempfile::tempfile_in(dir) {
        Ok(file) => {
            findings.push(Finding::ok("data directory", format!("{name} is writable")));
            findings.push(flushes(file));
        }
        Err(error) => {
            let cure = format!("give its owner write permission: `chmod u+rwx {name}`");
            findings.push(Finding::bad("data directory", format!("{name}: {error}"), cure));
        }
    }
    if meta.permissions().mode() & 0o077 != 0 {
        let found = format!("others may look into {name}");
        findings.push(Finding::warning(
            "permissions",
            found,
            format!("`chmod 700 {name}`"),
        ));
    }
    for secret in ["token", "identity", "account", "network.json", "config.toml"] {
        let path = dir.join(secret);
        if fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0) {
            let found = format!("others may read {}", path.display());
            findings.push(Finding::bad(
                "permissions",
                found,
                format!("`chmod 600 {}`", path.display()),
            ));
        }
    }
    findings
}

/// What the daemon says of itself.
fn daemon(status: Result<Status, ClientError>) -> Vec<Finding> {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let cure = "start it: `mutualstore daemon`; if it runs, its log says what it waits for";
            return vec![Finding::bad("daemon", error.to_string(), cure)];
        }
    };
    let mut findings = vec![
        Finding::ok("daemon", format!("version {} answers", status.version)),
        ring(&status),
        admission(&status),
        protection(&status),
        room(&status),
        health(&status),
        damage(&status),
    ];
    findings.extend(elsewhere(&status));
    findings.extend(names(&status));
    findings.extend(writes(&status));
    findings.extend(plain_api(&status));
    findings.extend(open_files(&status));
    findings
}

/// The API sends its token and every file as they are.
fn plain_api(status: &Status) -> Option<Finding> {
    let found = "the HTTP API may be served beyond this machine in plain text (--api-insecure)";
    let cure = "start the daemon with `--api 127.0.0.1:0 --api-insecure=off`, and reach it through a tunnel \
                (`ssh -L`)";
    status.api_insecure.then(|| Finding::warning("api", found, cure))
}

fn protection(status: &Status) -> Finding {
    if status.ring == RingState::Joining || status.ring == RingState::Refused {
        return Finding::warning(
            "protection",
            "no code can be chosen yet: new files are refused without --code",
            "wait until the ring is joined",
        );
    }
    let (code, losses) = match status.peers_known {
        0 | 1 => ("copies:1", 0),
        2 => ("copies:2", 1),
        3 => ("xor:2", 1),
        4..=5 => ("rs:2+2", 2),
        6..=15 => ("rs:4+2", 2),
        _ => ("rs:8+4", 4),
    };
    let found = format!(
        "new files are put as {code}: they survive {} lost at once",
        counted(losses, "peer")
    );
    if losses == 0 {
        return Finding::warning(
            "protection",
            found,
            "join or invite more peers (`mutualstore invite`)",
        );
    }
    Finding::ok("protection", found)
}

fn room(status: &Status) -> Finding {
    let (used, capacity) = (status.used_bytes, status.capacity_bytes);
    let found = format!(
        "{} of {} given are used ({})",
        Size(used),
        Size(capacity),
        percent(used, capacity)
    );
    if used >= capacity / 100 * 90 {
        return Finding::warning(
            "capacity",
            found,
            "give more: `mutualstore daemon --capacity SIZE`",
        );
    }
    Finding::ok("capacity", found)
}

fn health(status: &Status) -> Finding {
    let files = status.files;
    let found = file_health(status);
    if files.lost > 0 {
        return Finding::bad(
            "files",
            found,
            "start the peers that are missing; `mutualstore ring` names them",
        );
    }
    if files.degraded + files.endangered > 0 {
        return Finding::warning(
            "files",
            found,
            "they are repaired where peers and room suffice; `mutualstore repair --wait` does it now, and \
             names what is missing",
        );
    }
    Finding::ok("files", found)
}

/// Shards that did not verify since the daemon started.
fn damage(status: &Status) -> Finding {
    let found = format!(
        "{} read, {} of them damaged",
        counted(status.scrub.checked_total, "shard"),
        status.scrub.bad_total
    );
    if status.scrub.bad_total > 0 {
        let cure = "they are being replaced; look at the disk: `dmesg`, `smartctl -a`";
        return Finding::warning("shards", found, cure);
    }
    Finding::ok("shards", found)
}

/// What is wrong with the buckets of the account.
fn names(status: &Status) -> Option<Finding> {
    if status.records_rolled_back_total > 0 {
        let found = format!(
            "{} of buckets were gone from all holders that answered; what this device had seen is back",
            counted(status.records_rolled_back_total, "record")
        );
        let cure = "holders lost their disks, went back to old copies, or lie: start the account's other \
                    devices, which bring back what they have seen";
        return Some(Finding::warning("names", found, cure));
    }
    let found = format!(
        "changes of {} stand here alone",
        counted(status.buckets_waiting, "bucket")
    );
    let cure = "they go out when enough peers are there: `mutualstore ring` shows which are";
    (status.buckets_waiting > 0).then(|| Finding::warning("names", found, cure))
}

/// Writes of the daemon that its disk failed.
fn writes(status: &Status) -> Option<Finding> {
    let found = format!(
        "{} writes of the daemon failed since it started",
        status.write_failures_total
    );
    let cure =
        "shards it could not write lie elsewhere; look at the disk (`dmesg`, `df`), then restart the daemon";
    (status.write_failures_total > 0).then(|| Finding::bad("disk", found, cure))
}

/// A daemon that may open few files refuses connections when they are used up.
fn open_files(status: &Status) -> Option<Finding> {
    Some(files(status.process.files_open, status.process.files_limit?))
}

/// The same of a daemon that runs and does not answer, as the system says.
fn files_of_silent(dir: &Path) -> Option<Finding> {
    let process = Path::new("/proc").join(mutualstore_client::read_daemon_file(dir)?.pid.to_string());
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = line.split_whitespace().next()?.parse().ok()?;
    let open = fs::read_dir(process.join("fd")).ok()?.count() as u64;
    Some(files(open, limit)).filter(|finding| finding.state != Grade::Ok)
}

fn files(open: u64, limit: u64) -> Finding {
    let found = format!("{open} files and connections are open, {limit} may be");
    let cure = "raise the limit of open files: `LimitNOFILE=` of its systemd unit, or `ulimit -Hn` where it \
                is started";
    if open >= limit / 5 * 4 {
        Finding::bad("open files", found, cure)
    } else if limit < FEW_FILES {
        Finding::warning("open files", found, cure)
    } else {
        Finding::ok("open files", found)
    }
}

/// What some others say of this peer.
fn outside(client: &Client) -> Vec<Finding> {
    let Ok(seen) = client.outside().map(|reply| reply.body) else {
        return Vec::new();
    };
    let Some(ahead) = seen.clock_ahead_ms else {
        return Vec::new();
    };
    let apart = Duration::from_millis(ahead.unsigned_abs());
    let way = if ahead < 0 { "ahead of" } else { "behind" };
    let found = format!("{} {way} the others", humantime::format_duration(apart));
    let clock = if apart > CLOCKS_APART {
        Finding::bad(
            "peers' clocks",
            found,
            "set the clock, best by NTP (`timedatectl set-ntp true`)",
        )
    } else {
        Finding::ok("peers' clocks", found)
    };
    let found = format!(
        "{} of {} can open connections to this one",
        seen.reached,
        counted(seen.answered, "peer")
    );
    let reach = if seen.reached == 0 {
        let cure =
            "open the listen port in the firewall, or name the address others see: `--announce MULTIADDR`";
        Finding::bad("reachability", found, cure)
    } else if seen.reached < seen.answered {
        Finding::warning(
            "reachability",
            found,
            "see which networks the announced addresses are for",
        )
    } else {
        Finding::ok("reachability", found)
    };
    vec![clock, reach]
}

/// Whether there are peers enough for the codes of the files put here.
fn codes(status: &Status) -> Option<Finding> {
    let known = status.peers_known;
    let widest = status
        .codes
        .keys()
        .filter_map(|code| Some((shards(code)?, code)))
        .max()?;
    let (needed, code) = widest;
    let found = format!(
        "the widest code of your files, {code}, needs {}; known: {known}",
        counted(needed, "peer")
    );
    Some(if needed > known {
        Finding::warning(
            "codes",
            found,
            "add peers, or put the files again with another code",
        )
    } else {
        Finding::ok("codes", found)
    })
}

/// Shards per stripe of a code by its name.
fn shards(code: &str) -> Option<u64> {
    let (kind, counts) = code.split_once(':')?;
    let mut counts = counts.split('+').map(str::parse::<u64>);
    let first = counts.next()?.ok()?;
    match (kind, counts.next()) {
        ("copies", None) => Some(first),
        ("xor", None) => Some(first + 1),
        ("rs", Some(parity)) => Some(first + parity.ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
