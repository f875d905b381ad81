//! Which role each operation takes, for the document: who decides is the core, command by command, and a test compares the two.

use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;

/// The field of an operation that says it.
const FIELD: &str = "x-role";

/// Roles, each with the operations that take it. Whoever has a higher one has it too, but for `approver`.
const OPERATIONS: [(&str, &[&str]); 8] = [
    ("none", &["deliver", "health", "ready", "live", "document"]),
    ("any", &["whoami", "tenants", "tokens", "create_token", "revoke_token", "system", "agents_to_scrape"]),
    (
        "viewer",
        &[
            "tenant",
            "environments",
            "environment",
            "targets",
            "target",
            "agents",
            "agent",
            "enrolment_tokens",
            "channels",
            "deployments",
            "deployment",
            "tasks",
            "task",
            "task_output",
            "events",
            "journal",
            "gates",
            "findings",
            "hooks",
            "hook",
            "promotions",
            "promotion",
            "promotion_plan",
            "promotion_plan_proof",
            "promotion_plan_tasks",
            "artifact",
            "releases",
            "release",
            "release_keys",
            "workflows",
            "workflow",
            "runs",
            "run",
        ],
    ),
    (
        "deployer",
        &[
            "upload",
            "create_release",
            "sign_release",
            "record_findings",
            "deploy",
            "plan",
            "plan_tasks",
            "rollback",
            "rollback_plan",
            "retire",
            "retry",
            "cancel",
            "fail",
            "prove",
            "retry_target",
            "skip_target",
            "pause",
            "resume",
            "withdraw",
            "start",
            "plan_run",
            "cancel_run",
            "retry_step",
            "answer_step",
        ],
    ),
    ("approver", &["approve", "reject", "decide_gate", "decide_step"]),
    (
        "operator",
        &[
            "create_target",
            "update_target",
            "remove_target",
            "lock_environment",
            "unlock_environment",
            "settle",
            "create_enrolment_token",
            "revoke_enrolment_token",
            "revoke_agent",
            "drain_agent",
            "undrain_agent",
            "judge_release",
            "waive",
            "apply",
            "remove",
        ],
    ),
    (
        "admin",
        &[
            "create_environment",
            "update_environment",
            "remove_environment",
            "set_path",
            "set_budget",
            "set_way_back",
            "set_way_back_proof",
            "set_strategy",
            "set_verification",
            "set_silence",
            "set_channels",
            "set_approvals",
            "freeze_environment",
            "unfreeze_environment",
            "set_gate",
            "remove_gate",
            "override_gate",
            "set_channel",
            "remove_channel",
            "add_release_key",
            "revoke_release_key",
            "set_signing",
            "create_hook",
            "rotate_hook",
            "remove_hook",
        ],
    ),
    (
        "admin of the installation",
        &[
            "accounts",
            "create_account",
            "account",
            "set_roles",
            "remove_account",
            "create_tenant",
            "system_events",
            "system_journal",
            "log_level",
            "set_log_level",
        ],
    ),
];

/// Notes at each operation which role it takes.
pub(crate) fn note(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head];
        for operation in operations.into_iter().flatten() {
            if let Some(role) = of(operation) {
                operation.extensions.get_or_insert_default().insert(FIELD.to_owned(), role.into());
            }
        }
    }
}

fn of(operation: &Operation) -> Option<&'static str> {
    let id = operation.operation_id.as_deref()?;
    OPERATIONS.iter().find(|(_, ids)| ids.contains(&id)).map(|(role, _)| *role)
}
