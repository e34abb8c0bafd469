//! Local networks of real daemons: start, kill, demonstrate, measure.
//!
//! Knows the daemon only from outside: its command line, its files and its HTTP API. What may be written
//! into a program's standard output is decided by the caller, so nothing here prints.
pub mod adversary;
pub mod bench;
pub mod capacities;
pub mod chaos;
pub mod demo;
pub mod experiment;
pub mod interrupt;
pub mod net;
pub mod netns;
pub mod parallel;
pub mod proc;
pub mod report;
pub mod scratch;
pub mod sim;
pub mod spawn;
pub mod state;
pub mod stream;
pub mod whole;
