//! What people try, and what goes wrong around them: kinds of faults seen on real networks, each driven
//! through the binary.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod addresses;
mod admission;
mod api;
mod liar;
mod start;
mod transfers;
