//! Who may be an agent: the revoked, the foreign, the late and the cloned.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::agent::{Agent as AgentDto, CreateEnrolmentToken, RevokeAgent};
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::time::parse_rfc3339;
use stella_certs::{Authority, EnrolmentToken, csr};
use stella_protocol::close::CloseCode;
use stella_protocol::message::EnrolResponse;
use stella_protocol::session::CloseReason;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_token, token};
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::sim::{self, Identity, Memory, Session};
use stella_tests::wait;
use tokio::time::timeout;

fn server(cluster: &Cluster) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], cluster.control_plane.agents_port()))
}

async fn new_token(cluster: &Cluster, body: &CreateEnrolmentToken) -> Result<EnrolmentToken> {
    let created = create_token(&cluster.api, TENANT, body).await?;
    Ok(created.token.context("the token is not in the answer")?.parse()?)
}

async fn revoke(cluster: &Cluster, agent: &str) -> Result<AgentDto> {
    let body = RevokeAgent { reason: "the host was sold".to_owned() };
    Ok(cluster.api.post(&paths::fill(paths::AGENT_REVOKE, &[TENANT, agent]), &body, None).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_at_once_and_stays_out() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let endpoint = sim::endpoint()?;
    let invitation = new_token(&cluster, &token(Some("sold"), 1)).await?;
    let identity = sim::enrol(&endpoint, server(&cluster), &invitation).await?;
    let memory = Memory::default();
    let mut session = Session::open(&endpoint, server(&cluster), identity.client()?, &memory).await?;

    let revoked = revoke(&cluster, "sold").await?;
    ensure!(revoked.revoked.is_some(), "{revoked:?}");
    // Within a second, on a machine that has time; this one may not.
    let reason = timeout(wait::PATIENCE, session.closed()).await.context("the session lives")?;
    assert_eq!(reason, CloseReason::Peer(CloseCode::Revoked));

    for _ in 0..3 {
        let refused = Session::open(&endpoint, server(&cluster), identity.client()?, &memory).await;
        let refused = refused.err().context("a revoked agent was let in")?;
        assert_eq!(
            refused.downcast_ref::<CloseReason>(),
            Some(&CloseReason::Peer(CloseCode::Revoked)),
            "{refused:#}"
        );
    }
    // Enrolling the same key again is no way back either.
    let answer = sim::ask_to_enrol(&endpoint, server(&cluster), &invitation, &identity.key).await?;
    let reason = answer.into_granted().err().context("a revoked key got a certificate")?;
    ensure!(reason.contains("revoked"), "{reason}");
    // And the real agent, which would otherwise be the only thing that was not tried.
    revoke(&cluster, "web-1").await?;
    wait::until("the agent says that a person has to act", async || {
        let log = cluster.agents[0].log();
        ensure!(log.contains("a person has to act"), "{log}");
        Ok(())
    })
    .await?;
    let found = cluster.api.agent(TENANT, "web-1").await?;
    assert_ne!(found.connectivity, "online");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let real = Identity::read(&cluster.agents[0].identity_file())?;
    let before = cluster.api.agent(TENANT, "web-1").await?.session;

    let other = Authority::open_or_create(&cluster.folder().join("other-pki"), SystemTime::now())?;
    let request = csr::generate()?;
    let lifetime = Duration::from_secs(3_600);
    let issued = other.issue_agent(&request.csr_der, real.tenant, real.agent, SystemTime::now(), lifetime)?;
    // It names a real agent and trusts the real control plane: only the signature is another one's.
    let forged = Identity { chain: issued.chain_der, key: request.key_der, ..real };
    let endpoint = sim::endpoint()?;
    let refused = Session::open(&endpoint, server(&cluster), forged.client()?, &Memory::default()).await;
    let refused = format!("{:#}", refused.err().context("a forged certificate was let in")?);
    ensure!(refused.to_lowercase().contains("certificate") || refused.contains("unknown CA"), "{refused}");

    let after = cluster.api.agent(TENANT, "web-1").await?;
    assert_eq!((after.connectivity.as_str(), after.session), ("online", before));
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_expire_and_are_used_up() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let short = CreateEnrolmentToken { expires_in_seconds: 1, ..token(Some("late"), 1) };
    let created = create_token(&cluster.api, TENANT, &short).await?;
    let expires_at = parse_rfc3339(&created.details.expires_at)?;
    wait::until("the token has expired", async || {
        ensure!(sim::now() > expires_at, "not yet");
        Ok(())
    })
    .await?;
    let late = Agent::new(cluster.folder(), "late", &cluster.control_plane.agents_address())?;
    let refused =
        late.enrol(&created.token.context("no token")?).err().context("an expired token was taken")?;
    ensure!(format!("{refused:#}").contains("expired"), "{refused:#}");

    let once = create_token(&cluster.api, TENANT, &token(Some("one"), 1)).await?.token.context("no token")?;
    let address = cluster.control_plane.agents_address();
    let one = Agent::new(cluster.folder(), "one", &address)?;
    one.enrol(&once)?;
    let other = Agent::new(cluster.folder(), "other", &address)?;
    let refused = other.enrol(&once).err().context("a used token was taken from another host")?;
    ensure!(format!("{refused:#}").contains("used"), "{refused:#}");

    // The same key asks again, because the answer was lost: the same identity, and nothing is used up.
    let endpoint = sim::endpoint()?;
    let invitation = new_token(&cluster, &token(Some("twice"), 1)).await?;
    let first = sim::enrol(&endpoint, server(&cluster), &invitation).await?;
    let answer = sim::ask_to_enrol(&endpoint, server(&cluster), &invitation, &first.key).await?;
    let again =
        answer.into_granted().map_err(|reason| anyhow::anyhow!("the same key was refused: {reason}"))?;
    assert_eq!(again.agent, first.agent);
    let unknown = EnrolmentToken::generate(first.agent.0.to_string().parse()?, invitation.root)?;
    let answer = sim::ask_to_enrol(&endpoint, server(&cluster), &unknown, &first.key).await?;
    ensure!(matches!(answer, EnrolResponse::Refused { .. }), "an unknown token was taken");
    let agents: Vec<AgentDto> = cluster.api.list(&paths::fill(paths::AGENTS, &[TENANT]), &[]).await?;
    let mut names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "twice"], "refused enrolments leave nothing");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_identity_the_newest_wins_and_nothing_runs_twice() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let log = cluster.folder().join("runs");
    cluster
        .release(&recipe::release(
            "1.0.0",
            &[],
            vec![shell("count", &format!("echo run >> {}", log.display()))],
        ))
        .await?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    assert_eq!(cluster.deploy(&order).await?.deployment.status, "succeeded");
    let before = cluster.api.agent(TENANT, "web-1").await?.session;

    let mut clone = Agent::new(cluster.folder(), "clone", &cluster.control_plane.agents_address())?;
    clone.steal_identity(&cluster.agents[0])?;
    clone.start()?;
    cluster.agents.push(clone);
    wait::until("the newer one has the session", async || {
        let found = cluster.api.agent(TENANT, "web-1").await?;
        ensure!(found.session > before && found.connectivity == "online", "{found:?}");
        Ok(())
    })
    .await?;
    wait::until("the older one was told", async || {
        let log = cluster.agents[0].log();
        ensure!(log.contains("a newer session of the same agent has taken over"), "{log}");
        Ok(())
    })
    .await?;
    for round in 2..=4 {
        assert_eq!(cluster.deploy(&order).await?.deployment.status, "succeeded");
        assert_eq!(std::fs::read_to_string(&log)?.lines().count(), round);
    }
    cluster.passed()
}
