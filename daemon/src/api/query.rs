//! The query of a request: parameters that are known, each given once, and what they say.
//!
//! Every route that takes parameters does it through [`Query`], so that what is wrong is said in the same
//! words everywhere.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query as Decoded};
use axum::http::request::Parts;

use super::Refusal;
use crate::error::Failure;

/// What a route is asked for by its parameters.
pub(super) trait FromQuery: Sized {
    /// Takes every parameter there is; what is left is refused.
    fn from_query(given: &mut Given) -> Result<Self, Failure>;
}

/// Parameters and their values, as they were given.
pub(super) struct Given {
    left: Vec<(String, String)>,
    /// Names that were looked for: the parameters there are.
    known: Vec<&'static str>,
}

impl Given {
    /// The value of a parameter.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.left.iter().position(|(given, _)| given == name)?;
        Some(self.left.remove(at).1)
    }

    /// The number that a parameter is.
    pub(super) fn number<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        let parse = |text: String| {
            let number = text.parse::<T>();
            number.map_err(|_| wrong(name, &text, "a whole number, not negative and not too large"))
        };
        self.text(name).map(parse).transpose()
    }

    /// Whether something is wanted: `NAME=1`.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Failure> {
        let parse = |text: String| match text.as_str() {
            "0" | "false" => Ok(false),
            "1" | "true" => Ok(true),
            _ => Err(wrong(name, &text, "0 or 1")),
        };
        self.text(name).map_or(Ok(false), parse)
    }

    /// Refuses what is left: what the route does not know, or was told twice.
    fn end(&self) -> Result<(), Failure> {
        let Some((name, _)) = self.left.first() else {
            return Ok(());
        };
        Err(Failure::usage(if self.known.contains(&name.as_str()) {
            format!("parameter {name} is given more than once; give it once")
        } else {
            let known = self.known.join(", ");
            format!("parameter {name:?} is not known here; there are: {known}")
        }))
    }
}

/// A value that a parameter cannot have.
fn wrong(name: &str, value: &str, expected: &str) -> Failure {
    Failure::usage(format!("parameter {name} is {value:?}; expected {expected}"))
}

/// Extracts them.
pub(super) struct Query<T>(pub(super) T);

impl<S: Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let decoded = Decoded::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Decoded(given) = decoded.map_err(|_| Failure::usage("the query is not NAME=VALUE&NAME=VALUE"))?;
        let mut given = Given {
            left: given,
            known: Vec::new(),
        };
        let query = T::from_query(&mut given)?;
        given.end()?;
        Ok(Self(query))
    }
}
