//! How the holders of a stripe are chosen, as its header says.
//!
//! | header byte | policy |
//! |---|---|
//! | 0 | `successors` |
//! | 1 | `random` |
//! | 2 | `copysets` |
//! | 3 | `buddies` with groups of 2n peers |
//! | 0x80 + g | `buddies:g`, 1 ≤ g ≤ 127 |
//!
//! Invariant: one policy has one byte and one text.
//!
//! Deliberately absent: which peers the policies choose; that takes the peers.

use std::fmt;
use std::str::FromStr;

use crate::Code;

/// Most peers of a group that has its size from its policy.
pub const MAX_GROUP: u8 = 0x7f;

/// Marks a header byte that holds the size of a group.
const EXPLICIT: u8 = 0x80;

/// How the holders of a stripe are chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Policy {
    /// The first n distinct peers from the successor of the stripe id.
    #[default]
    Successors,
    /// A pseudo-random place for each shard (random replication; Cidon et al. 2013 §2).
    Random,
    /// The group of n peers that the anchor falls into (`MinCopysets`; Cidon et al. 2013).
    Copysets,
    /// n members of the group that the anchor falls into.
    Buddies {
        /// Peers of a group, at least n; none: 2n.
        group: Option<GroupSize>,
    },
}

/// A number of peers from 1 to [`MAX_GROUP`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupSize(u8);

impl GroupSize {
    /// The number of peers.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for GroupSize {
    type Error = PolicyError;

    fn try_from(peers: u8) -> Result<Self, PolicyError> {
        if (1..=MAX_GROUP).contains(&peers) {
            Ok(Self(peers))
        } else {
            Err(PolicyError)
        }
    }
}

/// The text or number names no policy this version knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "unknown placement policy; expected successors, random, copysets, buddies or buddies:G with G from 1 to \
     {MAX_GROUP}"
)]
pub struct PolicyError;

/// The groups of a policy are smaller than a stripe of this code. A larger group or a smaller code is
/// possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("buddies:{group} cannot hold the {} shards of {code}, which need as many peers; give a code with \
         fewer, or another placement", .code.n())]
pub struct GroupError {
    /// Peers of a group.
    pub group: u8,
    /// Code of the stripe.
    pub code: Code,
}

impl Policy {
    /// Those without a parameter, by header byte.
    const PLAIN: [Self; 4] = [
        Self::Successors,
        Self::Random,
        Self::Copysets,
        Self::Buddies { group: None },
    ];

    /// The header byte.
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Successors => 0,
            Self::Random => 1,
            Self::Copysets => 2,
            Self::Buddies { group: None } => 3,
            Self::Buddies { group: Some(group) } => EXPLICIT | group.0,
        }
    }

    /// The policy with this header byte.
    pub fn from_wire(byte: u8) -> Result<Self, PolicyError> {
        if byte & EXPLICIT != 0 {
            let group = Some(GroupSize::try_from(byte & !EXPLICIT)?);
            return Ok(Self::Buddies { group });
        }
        Self::PLAIN.get(usize::from(byte)).copied().ok_or(PolicyError)
    }

    /// Whether stripes are placed by groups of peers, so that stripes with one anchor share a group.
    pub const fn has_groups(self) -> bool {
        matches!(self, Self::Copysets | Self::Buddies { .. })
    }

    /// Peers of a group for stripes of `code`, at least n; none for policies without groups.
    pub const fn group(self, code: Code) -> Option<u8> {
        match self {
            Self::Successors | Self::Random => None,
            Self::Copysets => Some(code.n()),
            Self::Buddies { group: Some(group) } => Some(group.0),
            Self::Buddies { group: None } => Some(code.n().saturating_mul(2)),
        }
    }

    /// This policy if its groups hold a stripe of `code`.
    pub const fn check(self, code: Code) -> Result<Self, GroupError> {
        match self.group(code) {
            Some(group) if group < code.n() => Err(GroupError { group, code }),
            Some(_) | None => Ok(self),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Successors => f.write_str("successors"),
            Self::Random => f.write_str("random"),
            Self::Copysets => f.write_str("copysets"),
            Self::Buddies { group: None } => f.write_str("buddies"),
            Self::Buddies { group: Some(group) } => write!(f, "buddies:{}", group.0),
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    /// The form of [`fmt::Display`] and no other.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let plain = || Self::PLAIN.into_iter().find(|policy| policy.to_string() == text);
        let Some(peers) = text.strip_prefix("buddies:") else {
            return plain().ok_or(PolicyError);
        };
        let peers: u8 = peers.parse().map_err(|_| PolicyError)?;
        let group = Some(GroupSize::try_from(peers)?);
        let policy = Self::Buddies { group };
        // "+6" and "06" are numbers to the parser.
        if policy.to_string() == text {
            Ok(policy)
        } else {
            Err(PolicyError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buddies(peers: u8) -> Policy {
        Policy::Buddies {
            group: Some(peers.try_into().unwrap()),
        }
    }

    #[test]
    fn names_and_bytes() {
        let plain = ["successors", "random", "copysets", "buddies"].map(str::to_owned);
        let explicit = (1..=127).map(|peers| (0x80 | peers, format!("buddies:{peers}")));
        for (byte, name) in (0..).zip(plain).chain(explicit) {
            let policy: Policy = name.parse().unwrap();
            assert_eq!(policy.to_string(), name);
            assert_eq!(policy.to_wire(), byte);
            assert_eq!(Policy::from_wire(byte), Ok(policy));
        }
        assert_eq!(buddies(12), "buddies:12".parse().unwrap());
        for name in [
            "",
            "Successors",
            "random ",
            "first",
            "copysets:3",
            "buddies:",
            "buddies:0",
            "buddies:06",
            "buddies:+6",
            "buddies:128",
            "buddies:256",
            "buddies:-1",
            "buddies:6 ",
        ] {
            assert_eq!(name.parse::<Policy>(), Err(PolicyError), "{name}");
        }
        for byte in 4..=0x80 {
            assert_eq!(Policy::from_wire(byte), Err(PolicyError), "{byte}");
        }
    }

    #[test]
    fn groups() {
        let code = Code::ReedSolomon { data: 4, parity: 2 };
        assert_eq!(Policy::Successors.group(code), None);
        assert_eq!(Policy::Random.group(code), None);
        assert_eq!(Policy::Copysets.group(code), Some(6));
        assert_eq!(Policy::Buddies { group: None }.group(code), Some(12));
        assert_eq!(buddies(7).group(code), Some(7));
        assert_eq!(Policy::Buddies { group: None }.group(Code::Copies(64)), Some(128));
        assert_eq!(buddies(6).check(code), Ok(buddies(6)));
        assert_eq!(buddies(5).check(code), Err(GroupError { group: 5, code }));
    }
}
