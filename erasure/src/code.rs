//! How a block becomes shards: the codes, their bounds, their names and their numbers on the wire.
//!
//! A stripe keeps its code for life. Layouts have one name each: `xor:1` would be `copies:2` and is refused.

use std::fmt;
use std::str::FromStr;

/// Most shards a stripe may have.
pub const MAX_SHARDS: u8 = 64;

/// Places of a successor list that stripes leave free, so that a holder that fails finds a replacement there.
const SPARE_SUCCESSORS: usize = 4;

/// A code: n shards, of which any k bring the block back.
///
/// [`FromStr`], [`Code::from_wire`] and [`Code::auto`] give only codes within bounds; a value written as a
/// literal is checked by [`Code::check`], which [`encode`](crate::encode) does, and so does every header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// `copies:N`: N equal shards, each the whole block; 1 ≤ N ≤ 64.
    Copies(u8),
    /// `xor:K`: K data shards and their exclusive or (RAID-5); 2 ≤ K ≤ 63.
    Xor(u8),
    /// `rs:K+M`: systematic Reed-Solomon over GF(2^8); 1 ≤ K, 1 ≤ M, K + M ≤ 64.
    ReedSolomon {
        /// Data shards, K.
        data: u8,
        /// Parity shards, M.
        parity: u8,
    },
}

/// Why a code was refused. Nothing was coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodeError {
    /// The text is none of the three forms.
    #[error("not a code; expected copies:N, xor:K or rs:K+M")]
    Syntax,
    /// The number does not stand for a code this version knows.
    #[error("unknown code number {0}")]
    Unknown(u8),
    /// The numbers of data and parity shards do not belong to the named code.
    #[error("a code of this kind cannot have {k} data and {m} parity shards")]
    Shape {
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
    },
    /// More than [`MAX_SHARDS`] shards.
    #[error("{code} has more than {MAX_SHARDS} shards")]
    TooManyShards {
        /// The code refused.
        code: Code,
    },
    /// Too few data, parity or copies to be a code at all, or a second name for another code.
    #[error("{code} has too few shards; copies takes at least 1, xor at least 2, rs at least 1+1")]
    TooFewShards {
        /// The code refused.
        code: Code,
    },
    /// The successor lists of this network are too short for this code. A smaller code is possible.
    #[error("{code} needs {} peers; this network allows {widest}", .code.n())]
    TooWide {
        /// The code refused.
        code: Code,
        /// Most shards a stripe may have in this network.
        widest: usize,
    },
}

impl Code {
    /// Data shards: how many shards bring a block back.
    pub const fn k(self) -> u8 {
        match self {
            Self::Copies(_) => 1,
            Self::Xor(k) => k,
            Self::ReedSolomon { data, .. } => data,
        }
    }

    /// Parity shards: how many losses the stripe survives.
    pub const fn m(self) -> u8 {
        match self {
            Self::Copies(n) => n.saturating_sub(1),
            Self::Xor(_) => 1,
            Self::ReedSolomon { parity, .. } => parity,
        }
    }

    /// All shards, k + m.
    pub const fn n(self) -> u8 {
        self.k().saturating_add(self.m())
    }

    /// The default for a network of so many peers, live and suspect ones counted alike.
    pub const fn auto(peers: usize) -> Self {
        match peers {
            0 | 1 => Self::Copies(1),
            2 => Self::Copies(2),
            3 => Self::Xor(2),
            4 | 5 => Self::ReedSolomon { data: 2, parity: 2 },
            6..=15 => Self::ReedSolomon { data: 4, parity: 2 },
            _ => Self::ReedSolomon { data: 8, parity: 4 },
        }
    }

    /// The code for blocks of at most 16 KiB of plaintext: it survives as many losses, and one holder answers
    /// a read.
    #[must_use]
    pub const fn small(self) -> Self {
        Self::Copies(self.m().saturating_add(1))
    }

    /// This code if it is within the bounds that its variant names.
    pub const fn check(self) -> Result<Self, CodeError> {
        let enough = match self {
            Self::Copies(n) => n >= 1,
            Self::Xor(k) => k >= 2,
            Self::ReedSolomon { data, parity } => data >= 1 && parity >= 1,
        };
        if !enough {
            return Err(CodeError::TooFewShards { code: self });
        }
        if self.n() > MAX_SHARDS {
            return Err(CodeError::TooManyShards { code: self });
        }
        Ok(self)
    }

    /// Whether a network whose successor lists reach `r` distinct peers can hold this code: n ≤ r - 4.
    pub const fn check_ring(self, r: usize) -> Result<(), CodeError> {
        let widest = r.saturating_sub(SPARE_SUCCESSORS);
        if self.n() as usize > widest {
            return Err(CodeError::TooWide { code: self, widest });
        }
        Ok(())
    }

    /// The three header bytes: number of the code, k, m.
    pub const fn to_wire(self) -> [u8; 3] {
        let number = match self {
            Self::Copies(_) => 0,
            Self::Xor(_) => 1,
            Self::ReedSolomon { .. } => 2,
        };
        [number, self.k(), self.m()]
    }

    /// The code that [`Code::to_wire`] gives these bytes for.
    pub const fn from_wire([number, k, m]: [u8; 3]) -> Result<Self, CodeError> {
        let code = match (number, k, m) {
            (0, 1, 0..=254) => Self::Copies(m + 1),
            (1, _, 1) => Self::Xor(k),
            (2, ..) => Self::ReedSolomon { data: k, parity: m },
            (0 | 1, ..) => return Err(CodeError::Shape { k, m }),
            (3.., ..) => return Err(CodeError::Unknown(number)),
        };
        code.check()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copies(n) => write!(f, "copies:{n}"),
            Self::Xor(k) => write!(f, "xor:{k}"),
            Self::ReedSolomon { data, parity } => write!(f, "rs:{data}+{parity}"),
        }
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let (name, numbers) = text.split_once(':').ok_or(CodeError::Syntax)?;
        let code = match (name, numbers.split_once('+')) {
            ("copies", None) => Self::Copies(number(numbers)?),
            ("xor", None) => Self::Xor(number(numbers)?),
            ("rs", Some((data, parity))) => Self::ReedSolomon {
                data: number(data)?,
                parity: number(parity)?,
            },
            (_, None | Some(_)) => return Err(CodeError::Syntax),
        };
        code.check()
    }
}

/// A decimal number as [`Display`](fmt::Display) writes it: no sign, no leading zero.
fn number(text: &str) -> Result<u8, CodeError> {
    let value: u8 = text.parse().map_err(|_| CodeError::Syntax)?;
    let canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if canonical {
        Ok(value)
    } else {
        Err(CodeError::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn rs(data: u8, parity: u8) -> Code {
        Code::ReedSolomon { data, parity }
    }

    #[test]
    fn names() {
        for (name, code, k, m) in [
            ("copies:1", Code::Copies(1), 1, 0),
            ("copies:64", Code::Copies(64), 1, 63),
            ("xor:2", Code::Xor(2), 2, 1),
            ("xor:63", Code::Xor(63), 63, 1),
            ("rs:1+1", rs(1, 1), 1, 1),
            ("rs:8+4", rs(8, 4), 8, 4),
            ("rs:60+4", rs(60, 4), 60, 4),
        ] {
            assert_eq!(name.parse(), Ok(code));
            assert_eq!(code.to_string(), name);
            assert_eq!((code.k(), code.m(), code.n()), (k, m, k + m));
        }
    }

    #[test]
    fn refused_names() {
        for name in [
            "",
            "auto",
            "rs",
            "rs:",
            "rs:4",
            "rs:4+",
            "rs:+2",
            "rs:4+2+1",
            "rs:4+02",
            "rs:+4+2",
            "rs:256+1",
            "copies",
            "copies:",
            "copies: 2",
            "copies:+2",
            "copies:02",
            "copies:2+1",
            "copies:-1",
            "xor:3+1",
            "XOR:3",
            "raid:5",
            " xor:3",
        ] {
            assert_eq!(name.parse::<Code>(), Err(CodeError::Syntax), "{name:?}");
        }
        for code in [
            Code::Copies(0),
            Code::Xor(0),
            Code::Xor(1),
            rs(0, 1),
            rs(1, 0),
            rs(0, 0),
        ] {
            assert_eq!(
                code.to_string().parse::<Code>(),
                Err(CodeError::TooFewShards { code })
            );
        }
        for code in [
            Code::Copies(65),
            Code::Xor(64),
            Code::Xor(255),
            rs(60, 5),
            rs(255, 255),
        ] {
            assert_eq!(
                code.to_string().parse::<Code>(),
                Err(CodeError::TooManyShards { code })
            );
        }
    }

    #[test]
    fn default_by_peers() {
        for (peers, name) in [
            (0, "copies:1"),
            (1, "copies:1"),
            (2, "copies:2"),
            (3, "xor:2"),
            (4, "rs:2+2"),
            (5, "rs:2+2"),
            (6, "rs:4+2"),
            (15, "rs:4+2"),
            (16, "rs:8+4"),
            (usize::MAX, "rs:8+4"),
        ] {
            let code = Code::auto(peers);
            assert_eq!(code.to_string(), name);
            assert_eq!(code.check(), Ok(code));
            assert!(usize::from(code.n()) <= peers.max(1), "one shard per peer");
            assert_eq!(code.check_ring(16), Ok(()), "fits the default successor list");
        }
    }

    #[test]
    fn small_blocks_keep_the_tolerance() {
        for (code, small) in [("copies:3", 3), ("xor:5", 2), ("rs:4+2", 3), ("rs:1+63", 64)] {
            let code: Code = code.parse().unwrap();
            assert_eq!(code.small(), Code::Copies(small));
            assert_eq!(code.small().m(), code.m());
        }
    }

    #[test]
    fn ring_width() {
        assert_eq!(rs(8, 4).check_ring(16), Ok(()));
        assert_eq!(
            rs(8, 4).check_ring(15),
            Err(CodeError::TooWide {
                code: rs(8, 4),
                widest: 11
            })
        );
        assert_eq!(
            Code::Copies(1).check_ring(3),
            Err(CodeError::TooWide {
                code: Code::Copies(1),
                widest: 0
            })
        );
    }

    #[test]
    fn wire_shapes() {
        assert_eq!(Code::from_wire([0, 2, 1]), Err(CodeError::Shape { k: 2, m: 1 }));
        assert_eq!(
            Code::from_wire([0, 1, 255]),
            Err(CodeError::Shape { k: 1, m: 255 })
        );
        assert_eq!(Code::from_wire([1, 4, 2]), Err(CodeError::Shape { k: 4, m: 2 }));
        assert_eq!(Code::from_wire([3, 4, 2]), Err(CodeError::Unknown(3)));
        assert_eq!(Code::from_wire([2, 4, 2]), Ok(rs(4, 2)));
    }

    proptest! {
        #[test]
        fn wire_and_text_round_trip(bytes: [u8; 3]) {
            // Most random triples are refused; the low values are where codes live.
            for bytes in [bytes, bytes.map(|byte| byte % 3), [bytes[0] % 3, bytes[1] % 64, bytes[2] % 64]] {
                if let Ok(code) = Code::from_wire(bytes) {
                    prop_assert_eq!(code.to_wire(), bytes);
                    prop_assert_eq!(code.to_string().parse(), Ok(code));
                    prop_assert!(code.n() <= MAX_SHARDS);
                }
            }
        }
    }
}
