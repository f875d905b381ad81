//! Following a deployment to its end, its automatic rollback included: live bars on a terminal, plain lines in a pipe.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use stella_api_types::deployment::{Deployment, DeploymentDetail, DeploymentTarget, Strategy};
use stella_api_types::paths;

use crate::args::Output;
use crate::client::{Client, Error};
use crate::follow::{self, INTERVAL, Look};
use crate::guide::way_on;
use crate::hold::because;
use crate::print;
use crate::rollout::describe::{NAMED_MAX, left};

/// Follows a deployment to its end, and that of the rollbacks which follow from it; whether it succeeded. A rollback that works does not
/// turn the failure into a success, and what a program gets is the deployment that it asked for.
pub(crate) async fn follow(client: &Client, tenant: &str, id: &str, output: Output) -> Result<bool, Error> {
    let mut view = View::new(output);
    let asked_for = follow_one(client, tenant, id, &mut view).await?;
    let mut next = rollback(&asked_for);
    while let Some(id) = next {
        next = rollback(&follow_one(client, tenant, &id, &mut view).await?);
    }
    if output == Output::Json {
        print::json(&asked_for)?;
    }
    Ok(has_succeeded(&asked_for))
}

fn has_succeeded(detail: &DeploymentDetail) -> bool {
    detail.deployment.status == "succeeded"
}

/// What takes a deployment back that has not succeeded.
fn rollback(detail: &DeploymentDetail) -> Option<String> {
    detail.rollbacks.last().filter(|_| !has_succeeded(detail)).cloned()
}

/// For how many targets a pause is as long as that for none.
const TARGETS_A_PAUSE: usize = 500;
/// The longest pause: nobody should have to wait longer for news.
const PAUSE_MAX: Duration = Duration::from_secs(10);

async fn follow_one(
    client: &Client,
    tenant: &str,
    id: &str,
    view: &mut View,
) -> Result<DeploymentDetail, Error> {
    let path = paths::fill(paths::DEPLOYMENT, &[tenant, id]);
    let look = async || client.get::<DeploymentDetail>(&path).await;
    follow::until_paced(
        |detail| pause(detail.targets.len()),
        look,
        |look| {
            Ok(match look {
                Look::Found(detail) => {
                    view.show(&detail);
                    detail.deployment.is_final.then_some(detail)
                }
                Look::Lost(why) => {
                    view.say(&format!("{why}; the deployment goes on without us, trying again"));
                    None
                }
            })
        },
    )
    .await
}

/// The pause after a deployment of this many targets was looked at. All of them are in each answer: 10,000 are megabytes, which
/// the control plane writes and this program reads. So the pause grows with them, and who follows costs about the same.
fn pause(targets: usize) -> Duration {
    let interval =
        INTERVAL.saturating_mul(u32::try_from(targets.div_ceil(TARGETS_A_PAUSE)).unwrap_or(u32::MAX));
    interval.clamp(INTERVAL, PAUSE_MAX)
}

/// A reason of fewer bytes may be said of a target and of its deployment.
const REPEATED_BYTES_MAX: usize = 100;
/// How many targets have a bar at a time: as many as leave room for what was said before on a small terminal. What does not fit on one is
/// not drawn at all.
const BARS_MAX: usize = 12;

/// What was shown already.
struct View {
    live: Option<MultiProgress>,
    quiet: bool,
    /// Those of the targets that are worked on, at most `BARS_MAX`.
    bars: BTreeMap<(String, String), ProgressBar>,
    /// Those that count the targets of deployments, by their ids.
    totals: BTreeMap<String, ProgressBar>,
    shown: BTreeMap<(String, String), String>,
    statuses: BTreeMap<String, String>,
    /// Why deployments were what they were, by their ids.
    reasons: BTreeMap<String, String>,
    /// The stages of blue-green deployments, by their ids.
    stages: BTreeMap<String, String>,
    /// How often hosts were asked whether they could go back, by the deployments' ids.
    proofs: BTreeMap<String, u32>,
    /// Why deployments are paused, by their ids.
    pauses: BTreeMap<String, String>,
}

impl View {
    fn new(output: Output) -> Self {
        let quiet = output == Output::Json;
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        // What is hidden swallows the lines as well: not every terminal can be drawn on.
        let live = Some(bars).filter(|bars| !quiet && !bars.is_hidden());
        Self {
            live,
            quiet,
            bars: BTreeMap::new(),
            totals: BTreeMap::new(),
            shown: BTreeMap::new(),
            statuses: BTreeMap::new(),
            reasons: BTreeMap::new(),
            stages: BTreeMap::new(),
            proofs: BTreeMap::new(),
            pauses: BTreeMap::new(),
        }
    }

    fn say(&self, text: &str) {
        match &self.live {
            _ if self.quiet => {}
            // A line that cannot be drawn is not worth failing for.
            Some(live) => drop(live.println(print::harmless(text))),
            None => print::line(text),
        }
    }

    fn show(&mut self, detail: &DeploymentDetail) {
        let deployment = &detail.deployment;
        let known = self.statuses.get(&deployment.id).cloned();
        if known.is_none() {
            let kind = kind(deployment);
            let release = format!("{}:{}", deployment.release.application, deployment.release.version);
            let (targets, environment) = (deployment.counts.total, &deployment.environment.name);
            let plural = if targets == 1 { "" } else { "s" };
            self.say(&format!(
                "{kind} {}: {release} to {environment}, {targets} target{plural}",
                deployment.id
            ));
            for line in left(&detail.left_out, NAMED_MAX) {
                self.say(&format!("! {line}"));
            }
        }
        self.show_stage(deployment);
        self.show_proof(detail);
        self.show_total(detail);
        for target in &detail.targets {
            self.show_target(deployment, target);
        }
        let paused = deployment.paused.as_ref().map(|hold| because(Some(hold)));
        if let Some(why) = paused.as_ref().filter(|why| self.pauses.get(&deployment.id) != Some(*why)) {
            self.say(&format!("! paused{why}; {}", way_on(deployment)));
        }
        if paused.is_none() && self.pauses.contains_key(&deployment.id) && !deployment.is_final {
            self.say("• resumed");
        }
        match paused {
            Some(why) => drop(self.pauses.insert(deployment.id.clone(), why)),
            None => drop(self.pauses.remove(&deployment.id)),
        }
        if known.as_ref() != Some(&deployment.status) {
            if deployment.is_final || deployment.status == "halting" || deployment.status == "cancelling" {
                let reason = print::because(self.reason(detail).as_deref());
                let (sign, status) = (sign(&deployment.status), &deployment.status);
                self.say(&format!("{sign} {status}{}{reason}", exceptions(deployment)));
            }
            self.statuses.insert(deployment.id.clone(), deployment.status.clone());
        }
    }

    /// Why a deployment is what it is, without what was said of it or of its targets already.
    fn reason(&mut self, detail: &DeploymentDetail) -> Option<String> {
        let reason = detail.deployment.reason.clone()?;
        let before = self.reasons.insert(detail.deployment.id.clone(), reason.clone());
        let of_targets = detail.targets.iter().filter_map(|target| target.reason.as_deref());
        Some(not_twice(&reason, before.as_deref().into_iter().chain(of_targets)))
    }

    /// Says that hosts are asked whether they could go back: where that is required, nothing else happens meanwhile.
    fn show_proof(&mut self, detail: &DeploymentDetail) {
        let deployment = &detail.deployment;
        let Some(way_back) = deployment.way_back.as_ref().filter(|it| it.open > 0) else { return };
        let before = self.proofs.insert(deployment.id.clone(), way_back.asked);
        if before == Some(way_back.asked) {
            return;
        }
        // At first all of them, of which some may have answered already.
        let asked = match before {
            None => detail.targets.iter().filter(|target| target.way_back.is_some()).count(),
            Some(_) => usize::try_from(way_back.open).unwrap_or(usize::MAX),
        };
        let plural = if asked == 1 { "" } else { "s" };
        self.say(&format!("• asks {asked} host{plural} whether they could go back"));
    }

    /// Says that a blue-green deployment has come to its next stage.
    fn show_stage(&mut self, deployment: &Deployment) {
        let Some(stage) = &deployment.stage else { return };
        if self.stages.get(&deployment.id) == Some(stage) {
            return;
        }
        let has_groups = matches!(&deployment.strategy, Strategy::BlueGreen(how) if how.groups.is_some());
        self.say(match stage.as_str() {
            "prepare" if has_groups => "• prepares the group that has no traffic",
            "prepare" => "• prepares the colour that is not live on all targets",
            "check" => "• checks what was prepared once more",
            _ => "• switches",
        });
        self.stages.insert(deployment.id.clone(), stage.clone());
    }

    fn show_target(&mut self, deployment: &Deployment, target: &DeploymentTarget) {
        let key = (deployment.id.clone(), target.target.id.clone());
        let text = describe(target, kind(deployment));
        if self.shown.get(&key) == Some(&text) && !self.has_room_now(&key, target) {
            return;
        }
        match &self.live {
            _ if self.quiet => {}
            None if target.progress == "waiting" => {}
            None => print::line(&line_of(target, &text)),
            Some(_)
                if target.progress == "active"
                    && !self.bars.contains_key(&key)
                    && self.bars.len() >= BARS_MAX => {}
            Some(live) if target.progress == "active" => {
                let total = self.totals.get(&deployment.id);
                let bar = self.bars.entry(key.clone()).or_insert_with(|| match total {
                    Some(total) => live.insert_before(total, bar()),
                    None => live.add(bar()),
                });
                draw(bar, target, &text);
            }
            Some(live) => {
                if let Some(bar) = self.bars.remove(&key) {
                    bar.finish_and_clear();
                    live.remove(&bar);
                }
                if target.progress != "waiting" {
                    self.say(&line_of(target, &text));
                }
            }
        }
        self.shown.insert(key, text);
    }

    /// Whether a target has to be drawn although nothing of it has changed: it is worked on, and another one has made room for it.
    fn has_room_now(&self, key: &(String, String), target: &DeploymentTarget) -> bool {
        self.live.is_some()
            && target.progress == "active"
            && !self.bars.contains_key(key)
            && self.bars.len() < BARS_MAX
    }

    /// The line below the bars, which counts all targets.
    fn show_total(&mut self, detail: &DeploymentDetail) {
        let Some(live) = self.live.as_ref().filter(|_| detail.targets.len() > 1) else { return };
        let id = &detail.deployment.id;
        if detail.deployment.is_final {
            if let Some(total) = self.totals.remove(id) {
                total.finish_and_clear();
                live.remove(&total);
            }
            return;
        }
        let total = self.totals.entry(id.clone()).or_insert_with(|| live.add(bar()));
        let (ended, text) = total_of(&detail.targets);
        total.set_length(u64::try_from(detail.targets.len()).unwrap_or(u64::MAX));
        total.set_position(ended);
        total.set_prefix(format!("{ended} of {}", detail.targets.len()));
        total.set_message(text);
    }
}

/// A deployment's reason without what the line of a target has said already, if that is long.
fn not_twice<'a>(reason: &str, mut said: impl Iterator<Item = &'a str>) -> String {
    let said = said.find(|said| said.len() >= REPEATED_BYTES_MAX && reason.contains(said));
    said.map_or_else(|| reason.to_owned(), |said| reason.replace(said, "see above"))
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("  {prefix:<22} [{bar:20}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn draw(bar: &ProgressBar, target: &DeploymentTarget, text: &str) {
    if let Some(step) = &target.step {
        bar.set_length(u64::from(step.of));
        bar.set_position(u64::from(step.number.saturating_sub(1)));
    }
    bar.set_prefix(format!("{} {}", sign(&target.progress), print::one_line(&target.target.name)));
    bar.set_message(print::one_line(text));
}

/// A target on a line of its own.
fn line_of(target: &DeploymentTarget, text: &str) -> String {
    format!("  {} {:<20} {text}", sign(&target.progress), target.target.name)
}

/// How many targets have come to their end, and how it stands with all of them.
fn total_of(targets: &[DeploymentTarget]) -> (u64, String) {
    let count = |states: &[&str]| targets.iter().filter(|it| states.contains(&it.progress.as_str())).count();
    let (failed, active, ready) = (count(&["failed"]), count(&["active"]), count(&["ready"]));
    let ended = targets.len() - active - ready - count(&["waiting"]);
    let parts = [(failed, "failed"), (active, "at work"), (ready, "prepared")];
    let parts = parts.into_iter().filter(|(many, _)| *many > 0);
    let text: Vec<String> = parts.map(|(many, what)| format!("{many} {what}")).collect();
    (u64::try_from(ended).unwrap_or(u64::MAX), text.join(", "))
}

fn describe(target: &DeploymentTarget, kind: &str) -> String {
    let colour = target.colour.as_ref().map(|colour| format!(" ({colour})")).unwrap_or_default();
    let reason = print::because(target.reason.as_deref());
    match (&target.step, target.progress.as_str()) {
        (Some(step), "active") => format!("{} ({}/{}){reason}", step.name, step.number, step.of),
        (_, "succeeded") if kind == "job" => "done".to_owned(),
        (_, "succeeded") if kind == "retirement" => format!("has ended {}{colour}", target.release.version),
        (_, "succeeded") if target.part.as_deref() == Some("switch") => {
            let group = target.colour.as_deref().unwrap_or("-");
            format!("now leads to {group}: {}", target.release.version)
        }
        (_, "succeeded") => format!("now has {}{colour}", target.release.version),
        (_, "ready") => format!("has prepared {}{colour}", target.release.version),
        (_, progress) => format!("{progress}{reason}"),
    }
}

/// What a deployment is for.
pub(crate) const fn kind(deployment: &Deployment) -> &'static str {
    match (&deployment.rollback_of, &deployment.retirement_of, &deployment.job) {
        (Some(_), ..) => "rollback",
        (None, Some(_), _) => "retirement",
        (None, None, Some(_)) => "job",
        (None, None, None) => "deployment",
    }
}

/// What a success leaves behind.
pub(crate) fn exceptions(deployment: &Deployment) -> String {
    match deployment.counts.failed {
        failed if failed == 0 || deployment.status != "succeeded" => String::new(),
        1 => ", but for 1 target that failed".to_owned(),
        failed => format!(", but for {failed} targets that failed"),
    }
}

/// A sign that says the same as the colour would.
fn sign(state: &str) -> &'static str {
    match state {
        "succeeded" => "✓",
        "failed" => "✗",
        "active" | "running" | "ready" => "•",
        "halting" | "cancelling" => "!",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_there_is_to_read_the_longer_are_the_pauses() {
        assert_eq!([0, 1, 500].map(pause), [INTERVAL; 3]);
        assert_eq!(pause(2_001), INTERVAL * 5);
        assert_eq!([10_000, usize::MAX].map(pause), [PAUSE_MAX; 2]);
    }

    #[test]
    fn a_long_reason_is_said_once() {
        let long = "the host refuses it ".repeat(10);
        let of = |said: &str| not_twice(&format!("web-1, step install: {long}"), [said].into_iter());
        assert_eq!(of(&long), "web-1, step install: see above");
        assert!(of("the host refuses it").ends_with(&long), "a short one may be said twice");
        assert!(of(&"another one ".repeat(10)).ends_with(&long));
    }
}
