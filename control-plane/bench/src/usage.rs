//! CPU time and memory of a process, from procfs.

use std::{collections::BTreeMap, fs, ops::Sub, time::Duration};

use anyhow::{Context as _, Result};

/// CPU seconds of all threads since the process started.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    Ok(ThreadUsage::of(process)?.total())
}

/// CPU seconds of the threads of a process, by the name of the thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct ThreadUsage(BTreeMap<String, f64>);

impl ThreadUsage {
    /// The usage since the process started. `schedstat` has nanoseconds, `stat` only ticks.
    pub(crate) fn of(process: u32) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?.path();
            let name = fs::read_to_string(thread.join("comm"))?;
            let statistics = fs::read_to_string(thread.join("schedstat"))?;
            let on_cpu = statistics.split(' ').next().context("schedstat is empty")?;
            let seconds = Duration::from_nanos(on_cpu.parse()?).as_secs_f64();
            *threads.entry(name.trim_end().to_owned()).or_default() += seconds;
        }
        Ok(Self(threads))
    }

    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// The total and the threads with a share, in milliseconds divided by `events`.
    pub(crate) fn milliseconds_per(&self, events: u32) -> String {
        let each = |seconds: f64| seconds * 1e3 / f64::from(events);
        let threads = self.0.iter().map(|(name, seconds)| (name, each(*seconds)));
        let shares = threads.filter(|(_, milliseconds)| *milliseconds >= 0.005);
        let shares: Vec<String> = shares
            .map(|(name, milliseconds)| format!("{name} {milliseconds:.2}"))
            .collect();
        format!("{:.2} ms ({})", each(self.total()), shares.join(", "))
    }
}

impl Sub<&ThreadUsage> for ThreadUsage {
    type Output = Self;

    fn sub(self, before: &ThreadUsage) -> Self {
        let since = |(name, seconds): (String, f64)| {
            let before = before.0.get(&name).copied().unwrap_or_default();
            (name, seconds - before)
        };
        Self(self.0.into_iter().map(since).collect())
    }
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
    fn usage_of_threads_is_subtracted_by_name() {
        let usage = |seconds: [f64; 2]| {
            let names = ["engine", "xds"].map(str::to_owned);
            ThreadUsage(names.into_iter().zip(seconds).collect())
        };
        let since = usage([1.0, 3.5]) - &usage([1.0, 3.0]);
        assert_eq!(since.milliseconds_per(10), "50.00 ms (xds 50.00)");
    }

    #[test]
    fn rss_is_read_from_the_status_of_a_process() {
        let status = "Name:\tevermesh\nVmHWM:\t  3000 kB\nVmRSS:\t  2048 kB\nThreads:\t5\n";
        assert_eq!(parse_rss(status).unwrap(), 2048);
        parse_rss("Name:\tkthreadd\n").expect_err("a kernel thread has no memory");
    }
}
