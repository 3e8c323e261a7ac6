//! The table of the demo: a row for each step of the canary release, and below it the second that runs now.
//!
//! On a terminal, the row of the current second overwrites the previous one; elsewhere each second is a line.
//!
//! ```text
//! v1 / v2          v1     v2   sent failed      p50      p99   ACKed split
//! 90 / 10       89.6%  10.4%   2000      0   2.1 ms   6.3 ms   38 ms χ² 0.36
//! ```

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

/// With 12 cells a row has 79 columns, which a terminal of 80 columns does not wrap.
const BAR_CELLS: u64 = 12;

/// The measurements of one step.
pub(crate) struct Step {
    pub(crate) label: String,
    weights: [u32; 2],
    /// Time from the write of the weights to the last ACK.
    applied: Option<Duration>,
    pub(crate) requests: u64,
    pub(crate) answers: BTreeMap<String, u64>,
    /// Sum of the medians of all seconds.
    medians_ms: f64,
    /// The largest 99th percentile of all seconds.
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

    pub(crate) fn add(&mut self, second: &LoadStats) {
        self.requests += second.requests();
        for (answer, count) in &second.answers {
            *self.answers.entry(answer.clone()).or_default() += count;
        }
        self.medians_ms += second.p50_ms;
        self.p99_ms = self.p99_ms.max(second.p99_ms);
        self.seconds += 1;
    }

    /// Compares the split of the answers with the weights.
    pub(crate) fn fit(&self) -> GoodnessOfFit {
        chi_square::goodness_of_fit(&by_version(&self.answers), &self.weights)
    }

    fn applied(&self) -> String {
        self.applied.map_or("-".to_owned(), |applied| {
            format!("{:.0} ms", applied.as_secs_f64() * 1000.0)
        })
    }
}

/// Prints the table and counts requests of all steps.
pub(crate) struct ProgressTable {
    is_terminal: bool,
    requests: u64,
    failed: u64,
    /// Failed requests by status or reason.
    failures: BTreeMap<String, u64>,
}

impl ProgressTable {
    pub(crate) fn new() -> Self {
        Self {
            is_terminal: std::io::stdout().is_terminal(),
            requests: 0,
            failed: 0,
            failures: BTreeMap::new(),
        }
    }

    pub(crate) fn print_header() {
        print(&format!(
            "{:<12} {:>6} {:>6} {:>6} {:>6} {:>8} {:>8} {:>7} {}",
            "v1 / v2", "v1", "v2", "sent", "failed", "p50", "p99", "ACKed", "split"
        ));
    }

    /// Counts the requests of a second and prints its row.
    pub(crate) fn print_second(&mut self, step: &Step, second: &LoadStats) {
        self.count(second);
        let row = self.second_row(step, second);
        if self.is_terminal {
            let _ = write!(std::io::stdout(), "\r\x1b[K{row}");
            let _ = std::io::stdout().flush();
        } else {
            print(&row);
        }
    }

    /// Prints the row of a whole step.
    pub(crate) fn print_step(&self, step: &Step) {
        let overwrite = if self.is_terminal { "\r\x1b[K" } else { "" };
        print(&format!("{overwrite}{}", self.step_row(step)));
    }

    fn count(&mut self, second: &LoadStats) {
        self.requests += second.requests();
        self.failed += second.failed();
        let statuses = second
            .statuses
            .range(400..)
            .map(|(status, count)| (format!("status {status}"), *count));
        for (reason, count) in second.errors.clone().into_iter().chain(statuses) {
            *self.failures.entry(reason).or_default() += count;
        }
    }

    fn second_row(&self, step: &Step, second: &LoadStats) -> String {
        let split = by_version(&second.answers);
        let latency = [second.p50_ms, second.p99_ms];
        let row = self.row(step, split, second.requests(), latency);
        format!("{row} {}", bar(split))
    }

    fn step_row(&self, step: &Step) -> String {
        let split = by_version(&step.answers);
        let median = step.medians_ms / f64::from(step.seconds.max(1));
        let row = self.row(step, split, step.requests, [median, step.p99_ms]);
        let fit = step.fit();
        let verdict = if !fit.is_consistent() {
            "OFF".to_owned()
        } else if step.weights.contains(&0) {
            "exact".to_owned()
        } else {
            format!("χ² {:.2}", fit.statistic)
        };
        format!("{row} {verdict}")
    }

    fn row(&self, step: &Step, split: [u64; 2], requests: u64, latency: [f64; 2]) -> String {
        let total = (split[0] + split[1]).max(1);
        let [v1, v2] = split.map(|count| {
            let tenths_of_percent = count * 1000 / total;
            format!("{}.{}%", tenths_of_percent / 10, tenths_of_percent % 10)
        });
        let [p50, p99] = latency.map(|latency| format!("{latency:.1} ms"));
        format!(
            "{:<12} {v1:>6} {v2:>6} {requests:>6} {:>6} {p50:>8} {p99:>8} {:>7}",
            step.label,
            self.failed,
            step.applied()
        )
    }

    /// Number of all requests and of the failed ones.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.requests, self.failed)
    }

    /// The reasons of failed requests with their counts.
    pub(crate) fn failures(&self) -> String {
        let reasons = self
            .failures
            .iter()
            .map(|(reason, count)| format!("{count} × {reason}"));
        reasons.collect::<Vec<_>>().join(", ")
    }
}

pub(crate) fn print(line: &str) {
    // If the reader is gone, the exit code still has the result.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn bar(split: [u64; 2]) -> String {
    let total = (split[0] + split[1]).max(1);
    let first = (0..BAR_CELLS)
        .filter(|cell| cell * total < split[0] * BAR_CELLS)
        .count();
    let second = (0..BAR_CELLS).count() - first;
    "█".repeat(first) + &"░".repeat(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(v1: u64, v2: u64, failed: u64) -> LoadStats {
        let mut stats = LoadStats {
            answers: [("color-v1-a".to_owned(), v1), ("color-v2-b".to_owned(), v2)].into(),
            p50_ms: 2.0,
            p99_ms: 6.25,
            ..LoadStats::default()
        };
        stats.statuses.insert(200, v1 + v2);
        if failed > 0 {
            stats.statuses.insert(503, failed);
        }
        stats
    }

    fn table() -> ProgressTable {
        ProgressTable {
            is_terminal: false,
            ..ProgressTable::new()
        }
    }

    fn step(weights: [u32; 2], seconds: &[LoadStats]) -> Step {
        let applied = Some(Duration::from_millis(38));
        let mut step = Step::new(format!("{} / {}", weights[0], weights[1]), weights, applied);
        for second in seconds {
            step.add(second);
        }
        step
    }

    #[test]
    fn step_row_has_shares_latency_and_verdict() {
        let step = step([90, 10], &[second(180, 20, 0), second(178, 22, 0)]);
        assert_eq!(
            table().step_row(&step),
            "90 / 10       89.5%  10.5%    400      0   2.0 ms   6.2 ms   38 ms χ² 0.11"
        );
    }

    #[test]
    fn verdict_is_exact_for_a_version_without_weight_and_off_for_a_wrong_split() {
        let exact = step([0, 100], &[second(0, 200, 0)]);
        assert!(table().step_row(&exact).ends_with("38 ms exact"));
        for (weights, seconds) in [
            ([0, 100], second(1, 199, 0)),
            ([90, 10], second(100, 100, 0)),
        ] {
            let off = step(weights, &[seconds]);
            assert!(table().step_row(&off).ends_with("38 ms OFF"));
        }
    }

    #[test]
    fn second_row_fits_into_80_columns() {
        let table = table();
        let row = table.second_row(&step([90, 10], &[]), &second(150, 50, 0));
        assert!(row.ends_with(" █████████░░░"), "{row}");
        assert_eq!(row.chars().count(), 79, "{row}");
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let mut table = table();
        let mut stats = second(190, 0, 8);
        stats.errors.insert("refused".to_owned(), 2);
        table.count(&stats);
        table.count(&second(199, 0, 1));
        assert_eq!(table.totals(), (400, 11));
        assert_eq!(table.failures(), "2 × refused, 9 × status 503");
    }

    #[test]
    fn bar_shows_the_share_of_the_first_version() {
        assert_eq!(bar([7, 0]), "█".repeat(12));
        assert_eq!(bar([0, 7]), "░".repeat(12));
        assert_eq!(bar([3, 1]), "█".repeat(9) + "░░░");
    }
}
