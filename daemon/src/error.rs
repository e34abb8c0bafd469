//! The error as a user meets it: an exit code, an HTTP status, whether a retry may help, one clear line.
//!
//! Operations have error enums of their own; each module that has one says what [`Failure`] it
//! becomes where it leaves the daemon.
//! The JSON body of an HTTP error is `{"error": message, "code": exit code, "retry": bool}`. Exit code 6 (no
//! daemon answers) and 130 (interrupted) are the client's own and never come from here.

use std::borrow::Cow;
use std::{fmt, io};

use mutualstore_contract::escape;
use mutualstore_contract::exit;
use mutualstore_contract::reply::ErrorBody;

/// What the message of a [`Failure::refused`] begins with.
const REFUSED: &str = "refused for now: ";

/// What a user is told when an operation fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Exit code of the command line, one of [`exit`].
    pub exit: u8,
    /// HTTP status.
    pub status: u16,
    /// Whether the same request may succeed later without anything else being changed.
    pub retry: bool,
    /// One line: what happened, what state remains.
    pub message: String,
}

impl Failure {
    /// Nobody has it, and nobody who might have it is unreachable.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(exit::NOT_FOUND, 404, false, format!("not found: {what}"))
    }

    /// Too few shards of a stripe are reachable now. It comes back when holders return.
    pub fn unrecoverable(stripe: impl fmt::Display, needed: usize, reachable: usize) -> Self {
        let message =
            format!("cannot be recovered now: stripe {stripe}: {needed} needed, {reachable} reachable");
        Self::new(exit::UNRECOVERABLE, 503, true, message)
    }

    /// Not now: not joined, too few peers, no quorum, time-out. A retry may help.
    pub fn refused(why: impl fmt::Display) -> Self {
        Self::new(exit::REFUSED, 503, true, format!("{REFUSED}{why}"))
    }

    /// Why it failed, without the words that say that it was refused.
    pub fn reason(&self) -> &str {
        self.message.strip_prefix(REFUSED).unwrap_or(&self.message)
    }

    /// The peers that were asked have no space left.
    pub fn no_space(why: impl fmt::Display) -> Self {
        Self::new(exit::NO_SPACE, 507, false, format!("no space: {why}"))
    }

    /// Not the owner, wrong key or wrong network.
    pub fn not_allowed(why: impl fmt::Display) -> Self {
        Self::new(exit::NOT_ALLOWED, 403, false, format!("not allowed: {why}"))
    }

    /// The request carries no token or a wrong one.
    pub fn wrong_token() -> Self {
        let message =
            "not allowed: wrong or missing token (it stands in the data directory, in the file token)";
        Self::new(exit::NOT_ALLOWED, 401, false, message.to_owned())
    }

    /// The request itself is wrong.
    pub fn usage(why: impl fmt::Display) -> Self {
        Self::new(exit::USAGE, 400, false, why.to_string())
    }

    /// The range asked for lies outside the file of `size` bytes.
    pub fn bad_range(size: u64) -> Self {
        Self::new(
            exit::USAGE,
            416,
            false,
            format!("the range lies outside the file of {size} bytes"),
        )
    }

    /// A condition that came with the request does not hold. Nothing was done.
    pub fn precondition() -> Self {
        let message = "the file is not what the conditions of the request want it to be".to_owned();
        Self::new(exit::USAGE, 412, false, message)
    }

    /// Something failed that should not have.
    pub fn unexpected(what: impl fmt::Display) -> Self {
        Self::new(exit::UNEXPECTED, 500, false, what.to_string())
    }

    /// A local disk refused: no space where that is why, else unexpected. `what` names the file and the
    /// cause.
    pub fn disk(cause: io::ErrorKind, what: impl fmt::Display) -> Self {
        if matches!(cause, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::no_space(format!("{what}; free space on that file system"))
        } else {
            Self::unexpected(what)
        }
    }

    /// The body of the HTTP error. Links, invites and long words that got into its message are cut short.
    pub fn body(&self) -> ErrorBody {
        let message = without_secrets(&self.message);
        ErrorBody {
            error: escape::shortened(&message).into_owned(),
            code: self.exit,
            retry: self.retry,
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        // A struct of text, a number and a boolean always has a JSON form.
        let text = serde_json::to_string(&self.body()).unwrap_or_default();
        escape::json(&text).into_owned()
    }

    fn new(exit: u8, status: u16, retry: bool, message: String) -> Self {
        Self {
            exit,
            status,
            retry,
            message,
        }
    }
}

/// The text with only the beginning of every link or invite in it: a message may quote what it was asked, and
/// who has the whole of one can read the file or join the network.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    const BEGINNING: &str = "mutual";
    /// Letters and digits that are left.
    const SHOWN: usize = 12;
    let mut rest = text;
    let mut out = String::new();
    while let Some(at) = rest.find(BEGINNING) {
        let (before, word) = rest.split_at(at);
        let end = word
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        out.push_str(before);
        match word.get(..SHOWN) {
            Some(shown) if word.bytes().any(|byte| byte.is_ascii_digit()) && word.len() > 2 * SHOWN => {
                out.push_str(shown);
                out.push('…');
            }
            _ => out.push_str(word),
        }
        rest = after;
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use mutualstore_tree::codec::Malformed;

    use super::*;
    use crate::config::ConfigError;
    use crate::datadir::files::FileError;
    use crate::datadir::list::ListError;
    use crate::format::link::ParseLinkError;
    use crate::format::manifest::ManifestError;

    #[test]
    fn errors_of_operations_become_what_the_contract_says() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let file = |source| FileError::Io {
            action: "write",
            path: "x".into(),
            source,
        };
        let list = |source| ListError::Io {
            action: "write",
            path: "x".into(),
            source,
        };
        for (failure, exit) in [
            (ParseLinkError::Damaged.into(), 2),
            (ConfigError::NoCapacity.into(), 2),
            (ConfigError::File(file(full())).into(), 7),
            (FileError::InUse { path: "x".into() }.into(), 2),
            (file(denied()).into(), 2),
            (file(full()).into(), 7),
            (list(full()).into(), 7),
            (list(denied()).into(), 1),
            (ListError::Broken { path: "x".into() }.into(), 1),
            (ManifestError::ShardSize(1).into(), 2),
            (ManifestError::Malformed(Malformed::Truncated).into(), 1),
        ] {
            let failure: Failure = failure;
            assert_eq!(failure.exit, exit, "{failure}");
        }
    }

    #[test]
    fn bodies_are_as_documented() {
        let body = Failure::unrecoverable("ab12", 4, 3).to_json();
        let error = "cannot be recovered now: stripe ab12: 4 needed, 3 reachable";
        let expected = format!(r#"{{"error":"{error}","code":4,"retry":true}}"#);
        assert_eq!(body, expected);
    }

    #[test]
    fn link_in_a_message_is_cut_short() {
        let link = format!("mutual1{}", "a7Z".repeat(33));
        let invite = format!("mutualinvite1{}", "B2x".repeat(50));
        for (text, expected) in [
            (
                format!("no peer {link} is known"),
                "no peer mutual1a7Za7… is known".to_owned(),
            ),
            (
                format!("{link}/stat, {invite}"),
                "mutual1a7Za7…/stat, mutualinvite…".to_owned(),
            ),
            ("mutualstore doctor".to_owned(), "mutualstore doctor".to_owned()),
            (
                "links begin with mutual1".to_owned(),
                "links begin with mutual1".to_owned(),
            ),
            (String::new(), String::new()),
        ] {
            assert_eq!(without_secrets(&text), expected);
        }
        assert!(!Failure::usage(&link).to_json().contains(&link));
    }

    #[test]
    fn codes_and_statuses_agree_with_the_contract() {
        for (failure, exit, status, retry) in [
            (Failure::not_found("x"), 3, 404, false),
            (Failure::unrecoverable("x", 2, 1), 4, 503, true),
            (Failure::refused("x"), 5, 503, true),
            (Failure::no_space("x"), 7, 507, false),
            (Failure::not_allowed("x"), 8, 403, false),
            (Failure::wrong_token(), 8, 401, false),
            (Failure::usage("x"), 2, 400, false),
            (Failure::bad_range(7), 2, 416, false),
            (Failure::precondition(), 2, 412, false),
            (Failure::unexpected("x"), 1, 500, false),
        ] {
            assert_eq!(
                (failure.exit, failure.status, failure.retry),
                (exit, status, retry),
                "{failure}"
            );
        }
    }
}
