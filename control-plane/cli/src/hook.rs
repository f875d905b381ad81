//! Incoming webhooks.

use stella_api_types::hook::{CreateHook, Hook, HookDeploy, HookSecretMade, HookWorkflow, RotateHook};
use stella_api_types::paths;

use crate::args::{self, Output};
use crate::client::Error;
use crate::{Context, print, when};

pub(crate) async fn hook(context: &Context, command: args::Hook) -> Result<(), Error> {
    match command {
        args::Hook::Create(create) => {
            let quiet = create.quiet;
            let path = context.path(paths::HOOKS, &[])?;
            let made: HookSecretMade = context.client.post(&path, &body(create), None).await?;
            shown(context, &made, quiet)
        }
        args::Hook::List => {
            let hooks: Vec<Hook> = context.client.list(&context.path(paths::HOOKS, &[])?, &[]).await?;
            print::list(context.output, &hooks, &["NAME", "STARTS", "AS", "PATH"], |it| {
                vec![it.name.clone(), starts(it), acts_as(it), it.path.clone()]
            })
        }
        args::Hook::Show { hook } => {
            let shown: Hook = context.client.get(&context.path(paths::HOOK, &[&hook])?).await?;
            print::result(context.output, &shown, |it| described(context, it))
        }
        args::Hook::Rotate { hook, overlap, quiet } => {
            let body = RotateHook { overlap_seconds: overlap.unwrap_or_default() };
            let path = context.path(paths::HOOK_ROTATE, &[&hook])?;
            let made: HookSecretMade = context.client.post(&path, &body, None).await?;
            shown(context, &made, quiet)
        }
        args::Hook::Remove { hook } => {
            context.client.delete(&context.path(paths::HOOK, &[&hook])?).await?;
            print::result(context.output, &serde_json::json!({ "removed": hook }), |_| {
                format!("hook {hook} is removed; what it has started goes on")
            })
        }
    }
}

fn body(create: args::CreateHook) -> CreateHook {
    let args::CreateHook { name, account, workflow, inputs, environment, release, when, quiet: _ } = create;
    let inputs = inputs.into_iter().collect();
    CreateHook {
        name,
        account,
        workflow: workflow.map(|name| HookWorkflow { name, inputs }),
        deploy: environment.zip(release).map(|(environment, release)| HookDeploy { environment, release }),
        when,
    }
}

/// A hook and its secret, which is shown only now.
fn shown(context: &Context, made: &HookSecretMade, quiet: bool) -> Result<(), Error> {
    let secret = made.secret.clone().unwrap_or_default();
    if quiet && context.output == Output::Text {
        print::line(&secret);
        return Ok(());
    }
    print::result(context.output, made, |made| {
        let told = match &made.note {
            None => format!("secret: {secret}\nIt is shown only now."),
            Some(note) => note.clone(),
        };
        format!("{}\n{told}", described(context, &made.details))
    })
}

fn described(context: &Context, it: &Hook) -> String {
    let address = format!("{}{}", context.client.address(), it.path);
    let mut lines =
        vec![format!("hook {} {} as {}", it.name, starts(it), acts_as(it)), format!("address: {address}")];
    lines.extend(it.when.iter().map(|when| format!("when: {when}")));
    let workflow = it.workflow.iter().flat_map(|it| &it.inputs);
    lines.extend(workflow.map(|(name, source)| format!("input {name}: {source}")));
    lines.extend(it.deploy.iter().map(|it| format!("release: {}", it.release)));
    let until = it.former_secret_until.as_ref();
    lines.extend(until.map(|until| format!("the secret before is good until {}", when::moment(until))));
    lines.join("\n")
}

fn starts(it: &Hook) -> String {
    match (&it.workflow, &it.deploy) {
        (Some(workflow), _) => format!("runs workflow {}", workflow.name),
        (None, Some(deploy)) => format!("deploys to {}", deploy.environment),
        // A newer control plane may have more.
        (None, None) => "?".to_owned(),
    }
}

fn acts_as(it: &Hook) -> String {
    if it.account.name == it.account.id {
        "an account that was removed".to_owned()
    } else {
        it.account.name.clone()
    }
}
