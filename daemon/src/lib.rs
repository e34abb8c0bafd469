//! The MutualStore peer: shard store, transport, transfers and HTTP API.
//!
//! * [`run`]: from a data directory to a serving peer.
//! * [`config`], [`files`], [`keys`], [`network`], [`journal`], [`list`]: what stands in the data directory
//!   besides shards.
//! * [`mutualstore_store`]: shards on disk.
//! * [`mutualstore_net`]: connections to other peers; [`wire`]: what goes over them.
//! * `node`: ring and custody, driven.
//! * `transfer`: files in and out; [`crypt`], [`link`], [`manifest`], [`names`], [`placement`],
//!   [`tombstone`]: their forms.
//! * [`adversary`]: hostile members, in builds for trying them.
//! * `http`: what all HTTP listeners share; `api`: the HTTP API on loopback; [`error`]: failures as users see
//!   them; [`escape`]: text made harmless; `log`, `metrics`, `process`.

mod admission;
pub mod adversary;
mod api;
mod app;
mod clock;
pub mod config;
pub mod crypt;
pub mod error;
pub mod files;
mod http;
pub mod journal;
mod keeper;
pub mod keys;
pub mod link;
pub mod list;
pub mod locator;
mod log;
mod maintenance;
pub mod manifest;
mod metrics;
pub mod names;
pub mod network;
mod peer;
pub mod placement;
mod process;
mod run;
mod serve;
mod spare;
pub mod tombstone;
mod traces;
mod transfer;
pub mod wire;

pub use run::run;
