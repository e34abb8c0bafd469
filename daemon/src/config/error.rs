//! Why a daemon has no configuration.

use std::path::PathBuf;

use crate::datadir::files::FileError;
use crate::datadir::network::{AddressError, ParseJoinError};
use crate::error::Failure;

/// Why there is no configuration to start with. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No layer gives a capacity.
    #[error("the first start needs --capacity: how much disk to give, such as --capacity 10GiB")]
    NoCapacity,
    /// The configuration kept gives none.
    #[error(
        "{} gives no `capacity`: say how much disk to give, there or with --capacity, such as \
         --capacity 10GiB",
        path.display()
    )]
    CapacityMissing {
        /// The file.
        path: PathBuf,
    },
    /// A value is outside its bounds.
    #[error("{key} is {value}; {bounds}")]
    Bounds {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be accepted.
        bounds: String,
    },
    /// An address is none.
    #[error("{key}: {error}")]
    Address {
        /// The key.
        key: &'static str,
        /// What is wrong.
        error: AddressError,
    },
    /// What is to be joined is neither an address nor an invite.
    #[error("join: {0}")]
    Join(#[from] ParseJoinError),
    /// Where it is to be read from, it cannot be.
    #[error("join: {0}")]
    JoinSource(String),
    /// A file is not TOML or has a key or value it must not have.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        problem: String,
    },
    /// A variable has a value that does not parse.
    #[error("{}", of_variable(.0))]
    Variable(#[from] confique::Error),
    /// The file given as `--config` does not exist.
    #[error("there is no configuration file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Which variable is wrong and how, without the name that its field has in the program.
fn of_variable(error: &confique::Error) -> String {
    let text = format!("{error:#}");
    let named = text
        .split_once("environment variable ")
        .map(|(_, named)| named.to_owned());
    named.unwrap_or(text)
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::File(error) => error.into(),
            ConfigError::NoCapacity
            | ConfigError::CapacityMissing { .. }
            | ConfigError::Bounds { .. }
            | ConfigError::Address { .. }
            | ConfigError::Join(_)
            | ConfigError::JoinSource(_)
            | ConfigError::Syntax { .. }
            | ConfigError::Variable { .. }
            | ConfigError::Missing { .. } => Self::usage(error),
        }
    }
}
