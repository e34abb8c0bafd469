//! What makes a peer and an account who they are, as one small text to keep elsewhere.
//!
//! ```text
//! mutualstore key 1
//! identity <ed25519 seed, 64 hexadecimal digits>
//! account <account secret, 64 hexadecimal digits>
//! check <first 4 bytes of the SHA-256 of the lines before, 8 hexadecimal digits>
//! ```

use std::path::Path;

use mutualstore_dht::Peer;
use mutualstore_tree::account::Account;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::datadir::files::{DataDir, FileError, read_optional, write_atomic};
use crate::format::crypt::public_key;

const FIRST_LINE: &str = "mutualstore key 1";
/// The files in the data directory.
const FILES: [&str; 2] = ["identity", "account"];

/// The secrets of a peer and of its account.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    identity: Zeroizing<[u8; 32]>,
    account: Zeroizing<[u8; 32]>,
}

/// Why a text is not the keys it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It does not begin like keys of this version.
    #[error("this is no key file that this version knows")]
    Foreign,
    /// A line is missing, or not what was written.
    #[error("the key file is damaged; take another copy")]
    Damaged,
}

/// Why keys were not taken into a data directory, which is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It belongs to another peer or account.
    #[error(
        "the data directory belongs to another {0}, and what it holds to that one; import into one without \
         any"
    )]
    Taken(&'static str),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Keys {
    /// The keys in the data directory `dir`, which a daemon may be using; none before its first start.
    pub fn read(dir: &Path) -> Result<Option<Self>, FileError> {
        let mut secrets = Vec::new();
        for name in FILES {
            let path = dir.join(name);
            let Some(content) = read_optional(&path)? else {
                return Ok(None);
            };
            secrets.push(secret(&content).ok_or_else(|| FileError::Damaged {
                path,
                problem: "expected 64 hex digits".to_owned(),
                cure: "restore it from a copy",
            })?);
        }
        Ok(match <[_; 2]>::try_from(secrets) {
            Ok([identity, account]) => Some(Self { identity, account }),
            Err(_) => None,
        })
    }

    /// The text to keep.
    pub fn to_text(&self) -> Zeroizing<String> {
        let (identity, account) = (hex::encode(*self.identity), hex::encode(*self.account));
        let lines = Zeroizing::new(format!("{FIRST_LINE}\nidentity {identity}\naccount {account}\n"));
        Zeroizing::new(format!("{}check {}\n", *lines, check(&lines)))
    }

    /// The keys a text was made from.
    pub fn from_text(text: &[u8]) -> Result<Self, KeysError> {
        let text = str::from_utf8(text).map_err(|_| KeysError::Foreign)?;
        if text.lines().next() != Some(FIRST_LINE) {
            return Err(KeysError::Foreign);
        }
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.find_map(|value| secret(value.strip_prefix(' ')?.as_bytes()))
        };
        let (Some(identity), Some(account)) = (field("identity"), field("account")) else {
            return Err(KeysError::Damaged);
        };
        let keys = Self { identity, account };
        // Line ends may have changed on the way.
        let same = keys.to_text().lines().eq(text.lines());
        same.then_some(keys).ok_or(KeysError::Damaged)
    }

    /// The peer they make.
    pub fn peer(&self) -> Peer {
        Peer::new(public_key(&self.identity))
    }
}

impl DataDir {
    /// Takes keys into a data directory that has none, or these.
    pub fn import(&self, keys: &Keys) -> Result<(), ImportError> {
        let secrets = FILES.into_iter().zip([&keys.identity, &keys.account]);
        for (name, ours) in secrets.clone() {
            if let Some(content) = read_optional(&self.path().join(name))?
                && secret(&content).as_ref() != Some(ours)
            {
                return Err(ImportError::Taken(name));
            }
        }
        for (name, ours) in secrets {
            let text = Zeroizing::new(hex::encode(ours.as_slice()) + "\n");
            write_atomic(&self.path().join(name), text.as_bytes(), 0o600)?;
        }
        Ok(())
    }
}

/// The account in the data directory `dir`, which a daemon may be using; none before its first start.
pub fn account(dir: &Path) -> Result<Option<Account>, FileError> {
    let path = dir.join("account");
    let Some(content) = read_optional(&path)? else {
        return Ok(None);
    };
    let secret = secret(&content).ok_or_else(|| FileError::Damaged {
        path,
        problem: "expected 64 hex digits".to_owned(),
        cure: "restore it from a copy",
    })?;
    Ok(Some(Account::new(*secret)))
}

/// Takes an account into a data directory that has none, or this one.
pub fn import_account(dir: &DataDir, account: &Account) -> Result<(), ImportError> {
    match self::account(dir.path())? {
        Some(there) if there == *account => return Ok(()),
        Some(_) => return Err(ImportError::Taken("account")),
        None => {}
    }
    let text = Zeroizing::new(hex::encode(account.bytes()) + "\n");
    write_atomic(&dir.path().join("account"), text.as_bytes(), 0o600)?;
    Ok(())
}

fn secret(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(hex::decode(text.trim_ascii_end()).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

fn check(lines: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(lines).into();
    hex::encode(hash.first_chunk::<4>().unwrap_or(&[0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_from_one_directory_to_another() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert!(Keys::read(old.path()).unwrap().is_none());
        let dir = DataDir::open(old.path()).unwrap();
        let (identity, account) = (dir.identity().unwrap(), dir.account().unwrap());
        let keys = Keys::read(old.path()).unwrap().unwrap();
        let text = keys.to_text();
        let there = DataDir::open(new.path()).unwrap();
        let imported = Keys::from_text(text.replace('\n', "\r\n").as_bytes()).unwrap();
        there.import(&imported).unwrap();
        there.import(&imported).unwrap();
        assert_eq!(
            (there.identity().unwrap(), there.account().unwrap()),
            (identity, account)
        );
        let third = tempfile::tempdir().unwrap();
        let other = DataDir::open(third.path()).unwrap();
        let kept = other.account().unwrap();
        assert!(matches!(other.import(&keys), Err(ImportError::Taken("account"))));
        assert_eq!(other.account().unwrap(), kept);
        assert!(!third.path().join("identity").exists());
    }

    #[test]
    fn every_changed_digit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.identity().unwrap();
        data.account().unwrap();
        let text = Keys::read(dir.path()).unwrap().unwrap().to_text();
        for at in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            assert!(Keys::from_text(&changed).is_err(), "{at}");
            assert!(
                Keys::from_text(&text.as_bytes()[..at]).is_err() || at + 1 == text.len(),
                "{at}"
            );
        }
    }
}
