//! The guide on database migrations, with a PostgreSQL: once per environment, before the hosts, and such that the old version works on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::deployment::Deployment;
use stella_api_types::paths;
use stella_api_types::workflow::Run;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::guide::Guide;
use stella_tests::people::Shell;
use stella_tests::postgres::{OWNER, Postgres};
use stella_tests::recipe::archive;
use stella_tests::wait;

const CREATE: &str =
    "create table customers (name text not null);\ninsert into customers values ('ada'), ('grace');\n";
const EXPAND: &str = "alter table customers add column full_name text;\nupdate customers set full_name = name || ' the first';\n";
const CONTRACT: &str = "alter table customers drop column name;\n";
/// The first statement would be there, if the whole file were not one transaction.
const BAD: &str = "alter table customers add column age int;\nselect 1 / 0;\n";

/// A cluster, a database, and the files of the guide.
struct Story {
    cluster: Cluster,
    database: Postgres,
    guide: Guide,
    migrate: String,
}

impl Story {
    async fn begin() -> Result<Self> {
        let database = Postgres::start().await?;
        let mut cluster = Cluster::start(0).await?;
        for name in ["db-1", "web-1", "web-2"] {
            let mut agent = cluster.enrolled(name, &[]).await?;
            agent.start()?;
            cluster.wait_online(name).await?;
            cluster.agents.push(agent);
        }
        let guide = Guide::open("database-migration", &cluster)?;
        let migrate = guide.block("`migrate`:")?.to_owned();
        let story = Self { cluster, database, guide, migrate };
        let steps = story.guide.block("`schema-steps.json`:")?;
        let password_file = story.database.password_file().display().to_string();
        let steps = steps.replace("/etc/shop/pgpass", &password_file);
        ensure!(steps.contains(&password_file), "the guide names the file of the password otherwise");
        fs::write(story.guide.folder().join("schema-steps.json"), steps)?;
        story.guide.write("`shop.yaml`:", "shop.yaml")?;
        story.guide.run_all("stella env create")?;
        for line in story.guide.commands("stella target create") {
            let port = format!(" --var db_port={}", story.database.port());
            let line = line.replace("db.example.com", "127.0.0.1");
            story.guide.run(&if line.contains("shop-db") { line + &port } else { line })?;
        }
        Ok(story)
    }

    fn schema(&self, file: &str, migrations: &[(&str, &str)]) -> Result<()> {
        let files = [&[("migrate", self.migrate.as_str())], migrations].concat();
        Ok(fs::write(self.guide.folder().join(file), archive(&files)?)?)
    }

    /// The application's release: its step asks the database as its version would.
    fn application(&self, version: &str, query: &str) -> Result<()> {
        fs::write(
            self.guide.folder().join(format!("shop-{version}.tar.gz")),
            archive(&[("program", version)])?,
        )?;
        let environment = BTreeMap::from([
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.database.port().to_string()),
            ("PGDATABASE", OWNER.to_owned()),
            ("PGUSER", OWNER.to_owned()),
            ("PGPASSFILE", self.database.password_file().display().to_string()),
        ]);
        let steps = serde_json::json!([
            {"name": "install", "action": {"type": "artifact", "component": "shop"}},
            {"name": "ask", "action": {"type": "command", "environment": environment,
                "argv": ["psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--command", query]}},
        ]);
        Ok(fs::write(self.guide.folder().join("shop-steps.json"), steps.to_string())?)
    }

    fn migrations(&self) -> Result<String> {
        self.database.ask("select string_agg(name, ' ' order by name) from schema_migrations")
    }

    /// The newest deployment of a release, as it ended.
    async fn last_of(&self, release: &str) -> Result<Deployment> {
        let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
        let all: Vec<Deployment> = self.cluster.api.list(&path, &[]).await?;
        let found =
            all.into_iter().filter(|it| serde_json::to_string(it).is_ok_and(|text| text.contains(release)));
        found.max_by(|a, b| a.id.cmp(&b.id)).with_context(|| format!("{release} was not deployed"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_changes_once_and_before_the_hosts_and_the_old_version_works_on() -> Result<()> {
    let story = Story::begin().await?;
    let guide = &story.guide;
    // Where the guide begins: version 1 is live.
    let first = [("0001_customers.sql", CREATE)];
    story.schema("schema-first.tar.gz", &first)?;
    guide.run("stella release create shop-schema 1.0.0 --component schema=schema-first.tar.gz --steps schema-steps.json")?;
    guide.run("stella deploy shop-schema:1.0.0 production --target shop-db --wait")?;
    story.application("1.0.0", "select name from customers")?;
    guide
        .run("stella release create shop 1.0.0 --component shop=shop-1.0.0.tar.gz --steps shop-steps.json")?;
    guide.run("stella deploy shop:1.0.0 production --target web-1 --target web-2 --wait")?;
    assert_eq!(story.migrations()?, "0001_customers.sql");

    // The guide's releases and its run.
    let expand = [first.as_slice(), &[("0002_full_name.sql", EXPAND)]].concat();
    let contract = [expand.as_slice(), &[("0003_no_name.sql", CONTRACT)]].concat();
    story.schema("schema-expand.tar.gz", &expand)?;
    story.schema("schema-contract.tar.gz", &contract)?;
    story.application("2.0.0", "select full_name from customers")?;
    guide.run_all("stella release create")?;
    guide.run_all("stella workflow apply")?;
    let [run] = &guide.commands("stella workflow run")[..] else { anyhow::bail!("one run is in the guide") };
    let running = guide.command(run)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let waits = wait::until("the run waits for somebody", async || {
        let runs: Vec<Run> = story.cluster.api.list(&paths::fill(paths::RUNS, &[TENANT]), &[]).await?;
        let run = runs.into_iter().next().context("no run")?;
        let run: Value = story.cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &run.id])).await?;
        let steps = run["steps"].to_string();
        ensure!(
            run["steps"]
                .as_array()
                .is_some_and(|all| all.iter().any(|it| it["id"] == "settled" && it["state"] == "running")),
            "{steps}"
        );
        run["id"].as_str().map(str::to_owned).context("no id")
    })
    .await?;
    // Both versions work with the schema of now, and each migration came once.
    assert_eq!(story.migrations()?, "0001_customers.sql 0002_full_name.sql");
    assert_eq!(
        story.database.ask("select name, full_name from customers order by 1")?,
        "ada|ada the first\ngrace|grace the first"
    );
    guide.run("stella deploy shop:1.0.0 production --target web-1 --plan")?;
    let approver = Shell::of(&story.cluster, "dba", "approver").await?;
    approver.ok(&["workflow", "approve", &waits, "settled", "--reason", "nothing reads it any more"])?;
    let ended = running.wait_with_output()?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()));
    assert_eq!(story.migrations()?, "0001_customers.sql 0002_full_name.sql 0003_no_name.sql");
    ensure!(story.database.ask("select name from customers").is_err(), "the old part is still there");

    a_migration_that_fails(&story, &contract).await?;
    the_same_migrations_at_the_same_time(&story, &contract)?;
    story.cluster.passed()
}

/// It leaves nothing behind, is not taken back, and the next try begins with it.
async fn a_migration_that_fails(story: &Story, before: &[(&str, &str)]) -> Result<()> {
    let guide = &story.guide;
    story.schema("bad.tar.gz", &[before, &[("0004_age.sql", BAD)]].concat())?;
    guide.run(
        "stella release create shop-schema 3.0.0 --component schema=bad.tar.gz --steps schema-steps.json",
    )?;
    let mut deploy = guide
        .command("stella deploy shop-schema:3.0.0 production --target shop-db --on-failure stop --wait")?;
    let ended = deploy.output()?;
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stdout));
    let said = String::from_utf8([ended.stdout, ended.stderr].concat())?;
    ensure!(said.contains("division by zero") || said.contains("exit"), "{said}");
    ensure!(story.last_of("3.0.0").await?.status == "failed");
    ensure!(story.database.ask("select age from customers").is_err(), "half of a migration is there");
    assert_eq!(story.migrations()?.split(' ').count(), 3);
    story.schema(
        "good.tar.gz",
        &[before, &[("0004_age.sql", "alter table customers add column age int\n")]].concat(),
    )?;
    guide.run(
        "stella release create shop-schema 3.0.1 --component schema=good.tar.gz --steps schema-steps.json",
    )?;
    guide.run("stella deploy shop-schema:3.0.1 production --target shop-db --wait")?;
    assert_eq!(story.migrations()?.split(' ').count(), 4);
    Ok(())
}

/// Whatever starts the script, and however often.
fn the_same_migrations_at_the_same_time(story: &Story, before: &[(&str, &str)]) -> Result<()> {
    let folder = story.guide.folder().join("by-hand");
    fs::create_dir_all(&folder)?;
    let slow = "create table once (at timestamptz);\ninsert into once select now() from pg_sleep(0.5);\n";
    let write = |name: &str, text: &str| fs::write(folder.join(name), text);
    for (name, text) in [before, &[("0005_once.sql", slow)]].concat() {
        write(name, text)?;
    }
    write("migrate", &story.migrate)?;
    let migrate = |folder: &Path| -> Result<std::process::Child> {
        let mut script = Command::new("sh");
        script
            .arg(folder.join("migrate"))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", story.database.port().to_string());
        script
            .env("PGUSER", OWNER)
            .env("PGDATABASE", OWNER)
            .env("PGPASSFILE", story.database.password_file());
        Ok(script.stdout(Stdio::piped()).spawn()?)
    };
    let both = [migrate(&folder)?, migrate(&folder)?];
    let mut applied = 0;
    for script in both {
        let ended = script.wait_with_output()?;
        ensure!(ended.status.success(), "one of two fails");
        applied += String::from_utf8(ended.stdout)?.matches("applied 0005_once.sql").count();
    }
    assert_eq!((applied, story.database.ask("select count(*) from once")?.as_str()), (1, "1"));
    Ok(())
}
