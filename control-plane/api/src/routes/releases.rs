//! Archives and the releases that are made of them.

#![expect(unused_qualifications, reason = "the macro that documents a route spells out its extractors")]

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use futures::StreamExt;
use imbl::OrdMap;
use serde::Deserialize;
use stella_api_types::artifact::Artifact;
use stella_api_types::release::{CreateRelease, Release as ReleaseDto};
use stella_api_types::{Page, paths};
use stella_domain::access::{Role, Scope};
use stella_domain::command::{NewRelease, Outcome, TenantCommand};
use stella_domain::name::Name;
use stella_domain::release::{Component, Release};
use stella_domain::tenant::TenantState;
use stella_protocol::digest::Digest;
use stella_protocol::id::{ReleaseId, TenantId};
use stella_signing::Signature;
use stella_store::StoreError;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::body::{First, Json, Paging, Path, Query, page};
use crate::error::{ApiError, ErrorCode};
use crate::submit::{Change, unexpected};
use crate::uploads::{COME_BACK_S, Flow, UnderWay};
use crate::{App, parse, resolve, view};

/// How long an upload may bring nothing. As a whole it may take as long as it goes on.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// After how many bytes it is looked what the tenant has by then.
const QUOTA_BYTES: u64 = 4 * 1024 * 1024;

fn stalled() -> ApiError {
    let detail = format!("the upload brought nothing for {} s and was given up", CHUNK_TIMEOUT.as_secs());
    ApiError::new(ErrorCode::Timeout, detail)
}

/// Uploads an archive under its digest. Uploading it again is fine.
#[utoipa::path(put, path = paths::ARTIFACT, tag = "releases", params(("tenant" = String, Path), ("digest" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Artifact)))]
pub(crate) async fn upload(
    State(app): State<App>,
    Path((tenant, digest)): Path<(String, String)>,
    change: Change,
    body: Body,
) -> Result<Json<Artifact>, ApiError> {
    let tenant = resolve::tenant_id(&app.engine.state(), &tenant)?;
    change.require(&app, Role::Deployer, Scope::Somewhere(tenant))?;
    let digest = parse::digest("digest", &digest)?;
    let mut under_way = app.uploads.begin(tenant, digest).await?;
    let mut quota = Quota::of(&app, tenant, digest);
    // If nothing is left, its body is not read.
    quota.holds(&under_way, 1)?;
    let mut upload = app.artifacts.upload(digest, quota.size_max(&app)).await?;
    let (mut chunks, mut flow) = (body.into_data_stream(), Flow::default());
    loop {
        let asked = Instant::now();
        let next = tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await.map_err(|_| stalled())?;
        let Some(chunk) = next else { break };
        let chunk = chunk
            .map_err(|_| ApiError::new(ErrorCode::MalformedRequest, "the upload broke off; send it again"))?;
        let bytes = chunk.len() as u64;
        flow.came(bytes, asked.elapsed())?;
        // It takes its time: what its caller may do can end before it does.
        change.require(&app, Role::Deployer, Scope::Somewhere(tenant))?;
        if quota.is_old(bytes) {
            quota = Quota::of(&app, tenant, digest);
        }
        under_way.add(bytes);
        quota.holds(&under_way, 0)?;
        upload.write(&chunk).await?;
    }
    let tenant_bytes_max = quota.max;
    app.archives.check(tenant, upload.look().await?, upload.size_bytes()).await?;
    // It is held until the journal knows of it, so that nobody removes what nobody knows yet.
    let stored = upload.finish().await?;
    let size_bytes = stored.size_bytes;
    let command = TenantCommand::StoreArtifact { digest, size_bytes, tenant_bytes_max };
    let recorded = change.tenant(&app, tenant, &(), command).await;
    drop((stored, under_way));
    if let Err(error) = recorded {
        // What the journal does not know of is nobody's. If it cannot be removed, the next look at old archives does it.
        let engine = app.engine.clone();
        drop(app.artifacts.remove(digest, move || engine.state().knows_artifact(digest)).await);
        return Err(error);
    }
    Ok(Json(Artifact { digest: digest.to_string(), size_bytes }))
}

/// What a tenant may have in archives, and has.
struct Quota {
    tenant: String,
    /// In bytes; `None`: as much as there is room for.
    max: Option<u64>,
    /// What the journal knows of, in bytes.
    used: u64,
    /// The archives that this is, with the size of each in bytes.
    has: OrdMap<Digest, u64>,
    /// The size of the archive that comes if the tenant has it already: it takes nothing more.
    known: Option<u64>,
    /// How much has come since this was so, in bytes.
    since: u64,
}

impl Quota {
    fn of(app: &App, tenant: TenantId, digest: Digest) -> Self {
        let state = app.engine.state();
        let found = state.tenants.get(&tenant);
        Self {
            tenant: found.map(|tenant| tenant.name.to_string()).unwrap_or_default(),
            max: app.tuning.tenant_artifact_bytes_max(),
            used: found.map_or(0, |tenant| tenant.artifact_bytes()),
            has: found.map(|tenant| tenant.artifacts.clone()).unwrap_or_default(),
            known: found.and_then(|tenant| tenant.artifacts.get(&digest).copied()),
            since: 0,
        }
    }

    /// The most that is taken of the archive, in bytes.
    fn size_max(&self, app: &App) -> u64 {
        let max = app.tuning.artifact_bytes_max();
        self.known.map_or(max, |size| size.min(max))
    }

    /// Whether it has to be asked again, now that so many bytes have come.
    const fn is_old(&mut self, bytes: u64) -> bool {
        self.since += bytes;
        self.since > QUOTA_BYTES
    }

    /// Refuses what is more than the tenant may have if this upload brings `more` bytes. If those beside it are in the way, they may end
    /// without being stored: it can come again then.
    fn holds(&self, under_way: &UnderWay, more: u64) -> Result<(), ApiError> {
        let Some(max) = self.max else { return Ok(()) };
        let all = self.used.saturating_add(under_way.of_tenant(&self.has, more));
        if self.known.is_some() || all <= max {
            return Ok(());
        }
        let detail = format!(
            "the archives of tenant {} have {all} bytes of at most {max}, with what is being uploaded: whoever runs the control plane can raise \
             api.tenant_artifact_bytes_max, or let old ones go with retention.artifact_days",
            self.tenant
        );
        if self.used.saturating_add(under_way.bytes()).saturating_add(more) > max {
            return Err(ApiError::new(ErrorCode::Conflict, detail));
        }
        let detail = format!(
            "{detail}; alone this one would fit so far: send it again when the other uploads have ended"
        );
        Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail))
    }
}

/// Whether an archive is there, and how large it is. One that the tenant has by the journal, and that is not on the disk, for example
/// after a backup without archives was restored, is not there: it can be uploaded again.
#[utoipa::path(get, path = paths::ARTIFACT, tag = "releases", params(("tenant" = String, Path), ("digest" = String, Path)),
    responses((status = 200, body = Artifact)))]
pub(crate) async fn artifact(
    State(app): State<App>,
    Path((tenant, text)): Path<(String, String)>,
) -> Result<Json<Artifact>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let digest = parse::digest("digest", &text)?;
    match tenant.artifacts.get(&digest).copied() {
        Some(size_bytes) if app.artifacts.contains(digest).await? => {
            Ok(Json(Artifact { digest: digest.to_string(), size_bytes }))
        }
        Some(_) | None => Err(ApiError::not_found("artifact", &text)),
    }
}

/// Which releases.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReleaseFilter {
    /// Only those of this application.
    application: Option<String>,
    /// Only those in this channel.
    channel: Option<String>,
    /// How many items at most, 1 to 500; 100 if not given.
    limit: Option<usize>,
    /// Where the page before ended: its `next_cursor`.
    cursor: Option<String>,
    /// `oldest` (if not given) or `newest`: what comes first.
    #[param(inline)]
    first: Option<First>,
}

/// Lists releases.
#[utoipa::path(get, path = paths::RELEASES, tag = "releases", params(("tenant" = String, Path), ReleaseFilter),
    responses((status = 200, body = Page<ReleaseDto>)))]
pub(crate) async fn releases(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(filter): Query<ReleaseFilter>,
) -> Result<Json<Page<ReleaseDto>>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let is = |wanted: &Option<String>, name: &Name| wanted.as_ref().is_none_or(|it| it == name.as_str());
    let in_channel =
        |it: &Release| filter.channel.is_none() || it.channels.iter().any(|name| is(&filter.channel, name));
    let wanted =
        tenant.releases.iter().filter(|(_, it)| is(&filter.application, &it.application) && in_channel(it));
    let paging = Paging { limit: filter.limit, cursor: filter.cursor, first: filter.first };
    page(&paging, wanted.map(|(id, it)| (*id, it)), |it| view::release(tenant, it))
}

/// Creates a release from archives that were uploaded.
#[utoipa::path(post, path = paths::RELEASES, tag = "releases", params(("tenant" = String, Path)),
    request_body = CreateRelease, responses((status = 201, body = ReleaseDto)))]
pub(crate) async fn create_release(
    State(app): State<App>,
    Path(tenant): Path<String>,
    change: Change,
    Json(body): Json<CreateRelease>,
) -> Result<(StatusCode, Json<ReleaseDto>), ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    let new = NewRelease {
        id: ReleaseId(Uuid::now_v7()),
        application: parse::name("application", &body.application)?,
        version: parse::version("version", &body.version)?,
        components: components(tenant, &body)?,
        steps: parse::steps(&body.steps)?,
        labels: body.labels.clone(),
        provenance: body.provenance.as_ref().map(parse::provenance).transpose()?,
        signatures: signatures(tenant, &body)?,
        bounds: app.tuning.release_bounds(),
    };
    let command = TenantCommand::CreateRelease(Box::new(new));
    let outcome = change.tenant(&app, tenant.id, &body, command).await;
    let outcome = outcome.map_err(|error| error.named(parse::step_field_as_written))?;
    let Outcome::Release(id) = outcome else { return Err(unexpected(&outcome)) };
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant.id.to_string())?;
    Ok((StatusCode::CREATED, Json(view::release(tenant, resolve::release(tenant, &id.to_string())?))))
}

fn signatures(tenant: &TenantState, body: &CreateRelease) -> Result<Vec<(Digest, Signature)>, ApiError> {
    let numbered = body.signatures.iter().enumerate();
    numbered.map(|(at, it)| parse::signature(tenant, &format!("signatures[{at}]."), it)).collect()
}

/// The components with the sizes that their uploads had.
fn components(tenant: &TenantState, body: &CreateRelease) -> Result<Vec<Component>, ApiError> {
    let numbered = body.components.iter().enumerate();
    numbered
        .map(|(at, component)| {
            let field = format!("components[{at}].digest");
            let digest = parse::digest(&field, &component.digest)?;
            let size_bytes = *tenant.artifacts.get(&digest).ok_or_else(|| {
                ApiError::invalid(
                    &field,
                    format!("no archive {digest} was uploaded; PUT it to .../artifacts/{digest} first"),
                )
            })?;
            let name = parse::name(&format!("components[{at}].name"), &component.name)?;
            Ok(Component { name, digest, size_bytes })
        })
        .collect()
}

/// Shows a release.
#[utoipa::path(get, path = paths::RELEASE, tag = "releases", params(("tenant" = String, Path), ("release" = String, Path)),
    responses((status = 200, body = ReleaseDto)))]
pub(crate) async fn release(
    State(app): State<App>,
    Path((tenant, release)): Path<(String, String)>,
) -> Result<Json<ReleaseDto>, ApiError> {
    let state = app.engine.state();
    let tenant = resolve::tenant(&state, &tenant)?;
    Ok(Json(view::release(tenant, resolve::release(tenant, &release)?)))
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the enum may grow; an unknown problem is an internal one"
        )]
        let code = match &error {
            StoreError::WrongDigest { .. } => ErrorCode::WrongDigest,
            StoreError::TooLarge { .. } => ErrorCode::TooLarge,
            StoreError::NoSpace { .. } => ErrorCode::NoSpace,
            StoreError::TooManyFollowed { .. } => ErrorCode::Overloaded,
            // Damage, broken files and what later versions add: nothing that a caller can mend.
            _ => return Self::internal(&error),
        };
        Self::new(code, error.to_string())
    }
}
