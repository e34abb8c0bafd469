//! What this process uses, from `/proc/self`.

use mutualstore_contract::reply::ProcessUse;

/// Now; zeros where there is no `/proc`.
pub(crate) fn current() -> ProcessUse {
    ProcessUse {
        cpu_seconds: cpu_seconds().unwrap_or_default(),
        rss_bytes: rss_bytes().unwrap_or_default(),
        files_open: std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
        files_limit: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
    }
}

fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let whole = std::time::Duration::new(
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    );
    Some(whole.as_secs_f64())
}

fn rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_something() {
        let used = super::current();
        assert!(used.rss_bytes > 0 && used.cpu_seconds > 0.0 && used.files_open > 2);
    }
}
