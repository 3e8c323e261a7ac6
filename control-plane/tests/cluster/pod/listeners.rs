//! The ports on which the pods of an installation listen, seen from inside their network namespaces, and the table of
//! them in docs/security.md.

use std::{collections::BTreeSet, fs};

use evermesh_local_cluster::TestCluster;
use evermesh_testkit::{chart, tools};

use super::fixture::{PORT, PORTS, PodFixture, UNLISTED};

/// State of a listening socket in `/proc/PID/net/tcp`.
const LISTEN: &str = "0A";

/// Port and address, `all` or `loopback`.
type Listener = (u16, String);

/// A row of the table.
struct Documented {
    pod: String,
    listener: Listener,
    has_tls: bool,
}

/// Passes on a cluster of `KUBECONFIG`, whose processes are not on this machine.
pub(super) async fn pods_listen_only_at_the_documented_ports(fixture: &PodFixture<'_>) {
    let cluster = fixture.cluster;
    if cluster.logs().is_none() {
        return;
    }
    let documented = documented();
    let of_pod = |pod: &str| -> BTreeSet<Listener> {
        let rows = documented.iter().filter(|row| row.pod == pod);
        rows.map(|row| row.listener.clone()).collect()
    };
    let [evermesh, uid] = evermesh_pod(cluster).await;
    assert_eq!(listeners(&uid), of_pod("Evermesh"));

    let uid = field(cluster, "pods", "pod/member", "{.metadata.uid}").await;
    let mut member = listeners(&uid);
    for port in PORTS.chain([UNLISTED, PORT]) {
        assert!(member.remove(&(port, "all".to_owned())), "{port}");
    }
    assert_eq!(member, of_pod("sidecar"));

    for row in documented.iter().filter(|row| row.pod == "Evermesh") {
        let (port, address) = &row.listener;
        // A plaintext request; unlike the client of `TestCluster::get`, kubectl does not repeat one that fails.
        let namespace = chart::NAMESPACE;
        let pod = format!("/api/v1/namespaces/{namespace}/pods/{evermesh}:{port}");
        let page = format!("{pod}/proxy/livez");
        let answer = cluster.kubectl().run(&["get", "--raw", &page]).await;
        let is_plain = !row.has_tls && address == "all";
        assert_eq!(answer.is_ok(), is_plain, "{port}: {answer:?}");
    }
}

/// The rows of the table below the heading `Ports`.
fn documented() -> Vec<Documented> {
    let page = tools::workspace().unwrap().join("docs/security.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once("\n## Ports\n").unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        Documented {
            pod: cells[1].to_owned(),
            listener: (cells[2].parse().unwrap(), cells[3].to_owned()),
            has_tls: cells[5].contains("TLS"),
        }
    })
    .collect()
}

/// Name and UID of a pod of Evermesh.
async fn evermesh_pod(cluster: &TestCluster) -> [String; 2] {
    let name = "{.items[0].metadata.name}";
    let name = field(cluster, chart::NAMESPACE, "pods", name).await;
    let pod = format!("pod/{name}");
    let uid = field(cluster, chart::NAMESPACE, &pod, "{.metadata.uid}").await;
    [name, uid]
}

async fn field(cluster: &TestCluster, namespace: &str, object: &str, path: &str) -> String {
    let output = format!("--output=jsonpath={path}");
    let get = ["get", object, "--namespace", namespace, &output];
    cluster.kubectl().run(&get).await.unwrap()
}

/// The TCP ports on which the containers of a pod listen.
fn listeners(uid: &str) -> BTreeSet<Listener> {
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    // The path of a container's cgroup contains the UID of its pod, and all containers share one network namespace.
    let process = processes.find(|process| {
        // A process may end between the listing and the reading.
        let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        cgroup.contains(uid)
    });
    let process = process.expect("a process of the pod").path();
    let sockets = ["tcp", "tcp6"].map(|table| {
        let table = process.join("net").join(table);
        fs::read_to_string(table).unwrap()
    });
    let lines = sockets.iter().flat_map(|table| table.lines().skip(1));
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = fields.filter(|fields| fields[3] == LISTEN);
    listening
        .map(|fields| {
            let (address, port) = fields[1].split_once(':').unwrap();
            let port = u16::from_str_radix(port, 16).unwrap();
            (port, name_of(address))
        })
        .collect()
}

/// `all`, `loopback`, or the address as the kernel prints it: 32-bit words in the byte order of the machine.
fn name_of(address: &str) -> String {
    match address {
        "00000000" | "00000000000000000000000000000000" => "all",
        "0100007F" | "00000000000000000000000001000000" => "loopback",
        other => other,
    }
    .to_owned()
}
