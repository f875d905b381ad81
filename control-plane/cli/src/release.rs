//! Releases, and their signatures, which are made and checked here.

mod describe;

use std::path::{Path, PathBuf};

use stella_api_types::artifact::Artifact;
use stella_api_types::paths;
use stella_api_types::release::{
    Component, ComponentInput, CreateRelease, KEEP_RELEASES_WITHOUT_STEPS, Phase, Provenance, Reference,
    Release as Dto, Standing, Step, StepAction, TIMEOUT_MS_WITHOUT_STEPS,
};
use stella_api_types::signing::Sign;
use stella_signing::{PublicKey, Signature, SigningKey, Statement};

use crate::args::{Judged, NewRelease, Provenance as ProvenanceArgs, Release, Window};
use crate::client::{Error, read};
use crate::{Context, hold, print, release_key, upload, when, window};

pub(crate) async fn release(context: &Context, command: Release) -> Result<bool, Error> {
    match command {
        Release::Create(new) => create(context, *new).await?,
        Release::Upload { files } => upload_again(context, &files).await?,
        Release::List { application, channel, window } => {
            list(context, application, channel, &window).await?
        }
        Release::Show { release } => {
            print::result(context.output, &find(context, &release).await?, describe::release)?;
        }
        Release::Sign { release, key, statement } => {
            sign(context, &release, &key, statement.as_deref()).await?;
        }
        Release::Verify { release, keys } => return verify(context, &release, &keys).await,
        Release::Statement { release } => {
            print::line(&statement(&find(context, &release).await?)?.payload());
        }
        Release::Key(command) => release_key::key(context, command).await?,
        Release::Deprecate(Judged { release, reason }) => {
            hold::judge(context, &release, Standing::Deprecated, reason).await?;
        }
        Release::Block(Judged { release, reason }) => {
            hold::judge(context, &release, Standing::Blocked, reason).await?;
        }
        Release::Clear(Judged { release, reason }) => {
            hold::judge(context, &release, Standing::Good, reason).await?;
        }
    }
    Ok(true)
}

async fn find(context: &Context, release: &str) -> Result<Dto, Error> {
    context.client.get(&context.path(paths::RELEASE, &[release])?).await
}

async fn create(context: &Context, new: NewRelease) -> Result<(), Error> {
    let keys = new.sign_with.iter().map(|file| private_key(file)).collect::<Result<Vec<_>, _>>()?;
    let components = pinned(context, new.components).await?;
    let mut steps: Vec<Step> = match new.steps {
        None => Vec::new(),
        Some(path) => serde_json::from_str(&read(&path)?)
            .map_err(|error| Error::Usage(format!("{} is not a list of steps: {error}", path.display())))?,
    };
    if steps.is_empty() && !keys.is_empty() {
        // What is signed is said, and not left to the control plane.
        steps = components.iter().map(artifact_step).collect();
    }
    let mut body = CreateRelease {
        application: new.application,
        version: new.version,
        components: components
            .iter()
            .map(|it| ComponentInput { name: it.name.clone(), digest: it.digest.clone() })
            .collect(),
        steps,
        labels: new.labels.into_iter().collect(),
        provenance: provenance(new.provenance)?,
        signatures: Vec::new(),
    };
    let statement = stated(&body, &components)?;
    body.signatures = keys
        .iter()
        .map(|key| Sign {
            key: key.public().fingerprint().to_string(),
            signature: key.sign(&statement).to_string(),
        })
        .collect();
    let path = context.path(paths::RELEASES, &[])?;
    let (created, was_there) = match context.client.post::<_, Dto>(&path, &body, None).await {
        Ok(created) => (created, ""),
        Err(error) => {
            (repeated(context, &body, &components, error).await?, "\n(it was there already, and is the same)")
        }
    };
    print::result(context.output, &created, |it| {
        let by: Vec<&str> = it.signatures.iter().map(|it| it.name.as_str()).collect();
        let signed = if by.is_empty() { String::new() } else { format!(" signed by {}", by.join(", ")) };
        format!("release {}:{} {}{signed}{was_there}", it.application, it.version, it.id)
    })
}

/// The release that is there already, if it is the one that was to be created, with the signatures that it lacks; a pipeline may
/// be run again. If it is another one, what differs.
async fn repeated(
    context: &Context,
    new: &CreateRelease,
    components: &[Component],
    error: Error,
) -> Result<Dto, Error> {
    let name = format!("{}:{}", new.application, new.version);
    let Error::Refused(mut problem) = error else { return Err(error) };
    if problem.code != "already_exists" {
        return Err(Error::Refused(problem));
    }
    let mut found = find(context, &name).await?;
    let differs = differences(new, components, &found);
    if !differs.is_empty() {
        problem.detail = format!(
            "release {name} is there already with other content ({}); a release is never edited: choose another version",
            differs.join(", ")
        );
        return Err(Error::Refused(problem));
    }
    let path = context.path(paths::RELEASE_SIGNATURES, &[&found.id])?;
    for signature in &new.signatures {
        if !found.signatures.iter().any(|it| it.key == signature.key) {
            found = context.client.post(&path, signature, None).await?;
        }
    }
    Ok(found)
}

/// What of a release is not as it was to be, by the names of the fields.
fn differences(new: &CreateRelease, components: &[Component], found: &Dto) -> Vec<String> {
    let steps: Vec<Step> = match new.steps.as_slice() {
        [] => components.iter().map(artifact_step).collect(),
        steps => steps.to_vec(),
    };
    let mut differs: Vec<String> = components
        .iter()
        .filter(|it| !found.components.contains(it))
        .map(|it| format!("component {}", it.name))
        .collect();
    let is_new = |it: &&Component| !components.iter().any(|new| new.name == it.name);
    differs.extend(found.components.iter().filter(is_new).map(|it| format!("component {}", it.name)));
    let provenance = new.provenance.as_ref().filter(|it| **it != Provenance::default());
    let others = [
        (steps != found.steps, "steps"),
        (new.labels != found.labels, "labels"),
        (provenance != found.provenance.as_ref(), "provenance"),
    ];
    differs.extend(others.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name.to_owned()));
    differs
}

async fn upload_again(context: &Context, files: &[PathBuf]) -> Result<(), Error> {
    let tenant = context.settings.tenant()?;
    let mut there = Vec::with_capacity(files.len());
    for file in files {
        let (digest, size_bytes) = upload::ensure(&context.client, tenant, file).await?;
        there.push(Artifact { digest, size_bytes });
    }
    let head = ["DIGEST", "BYTES"];
    print::list(context.output, &there, &head, |it| vec![it.digest.clone(), it.size_bytes.to_string()])
}

/// Uploads what is not there yet and pins each component by its digest.
async fn pinned(context: &Context, components: Vec<(String, String)>) -> Result<Vec<Component>, Error> {
    let tenant = context.settings.tenant()?;
    let mut pinned = Vec::with_capacity(components.len());
    for (name, file) in components {
        let (digest, size_bytes) = upload::ensure(&context.client, tenant, Path::new(&file)).await?;
        pinned.push(Component { name, digest, size_bytes, removed: false });
    }
    Ok(pinned)
}

/// What a component gets if nobody says what to do with it.
fn artifact_step(component: &Component) -> Step {
    let action = StepAction::Artifact {
        component: component.name.clone(),
        keep_releases: KEEP_RELEASES_WITHOUT_STEPS,
    };
    Step { name: component.name.clone(), timeout_ms: TIMEOUT_MS_WITHOUT_STEPS, phase: Phase::Prepare, action }
}

fn provenance(said: ProvenanceArgs) -> Result<Option<Provenance>, Error> {
    let mut all: Provenance = match &said.provenance {
        None => Provenance::default(),
        Some(path) => serde_json::from_str(&read(path)?)
            .map_err(|error| Error::Usage(format!("{} is not a provenance: {error}", path.display())))?,
    };
    let reference = |(uri, digest): (String, String)| Reference { uri, digest };
    all.commit = said.commit.or(all.commit);
    all.repository = said.repository.or(all.repository);
    all.build_url = said.build_url.or(all.build_url);
    all.builder = said.builder.or(all.builder);
    all.sboms.extend(said.sboms.into_iter().map(reference));
    all.attestations.extend(said.attestations.into_iter().map(reference));
    Ok((all != Provenance::default()).then_some(all))
}

async fn list(
    context: &Context,
    application: Option<String>,
    channel: Option<String>,
    window: &Window,
) -> Result<(), Error> {
    let filters = [("application", &application), ("channel", &channel)];
    let query: Vec<(&str, &str)> =
        filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let path = context.path(paths::RELEASES, &[])?;
    let releases = window::list(context, &path, &query, window, |it: &Dto| (&it.id, &it.created_at)).await?;
    let head = ["RELEASE", "STANDING", "CHANNELS", "SIGNED BY", "COMPONENTS", "CREATED", "ID"];
    print::list(context.output, &releases, &head, |release| {
        let component = |it: &Component| {
            if it.removed { format!("{} (removed)", it.name) } else { it.name.clone() }
        };
        let components: Vec<String> = release.components.iter().map(component).collect();
        let signed: Vec<&str> =
            release.signatures.iter().filter(|it| it.counts).map(|it| it.name.as_str()).collect();
        vec![
            format!("{}:{}", release.application, release.version),
            hold::name(release.standing).to_owned(),
            if release.channels.is_empty() { "-".to_owned() } else { release.channels.join(",") },
            if signed.is_empty() { "-".to_owned() } else { signed.join(",") },
            components.join(","),
            when::ago(&release.created_at),
            release.id.clone(),
        ]
    })
}

async fn sign(context: &Context, release: &str, key: &Path, looked_at: Option<&str>) -> Result<(), Error> {
    let key = private_key(key)?;
    let found = find(context, release).await?;
    let statement = statement(&found)?;
    let digest = statement.digest().to_string();
    if looked_at.is_some_and(|it| it != digest) {
        let problem =
            format!("the statement of {release} is {digest}, and not the one that you have looked at");
        return Err(Error::Usage(problem));
    }
    let body =
        Sign { key: key.public().fingerprint().to_string(), signature: key.sign(&statement).to_string() };
    let path = context.path(paths::RELEASE_SIGNATURES, &[&found.id])?;
    let signed: Dto = context.client.post(&path, &body, None).await?;
    print::result(context.output, &signed, |it| {
        let by: Vec<&str> = it.signatures.iter().map(|it| it.name.as_str()).collect();
        format!("{}:{} is signed by {}; its statement is {digest}", it.application, it.version, by.join(", "))
    })
}

/// Trusts nothing that the control plane says about signatures, but what can be checked.
async fn verify(context: &Context, release: &str, keys: &[PathBuf]) -> Result<bool, Error> {
    let found = find(context, release).await?;
    let statement = statement(&found)?;
    let mut checked = Vec::with_capacity(keys.len());
    for file in keys {
        let key: PublicKey =
            read(file)?.parse().map_err(|error| Error::Usage(format!("{} {error}", file.display())))?;
        let id = key.fingerprint().to_string();
        let has_signed =
            |text: &str| text.parse::<Signature>().is_ok_and(|it| key.has_signed(&statement, &it));
        let verified = found.signatures.iter().any(|it| it.key == id && has_signed(&it.signature));
        checked.push(serde_json::json!({ "file": file, "key": id, "verified": verified }));
    }
    let verdict = serde_json::json!({
        "release": format!("{}:{}", found.application, found.version),
        "statement": statement.digest().to_string(),
        "keys": checked,
    });
    print::result(context.output, &verdict, |verdict| {
        let line = |it: &serde_json::Value| {
            let said = if it["verified"] == true { "has signed" } else { "has NOT signed" };
            let statement = verdict["statement"].as_str().unwrap_or_default();
            format!("{} {said} {statement}", it["file"].as_str().unwrap_or_default())
        };
        checked.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    Ok(checked.iter().all(|it| it["verified"] == true))
}

fn private_key(file: &Path) -> Result<SigningKey, Error> {
    let failed = |problem: String| Error::Usage(format!("{} {problem}", file.display()));
    SigningKey::from_pem(&read(file)?).map_err(|error| failed(error.to_string()))
}

/// What is signed of a release, as it is shown.
fn statement(release: &Dto) -> Result<Statement, Error> {
    Ok(Statement {
        application: release.application.clone(),
        version: release.version.clone(),
        components: release.components.iter().map(component).collect::<Result<_, _>>()?,
        steps: release.steps.iter().map(json).collect::<Result<_, _>>()?,
        labels: release.labels.clone(),
        provenance: release.provenance.as_ref().map(json).transpose()?,
    })
}

/// What would be signed of a release that is not there yet.
fn stated(new: &CreateRelease, components: &[Component]) -> Result<Statement, Error> {
    Ok(Statement {
        application: new.application.clone(),
        version: new.version.clone(),
        components: components.iter().map(component).collect::<Result<_, _>>()?,
        steps: new.steps.iter().map(json).collect::<Result<_, _>>()?,
        labels: new.labels.clone(),
        provenance: new.provenance.as_ref().map(json).transpose()?,
    })
}

fn component(component: &Component) -> Result<stella_signing::Component, Error> {
    let digest = component.digest.parse();
    let digest = digest.map_err(|error| Error::Usage(format!("component {}: {error}", component.name)))?;
    Ok(stella_signing::Component { name: component.name.clone(), digest, size_bytes: component.size_bytes })
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::Usage(error.to_string()))
}
