//! What the pure core costs: deciding and applying, without journal, network or disk. One tenant that grows.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use stella_domain::command::{
    Actor, Command, NewDeployment, NewEnrolmentToken, NewRelease, NewTarget, Report, Request, SystemCommand,
    TenantCommand,
};
use stella_domain::decide::{decide, planned};
use stella_domain::deployment::{OnFailure, Strategy};
use stella_domain::event::{Event, StreamId};
use stella_domain::name::{Name, Version};
use stella_domain::release::{Component, Phase, Step, StepAction};
use stella_domain::state::State;
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, DeploymentId, EnrolmentTokenId, EnvironmentId, Incarnation, Position, ReleaseId, TargetId,
    TenantId,
};
use stella_protocol::message::{Finished, Hello, JournalMark, Resources, TaskOutcome};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

use crate::load::figure::{Bound, Figure, as_f64};

const PHASE: &str = "core";

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const ENVIRONMENT: EnvironmentId = EnvironmentId(Uuid::from_u128(2));
const TOKEN: EnrolmentTokenId = EnrolmentTokenId(Uuid::from_u128(3));

/// How many releases the tenant has.
const RELEASES: u32 = 1_000;

/// How many plans are kept to see what one of them holds.
const PLANS: u64 = 8;

/// What a target may cost at most at a larger size, as a multiple of what it costs at the smallest: trees grow deeper, and no cache
/// of the processor holds all of them.
const GROWTH_MAX: f64 = 3.0;

/// A tenant under commands, one after the other.
pub(super) struct Core {
    state: State,
    now: Timestamp,
    commands: u64,
    deciding: Duration,
    events: Vec<(StreamId, Event)>,
    /// All that has happened since somebody took it.
    taken: Vec<(StreamId, Event)>,
}

impl Core {
    fn tell(&mut self, command: Command) -> Result<()> {
        let request =
            Request { actor: Actor::System, trace: TraceContext::default(), idempotency: None, command };
        let start = Instant::now();
        let decision = decide(&self.state, &request, self.now)?;
        self.deciding += start.elapsed();
        self.commands += 1;
        self.state = decision.state;
        self.taken.extend_from_slice(&decision.events);
        self.events = decision.events;
        Ok(())
    }

    fn tenant(&mut self, command: TenantCommand) -> Result<()> {
        self.tell(Command::Tenant(TENANT, command))
    }

    /// A tenant with releases, in which so many hosts may enrol.
    pub(super) fn new(targets: u32) -> Result<Self> {
        let (state, now) = (State::default(), Timestamp(1_000_000));
        let mut core =
            Self { state, now, commands: 0, deciding: Duration::ZERO, events: Vec::new(), taken: Vec::new() };
        core.tell(Command::System(SystemCommand::CreateTenant { id: TENANT, name: name("acme")? }))?;
        let environment = name("production")?;
        core.tenant(TenantCommand::CreateEnvironment {
            id: ENVIRONMENT,
            name: environment,
            order: None,
            way_back_proof: stella_domain::way_back::ProofRule::Off,
        })?;
        core.tenant(TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
            id: TOKEN,
            secret_hash: Digest([1; 32]),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: stella_protocol::message::Profile::Confined,
            uses_max: targets,
            expires_at: Timestamp(u64::MAX),
        })))?;
        core.tenant(TenantCommand::StoreArtifact {
            digest: Digest([2; 32]),
            size_bytes: 10,
            tenant_bytes_max: None,
        })?;
        for number in 1..=RELEASES {
            core.tenant(TenantCommand::CreateRelease(Box::new(release(number)?)))?;
        }
        Ok(core)
    }

    /// A deployment to one target, from its request to its end.
    pub(super) fn deploy_to_one(&mut self, number: u32, host: u32) -> Result<()> {
        let new = NewDeployment {
            id: DeploymentId(id(5, number)),
            targets: Some(vec![TargetId(id(2, host))]),
            ..deployment(1 + number % RELEASES)
        };
        self.tenant(TenantCommand::Deploy(Box::new(new)))?;
        self.work()
    }

    /// What has happened since the last time.
    pub(super) fn take_events(&mut self) -> Vec<(StreamId, Event)> {
        std::mem::take(&mut self.taken)
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn host(&mut self, number: u32) -> Result<()> {
        let agent = AgentId(id(1, number));
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        self.tenant(TenantCommand::Enrol {
            token: TOKEN,
            key_fingerprint: Digest(key),
            agent,
            hostname: format!("host-{number}"),
            takes_profile: true,
            wanted: None,
        })?;
        self.tenant(TenantCommand::CreateTarget(Box::new(NewTarget {
            id: TargetId(id(2, number)),
            environment: ENVIRONMENT,
            name: name(&format!("web-{number}"))?,
            kind: name("host")?,
            agent,
            slot: None,
            labels: BTreeMap::new(),
            variables: BTreeMap::from([("port".to_owned(), "8080".to_owned())]),
        })))?;
        let hello = Hello {
            agent_version: "0.1.0".to_owned(),
            capabilities: 15,
            journal: JournalMark { incarnation: Incarnation(id(3, number)), position: Position(0) },
            control_plane: None,
            open: Vec::new(),
            resources: Resources::default(),
        };
        let hello = Box::new(hello);
        self.tenant(TenantCommand::ConnectAgent { agent, hello, journal_rolled_back: false })
    }

    /// Every agent says that its task has succeeded, until there is nothing left to say.
    fn work(&mut self) -> Result<()> {
        loop {
            let tenant = self.state.tenants.get(&TENANT).context("the tenant is gone")?;
            let open: Vec<_> = tenant
                .unsettled
                .iter()
                .filter_map(|(agent, tasks)| Some((*agent, tenant.tasks.get(tasks.get_min()?)?.key())))
                .collect();
            if open.is_empty() {
                return Ok(());
            }
            for (agent, key) in open {
                let tenant = self.state.tenants.get(&TENANT).context("the tenant is gone")?;
                let session = tenant.agents.get(&agent).context("an agent is gone")?.session;
                let finished = Finished {
                    key,
                    position: Position(1),
                    started_at: None,
                    finished_at: self.now,
                    outcome: TaskOutcome::Succeeded,
                };
                self.tenant(TenantCommand::Report { agent, session, report: Report::Finished(finished) })?;
            }
        }
    }
}

fn name(text: &str) -> Result<Name> {
    Ok(Name::from_str(text)?)
}

fn id(kind: u128, number: u32) -> Uuid {
    Uuid::from_u128((kind << 64) + u128::from(number) + 16)
}

/// An archive, and a check that is another one on each target.
fn release(number: u32) -> Result<NewRelease> {
    let install = StepAction::Artifact { component: name("web")?, keep_releases: 3 };
    let url = "http://localhost:${port}/${target}".to_owned();
    let check = StepAction::CheckHttp { url, status: 200, interval_ms: 100, successes: 1 };
    Ok(NewRelease {
        id: ReleaseId(id(4, number)),
        application: name("shop")?,
        version: Version::from_str(&format!("{number}.0.0"))?,
        components: vec![Component { name: name("web")?, digest: Digest([2; 32]), size_bytes: 10 }],
        steps: vec![
            Step { name: name("install")?, action: install, timeout_ms: 60_000, phase: Phase::Prepare },
            Step { name: name("check")?, action: check, timeout_ms: 30_000, phase: Phase::Prepare },
        ],
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    })
}

fn deployment(number: u32) -> NewDeployment {
    NewDeployment {
        id: DeploymentId(id(5, number)),
        environment: ENVIRONMENT,
        release: ReleaseId(id(4, number)),
        strategy: Strategy::AllAtOnce,
        on_failure: OnFailure::Rollback,
        tolerate_failures: None,
        targets: None,
        timeout_ms: 3_600_000,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
        job: None,
    }
}

/// What this process has in memory, in bytes.
fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("statm has no second number")?.parse()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(pages * u64::try_from(page)?)
}

/// What one plan of a deployment to all targets holds in memory, in bytes: several are kept at the same time, for the first ones may take
/// what was free already.
fn of_plans(core: &Core) -> Result<u64> {
    let tenant = core.state.tenants.get(&TENANT).context("the tenant is gone")?;
    let before = resident()?;
    let held: Vec<_> =
        (0..PLANS).map(|_| planned(tenant, &deployment(2), core.now)).collect::<Result<_, _>>()?;
    let grown = resident()?.saturating_sub(before);
    std::hint::black_box(held);
    Ok(grown / PLANS)
}

/// What a target costs at one size.
struct Costs {
    planning_us: f64,
    plan_kib: f64,
    opening_us: f64,
    json_us: f64,
    command_us: f64,
    memory_kib: f64,
}

fn at_size(targets: u32) -> Result<Costs> {
    let mut core = Core::new(targets)?;
    let before = resident()?;
    for number in 1..=targets {
        core.host(number)?;
    }
    let of_target = |duration: Duration| duration.as_secs_f64() * 1e6 / f64::from(targets);
    // The first deployment gives every target something to go back to.
    core.tenant(TenantCommand::Deploy(Box::new(deployment(1))))?;
    core.work()?;
    let memory = resident()?.saturating_sub(before);

    let tenant = core.state.tenants.get(&TENANT).context("the tenant is gone")?;
    let start = Instant::now();
    planned(tenant, &deployment(2), core.now)?;
    let planning = start.elapsed();
    let plan = of_plans(&core)?;
    core.deciding = Duration::ZERO;
    core.tenant(TenantCommand::Deploy(Box::new(deployment(2))))?;
    let opening = core.deciding;
    let start = Instant::now();
    for (_, event) in &core.events {
        std::hint::black_box(serde_json::to_vec(event)?);
    }
    let json = start.elapsed();

    (core.deciding, core.commands) = (Duration::ZERO, 0);
    core.work()?;
    Ok(Costs {
        planning_us: of_target(planning),
        plan_kib: as_f64(plan) / 1024.0 / f64::from(targets),
        opening_us: of_target(opening),
        json_us: of_target(json),
        command_us: core.deciding.as_secs_f64() * 1e6 / as_f64(core.commands.max(1)),
        memory_kib: as_f64(memory) / 1024.0 / f64::from(targets),
    })
}

/// Measures a tenant with 1,000 releases at growing numbers of targets. What a target costs must not grow with them.
///
/// # Errors
/// If the core refuses something.
pub fn measure(sizes: &[u32]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut first: Option<(f64, f64)> = None;
    for targets in sizes {
        let costs = at_size(*targets)?;
        let (planning, command) = *first.get_or_insert((costs.planning_us, costs.command_us));
        let smallest = format!("at {} targets", sizes[0]);
        let of = |what: &str| format!("{what}, {targets} targets");
        let growth = Bound::RatioCeiling(GROWTH_MAX);
        figures.extend([
            Figure::new(PHASE, of("planning, a target"), costs.planning_us, "us")
                .beside(smallest.as_str(), planning)
                .goal(growth),
            Figure::new(PHASE, of("memory of a plan, a target"), costs.plan_kib, "KiB"),
            Figure::new(PHASE, of("deciding to deploy, a target"), costs.opening_us, "us")
                .beside("its events as JSON", costs.json_us),
            Figure::new(PHASE, of("an agent's report"), costs.command_us, "us")
                .beside(smallest, command)
                .goal(growth),
            Figure::new(PHASE, of("reports a second"), 1e6 / costs.command_us, "a second"),
            Figure::new(PHASE, of("memory, a target that was deployed to"), costs.memory_kib, "KiB"),
        ]);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_its_figures_and_the_core_refuses_nothing() {
        let figures = measure(&[1, 3]).unwrap();
        assert_eq!(figures.len(), 12);
        assert!(figures.iter().filter(|it| it.unit != "KiB").all(|it| it.value > 0.0), "{figures:?}");
        assert_eq!(figures[0].raw.as_ref().unwrap().ratio, 1.0);
    }
}
