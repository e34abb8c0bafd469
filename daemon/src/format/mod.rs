//! What files are made of, byte by byte: links, manifests, sealed blocks, locators, tombstones.
//!
//! Each module parses what others wrote, bounded and whole, and knows no disk and no peer.

pub mod crypt;
pub mod link;
pub mod locator;
pub mod manifest;
pub mod names;
pub mod placement;
pub mod tombstone;
