//! Pearson's chi-square test: does a measured split follow its weights?
//!
//! The test rejects a split that follows its weights in fewer than one of a million measurements, so it does not fail
//! `make test` by chance.
//! The price is power. Splits that the test still rejects in 99 of 100 measurements:
//!
//! | requests | weights 90/10 | weights 50/50 |
//! |---|---|---|
//! | 2,000 | 84/16 | 41/59 |
//! | 1,000 | 82/18 | 38/62 |
//! | 400 | 77/23 | 31/69 |

use std::fmt;

use statrs::distribution::{ChiSquared, ContinuousCDF as _};

/// Smallest p-value at which a split counts as consistent with its weights.
///
/// The chi-square distribution approximates the true one; for 400 requests at 90/10 the approximation is too low by a
/// factor of eight. With this limit the false-positive rate stays below 1e-6.
const LIMIT: f64 = 1e-7;

/// The result of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoodnessOfFit {
    /// Pearson's statistic: zero for a perfect split, infinite if a target of weight zero was called.
    pub statistic: f64,
    /// Probability of a statistic at least as large from a split that follows the weights.
    pub p_value: f64,
}

impl GoodnessOfFit {
    pub fn is_consistent(self) -> bool {
        self.p_value >= LIMIT
    }
}

impl fmt::Display for GoodnessOfFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "χ² {:.2}, p {:.1e}", self.statistic, self.p_value)
    }
}

/// Tests `counts` against `weights`, which have the same order.
///
/// # Panics
///
/// If the lengths differ or no weight is above zero.
pub fn goodness_of_fit(counts: &[u64], weights: &[u32]) -> GoodnessOfFit {
    assert_eq!(counts.len(), weights.len(), "one weight per count");
    let total_weight: u32 = weights.iter().sum();
    assert!(total_weight > 0, "some weight is above zero");
    let total: f64 = counts.iter().map(|&count| float(count)).sum();

    let mut statistic = 0.0;
    let mut targets = 0;
    for (&count, &weight) in counts.iter().zip(weights) {
        if weight == 0 {
            if count > 0 {
                statistic = f64::INFINITY;
            }
            continue;
        }
        targets += 1;
        let expected = total * f64::from(weight) / f64::from(total_weight);
        if expected > 0.0 {
            statistic += (float(count) - expected).powi(2) / expected;
        }
    }
    let p_value = if statistic == 0.0 {
        1.0
    } else if statistic.is_infinite() {
        0.0
    } else {
        let freedom = f64::from(targets - 1);
        let distribution = ChiSquared::new(freedom).expect("two targets differ, so one is free");
        distribution.sf(statistic)
    };
    GoodnessOfFit { statistic, p_value }
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("fewer than four billion requests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_near_its_weights_is_consistent() {
        for (counts, weights) in [
            (&[1795, 205][..], &[90, 10][..]),
            (&[1000, 1000], &[1, 1]),
            (&[2000, 0], &[100, 0]),
            (&[330, 340, 330], &[1, 1, 1]),
            (&[0, 0], &[1, 1]),
        ] {
            let fit = goodness_of_fit(counts, weights);
            assert!(fit.is_consistent(), "{counts:?} at {weights:?}: {fit}");
        }
    }

    #[test]
    fn split_off_its_weights_is_rejected() {
        for (counts, weights) in [
            (&[1680, 320][..], &[90, 10][..]),
            (&[820, 1180], &[50, 50]),
            (&[2000, 0], &[50, 50]),
            (&[450, 275, 275], &[1, 1, 1]),
        ] {
            let fit = goodness_of_fit(counts, weights);
            assert!(!fit.is_consistent(), "{counts:?} at {weights:?}: {fit}");
        }
    }

    #[test]
    fn single_call_of_a_target_without_weight_is_rejected() {
        let fit = goodness_of_fit(&[1999, 1], &[100, 0]);
        assert!(!fit.is_consistent());
        assert_eq!((fit.statistic, fit.p_value), (f64::INFINITY, 0.0));
    }

    #[test]
    fn statistic_and_p_value_are_those_of_the_tables() {
        // 60/40 of 100 against 50/50: 10²/50 twice.
        let fit = goodness_of_fit(&[60, 40], &[50, 50]);
        assert!((fit.statistic - 4.0).abs() < 1e-12, "{fit}");
        assert!((fit.p_value - 0.0455).abs() < 1e-4, "{fit}");
        // Three targets have two degrees of freedom, for which the p-value is exp(-statistic / 2).
        let fit = goodness_of_fit(&[450, 275, 275], &[1, 1, 1]);
        let expected = (-fit.statistic / 2.0).exp();
        assert!((fit.p_value / expected - 1.0).abs() < 1e-6, "{fit}");
    }
}
