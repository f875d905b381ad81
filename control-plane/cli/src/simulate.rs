//! `stella simulate`: what a deployment would do.

pub(crate) mod describe;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use stella_simulate::{Outcome, Scenario, Spread, Summary, length};

use crate::args::{Output, Simulate};
use crate::client::Error;
use crate::print;

/// Whether it succeeds, with every seed.
pub(crate) fn simulate(output: Output, command: &Simulate) -> Result<bool, Error> {
    let scenario = read(&command.scenario)?;
    if command.runs > 1 {
        let outcomes = many(&scenario, command.seed, command.runs)?;
        let Some(summary) = Summary::of(&outcomes) else { return Ok(true) };
        print::result(output, &summary, in_all)?;
        return Ok(outcomes.iter().all(succeeds));
    }
    let outcome = match &command.events {
        Some(file) => logged(&scenario, command.seed, file)?,
        None => once(&scenario, command.seed, &mut |_| {})?,
    };
    print::result(output, &outcome, told)?;
    Ok(succeeds(&outcome))
}

fn succeeds(outcome: &Outcome) -> bool {
    outcome.status == "succeeded"
}

fn read(file: &Path) -> Result<Scenario, Error> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::Usage(format!("{} cannot be read: {error}", file.display())))?;
    stella_simulate::read(&text).map_err(|faults| {
        let shown: Vec<String> = faults.iter().map(|fault| format!("{}: {fault}", file.display())).collect();
        Error::Usage(shown.join("\n"))
    })
}

fn once(scenario: &Scenario, seed: u64, log: &mut dyn FnMut(&str)) -> Result<Outcome, Error> {
    stella_simulate::simulate(scenario, seed, log).map_err(|error| Error::Usage(error.to_string()))
}

fn logged(scenario: &Scenario, seed: u64, file: &Path) -> Result<Outcome, Error> {
    let cannot =
        |error: std::io::Error| Error::Usage(format!("{} cannot be written: {error}", file.display()));
    let mut writer = BufWriter::new(File::create(file).map_err(cannot)?);
    let mut written = Ok(());
    let outcome = once(scenario, seed, &mut |line| {
        if written.is_ok() {
            written = writeln!(writer, "{line}");
        }
    })?;
    written.and_then(|()| writer.flush()).map_err(cannot)?;
    Ok(outcome)
}

/// One simulation a seed, on all processors; the outcomes in the order of the seeds.
fn many(scenario: &Scenario, first: u64, runs: u32) -> Result<Vec<Outcome>, Error> {
    let bar = ProgressBar::new(runs.into());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} to go") {
        bar.set_style(style);
    }
    let next = AtomicU64::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= u64::from(runs) {
                return Ok(found);
            }
            found.push((at, once(scenario, first.wrapping_add(at), &mut |_| {})?));
            bar.inc(1);
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut outcomes = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let gone =
                |_| Error::Usage("a simulation has stopped in the middle; this is a defect".to_owned());
            outcomes.extend(worker.join().map_err(gone)??);
        }
        Ok::<(), Error>(())
    })?;
    bar.finish_and_clear();
    outcomes.sort_by_key(|(at, _)| *at);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn share(part: u32, total: u32) -> String {
    if total == 0 { "0%".to_owned() } else { format!("{}%", u64::from(part) * 100 / u64::from(total)) }
}

/// One outcome for people.
fn told(outcome: &Outcome) -> String {
    let Outcome { targets, at_risk, .. } = outcome;
    let mut text = format!("seed {}: {}", outcome.seed, outcome.status);
    if outcome.status == "waiting" {
        text.push_str(&format!(" since {}", length(outcome.duration_ms)));
    } else {
        text.push_str(&format!(" after {}", length(outcome.duration_ms)));
    }
    if outcome.held_up_ms > 0 {
        text.push_str(&format!(", held up for {} of it", length(outcome.held_up_ms)));
    }
    // Writing into a text cannot fail.
    let mut line = |words: String| text.extend(["\n  ", &words]);
    if let Some(reason) = &outcome.reason {
        line(format!("why      {reason}"));
    }
    if let Some(rollback) = &outcome.rollback {
        line(format!("rollback {rollback}"));
    }
    let mut ended = format!("{} of {} have the release", targets.have_it, targets.total);
    for (count, what) in
        [(targets.failed, "failed"), (targets.skipped, "left out"), (targets.abandoned, "left in the middle")]
    {
        if count > 0 {
            ended.push_str(&format!(", {count} {what}"));
        }
    }
    line(format!("targets  {ended}; begun on {}", targets.started));
    let most = share(at_risk.most, targets.total);
    line(format!("at risk  {} at once at most ({most}), after {}", at_risk.most, length(at_risk.at_ms)));
    let milestones: Vec<String> =
        outcome.milestones.iter().map(|it| format!("{}% {}", it.percent, length(it.at_ms))).collect();
    if !milestones.is_empty() {
        line(format!("reached  {}", milestones.join(", ")));
    }
    for stop in &outcome.stop_totals {
        let times = if stop.times == 1 { "once".to_owned() } else { format!("{} times", stop.times) };
        line(format!("stopped  by {} {times}, for {}: {}", stop.cause, length(stop.total_ms), stop.reason));
    }
    line(format!("log      {} events, {}", outcome.events, outcome.log_digest));
    text
}

/// Many outcomes for people.
fn in_all(summary: &Summary) -> String {
    let statuses: Vec<String> =
        summary.statuses.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let last = summary.first_seed.wrapping_add(u64::from(summary.runs) - 1);
    let mut text =
        format!("{} seeds, {} to {last}: {}\n\n", summary.runs, summary.first_seed, statuses.join(", "));
    let row = |name: &str, spread: &Spread, shown: &dyn Fn(u64) -> String| {
        let Spread { least, p50, p90, most, most_seed } = *spread;
        vec![name.to_owned(), shown(least), shown(p50), shown(p90), shown(most), most_seed.to_string()]
    };
    let mut rows = vec![
        row("duration", &summary.duration_ms, &length),
        row("targets at risk at once", &summary.at_risk, &|it| it.to_string()),
    ];
    if let Some(spread) = &summary.started_in_vain {
        rows.push(row("targets begun in vain", spread, &|it| it.to_string()));
    }
    text.push_str(&print::table(&["", "LEAST", "P50", "P90", "MOST", "SEED OF MOST"], rows));
    for (reason, times) in &summary.reasons {
        text.push_str(&format!("\n{times} times: {reason}"));
    }
    text
}
