//! The MutualStore peer: shard store, transport, transfers and HTTP API.

pub mod net;
pub mod store;
