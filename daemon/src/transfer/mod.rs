//! Files in and out: encryption, stripes, manifests, and the shards' way to their holders and back.
//!
//! * [`events`]: what a person is told while a transfer runs.
//! * [`exchange`]: one shard to or from one peer.
//! * [`fetch_times`]: when a shard is late.
//! * [`stripes`]: one block to or from its n holders; [`second_look`]: what is asked before a read gives up.
//! * [`turns`]: whose copy is read.
//! * [`options`]: what a put is asked to do.
//! * [`put`], [`get`]: a file; [`lease`]: what keeps the shards of a put at their holders; [`commit`]: its
//!   end there; [`report`]: what the person hears of it.
//! * [`locate`]: what is left with the first peers of a stripe whose holders lie elsewhere.
//! * [`delete`]: the end of a file, by its owner.
//! * [`health`]: how stripes are doing, asked of their holders; [`sweep`]: how all files are doing,
//!   remembered.
//! * [`recover`]: what a crash left of puts and deletions in progress.
//! * [`cache`]: decoded blocks, bounded in bytes; [`read_ahead`]: the memory of all reads together.

pub(crate) mod cache;
pub(crate) mod commit;
pub(crate) mod delete;
pub(crate) mod events;
pub(crate) mod exchange;
pub(crate) mod fetch_times;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod lease;
pub(crate) mod locate;
pub(crate) mod options;
pub(crate) mod put;
pub(crate) mod read_ahead;
pub(crate) mod recover;
pub(crate) mod report;
mod second_look;
pub(crate) mod stripes;
pub(crate) mod sweep;
pub(crate) mod turns;

pub(crate) use events::Transfers;
