//! Values that are text in the file and in variables.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

use crate::datadir::network::id_from_hex;

/// Id of a network, 64 hex digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkId(pub [u8; 32]);

/// The text is no id of a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id of 64 hex digits")]
pub struct NetworkIdError(String);

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        id_from_hex(text)
            .map(Self)
            .ok_or_else(|| NetworkIdError(text.to_owned()))
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A variable that is set to nothing, which counts as not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is empty")]
pub(super) struct Empty;

/// The text of a variable.
pub(super) fn some(variable: &str) -> Result<String, Empty> {
    if variable.is_empty() {
        return Err(Empty);
    }
    Ok(variable.to_owned())
}

/// The entries of a variable, which commas separate.
pub(super) fn list(variable: &str) -> Result<Vec<String>, Empty> {
    let text = some(variable)?;
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    Ok(entries.map(str::to_owned).collect())
}

/// As its text; nothing where there is none.
#[expect(clippy::ref_option, reason = "serde hands over the field")]
pub(super) fn serialize<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_ref().map(T::to_string).serialize(serializer)
}

/// From its text.
pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(D::Error::custom)
}
