//! `evermesh-cluster up` and `down`: a local cluster for people, behind `make cluster` and `make cluster-down`.
//!
//! `up` starts this program again as `hold`. That process owns the cluster until SIGTERM and prints its progress, which
//! `up` shows until the line [`READY`]. `target/cluster` has the kubeconfig, the log and the process ID of `hold`.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use evermesh_local_cluster::TestCluster;
use evermesh_testkit::tools;
use tokio::signal::unix::{SignalKind, signal};

/// The last line of `hold` after a successful start.
const READY: &str = "ready";

/// Limit for the end of a cluster.
const STOP: Duration = Duration::from_mins(1);

/// Run a Kubernetes cluster of one node on this machine
#[derive(Parser)]
enum Args {
    /// Start the cluster and return when it runs pods
    Up,
    /// Stop the cluster and return when all its processes have ended
    Down,
    /// Run the cluster until SIGTERM; `up` starts this command
    Hold,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Args::parse() {
        Args::Up => up(),
        Args::Down => down(),
        Args::Hold => hold().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("evermesh-cluster failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn folder() -> Result<PathBuf> {
    Ok(tools::workspace()?.join("target/cluster"))
}

fn up() -> Result<()> {
    let folder = folder()?;
    let kubeconfig = folder.join("kubeconfig");
    if running(&folder).is_some() {
        print(&format!(
            "==> The cluster already runs: export KUBECONFIG={}",
            kubeconfig.display()
        ));
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let log = folder.join("log");
    let started = Instant::now();
    let mut hold = Command::new(env::current_exe()?)
        .arg("hold")
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = hold.stdout.take().context("the output is not a pipe")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            print(&format!(
                "==> The cluster is ready after {:.1} s: export KUBECONFIG={}",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            ));
            return Ok(());
        }
        print(&line);
    }
    bail!(
        "the cluster did not start ({}); see the lines above and {}",
        hold.wait()?,
        log.display()
    )
}

fn down() -> Result<()> {
    let folder = folder()?;
    let Some(pid) = running(&folder) else {
        print("==> No cluster runs");
        return Ok(());
    };
    let started = Instant::now();
    let mut kill = Command::new("kill");
    if !kill.arg(pid.to_string()).status()?.success() {
        bail!("sending SIGTERM to process {pid} failed");
    }
    while running(&folder).is_some() {
        if started.elapsed() > STOP {
            bail!("process {pid} did not end within {STOP:?} after SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    print(&format!(
        "==> The cluster stopped after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The process ID of `hold`, if it runs.
fn running(folder: &Path) -> Option<u32> {
    let pid = fs::read_to_string(folder.join("pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&command)
        .contains("evermesh-cluster\0hold")
        .then_some(pid)
}

async fn hold() -> Result<()> {
    let folder = folder()?;
    let (mut terminated, mut interrupted) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    fs::write(folder.join("pid"), std::process::id().to_string())?;
    let kubeconfig = folder.join("kubeconfig");
    let stop = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    tokio::pin!(stop);
    let cluster = tokio::select! {
        started = TestCluster::start(print) => started?,
        () = &mut stop => return Ok(()),
    };
    fs::copy(cluster.kubectl().kubeconfig(), &kubeconfig)?;
    if let Some(logs) = cluster.logs() {
        print(&format!("logs: {}", logs.display()));
    }
    print(READY);
    stop.await;
    drop(cluster);
    let _ = fs::remove_file(kubeconfig);
    let _ = fs::remove_file(folder.join("pid"));
    Ok(())
}

fn print(line: &str) {
    // `up` has ended and closed the pipe when `hold` stops.
    let _ = writeln!(std::io::stdout(), "{line}");
}
