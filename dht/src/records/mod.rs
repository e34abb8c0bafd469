//! Records: values that change, signed by the key they belong to.
//!
//! All records of one key lie under one id, with the first [`HOLDERS`] living peers from it. Each writer has
//! a number and says what it says in records of rising sequence. Holders keep the highest record of each
//! writer ([`RecordSet`]), so sets merge by maximum in any order and nothing is ever taken back.
//!
//! * [`Publishing`]: a writer's record goes to the holders, and counts once a majority has it durably.
//! * [`Gathering`]: the sets of the first [`ASKED`] peers are put together.
//!
//! A reader asks more peers than hold, so it meets one that acknowledged though some peers joined or died
//! since and custody has not moved the set yet. Nothing more is promised: what is acknowledged is seen while
//! one peer that acknowledged it is alive among the reader's first [`ASKED`], or once custody has merged the
//! sets.
//!
//! A device that lags behind its clone, and one that is cut off, are the subject of [`Author`].
//!
//! Bytes and signatures stay with the driver; what counts here is a record's [`Stamp`].

mod asking;
mod author;
mod gathering;
mod publishing;
mod set;

pub use author::Author;
pub use gathering::{Gathered, Gathering};
pub use publishing::{Publish, Published, Publishing};
pub use set::{RecordSet, Stamp, Taken};

/// Peers that hold a set, if there are so many.
pub const HOLDERS: usize = 5;
/// Peers that are asked for one.
pub const ASKED: usize = 8;
/// The most writers of a set.
pub const MAX_WRITERS: usize = 256;

#[cfg(test)]
mod tests {
    use crate::Peer;
    use crate::testing::peer;

    pub(super) fn peers(count: usize) -> Vec<Peer> {
        (1..=count).map(peer).collect()
    }
}
