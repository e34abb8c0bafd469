//! The capacities of a testnet's peers, as they are given on the command line.

use std::str::FromStr;

use mutualstore_contract::units::{Size, UnitError};
use serde::{Deserialize, Serialize};

/// What an empty list stands for, in bytes.
const DEFAULT: u64 = 1 << 30;

/// The capacities of a testnet's peers in bytes: one size for all, or a list repeated over the peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacities(Vec<u64>);

impl Capacities {
    /// The same capacity, in bytes, for every peer.
    pub fn same(bytes: u64) -> Self {
        Self(vec![bytes])
    }

    /// A repeating list of capacities, in bytes; an empty list means 1 GiB for all.
    pub fn repeating(bytes: impl IntoIterator<Item = u64>) -> Self {
        Self(bytes.into_iter().collect())
    }

    /// Capacity of peer `index`, in bytes.
    pub fn of(&self, index: usize) -> u64 {
        let place = index % self.0.len().max(1);
        self.0.get(place).copied().unwrap_or(DEFAULT)
    }

    /// The smallest capacity of the list, in bytes.
    pub fn smallest(&self) -> u64 {
        self.0.iter().copied().min().unwrap_or(DEFAULT)
    }
}

impl FromStr for Capacities {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sizes = text.split(',').map(str::parse::<Size>);
        sizes.map(|size| Ok(size?.0)).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_repeat_over_the_peers() {
        let list: Capacities = "1GiB,2GiB".parse().unwrap();
        assert_eq!((list.of(0), list.of(1), list.of(4)), (1 << 30, 2 << 30, 1 << 30));
        assert_eq!(list.smallest(), 1 << 30);
        assert!("1GiB,,2GiB".parse::<Capacities>().is_err());
    }
}
