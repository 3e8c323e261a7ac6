//! What a load client prints, as it comes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    sync::mpsc,
};

use crate::load::LoadStats;

/// How long the load client may stay silent; it speaks once a second.
const SILENCE: Duration = Duration::from_secs(30);

/// The tallies of a load client that runs elsewhere.
#[derive(Debug)]
pub struct LoadReport {
    tallies: mpsc::UnboundedReceiver<LoadStats>,
}

impl LoadReport {
    /// Reads what the client prints.
    pub fn read(output: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (sender, tallies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(tally) = serde_json::from_str(&line) else {
                    break;
                };
                if sender.send(tally).is_err() {
                    break;
                }
            }
        });
        Self { tallies }
    }

    /// What came back in the next second that nobody asked for yet.
    pub async fn next_second(&mut self) -> Result<LoadStats> {
        let tally = tokio::time::timeout(SILENCE, self.tallies.recv()).await;
        tally
            .context("the load client is silent")?
            .context("the load client ended")
    }

    /// The same, if that second is over.
    pub fn try_next_second(&mut self) -> Option<LoadStats> {
        self.tallies.try_recv().ok()
    }

    /// The sum of all that was sent, which comes last.
    pub async fn total(&mut self) -> Result<LoadStats> {
        loop {
            let tally = self.next_second().await?;
            if tally.second.is_none() {
                return Ok(tally);
            }
        }
    }
}
