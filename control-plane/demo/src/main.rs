//! `evermesh-demo`: a canary release from 100/0 to 0/100 with real Envoys under load, in about a minute.
//!
//! | option | runs on | manifests |
//! |---|---|---|
//! | none (`make run`) | lab hosts | files in a folder |
//! | `--kubernetes` (`make run-api`) | lab hosts | a Kubernetes API, written with `kubectl` |
//! | `--pods` (`make run-kubernetes`) | pods of a Kubernetes cluster | the API of that cluster |
//!
//! The exit code is 0 if no request failed and each split matches its weights, otherwise 1.

mod cluster;
mod table;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::{Result, bail};
use clap::Parser;
use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions},
    report::LoadReport,
};
use table::{ProgressTable, Step, print};

/// Weights of v1 and v2 in each step.
const STEPS: [[u32; 2]; 4] = [[100, 0], [90, 10], [50, 50], [0, 100]];

/// Sample size of each step; a split of 84/16 at the weights 90/10 is found in 99 of 100 runs.
const REQUESTS_PER_STEP: u64 = 2000;

/// Length of the last step, which runs without one instance.
const SECONDS_AFTER_DEREGISTRATION: u64 = 5;

/// The instance that is deregistered in the last step.
const LEAVING: &str = "color-v2-b";

const NEXT: &str = "
What to try next:
  examples/                            manifests by task: gateways, retries, gRPC, TCP, DNS, egress
  target/debug/evermesh lint DIR       check your App Mesh manifests as they are
  target/debug/evermesh serve --help   serve them to your own Envoys
  make test                            run the tests with real Envoys
";

/// Play a canary release on this machine
#[derive(Parser)]
struct Args {
    /// Keep the manifests in a Kubernetes API instead of a folder, and write them with kubectl
    #[arg(long)]
    kubernetes: bool,
    /// Run everything in pods of a Kubernetes cluster, with Evermesh installed by Helm
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
    let mut table = ProgressTable::new();
    let run = async {
        if args.pods {
            cluster::run(&mut table).await
        } else {
            run_on_hosts(&mut table, options).await
        }
    };
    // Dropping the unfinished run ends every process and removes every host.
    let result = tokio::select! {
        result = run => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(()) => {
            print(NEXT);
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&format!("\nThe demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run_on_hosts(table: &mut ProgressTable, options: CanaryLabOptions) -> Result<()> {
    let lab = CanaryLab::build(options, |step| print(&format!("==> {step}"))).await?;
    print(&format!(
        "==> front calls http://color.demo.local {} times a second\n",
        options.rate
    ));
    let mut traffic = lab.traffic()?;
    if !options.kubernetes {
        ProgressTable::print_header();
    }

    let mut faults = String::new();
    for weights in STEPS {
        // The example starts with the first weights.
        let applied = if weights == STEPS[0] {
            None
        } else {
            Some(lab.shift(weights).await?)
        };
        if let Some(output) = lab.kubectl_get().await? {
            if applied.is_some() {
                print("\n$ kubectl apply -f route.yaml");
            }
            print(&format!("{output}\n"));
            ProgressTable::print_header();
        }
        let label = format!("{} / {}", weights[0], weights[1]);
        let step = Step::new(label, weights, applied);
        let step = measure(table, &mut traffic.report, step, REQUESTS_PER_STEP).await?;
        faults += &split_fault(&step);
    }

    let applied = lab.deregister(LEAVING).await?;
    let step = Step::new("v2-b leaves".to_owned(), STEPS[3], Some(applied));
    let requests = SECONDS_AFTER_DEREGISTRATION * u64::from(options.rate);
    let step = measure(table, &mut traffic.report, step, requests).await?;
    if step.answers.contains_key(LEAVING) {
        writeln!(
            faults,
            "{LEAVING} still got requests after every proxy had ACKed its removal"
        )?;
    }

    conclude(table, faults)
}

/// Prints the success, or fails with the faults.
fn conclude(table: &ProgressTable, mut faults: String) -> Result<()> {
    let (requests, failed) = table.totals();
    if failed > 0 {
        writeln!(
            faults,
            "{failed} of {requests} requests failed: {}",
            table.failures()
        )?;
    }
    if !faults.is_empty() {
        bail!("{}", faults.trim_end());
    }
    print(&format!(
        "\n{requests} requests, none failed; every split matches its weights (chi-square test, one false alarm in a \
         million)."
    ));
    Ok(())
}

/// Describes a split that does not match its weights; empty if it does.
fn split_fault(step: &Step) -> String {
    let fit = step.fit();
    if fit.is_consistent() {
        return String::new();
    }
    format!("the split at {} does not match: {fit}\n", step.label)
}

/// Adds whole seconds to a step until it has enough requests.
async fn measure(
    table: &mut ProgressTable,
    report: &mut LoadReport,
    mut step: Step,
    requests: u64,
) -> Result<Step> {
    // Earlier seconds and the second of the change do not count for the step.
    while let Some(second) = report.try_next_second() {
        table.print_second(&step, &second);
    }
    table.print_second(&step, &report.next_second().await?);
    while step.requests < requests {
        let second = report.next_second().await?;
        step.add(&second);
        table.print_second(&step, &second);
    }
    table.print_step(&step);
    Ok(step)
}

#[cfg(test)]
mod tests {
    use evermesh_testkit::load::LoadStats;

    use super::*;

    fn step(weights: [u32; 2], v1: u64, v2: u64) -> Step {
        let mut step = Step::new("step".to_owned(), weights, None);
        step.add(&LoadStats {
            answers: [("color-v1-a".to_owned(), v1), ("color-v2-a".to_owned(), v2)].into(),
            ..LoadStats::default()
        });
        step
    }

    #[test]
    fn only_a_split_off_its_weights_is_a_fault() {
        assert_eq!(split_fault(&step([90, 10], 1790, 210)), "");
        let fault = split_fault(&step([90, 10], 1680, 320));
        assert!(fault.starts_with("the split at step does not match: χ² 80.00"));
    }

    #[test]
    fn faults_make_the_demo_fail() {
        let error = conclude(&ProgressTable::new(), "one fault\n".to_owned()).unwrap_err();
        assert_eq!(error.to_string(), "one fault");
        conclude(&ProgressTable::new(), String::new()).expect("no fault");
    }
}
