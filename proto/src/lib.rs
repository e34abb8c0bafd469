//! Wire messages of MutualStore and their validated conversions.
//!
//! The generated types stay inside this crate: each module turns bytes from the network into types whose
//! limits were checked, and those back into bytes. Nothing is ever hashed or signed in protobuf form.
//!
//! * [`hello`]: the first messages on every connection.

pub mod hello;

#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::pedantic,
    reason = "generated from proto/*.proto"
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/mutualstore.rs"));
}
