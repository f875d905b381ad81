//! What the operations overview fixes, as data. Nothing here is adapted to the product: what differs is in
//! [`differences`](crate::differences).

/// A metric: its name, its type, its description, its labels.
pub(crate) type Metric = (&'static str, &'static str, &'static str, &'static [&'static str]);

pub(crate) const METRICS: [Metric; 17] = [
    ("stella_releases_total", "counter", "Total releases created", &["tenant", "status"]),
    ("stella_promotions_total", "counter", "Total promotions", &["tenant", "env", "status"]),
    ("stella_deployments_total", "counter", "Total deployments", &["tenant", "env", "strategy"]),
    (
        "stella_deployment_duration_seconds",
        "histogram",
        "Deployment duration",
        &["tenant", "env", "strategy"],
    ),
    ("stella_rollbacks_total", "counter", "Total rollbacks", &["tenant", "env", "reason"]),
    ("stella_agents_connected", "gauge", "Connected agents", &["tenant"]),
    ("stella_targets_total", "gauge", "Total targets", &["tenant", "env", "type"]),
    ("stella_workflow_runs_total", "counter", "Workflow executions", &["tenant", "template", "status"]),
    ("stella_workflow_step_duration_seconds", "histogram", "Step execution time", &["step_type"]),
    ("stella_approval_pending_count", "gauge", "Pending approvals", &["tenant", "env"]),
    ("stella_approval_duration_seconds", "histogram", "Time to approve", &["tenant", "env"]),
    ("stella_http_requests_total", "counter", "HTTP requests", &["method", "path", "status"]),
    ("stella_http_request_duration_seconds", "histogram", "Request latency", &["method", "path"]),
    ("stella_http_requests_in_flight", "gauge", "Active requests", &["method"]),
    ("stella_agent_tasks_total", "counter", "Tasks executed", &["agent", "type", "status"]),
    ("stella_agent_task_duration_seconds", "histogram", "Task duration", &["agent", "type"]),
    ("stella_agent_heartbeat_age_seconds", "gauge", "Since last heartbeat", &["agent"]),
];

/// A line of the log.
pub(crate) const LOG_LINE: &str = r#"{
  "timestamp": "2026-01-09T10:30:00.123Z",
  "level": "info",
  "message": "Deployment started",
  "service": "deploy-orchestrator",
  "version": "1.0.0",
  "traceId": "abc123def456",
  "spanId": "789ghi",
  "tenantId": "tenant-uuid",
  "correlationId": "corr-uuid",
  "context": {
    "deploymentJobId": "job-uuid",
    "releaseId": "release-uuid",
    "environmentId": "env-uuid"
  }
}"#;

/// The event that the line above is about.
pub(crate) const LOG_LINE_EVENT: &str = "deployment.started";

pub(crate) const LOG_LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Log events and their levels.
pub(crate) const LOG_EVENTS: [(&str, &str); 9] = [
    ("deployment.started", "info"),
    ("deployment.completed", "info"),
    ("deployment.failed", "error"),
    ("rollback.initiated", "warn"),
    ("approval.granted", "info"),
    ("approval.denied", "info"),
    ("agent.connected", "info"),
    ("agent.disconnected", "warn"),
    ("security.gate.failed", "warn"),
];

/// Key spans: names and attributes.
pub(crate) const SPANS: [(&str, &[&str]); 7] = [
    ("deployment.execute", &["release_id", "environment"]),
    ("task.dispatch", &["target_id", "agent_id"]),
    ("agent.execute", &["task_type", "duration"]),
    ("workflow.run", &["template_id", "status"]),
    ("workflow.step", &["step_type", "node_id"]),
    ("approval.wait", &["promotion_id", "duration"]),
    ("gate.evaluate", &["gate_type", "result"]),
];

/// The alerts, as Prometheus reads them.
pub(crate) const RULES: &str = r#"groups:
  - name: stella.deployment
    rules:
      - alert: DeploymentFailureRateHigh
        expr: |
          sum(rate(stella_deployments_total{status="failed"}[5m])) /
          sum(rate(stella_deployments_total[5m])) > 0.1
        for: 5m
        labels:
          severity: critical
        annotations:
          summary: "High deployment failure rate"
          description: "More than 10% of deployments are failing"

      - alert: DeploymentDurationHigh
        expr: |
          histogram_quantile(0.95, sum(rate(stella_deployment_duration_seconds_bucket[5m])) by (le, tenant)) > 600
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: "Deployment duration high"
          description: "P95 deployment duration exceeds 10 minutes"

      - alert: RollbackRateHigh
        expr: |
          sum(rate(stella_rollbacks_total[1h])) > 3
        for: 5m
        labels:
          severity: warning
        annotations:
          summary: "High rollback rate"
          description: "More than 3 rollbacks in the last hour"

  - name: stella.agents
    rules:
      - alert: AgentOffline
        expr: |
          stella_agent_heartbeat_age_seconds > 120
        for: 2m
        labels:
          severity: critical
        annotations:
          summary: "Agent offline"
          description: "Agent {{ $labels.agent }} has not sent heartbeat for 2 minutes"

      - alert: AgentPoolLow
        expr: |
          count(stella_agents_connected{status="online"}) by (tenant) < 2
        for: 5m
        labels:
          severity: warning
        annotations:
          summary: "Low agent count"
          description: "Fewer than 2 agents online for tenant {{ $labels.tenant }}"

  - name: stella.approvals
    rules:
      - alert: ApprovalBacklogHigh
        expr: |
          stella_approval_pending_count > 10
        for: 1h
        labels:
          severity: warning
        annotations:
          summary: "Approval backlog growing"
          description: "More than 10 pending approvals for over an hour"

      - alert: ApprovalWaitLong
        expr: |
          histogram_quantile(0.90, stella_approval_duration_seconds_bucket) > 86400
        for: 1h
        labels:
          severity: info
        annotations:
          summary: "Long approval wait times"
          description: "P90 approval wait time exceeds 24 hours"
"#;

/// The panels of each dashboard, which is named by its file. One of these panels may be several of ours, with its name in front.
pub(crate) const PANELS: [(&str, &[&str]); 3] = [
    (
        "deployment",
        &[
            "Deployment rate over time",
            "Success/failure ratio",
            "Average deployment duration",
            "Deployment duration histogram",
            "Active deployments by environment",
            "Recent deployment list",
        ],
    ),
    (
        "agent-health",
        &[
            "Connected agents count",
            "Agent heartbeat status",
            "Tasks per agent",
            "Task success rate by agent",
            "Agent resource utilization",
        ],
    ),
    (
        "approval",
        &[
            "Pending approvals count",
            "Approval response time",
            "Approvals by user",
            "Rejection reasons breakdown",
        ],
    ),
];

/// What `GET /health` answers.
pub(crate) const HEALTH: &str = r#"{
  "status": "healthy",
  "version": "1.0.0",
  "uptime": 86400,
  "checks": {
    "database": { "status": "healthy", "latency": 5 },
    "redis": { "status": "healthy", "latency": 2 },
    "vault": { "status": "healthy", "latency": 10 }
  }
}"#;

/// What is asked whether it is ready, and whether it lives.
pub(crate) const PROBES: [&str; 2] = ["/health/ready", "/health/live"];
