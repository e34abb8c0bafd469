//! Sizes as people write and read them: `64KiB`, `10MiB`, `2GiB`, `10GB`, `123`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes; parses with binary (`KiB`) and decimal (`kB`) units, prints in binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SizeError {
    /// No number with a known unit.
    #[error("{0:?} is not a size (like 64KiB, 10MiB, 2GiB, 10GB or 123)")]
    Malformed(String),
    /// The number does not fit in 64 bits.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        if number.is_empty() {
            return Err(malformed());
        }
        let unit = unit.trim().to_ascii_lowercase();
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(malformed)?;
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge(text.to_owned()))?;
        number
            .checked_mul(*factor)
            .map(Self)
            .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let steps = [("TiB", 40u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let Some((unit, shift)) = steps.into_iter().find(|(_, shift)| bytes >> shift != 0) else {
            return f.pad(&format!("{bytes} B"));
        };
        let whole = bytes >> shift;
        let tenths = ((bytes - (whole << shift)) * 10) >> shift;
        // Exact multiples and large numbers need no decimal: `64 KiB`, not `64.0 KiB`.
        if tenths == 0 || whole >= 100 {
            f.pad(&format!("{whole} {unit}"))
        } else {
            f.pad(&format!("{whole}.{tenths} {unit}"))
        }
    }
}

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
    type Err = SizeError;

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
    fn sizes_parse_in_both_systems() {
        for (text, bytes) in [
            ("123", 123),
            ("64KiB", 65_536),
            ("10MiB", 10 << 20),
            ("2 GiB", 2 << 30),
            ("10GB", 10_000_000_000),
            ("1tib", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5GiB", "10 parsecs"] {
            assert!(
                matches!(text.parse::<Size>(), Err(SizeError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(
            "99999999TiB".parse::<Size>(),
            Err(SizeError::TooLarge(_))
        ));
    }

    #[test]
    fn sizes_print_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (65_536, "64 KiB"),
            (1_610_612_736, "1.5 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Size(u64::MAX).to_string(), "16777215 TiB");
        assert_eq!(format!("{:>8}", Size(1)), "     1 B");
    }

    #[test]
    fn capacity_lists_repeat() {
        let list: Capacities = "1GiB,2GiB".parse().unwrap();
        assert_eq!((list.of(0), list.of(1), list.of(4)), (1 << 30, 2 << 30, 1 << 30));
        assert_eq!(list.smallest(), 1 << 30);
        assert!("1GiB,,2GiB".parse::<Capacities>().is_err());
    }
}
