//! `evermesh-test-app pause`, process 1 of a pod, reaps orphans.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{fs, process::Command, time::Duration};

use evermesh_testkit::{
    process::{self, Process},
    tools, wait,
};

const LIMIT: Duration = Duration::from_secs(20);

/// The subshell ends before its children, which become children of the process that execs `pause`.
const LEAVE_ORPHANS: &str = "(sleep infinity & sleep infinity &); exec \"$0\" pause";

#[tokio::test]
async fn ended_orphans_do_not_stay_as_zombies() {
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
    for orphan in orphans() {
        process::run(Command::new("kill").arg(orphan.to_string())).unwrap();
    }
    wait::eventually("their end", LIMIT, async || orphans().is_empty()).await;
    assert_eq!(children(holder.id()).len(), 1, "{}", holder.log());
}

/// The IDs of the children of a process, zombies included.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        // PID (NAME) STATE PARENT …; the process may have ended since.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}
