//! What the demo shows: a table that grows by a row a step, with the running second below.
//!
//! On a terminal the running second is drawn over; elsewhere each second is a line.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use evermesh_testkit::{
    canary::by_version,
    chi_square::{self, GoodnessOfFit},
    load::LoadStats,
};

/// With it a line has 79 columns: a terminal of 80 does not wrap it.
const WIDTH_OF_BAR: u64 = 12;

/// What was measured at one setting of the weights.
pub(crate) struct Step {
    pub(crate) label: String,
    weights: [u32; 2],
    /// From the file's writing to the last ACK.
    applied: Option<Duration>,
    pub(crate) requests: u64,
    pub(crate) answers: BTreeMap<String, u64>,
    /// The medians of its seconds, added up, and the worst second's 99th percentile.
    medians_ms: f64,
    p99_ms: f64,
    seconds: u32,
}

impl Step {
    pub(crate) fn new(label: String, weights: [u32; 2], applied: Option<Duration>) -> Self {
        Self {
            label,
            weights,
            applied,
            requests: 0,
            answers: BTreeMap::new(),
            medians_ms: 0.0,
            p99_ms: 0.0,
            seconds: 0,
        }
    }

    pub(crate) fn add(&mut self, tally: &LoadStats) {
        self.requests += tally.requests();
        for (answer, count) in &tally.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
        }
        self.medians_ms += tally.p50_ms;
        self.p99_ms = self.p99_ms.max(tally.p99_ms);
        self.seconds += 1;
    }

    /// How well the split follows the weights.
    pub(crate) fn fit(&self) -> GoodnessOfFit {
        chi_square::goodness_of_fit(&by_version(&self.answers), &self.weights)
    }

    fn applied(&self) -> String {
        self.applied.map_or("-".to_owned(), |applied| {
            format!("{:.0} ms", applied.as_secs_f64() * 1000.0)
        })
    }
}

/// The table and the sums over all of it.
pub(crate) struct ProgressTable {
    drawn_over: bool,
    requests: u64,
    failed: u64,
    /// Failed requests by status or reason.
    failures: BTreeMap<String, u64>,
}

impl ProgressTable {
    pub(crate) fn new() -> Self {
        Self {
            drawn_over: std::io::stdout().is_terminal(),
            requests: 0,
            failed: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Starts the table.
    pub(crate) fn open() {
        say(&format!(
            "{:<12} {:>6} {:>6} {:>6} {:>6} {:>8} {:>8} {:>7} {}",
            "v1 / v2", "v1", "v2", "sent", "failed", "p50", "p99", "ACKed", "split"
        ));
    }

    /// Shows one second while a step runs.
    pub(crate) fn second(&mut self, step: &Step, tally: &LoadStats) {
        self.requests += tally.requests();
        self.failed += tally.failed();
        let statuses = tally
            .statuses
            .range(400..)
            .map(|(status, count)| (format!("status {status}"), *count));
        for (reason, count) in tally.errors.clone().into_iter().chain(statuses) {
            *self.failures.entry(reason).or_default() += count;
        }
        let split = by_version(&tally.answers);
        let line = row(
            &step.label,
            split,
            tally.requests(),
            self.failed,
            [tally.p50_ms, tally.p99_ms],
            &step.applied(),
        );
        let line = format!("{line} {}", bar(split));
        if self.drawn_over {
            let _ = write!(std::io::stdout(), "\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            say(&line);
        }
    }

    /// Shows a step when it is over.
    pub(crate) fn finish(&self, step: &Step) {
        let split = by_version(&step.answers);
        let latency = [
            step.medians_ms / f64::from(step.seconds.max(1)),
            step.p99_ms,
        ];
        let line = row(
            &step.label,
            split,
            step.requests,
            self.failed,
            latency,
            &step.applied(),
        );
        let fit = step.fit();
        let verdict = if !fit.is_consistent() {
            "OFF".to_owned()
        } else if step.weights.contains(&0) {
            "exact".to_owned()
        } else {
            format!("χ² {:.2}", fit.statistic)
        };
        let over = if self.drawn_over { "\r\x1b[K" } else { "" };
        say(&format!("{over}{line} {verdict}"));
    }

    /// All requests, and how many of them failed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.requests, self.failed)
    }

    /// Why requests failed.
    pub(crate) fn failures(&self) -> String {
        let reasons = self
            .failures
            .iter()
            .map(|(reason, count)| format!("{count} × {reason}"));
        reasons.collect::<Vec<_>>().join(", ")
    }
}

/// Writes a line of its own.
pub(crate) fn say(line: &str) {
    // Whoever read us is gone; the exit code still tells.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn row(
    label: &str,
    split: [u64; 2],
    requests: u64,
    errors: u64,
    latency: [f64; 2],
    applied: &str,
) -> String {
    let total = (split[0] + split[1]).max(1);
    // Tenths of a percent, in whole numbers.
    let share = |count: u64| {
        format!(
            "{}.{}%",
            count * 1000 / total / 10,
            count * 1000 / total % 10
        )
    };
    let [p50, p99] = latency.map(|latency| format!("{latency:.1} ms"));
    format!(
        "{label:<12} {:>6} {:>6} {requests:>6} {errors:>6} {p50:>8} {p99:>8} {applied:>7}",
        share(split[0]),
        share(split[1])
    )
}

fn bar(split: [u64; 2]) -> String {
    let total = (split[0] + split[1]).max(1);
    let first = (0..WIDTH_OF_BAR)
        .filter(|place| place * total < split[0] * WIDTH_OF_BAR)
        .count();
    let second = (0..WIDTH_OF_BAR).count() - first;
    "█".repeat(first) + &"░".repeat(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_for_one_version_and_shared_by_two() {
        assert_eq!(bar([7, 0]), "█".repeat(12));
        assert_eq!(bar([0, 7]), "░".repeat(12));
        assert_eq!(bar([3, 1]), "█".repeat(9) + "░░░");
    }
}
