//! What every HTTP listener of the daemon shares, whatever it serves.
//!
//! * [`conditions`]: which representation a request with conditions and a range is answered with (RFC 9110
//!   §13–14).
//! * [`range`]: the `Range` header (RFC 9110 §14).
//! * [`disposition`]: `Content-Disposition` of a download (RFC 6266).
//! * [`connections`]: how many connections are served, for how long, and which of them is ended first.
//! * [`serve`]: the loop that accepts and serves them.
//!
//! The first three are pure functions on headers.

pub mod conditions;
pub(crate) mod connections;
pub(crate) mod disposition;
pub(crate) mod range;
pub(crate) mod serve;
