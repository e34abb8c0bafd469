//! Exit codes of the command line. A failure of the daemon carries the one that it ends a command with.

/// Something failed that should not.
pub const UNEXPECTED: u8 = 1;
/// The command, the configuration or the link is wrong; doing it again changes nothing.
pub const USAGE: u8 = 2;
/// All reachable holders deny and no known holder is unreachable.
pub const NOT_FOUND: u8 = 3;
/// Fewer than k shards are reachable now.
pub const UNRECOVERABLE: u8 = 4;
/// Refused for now, a retry may help.
pub const REFUSED: u8 = 5;
/// No daemon answers; never comes from a daemon.
pub const NO_DAEMON: u8 = 6;
/// There is no space.
pub const NO_SPACE: u8 = 7;
/// Not the owner, wrong key, wrong network or wrong token.
pub const NOT_ALLOWED: u8 = 8;
/// The user interrupted the command; never comes from a daemon.
pub const INTERRUPTED: u8 = 130;
