//! What Linux tells about a process: is it still the one we started, its CPU time, its memory.
//!
//! A pid alone names nobody: it is recycled. A process is its pid *and* its start time.

use std::time::Duration;

use procfs::process::{Process, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

fn stat(pid: u32) -> Option<Stat> {
    process(pid)?.stat().ok()
}

/// Start time of a live process in clock ticks since boot; `None` when it is gone or a zombie. One whose
/// first thread has ended lives, and keeps its ports, until the others have too.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    let ended = matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1;
    (!ended).then_some(stat.starttime)
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: Signal) -> Result<(), Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or(Errno::SRCH)?, signal)
}

/// User and system CPU time a process has used so far.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = stat(pid)?;
    let ticks = (stat.utime + stat.stime).saturating_mul(1000);
    Some(Duration::from_millis(ticks / procfs::ticks_per_second().max(1)))
}

/// Resident memory of a process in bytes (`VmRSS`).
pub fn rss_bytes(pid: u32) -> Option<u64> {
    Some(process(pid)?.status().ok()?.vmrss? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_uses_memory() {
        let pid = std::process::id();
        assert_eq!(start_ticks(pid), start_ticks(pid));
        assert!(start_ticks(pid).is_some());
        assert!(cpu_time(pid).is_some());
        assert!(rss_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn child_that_ended_is_not_alive_even_as_a_zombie() {
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
