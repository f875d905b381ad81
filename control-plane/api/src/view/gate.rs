//! Gates, what they say, and what scanners have found.

use std::collections::BTreeMap;

use stella_api_types::gate as dto;
use stella_domain::decide::Preview;
use stella_domain::findings::{Report, Severity};
use stella_domain::gate::{Allowed, Check, Comparison, Record, Security, Standing};
use stella_domain::name::Name;
use stella_domain::promotion::Promotion;
use stella_domain::tenant::TenantState;
use stella_protocol::time::Timestamp;

use super::event::actor;
use super::{hold, signing, time};

/// A gate of an environment.
pub(crate) fn gate(tenant: &TenantState, standing: &Standing) -> dto::Gate {
    dto::Gate {
        name: standing.gate.name.to_string(),
        check: check(tenant, &standing.gate.check),
        ttl_seconds: standing.gate.ttl_ms / 1_000,
        verifies: standing.gate.verifies,
        policy: standing.policy.to_string(),
    }
}

fn check(tenant: &TenantState, check: &Check) -> dto::Check {
    match check {
        Check::Security(Security { limits, allowed, scanners, max_age_ms, reporters }) => {
            dto::Check::Security {
                limits: limits.iter().map(|(severity, limit)| (severity.name().to_owned(), *limit)).collect(),
                allowed: allowed.iter().map(self::allowed).collect(),
                scanners: scanners.iter().map(Name::to_string).collect(),
                max_age_seconds: max_age_ms.map(|ms| ms / 1_000),
                reporters: reporters.iter().map(|by| by.name.to_string()).collect(),
            }
        }
        Check::Metric { source, query, comparison, threshold } => dto::Check::Metric {
            source: source.to_string(),
            query: query.clone(),
            comparison: self::comparison(*comparison),
            // It is finite.
            threshold: serde_json::Number::from_f64((*threshold).into()).unwrap_or_else(|| 0.into()),
        },
        Check::Expression { expression } => dto::Check::Expression { expression: expression.clone() },
        Check::Http { endpoint } => dto::Check::Http { endpoint: endpoint.to_string() },
        Check::Manual => dto::Check::Manual {},
        Check::Signature(rule) => {
            dto::Check::Signature { needed: rule.needed, keys: signing::names(tenant, rule) }
        }
    }
}

fn allowed(allowed: &Allowed) -> dto::AllowedFinding {
    dto::AllowedFinding {
        id: allowed.id.clone(),
        until: allowed.until.map(time),
        reason: allowed.reason.clone(),
    }
}

const fn comparison(comparison: Comparison) -> dto::Comparison {
    match comparison {
        Comparison::Below => dto::Comparison::Below,
        Comparison::AtMost => dto::Comparison::AtMost,
        Comparison::Above => dto::Comparison::Above,
        Comparison::AtLeast => dto::Comparison::AtLeast,
    }
}

/// What the gates say about a promotion: those of its environment, and those that were decided and are gone since.
pub(super) fn states(
    tenant: &TenantState,
    promotion: &Promotion,
    records: Option<&BTreeMap<Name, Record>>,
    now: Timestamp,
) -> Vec<dto::GateState> {
    let standings = tenant.environments.get(&promotion.wanted.environment).map(|it| &it.gates);
    let mut states: BTreeMap<&Name, (Option<&Standing>, Option<&Record>)> = BTreeMap::new();
    for (name, record) in records.into_iter().flatten() {
        states.insert(name, (None, Some(record)));
    }
    // What has ended is shown as it was, and not beside gates that came later.
    let is_live = promotion.is_open()
        || tenant.deployments.get(&promotion.wanted.id).is_some_and(|it| !it.status.is_final());
    for (name, standing) in
        standings.into_iter().flatten().filter(|(name, _)| is_live || states_has(records, name))
    {
        states.entry(name).or_default().0 = Some(standing);
    }
    states.into_iter().map(|(name, (standing, record))| state(name, standing, record, now)).collect()
}

fn states_has(records: Option<&BTreeMap<Name, Record>>, name: &Name) -> bool {
    records.is_some_and(|records| records.contains_key(name))
}

fn state(
    name: &Name,
    standing: Option<&Standing>,
    record: Option<&Record>,
    now: Timestamp,
) -> dto::GateState {
    let unknown = Record::default();
    let record = record.unwrap_or(&unknown);
    let verdict = record.verdict.as_ref();
    let is_current = |policy| standing.is_none_or(|it| it.policy == policy);
    let status = match (&record.overridden, verdict) {
        (Some(it), _) if is_current(it.policy) => "overridden",
        (_, Some(it)) if !is_current(it.policy) || it.expires_at.is_some_and(|end| end <= now) => "outdated",
        (_, Some(it)) => it.outcome.name(),
        (_, None) => "pending",
    };
    dto::GateState {
        gate: name.to_string(),
        kind: standing.map(|it| it.gate.check.name().to_owned()),
        status: status.to_owned(),
        reason: verdict.map(|it| it.reason.clone()),
        inputs: verdict.and_then(|it| it.inputs).map(|it| it.to_string()),
        policy: verdict.map(|it| it.policy.to_string()),
        evaluated_at: verdict.map(|it| time(it.at)),
        by: verdict.map(|it| actor(&it.by)),
        expires_at: verdict.and_then(|it| it.expires_at).map(time),
        asked_at: record.asked.map(|it| time(it.at)),
        again_at: record.again_at.map(time),
        verifies: standing.is_some_and(|it| it.gate.verifies),
        evaluations: record.evaluations,
        overridden: record.overridden.as_ref().map(|it| hold(&it.hold)),
    }
}

/// What a gate would say.
pub(super) fn planned(preview: &Preview) -> dto::PlannedGate {
    let (status, reason) = match &preview.says {
        None => ("pending", None),
        Some((outcome, reason)) => (outcome.name(), Some(reason.clone())),
    };
    dto::PlannedGate {
        gate: preview.gate.to_string(),
        kind: preview.kind.to_owned(),
        status: status.to_owned(),
        verifies: preview.verifies,
        reason,
    }
}

/// The newest report of a scanner.
pub(crate) fn scan_report(scanner: &Name, report: &Report) -> dto::ScanReport {
    let count = |severity: Severity| {
        let count = report.findings.iter().filter(|it| it.severity == severity).count();
        (severity.name().to_owned(), u32::try_from(count).unwrap_or(u32::MAX))
    };
    dto::ScanReport {
        scanner: scanner.to_string(),
        document: report.digest.to_string(),
        at: time(report.at),
        by: actor(&report.by),
        counts: Severity::ALL.into_iter().map(count).collect(),
        findings: report
            .findings
            .iter()
            .map(|it| dto::Finding {
                severity: it.severity.name().to_owned(),
                id: it.id.clone(),
                component: it.component.clone(),
            })
            .collect(),
    }
}
