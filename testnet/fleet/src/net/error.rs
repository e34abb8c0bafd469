//! Why a testnet command failed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mutualstore_client::ClientError;
use mutualstore_contract::exit;

use crate::spawn::{LOG_FOLLOWS, SpawnError};
use crate::state::StateError;
use crate::whole::NotWhole;

/// A testnet command failed.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
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
    #[error("{}; {LOG_FOLLOWS}{}", .0, .0.log)]
    NotWhole(#[from] NotWhole),
    /// The network of a daemon does not let it in; those started by this command were killed.
    #[error("{0}; the daemons started just now were stopped, what they hold is untouched")]
    Refused(NotWhole),
    /// A daemon's API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A request failed, or brought other bytes.
    #[error("{what}: {source}")]
    Request {
        /// What was asked.
        what: String,
        /// The answer, or why there is none.
        source: ClientError,
    },
    /// Something that must happen did not.
    #[error("waited {} s for {what}", waited.as_secs())]
    Late {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// It cannot be done here, or not yet; nothing was begun.
    #[error("{0}")]
    Unavailable(String),
    /// It went wrong in a way that no retry mends.
    #[error("{0}")]
    Failed(String),
    /// A run broke, and left what explains it.
    #[error("{error}\nseed {seed}; journal and logs are kept in {}", place.display())]
    Broken {
        /// What went wrong.
        error: Box<FleetError>,
        /// Seed of the run.
        seed: u64,
        /// The directory with journal and logs.
        place: PathBuf,
    },
    /// A file or signal failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl FleetError {
    /// The exit code a command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::State(_) => exit::USAGE,
            Self::NotWhole { .. } | Self::Late { .. } | Self::Unavailable(_) => exit::REFUSED,
            Self::Client(source) | Self::Request { source, .. } => source.exit_code(),
            Self::Refused(_) => exit::NOT_ALLOWED,
            Self::Spawn(error) => error.exit_code(),
            Self::Broken { error, .. } => error.exit_code(),
            Self::Io { .. } | Self::Failed(_) => exit::UNEXPECTED,
        }
    }

    /// A request of this purpose failed.
    pub fn request(what: impl Into<String>) -> impl FnOnce(ClientError) -> Self {
        let what = what.into();
        move |source| Self::Request { what, source }
    }

    /// A file, a signal or something else of the system failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Fails with [`FleetError::Usage`] unless something holds.
pub fn require(holds: bool, otherwise: impl Into<String>) -> Result<(), FleetError> {
    if holds {
        return Ok(());
    }
    Err(FleetError::Usage(otherwise.into()))
}
