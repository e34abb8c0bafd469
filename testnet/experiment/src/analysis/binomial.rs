//! Chances of draws, by logarithms: thousands of peers do not overflow.

use statrs::distribution::{Binomial, Discrete, Hypergeometric};

use crate::findings::real;

/// Chance that exactly `hit` of `marked` peers are among the `drawn` of `total`, every draw being equally
/// likely.
pub(super) fn hypergeometric(total: usize, marked: usize, drawn: usize, hit: usize) -> f64 {
    let law = Hypergeometric::new(total as u64, marked as u64, drawn as u64);
    law.map_or(0.0, |law| law.ln_pmf(hit as u64).exp())
}

/// Chance that more than `tolerated` of `marked` peers are among the `drawn` of `total`.
pub(super) fn tail(total: usize, marked: usize, drawn: usize, tolerated: usize) -> f64 {
    let hits = tolerated + 1..=marked.min(drawn);
    hits.map(|hit| hypergeometric(total, marked, drawn, hit))
        .sum::<f64>()
        .min(1.0)
}

/// Chance of exactly `hits` in `trials` independent ones of chance `p` each.
pub(super) fn binomial(trials: usize, hits: usize, p: f64) -> f64 {
    Binomial::new(p, trials as u64).map_or(0.0, |law| law.pmf(hits as u64))
}

/// Chance of at least one hit in `trials` independent ones of chance `p` each; exact for the smallest chances
/// too.
pub(super) fn at_least_one(p: f64, trials: usize) -> f64 {
    if trials == 0 {
        return 0.0;
    }
    -(real(trials) * (-p).ln_1p()).exp_m1()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_of_thousands_of_peers_do_not_overflow() {
        let (n, s) = (5000, 2500);
        let sum: f64 = (0..=s).map(|hit| hypergeometric(n, 1000, s, hit)).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        // C(s,3)/C(N,3), as a product.
        let h = (2500.0 * 2499.0 * 2498.0) / (5000.0 * 4999.0 * 4998.0);
        assert!((tail(n, 3, s, 2) / h - 1.0).abs() < 1e-10);
    }

    #[test]
    fn chances_near_zero_keep_their_digits() {
        let chance = at_least_one(1e-20, 4);
        assert!((chance / 4e-20 - 1.0).abs() < 1e-12, "{chance}");
        assert!((at_least_one(1.0, 4) - 1.0).abs() < 1e-15);
    }
}
