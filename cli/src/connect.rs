//! Finding the daemon a client command talks to.
//!
//! A flag beats the environment. Of the environment alone, the data directory beats the API address: it
//! is checked against the process that serves it, while an exported address may be of a former start.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use mutualstore_client::Client;

use crate::output::CliError;

/// How to find the daemon.
#[derive(Args, Debug)]
#[command(next_help_heading = "Finding the daemon")]
pub(crate) struct Connect {
    /// Data directory of the daemon [default: the XDG data directory `mutualstore`; env:
    /// `MUTUALSTORE_DATA_DIR`]
    #[arg(long, value_name = "DIR", conflicts_with = "api")]
    data_dir: Option<PathBuf>,
    /// Address of the daemon's API, with --token-file [env: `MUTUALSTORE_API`]
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// File with the API token [env: `MUTUALSTORE_TOKEN`]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Where a daemon is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The daemon that serves this directory.
    DataDir(PathBuf),
    /// Whatever answers at this address.
    Api { url: String, token_file: PathBuf },
}

impl Connect {
    /// The daemon, after making sure that it answers and is the right one.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Ok(match self.place()? {
            Place::DataDir(dir) => Client::open(&dir)?,
            Place::Api { url, token_file } => Client::with_token_file(&url, &token_file)?,
        })
    }

    pub(crate) fn place(&self) -> Result<Place, CliError> {
        let place = self.resolve(|name| std::env::var_os(name).filter(|value| !value.is_empty()))?;
        if let Place::Api { url, .. } = &place {
            check_api(url)?;
        }
        Ok(place)
    }

    fn resolve(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Place, CliError> {
        if let Some(dir) = &self.data_dir {
            return Ok(Place::DataDir(dir.clone()));
        }
        let env_dir = env("MUTUALSTORE_DATA_DIR").map(PathBuf::from);
        let env_api = env("MUTUALSTORE_API").map(|url| url.to_string_lossy().into_owned());
        let url = match (&self.api, env_dir) {
            (Some(url), _) => url.clone(),
            (None, Some(dir)) => return Ok(Place::DataDir(dir)),
            (None, None) => match env_api {
                Some(url) => url,
                None => return default_data_dir(env).map(Place::DataDir),
            },
        };
        let token_file = self
            .token_file
            .clone()
            .or_else(|| env("MUTUALSTORE_TOKEN").map(PathBuf::from));
        let token_file = token_file.ok_or_else(|| {
            CliError::Usage(format!(
                "--api {url} needs --token-file: the file `token` in the data directory"
            ))
        })?;
        Ok(Place::Api { url, token_file })
    }
}

/// Whether this can be the address of an API.
fn check_api(url: &str) -> Result<(), CliError> {
    let wrong = |why: &str| {
        let text = format!("the API address {url} {why}; it has the form http://ADDR:PORT");
        Err(CliError::Usage(text))
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if scheme.eq_ignore_ascii_case("https") {
        return wrong("asks for TLS, which the API does not speak");
    }
    if scheme != "http" {
        return wrong("is of another protocol");
    }
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap_or((rest, ""));
    let strange = |c: char| c.is_whitespace() || c.is_control() || "/?#@\\".contains(c);
    if host.is_empty() || host.contains(strange) || port.parse::<u16>().is_err() {
        return wrong("has no host and port");
    }
    Ok(())
}

/// The data directory given, or else the one in the environment, or else the default.
pub(crate) fn data_dir(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    match (given, env("MUTUALSTORE_DATA_DIR")) {
        (Some(dir), _) => Ok(dir.to_owned()),
        (None, Some(dir)) => Ok(dir.into()),
        (None, None) => default_data_dir(env),
    }
}

/// `$XDG_DATA_HOME/mutualstore`, or the same under `~/.local/share`.
fn default_data_dir(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, CliError> {
    under_home(env, "XDG_DATA_HOME", ".local/share")
        .map(|base| base.join("mutualstore"))
        .ok_or_else(|| CliError::Usage("there is no HOME; say --data-dir DIR".to_owned()))
}

/// `$XDG_STATE_HOME/mutualstore/testnet`, or the same under `~/.local/state`.
pub(crate) fn default_testnet_dir() -> Result<PathBuf, CliError> {
    under_home(|name| std::env::var_os(name), "XDG_STATE_HOME", ".local/state")
        .map(|base| base.join("mutualstore").join("testnet"))
        .ok_or_else(|| CliError::Usage("there is no HOME; say --dir DIR".to_owned()))
}

/// Relative XDG directories are to be ignored, says their specification.
fn under_home(env: impl Fn(&str) -> Option<OsString>, xdg: &str, fallback: &str) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    env(xdg)
        .and_then(absolute)
        .or_else(|| env("HOME").and_then(absolute).map(|home| home.join(fallback)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(data_dir: Option<&str>, api: Option<&str>, token: Option<&str>) -> Connect {
        Connect {
            data_dir: data_dir.map(PathBuf::from),
            api: api.map(str::to_owned),
            token_file: token.map(PathBuf::from),
        }
    }

    fn api(url: &str, token: &str) -> Place {
        Place::Api {
            url: url.to_owned(),
            token_file: token.into(),
        }
    }

    #[test]
    fn flags_beat_the_environment_and_directories_beat_addresses() {
        let everything = |name: &str| match name {
            "MUTUALSTORE_DATA_DIR" => Some("/env".into()),
            "MUTUALSTORE_API" => Some("http://env".into()),
            "MUTUALSTORE_TOKEN" => Some("/env/token".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        };
        let resolve = |connect: Connect| connect.resolve(everything).unwrap();
        assert_eq!(
            resolve(connect(Some("/flag"), None, None)),
            Place::DataDir("/flag".into())
        );
        assert_eq!(
            resolve(connect(None, Some("http://flag"), None)),
            api("http://flag", "/env/token")
        );
        assert_eq!(resolve(connect(None, None, None)), Place::DataDir("/env".into()));

        let without_dir = |name: &str| everything(name).filter(|_| name != "MUTUALSTORE_DATA_DIR");
        let place = connect(None, None, Some("t")).resolve(without_dir).unwrap();
        assert_eq!(place, api("http://env", "t"));
    }

    #[test]
    fn addresses_of_other_kinds_are_refused() {
        for good in [
            "http://127.0.0.1:7000",
            "127.0.0.1:7000",
            "http://[::1]:7/",
            "http://localhost:1",
        ] {
            assert!(check_api(good).is_ok(), "{good}");
        }
        for bad in [
            "https://127.0.0.1:7000",
            "HTTPS://x:1",
            "ftp://x:1",
            "http://https://x:1",
            "http://127.0.0.1",
            "http://x:1/v1",
            "http://x:99999",
            "http://u@x:1",
            "http://:1",
            "",
        ] {
            assert!(matches!(check_api(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn defaults_follow_xdg() {
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/me"));
        let place = connect(None, None, None).resolve(home).unwrap();
        assert_eq!(place, Place::DataDir("/home/me/.local/share/mutualstore".into()));
        let relative = |name: &str| (name == "XDG_DATA_HOME").then(|| OsString::from("here"));
        assert!(matches!(
            connect(None, None, None).resolve(relative),
            Err(CliError::Usage(_))
        ));
        let tokenless = connect(None, Some("http://x"), None).resolve(|_| None);
        assert!(matches!(tokenless, Err(CliError::Usage(_))));
    }
}
