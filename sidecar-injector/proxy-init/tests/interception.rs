//! Runs the program in network namespaces: two hosts, one of them intercepted, and the process that answers each
//! connection between them.

#![allow(clippy::unwrap_used)] // a panic fails the test

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

/// Further addresses of both hosts. The last two of `OUTSIDE` are ignored.
const INSIDE: [&str; 1] = ["fd77::1"];
const OUTSIDE: [&str; 3] = ["fd77::2", "fd77::3", "10.77.9.9"];

/// The last of forty application ports, a port that is not an application port, an ignored port and any other.
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

    /// The processes that answer connections, first over IPv4 and then over IPv6: from outside to an application port
    /// and to another port, then from inside to any port and to an ignored port.
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

/// The answers without interception.
const DIRECT: [&str; 8] = [
    "app", "app", "app", "app", "outside", "outside", "outside", "outside",
];

/// The answers with interception.
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

/// The name that the server at this address sends.
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

async fn intercepts_both_directions(backend: &str) {
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
    // Connections of the host to itself are not intercepted.
    for ip in [Ipv4Addr::LOCALHOST, inside.ip()] {
        let address = SocketAddr::from((ip, LISTED));
        assert_eq!(greeting(&inside.reach(address)).await, "app", "{ip}");
    }
    // Envoy's own connections are not intercepted. The program can run as Envoy's user, but not with Envoy's mark.
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
    assert_eq!(rules(list), once, "a second run changes nothing");
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
async fn nftables_intercepts_both_directions() {
    intercepts_both_directions("nftables").await;
}

#[tokio::test]
async fn iptables_intercepts_both_directions() {
    intercepts_both_directions("iptables").await;
}

#[tokio::test]
async fn printed_rules_equal_written_rules() {
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

/// App Mesh's controller asked for IPv6 in every pod.
#[tokio::test]
async fn host_without_ipv6_gets_ipv4_rules() {
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
    let output = process::run(&mut command).unwrap();
    assert!(output.contains("the kernel has no IPv6"), "{output}");
    let rules = host.shell("nft list ruleset").unwrap();
    assert!(rules.contains("table ip evermesh"), "{rules}");
    assert!(!rules.contains("ip6"), "{rules}");
}

#[tokio::test]
async fn no_ipv6_rules_if_ipv6_is_disabled() {
    let mut lab = Lab::start().await.unwrap();
    let host = lab.host("pod").await.unwrap();
    let ipv4_only = ["--enable-ipv6", "0"];
    interception().run(&host, &ipv4_only).unwrap();
    let rules = host.shell("nft list ruleset").unwrap();
    assert!(rules.contains("table ip evermesh"), "{rules}");
    assert!(!rules.contains("ip6"), "{rules}");
}
