//! Daemons to experiment with: started, killed, waited for; in a directory that stays, or for as long as a
//! command runs.
//!
//! Knows the daemon only from outside: its command line, its files and its HTTP API. What may be written
//! into a program's standard output is decided by the caller, so nothing here prints.

pub mod capacities;
pub mod interrupt;
pub mod net;
pub mod parallel;
pub mod proc;
pub mod scratch;
pub mod spawn;
pub mod state;
pub mod stream;
pub mod whole;
