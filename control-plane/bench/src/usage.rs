//! CPU time and memory of a process, from procfs.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// CPU seconds of all threads since the process started. `schedstat` has nanoseconds, `stat` only ticks.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = statistics.split(' ').next().context("schedstat is empty")?;
        nanoseconds += on_cpu.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// Resident set size in kilobytes.
pub(crate) fn rss_kilobytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    parse_rss(&status)
}

fn parse_rss(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes
        .context("the status has no VmRSS in kB")?
        .parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_is_read_from_the_status_of_a_process() {
        let status = "Name:\tevermesh\nVmHWM:\t  3000 kB\nVmRSS:\t  2048 kB\nThreads:\t5\n";
        assert_eq!(parse_rss(status).unwrap(), 2048);
        parse_rss("Name:\tkthreadd\n").expect_err("a kernel thread has no memory");
    }
}
