//! Every path of the API, as templates.
//!
//! `{tenant}`, `{environment}`, `{target}` and `{agent}` are names or ids; `{release}` is an id or `application:version`, `{key}` a
//! name or a fingerprint.

/// Bearer tokens of the API.
pub const API_TOKENS: &str = "/api/v1/tokens";
/// One bearer token of the API.
pub const API_TOKEN: &str = "/api/v1/tokens/{token}";
/// Who uses the API.
pub const ACCOUNTS: &str = "/api/v1/accounts";
/// One account: a name or an id.
pub const ACCOUNT: &str = "/api/v1/accounts/{account}";
/// What an account may do.
pub const ACCOUNT_ROLES: &str = "/api/v1/accounts/{account}/roles";
/// Who asks.
pub const WHOAMI: &str = "/api/v1/whoami";
/// Tenants.
pub const TENANTS: &str = "/api/v1/tenants";
/// One tenant.
pub const TENANT: &str = "/api/v1/tenants/{tenant}";
/// Which signatures every release of a tenant must have.
pub const TENANT_SIGNING: &str = "/api/v1/tenants/{tenant}/signing";
/// Environments of a tenant.
pub const ENVIRONMENTS: &str = "/api/v1/tenants/{tenant}/environments";
/// One environment.
pub const ENVIRONMENT: &str = "/api/v1/tenants/{tenant}/environments/{environment}";
/// Changes an environment's name or place.
pub const ENVIRONMENT_UPDATE: &str = "/api/v1/tenants/{tenant}/environments/{environment}/update";
/// What a release must have been through before it may come to an environment.
pub const ENVIRONMENT_PATH: &str = "/api/v1/tenants/{tenant}/environments/{environment}/path";
/// Whose approval a promotion to an environment needs.
pub const ENVIRONMENT_APPROVALS: &str = "/api/v1/tenants/{tenant}/environments/{environment}/approvals";
/// Times in which nothing new comes to an environment.
pub const ENVIRONMENT_FREEZES: &str = "/api/v1/tenants/{tenant}/environments/{environment}/freezes";
/// One of them, by name.
pub const ENVIRONMENT_FREEZE: &str = "/api/v1/tenants/{tenant}/environments/{environment}/freezes/{freeze}";
/// What must be so for a release to come to an environment.
pub const ENVIRONMENT_GATES: &str = "/api/v1/tenants/{tenant}/environments/{environment}/gates";
/// One such gate, by name.
pub const ENVIRONMENT_GATE: &str = "/api/v1/tenants/{tenant}/environments/{environment}/gates/{gate}";
/// How many of an environment's targets may be at risk at once.
pub const ENVIRONMENT_BUDGET: &str = "/api/v1/tenants/{tenant}/environments/{environment}/budget";
/// Whether deployments to an environment must be able to go back.
pub const ENVIRONMENT_WAY_BACK: &str = "/api/v1/tenants/{tenant}/environments/{environment}/way-back";
/// How targets follow one another in deployments that do not say.
pub const ENVIRONMENT_STRATEGY: &str = "/api/v1/tenants/{tenant}/environments/{environment}/strategy";
/// What an environment wants of the proof that a deployment could go back.
pub const ENVIRONMENT_WAY_BACK_PROOF: &str =
    "/api/v1/tenants/{tenant}/environments/{environment}/way-back-proof";
/// What comes after the last wave of a deployment to an environment.
pub const ENVIRONMENT_VERIFICATION: &str = "/api/v1/tenants/{tenant}/environments/{environment}/verification";
/// When silence of an environment's agents is taken for a network event.
pub const ENVIRONMENT_SILENCE: &str = "/api/v1/tenants/{tenant}/environments/{environment}/silence";
/// Lets no deployment come to an environment.
pub const ENVIRONMENT_LOCK: &str = "/api/v1/tenants/{tenant}/environments/{environment}/lock";
/// Lets deployments come to an environment again.
pub const ENVIRONMENT_UNLOCK: &str = "/api/v1/tenants/{tenant}/environments/{environment}/unlock";
/// Targets of a tenant.
pub const TARGETS: &str = "/api/v1/tenants/{tenant}/targets";
/// One target.
pub const TARGET: &str = "/api/v1/tenants/{tenant}/targets/{target}";
/// Changes a target in place.
pub const TARGET_UPDATE: &str = "/api/v1/tenants/{tenant}/targets/{target}/update";
/// Agents of a tenant.
pub const AGENTS: &str = "/api/v1/tenants/{tenant}/agents";
/// One agent.
pub const AGENT: &str = "/api/v1/tenants/{tenant}/agents/{agent}";
/// Revokes an agent.
pub const AGENT_REVOKE: &str = "/api/v1/tenants/{tenant}/agents/{agent}/revoke";
/// Takes an agent's host out of rotation.
pub const AGENT_DRAIN: &str = "/api/v1/tenants/{tenant}/agents/{agent}/drain";
/// Lets work come to it again.
pub const AGENT_UNDRAIN: &str = "/api/v1/tenants/{tenant}/agents/{agent}/undrain";
/// Agents whose own figures can be scraped, for Prometheus' HTTP discovery.
pub const SD_AGENTS: &str = "/api/v1/sd/agents";
/// Enrolment tokens of a tenant.
pub const ENROLMENT_TOKENS: &str = "/api/v1/tenants/{tenant}/enrolment-tokens";
/// Takes an enrolment token back.
pub const ENROLMENT_TOKEN_REVOKE: &str = "/api/v1/tenants/{tenant}/enrolment-tokens/{token}/revoke";
/// One artifact.
pub const ARTIFACT: &str = "/api/v1/tenants/{tenant}/artifacts/{digest}";
/// Releases of a tenant.
pub const RELEASES: &str = "/api/v1/tenants/{tenant}/releases";
/// One release.
pub const RELEASE: &str = "/api/v1/tenants/{tenant}/releases/{release}";
/// Signatures of a release.
pub const RELEASE_SIGNATURES: &str = "/api/v1/tenants/{tenant}/releases/{release}/signatures";
/// Channels of applications.
pub const CHANNELS: &str = "/api/v1/tenants/{tenant}/channels";
/// One channel.
pub const CHANNEL: &str = "/api/v1/tenants/{tenant}/channels/{application}/{channel}";
/// From which channels releases may come to an environment.
pub const ENVIRONMENT_CHANNELS: &str = "/api/v1/tenants/{tenant}/environments/{environment}/channels";
/// Keys that sign releases.
pub const RELEASE_KEYS: &str = "/api/v1/tenants/{tenant}/release-keys";
/// Lets nothing count any more that a key has signed.
pub const RELEASE_KEY_REVOKE: &str = "/api/v1/tenants/{tenant}/release-keys/{key}/revoke";
/// What people think of a release.
pub const RELEASE_STANDING: &str = "/api/v1/tenants/{tenant}/releases/{release}/standing";
/// What scanners have found in a release.
pub const RELEASE_FINDINGS: &str = "/api/v1/tenants/{tenant}/releases/{release}/findings";
/// What one scanner has found in a release.
pub const RELEASE_SCAN: &str = "/api/v1/tenants/{tenant}/releases/{release}/findings/{scanner}";
/// Promotions of a tenant.
pub const PROMOTIONS: &str = "/api/v1/tenants/{tenant}/promotions";
/// One promotion.
pub const PROMOTION: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}";
/// Shows what a promotion that waits would do.
pub const PROMOTION_PLAN: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/plan";
/// One part of that, with the proof that it is in the hash.
pub const PROMOTION_PLAN_PROOF: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/plan/proof";
/// What it would run on one of its targets, and what would take that back.
pub const PROMOTION_PLAN_TASKS: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/plan/tasks";
/// Lets a promotion through.
pub const PROMOTION_APPROVE: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/approve";
/// Does not let a promotion through.
pub const PROMOTION_REJECT: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/reject";
/// Asks for a promotion no more.
pub const PROMOTION_WITHDRAW: &str = "/api/v1/tenants/{tenant}/promotions/{promotion}/withdraw";
/// Says whether a manual gate lets a promotion through.
pub const PROMOTION_GATE_DECISION: &str =
    "/api/v1/tenants/{tenant}/promotions/{promotion}/gates/{gate}/decision";
/// Lets a promotion through a gate whatever that says.
pub const PROMOTION_GATE_OVERRIDE: &str =
    "/api/v1/tenants/{tenant}/promotions/{promotion}/gates/{gate}/override";
/// Deployments of a tenant.
pub const DEPLOYMENTS: &str = "/api/v1/tenants/{tenant}/deployments";
/// Shows what a deployment would do.
pub const DEPLOYMENT_PLANS: &str = "/api/v1/tenants/{tenant}/deployment-plans";
/// What a deployment would run on one of its targets, and what would take that back.
pub const DEPLOYMENT_PLAN_TASKS: &str = "/api/v1/tenants/{tenant}/deployment-plans/tasks";
/// One deployment.
pub const DEPLOYMENT: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}";
/// Asks hosts again whether a deployment could go back.
pub const DEPLOYMENT_PROVE: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/prove";
/// Lets a deployment begin although it is not proven that it could go back.
pub const DEPLOYMENT_WAIVE: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/waive";
/// Takes a deployment back.
pub const DEPLOYMENT_ROLLBACK: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/rollback";
/// Shows what taking a deployment back would do.
pub const DEPLOYMENT_ROLLBACK_PLANS: &str =
    "/api/v1/tenants/{tenant}/deployments/{deployment}/rollback-plans";
/// Ends the colours that a deployment has left idle.
pub const DEPLOYMENT_RETIRE: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/retire";
/// Ends a deployment.
pub const DEPLOYMENT_CANCEL: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/cancel";
/// Starts no further target of a deployment.
pub const DEPLOYMENT_PAUSE: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/pause";
/// Deploys again to the targets that an ended deployment did not bring its release to.
pub const DEPLOYMENT_RETRY: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/retry";
/// Lets a paused deployment go on.
pub const DEPLOYMENT_RESUME: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/resume";
/// Gives a running deployment up.
pub const DEPLOYMENT_FAIL: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/fail";
/// Tries a failed target of a running deployment again.
pub const DEPLOYMENT_TARGET_RETRY: &str =
    "/api/v1/tenants/{tenant}/deployments/{deployment}/targets/{target}/retry";
/// Leaves a target of a running deployment alone.
pub const DEPLOYMENT_TARGET_SKIP: &str =
    "/api/v1/tenants/{tenant}/deployments/{deployment}/targets/{target}/skip";
/// Tasks of a deployment.
pub const DEPLOYMENT_TASKS: &str = "/api/v1/tenants/{tenant}/deployments/{deployment}/tasks";
/// One task.
pub const TASK: &str = "/api/v1/tenants/{tenant}/tasks/{task}";
/// Output of a task.
pub const TASK_OUTPUT: &str = "/api/v1/tenants/{tenant}/tasks/{task}/output";
/// Settles a task that is unknown.
pub const TASK_SETTLE: &str = "/api/v1/tenants/{tenant}/tasks/{task}/settle";
/// Events of a tenant.
pub const EVENTS: &str = "/api/v1/tenants/{tenant}/events";
/// The end of a tenant's journal.
pub const JOURNAL: &str = "/api/v1/tenants/{tenant}/journal";
/// How much the control plane logs.
pub const LOG_LEVEL: &str = "/api/v1/log-level";
/// Events that belong to no tenant: tenants, accounts, tokens.
pub const SYSTEM_EVENTS: &str = "/api/v1/events";
/// Incoming webhooks of a tenant.
pub const HOOKS: &str = "/api/v1/tenants/{tenant}/hooks";
/// One of them: a name or an id.
pub const HOOK: &str = "/api/v1/tenants/{tenant}/hooks/{hook}";
/// Gives its sender another secret.
pub const HOOK_ROTATE: &str = "/api/v1/tenants/{tenant}/hooks/{hook}/rotate";
/// Where messages for a hook go: its id.
pub const HOOK_DELIVERY: &str = "/api/v1/hooks/{hook}";
/// Workflows of a tenant.
pub const WORKFLOWS: &str = "/api/v1/tenants/{tenant}/workflows";
/// One workflow.
pub const WORKFLOW: &str = "/api/v1/tenants/{tenant}/workflows/{workflow}";
/// Lets nobody start a workflow any more.
pub const WORKFLOW_REMOVE: &str = "/api/v1/tenants/{tenant}/workflows/{workflow}/remove";
/// Runs of workflows.
pub const RUNS: &str = "/api/v1/tenants/{tenant}/runs";
/// What a run would do.
pub const RUN_PLANS: &str = "/api/v1/tenants/{tenant}/run-plans";
/// One run.
pub const RUN: &str = "/api/v1/tenants/{tenant}/runs/{run}";
/// Ends a run.
pub const RUN_CANCEL: &str = "/api/v1/tenants/{tenant}/runs/{run}/cancel";
/// Tries a step of a run again.
pub const STEP_RETRY: &str = "/api/v1/tenants/{tenant}/runs/{run}/steps/{step}/retry";
/// Gives a step of a run what it asks for.
pub const STEP_ANSWER: &str = "/api/v1/tenants/{tenant}/runs/{run}/steps/{step}/answer";
/// Agrees to a step of a run, or does not.
pub const STEP_DECIDE: &str = "/api/v1/tenants/{tenant}/runs/{run}/steps/{step}/decide";
/// The end of the journal of what belongs to no tenant.
pub const SYSTEM_JOURNAL: &str = "/api/v1/journal";
/// The installation.
pub const SYSTEM: &str = "/api/v1/system";
/// This description.
pub const OPENAPI: &str = "/api/v1/openapi.json";
/// How the control plane does.
pub const HEALTH: &str = "/health";
/// Whether to send traffic here.
pub const HEALTH_READY: &str = "/health/ready";
/// Whether the process is alive.
pub const HEALTH_LIVE: &str = "/health/live";
/// Metrics, on a listener of its own.
pub const METRICS: &str = "/metrics";

/// Fills a template's `{...}` with `values`, in order, percent-encoded.
///
/// Values that are left over are ignored; a template that wants more than there are keeps its `{...}`.
#[must_use]
pub fn fill(template: &str, values: &[&str]) -> String {
    let mut out = String::with_capacity(template.len() + 64);
    let mut values = values.iter();
    for (at, segment) in template.split('/').enumerate() {
        if at > 0 {
            out.push('/');
        }
        match segment.starts_with('{').then(|| values.next()).flatten() {
            Some(value) => value.bytes().for_each(|byte| encode(byte, &mut out)),
            None => out.push_str(segment),
        }
    }
    out
}

/// Writes one byte of a path segment; what is not unreserved (RFC 3986) or a colon is percent-encoded.
fn encode(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
        out.push(char::from(byte));
    } else {
        out.push('%');
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_in_order_and_encoded() {
        assert_eq!(
            fill(RELEASE, &["acme", "web:1.2.0+b/../x"]),
            "/api/v1/tenants/acme/releases/web:1.2.0%2Bb%2F..%2Fx"
        );
        assert_eq!(fill(SYSTEM, &["acme"]), SYSTEM);
        assert_eq!(fill(TENANT, &[]), TENANT);
    }
}
