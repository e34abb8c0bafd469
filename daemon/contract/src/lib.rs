//! What the daemon and its clients agree on: the contract that scripts rely on, each part of it once.
//!
//! * [`exit`]: the codes with which commands end, and which failures of the daemon carry.
//! * [`reply`]: the JSON documents of the HTTP API and `daemon.json`.
//! * [`units`]: sizes, rates, switches and durations as people write them.
//! * [`escape`]: foreign text made harmless before a terminal shows it.

pub mod escape;
pub mod exit;
pub mod reply;
pub mod units;
