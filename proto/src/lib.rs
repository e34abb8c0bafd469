//! Wire messages of MutualStore and their validated conversions.
//!
//! Generated types go no further than conversions: those of the hello stand here, those that know the ring's
//! and custody's types in the daemon. Nothing is ever hashed or signed in protobuf form.
//!
//! * [`hello`]: the first messages on every connection, checked.
//! * [`wire`]: the generated types.

pub mod hello;

#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::pedantic,
    reason = "generated from proto/*.proto"
)]
/// What prost makes of `proto/*.proto`; nothing in it has been checked.
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/mutualstore.rs"));
}
