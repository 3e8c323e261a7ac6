//! Attacks of hostile peers on a running control plane.
//!
//! Each attack has a control plane of its own: the real binary, with the memory limit of the chart and few file
//! descriptors ([`target`]). The attacker has a thread, and connects from several addresses of the loopback network.
//! Meanwhile a bystander's configuration changes, further proxies connect, and `/livez` is probed ([`bystander`]).
//!
//! An attack breaks a bound if the control plane takes more memory than [`PEAK_MIB`] or ends, or if a bystander is not
//! served. [`Form::Full`] also judges the times: [`MILLISECONDS`].
//!
//! ```text
//! attack thread ──────────► evermesh serve ◄── bystander thread: changes, new streams, /livez
//!                                 ▲
//!                           API server in memory (this thread)
//! ```

#![allow(missing_docs)] // used by the program and the test of this crate only

mod attack;
mod bystander;
mod client;
mod frames;
mod target;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::time::sleep;

pub use self::attack::Attack;
use self::{
    attack::Running,
    bystander::{Bystander, Sightings},
    target::Target,
};

/// Largest resident memory in MiB: half of the chart's limit.
pub const PEAK_MIB: u64 = 256;

/// Largest time of a change and of `/livez` at the 99th percentile.
pub const MILLISECONDS: f64 = 100.0;

/// Time for which an attack of [`Form::Full`] lasts at least.
const LASTING: Duration = Duration::from_secs(12);

/// Successes of each bystander during an attack of [`Form::Short`].
const SUCCESSES: usize = 3;

/// The size of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Some seconds with a development build, without limits of time.
    Short,
    /// All of it.
    Full,
}

/// Effects of an attack.
#[derive(Clone, Debug)]
pub struct AttackOutcome {
    pub attack: Attack,
    pub peak_mib: Option<u64>,
    /// 99th percentile in milliseconds.
    pub change: Option<f64>,
    pub probe: Option<f64>,
    pub stream: Option<f64>,
    /// The bounds that it broke.
    pub broken: Vec<String>,
}

/// Runs one attack.
///
/// # Errors
/// The control plane or the bystanders did not start.
pub async fn run(attack: Attack, form: Form) -> Result<AttackOutcome> {
    let target = Arc::new(Target::start(form, attack.needs_tls()).await?);
    let bystander = Bystander::start(&target).await?;
    let before = bystander.take();
    debug_assert!(before.failures.is_empty(), "{:?}", before.failures);
    let running = Running::start(attack, form, &target)?;
    running.has_done_a_round().await?;
    if form == Form::Full {
        sleep(LASTING).await;
    } else {
        bystander.take();
        bystander.sees(SUCCESSES).await?;
    }
    let seen = bystander.take();
    let mut broken = running.findings(&target);
    let peak_mib = target.peak_mib().ok();
    match peak_mib {
        None => broken.push(format!(
            "the control plane ended: {}",
            target.control_plane.log()
        )),
        Some(peak) if peak > PEAK_MIB => broken.push(format!("{peak} MiB, more than {PEAK_MIB}")),
        Some(_) => {}
    }
    Ok(judge(attack, form, peak_mib, seen, broken))
}

fn judge(
    attack: Attack,
    form: Form,
    peak_mib: Option<u64>,
    seen: Sightings,
    mut broken: Vec<String>,
) -> AttackOutcome {
    let [change, probe, stream] = [seen.changes, seen.probes, seen.streams].map(percentile_99);
    if form == Form::Full {
        for (what, time) in [("a change", change), ("/livez", probe)] {
            if time.is_none_or(|time| time > MILLISECONDS) {
                broken.push(format!("{what} took more than {MILLISECONDS} ms at p99"));
            }
        }
    }
    if let Some(first) = seen.failures.first() {
        let count = seen.failures.len();
        broken.push(format!(
            "{count} failures of bystanders, the first: {first}"
        ));
    }
    AttackOutcome {
        attack,
        peak_mib,
        change,
        probe,
        stream,
        broken,
    }
}

fn percentile_99(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied()
}
