//! How much redundancy a fragment has: any `needed` of its `shards` bring it back.

use std::fmt;
use std::str::FromStr;

/// A code as far as its loss goes; `copies:N` is the one that needs 1 of N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    needed: usize,
    shards: usize,
}

/// What is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Needs none of its shards, or more than there are.
    #[error("a code that needs {needed} of {shards} shards: 1 to {shards} are possible, of at most 255")]
    Impossible {
        /// Shards that bring a fragment back.
        needed: usize,
        /// Shards of a fragment.
        shards: usize,
    },
    /// The text is not the name of a code.
    #[error("{0:?} is not a code (like copies:3, xor:4 or rs:4+2)")]
    Malformed(String),
}

impl Code {
    /// Any `needed` of `shards` bring a fragment back.
    pub fn new(needed: usize, shards: usize) -> Result<Self, CodeError> {
        if needed == 0 || needed > shards || shards > 255 {
            return Err(CodeError::Impossible { needed, shards });
        }
        Ok(Self { needed, shards })
    }

    /// Whole copies, of which one is enough.
    pub fn copies(copies: usize) -> Result<Self, CodeError> {
        Self::new(1, copies)
    }

    /// k: shards that bring a fragment back.
    pub fn needed(self) -> usize {
        self.needed
    }

    /// n: shards of a fragment, each on another peer.
    pub fn shards(self) -> usize {
        self.shards
    }

    /// m = n - k: a fragment is lost when more of its holders are dead.
    pub fn tolerated(self) -> usize {
        self.shards - self.needed
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let malformed = || CodeError::Malformed(text.to_owned());
        let number = |part: &str| part.parse::<u8>().map(usize::from).map_err(|_| malformed());
        let (kind, size) = text.split_once(':').ok_or_else(malformed)?;
        match kind {
            "copies" => Self::copies(number(size)?),
            "xor" => number(size).and_then(|data| Self::new(data, data + 1)),
            "rs" => {
                let (data, parity) = size.split_once('+').ok_or_else(malformed)?;
                let data = number(data)?;
                Self::new(data, data + number(parity)?)
            }
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.needed, self.tolerated()) {
            (1, _) => format!("copies:{}", self.shards),
            (data, 1) => format!("xor:{data}"),
            (data, parity) => format!("rs:{data}+{parity}"),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_name() {
        for (text, needed, shards) in [
            ("copies:3", 1, 3),
            ("xor:4", 4, 5),
            ("rs:4+2", 4, 6),
            ("rs:8+4", 8, 12),
        ] {
            let code: Code = text.parse().unwrap();
            assert_eq!((code.needed(), code.shards()), (needed, shards), "{text}");
            assert_eq!(code.to_string(), text);
        }
        for text in ["", "copies", "rs:4", "rs:4+", "raid:5", "xor:-1", "copies:300"] {
            assert_eq!(
                text.parse::<Code>(),
                Err(CodeError::Malformed(text.to_owned())),
                "{text}"
            );
        }
        for text in ["copies:0", "xor:0", "rs:200+100"] {
            assert!(
                matches!(text.parse::<Code>(), Err(CodeError::Impossible { .. })),
                "{text}"
            );
        }
    }
}
