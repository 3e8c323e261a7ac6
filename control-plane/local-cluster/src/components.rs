//! The components of the local cluster: their configuration files and commands.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path, process::Command};

use anyhow::Result;
use serde_json::json;

use crate::images;
use evermesh_testkit::{hosts::LabHost, kubernetes::ApiServer, process, tools};

/// The name of the Kubernetes node.
pub(crate) const NODE: &str = "node";

/// The address of the bridge between the pods, on which the DNS server listens.
pub(crate) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// The range of pod addresses.
const PODS: &str = "10.244.0.0/16";

/// The port of the DNS server's readiness page.
pub(crate) const DNS_READY_PORT: u16 = 8181;

/// The port of kube-proxy's health page, which succeeds after the first write of rules.
pub(crate) const PROXY_HEALTH_PORT: u16 = 10256;

/// Kernel settings below /proc/sys that the kubelet requires. The node has its own files for them, because the kubelet
/// would otherwise set them for the whole machine.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The node and the paths that the components share.
pub(crate) struct Components<'a> {
    pub(crate) node: &'a LabHost,
    pub(crate) dir: &'a Path,
    pub(crate) cgroup: String,
}

impl Components<'_> {
    /// Creates the node's folders, mounts, bridge, kernel settings and CNI configuration.
    pub(crate) fn prepare(&self) -> Result<()> {
        let dir = self.dir.display();
        for folder in ["lib", "lib.work", "tunables", "cni", "kubelet"] {
            fs::create_dir(self.dir.join(folder))?;
        }
        let mut script = format!(
            "set -e
mount --make-rshared /
mount -t tmpfs run /run
mount -t tmpfs log /var/log
mount -t overlay -o lowerdir=/var/lib,upperdir={dir}/lib,workdir={dir}/lib.work lib /var/lib
ip link add cni0 address 02:00:0a:f4:00:01 type bridge
ip address add {BRIDGE}/16 dev cni0
ip link set cni0 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
for file in /proc/sys/net/bridge/bridge-nf-call-iptables; do [ ! -e $file ] || echo 1 > $file; done
"
        );
        for (index, (name, value)) in TUNABLES.into_iter().enumerate() {
            let file = self.dir.join(format!("tunables/{index}"));
            fs::write(&file, format!("{value}\n"))?;
            writeln!(
                script,
                "[ ! -e /proc/sys/{name} ] || mount --bind {} /proc/sys/{name}",
                file.display()
            )?;
        }
        self.node.shell(&script)?;
        let network = json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": PODS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        });
        Ok(fs::write(
            self.dir.join("cni/pods.conflist"),
            network.to_string(),
        )?)
    }

    pub(crate) fn containerd_socket(&self) -> String {
        self.dir.join("containerd.sock").display().to_string()
    }

    pub(crate) fn containerd(&self) -> Result<Command> {
        let dir = self.dir.display();
        let config = format!(
            r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Lowering oom_score_adj needs CAP_SYS_RESOURCE.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
            socket = self.containerd_socket(),
            pause = images::reference("evermesh-pause")?,
        );
        let file = self.dir.join("containerd.toml");
        fs::write(&file, config)?;
        let mut command = self.node.command("containerd");
        command.arg("--config").arg(file);
        Ok(command)
    }

    pub(crate) fn controller_manager(&self, api: &ApiServer) -> Result<Command> {
        let name = "kube-controller-manager";
        let mut command = self.control_plane_component(api, name)?;
        command
            .args(["--allocate-node-cidrs=false", "--leader-elect=false"])
            .arg("--use-service-account-credentials")
            .arg(flag("root-ca-file", &api.pki().file("ca.crt")))
            .arg(flag(
                "service-account-private-key-file",
                &api.pki().file("accounts.key"),
            ));
        Ok(command)
    }

    pub(crate) fn scheduler(&self, api: &ApiServer) -> Result<Command> {
        let mut command = self.control_plane_component(api, "kube-scheduler")?;
        command.arg("--leader-elect=false");
        Ok(command)
    }

    /// A component of the control plane, with the user `system:NAME` to which Kubernetes grants rights.
    fn control_plane_component(&self, api: &ApiServer, name: &str) -> Result<Command> {
        let config = api.certificate_kubeconfig(name, &format!("system:{name}"), "evermesh")?;
        let mut command = self.program(name)?;
        command
            .arg(flag("kubeconfig", &config))
            .arg(flag("authentication-kubeconfig", &config))
            .arg(flag("authorization-kubeconfig", &config))
            .arg(flag("cert-dir", &self.dir.join(name)))
            .arg("--bind-address=127.0.0.1");
        Ok(command)
    }

    pub(crate) fn kubelet(&self, api: &ApiServer) -> Result<Command> {
        let pki = api.pki();
        pki.server("kubelet", self.node.ip())?;
        let kubeconfig = api.certificate_kubeconfig(
            "kubelet-user",
            &format!("system:node:{NODE}"),
            "system:nodes",
        )?;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": pki.file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.file("kubelet.crt"),
            "tlsPrivateKeyFile": pki.file("kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{}", self.containerd_socket()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": false,
            "protectKernelDefaults": true,
            // No eviction: tests must also run on an almost full disk.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "clusterDomain": "cluster.local",
            "clusterDNS": [BRIDGE],
            "resolvConf": "",
        });
        let file = self.dir.join("kubelet.yaml");
        fs::write(&file, config.to_string())?;
        let mut command = self.program("kubelet")?;
        command
            .arg(flag("config", &file))
            .arg(flag("kubeconfig", &kubeconfig))
            .arg(flag("root-dir", &self.dir.join("kubelet")))
            .arg(format!("--node-ip={}", self.node.ip()))
            .arg(format!("--hostname-override={NODE}"));
        Ok(command)
    }

    pub(crate) fn proxy(&self, api: &ApiServer) -> Result<Command> {
        let kubeconfig =
            api.certificate_kubeconfig("kube-proxy", "system:kube-proxy", "evermesh")?;
        let mut command = self.program("kube-proxy")?;
        command
            .arg(flag("kubeconfig", &kubeconfig))
            .args(["--proxy-mode=nftables", &format!("--cluster-cidr={PODS}")])
            .arg(format!("--hostname-override={NODE}"))
            .arg(format!(
                "--healthz-bind-address=127.0.0.1:{PROXY_HEALTH_PORT}"
            ))
            // Zero keeps the machine's limits of conntrack.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
        Ok(command)
    }

    pub(crate) fn dns(&self, api: &ApiServer) -> Result<Command> {
        let kubeconfig = api.certificate_kubeconfig("coredns", DNS_USER, "evermesh")?;
        let config = format!(
            ".:53 {{
    bind {BRIDGE}
    errors
    ready 127.0.0.1:{DNS_READY_PORT}
    kubernetes cluster.local {{
        kubeconfig {}
        ttl 1
    }}
}}
",
            kubeconfig.display()
        );
        let file = self.dir.join("Corefile");
        fs::write(&file, config)?;
        let mut command = self.program("coredns")?;
        command.arg("-conf").arg(file);
        Ok(command)
    }

    fn program(&self, name: &str) -> Result<Command> {
        let program = tools::installed(&format!("kubernetes/{name}"))?;
        Ok(self.node.command(program))
    }
}

const DNS_USER: &str = "system:coredns";

/// The cluster role of the DNS server and its binding.
pub(crate) fn dns_rights() -> String {
    let metadata = json!({"name": DNS_USER});
    let objects = [
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DNS_USER},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DNS_USER}],
        }),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

/// The `ctr` command that imports an image archive; it runs on this machine and connects to containerd's socket.
pub(crate) fn import(socket: &str, archive: &Path) -> Command {
    let mut command = process::command("ctr");
    command
        .args(["--address", socket, "--namespace", "k8s.io"])
        .args(["images", "import"])
        .arg(archive);
    command
}

fn flag(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}
