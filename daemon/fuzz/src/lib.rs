//! Fuzz targets: what every decoder of foreign bytes keeps to, and what the ring and custody keep to whatever
//! is called.
//!
//! Each target takes any bytes and panics where a property does not hold: what decodes encodes back, bounds
//! hold, no input is answered with more than it pays for. Two drivers run them: `cargo test`, over the inputs
//! in `corpus/` and mutations of these by a seeded generator, and libFuzzer, in the workspace `libfuzzer/`.
//!
//! Bytes under a checksum or a signature are tried as they are, which is what a stranger can send, and again
//! after the target has sealed them, which reaches the code behind the seal.
//!
//! * [`wire`]: what other peers send. [`format`](mod@format): what links, manifests and stripes are made of.
//! * [`tree`]: what the names of an account are made of.
//! * [`local`]: files of the data directory. [`http`]: headers of the HTTP API.
//! * [`ring`], [`custody`]: the state machines, by sequences of calls.

#![allow(
    clippy::missing_panics_doc,
    reason = "a target says by a panic that a property does not hold"
)]

#[cfg(test)]
mod corpora;
pub mod custody;
pub mod format;
pub mod http;
pub mod local;
pub mod ring;
#[cfg(test)]
mod seeds;
pub mod tree;
pub mod wire;

/// One function that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of its directory in `corpus/` and its libFuzzer binary.
    pub name: &'static str,
    /// Panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Mutations that `cargo test` tries: fewer where each costs files.
    pub mutations: usize,
}

const MANY: usize = 4000;
const SOME: usize = 1000;
const FEW: usize = 200;

const fn target(name: &'static str, run: fn(&[u8]), mutations: usize) -> Target {
    Target { name, run, mutations }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("peer_request", wire::peer_request, MANY),
    target("peer_response", wire::peer_response, MANY),
    target("shard_request", wire::shard_request, MANY),
    target("shard_response", wire::shard_response, MANY),
    target("contact", wire::contact, MANY),
    target("hello", wire::hello, MANY),
    target("frame", wire::frame, MANY),
    target("stripe_header", format::stripe_header, MANY),
    target("shard", format::shard, SOME),
    target("link", format::link, MANY),
    target("invite", format::invite, MANY),
    target("manifest", format::manifest, MANY),
    target("index_block", format::index_block, MANY),
    target("locator", format::locator, MANY),
    target("tombstone", format::tombstone, SOME),
    target("sealed_block", format::sealed_block, SOME),
    target("key_file", format::key_file, MANY),
    target("record", tree::record, SOME),
    target("head", tree::head, MANY),
    target("entry", tree::entry, MANY),
    target("run_block", tree::run_block, MANY),
    target("run_tail", tree::run_tail, MANY),
    target("journal", local::journal, FEW),
    target("configuration", local::configuration, SOME),
    target("address_book", local::address_book, SOME),
    target("network_file", local::network_file, SOME),
    target("segment", local::segment, FEW),
    target("conditions", http::conditions, MANY),
    target("ring_operations", ring::operations, SOME),
    target("custody_operations", custody::operations, SOME),
];

/// Runs the target of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a name in TARGETS").run)(bytes);
}
