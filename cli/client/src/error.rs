//! How a conversation with a daemon fails, and the exit code each failure stands for.

use std::io;
use std::path::PathBuf;

use mutualstore_contract::exit;
use mutualstore_contract::reply::ErrorBody;
use ureq::http::StatusCode;

use super::source::Changed;

/// A request failed. Nothing is changed at the daemon unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody, or somebody else, answers.
    #[error("{what}")]
    NoDaemon {
        /// Where it was looked for and what was found.
        what: String,
    },
    /// The token that proves who we are cannot be read.
    #[error("cannot read the API token {}: {source}", path.display())]
    Token {
        /// The token file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The daemon said no, in its own words; `code` is an exit code.
    #[error("{message}")]
    Refused {
        /// What the daemon says happened.
        message: String,
        /// Exit code.
        code: u8,
        /// A retry may help.
        retry: bool,
    },
    /// A transfer ended before its last byte. A put leaves nothing visible; of a get, the first `moved`
    /// bytes were delivered and are right.
    #[error("{}", broken_off(*moved, *total, reason.as_deref()))]
    BrokenOff {
        /// Bytes moved.
        moved: u64,
        /// Bytes there should have been, when known.
        total: Option<u64>,
        /// What the daemon said, when it still answered.
        reason: Option<String>,
        /// Exit code.
        code: u8,
        /// A retry may help.
        retry: bool,
    },
    /// The bytes to put cannot be read; the put is abandoned.
    #[error("{}", unread(.0))]
    Input(io::Error),
    /// The bytes got cannot be written; the rest was not asked for.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// No answer in time; the daemon may still be working on it.
    #[error("the daemon at {base} did not answer in time")]
    TimedOut {
        /// The API asked.
        base: String,
    },
    /// An answer that does not fit the contract.
    #[error("{what}")]
    Unexpected {
        /// What is wrong.
        what: String,
    },
}

impl ClientError {
    /// The exit code a command ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoDaemon { .. } => exit::NO_DAEMON,
            Self::Input(error) if is_changed(error) => exit::REFUSED,
            Self::Token { .. } | Self::Input(_) => exit::USAGE,
            Self::Refused { code, .. } | Self::BrokenOff { code, .. } => *code,
            Self::Output(error) if error.kind() == io::ErrorKind::StorageFull => exit::NO_SPACE,
            Self::Output(_) | Self::Unexpected { .. } => exit::UNEXPECTED,
            Self::TimedOut { .. } => exit::REFUSED,
        }
    }

    /// The same request may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            Self::Refused { retry, .. } | Self::BrokenOff { retry, .. } => *retry,
            Self::NoDaemon { .. } | Self::TimedOut { .. } => true,
            Self::Input(error) => is_changed(error),
            Self::Token { .. } | Self::Output(_) | Self::Unexpected { .. } => false,
        }
    }
}

fn is_changed(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Changed>)
}

fn unread(error: &io::Error) -> String {
    if is_changed(error) {
        error.to_string()
    } else {
        format!("cannot read the input: {error}")
    }
}

fn broken_off(moved: u64, total: Option<u64>, reason: Option<&str>) -> String {
    let total = total.map_or_else(String::new, |total| format!(" of {total}"));
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    format!("the daemon broke off after {moved}{total} bytes{reason}")
}

/// A request without any answer.
pub(super) fn without_answer(base: &str, error: &ureq::Error) -> ClientError {
    if connected_never(error) {
        return ClientError::NoDaemon {
            what: format!("no daemon answers at {base}"),
        };
    }
    if matches!(
        error,
        ureq::Error::HostNotFound | ureq::Error::BadUri(_) | ureq::Error::Http(_)
    ) {
        let what = format!("{base} is not the address of an API (http://ADDR:PORT)");
        return ClientError::NoDaemon { what };
    }
    if matches!(error, ureq::Error::Timeout(_)) {
        return ClientError::TimedOut {
            base: base.to_owned(),
        };
    }
    if let ureq::Error::Io(error) = error {
        return ClientError::NoDaemon {
            what: format!("the daemon at {base} went away: {error}"),
        };
    }
    ClientError::Unexpected {
        what: format!("the exchange with {base} failed: {error}"),
    }
}

/// Whether a connection that was there is gone.
pub(super) fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// Whether nobody took the connection, so that nothing was asked.
pub(super) fn connected_never(error: &ureq::Error) -> bool {
    if let ureq::Error::Io(error) = error {
        return error.kind() == io::ErrorKind::ConnectionRefused;
    }
    matches!(
        error,
        ureq::Error::Timeout(ureq::Timeout::Connect) | ureq::Error::ConnectionFailed
    )
}

/// An answer with an error status: the daemon's own words, or the status when it has none.
pub(super) fn refusal(status: StatusCode, text: &str) -> ClientError {
    match serde_json::from_str::<ErrorBody>(text) {
        Ok(body) => ClientError::Refused {
            message: body.error,
            code: body.code,
            retry: body.retry,
        },
        Err(_) => ClientError::Refused {
            message: format!("the daemon answered {status}"),
            code: code_of(status),
            retry: status == StatusCode::SERVICE_UNAVAILABLE,
        },
    }
}

fn code_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 | 416 => exit::USAGE,
        401 | 403 => exit::NOT_ALLOWED,
        404 => exit::NOT_FOUND,
        503 => exit::REFUSED,
        507 => exit::NO_SPACE,
        _ => exit::UNEXPECTED,
    }
}
