//! What differs from the overview on purpose, and why. A difference that is not here fails the test; so does one that is here and no
//! longer so.

const UNIQUE_IN_TENANT: &str = "names of agents are unique within a tenant only";
const ONLY_PROBED: &str = "neither can be configured: a check that was not made is not called healthy";

pub(crate) const ON_PURPOSE: [(&str, &str); 17] = [
    ("more labels of stella_deployments_total: status", "the alert on failures selects by it"),
    ("more labels of stella_agent_tasks_total: tenant", UNIQUE_IN_TENANT),
    ("more labels of stella_agent_task_duration_seconds: tenant", UNIQUE_IN_TENANT),
    ("more labels of stella_agent_heartbeat_age_seconds: tenant", UNIQUE_IN_TENANT),
    ("log service", "the program's name"),
    (
        "alert DeploymentFailureRateHigh: query",
        "a deployment is counted at its end: 5 minutes mostly hold none",
    ),
    (
        "alert DeploymentDurationHigh: query",
        "a deployment of 20 minutes has left 5 minutes before the alert may fire",
    ),
    ("alert RollbackRateHigh: query", "rate is per second"),
    ("alert AgentPoolLow: query", "count counts series, and the metric has no status"),
    ("alert ApprovalWaitLong: query", "histogram_quantile needs a rate, and buckets that are summed by le"),
    ("health checks.redis.status", ONLY_PROBED),
    ("health checks.redis.latency", ONLY_PROBED),
    ("health checks.vault.status", ONLY_PROBED),
    ("health checks.vault.latency", ONLY_PROBED),
    ("health version", "its own"),
    ("health uptime", "its own"),
    ("health checks.database.latency", "its own"),
];
