//! Identifiers on the circle modulo 2^256 (Stoica et al. 2003, §III).

use std::cmp::Ordering;
use std::fmt;

/// Length of an identifier in bytes.
pub const ID_LEN: usize = 32;

/// A point on the circle: 256 bits, compared and computed with as a big-endian integer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Id([u8; ID_LEN]);

/// 32 big-endian bytes as four numbers, the highest first: they compare several times faster than bytes do.
pub(crate) fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (chunks, _) = bytes.as_chunks::<8>();
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_be_bytes(*chunk);
    }
    words
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        words(&self.0).cmp(&words(&other.0))
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Id {
    /// The point with these 32 big-endian bytes.
    pub const fn new(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 big-endian bytes.
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    /// Whether this point lies on the open arc from `from` clockwise to `to`. When both ends are the same
    /// point, the arc is the whole circle without it.
    pub fn between(&self, from: &Self, to: &Self) -> bool {
        if from < to {
            from < self && self < to
        } else {
            from < self || self < to
        }
    }

    /// Whether this point lies on the half-open arc `(from, to]`. When both ends are the same point, the arc
    /// is the whole circle: a lone node is responsible for everything.
    pub fn within(&self, from: &Self, to: &Self) -> bool {
        self == to || self.between(from, to)
    }

    /// This point plus 2^`exponent`, modulo 2^256 (`exponent` is taken modulo 256).
    #[must_use]
    pub fn add_power_of_two(&self, exponent: u8) -> Self {
        let mut bytes = self.0;
        let mut carry = 1u16 << (exponent % 8);
        let first = ID_LEN - 1 - usize::from(exponent / 8);
        for byte in bytes.iter_mut().take(first + 1).rev() {
            let sum = u16::from(*byte) + carry;
            [_, *byte] = sum.to_be_bytes();
            carry = sum >> 8;
            if carry == 0 {
                break;
            }
        }
        Self(bytes)
    }

    /// The next point clockwise.
    #[must_use]
    pub fn successor(&self) -> Self {
        self.add_power_of_two(0)
    }

    /// The first 8 bytes as a big-endian number: enough to compare distances by size.
    pub fn prefix(&self) -> u64 {
        let [first, ..] = words(&self.0);
        first
    }

    /// How many bits a number this large needs; 0 for zero.
    pub fn bits(&self) -> u32 {
        let mut bits = 256;
        for byte in &self.0 {
            if *byte != 0 {
                return bits - byte.leading_zeros();
            }
            bits -= 8;
        }
        0
    }

    /// Clockwise distance from `from` to this point, modulo 2^256, as a point.
    #[must_use]
    pub fn distance_from(&self, from: &Self) -> Self {
        let mut out = [0u8; ID_LEN];
        let mut borrow = false;
        let pairs = words(&self.0).into_iter().zip(words(&from.0)).rev();
        for (out, (a, b)) in out.rchunks_mut(8).zip(pairs) {
            let (difference, first) = a.overflowing_sub(b);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            borrow = first | second;
            out.copy_from_slice(&difference.to_be_bytes());
        }
        Self(out)
    }
}

impl From<[u8; ID_LEN]> for Id {
    fn from(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Id {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    /// The first 8 hexadecimal digits: enough to tell points apart in a trace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(low: u8) -> Id {
        let mut bytes = [0; ID_LEN];
        bytes[ID_LEN - 1] = low;
        Id::new(bytes)
    }

    #[test]
    fn arc_over_zero_wraps() {
        assert!(id(1).between(&id(250), &id(3)));
        assert!(!id(3).between(&id(250), &id(3)));
        assert!(id(3).within(&id(250), &id(3)));
        assert!(id(9).between(&id(3), &id(3)));
        assert!(!id(3).between(&id(3), &id(3)));
        assert!(id(3).within(&id(3), &id(3)));
    }

    #[test]
    fn power_of_two_added_carries_and_wraps() {
        assert_eq!(id(255).successor().as_bytes()[30], 1);
        assert_eq!(Id::new([255; 32]).successor(), id(0));
        assert_eq!(id(0).add_power_of_two(255).as_bytes()[0], 128);
    }

    #[test]
    fn bits_of_a_distance_are_its_length() {
        assert_eq!(id(0).bits(), 0);
        assert_eq!(id(5).bits(), 3);
        assert_eq!(id(0).add_power_of_two(200).bits(), 201);
        assert_eq!(id(7).prefix(), 0);
        assert_eq!(id(0).add_power_of_two(192).prefix(), 1);
    }

    proptest! {
        #[test]
        fn distance_after_addition_is_the_addend(bytes: [u8; 32], exponent: u8) {
            let start = Id::new(bytes);
            let moved = start.add_power_of_two(exponent);
            prop_assert_eq!(moved.distance_from(&start), Id::default().add_power_of_two(exponent));
        }
    }
}
