//! Gates, what people say about them, and what scanners have found.

use clap::ValueEnum as _;
use stella_api_types::environment::Environment;
use stella_api_types::gate::{
    AllowedFinding, Check, Comparison, DecideGate, Gate as Dto, GateState, PlannedGate, ScanReport,
    SetGate as Body,
};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;
use stella_api_types::promotion::Promotion;

use crate::args::{Findings, Gate, Place, SetGate, Severity, Word};
use crate::client::{self, Error};
use crate::{Context, print, promotion, when};

pub(crate) async fn gate(context: &Context, command: Gate) -> Result<(), Error> {
    match command {
        Gate::Set(set) => {
            let (place, check) = wanted(set)?;
            self::set(context, place, check).await
        }
        Gate::List { environment } => {
            let path = context.path(paths::ENVIRONMENT_GATES, &[&environment])?;
            let gates: Vec<Dto> = context.client.list(&path, &[]).await?;
            print::list(context.output, &gates, &["GATE", "TYPE", "LETS THROUGH IF", "HOLDS"], |it| {
                let (kind, text) = described(&it.check);
                let holds = match it.check {
                    // A person's word holds until it is taken back.
                    Check::Manual {} => "-".to_owned(),
                    Check::Security { .. }
                    | Check::Metric { .. }
                    | Check::Expression { .. }
                    | Check::Http { .. }
                    | Check::Signature { .. } => when::length(it.ttl_seconds),
                };
                let text = if it.verifies { format!("{text}, once the release has come") } else { text };
                vec![it.name.clone(), kind.to_owned(), text, holds]
            })
        }
        Gate::Remove { environment, gate } => {
            let waiting = waiting(context, &environment).await;
            context.client.delete(&context.path(paths::ENVIRONMENT_GATE, &[&environment, &gate])?).await?;
            let void = void(context, &environment, waiting).await;
            let removed = serde_json::json!({ "removed": gate, "void_promotions": void });
            print::result(context.output, &removed, |_| format!("gate {gate} removed{}", told(&void)))
        }
        Gate::Pass { word } => decide(context, word, true).await,
        Gate::Fail { word } => decide(context, word, false).await,
        Gate::Override { word: Word { promotion, gate, reason } } => {
            let path = context.path(paths::PROMOTION_GATE_OVERRIDE, &[&promotion, &gate])?;
            let now: Promotion = context.client.post(&path, &HoldBack { reason }, None).await?;
            shown(context, &now)
        }
    }
}

async fn decide(context: &Context, word: Word, passed: bool) -> Result<(), Error> {
    let Word { promotion, gate, reason } = word;
    let path = context.path(paths::PROMOTION_GATE_DECISION, &[&promotion, &gate])?;
    let now: Promotion = context.client.post(&path, &DecideGate { passed, reason }, None).await?;
    shown(context, &now)
}

fn shown(context: &Context, now: &Promotion) -> Result<(), Error> {
    print::result(context.output, now, |it| match it.status.as_str() {
        "pending" | "approved" => promotion::waits(it),
        "started" => {
            format!("promotion {0} has started; follow it with: stella deployment watch {0}", it.id)
        }
        ended => format!("promotion {} is {ended}", it.id),
    })
}

async fn set(context: &Context, place: Place, check: Check) -> Result<(), Error> {
    let Place { environment, gate: name, ttl: ttl_seconds, verifies } = place;
    let path = context.path(paths::ENVIRONMENT_GATES, &[&environment])?;
    let body = Body { name, check, ttl_seconds, verifies };
    let waiting = waiting(context, &environment).await;
    let set: Environment = context.client.post(&path, &body, None).await?;
    let void = void(context, &environment, waiting).await;
    print::result(context.output, &set, |it| {
        let (_, text) = described(&body.check);
        format!("environment {} takes releases through gate {}: {text}{}", it.name, body.name, told(&void))
    })
}

/// The promotions to an environment that have not begun, by their ids. None if they cannot be read: nothing hangs on it.
async fn waiting(context: &Context, environment: &str) -> Vec<String> {
    let Ok(path) = context.path(paths::PROMOTIONS, &[]) else { return Vec::new() };
    let mut found = Vec::new();
    for status in ["pending", "approved"] {
        let query = [("environment", environment), ("status", status)];
        let page: Vec<Promotion> = context.client.list(&path, &query).await.unwrap_or_default();
        found.extend(page.into_iter().map(|it| it.id));
    }
    found
}

/// Which of the promotions that waited before a change are void since.
async fn void(context: &Context, environment: &str, mut waited: Vec<String>) -> Vec<String> {
    if !waited.is_empty() {
        let waits = waiting(context, environment).await;
        waited.retain(|id| !waits.contains(id));
    }
    let mut void = Vec::new();
    for id in waited {
        let Ok(path) = context.path(paths::PROMOTION, &[&id]) else { continue };
        let now = context.client.get::<Promotion>(&path).await;
        if now.is_ok_and(|it| it.status == "invalidated") {
            void.push(id);
        }
    }
    void
}

/// How many promotions became void, and what to do about it.
fn told(void: &[String]) -> String {
    match void {
        [] => String::new(),
        [id] => format!("; promotion {id} waited and is void now: deploy again"),
        ids => {
            format!("; {} promotions waited and are void now: deploy again: {}", ids.len(), ids.join(", "))
        }
    }
}

fn wanted(set: SetGate) -> Result<(Place, Check), Error> {
    Ok(match set {
        SetGate::Security { place, limits, allowed, allow_until, scanners, max_age, reporters } => {
            let allowed = allowed.into_iter();
            let allowed =
                allowed.map(|(id, reason)| AllowedFinding { id, until: allow_until.clone(), reason });
            let (limits, allowed) = (limits.into_iter().collect(), allowed.collect());
            (place, Check::Security { limits, allowed, scanners, max_age_seconds: max_age, reporters })
        }
        SetGate::Metric { place, source, query, below, at_most, above, at_least } => {
            let wanted = [
                (Comparison::Below, below),
                (Comparison::AtMost, at_most),
                (Comparison::Above, above),
                (Comparison::AtLeast, at_least),
            ];
            let wanted = wanted.into_iter().find_map(|(comparison, number)| Some((comparison, number?)));
            let number = wanted.and_then(|(it, number)| Some((it, serde_json::Number::from_f64(number)?)));
            let (comparison, threshold) = number
                .ok_or_else(|| Error::Usage("what samples compare with must be a finite number".into()))?;
            (place, Check::Metric { source, query, comparison, threshold })
        }
        SetGate::Expression { place, expression } => (place, Check::Expression { expression }),
        SetGate::Http { place, endpoint } => (place, Check::Http { endpoint }),
        SetGate::Manual { place } => (place, Check::Manual {}),
        SetGate::Signature { place, needed, keys } => (place, Check::Signature { needed, keys }),
    })
}

/// A check's type, and what it wants.
pub(crate) fn described(check: &Check) -> (&'static str, String) {
    match check {
        Check::Security { limits, allowed, scanners, max_age_seconds, reporters } => {
            let mut parts: Vec<String> =
                limits.iter().map(|(severity, limit)| format!("at most {limit} {severity}")).collect();
            if !allowed.is_empty() {
                let ids: Vec<&str> = allowed.iter().map(|it| it.id.as_str()).collect();
                parts.push(format!("without {}", ids.join(", ")));
            }
            if !scanners.is_empty() {
                parts.push(format!("reported by {}", scanners.join(" and ")));
            }
            if !reporters.is_empty() {
                parts.push(format!("posted by {}", reporters.join(" or ")));
            }
            parts.extend(max_age_seconds.map(|age| format!("not older than {}", when::length(age))));
            ("security", parts.join(", "))
        }
        Check::Metric { source, query, comparison, threshold } => {
            let comparison = match comparison {
                Comparison::Below => "<",
                Comparison::AtMost => "<=",
                Comparison::Above => ">",
                Comparison::AtLeast => ">=",
            };
            ("metric", format!("{query} {comparison} {threshold} (in {source})"))
        }
        Check::Expression { expression } => ("expression", expression.clone()),
        Check::Http { endpoint } => ("http", format!("{endpoint} says so")),
        Check::Manual {} => ("manual", "somebody says so".to_owned()),
        Check::Signature { needed, keys } => {
            let whose = if keys.is_empty() { "registered keys".to_owned() } else { keys.join(", ") };
            ("signature", format!("at least {} by {whose}", print::count((*needed).into(), "signature")))
        }
    }
}

/// What a gate would say, or when it would be asked.
pub(crate) fn planned(it: &PlannedGate) -> String {
    let PlannedGate { gate, kind, status, verifies, reason } = it;
    match (reason, verifies) {
        (Some(reason), false) => format!("gate {gate} {status}: {reason}"),
        (Some(reason), true) => {
            format!(
                "gate {gate} ({kind}) would be looked at once the release has come; now {status}: {reason}"
            )
        }
        (None, false) => format!("gate {gate} ({kind}) would be asked before each wave"),
        (None, true) => format!("gate {gate} ({kind}) would be looked at once the release has come"),
    }
}

/// What gates say about a promotion, one line each.
pub(crate) fn lines(gates: &[GateState]) -> Vec<String> {
    gates.iter().map(line).collect()
}

fn line(it: &GateState) -> String {
    let said = match (&it.overridden, it.status.as_str()) {
        (Some(hold), "overridden") => print::because(Some(&hold.reason)),
        _ => print::because(it.reason.as_deref()),
    };
    let next = match (&it.asked_at, &it.again_at) {
        (Some(since), _) => format!(" (asked {})", when::ago(since)),
        (None, Some(at)) => format!(" (looked at again at {})", when::moment(at)),
        (None, None) => String::new(),
    };
    if it.kind.is_none() {
        return format!("gate {} was {}{said}; the environment has it no more", it.gate, it.status);
    }
    if it.verifies && it.status == "pending" && it.asked_at.is_none() {
        return format!("gate {} is looked at once the release has come", it.gate);
    }
    format!("gate {} {}{said}{}{next}", it.gate, it.status, said_by(it))
}

/// Who has said so, and when, where that was a person.
fn said_by(it: &GateState) -> String {
    let said = match (&it.overridden, it.status.as_str()) {
        (Some(hold), "overridden") => Some((&hold.by, &hold.since)),
        _ => it.by.as_ref().zip(it.evaluated_at.as_ref()),
    };
    let person = said.and_then(|(by, at)| Some((by.account.as_ref()?, at)));
    person.map(|(by, at)| format!(" ({}, {})", print::one_line(by), when::moment(at))).unwrap_or_default()
}

pub(crate) async fn findings(context: &Context, command: Findings) -> Result<(), Error> {
    match command {
        Findings::Record { release, file, scanner } => {
            let document = client::read(&file)?;
            let path = context.path(paths::RELEASE_SCAN, &[&release, &scanner])?;
            let report: ScanReport = context.client.put_json(&path, document).await?;
            print::result(context.output, &report, |it| {
                format!("{scanner} reported on {release}: {}", counts(it))
            })
        }
        Findings::Show { release, from } => {
            let path = context.path(paths::RELEASE_FINDINGS, &[&release])?;
            let reports: Vec<ScanReport> = context.client.list(&path, &[]).await?;
            print::result(context.output, &reports, |reports| {
                if reports.is_empty() {
                    return format!("no scanner has reported on {release}");
                }
                let rows = reports.iter().flat_map(|report| rows(report, from)).collect();
                let heads = reports.iter().map(|it| format!("{} at {}: {}", it.scanner, it.at, counts(it)));
                let heads: Vec<String> = heads.collect();
                let table = print::table(&["SEVERITY", "FINDING", "IN", "SCANNER"], rows);
                format!("{}\n\n{table}", heads.join("\n"))
            })
        }
    }
}

fn rows(report: &ScanReport, from: Severity) -> Vec<Vec<String>> {
    let bad_enough = report.findings.iter().filter(|it| {
        // One that is newer than this program is shown.
        Severity::from_str(&it.severity, true).is_ok_and(|severity| severity >= from)
            || Severity::from_str(&it.severity, true).is_err()
    });
    let row = |it: &stella_api_types::gate::Finding| {
        vec![it.severity.clone(), it.id.clone(), it.component.clone(), report.scanner.clone()]
    };
    bad_enough.map(row).collect()
}

fn counts(report: &ScanReport) -> String {
    let order = ["critical", "high", "medium", "low", "unknown"];
    let counts = order.iter().filter_map(|name| Some(format!("{} {name}", report.counts.get(*name)?)));
    counts.collect::<Vec<_>>().join(", ")
}
