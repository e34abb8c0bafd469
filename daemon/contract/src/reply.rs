//! What the daemon answers over HTTP and writes to `daemon.json`, as types: the daemon writes them, clients
//! read them.
//!
//! The fields of a type come in the order in which the daemon sends them. A reader ignores fields that it
//! does not know, and fills in those that an earlier daemon did not send.
//!
//! * [`file`]: what is said of files and transfers.
//! * [`peer`]: what a peer says of itself and of its ring.
//! * [`upkeep`]: repair, scrub, departures.

/// An enum of words: each variant is one lower-case word in JSON and on the terminal.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word used in every output.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

mod file;
mod names;
mod peer;
mod upkeep;

use serde::{Deserialize, Serialize};

pub use self::file::*;
pub use self::names::*;
pub use self::peer::*;
pub use self::upkeep::*;

/// The body of every answer with an error status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One line: what happened, what state remains.
    pub error: String,
    /// The exit code of the command, one of [`exit`](crate::exit).
    pub code: u8,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retry: bool,
}
