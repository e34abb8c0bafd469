//! Why a testnet command failed.

use std::io;

use mutualstore_client::ClientError;
use mutualstore_contract::exit;

use crate::spawn::{LOG_FOLLOWS, SpawnError};
use crate::state::StateError;
use crate::whole::NotWhole;

/// A testnet command failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The command does not fit this testnet; nothing was changed.
    #[error("{0}")]
    Usage(String),
    /// The description of the testnet cannot be used; nothing was changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A daemon did not come up; those started by this command were killed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The daemons found no common ring; those started by this command were killed.
    #[error("{source}; {LOG_FOLLOWS}{log}")]
    NotWhole {
        /// What was seen.
        source: NotWhole,
        /// The end of the log of the daemon that disagrees.
        log: String,
    },
    /// The network of a daemon does not let it in; those started by this command were killed.
    #[error("{0}; the daemons started just now were stopped, what they hold is untouched")]
    Refused(NotWhole),
    /// A daemon's API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file or signal failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A process survived SIGKILL.
    #[error("process {pid} of peer {index} does not die")]
    Undead {
        /// Number of the peer.
        index: usize,
        /// Process id.
        pid: u32,
    },
}

impl From<NotWhole> for NetError {
    fn from(source: NotWhole) -> Self {
        Self::NotWhole {
            source,
            log: String::new(),
        }
    }
}

impl NetError {
    /// The exit code a command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::State(_) => exit::USAGE,
            Self::NotWhole { .. } => exit::REFUSED,
            Self::Client(error) => error.exit_code(),
            Self::Refused(_) => exit::NOT_ALLOWED,
            Self::Spawn(error) => error.exit_code(),
            Self::Io { .. } | Self::Undead { .. } => exit::UNEXPECTED,
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
