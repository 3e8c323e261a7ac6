//! Child processes that end with their parent.
//!
//! A [`Process`] is killed when its handle is dropped.
//! The kernel also kills it when the thread that spawned it ends (`PR_SET_PDEATHSIG`), so a killed test leaves nothing
//! behind.
//! Spawn from the main thread, from a test's own thread or from a task; a thread of `spawn_blocking` may end too early.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::ChildStdout;

/// Bytes at the end of a log that an error quotes.
const TAIL: u64 = 4000;

/// A running child process and its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command whose process ends with its parent. `setpriv` execs the program, so the process id stays the same.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Process {
    /// Starts `command` with its output in the file `log`.
    ///
    /// The child has its own process group, so that Ctrl-C reaches only the parent.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        File::create(log).with_context(|| format!("creating {}", log.display()))?;
        // Envoy also opens /dev/stdout by name, for its access log: neither writer may overwrite the other's lines.
        let output = File::options().append(true).open(log)?;
        // Envoy may run as another user.
        output.set_permissions(fs::Permissions::from_mode(0o666))?;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Starts `command` like [`spawn`](Self::spawn), but returns its standard output; standard error goes to `log`.
    pub fn spawn_reading(
        name: &str,
        mut command: Command,
        log: &Path,
    ) -> Result<(Self, ChildStdout)> {
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(File::create(log)?)
            .stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let output = child.stdout.take().context("the output is a pipe")?;
        let process = Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        };
        Ok((process, ChildStdout::from_std(output)?))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with the output of the process.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The last 4,000 bytes of the log.
    pub fn log(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        tail().unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    /// The exit status, or `None` while the process runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends SIGTERM, as Kubernetes does, and waits for the end of the process.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        run(Command::new("kill").args(["-TERM", &self.id().to_string()]))?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("{} did not end within {limit:?}: {}", self.name, self.log())
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub fn kill(&mut self) {
        // Both fail only if the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until `ready` returns true. If the process ends or the limit passes, the error quotes the log.
    pub async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if ready().await {
                return Ok(());
            }
            if let Some(status) = self.exited()? {
                bail!(
                    "{} ended before it was {what} ({status}): {}",
                    self.name,
                    self.log()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not {what} within {limit:?}: {}",
                    self.name,
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a short command and returns its standard output; the error of a failed command quotes its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
