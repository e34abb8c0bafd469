//! Links: one word that finds and opens a file.
//!
//! `mutual1` + base58(manifest stripe id 32 ‖ file key 32 ‖ network tag 4 ‖ checksum 4), where the checksum
//! is the first 4 bytes of SHA-256("mutualstore/link/1" ‖ the 68 bytes before it). Whoever has the link reads
//! the file: it is a secret, never logged whole, and its `Debug` form shows only the beginning of the
//! manifest id.
//!
//! The tag keeps a link from being looked for where it was not made. A peer that has not joined its network
//! yet cannot name it; the links it makes carry [`ANY_NETWORK`], which every peer takes for its own
//! network's.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::error::Failure;
use crate::format::crypt::short_hash;

/// What every link of this version begins with.
pub const PREFIX: &str = "mutual1";

/// The tag of links made before their network was known.
pub const ANY_NETWORK: [u8; 4] = [0; 4];

const CHECKSUM: &[u8] = b"mutualstore/link/1";
/// Bytes before the checksum.
const BODY_LEN: usize = 68;
/// Bytes in base58.
const LEN: usize = BODY_LEN + 4;
/// Base58 text of more characters than this is longer than [`LEN`] bytes.
const MAX_TEXT_LEN: usize = 100;

/// What a file is found and opened by.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// Stripe id of the manifest's root block.
    pub manifest: [u8; 32],
    /// Key the file's blocks and manifest are sealed with.
    pub key: Zeroizing<[u8; 32]>,
    /// Where it was made, [`Network::tag`](crate::datadir::network::Network::tag), or [`ANY_NETWORK`].
    pub tag: [u8; 4],
}

/// Why a text is no link of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseLinkError {
    /// It does not begin like a link.
    #[error("not a link (links begin with {PREFIX})")]
    NotALink,
    /// It begins like a link of a version this program does not know.
    #[error("a link of a newer version of mutualstore; this one reads {PREFIX}…")]
    NewerVersion,
    /// Length, alphabet or checksum is wrong.
    #[error("the link is truncated or mistyped")]
    Damaged,
}

impl From<ParseLinkError> for Failure {
    fn from(error: ParseLinkError) -> Self {
        Self::usage(error)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LEN));
        bytes.extend_from_slice(&self.manifest);
        bytes.extend_from_slice(self.key.as_slice());
        bytes.extend_from_slice(&self.tag);
        let checksum = short_hash(CHECKSUM, &bytes);
        bytes.extend_from_slice(&checksum);
        f.write_str(PREFIX)?;
        f.write_str(&Zeroizing::new(bs58::encode(bytes.as_slice()).into_string()))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, _) = self.manifest.split_at(4);
        write!(f, "Link({}…)", hex::encode(begin))
    }
}

impl FromStr for Link {
    type Err = ParseLinkError;

    fn from_str(text: &str) -> Result<Self, ParseLinkError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(unknown_prefix(text));
        };
        if encoded.len() > MAX_TEXT_LEN {
            return Err(ParseLinkError::Damaged);
        }
        let bytes = bs58::decode(encoded)
            .into_vec()
            .map_err(|_| ParseLinkError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (body, checksum) = bytes.split_at_checked(BODY_LEN).ok_or(ParseLinkError::Damaged)?;
        if checksum != short_hash(CHECKSUM, body) {
            return Err(ParseLinkError::Damaged);
        }
        let (manifest, rest) = body.split_first_chunk().ok_or(ParseLinkError::Damaged)?;
        let (key, tag) = rest.split_first_chunk().ok_or(ParseLinkError::Damaged)?;
        let tag = tag.try_into().map_err(|_| ParseLinkError::Damaged)?;
        Ok(Self {
            manifest: *manifest,
            key: Zeroizing::new(*key),
            tag,
        })
    }
}

/// `mutual2…` and the like are links of later versions; anything else is none.
fn unknown_prefix(text: &str) -> ParseLinkError {
    let version = text.strip_prefix("mutual").and_then(|rest| rest.chars().next());
    match version {
        Some('2'..='9') => ParseLinkError::NewerVersion,
        Some(_) | None => ParseLinkError::NotALink,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link() -> Link {
        Link {
            manifest: std::array::from_fn(|i| u8::try_from(i).unwrap()),
            key: Zeroizing::new([0xAB; 32]),
            tag: *b"tag!",
        }
    }

    #[test]
    fn golden_text() {
        let text = "mutual11CLc9UrG6bvVw3XpFQLfErnAtPDLHVuASkJdL9FcqEEF5QcZ8TZKXvScqAYu6hfAmxuyW\
                    zByQTheEKsW5jAyRmjbQiX8sfxfi";
        assert_eq!(link().to_string(), text);
        assert_eq!(text.parse(), Ok(link()));
        assert_eq!(
            format!(" {text}\n").parse(),
            Ok(link()),
            "copied with its surroundings"
        );
    }

    #[test]
    fn every_truncation_and_every_changed_character_is_refused() {
        let text = link().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<Link>().is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            for other in "129AZaz0Il-/".chars() {
                let mut changed: Vec<char> = text.chars().collect();
                if changed[at] != other {
                    changed[at] = other;
                    let changed: String = changed.into_iter().collect();
                    assert!(changed.parse::<Link>().is_err(), "{other} at {at}");
                }
            }
        }
    }

    #[test]
    fn each_reason_is_named() {
        assert_eq!("".parse::<Link>(), Err(ParseLinkError::NotALink));
        assert_eq!(
            "https://example.org/".parse::<Link>(),
            Err(ParseLinkError::NotALink)
        );
        assert_eq!("mutualinvite1abc".parse::<Link>(), Err(ParseLinkError::NotALink));
        assert_eq!("mutual2abc".parse::<Link>(), Err(ParseLinkError::NewerVersion));
        assert_eq!("mutual1".parse::<Link>(), Err(ParseLinkError::Damaged));
        let long = format!("{PREFIX}{}", "z".repeat(1_000_000));
        assert_eq!(long.parse::<Link>(), Err(ParseLinkError::Damaged));
    }

    #[test]
    fn debug_does_not_give_it_away() {
        let shown = format!("{:?}", link());
        assert_eq!(shown, "Link(00010203…)");
    }

    proptest! {
        #[test]
        fn round_trip(manifest: [u8; 32], key: [u8; 32], tag: [u8; 4]) {
            let link = Link { manifest, key: Zeroizing::new(key), tag };
            prop_assert_eq!(link.to_string().parse(), Ok(link));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}", tail in "[1-9A-Za-z]{0,120}") {
            prop_assert!(text.parse::<Link>().is_err());
            let damaged = format!("{PREFIX}{tail}");
            prop_assert!(damaged.parse::<Link>().is_err());
        }
    }
}
