//! Binomial coefficients and what is made of them, in logarithms: thousands of peers do not overflow.

use statrs::function::factorial::ln_binomial;

/// A count as a real number.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(in crate::experiment) fn real(count: usize) -> f64 {
    count as f64
}

/// Natural logarithm of C(n, k); that of 0 when k > n.
pub(in crate::experiment) fn ln_choose(n: usize, k: usize) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    ln_binomial(n as u64, k as u64)
}

/// Chance that exactly `hit` of `marked` peers are among the `drawn` of `total`, every draw being equally
/// likely.
pub(in crate::experiment) fn hypergeometric(total: usize, marked: usize, drawn: usize, hit: usize) -> f64 {
    if hit > drawn || marked > total {
        return 0.0;
    }
    (ln_choose(marked, hit) + ln_choose(total - marked, drawn - hit) - ln_choose(total, drawn)).exp()
}

/// Chance that more than `tolerated` of `marked` peers are among the `drawn` of `total`.
pub(in crate::experiment) fn tail(total: usize, marked: usize, drawn: usize, tolerated: usize) -> f64 {
    let sum: f64 = (tolerated + 1..=marked.min(drawn))
        .map(|hit| hypergeometric(total, marked, drawn, hit))
        .sum();
    sum.min(1.0)
}

/// Chance of exactly `hits` in `trials` independent ones of chance `p` each.
pub(super) fn binomial(trials: usize, hits: usize, p: f64) -> f64 {
    if p >= 1.0 {
        return f64::from(u8::from(hits == trials));
    }
    (ln_choose(trials, hits) + real(hits) * p.ln() + real(trials - hits) * (-p).ln_1p()).exp()
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
    fn coefficients() {
        assert!((ln_choose(36, 33).exp() / 7140.0 - 1.0).abs() < 1e-12 && ln_choose(5, 6).exp() == 0.0);
        assert!((ln_choose(36, 10).exp() / 254_186_856.0 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn thousands_of_peers_do_not_overflow() {
        let (n, s) = (5000, 2500);
        let sum: f64 = (0..=s).map(|hit| hypergeometric(n, 1000, s, hit)).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        // C(s,3)/C(N,3), as a product.
        let h = (2500.0 * 2499.0 * 2498.0) / (5000.0 * 4999.0 * 4998.0);
        assert!((tail(n, 3, s, 2) / h - 1.0).abs() < 1e-10);
    }

    #[test]
    fn no_digits_are_lost_near_zero() {
        let chance = at_least_one(1e-20, 4);
        assert!((chance / 4e-20 - 1.0).abs() < 1e-12, "{chance}");
        assert!((at_least_one(1.0, 4) - 1.0).abs() < 1e-15);
    }
}
