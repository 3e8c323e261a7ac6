//! `make bench`: how long a written file takes to the last of 20 real Envoys, with a small folder and with one of
//! 3,000 files, and what that costs the control plane.
//!
//! It prints and never judges: a machine's speed is no test.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, Version},
    tools,
};

/// Proxies of one node, all of which hold the route that changes.
const ENVOYS: usize = 20;

/// Changes measured in each folder.
const CHANGES: usize = 300;

/// Services of the front node; the others have callers elsewhere.
const BACKENDS: usize = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    say(&format!(
        "From a file's write to the last ACK of {ENVOYS} Envoys, {CHANGES} changes each:"
    ));
    for services in [BACKENDS, 1000] {
        let config = tools::scratch("bench")?;
        write_mesh(config.path(), services)?;
        measure(config.path(), services).await?;
    }
    Ok(())
}

async fn measure(config: &Path, services: usize) -> Result<()> {
    let started = Instant::now();
    let mut control_plane = ControlPlane::start(config, &[])?;
    control_plane.ready().await?;
    let ready = started.elapsed();
    let mut envoys = Vec::new();
    for _ in 0..ENVOYS {
        let bootstrap = bootstrap(
            "mesh/bench/virtualNode/front_bench",
            control_plane.xds(),
            false,
        )?;
        envoys.push(Envoy::start(&EnvoyOptions::new(
            Version::Newest,
            bootstrap,
        ))?);
    }
    for envoy in &mut envoys {
        envoy.ready().await?;
    }

    let process = control_plane
        .process_id()
        .context("the control plane runs")?;
    let cpu_before = cpu_seconds(process)?;
    let mut milliseconds = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        // Never what the file holds already.
        let weight = change % 98 + 2;
        milliseconds.push(shift(&control_plane, config, weight).await?);
    }
    let cpu = cpu_seconds(process)? - cpu_before;
    milliseconds.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        milliseconds[(milliseconds.len() * percent / 100).min(milliseconds.len() - 1)]
    };
    say(&format!(
        "  {:>5} files: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; CPU {:.2} ms a change (its {ENVOYS} deliveries and \
         the measuring included); ready after {:.2} s, RSS {} MB",
        3 * services + 3,
        at(50),
        at(99),
        at(100),
        cpu * 1e3 / f64::from(u32::try_from(CHANGES)?),
        ready.as_secs_f64(),
        rss_kilobytes(process)? / 1024,
    ));
    Ok(())
}

/// Writes another weight; returns the milliseconds from then to the last ACK.
async fn shift(control_plane: &ControlPlane, config: &Path, weight: usize) -> Result<f64> {
    let last = control_plane
        .changes()
        .await?
        .last()
        .map_or(0, |change| change.id);
    let text = router(0, weight);
    let written = SystemTime::now();
    fs::write(config.join("router-0.yaml"), text)?;
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        let changes = control_plane.changes().await?;
        if let Some((change, acked)) = changes
            .iter()
            .filter(|change| change.id > last)
            .find_map(|change| Some((change, change.acked_ms?)))
        {
            if change.deliveries != ENVOYS as u64 || change.rejected != 0 {
                bail!("the change should reach {ENVOYS} Envoys: {change:?}");
            }
            let written = written
                .duration_since(SystemTime::UNIX_EPOCH)?
                .as_secs_f64()
                * 1e3;
            return Ok(change.at_ms + acked - written);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("no ACK within 10 s; {}", control_plane.log())
}

/// A front node with some backends, and a node, a service and a router for each service, in as many files.
fn write_mesh(folder: &Path, services: usize) -> Result<()> {
    let mesh = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: bench}\nspec: {namespaceSelector: {}}\n";
    fs::write(folder.join("mesh.yaml"), mesh)?;
    fs::write(
        folder.join("namespace.yaml"),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n",
    )?;
    let mut front = object("VirtualNode", "front");
    front += "  listeners: [{portMapping: {port: 8080, protocol: http}}]\n  serviceDiscovery: {dns: {hostname: localhost}}\n  backends:\n";
    for index in 0..BACKENDS {
        writeln!(
            front,
            "    - virtualService: {{virtualServiceRef: {{name: service-{index}}}}}"
        )?;
    }
    fs::write(folder.join("front.yaml"), front)?;
    for index in 0..services {
        let node = object("VirtualNode", &format!("node-{index}"))
            + "  listeners: [{portMapping: {port: 8080, protocol: http}}]\n  serviceDiscovery: {dns: {hostname: localhost}}\n";
        fs::write(folder.join(format!("node-{index}.yaml")), node)?;
        let service = object("VirtualService", &format!("service-{index}"))
            + &format!(
                "  awsName: service-{index}.bench\n  provider: {{virtualRouter: {{virtualRouterRef: {{name: router-{index}}}}}}}\n"
            );
        fs::write(folder.join(format!("service-{index}.yaml")), service)?;
        fs::write(
            folder.join(format!("router-{index}.yaml")),
            router(index, 1),
        )?;
    }
    Ok(())
}

/// A router with two targets: the service's own node and the front.
fn router(index: usize, weight: usize) -> String {
    object("VirtualRouter", &format!("router-{index}"))
        + &format!(
            "  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]\n  routes:\n    - name: all\n      httpRoute:\n        \
             match: {{prefix: /}}\n        action:\n          weightedTargets:\n            \
             - {{virtualNodeRef: {{name: node-{index}}}, weight: {weight}}}\n            \
             - {{virtualNodeRef: {{name: front}}, weight: 1}}\n"
        )
}

fn object(kind: &str, name: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2\nkind: {kind}\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n"
    )
}

/// Seconds on a CPU since the process started, from the scheduler.
fn cpu_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = statistics
            .split(' ')
            .next()
            .context("schedstat has fields")?;
        nanoseconds += on_cpu.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

fn rss_kilobytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.context("VmRSS in kB")?.parse()?)
}

fn say(line: &str) {
    // Whoever read us is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
