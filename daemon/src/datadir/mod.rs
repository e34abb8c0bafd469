//! What stands in a data directory besides shards.
//!
//! * [`files`]: the directory, its lock and its small files; [`keys`]: the file of `key export`.
//! * [`network`]: the network it belongs to, join addresses and invites.
//! * [`list`]: the files put here; [`journal`]: puts and deletions in progress.
//! * `spare`: space that is kept back; `traces`: what a first start that was refused leaves behind.

pub mod files;
pub mod journal;
pub mod keys;
pub mod list;
pub mod network;
pub(crate) mod spare;
pub(crate) mod traces;
