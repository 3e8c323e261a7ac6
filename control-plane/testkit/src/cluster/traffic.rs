//! Requests from within a pod.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};

use super::Cluster;
use crate::load::Tally;

/// How long the load client may stay silent; it speaks once a second.
const SILENCE: Duration = Duration::from_secs(30);

/// The requests of a pod's application while they are sent.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    /// As long as it is open, requests are sent.
    input: Option<ChildStdin>,
    tallies: Lines<BufReader<ChildStdout>>,
}

impl Traffic {
    /// Sends requests to port 80 of a host from the container `app` of a pod, or of one of a Deployment's.
    pub fn start(
        cluster: &Cluster,
        namespace: &str,
        pod: &str,
        host: &str,
        rate: u32,
    ) -> Result<Self> {
        let mut command = cluster.kubectl().command()?;
        command
            .args(["exec", "--stdin", "--namespace", namespace, pod])
            .args(["--container", "app", "--", "evermesh-test-app", "load"])
            .args(["--connect", &format!("{host}:80"), "--host", host])
            .args(["--rate", &rate.to_string(), "--seconds", "600"])
            .arg("--until-input-ends")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("the output is a pipe")?;
        Ok(Self {
            input: child.stdin.take(),
            tallies: BufReader::new(output).lines(),
            child,
        })
    }

    /// What came back in the next second that nobody asked for yet.
    pub async fn second(&mut self) -> Result<Tally> {
        let line = tokio::time::timeout(SILENCE, self.tallies.next_line()).await;
        let line = line.context("the load client is silent")??;
        Ok(serde_json::from_str(
            &line.context("the load client ended")?,
        )?)
    }

    /// The sum of the next seconds, from one that begins later than now.
    pub async fn seconds(&mut self, count: u32) -> Result<Tally> {
        while let Ok(line) = tokio::time::timeout(Duration::ZERO, self.tallies.next_line()).await {
            line?.context("the load client ended")?;
        }
        self.second().await?;
        let mut sum = Tally::default();
        for _ in 0..count {
            let tally = self.second().await?;
            for (answer, count) in tally.answers {
                *sum.answers.entry(answer).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// Sends no more, waits for every answer, and returns the sum of all that was sent.
    pub async fn finish(mut self) -> Result<Tally> {
        self.input = None;
        loop {
            let tally = self.second().await?;
            if tally.second.is_none() {
                let status = self.child.wait().await?;
                if !status.success() {
                    bail!("the load client ended with {status}");
                }
                return Ok(tally);
            }
        }
    }
}
