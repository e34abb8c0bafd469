//! The disk under a data directory: how fast it makes things durable, and whether it has room for what is
//! promised.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mutualstore_client::Client;
use mutualstore_contract::units::Size;

use super::Finding;

/// A disk that takes longer to flush a page holds every put up.
const SLOW_FLUSH: Duration = Duration::from_millis(100);
/// Flushes measured.
const FLUSHES: usize = 9;

/// How long the disk takes to make a page durable, the middle of some tries.
pub(super) fn flushes(mut file: File) -> Finding {
    let mut took = Vec::new();
    for _ in 0..FLUSHES {
        let begun = Instant::now();
        let flushed = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
        if let Err(error) = flushed {
            return Finding::bad("flush", error.to_string(), "look at the disk: `dmesg`, `df`");
        }
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let middle = took.get(took.len() / 2).copied().unwrap_or_default();
    let found = format!("a page is durable after {:.1} ms", middle.as_secs_f64() * 1000.0);
    if middle > SLOW_FLUSH {
        return Finding::warning("flush", found, "every put waits for that: use a faster disk");
    }
    Finding::ok("flush", found)
}

/// Free disk against what is still promised, by the configuration the daemon keeps.
pub(super) fn free_space(dir: &Path) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(dir) else {
        return Finding::warning(
            "disk",
            "free space is unknown",
            format!("look at `df {}`", dir.display()),
        );
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let client = Client::open(dir).and_then(|client| client.status());
    let Ok(status) = client.map(|reply| reply.body) else {
        return Finding::ok("disk", format!("{} free", Size(free)));
    };
    let promised = status.capacity_bytes.saturating_sub(status.used_bytes);
    let found = format!("{} free, {} promised", Size(free), Size(promised));
    if free < promised {
        return Finding::warning(
            "disk",
            found,
            "free some, or promise less: `mutualstore daemon --capacity SIZE`",
        );
    }
    Finding::ok("disk", found)
}
