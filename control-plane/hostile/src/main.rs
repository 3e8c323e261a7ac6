//! `evermesh-hostile`: attacks a running control plane and prints what each attack did (`make hostile`).

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::{Parser, ValueEnum as _};
use evermesh_hostile::{Attack, AttackOutcome, Form, MILLISECONDS, PEAK_MIB, run};

/// Attack a running Evermesh with the memory limit of the chart
#[derive(Parser)]
struct Args {
    /// Attacks to run [default: all]
    attacks: Vec<Attack>,
    /// Few connections, and no limits of time
    #[arg(long)]
    short: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let Args { attacks, short } = Args::parse();
    let attacks = if attacks.is_empty() {
        Attack::value_variants().to_vec()
    } else {
        attacks
    };
    let form = if short { Form::Short } else { Form::Full };
    print(&format!(
        "Bounds: {PEAK_MIB} MiB, {MILLISECONDS} ms for a change and /livez, each bystander is served\n"
    ));
    print(&row(
        "attack",
        "peak MiB",
        ["change ms p99", "/livez ms p99", "new stream ms p99"],
        "",
    ));
    let mut is_good = true;
    for attack in attacks {
        let outcome = run(attack, form).await?;
        print(&row_of(&outcome));
        is_good &= outcome.broken.is_empty();
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn row_of(outcome: &AttackOutcome) -> String {
    let times = [outcome.change, outcome.probe, outcome.stream];
    let times = times.map(|it| it.map_or_else(|| "none".to_owned(), |it| format!("{it:.1}")));
    let verdict = if outcome.broken.is_empty() {
        "good".to_owned()
    } else {
        outcome.broken.join("; ")
    };
    let peak = outcome.peak_mib;
    let peak = peak.map_or_else(|| "gone".to_owned(), |it| it.to_string());
    row(
        &outcome.attack.to_string(),
        &peak,
        times.each_ref().map(String::as_str),
        &verdict,
    )
}

fn row(attack: &str, peak: &str, [change, probe, stream]: [&str; 3], verdict: &str) -> String {
    format!("{attack:<20} {peak:>8} {change:>14} {probe:>14} {stream:>18}  {verdict}")
}

fn print(line: &str) {
    // A closed pipe does not end the attacks.
    let _ = writeln!(std::io::stdout(), "{line}");
}
