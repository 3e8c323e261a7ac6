//! A lab: hosts as network namespaces that are joined by a bridge.
//!
//! ```text
//!  front 10.77.0.2     color 10.77.0.3        hosts, one network namespace each
//!        │ eth0              │ eth0
//!   ─────┴─────── bridge ────┴──── 10.77.0.1  the switch, in a namespace of its own
//! ```
//!
//! An agent process holds each namespace and connects this process to servers inside it through a Unix socket.
//! The agent ends with this process; the kernel then removes the namespace, its links and its rules.
//! A lab has no connection to the machine's network, so several labs run side by side with the same addresses.
//!
//! Root creates plain network namespaces; other users create them inside a user namespace. A lab does not start if the
//! machine allows neither.
//!
//! A host also has its own mounts, so that names can resolve differently on each host: [`LabHost::resolve`].
//! A [node](Lab::node) is a host with its own process IDs, too, for daemons: they all end with its agent.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use crate::{
    app,
    http::Address,
    process::{self, Process},
    tools,
};

/// The user of Envoy, whose traffic interception does not redirect.
pub const PROXY_UID: u32 = 1337;

/// The mark of Envoy's traffic, for user namespaces that know only one user.
pub const PROXY_MARK: u32 = 1337;

/// The first two bytes of the lab's subnet, 10.77.0.0/16. The bridge has the first address.
const SUBNET: [u8; 2] = [10, 77];

/// Limit for the start of a small program; a start takes milliseconds, or seconds on a busy machine.
const START: Duration = Duration::from_secs(20);

/// The property by which interception recognises Envoy's own traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyIdentity {
    /// Envoy runs as [`PROXY_UID`], as in a pod.
    Uid,
    /// Envoy's sockets carry [`PROXY_MARK`], because the user namespace knows only one user.
    Mark,
}

/// A network of hosts without a connection to other networks.
#[derive(Debug)]
pub struct Lab {
    rights: Rights,
    switch: Arc<Agent>,
    hosts: u8,
}

/// A host of a lab; clones refer to the same host.
#[derive(Clone, Debug)]
pub struct LabHost {
    agent: Arc<Agent>,
    switch: Arc<Agent>,
    identity: ProxyIdentity,
    ip: Ipv4Addr,
    port: String,
}

/// Arguments of `unshare` for a node. The agent becomes process 1, so all processes of the node end with it.
const NODE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child=KILL"];

/// A way to create and enter namespaces, as arguments of `unshare` and `nsenter`.
#[derive(Clone, Copy, Debug)]
struct Rights {
    unshare: &'static [&'static str],
    nsenter: &'static [&'static str],
    identity: ProxyIdentity,
}

/// In order of preference: root, a user with subordinate IDs (`/etc/subuid`), any other user.
const RIGHTS: [Rights; 3] = [
    Rights {
        unshare: &["--net", "--mount"],
        nsenter: &["--net", "--mount"],
        identity: ProxyIdentity::Uid,
    },
    Rights {
        unshare: &[
            "--user",
            "--map-root-user",
            "--map-auto",
            "--net",
            "--mount",
        ],
        nsenter: &["--user", "--preserve-credentials", "--net", "--mount"],
        identity: ProxyIdentity::Uid,
    },
    Rights {
        unshare: &["--user", "--map-root-user", "--net", "--mount"],
        nsenter: &["--user", "--preserve-credentials", "--net", "--mount"],
        identity: ProxyIdentity::Mark,
    },
];

/// The process that holds the namespaces of a host.
#[derive(Debug)]
struct Agent {
    name: String,
    process: Process,
    rights: Rights,
    is_node: bool,
    socket: PathBuf,
    dir: Arc<TempDir>,
}

impl Lab {
    /// Creates a lab without hosts.
    pub async fn start() -> Result<Self> {
        let rights = Rights::find()?;
        let dir = Arc::new(tools::scratch("lab")?);
        let mut unshare = Command::new("unshare");
        unshare.args(rights.unshare);
        let switch = Arc::new(Agent::start("switch", unshare, rights, dir).await?);
        let [a, b] = SUBNET;
        switch.shell(&format!(
            "ip link add lab type bridge && ip address add {a}.{b}.0.1/16 dev lab && ip link set lab up"
        ))?;
        Ok(Self {
            rights,
            switch,
            hosts: 0,
        })
    }

    /// Adds a host; addresses count up from 10.77.0.2.
    pub async fn host(&mut self, name: &str) -> Result<LabHost> {
        self.add(name, false).await
    }

    /// Adds a host with its own process IDs, for daemons that mount file systems. Only root can do so.
    pub async fn node(&mut self, name: &str) -> Result<LabHost> {
        if self.rights.unshare != RIGHTS[0].unshare {
            bail!("mounting file systems needs root: run as root to start a node");
        }
        self.add(name, true).await
    }

    async fn add(&mut self, name: &str, is_node: bool) -> Result<LabHost> {
        if self.hosts == u8::MAX - 2 {
            bail!("the lab has {} hosts, which is the limit", self.hosts);
        }
        self.hosts += 1;
        let [a, b] = SUBNET;
        let ip = Ipv4Addr::new(a, b, 0, self.hosts + 1);
        let port = format!("port{}", self.hosts);

        let mut unshare = self.switch.command("setpriv");
        unshare.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--mount"]);
        if is_node {
            unshare.args(NODE);
        }
        let mut agent =
            Agent::start(name, unshare, self.rights, Arc::clone(&self.switch.dir)).await?;
        agent.is_node = is_node;
        let pid = agent.process.id();
        self.switch.shell(&format!(
            "ip link add {port} type veth peer name eth0 netns {pid} && ip link set {port} master lab up"
        ))?;
        // Interception happens after routing, so an application needs a route to every address that it calls.
        agent.shell(&format!(
            "ip link set lo up && ip address add {ip}/16 dev eth0 && ip link set eth0 up \
             && ip route add default via {a}.{b}.0.1"
        ))?;
        Ok(LabHost {
            agent: Arc::new(agent),
            switch: Arc::clone(&self.switch),
            identity: self.rights.identity,
            ip,
            port,
        })
    }
}

impl LabHost {
    pub fn name(&self) -> &str {
        &self.agent.name
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub fn proxy_identity(&self) -> ProxyIdentity {
        self.identity
    }

    /// A command that runs on the host as root of its namespace.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.agent.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program.as_ref());
        command
    }

    /// A command that runs on the host as [`PROXY_UID`], or as root if the user namespace knows only one user.
    pub fn proxy_command(&self, program: impl AsRef<Path>) -> Command {
        if self.identity == ProxyIdentity::Mark {
            return self.command(program);
        }
        let id = PROXY_UID.to_string();
        let mut command = self.agent.command("setpriv");
        command.args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--pdeathsig",
            "KILL",
            "--",
        ]);
        command.arg(program.as_ref());
        command
    }

    /// Lets the host resolve exactly these names, for applications and for Envoy's resolver. A name may have several
    /// addresses.
    pub fn resolve<'a>(&self, names: impl IntoIterator<Item = (&'a str, Ipv4Addr)>) -> Result<()> {
        let names = names
            .into_iter()
            .map(|(name, address)| format!("{address} {name}\n"));
        let names = names.fold("127.0.0.1 localhost\n".to_owned(), |file, line| {
            file + &line
        });
        let file = self.dir().join(format!("{}.hosts", self.name()));
        fs::write(&file, names)?;
        // With an empty resolv.conf the DNS server is 127.0.0.1, which refuses at once to look up any other name.
        self.shell(&format!(
            "mount --bind {} /etc/hosts && mount --bind /dev/null /etc/resolv.conf",
            file.display()
        ))
        .map(drop)
    }

    /// Runs a shell script on the host and returns its output.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.agent.shell(script)
    }

    /// Starts a command of this host in the background, with its log in the lab's folder.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}.{name}", self.name());
        Process::spawn(&name, command, &self.dir().join(format!("{name}.log")))
    }

    /// Starts [`app::serve_http`] on the host and waits until it answers.
    pub async fn http_app(&self, name: &str, listen: SocketAddr) -> Result<Process> {
        let mut process = self.app("http", name, listen)?;
        let address = self.loopback(listen.port());
        process
            .wait_until("answering", START, async || address.get("/").await.is_ok())
            .await?;
        Ok(process)
    }

    /// Starts [`app::serve_tcp`] on the host and waits until it greets.
    pub async fn tcp_app(&self, name: &str, listen: SocketAddr) -> Result<Process> {
        let mut process = self.app("tcp", name, listen)?;
        let address = self.loopback(listen.port());
        let greets = async || {
            let Ok(mut stream) = address.connect().await else {
                return false;
            };
            stream.read_u8().await.is_ok()
        };
        process.wait_until("greeting", START, greets).await?;
        Ok(process)
    }

    fn app(&self, kind: &str, name: &str, listen: SocketAddr) -> Result<Process> {
        let mut command = self.command(tools::built("evermesh-test-app")?);
        command.args([kind, "--name", name, "--listen", &listen.to_string()]);
        self.spawn(&format!("app-{}", listen.port()), command)
    }

    /// The address of a server on the host's loopback, for this process.
    pub fn loopback(&self, port: u16) -> Address {
        self.reach((Ipv4Addr::LOCALHOST, port).into())
    }

    /// An address that this process reaches through the host, as an application there does: interception applies.
    pub fn reach(&self, target: SocketAddr) -> Address {
        Address::Relayed {
            agent: self.agent.socket.clone(),
            target,
        }
    }

    /// The folder of the lab, for files of processes on its hosts.
    pub fn dir(&self) -> &Path {
        self.agent.dir.path()
    }

    /// Detaches the host from the bridge: its packets are lost, its links stay up.
    pub fn disconnect(&self) -> Result<()> {
        self.switch
            .shell(&format!("ip link set {} nomaster", self.port))
            .map(drop)
    }

    /// Attaches the host to the bridge again.
    pub fn reconnect(&self) -> Result<()> {
        self.switch
            .shell(&format!("ip link set {} master lab", self.port))
            .map(drop)
    }
}

impl Rights {
    /// The first of [`RIGHTS`] that this machine grants.
    fn find() -> Result<Self> {
        let mut errors = Vec::new();
        for rights in RIGHTS {
            match process::run(Command::new("unshare").args(rights.unshare).arg("true")) {
                Ok(_) => return Ok(rights),
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        bail!(
            "this user may not create network namespaces; run as root\n{}",
            errors.join("\n")
        )
    }
}

impl Agent {
    /// Starts an agent with `unshare`, the command that creates its namespace.
    async fn start(
        name: &str,
        mut unshare: Command,
        rights: Rights,
        dir: Arc<TempDir>,
    ) -> Result<Self> {
        let socket = dir.path().join(format!("{name}.agent"));
        if socket.exists() {
            bail!("the lab already has a host `{name}`");
        }
        unshare
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(tools::built("evermesh-test-app")?);
        unshare.arg("agent").arg("--socket").arg(&socket);
        let log = dir.path().join(format!("{name}.agent.log"));
        let mut process = Process::spawn(&format!("the agent of {name}"), unshare, &log)?;
        process
            .wait_until("listening", START, async || socket.exists())
            .await?;
        Ok(Self {
            name: name.to_owned(),
            process,
            rights,
            is_node: false,
            socket,
            dir,
        })
    }

    /// A command inside the namespace. `nsenter` execs the program, so the process ID stays the same, except on a node.
    fn command(&self, program: &str) -> Command {
        let pid = self.process.id();
        let mut command = if self.is_node {
            // Only children of `unshare` are in the PID namespace, so `nsenter` forks and stays as the parent.
            let mut command = process::command("nsenter");
            command.args(["--net", "--mount"]);
            command.arg(format!("--pid=/proc/{pid}/ns/pid_for_children"));
            command
        } else {
            let mut command = Command::new("nsenter");
            command.args(self.rights.nsenter);
            command
        };
        command.args(["--target", &pid.to_string(), "--", program]);
        // ip and iptables are in folders that are not in the PATH of every user.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    fn shell(&self, script: &str) -> Result<String> {
        process::run(self.command("sh").args(["-c", script]))
            .with_context(|| format!("on host {}", self.name))
    }
}

impl Drop for Agent {
    /// Waits until process 1 of a node has ended; the kernel has then ended all others.
    fn drop(&mut self) {
        if !self.is_node {
            return;
        }
        let sent =
            UnixStream::connect(&self.socket).and_then(|mut agent| writeln!(agent, "{}", app::END));
        let deadline = Instant::now() + START;
        while sent.is_ok() && Instant::now() < deadline {
            if !matches!(self.process.exited(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
