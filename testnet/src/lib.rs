//! Local networks of real daemons: start, kill, demonstrate, measure.
pub mod client;
pub mod interrupt;
pub mod proc;
pub mod size;
