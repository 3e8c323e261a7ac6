//! `make cluster` and `make cluster-down`: a Kubernetes of one node on this machine, for people.
//!
//! `up` starts this program again as `hold`, which has the cluster until it is told to end.

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

/// What `hold` says last when all is well.
const READY: &str = "ready";

/// How long a cluster may take to end.
const STOP: Duration = Duration::from_mins(1);

/// A Kubernetes of one node on this machine.
#[derive(Parser)]
enum Args {
    /// Starts it and returns when it takes pods.
    Up,
    /// Ends it and returns when nothing is left.
    Down,
    /// Has it until SIGTERM; what `up` starts.
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
            say(&format!("The cluster failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Where its kubeconfig and the id of its process are.
fn folder() -> Result<PathBuf> {
    Ok(tools::workspace()?.join("target/cluster"))
}

fn up() -> Result<()> {
    let folder = folder()?;
    let kubeconfig = folder.join("kubeconfig");
    if running(&folder).is_some() {
        say(&format!("==> It runs already: {}", kubeconfig.display()));
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
    let output = hold.stdout.take().context("the output is a pipe")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == READY {
            say(&format!(
                "==> Ready after {:.1} s: export KUBECONFIG={}",
                started.elapsed().as_secs_f64(),
                kubeconfig.display()
            ));
            return Ok(());
        }
        say(&line);
    }
    bail!(
        "it ended with {}, see above and {}",
        hold.wait()?,
        log.display()
    )
}

fn down() -> Result<()> {
    let folder = folder()?;
    let Some(pid) = running(&folder) else {
        say("==> No cluster runs");
        return Ok(());
    };
    let started = Instant::now();
    let mut kill = Command::new("kill");
    if !kill.arg(pid.to_string()).status()?.success() {
        bail!("process {pid} cannot be told to end");
    }
    while running(&folder).is_some() {
        if started.elapsed() > STOP {
            bail!("process {pid} has not ended within {STOP:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    say(&format!(
        "==> Ended after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The id of the process that has the cluster, while it runs.
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
    let ended = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    tokio::pin!(ended);
    let cluster = tokio::select! {
        started = TestCluster::start(say) => started?,
        () = &mut ended => return Ok(()),
    };
    fs::copy(cluster.kubectl().kubeconfig(), &kubeconfig)?;
    if let Some(logs) = cluster.logs() {
        say(&format!("logs are in {}", logs.display()));
    }
    say(READY);
    ended.await;
    drop(cluster);
    let _ = fs::remove_file(kubeconfig);
    let _ = fs::remove_file(folder.join("pid"));
    Ok(())
}

fn say(line: &str) {
    // Whoever read us is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
