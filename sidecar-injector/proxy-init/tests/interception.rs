//! Two hosts, one of them intercepted: what its connections, and those to it, arrive at.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use evermesh_testkit::{
    hosts::{Lab, LabHost, ProxyIdentity},
    http::Address,
    interception::Interception,
    process::{self, Process},
    tools,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Addresses of both hosts beside the lab's own; the last ones are called without Envoy.
const INSIDE: [&str; 1] = ["fd77::1"];
const OUTSIDE: [&str; 3] = ["fd77::2", "fd77::3", "10.77.9.9"];

/// The last of forty ports of the application, one that is not listed, and one that is ignored.
const LISTED: u16 = 8040;
const UNLISTED: u16 = 9000;
const IGNORED: u16 = 2222;
const OTHER: u16 = 80;

struct Scene {
    inside: LabHost,
    outside: LabHost,
    _apps: Vec<Process>,
}

impl Scene {
    async fn build() -> Self {
        let mut lab = Lab::start().await.unwrap();
        let inside = lab.host("inside").await.unwrap();
        let outside = lab.host("outside").await.unwrap();
        add_addresses(&inside, &INSIDE);
        add_addresses(&outside, &OUTSIDE);
        let mut apps = Vec::new();
        for (host, name, port) in [
            (&inside, "ingress", 15000),
            (&inside, "egress", 15001),
            (&inside, "app", LISTED),
            (&inside, "app", UNLISTED),
            (&outside, "outside", IGNORED),
            (&outside, "outside", OTHER),
        ] {
            let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            apps.push(host.tcp_app(name, listen).await.unwrap());
        }
        Self {
            inside,
            outside,
            _apps: apps,
        }
    }

    fn of_both_families(host: &LabHost, v6: &str) -> [IpAddr; 2] {
        [host.ip().into(), v6.parse().unwrap()]
    }

    /// Who answers connections: from outside to a listed port and to another, and from inside to a port and to one
    /// that is ignored.
    async fn answers(&self) -> Vec<String> {
        let mut answers = Vec::new();
        for ip in Self::of_both_families(&self.inside, INSIDE[0]) {
            for port in [LISTED, UNLISTED] {
                let address = SocketAddr::from((ip, port));
                answers.push(greeting(&self.outside.reach(address)).await);
            }
        }
        for ip in Self::of_both_families(&self.outside, OUTSIDE[0]) {
            for port in [OTHER, IGNORED] {
                let address = SocketAddr::from((ip, port));
                answers.push(greeting(&self.inside.reach(address)).await);
            }
        }
        answers
    }
}

/// With nothing intercepted.
const DIRECT: [&str; 8] = [
    "app", "app", "app", "app", "outside", "outside", "outside", "outside",
];

/// With everything intercepted, IPv4 first.
const INTERCEPTED: [&str; 8] = [
    "ingress", "app", "ingress", "app", "egress", "outside", "egress", "outside",
];

fn add_addresses(host: &LabHost, addresses: &[&str]) {
    for address in addresses {
        let (prefix, more) = match address.parse().unwrap() {
            IpAddr::V4(_) => (16, ""),
            IpAddr::V6(_) => (64, "nodad"),
        };
        let add = format!("ip address add {address}/{prefix} dev eth0 {more}");
        host.shell(&add).unwrap();
    }
}

/// The name that a server greets with.
async fn greeting(address: &Address) -> String {
    let mut stream = BufReader::new(address.connect().await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line.trim().to_owned()
}

fn interception() -> Interception {
    Interception {
        app_ports: (LISTED - 39..=LISTED).collect(),
        ignored_ips: OUTSIDE[1..].iter().map(|it| it.parse().unwrap()).collect(),
        ignored_ports: vec![22, IGNORED],
    }
}

async fn intercepts_both_ways(backend: &str) {
    let scene = Scene::build().await;
    let Scene {
        inside, outside, ..
    } = &scene;
    let backend = ["--backend", backend];
    assert_eq!(scene.answers().await, DIRECT);
    interception().run(inside, &backend).unwrap();
    assert_eq!(scene.answers().await, INTERCEPTED);
    for ip in &OUTSIDE[1..] {
        let address = SocketAddr::new(ip.parse().unwrap(), OTHER);
        assert_eq!(greeting(&inside.reach(address)).await, "outside", "{ip}");
    }
    // Calls to itself are left alone.
    for ip in [Ipv4Addr::LOCALHOST, inside.ip()] {
        let address = SocketAddr::from((ip, LISTED));
        assert_eq!(greeting(&inside.reach(address)).await, "app", "{ip}");
    }
    // Envoy's own connections are left alone; without a user of its own, this is the mark's to say.
    let _app = outside
        .http_app("ready", (Ipv4Addr::UNSPECIFIED, 8888).into())
        .await
        .unwrap();
    let url = format!("http://{}:8888/", outside.ip());
    let wait = ["wait", "--timeout", "1", "--url", &url];
    let program = tools::built("evermesh-proxy-init").unwrap();
    process::run(inside.command(&program).args(wait)).unwrap_err();
    if inside.proxy_identity() == ProxyIdentity::Uid {
        process::run(inside.proxy_command(&program).args(wait)).unwrap();
    }

    let list = "nft --stateless list ruleset; iptables-save; ip6tables-save";
    let rules = |list: &str| {
        let listed = inside.shell(list).unwrap();
        let lines = listed.lines().filter(|it| !it.starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let once = rules(list);
    assert!(once.contains("APPMESH_EGRESS"), "{once}");
    interception().run(inside, &backend).unwrap();
    assert_eq!(rules(list), once, "twice is once");
    Interception::default().run(inside, &backend).unwrap();
    let fewer = rules(list);
    assert!(
        !fewer.contains("8040") && !fewer.contains("INGRESS"),
        "{fewer}"
    );
    interception().run(inside, &["--clean"]).unwrap();
    let cleaned = rules(list);
    assert!(!cleaned.contains("APPMESH"), "{cleaned}");
    assert_eq!(scene.answers().await, DIRECT);
    interception().run(inside, &["--clean"]).unwrap();
}

#[tokio::test]
async fn nftables_intercepts_both_ways() {
    intercepts_both_ways("nftables").await;
}

#[tokio::test]
async fn iptables_intercepts_both_ways() {
    intercepts_both_ways("iptables").await;
}

#[tokio::test]
async fn what_is_printed_is_what_is_written() {
    let mut lab = Lab::start().await.unwrap();
    let host = lab.host("pod").await.unwrap();
    let mut interception = interception();
    interception.ignored_ips.push("192.0.2.1".parse().unwrap());
    let list = "nft --numeric list ruleset";
    let file = host.dir().join("rules.nft");
    interception.install(&host).unwrap();
    let written = host.shell(list).unwrap();
    let printed = interception.run(&host, &["--dry-run"]).unwrap();
    interception.run(&host, &["--clean"]).unwrap();
    assert_eq!(host.shell(list).unwrap(), "");
    fs::write(&file, &printed).unwrap();
    let nft = format!("nft -f {}", file.display());
    host.shell(&nft).unwrap();
    assert_eq!(host.shell(list).unwrap(), written);
    for expected in [
        "table ip evermesh",
        "table ip6 evermesh",
        "redirect to :15001",
    ] {
        assert!(written.contains(expected), "{written}");
    }
}

/// As App Mesh's controller asked for it in every pod.
#[tokio::test]
async fn a_host_without_ipv6_is_no_error() {
    let mut lab = Lab::start().await.unwrap();
    let host = lab.host("pod").await.unwrap();
    let hidden = "mount -t tmpfs none /proc/$$/net && exec \"$0\"";
    let program = tools::built("evermesh-proxy-init").unwrap();
    let mut command = host.command("unshare");
    command
        .args(["--mount", "sh", "-c", hidden])
        .arg(program)
        .env("APPMESH_START_ENABLED", "1")
        .env("APPMESH_IGNORE_UID", "1337")
        .env("APPMESH_ENABLE_IPV6", "1");
    let said = process::run(&mut command).unwrap();
    assert!(said.contains("no IPv6"), "{said}");
    let rules = host.shell("nft list ruleset").unwrap();
    assert!(rules.contains("table ip evermesh"), "{rules}");
    assert!(!rules.contains("ip6"), "{rules}");
}

#[tokio::test]
async fn ipv4_alone_leaves_ipv6_alone() {
    let mut lab = Lab::start().await.unwrap();
    let host = lab.host("pod").await.unwrap();
    let only = ["--enable-ipv6", "0"];
    interception().run(&host, &only).unwrap();
    let rules = host.shell("nft list ruleset").unwrap();
    assert!(rules.contains("table ip evermesh"), "{rules}");
    assert!(!rules.contains("ip6"), "{rules}");
}
