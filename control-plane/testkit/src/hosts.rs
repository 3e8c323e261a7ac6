//! Hosts as network namespaces, joined by a bridge: a network of its own that nothing leaves and nothing enters.
//!
//! A namespace lives as long as its agent, a small process that also connects this process to what listens inside.
//! The agent dies with us, and with it the namespace, its links and rules, so there is nothing to clean up.
//! Labs are closed: every one uses the same addresses, several run side by side, and none touches the machine's network.
//!
//! As root the namespaces are plain ones; as anybody else they lie in a user namespace.
//! Where neither is allowed, a lab does not start.
//!
//! A [node](Lab::node) has mounts and process ids of its own too: what a daemon leaves behind there ends with its agent.

use std::{
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

/// The user that Envoy runs as; interception leaves its traffic alone.
pub const PROXY_UID: u32 = 1337;

/// Marks Envoy's traffic where there is only one user to run as.
pub const PROXY_MARK: u32 = 1337;

/// The lab's subnet is 10.77.0.0/16; the bridge has its first address.
const SUBNET: [u8; 2] = [10, 77];

/// A small program starts in milliseconds, on a busy machine in seconds.
const START: Duration = Duration::from_secs(20);

/// How interception tells Envoy's own traffic from that of the application.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyIdentity {
    /// Envoy runs as [`PROXY_UID`], as in a pod.
    Uid,
    /// Envoy's sockets carry [`PROXY_MARK`]: the user namespace knows one user only.
    Mark,
}

/// A closed network of hosts.
#[derive(Debug)]
pub struct Lab {
    rights: Rights,
    switch: Arc<Agent>,
    hosts: u8,
}

/// One host of a lab; clones are the same host.
#[derive(Clone, Debug)]
pub struct LabHost {
    agent: Arc<Agent>,
    switch: Arc<Agent>,
    identity: ProxyIdentity,
    ip: Ipv4Addr,
    port: String,
}

/// What a node has of its own beside its network. Its first process is the agent, and all others end with it.
const NODE: [&str; 5] = [
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child=KILL",
];

/// What this process may do, as words for `unshare` and `nsenter`.
#[derive(Clone, Copy, Debug)]
struct Rights {
    unshare: &'static [&'static str],
    nsenter: &'static [&'static str],
    identity: ProxyIdentity,
}

/// From the plainest to the most confined.
const RIGHTS: [Rights; 3] = [
    Rights {
        unshare: &["--net"],
        nsenter: &["--net"],
        identity: ProxyIdentity::Uid,
    },
    Rights {
        unshare: &["--user", "--map-root-user", "--map-auto", "--net"],
        nsenter: &["--user", "--preserve-credentials", "--net"],
        identity: ProxyIdentity::Uid,
    },
    Rights {
        unshare: &["--user", "--map-root-user", "--net"],
        nsenter: &["--user", "--preserve-credentials", "--net"],
        identity: ProxyIdentity::Mark,
    },
];

/// The process that holds a namespace.
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
    /// Makes the bridge that hosts are joined to.
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

    /// Adds a host with an address of its own.
    pub async fn host(&mut self, name: &str) -> Result<LabHost> {
        self.add(name, false).await
    }

    /// Adds a host that has mounts and process ids of its own, for daemons; only as root.
    pub async fn node(&mut self, name: &str) -> Result<LabHost> {
        if self.rights.unshare != RIGHTS[0].unshare {
            bail!("a node needs mounts of its own: run as root");
        }
        self.add(name, true).await
    }

    async fn add(&mut self, name: &str, is_node: bool) -> Result<LabHost> {
        if self.hosts == u8::MAX - 2 {
            bail!("the lab is full");
        }
        self.hosts += 1;
        let [a, b] = SUBNET;
        let ip = Ipv4Addr::new(a, b, 0, self.hosts + 1);
        let port = format!("port{}", self.hosts);

        let mut unshare = self.switch.command("setpriv");
        unshare.args(["--pdeathsig", "KILL", "--", "unshare", "--net"]);
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
        // The default route lets an application call any address: interception comes after routing.
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
    /// The host's name.
    pub fn name(&self) -> &str {
        &self.agent.name
    }

    /// The host's address in the lab.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// How Envoy has to show itself here.
    pub fn proxy_identity(&self) -> ProxyIdentity {
        self.identity
    }

    /// A command that runs on the host as its root.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.agent.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program.as_ref());
        command
    }

    /// A command that runs on the host as the user of Envoy, or as root where there is only one user.
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

    /// Runs shell commands on the host and returns what they print.
    pub fn shell(&self, script: &str) -> Result<String> {
        self.agent.shell(script)
    }

    /// Starts a long-running command of this host; its log lies in the lab's folder.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        let name = format!("{}.{name}", self.name());
        Process::spawn(&name, command, &self.dir().join(format!("{name}.log")))
    }

    /// Starts an application that answers HTTP with its name, and waits until it does.
    pub async fn http_app(&self, name: &str, listen: SocketAddr) -> Result<Process> {
        let mut process = self.app("http", name, listen)?;
        let address = self.loopback(listen.port());
        process
            .wait_until("answering", START, async || address.get("/").await.is_ok())
            .await?;
        Ok(process)
    }

    /// Starts an application that greets TCP connections with its name, and waits until it does.
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

    /// A server on the host's loopback, reached from this process.
    pub fn loopback(&self, port: u16) -> Address {
        self.reach((Ipv4Addr::LOCALHOST, port).into())
    }

    /// A server, reached from this process as an application on the host would reach it: rules apply.
    pub fn reach(&self, target: SocketAddr) -> Address {
        Address::Relayed {
            agent: self.agent.socket.clone(),
            target,
        }
    }

    /// The lab's folder, for files that processes on hosts read and write.
    pub fn dir(&self) -> &Path {
        self.agent.dir.path()
    }

    /// Cuts the host off, as a pulled cable does.
    pub fn disconnect(&self) -> Result<()> {
        self.switch
            .shell(&format!("ip link set {} nomaster", self.port))
            .map(drop)
    }

    /// Plugs the cable in again.
    pub fn reconnect(&self) -> Result<()> {
        self.switch
            .shell(&format!("ip link set {} master lab", self.port))
            .map(drop)
    }
}

impl Rights {
    /// The first that this machine grants.
    fn find() -> Result<Self> {
        let mut refusals = Vec::new();
        for rights in RIGHTS {
            match process::run(Command::new("unshare").args(rights.unshare).arg("true")) {
                Ok(_) => return Ok(rights),
                Err(error) => refusals.push(format!("{error:#}")),
            }
        }
        bail!(
            "network namespaces are not allowed here; run as root.\n{}",
            refusals.join("\n")
        )
    }
}

impl Agent {
    /// Starts an agent behind `unshare`, the command that makes its namespace.
    async fn start(
        name: &str,
        mut unshare: Command,
        rights: Rights,
        dir: Arc<TempDir>,
    ) -> Result<Self> {
        let socket = dir.path().join(format!("{name}.agent"));
        if socket.exists() {
            bail!("the lab has a host {name} already");
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

    /// A command inside the namespace; `nsenter` replaces itself by the program, so the id stays, but for a node's.
    fn command(&self, program: &str) -> Command {
        let pid = self.process.id();
        let mut command = if self.is_node {
            // Only the children of `unshare` have its process ids, so `nsenter` stays, as the parent of the program.
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
        // ip and iptables lie where only root looks.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    }

    fn shell(&self, script: &str) -> Result<String> {
        process::run(self.command("sh").args(["-c", script]))
            .with_context(|| format!("on {}", self.name))
    }
}

impl Drop for Agent {
    /// Waits until everything on a node has ended, which is when its first process has.
    fn drop(&mut self) {
        if !self.is_node {
            return;
        }
        let asked =
            UnixStream::connect(&self.socket).and_then(|mut agent| writeln!(agent, "{}", app::END));
        let deadline = Instant::now() + START;
        while asked.is_ok() && Instant::now() < deadline {
            if !matches!(self.process.exited(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
