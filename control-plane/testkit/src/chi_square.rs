//! Does a measured split follow its weights?
//!
//! Pearson's goodness-of-fit test: a fair split is called unfair once in a thousand measurements.

use std::fmt;

/// The critical values of the χ² distribution at significance 0.001, for 1 to 10 degrees of freedom.
const CRITICAL: [f64; 10] = [
    10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124, 27.877, 29.588,
];

/// The outcome of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoodnessOfFit {
    /// The distance between what was measured and what was asked for.
    pub statistic: f64,
    /// The distance that a fair split stays below, but once in a thousand times.
    pub critical: f64,
}

impl GoodnessOfFit {
    /// Whether the split may be called fair.
    pub fn is_consistent(self) -> bool {
        self.statistic <= self.critical
    }
}

impl fmt::Display for GoodnessOfFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "χ² {:.2}, limit {:.2}", self.statistic, self.critical)
    }
}

/// Compares `counts` with `weights`, place by place.
///
/// A target of weight zero must have no count at all: then the statistic is infinite.
///
/// # Panics
///
/// When there is not one weight per count, no weight above zero, or more than eleven of them.
pub fn goodness_of_fit(counts: &[u64], weights: &[u32]) -> GoodnessOfFit {
    assert_eq!(counts.len(), weights.len(), "one weight per count");
    let total_weight: u32 = weights.iter().sum();
    assert!(total_weight > 0, "some weight is above zero");
    let total: f64 = counts.iter().map(|&count| float(count)).sum();

    let mut statistic = 0.0;
    let mut positive = 0;
    for (&count, &weight) in counts.iter().zip(weights) {
        if weight == 0 {
            if count > 0 {
                statistic = f64::INFINITY;
            }
            continue;
        }
        positive += 1;
        let expected = total * f64::from(weight) / f64::from(total_weight);
        if expected > 0.0 {
            statistic += (float(count) - expected).powi(2) / expected;
        }
    }
    let critical = match positive {
        1 => 0.0, // Everything goes to the one target, whatever the number.
        weights => CRITICAL[weights - 2],
    };
    GoodnessOfFit {
        statistic,
        critical,
    }
}

/// Counts of requests are far below 2³².
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("fewer than four billion requests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_near_its_weights_holds() {
        assert!(goodness_of_fit(&[1795, 205], &[90, 10]).is_consistent());
        assert!(goodness_of_fit(&[1000, 1000], &[1, 1]).is_consistent());
        assert!(goodness_of_fit(&[2000, 0], &[100, 0]).is_consistent());
        assert!(goodness_of_fit(&[330, 340, 330], &[1, 1, 1]).is_consistent());
    }

    #[test]
    fn a_split_off_its_weights_does_not() {
        assert!(!goodness_of_fit(&[1700, 300], &[90, 10]).is_consistent());
        assert!(!goodness_of_fit(&[2000, 0], &[50, 50]).is_consistent());
        assert!(!goodness_of_fit(&[1999, 1], &[100, 0]).is_consistent());
    }

    #[test]
    fn the_statistic_is_pearsons() {
        // 60/40 of 100 against 50/50: 10²/50 twice.
        assert_eq!(
            goodness_of_fit(&[60, 40], &[50, 50]),
            GoodnessOfFit {
                statistic: 4.0,
                critical: 10.828
            }
        );
    }
}
