//! The table of all keys. A test compares it with the type that they are read into, and the reference page with it.

use stella_settings::Key;

const fn key(name: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Key {
    Key { name, default, unit, about, reloads: false }
}

const fn live(name: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Key {
    Key { name, default, unit, about, reloads: true }
}

/// Every key of the control plane, in the order of the page.
pub(crate) const KEYS: &[Key] = &[
    key(
        "state_dir",
        "`/var/lib/stella-orchestrator`",
        "path",
        "journal, certificates, artifacts, task output, first token, and when agents were last heard",
    ),
    key("api.listen", "`0.0.0.0:8443`", "address, TCP", "HTTPS API and health"),
    live(
        "api.names",
        "[]",
        "DNS names, addresses",
        "in the server's certificate beside the local ones: what clients and agents dial",
    ),
    live(
        "api.certificate",
        "none",
        "path, PEM",
        "a certificate of [somebody else's](reverse-proxies.md#a-certificate-of-your-own) for the API, followed by those of its issuers; without it the API shows one of Stella's own authority",
    ),
    live("api.key", "none", "path, PEM", "its key, without a password"),
    live(
        "api.trusted_proxies",
        "[]",
        "addresses, networks",
        "[proxies](reverse-proxies.md#behind-a-proxy) that are believed whom they ask for, such as `10.0.0.7` or `fd00:1::/64`",
    ),
    live(
        "api.client_address_header",
        "`x-forwarded-for`",
        "`x-forwarded-for`, `forwarded`",
        "the one header in which they say it",
    ),
    live("api.artifact_bytes_max", "2147483648", "bytes, at least 1", "the largest artifact"),
    live(
        "api.tenant_artifact_bytes_max",
        "0",
        "bytes",
        "how much the archives of one tenant may be in all; 0 is as much as there is room for",
    ),
    live(
        "api.tenant_releases_max",
        "100000",
        "number",
        "how many releases one tenant may have: they stay, and all of them are in memory; 0 is any number",
    ),
    live(
        "api.tenant_release_bytes_max",
        "268435456",
        "bytes",
        "how large what the releases of one tenant say may be (their steps and labels, not their archives), with what scanners say of them; twice to three times as much is in memory; 0 is any size",
    ),
    live(
        "api.requests_per_minute",
        "1000",
        "at least 1",
        "for one token, and for one address before it is authenticated",
    ),
    live("api.burst", "100", "at least 1", "how many of them may come at once"),
    live("api.tenant_requests_per_minute", "500", "at least 1", "for one tenant, over all tokens"),
    live("api.hook_requests_per_minute", "100", "at least 1", "messages to one [incoming webhook](hooks.md)"),
    key("metrics.listen", "`0.0.0.0:9090`", "address, TCP", "`/metrics` over HTTPS, without a token"),
    live(
        "metrics.client_ca",
        "none",
        "path, PEM",
        "scrapers have to show a certificate under one of these authorities. Take one of your own: under Stella's, every agent has a certificate",
    ),
    key("agents.listen", "`0.0.0.0:7443`", "address, UDP", "agents and enrolment"),
    live(
        "agents.advertise",
        "none",
        "`host:port`",
        "what agents are told to dial; without it the first of `api.names` (or `localhost`) and the port of `agents.listen`",
    ),
    key(
        "agents.certificate_lifetime_s",
        "1209600",
        "seconds, 60 to 7776000",
        "agents renew at two thirds of it, so that a third of it is the longest outage that no host has to be [enrolled again](operations.md#how-long-agents-certificates-live) after",
    ),
    key("agents.heartbeat_interval_ms", "5000", "milliseconds, 100 to 60000", "how often agents send one"),
    key("journal.cache_bytes", "67108864", "bytes, at least 65536", "the database's cache"),
    key(
        "journal.reserve_bytes",
        "268435456",
        "bytes",
        "below this much free space writes are refused; uploads, and output of tasks, already below four times as much",
    ),
    key(
        "journal.snapshot_every_events",
        "200000",
        "events, at least 1",
        "how much a restart replays at most, about",
    ),
    live(
        "retention.memory_days",
        "30",
        "days, 0 to 36500",
        "deployments with their tasks, promotions and runs that ended longer ago leave memory for the [archive](operations.md#what-has-ended); 0 is never for that",
    ),
    live(
        "retention.memory_max",
        "1000",
        "number",
        "so many ended deployments and promotions of an environment, and runs of a workflow, stay in memory; 0 is all of them",
    ),
    live(
        "retention.memory_seconds_min",
        "3600",
        "seconds, at most 31536000",
        "what has ended within so long stays in memory in any case",
    ),
    live(
        "retention.memory_interval_s",
        "60",
        "seconds, 1 to 86400",
        "how often what may leave is looked for",
    ),
    live(
        "retention.output_days",
        "90",
        "days, 0 to 36500",
        "what tasks print is removed after it; 0 is never",
    ),
    live(
        "retention.artifact_days",
        "0",
        "days, 0 to 36500",
        "[archives](operations.md#archives) of releases that are older, and needed by nothing, are removed; 0 is never",
    ),
    live(
        "retention.artifact_releases_min",
        "10",
        "number",
        "so many newest releases of each application keep their archives, however old they are",
    ),
    key(
        "traces.endpoint",
        "none",
        "URL",
        "where a collector takes OTLP: `http://HOST:4317` with `grpc`, `http://HOST:4318` with `http/protobuf` (`/v1/traces` is added if there is no path); without it no [traces](observability.md#traces) are exported",
    ),
    key(
        "traces.protocol",
        "`http/protobuf`",
        "`grpc`, `http/protobuf`",
        "what OTLP travels in; `http` is `http/protobuf`",
    ),
    key("traces.compression", "`none`", "`none`, `gzip`", "whether what is sent is compressed"),
    key(
        "traces.ca",
        "none",
        "path, PEM",
        "the authorities that the collector's certificate may be under; the system's without it",
    ),
    key(
        "traces.headers_file",
        "none",
        "path",
        "headers for the collector, one `Name: value` a line, such as `Authorization: Basic …`",
    ),
    key(
        "traces.sample_ratio",
        "1.0",
        "0 to 1",
        "the share of the traces that begin here that is exported; of a caller's trace the caller decides, and a deployment that fails is always exported",
    ),
    key(
        "event_bus.servers",
        "[]",
        "`nats://host:4222` or `tls://host:4222`",
        "NATS servers of one cluster; without them no [events](events.md#on-an-event-bus) are published",
    ),
    key("event_bus.stream", "`STELLA`", "name", "the JetStream stream that stores events"),
    key("event_bus.create_stream", "true", "`true`, `false`", "whether it is made if it is not there"),
    key(
        "event_bus.stream_max_age_s",
        "604800",
        "seconds, at least 1",
        "for how long a stream that is made keeps events",
    ),
    key(
        "event_bus.subject_prefix",
        "`stella.events`",
        "words with `.` between them",
        "what subjects begin with",
    ),
    key(
        "event_bus.source",
        "`/stella`",
        "URI reference",
        "what `source` begins with in each event: what the installation is called",
    ),
    key("event_bus.begin", "`now`", "`now`, `beginning`", "where to begin when nothing was published before"),
    key(
        "event_bus.credentials_file",
        "none",
        "path",
        "user JWT and seed, as `nsc generate creds` writes them. A password in an address is refused",
    ),
    key(
        "event_bus.ca",
        "none",
        "path, PEM",
        "the authorities that the servers' certificates may be under, the system's without it; the connection is encrypted with it",
    ),
    key("event_bus.client_certificate", "none", "path, PEM", "for servers that ask for a certificate"),
    key("event_bus.client_key", "none", "path, PEM", "its key"),
    live(
        "gates.prometheus.*",
        "none",
        "tables with `url`, `ca`, `headers_file`, `tenants`",
        "whom [gates](concepts.md#gates) may ask, by the names that they use: `gates.prometheus.main.url` is a Prometheus' address before `/api/v1/query`; `ca` and `headers_file` are as those of `traces`; `tenants` are the names of those whose gates may ask it, or `*`: without it only the gates of an installation with one tenant",
    ),
    live(
        "gates.http.*",
        "none",
        "tables with `url`, `ca`, `headers_file`, `tenants`",
        "the same for gates that ask an address; without `tenants` it is there for all, and is told whose gate asks",
    ),
    live(
        "workflows.http_allowed",
        "[]",
        "list of URLs, or of tables with `url`, `tenants`",
        "where `http` steps of [workflows](workflows.md#calls) may call: beginnings such as `https://hooks.example.com/deploys/`, or `{ url = \"…\", tenants = [\"…\"] }` with the names of those whose workflows may call there, or `*`: without `tenants` only the workflows of an installation with one tenant. Without it nowhere",
    ),
    live(
        "workflows.http.*",
        "none",
        "tables with `url`, `ca`, `headers_file`, `tenants`",
        "destinations that `http` steps of [workflows](workflows.md#calls) call by name, with headers that no template has to hold: `url` is what comes before the step's `path`; `ca` and `headers_file` are as those of `traces`, `tenants` as that of `workflows.http_allowed`",
    ),
    live("notifications.source", "`stella`", "text", "what the installation is called in pages"),
    live(
        "notifications.receivers",
        "[]",
        "list of tables",
        "who can be told when something is wrong: [Notifications](notifications.md)",
    ),
    live(
        "notifications.routes",
        "[]",
        "list of tables",
        "who is told of what: [Notifications](notifications.md)",
    ),
    live("log.level", "`info`", "level or filter", "such as `info,stella_fleet=debug`"),
    key("log.format", "`auto`", "`auto`, `json`, `human`", "`auto` is `human` on a terminal"),
    key("log.file", "none", "path", "JSON lines as well, rotated at 100 MB, ten files in all"),
];
