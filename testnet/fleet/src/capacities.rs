//! The capacities of a testnet's peers, as they are given on the command line.

use std::str::FromStr;

use mutualstore_contract::units::{Size, UnitError};

/// The capacities of a testnet's peers: one size for all, or a comma list repeated over the peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacities(Vec<Size>);

impl Capacities {
    /// The same capacity, in bytes, for every peer.
    pub fn same(bytes: u64) -> Self {
        Self(vec![Size(bytes)])
    }

    /// A repeating list of capacities, in bytes; an empty list means 1 GiB for all.
    pub fn repeating(bytes: impl IntoIterator<Item = u64>) -> Self {
        let sizes: Vec<Size> = bytes.into_iter().map(Size).collect();
        if sizes.is_empty() {
            Self::same(1 << 30)
        } else {
            Self(sizes)
        }
    }

    /// Capacity of peer `index`, in bytes.
    pub fn of(&self, index: usize) -> u64 {
        self.0
            .iter()
            .cycle()
            .nth(index % self.0.len().max(1))
            .map_or(0, |size| size.0)
    }

    /// The smallest capacity of the list, in bytes.
    pub fn smallest(&self) -> u64 {
        self.0.iter().map(|size| size.0).min().unwrap_or(0)
    }

    /// The list in bytes, as it repeats.
    pub fn list(&self) -> Vec<u64> {
        self.0.iter().map(|size| size.0).collect()
    }
}

impl FromStr for Capacities {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
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
