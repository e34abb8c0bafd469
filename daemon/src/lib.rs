//! The MutualStore peer: shard store, transport, transfers and HTTP API.

pub mod store;
