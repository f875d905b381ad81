//! Accounts: who uses the API, and what they may do.

use stella_api_types::account::{Account, CreateAccount, GiveRole, Grant, RemovedAccount, SetRoles, WhoAmI};
use stella_api_types::page::Named;
use stella_api_types::paths;
use stella_api_types::system::{LogLevel, SetLogLevel};

use crate::args;
use crate::client::Error;
use crate::{Context, catalogue, print};

pub(crate) async fn account(context: &Context, command: args::Account) -> Result<(), Error> {
    match command {
        args::Account::Create { name, service, roles } => create(context, name, service, &roles.roles).await,
        args::Account::List => {
            let accounts: Vec<Account> = context.client.list(paths::ACCOUNTS, &[]).await?;
            print::list(context.output, &accounts, &["NAME", "KIND", "TOKENS", "ROLES"], |it| {
                vec![it.name.clone(), it.kind.clone(), it.tokens.to_string(), joined(&it.roles)]
            })
        }
        args::Account::Show { account } => {
            let shown: Account = context.client.get(&paths::fill(paths::ACCOUNT, &[&account])).await?;
            shown.warnings.iter().for_each(|warning| print::warning(warning));
            print::result(context.output, &shown, described)
        }
        args::Account::Roles { account, roles, nothing: _ } => {
            let body = SetRoles { roles: parse(&roles.roles)? };
            let path = paths::fill(paths::ACCOUNT_ROLES, &[&account]);
            let set: Account = context.client.post(&path, &body, None).await?;
            set.warnings.iter().for_each(|warning| print::warning(warning));
            print::result(context.output, &set, described)
        }
        args::Account::Remove { account } => {
            let path = paths::fill(paths::ACCOUNT, &[&account]);
            let removed: Option<RemovedAccount> = context.client.take_away(&path).await?;
            let warnings = removed.unwrap_or_default().warnings;
            warnings.iter().for_each(|warning| print::warning(warning));
            let shown = serde_json::json!({ "removed": account, "warnings": warnings });
            print::result(context.output, &shown, |_| {
                format!("account {account} is removed, its tokens are revoked")
            })
        }
    }
}

async fn create(context: &Context, name: String, service: bool, roles: &[String]) -> Result<(), Error> {
    let existing = paths::fill(paths::ACCOUNT, &[&name]);
    let kind = if service { "service" } else { "user" }.to_owned();
    let body = CreateAccount { name, kind, roles: parse(roles)? };
    let text = |it: &Account| {
        format!("{}\nGive it a token with: stella token create PURPOSE --account {}", described(it), it.name)
    };
    catalogue::create(context, paths::ACCOUNTS, &body, &existing, text, |there| otherwise(&body, there)).await
}

/// In what the account that is there is not the one that is wanted, and how to change it. Whoever names no roles leaves them as they are.
fn otherwise(wanted: &CreateAccount, there: &Account) -> Option<String> {
    let name = &there.name;
    if wanted.kind != there.kind {
        return Some(format!(
            "{name} is a {} account and not one of a {}, which stays so: take another name, or remove it first",
            there.kind, wanted.kind
        ));
    }
    let has = |grant: &Grant| wanted.roles.iter().any(|role| is_same(role, grant));
    let is_there = |role: &GiveRole| there.roles.iter().any(|grant| is_same(role, grant));
    if wanted.roles.is_empty() || (there.roles.iter().all(has) && wanted.roles.iter().all(is_there)) {
        return None;
    }
    let roles: Vec<String> = wanted.roles.iter().map(asked_for).collect();
    Some(format!(
        "{} and not {}; change it with: stella account roles {name} --role {}",
        described(there),
        roles.join(", "),
        roles.join(" --role ")
    ))
}

/// Whether a role that somebody names is one that an account has. A place goes by its name or its id.
fn is_same(wanted: &GiveRole, there: &Grant) -> bool {
    let place = |wanted: &Option<String>, there: &Option<Named>| match (wanted, there) {
        (Some(wanted), Some(there)) => *wanted == there.name || *wanted == there.id,
        (None, None) => true,
        _ => false,
    };
    wanted.role == there.role
        && place(&wanted.tenant, &there.tenant)
        && place(&wanted.environment, &there.environment)
}

/// A role as somebody wrote it.
fn asked_for(it: &GiveRole) -> String {
    let part = |sign: char, part: &Option<String>| {
        part.as_ref().map_or_else(String::new, |it| format!("{sign}{it}"))
    };
    format!("{}{}{}", it.role, part('@', &it.tenant), part('/', &it.environment))
}

/// For who administers the installation.
pub(crate) async fn log_level(context: &Context, level: Option<String>) -> Result<(), Error> {
    let shown: LogLevel = match level {
        None => context.client.get(paths::LOG_LEVEL).await?,
        Some(level) => context.client.post(paths::LOG_LEVEL, &SetLogLevel { level }, None).await?,
    };
    print::result(context.output, &shown, |it| {
        if it.level == it.configured {
            format!("{}, as configured", it.level)
        } else {
            format!("{} until the next start; configured is {}", it.level, it.configured)
        }
    })
}

pub(crate) async fn whoami(context: &Context) -> Result<(), Error> {
    let me: WhoAmI = context.client.get(paths::WHOAMI).await?;
    print::result(context.output, &me, |me| match &me.account {
        Some(account) => described(account),
        None => format!("token {}, which belongs to no account and may do everything", me.token),
    })
}

fn described(it: &Account) -> String {
    let roles = if it.roles.is_empty() { "nothing".to_owned() } else { joined(&it.roles) };
    format!("{} {} may: {roles}", it.kind, it.name)
}

fn joined(roles: &[Grant]) -> String {
    roles.iter().map(written).collect::<Vec<_>>().join(", ")
}

/// A role as it is written on the command line.
fn written(it: &Grant) -> String {
    let tenant = it.tenant.as_ref().map_or_else(String::new, |tenant| format!("@{}", tenant.name));
    let environment = it.environment.as_ref().map_or_else(String::new, |it| format!("/{}", it.name));
    format!("{}{tenant}{environment}", it.role)
}

fn parse(roles: &[String]) -> Result<Vec<GiveRole>, Error> {
    roles.iter().map(|text| parse_role(text)).collect()
}

fn parse_role(text: &str) -> Result<GiveRole, Error> {
    let (role, place) = text.split_once('@').map_or((text, None), |(role, place)| (role, Some(place)));
    let (tenant, environment) = match place.map(|place| place.split_once('/').ok_or(place)) {
        None => (None, None),
        Some(Err(tenant)) => (Some(tenant), None),
        Some(Ok((tenant, environment))) => (Some(tenant), Some(environment)),
    };
    if [Some(role), tenant, environment].into_iter().flatten().any(str::is_empty) {
        let problem = format!("--role {text:?} is not ROLE, ROLE@TENANT or ROLE@TENANT/ENVIRONMENT");
        return Err(Error::Usage(problem));
    }
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(GiveRole { role: role.to_owned(), tenant: owned(tenant), environment: owned(environment) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_is_there_with_other_roles_is_told_with_the_way_to_change_them() {
        let there: Account = serde_json::from_value(serde_json::json!({
            "id": "1", "name": "alice", "kind": "user", "tokens": 0, "created_at": "",
            "roles": [{"role": "deployer", "tenant": {"id": "7", "name": "acme"}}, {"role": "viewer"}],
        }))
        .unwrap();
        let told = |kind: &str, roles: &[&str]| {
            let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
            let roles = parse(&roles).unwrap();
            otherwise(&CreateAccount { name: "alice".into(), kind: kind.to_owned(), roles }, &there)
        };
        assert_eq!(told("user", &[]), None, "whoever names no roles says nothing of them");
        assert_eq!(told("user", &["viewer", "deployer@acme"]), None);
        assert_eq!(told("user", &["deployer@7", "viewer"]), None, "by id as well");
        for other in
            [&["viewer"][..], &["viewer", "deployer@acme", "admin"], &["viewer", "deployer@acme/staging"]]
        {
            let told = told("user", other).unwrap();
            let all = other.join(" --role ");
            assert!(told.ends_with(&format!("stella account roles alice --role {all}")), "{told}");
        }
        assert!(told("service", &[]).unwrap().contains("is a user account"));
    }

    #[test]
    fn a_role_is_written_with_its_place() {
        let parsed = |text| parse_role(text).map(|it| (it.role, it.tenant, it.environment)).ok();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("admin"), Some(("admin".to_owned(), None, None)));
        assert_eq!(parsed("viewer@acme"), Some(("viewer".to_owned(), some("acme"), None)));
        let all = ("deployer".to_owned(), some("acme"), some("staging"));
        assert_eq!(parsed("deployer@acme/staging"), Some(all));
        for wrong in ["", "@acme", "viewer@", "viewer@/staging", "viewer@acme/"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }
}
