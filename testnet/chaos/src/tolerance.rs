//! What a network of so many peers can stand at one time.

/// The codes that are used, and how many peers may be hurt at once so that each of them holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tolerance {
    /// Peers hurt at once.
    pub(super) hurt: usize,
    pub(super) codes: &'static [&'static str],
    /// Shards of the widest code.
    widest: usize,
}

/// Fewer peers cannot lose one and still be whole.
pub(super) const FEWEST: usize = 6;

impl Tolerance {
    /// For `peers` of which one may have left for good.
    pub(super) fn of(peers: usize) -> Self {
        let (hurt, codes, widest): (_, &'static [&'static str], _) = match peers {
            0..9 => (1, &["xor:2", "copies:2", "rs:3+1"], 4),
            9..18 => (2, &["rs:4+2", "copies:3", "rs:2+2"], 6),
            18.. => (4, &["rs:8+4", "copies:5", "rs:2+4"], 12),
        };
        Self { hurt, codes, widest }
    }

    /// Peers there must be, hurt or not, so that a stripe finds places for all its shards.
    pub(super) fn needed(&self) -> usize {
        self.widest + self.hurt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_after_one_departure_still_find_their_places() {
        for peers in FEWEST..200 {
            assert!(Tolerance::of(peers).needed() < peers, "{peers} peers");
        }
    }
}
