//! SPIRE's server and agents on hosts of a lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use evermesh_testkit::{
    hosts::{LabHost, PROXY_UID, ProxyIdentity},
    process::{self, Process},
    tools,
};
use serde_json::Value;

use crate::{common::DEADLINE, hosts::SPIRE_PORT};

/// A SPIRE server of the trust domain `example.org`. Its database and keys end with it.
pub(crate) struct SpireServer {
    host: LabHost,
    /// The socket of its API.
    socket: PathBuf,
    _process: Process,
}

impl SpireServer {
    pub(crate) async fn start(host: &LabHost) -> Self {
        let folder = folder(host, "spire-server");
        let socket = folder.join("api.sock");
        // By default, the server reads new entries from its database every 5 seconds.
        let config = format!(
            r#"
            server {{
                bind_address = "{address}"
                bind_port = {SPIRE_PORT}
                socket_path = "{socket}"
                trust_domain = "example.org"
                data_dir = "{folder}"
                experimental {{ cache_reload_interval = "100ms" }}
            }}
            plugins {{
                DataStore "sql" {{
                    plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/entries" }}
                }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
            }}
            "#,
            address = host.ip(),
            socket = socket.display(),
            folder = folder.display(),
        );
        let process = start(host, "spire-server", &config, &socket).await;
        Self {
            host: host.clone(),
            socket,
            _process: process,
        }
    }

    /// Starts the agent of a host with its socket at this path. Envoys on the host get certificates for `id` with this
    /// lifetime in seconds.
    pub(crate) async fn agent(
        &self,
        host: &LabHost,
        socket: &Path,
        id: &str,
        lifetime: u32,
    ) -> Process {
        let token = self.call(&["token", "generate"]);
        let token = token["value"].as_str().unwrap();
        let user = match host.proxy_identity() {
            ProxyIdentity::Uid => PROXY_UID,
            ProxyIdentity::Mark => 0,
        };
        self.call(&[
            "entry",
            "create",
            "-parentID",
            &format!("spiffe://example.org/spire/agent/join_token/{token}"),
            "-spiffeID",
            id,
            "-selector",
            &format!("unix:uid:{user}"),
            "-x509SVIDTTL",
            &lifetime.to_string(),
        ]);
        let folder = folder(host, "spire-agent");
        let bundle = folder.join("bundle.pem");
        fs::write(&bundle, self.run(&["bundle", "show"])).unwrap();
        // By default, the agent asks the server for changes every 5 seconds or more rarely.
        let config = format!(
            r#"
            agent {{
                server_address = "{server}"
                server_port = {SPIRE_PORT}
                trust_bundle_path = "{bundle}"
                join_token = "{token}"
                socket_path = "{socket}"
                trust_domain = "example.org"
                data_dir = "{folder}"
                experimental {{ sync_interval = "200ms" }}
            }}
            plugins {{
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                KeyManager "memory" {{ plugin_data {{}} }}
                WorkloadAttestor "unix" {{ plugin_data {{}} }}
            }}
            "#,
            server = self.host.ip(),
            bundle = bundle.display(),
            socket = socket.display(),
            folder = folder.display(),
        );
        start(host, "spire-agent", &config, socket).await
    }

    /// Calls the API by the server's command line.
    pub(crate) fn call(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-output", "json"]].concat());
        serde_json::from_str(&output).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("spire-server"));
        command.args(arguments).arg("-socketPath").arg(&self.socket);
        process::run(&mut command).unwrap()
    }
}

fn program(name: &str) -> PathBuf {
    tools::installed(&format!("spire/{name}")).unwrap()
}

/// A folder for the files of a program.
fn folder(host: &LabHost, program: &str) -> PathBuf {
    let folder = host.dir().join(format!("{}.{program}", host.name()));
    fs::create_dir(&folder).unwrap();
    folder
}

/// Starts a program and waits until it serves its socket, which may be visible only on the host.
async fn start(host: &LabHost, name: &str, config: &str, socket: &Path) -> Process {
    let file = host.dir().join(format!("{}.{name}.conf", host.name()));
    fs::write(&file, config).unwrap();
    let mut command = host.command(program(name));
    command.arg("run").arg("-config").arg(file);
    let mut process = host.spawn(name, command).unwrap();
    let healthy = async || {
        let mut command = host.command(program(name));
        command.arg("healthcheck").arg("-socketPath").arg(socket);
        process::run(&mut command).is_ok()
    };
    let waited = process.wait_until("healthy", DEADLINE, healthy).await;
    waited.unwrap();
    process
}
