//! What an account's names are made of: signed records that change, and the sorted tree that is in them.
//!
//! Nothing here does I/O or reads a clock, so that the daemon and the simulator can drive the same code.
//!
//! * [`account`]: 32 bytes shown as 24 words, and the keys of buckets that follow from them.
//! * [`record`]: the one kind of thing on the ring that changes: a value signed by a bucket's key.
//! * [`version`]: when something was written and by whom, in an order that all devices agree on.
//! * [`entry`]: a key of a bucket at one version: a file, a directory, a deletion, a setting.
//! * [`head`]: what one device says of a bucket: its latest entries, and where the others lie.
//! * [`run`]: entries that a head has no room for, sorted, in a file of their own.
//! * [`bucket`]: what a device knows of a bucket, and what it says of it.
//! * [`merge`]: the word of all devices put together: what a key is, was, and whether two wrote it at once.

pub mod account;
pub mod bucket;
pub mod codec;
pub mod entry;
pub mod head;
pub mod merge;
pub mod record;
pub mod run;
pub mod version;
