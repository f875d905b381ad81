//! Bad input gets a clear error that names the field and the remedy, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, RequestBuilder};
use stella_api_types::event::Event;
use stella_api_types::paths::{self, fill};
use stella_api_types::problem::Problem;
use stella_tests::api::{Api, by_people};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_tenant};
use stella_tests::recipe::{self, archive, digest, hostile_archive, linking_archive, shell};

/// A tenant that nothing is about.
const OTHER_TENANT: &str = "umbrella";

/// A well-formed id of nothing.
const NOBODY: &str = "0190f5f4-7b3c-7c1d-9d55-4f2b8e6a1c33";

/// A request that must be refused.
struct Case {
    what: &'static str,
    request: RequestBuilder,
    status: u16,
    /// What the refusal must name, as its `field` or in its detail; empty if the request as a whole is wrong.
    field: &'static str,
    /// What its detail must say of what would be right.
    word: &'static str,
}

fn case(
    what: &'static str,
    request: RequestBuilder,
    status: u16,
    field: &'static str,
    word: &'static str,
) -> Case {
    Case { what, request, status, field, word }
}

fn json(api: &Api, template: &str, body: &str) -> RequestBuilder {
    api.request(Method::POST, &fill(template, &[TENANT]))
        .header("Content-Type", "application/json")
        .body(body.to_owned())
}

fn json_of_staging(api: &Api, template: &str, body: &str) -> RequestBuilder {
    api.request(Method::POST, &fill(template, &[TENANT, ENVIRONMENT]))
        .header("Content-Type", "application/json")
        .body(body.to_owned())
}

fn get(api: &Api, template: &str, values: &[&str]) -> RequestBuilder {
    api.request(Method::GET, &fill(template, values))
}

fn put(api: &Api, digest: &str, body: Vec<u8>) -> RequestBuilder {
    let path = fill(paths::ARTIFACT, &[TENANT, digest]);
    api.request(Method::PUT, &path).header("Content-Type", "application/octet-stream").body(body)
}

fn unknown_things(api: &Api) -> Vec<Case> {
    let deploy = |environment: &str, release: &str| {
        json(api, paths::DEPLOYMENTS, &format!(r#"{{"environment":"{environment}","release":"{release}"}}"#))
    };
    vec![
        case("an unknown tenant", get(api, paths::ENVIRONMENTS, &["nobody"]), 404, "", "nobody"),
        case("an unknown deployment", get(api, paths::DEPLOYMENT, &[TENANT, NOBODY]), 404, "", NOBODY),
        case("no id at all", get(api, paths::DEPLOYMENT, &[TENANT, "seven"]), 404, "deployment", "seven"),
        case("an unknown task", get(api, paths::TASK, &[TENANT, NOBODY]), 404, "", NOBODY),
        case("an unknown agent", get(api, paths::AGENT, &[TENANT, "nobody"]), 404, "", "nobody"),
        case("an unknown environment", deploy("nowhere", "app:1.0.0"), 404, "environment", "nowhere"),
        case("an unknown release", deploy(ENVIRONMENT, "app:9.9.9"), 404, "release", "9.9.9"),
        case("an unknown path", api.request(Method::GET, "/api/v1/nothing"), 404, "", "openapi.json"),
        case("a wrong method", api.request(Method::PATCH, paths::TENANTS), 405, "", "Allow"),
        case(
            "a bad cursor",
            get(api, paths::ENVIRONMENTS, &[TENANT]).query(&[("cursor", "%%")]),
            422,
            "cursor",
            "start without",
        ),
    ]
}

fn malformed_things(api: &Api) -> Vec<Case> {
    let target = format!(r#"{{"name":"a/b","environment":"{ENVIRONMENT}","agent":"web-1"}}"#);
    let wrong_batch = format!(
        r#"{{"environment":"{ENVIRONMENT}","release":"app:1.0.0","strategy":{{"type":"rolling","batch":0}}}}"#
    );
    let steps =
        r#"{"application":"app","version":"3","steps":[{"name":"x","action":{"type":"command","argv":[]}}]}"#;
    let component = format!(
        r#"{{"application":"app","version":"3","components":[{{"name":"web","digest":"{}"}}]}}"#,
        digest(b"never uploaded")
    );
    let no_json = api.request(Method::POST, paths::TENANTS).header("Content-Type", "text/plain").body("{}");
    vec![
        case("malformed JSON", json(api, paths::ENVIRONMENTS, "{\"name\": \"x\""), 400, "", "line 1"),
        case("no JSON", no_json, 415, "", "application/json"),
        case(
            "an unknown field",
            json(api, paths::ENVIRONMENTS, r#"{"name":"x","oder":1}"#),
            422,
            "oder",
            "expected one of `name`, `order`",
        ),
        case("a missing field", json(api, paths::ENVIRONMENTS, r#"{"order":1}"#), 422, "name", "missing"),
        case(
            "a wrong type",
            json(api, paths::ENVIRONMENTS, r#"{"name":7}"#),
            422,
            "name",
            "expected a string",
        ),
        case("an empty name", json(api, paths::ENVIRONMENTS, r#"{"name":""}"#), 422, "name", "1 to 63"),
        case("a name with a slash", json(api, paths::TARGETS, &target), 422, "name", "allowed are a-z"),
        case(
            "a batch of none",
            json(api, paths::DEPLOYMENTS, &wrong_batch),
            422,
            "strategy.batch",
            "at least one",
        ),
        case("an empty command", json(api, paths::RELEASES, steps), 422, "steps[0]", "begin with a program"),
        case(
            "an archive that is not there",
            json(api, paths::RELEASES, &component),
            422,
            "components[0].digest",
            "PUT it to",
        ),
        case(
            "a token for ever",
            json(api, paths::ENROLMENT_TOKENS, r#"{"expires_in_seconds":99999999}"#),
            422,
            "expires_in_seconds",
            "between 1 and 2592000",
        ),
    ]
}

fn large_and_strange_things(api: &Api) -> Result<Vec<Case>> {
    let good = archive(&[("a", "b")])?;
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(100 << 20));
    let key = json(api, paths::ENVIRONMENTS, r#"{"name":"x"}"#).header("Idempotency-Key", "x".repeat(500));
    let stranger = api.with_token("stella_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    Ok(vec![
        case("a wrong digest", put(api, &digest(b"something else"), good.clone()), 422, "digest", "sha256:"),
        case("no digest", put(api, "md5:1234", good), 422, "digest", "sha256:"),
        case("100 MB of JSON", json(api, paths::ENVIRONMENTS, &large), 413, "", "at most 1048576 bytes"),
        case("an endless key", key, 422, "Idempotency-Key", "128"),
        case("a wrong token", get(&stranger, paths::ENVIRONMENTS, &[TENANT]), 401, "", "token"),
        case("no token", get(&api.with_token("x"), paths::ENVIRONMENTS, &[TENANT]), 401, "", "token"),
    ])
}

/// Ways to deploy that make no sense, or can never do what they say.
fn impossible_strategies(api: &Api) -> Vec<Case> {
    let deploy = |strategy: &str| {
        let body =
            format!(r#"{{"environment":"{ENVIRONMENT}","release":"app:1.0.0","strategy":{{{strategy}}}}}"#);
        json(api, paths::DEPLOYMENTS, &body)
    };
    let canary = |steps: &str| deploy(&format!(r#""type":"canary","steps":[{steps}]"#));
    let first = "strategy.steps[0].percent";
    vec![
        case("a canary of 0 %", canary(r#"{"percent":0,"soak_seconds":60}"#), 422, first, "0"),
        case("a canary of 101 %", canary(r#"{"percent":101,"soak_seconds":60}"#), 422, first, "101"),
        case(
            "a canary that shrinks",
            canary(r#"{"percent":50,"soak_seconds":60},{"percent":50,"soak_seconds":60}"#),
            422,
            "strategy.steps[1].percent",
            "50",
        ),
        case(
            "more healthy targets than there are",
            deploy(r#""type":"rolling","batch":1,"minimum_healthy":1"#),
            422,
            "strategy.minimum_healthy",
            "let at least one be down",
        ),
        case("no such strategy", deploy(r#""type":"hope""#), 422, "strategy", "hope"),
    ]
}

/// Rules of an environment that contradict themselves.
fn impossible_rules(api: &Api) -> Vec<Case> {
    let set = |template: &str, body: &str| json_of_staging(api, template, body);
    let itself = format!(r#"{{"after":"{ENVIRONMENT}"}}"#);
    let freeze = |from: &str, to: &str, zone: &str| {
        let body = format!(r#"{{"name":"x","reason":"x","from":"{from}","to":"{to}","time_zone":"{zone}"}}"#);
        set(paths::ENVIRONMENT_FREEZES, &body)
    };
    let (day, next) = ("2026-12-18T18:00", "2026-12-19T18:00");
    vec![
        case(
            "an environment that is in use is removed",
            api.request(Method::DELETE, &fill(paths::ENVIRONMENT, &[TENANT, ENVIRONMENT])),
            409,
            "web-1",
            "stella target remove",
        ),
        case(
            "an environment without a name",
            set(paths::ENVIRONMENT_UPDATE, r#"{"name":""}"#),
            422,
            "name",
            "1 to 63",
        ),
        case("a path in a circle", set(paths::ENVIRONMENT_PATH, &itself), 422, "after", "before itself"),
        case(
            "a path from nowhere",
            set(paths::ENVIRONMENT_PATH, r#"{"after":"x"}"#),
            404,
            "environment",
            "x",
        ),
        case(
            "more approvals than there may be",
            set(paths::ENVIRONMENT_APPROVALS, r#"{"needed":99}"#),
            422,
            "needed",
            "16",
        ),
        case(
            "an approval within a second",
            set(paths::ENVIRONMENT_APPROVALS, r#"{"needed":1,"expires_in_seconds":1}"#),
            422,
            "expires",
            "a minute",
        ),
        case("a freeze that ends first", freeze(next, day, "UTC"), 422, "to", "after the beginning"),
        case("a freeze on the moon", freeze(day, next, "Moon/Base"), 422, "time_zone", "Europe/Berlin"),
        case(
            "a budget of none",
            set(paths::ENVIRONMENT_BUDGET, r#"{"at_risk_max":0}"#),
            422,
            "at_risk_max",
            "lock the environment",
        ),
        case(
            "silence of all",
            set(paths::ENVIRONMENT_SILENCE, r#"{"percent":100}"#),
            422,
            "percent",
            "between 1 and 99",
        ),
        case(
            "a gate that is no expression",
            set(paths::ENVIRONMENT_GATES, r#"{"name":"x","check":{"type":"expression","expression":"1 +"}}"#),
            422,
            "expression",
            "expecting",
        ),
    ]
}

/// Workflows that could never run.
fn impossible_workflows(api: &Api) -> Vec<Case> {
    let apply = |steps: &str| {
        let source = format!("name: w\nsteps:\n{steps}");
        json(api, paths::WORKFLOWS, &serde_json::json!({"source": source}).to_string())
    };
    let wait = |id: &str, needs: &str| format!("  - id: {id}\n    wait: 1s\n    needs: [{needs}]\n");
    vec![
        case(
            "a workflow in a circle",
            apply(&format!("{}{}", wait("a", "b"), wait("b", "a"))),
            422,
            "steps[0].needs",
            "in a circle: a needs b needs a",
        ),
        case(
            "a step that needs none that is there",
            apply(&wait("a", "z")),
            422,
            "steps[0].needs[0]",
            "line 5",
        ),
        case("an unknown kind of step", apply("  - id: a\n    pray: 1s\n"), 422, "steps[0]", "pray"),
    ]
}

fn judge(case: &Case, problem: &Problem) -> Result<()> {
    let Case { what, status, field, word, .. } = case;
    ensure!(problem.status == *status, "{what}: {problem:?}");
    let found = problem.field.as_deref().unwrap_or_default();
    let is_named = found.contains(field) || problem.detail.contains(field);
    ensure!(is_named, "{what}: names the field {found:?}, not {field:?}: {problem:?}");
    ensure!(!word.is_empty() && problem.detail.contains(word), "{what}: does not say {word:?}: {problem:?}");
    ensure!(problem.detail.len() > 10, "{what}: says nothing: {problem:?}");
    ensure!(problem.detail.len() < 2_000, "{what}: repeats too much of the input");
    ensure!(problem.no_side_effects && !problem.retryable, "{what}: {problem:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_field_and_remedy_and_changes_nothing() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("work", "true")])).await?;
    create_tenant(&cluster.api, OTHER_TENANT).await?;
    let before = Kept::of(&cluster).await?;
    let mut cases = unknown_things(&cluster.api);
    cases.extend(malformed_things(&cluster.api));
    cases.extend(large_and_strange_things(&cluster.api)?);
    cases.extend(impossible_strategies(&cluster.api));
    cases.extend(impossible_rules(&cluster.api));
    cases.extend(impossible_workflows(&cluster.api));
    // All of them are judged, so that one run tells everything that is wrong.
    let mut wrong = Vec::new();
    for mut case in cases {
        let spare = cluster.api.request(Method::GET, paths::HEALTH);
        let request = std::mem::replace(&mut case.request, spare);
        let outcome = match cluster.api.answer(request).await.and_then(|answer| answer.problem()) {
            Ok(problem) => judge(&case, &problem),
            Err(failure) => Err(anyhow::Error::new(failure).context(format!("{}: no problem", case.what))),
        };
        wrong.extend(outcome.err().map(|error| format!("{error:#}")));
    }
    ensure!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(Kept::of(&cluster).await?, before, "nothing has happened");
    cluster.passed()
}

/// All that a control plane keeps and people can change: the events of every stream that they have caused, and the files of its stores.
#[derive(Debug, PartialEq)]
struct Kept {
    events: Vec<Event>,
    files: BTreeMap<PathBuf, u64>,
}

impl Kept {
    async fn of(cluster: &Cluster) -> Result<Self> {
        let mut events: Vec<Event> = cluster.api.list(paths::SYSTEM_EVENTS, &[]).await?;
        for tenant in [TENANT, OTHER_TENANT] {
            events.extend(cluster.api.events(tenant).await?);
        }
        let mut files = BTreeMap::new();
        let mut folders: Vec<_> =
            ["artifacts", "output"].map(|store| cluster.control_plane.state_dir().join(store)).into();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    files.insert(entry.path(), entry.metadata()?.len());
                }
            }
        }
        Ok(Self { events: by_people(events), files })
    }
}

/// An archive is judged by who makes a release of it and by who takes it, before anything is deployed; and where it is unpacked.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_leaves_its_folder_is_refused_where_it_is_made_and_where_it_is_taken() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    create_tenant(&cluster.api, OTHER_TENANT).await?;
    // One that is in order is kept, so that there is something to change.
    cluster.api.upload(TENANT, &archive(&[("a", "b")])?).await?;
    let before = Kept::of(&cluster).await?;
    ensure!(before.files.len() == 1 && before.events.len() > 2, "{before:?}");
    let absolute = cluster.folder().join("absolute").display().to_string();
    let outside = cluster.folder().display().to_string();
    for (entry, problem, hostile) in [
        ("../../../escaped", "has .. in its path", hostile_archive("../../../escaped")?),
        (absolute.as_str(), "has an absolute path", hostile_archive(&absolute)?),
        ("logs", "leaves the release", linking_archive("../../../etc", false)?),
        ("logs", "leaves the release", linking_archive(&outside, false)?),
        ("logs", "leaves the release", linking_archive("a/../../..", false)?),
        ("logs", "is a hard link to \"/etc/shadow\"", linking_archive("/etc/shadow", true)?),
        ("logs", "is a hard link to \"../../passwd\"", linking_archive("../../passwd", true)?),
        ("logs/written", "goes through a link", linking_archive("data", false)?),
    ] {
        let file = cluster.folder().join("hostile.tar.gz");
        fs::write(&file, &hostile)?;
        let component = format!("web={}", file.display());
        let (code, said) =
            cluster.stella(&["release", "create", "app", "1.0.0", "--component", &component])?;
        ensure!(code == Some(2), "{code:?} {said}");
        for wanted in [entry, problem, "hostile.tar.gz"] {
            ensure!(said.contains(wanted), "{wanted}: {said}");
        }
        let refused =
            cluster.api.upload(TENANT, &hostile).await.err().context("it is taken")?.into_problem()?;
        ensure!(refused.status == 422 && refused.field.as_deref() == Some("body"), "{refused:?}");
        ensure!(refused.no_side_effects && !refused.retryable, "{refused:?}");
        for wanted in [entry, problem] {
            ensure!(refused.detail.contains(wanted), "{wanted}: {refused:?}");
        }
        // What to do about it is said in the same words by both.
        let (_, remedy) = refused.detail.rsplit_once(": ").with_context(|| refused.detail.clone())?;
        ensure!(remedy.len() > 20 && said.contains(remedy), "{remedy:?} is not in {said}");
        let taken = fill(paths::ARTIFACT, &[TENANT, &digest(&hostile)]);
        let answer = cluster.api.answer(cluster.api.request(Method::GET, &taken)).await?;
        ensure!(answer.status == 404, "it was kept: {answer:?}");
        assert_eq!(Kept::of(&cluster).await?, before, "{problem}: something has happened");
    }
    cluster.passed()
}
