//! What holds a pod's namespaces waits for its orphans.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{fs, time::Duration};

use evermesh_testkit::{
    process::{self, Process},
    tools, wait,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A shell that ends before its children leaves them to the first process.
const LEAVE_ORPHANS: &str = "(sleep 2 & sleep 2 &); exec \"$0\" pause";

#[tokio::test]
async fn no_orphan_stays_as_a_zombie() {
    let dir = tools::scratch("pause").unwrap();
    let mut unshare = process::command("unshare");
    unshare
        .args(["--user", "--map-root-user", "--pid", "--fork"])
        .args(["--kill-child=KILL", "--", "sh", "-c", LEAVE_ORPHANS])
        .arg(tools::built("evermesh-test-app").unwrap());
    let holder = Process::spawn("pause", unshare, &dir.path().join("log")).unwrap();
    let orphans = || {
        let first = children(holder.id()).into_iter().next();
        first.map_or(Vec::new(), children)
    };
    wait::eventually("two orphans", LIMIT, async || orphans().len() == 2).await;
    wait::eventually("their end", LIMIT, async || orphans().is_empty()).await;
    assert_eq!(children(holder.id()).len(), 1, "{}", holder.log());
}

/// The processes whose parent this is, zombies among them.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = processes.filter_map(|it| it.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        // PID (NAME) STATE PARENT …; it may have ended meanwhile.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}
