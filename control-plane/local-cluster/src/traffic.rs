//! Requests from within a pod.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, ChildStdin};

use crate::TestCluster;
use evermesh_testkit::{load::LoadStats, report::LoadReport};

/// Longer than the load client waits for an answer.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// The requests of a pod's application while they are sent.
#[derive(Debug)]
pub struct PodTraffic {
    child: Child,
    /// As long as it is open, requests are sent.
    input: Option<ChildStdin>,
    /// What came back so far.
    pub report: LoadReport,
}

impl PodTraffic {
    /// Sends requests to port 80 of a host from the container `app` of a pod, or of one of a Deployment's.
    pub fn start(
        cluster: &TestCluster,
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
            report: LoadReport::read(output),
            child,
        })
    }

    /// The answers of the next seconds, from one that begins later than now.
    pub async fn seconds(&mut self, count: u32) -> Result<LoadStats> {
        while self.report.try_next_second().is_some() {}
        self.report.next_second().await?;
        let mut sum = LoadStats::default();
        for _ in 0..count {
            for (answer, count) in self.report.next_second().await?.answers {
                *sum.answers.entry(answer).or_default() += count;
            }
        }
        Ok(sum)
    }

    /// Sends no more, waits for every answer, and returns the sum of all that was sent.
    pub async fn finish(mut self) -> Result<LoadStats> {
        self.input = None;
        let sum = self.report.total().await?;
        let ended = tokio::time::timeout(LAST_ANSWER, self.child.wait()).await;
        let status = ended.context("kubectl exec does not end")??;
        if !status.success() {
            bail!("the load client ended with {status}");
        }
        Ok(sum)
    }
}
