//! Which values of the keys a daemon starts with.

use std::fmt;
use std::time::Duration;

use mutualstore_contract::units::{Rate, Size, TimeSpan};

use super::{ConfigError, Settings};
use crate::datadir::network::{check_listen_address, check_peer_address};
use crate::log;

/// The least a peer gives: a shard of 1 MiB has to be a small part of it.
const MIN_CAPACITY: Size = Size(16 << 20);
/// The least [`Settings::link_rate`], 1 Mbit/s: below, the ring's own messages and a few shards at once take
/// so long that peers are taken for dead.
const MIN_LINK_RATE: Rate = Rate(125_000);
/// The least [`Settings::read_ahead`]: a block or two.
const MIN_READ_AHEAD: Size = Size(8 << 20);
/// Bounds of the number of distinct peers in a successor list.
const SUCCESSORS: std::ops::RangeInclusive<u32> = 5..=64;

impl Settings {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (moment, second) = (Duration::from_millis(100), Duration::from_secs(1));
        self.check_api()?;
        at_least("capacity", self.capacity, MIN_CAPACITY)?;
        at_least("unit", self.unit.unwrap_or(Size(u64::MAX)), Size(1 << 20))?;
        at_least("read_ahead", self.read_ahead, MIN_READ_AHEAD)?;
        let repair_rate = self.repair_rate.unwrap_or(Rate(u64::MAX));
        at_least("repair_rate", repair_rate, Rate(64 << 10))?;
        if let Some(rate) = self.link_rate.filter(|rate| *rate < MIN_LINK_RATE) {
            let why = format!("at least {MIN_LINK_RATE} is needed, or peers would be taken for dead");
            return Err(bounds("link_rate", rate, why));
        }
        at_least("repair_delay", self.repair_delay, TimeSpan(moment))?;
        at_least("pending_lease", self.pending_lease, TimeSpan(second))?;
        at_least("write_timeout", self.write_timeout, TimeSpan(moment))?;
        at_least("tombstone_retention", self.tombstone_retention, TimeSpan(second))?;
        at_least("purge_grace", self.purge_grace, TimeSpan(second))?;
        at_least("stabilize", self.stabilize, TimeSpan(moment / 2))?;
        if self.stabilize.0 > Duration::from_hours(1) {
            return Err(bounds(
                "stabilize",
                self.stabilize,
                "at most 1h keeps a ring together",
            ));
        }
        if !SUCCESSORS.contains(&self.successors) {
            let why = format!("{} to {} are possible", SUCCESSORS.start(), SUCCESSORS.end());
            return Err(bounds("successors", self.successors, why));
        }
        log::check_filter(&self.log).map_err(|problem| {
            let form = "levels (error, warn, info, debug, trace, off) for all or for parts of the program \
                        are expected, such as `info` or `info,mutualstore_daemon=debug`";
            bounds("log", &self.log, format!("{problem}; {form}"))
        })?;
        self.check_addresses()
    }

    /// The API sends its token and every file as they are: beyond this machine only where that is wanted.
    fn check_api(&self) -> Result<(), ConfigError> {
        if self.api.ip().is_loopback() || self.api_insecure.is_on() {
            return Ok(());
        }
        let why = "beyond loopback the HTTP API would send its token and every file in plain text; choose an \
                   address like 127.0.0.1:0, or say --api-insecure";
        Err(bounds("api", self.api, why))
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        if self.listen.is_empty() {
            return Err(bounds("listen", "empty", "give at least one address"));
        }
        let wrong = |key| move |error| ConfigError::Address { key, error };
        for address in &self.listen {
            check_listen_address(address).map_err(wrong("listen"))?;
        }
        for address in &self.announce {
            check_peer_address(address).map_err(wrong("announce"))?;
        }
        Ok(())
    }
}

/// Texts are exact: a value just below its bound does not look like it.
fn at_least<T: Copy + PartialOrd + fmt::Display>(
    key: &'static str,
    value: T,
    least: T,
) -> Result<(), ConfigError> {
    if value < least {
        let value = format!("{value:#}");
        return Err(bounds(key, value, format!("at least {least:#} is needed")));
    }
    Ok(())
}

fn bounds(key: &'static str, value: impl fmt::Display, bounds: impl Into<String>) -> ConfigError {
    ConfigError::Bounds {
        key,
        value: value.to_string(),
        bounds: bounds.into(),
    }
}
