//! Hostile members, to try what the honest ones bear.
//!
//! Only a build with the feature `adversary` has them: `cargo test`, where it is on by a development
//! dependency of the command line, or `cargo build --features adversary`. A release has none of this code,
//! and refuses the flag.

#[cfg(feature = "adversary")]
pub(crate) mod liar;

/// Whether this build has hostile members.
pub const AVAILABLE: bool = cfg!(feature = "adversary");

/// What a hostile member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes every shard and keeps none, claims to hold everything, orders everybody to drop what they hold,
    /// and steals the shards of unfinished puts.
    Liar,
}

/// A hostile member that cannot be. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// No role has this name.
    #[error("no hostile member is called {0:?}; there is `liar`")]
    Unknown(String),
    /// The build has none.
    #[error(
        "this build has no hostile members; `cargo build --release --features adversary` makes one that has"
    )]
    Unavailable,
}

impl std::str::FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "liar" => Ok(Self::Liar),
            other => Err(RoleError::Unknown(other.to_owned())),
        }
    }
}

impl Role {
    /// Has the daemon that this process runs next play the role.
    pub fn assume(self) -> Result<(), RoleError> {
        match self {
            #[cfg(feature = "adversary")]
            Self::Liar => {
                liar::switch_on();
                Ok(())
            }
            #[cfg(not(feature = "adversary"))]
            Self::Liar => Err(RoleError::Unavailable),
        }
    }
}
