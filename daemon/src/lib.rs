//! The MutualStore peer: from a data directory to a serving peer.
//!
//! * [`run`]: the process: start, signals, the ready line. `app`: the parts put together.
//! * `peer`: this peer as a member of its ring; `keeper`: the local shards, on [`mutualstore_store`];
//!   `transfer`: files in and out; `names`: what they are called; `maintenance`: repair, scrub, compaction,
//!   departure. Each uses those before it.
//! * `serve`: what other peers ask, and which part answers; `api`: the HTTP API on loopback, on `http`, which
//!   all HTTP listeners share.
//! * [`mod@format`]: what links, manifests, tombstones and the like are made of; [`datadir`]: what stands in
//!   the data directory besides shards; [`wire`]: what goes over the connections of [`mutualstore_net`].
//! * [`config`]: how a daemon runs; [`error`]: failures as users see them; `metrics`, `log`, `process`,
//!   `clock`.
//! * [`adversary`]: hostile members, in builds for trying them.

pub mod adversary;
mod api;
mod app;
mod clock;
pub mod config;
pub mod datadir;
pub mod error;
pub mod format;
#[doc(hidden)]
pub mod http;
mod keeper;
mod log;
mod maintenance;
mod metrics;
mod names;
mod peer;
mod process;
mod run;
mod serve;
mod transfer;
pub mod wire;

pub use mutualstore_tree::account;
pub use names::{Left, left, listed_in};
pub use run::run;
