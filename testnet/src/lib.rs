//! Commands on networks of real daemons: a demonstration, a benchmark, a hostile member, real interfaces.
//!
//! They know the daemon only from outside: its command line, its files and its HTTP API. What may be written
//! into a program's standard output is decided by the caller, so nothing here prints.

pub mod adversary;
pub mod bench;
pub mod demo;
pub mod netns;
