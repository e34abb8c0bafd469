//! What Linux tells about a process: is it still the one we started, its CPU time, its memory.
//!
//! A pid alone names nobody: it is recycled. A process is its pid *and* its start time.

use std::fs;
use std::time::Duration;

/// Fields of `/proc/<pid>/stat` used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u64,
    cpu_ticks: u64,
    start_ticks: u64,
}

/// Start time of a live process in clock ticks since boot; `None` when it is gone or a zombie. One whose
/// first thread has ended lives, and keeps its ports, until the others have too.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = read(pid)?;
    let ended = matches!(stat.state, 'Z' | 'X' | 'x') && stat.threads <= 1;
    (!ended).then_some(stat.start_ticks)
}

/// User and system CPU time a process has used so far.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let ticks = read(pid)?.cpu_ticks;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks.saturating_mul(1000) / per_second))
}

/// Resident memory of a process in bytes (`VmRSS`).
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn read(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name may hold spaces and parentheses: everything counts from the last `)`.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 14, 15, 20 and 22 of proc(5), counted from field 4 on.
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let threads = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        threads,
        cpu_ticks: user + system,
        start_ticks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_parse_whatever_the_name() {
        let line = "42 (a) S (b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 987 1000 200 \
                    18446744073709551615";
        assert_eq!(
            parse(line),
            Some(Stat {
                state: 'S',
                threads: 3,
                cpu_ticks: 12,
                start_ticks: 987
            })
        );
        assert_eq!(parse("42 (x) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_is_alive_and_uses_memory() {
        let pid = std::process::id();
        assert_eq!(start_ticks(pid), start_ticks(pid));
        assert!(start_ticks(pid).is_some());
        assert!(cpu_time(pid).is_some());
        assert!(rss_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn a_child_that_ended_is_not_alive_even_as_a_zombie() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while start_ticks(pid).is_some() {
            assert!(std::time::Instant::now() < limit, "`true` never ended");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(start_ticks(pid), None);
    }
}
