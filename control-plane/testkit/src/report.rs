//! Reads the output of a load client: one JSON object per second, then one for the whole run.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::mpsc,
};

use crate::load::LoadStats;

/// Limit for the next line; the load client prints one per second.
const SILENCE: Duration = Duration::from_secs(30);

/// Seconds that may wait for the test; the client waits after that.
const QUEUED_STATS: usize = 600;

/// Statistics of a load client that runs in another process.
#[derive(Debug)]
pub struct LoadReport {
    stats: mpsc::Receiver<LoadStats>,
}

impl LoadReport {
    /// Starts to read the client's output; reading ends at the first line that is not a [`LoadStats`].
    pub fn read(output: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, stats) = mpsc::channel(QUEUED_STATS);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(stats) = serde_json::from_str(&line) else {
                    break;
                };
                if sender.send(stats).await.is_err() {
                    break;
                }
            }
        });
        Self { stats }
    }

    /// The statistics of the next second that this method or [`Self::try_next_second`] has not returned yet.
    pub async fn next_second(&mut self) -> Result<LoadStats> {
        tokio::time::timeout(SILENCE, self.stats.recv())
            .await
            .with_context(|| format!("the load client printed nothing for {SILENCE:?}"))?
            .context("the load client ended")
    }

    /// Like [`Self::next_second`], or `None` if the client has not printed that second yet.
    pub fn try_next_second(&mut self) -> Option<LoadStats> {
        self.stats.try_recv().ok()
    }

    /// The statistics of the whole run, which the client prints last.
    pub async fn total(&mut self) -> Result<LoadStats> {
        loop {
            let stats = self.next_second().await?;
            if stats.second.is_none() {
                return Ok(stats);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(second: Option<u64>, answers: u64) -> LoadStats {
        LoadStats {
            second,
            answers: [("blue".to_owned(), answers)].into(),
            statuses: [(200, answers)].into(),
            ..LoadStats::default()
        }
    }

    fn report(lines: &[&str]) -> LoadReport {
        LoadReport::read(std::io::Cursor::new(lines.join("\n").into_bytes()))
    }

    fn line(stats: &LoadStats) -> String {
        serde_json::to_string(stats).expect("statistics have string keys")
    }

    #[tokio::test]
    async fn seconds_come_in_order_and_the_total_comes_last() {
        let all = [stats(Some(0), 5), stats(Some(1), 7), stats(None, 12)];
        let lines = all.each_ref().map(line);
        let mut report = report(&lines.each_ref().map(String::as_str));
        assert_eq!(report.next_second().await.expect("a second"), all[0]);
        assert_eq!(report.total().await.expect("the total"), all[2]);
        assert_eq!(report.try_next_second(), None);
        let error = report.next_second().await.unwrap_err();
        assert_eq!(error.to_string(), "the load client ended");
    }

    #[tokio::test]
    async fn output_that_is_not_statistics_ends_the_report() {
        let mut report = report(&["panicked", &line(&stats(Some(0), 5))]);
        let error = report.next_second().await.unwrap_err();
        assert_eq!(error.to_string(), "the load client ended");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_an_error() {
        let (output, _client) = tokio::io::duplex(64);
        let mut report = LoadReport::read(output);
        let error = report.next_second().await.unwrap_err();
        assert_eq!(error.to_string(), "the load client printed nothing for 30s");
    }
}
