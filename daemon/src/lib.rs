//! The MutualStore peer: shard store, transport, transfers and HTTP API.

pub mod config;
pub mod crypt;
pub mod error;
pub mod files;
pub mod journal;
pub mod link;
pub mod list;
pub mod manifest;
pub mod names;
pub mod net;
pub mod network;
pub mod store;
pub mod units;
pub mod wire;
