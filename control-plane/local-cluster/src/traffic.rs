//! Requests that a pod sends.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, ChildStdin};

use crate::TestCluster;
use evermesh_testkit::{load::LoadStats, report::LoadReport};

/// Limit for the end of the load client, which waits 20 s for the last response.
const LOAD_END: Duration = Duration::from_secs(30);

/// A load client in the container `app` of a pod.
#[derive(Debug)]
pub struct PodTraffic {
    child: Child,
    /// The client sends requests until this is closed.
    input: Option<ChildStdin>,
    pub report: LoadReport,
}

impl PodTraffic {
    /// Starts to send requests to port 80 of `host`; `pod` is the name of a pod or `deployment/NAME`.
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
        let output = child.stdout.take().context("the output is not a pipe")?;
        Ok(Self {
            input: child.stdin.take(),
            report: LoadReport::read(output),
            child,
        })
    }

    /// The answers of `count` whole seconds, of which the first begins after the call.
    pub async fn seconds(&mut self, count: u32) -> Result<LoadStats> {
        while self.report.try_next_second().is_some() {}
        self.report.next_second().await?;
        let mut sum = LoadStats::default();
        for _ in 0..count {
            for (answer, answers) in self.report.next_second().await?.answers {
                *sum.answers.entry(answer).or_default() += answers;
            }
        }
        Ok(sum)
    }

    /// Stops the load client, waits for the last response, and returns the statistics of the whole run.
    pub async fn finish(mut self) -> Result<LoadStats> {
        self.input = None;
        let sum = self.report.total().await?;
        let ended = tokio::time::timeout(LOAD_END, self.child.wait()).await;
        let status =
            ended.with_context(|| format!("kubectl exec did not end within {LOAD_END:?}"))??;
        if !status.success() {
            bail!("the load client ended with {status}");
        }
        Ok(sum)
    }
}
