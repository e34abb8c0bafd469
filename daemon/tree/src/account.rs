//! Accounts and the keys of their buckets.
//!
//! An account is 32 random bytes. People keep it as 24 words (BIP-39 in English: the words are the entropy,
//! and there is no passphrase). All else follows by HKDF-SHA256 without salt:
//!
//! ```text
//! account ── mutualstore/home/1 ──▶ W of the home bucket
//! W of home ── mutualstore/bucket/1 ‖ name ──▶ W of the first bucket of that name; later ones are drawn
//! W ── mutualstore/sign/1 ──▶ ed25519 seed; its public key is the bucket's name on the ring
//! W ── mutualstore/read/1 ──▶ R, which opens what is said of the bucket
//! W ── mutualstore/owner/1 ──▶ O, from which the owner keys of the bucket's files follow
//! ```
//!
//! Whoever has W may write, purge and give W away. Whoever has the public key and R may read.

use std::fmt;

use bip39::{Error, Language, Mnemonic};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

/// How many words an account is.
pub const WORDS: usize = 24;

/// 32 bytes that are secret.
type Secret = Zeroizing<[u8; 32]>;

/// Why words are no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// There are more or fewer than 24.
    #[error("{0} words were given, and an account is {WORDS}")]
    Count(usize),
    /// A word is not in the list. Words count from 1.
    #[error("word {0} is none of the words that accounts are made of")]
    Unknown(usize),
    /// The last word does not fit the others.
    #[error("these words do not belong together: one of them is another word, or two changed places")]
    Checksum,
}

/// The secret of an account.
#[derive(Clone, PartialEq, Eq)]
pub struct Account(Secret);

impl Account {
    /// The account with this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// A new account, from the generator of the operating system.
    pub fn random() -> Self {
        Self::new(rand::random())
    }

    /// The account that these words are. Case and space between them do not matter.
    pub fn from_words(words: &str) -> Result<Self, WordsError> {
        let lower = Zeroizing::new(words.to_lowercase());
        let count = lower.split_whitespace().count();
        if count != WORDS {
            return Err(WordsError::Count(count));
        }
        let words =
            Mnemonic::parse_in_normalized(Language::English, &lower).map_err(|error| match error {
                Error::UnknownWord(index) => WordsError::Unknown(index + 1),
                Error::BadWordCount(count) => WordsError::Count(count),
                Error::BadEntropyBitCount(_) | Error::InvalidChecksum | Error::AmbiguousLanguages(_) => {
                    WordsError::Checksum
                }
            })?;
        let (entropy, _) = words.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let secret = entropy.first_chunk().ok_or(WordsError::Checksum)?;
        Ok(Self(Zeroizing::new(*secret)))
    }

    /// Its words, with a space between each.
    #[expect(clippy::missing_panics_doc, reason = "BIP-39 takes every entropy of 32 bytes")]
    pub fn to_words(&self) -> Zeroizing<String> {
        let words =
            Mnemonic::from_entropy(self.0.as_slice()).expect("BIP-39 takes every entropy of 32 bytes");
        let mut text = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in words.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bucket that names the account's other buckets.
    pub fn home(&self) -> WriteKey {
        WriteKey(expand(&self.0, &[b"mutualstore/home/1"]))
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

/// W: what a bucket is written with.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteKey(Secret);

impl WriteKey {
    /// The bucket with this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// A new bucket, from the generator of the operating system.
    pub fn random() -> Self {
        Self::new(rand::random())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bucket's name on the ring.
    #[expect(clippy::missing_panics_doc, reason = "public keys of ed25519 have 32 bytes")]
    pub fn public(&self) -> [u8; 32] {
        let public = self.pair().public_key().as_ref().try_into();
        public.expect("public keys of ed25519 have 32 bytes")
    }

    /// R, which opens what is said of the bucket.
    pub fn read_key(&self) -> ReadKey {
        ReadKey(expand(&self.0, &[b"mutualstore/read/1"]))
    }

    /// W of the account's first bucket of this name, where this is the home bucket.
    #[must_use]
    pub fn bucket(&self, name: &str) -> Self {
        Self(expand(&self.0, &[b"mutualstore/bucket/1", name.as_bytes()]))
    }

    /// O, from which the owner keys of files follow.
    pub fn owner_seed(&self) -> Zeroizing<[u8; 32]> {
        expand(&self.0, &[b"mutualstore/owner/1"])
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair().sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("signatures of ed25519 have 64 bytes")
    }

    fn pair(&self) -> Ed25519KeyPair {
        let seed = expand(&self.0, &[b"mutualstore/sign/1"]);
        Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("ed25519 takes every seed of 32 bytes")
    }
}

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey")
    }
}

/// R: what opens the records of a bucket.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadKey(Secret);

impl ReadKey {
    /// The key with these bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadKey")
    }
}

/// HKDF-SHA256 without salt.
pub(crate) fn expand(secret: &[u8; 32], info: &[&[u8]]) -> Secret {
    derive(&[], secret, info)
}

/// HKDF-SHA256: 32 bytes.
#[expect(clippy::missing_panics_doc, reason = "HKDF-SHA256 gives 32 bytes")]
pub fn derive(salt: &[u8], secret: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    prk.expand(info, HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("HKDF-SHA256 gives 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                         abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
                         abandon abandon abandon art";

    /// The vector of all zeros in BIP-39, and keys that must never change.
    #[test]
    fn words_and_keys_are_these() {
        let account = Account::new([0; 32]);
        assert_eq!(account.to_words().as_str(), ZEROS);
        assert_eq!(
            Account::from_words(&ZEROS.to_uppercase().replace(' ', " \n")),
            Ok(account.clone())
        );
        let home = account.home();
        let hex = [
            home.bytes().as_slice(),
            &home.public(),
            home.read_key().bytes(),
            home.owner_seed().as_slice(),
        ]
        .map(hex::encode);
        assert_eq!(
            hex,
            [
                "f90822e1081d084e36f1df4a832c1109791c7aebfd81f04c40aef8ca543d679d",
                "df3e5189ef9952c6d8950721a1cc2087002f3327ce73c76243907e5653ecf035",
                "c661733f24cd73f0253df4e924ff5083f66544c5075fe69d4a6d4e558fccd784",
                "078f6be28759a71e80c389bdea6f23fb8b8c8588e4d18c562c7f7132de02e643",
            ]
        );
    }

    #[test]
    fn wrong_words_are_named_by_their_place() {
        let swapped = |from, to| Account::from_words(&ZEROS.replacen(from, to, 1)).unwrap_err();
        assert_eq!(swapped("abandon art", "abandonn art"), WordsError::Unknown(23));
        assert_eq!(swapped("abandon art", "able art"), WordsError::Checksum);
        assert_eq!(swapped("abandon art", "art"), WordsError::Count(23));
        assert_eq!(swapped("art", "art art"), WordsError::Count(25));
        assert_eq!(Account::from_words(""), Err(WordsError::Count(0)));
    }

    #[test]
    fn every_account_is_its_words() {
        for _ in 0..50 {
            let account = Account::random();
            assert_eq!(Account::from_words(&account.to_words()), Ok(account));
        }
    }
}
