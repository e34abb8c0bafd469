//! Real daemons, driven through the binary. One test program, so that it is linked once; tests that start
//! daemons run one at a time.
//!
//! * [`main_job`], [`names`], [`upkeep`], [`fragments`], [`placement`]: what a network of daemons is for.
//! * [`bad_input`]: what the command line refuses.
//! * [`addresses`], [`admission`], [`api`], [`liar`], [`start`], [`transfers`]: what people try, and what
//!   goes wrong around them: kinds of faults seen on real networks.
//! * [`chaos`], [`experiment`]: the commands that hurt and measure daemons.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test"
)]

mod common;

mod addresses;
mod admission;
mod api;
mod bad_input;
mod chaos;
mod experiment;
mod fragments;
mod liar;
mod main_job;
mod names;
mod placement;
mod start;
mod transfers;
mod upkeep;
