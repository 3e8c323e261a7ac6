//! `make run`: a canary release on real hosts with real Envoys, from 100/0 to 0/100, in about a minute.
//! With `--kubernetes`, as `make run-api` has it, the weights are shifted by `kubectl apply` on a real API server.
//! With `--pods`, as `make run-kubernetes` has it, everything runs in pods of a whole Kubernetes.
//!
//! Ends with code 0 when no request failed and every split was as asked for, else with 1.

mod board;
mod pods;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Result, bail};
use board::{ProgressTable, Step, say};
use clap::Parser;
use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions},
    report::LoadReport,
};

/// Weights of v1 and v2, step by step.
const STEPS: [[u32; 2]; 4] = [[100, 0], [90, 10], [50, 50], [0, 100]];

/// What a split is judged by.
const REQUESTS_PER_STEP: u64 = 2000;

/// How long the last step runs with one instance less.
const SECONDS_AFTER_DEREGISTRATION: u64 = 5;

/// The instance that leaves.
const LEAVING: &str = "color-v2-b";

const NEXT: &str = "
What to try next:
  examples/                            manifests by task: gateways, retries, gRPC, TCP, DNS, egress
  target/debug/evermesh lint DIR       check your App Mesh manifests, as they are
  target/debug/evermesh serve --help   serve them to your own Envoys
  make test                            the tests, with real Envoys
";

/// Plays a canary release on this machine.
#[derive(Parser)]
struct Args {
    /// Keep the manifests in a Kubernetes API instead of a folder, and write them with kubectl
    #[arg(long)]
    kubernetes: bool,
    /// Play it with pods, in a whole Kubernetes with Evermesh as Helm installs it
    #[arg(long, conflicts_with = "kubernetes")]
    pods: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = CanaryLabOptions {
        kubernetes: args.kubernetes,
        ..CanaryLabOptions::default()
    };
    let mut board = ProgressTable::new();
    let played = async {
        if args.pods {
            pods::play(&mut board).await
        } else {
            play(&mut board, options).await
        }
    };
    // Dropping the unfinished demo ends every process and removes every host.
    let result = tokio::select! {
        result = played => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(()) => {
            say(NEXT);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("\nThe demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn play(board: &mut ProgressTable, options: CanaryLabOptions) -> Result<()> {
    let stage = CanaryLab::build(options, |step| say(&format!("==> {step}"))).await?;
    say(&format!(
        "==> front calls http://color.demo.local, {} times a second\n",
        options.rate
    ));
    let mut traffic = stage.traffic()?;
    if !options.kubernetes {
        ProgressTable::open();
    }

    let mut faults = String::new();
    for weights in STEPS {
        // The first weights are those of the example as it stands.
        let applied = if weights == STEPS[0] {
            None
        } else {
            Some(stage.shift(weights).await?)
        };
        if let Some(shown) = stage.kubectl_get().await? {
            if applied.is_some() {
                say("\n$ kubectl apply -f route.yaml");
            }
            say(&format!("{shown}\n"));
            ProgressTable::open();
        }
        let label = format!("{} / {}", weights[0], weights[1]);
        let step = measure(
            board,
            &mut traffic.report,
            Step::new(label, weights, applied),
            REQUESTS_PER_STEP,
        )
        .await?;
        faults += &off(&step);
    }

    let applied = stage.deregister(LEAVING).await?;
    let step = Step::new("v2-b leaves".to_owned(), STEPS[3], Some(applied));
    let requests = SECONDS_AFTER_DEREGISTRATION * u64::from(options.rate);
    let step = measure(board, &mut traffic.report, step, requests).await?;
    if step.answers.contains_key(LEAVING) {
        writeln!(faults, "{LEAVING} was still called after it had left")?;
    }

    conclude(board, faults)
}

/// Says that all went well, or fails with what did not.
fn conclude(board: &ProgressTable, mut faults: String) -> Result<()> {
    let (requests, failed) = board.totals();
    if failed > 0 {
        writeln!(
            faults,
            "{failed} of {requests} requests failed: {}",
            board.failures()
        )?;
    }
    if !faults.is_empty() {
        bail!("{}", faults.trim_end());
    }
    say(&format!(
        "\n{requests} requests, none failed; every split is fair (χ² test, significance 0.001)."
    ));
    Ok(())
}

/// What is wrong with the split of a step; nothing if it is as asked for.
fn off(step: &Step) -> String {
    if step.fit().is_consistent() {
        return String::new();
    }
    format!("at {} the split was off: {}\n", step.label, step.fit())
}

/// Collects whole seconds for a step until it has enough requests.
async fn measure(
    board: &mut ProgressTable,
    report: &mut LoadReport,
    mut step: Step,
    requests: u64,
) -> Result<Step> {
    // What came before, and the second in which the change fell, belong to no step.
    while let Some(tally) = report.try_next_second() {
        board.second(&step, &tally);
    }
    board.second(&step, &report.next_second().await?);
    while step.requests < requests {
        let tally = report.next_second().await?;
        step.add(&tally);
        board.second(&step, &tally);
    }
    board.finish(&step);
    Ok(step)
}
