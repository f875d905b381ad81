//! Accounts: who uses the API, and what they may do.

use stella_api_types::account::{Account, CreateAccount, GiveRole, Grant, SetRoles, WhoAmI};
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
            print::result(context.output, &shown, described)
        }
        args::Account::Roles { account, roles, nothing: _ } => {
            let body = SetRoles { roles: parse(&roles.roles)? };
            let path = paths::fill(paths::ACCOUNT_ROLES, &[&account]);
            let set: Account = context.client.post(&path, &body, None).await?;
            print::result(context.output, &set, described)
        }
        args::Account::Remove { account } => {
            context.client.delete(&paths::fill(paths::ACCOUNT, &[&account])).await?;
            print::result(context.output, &serde_json::json!({ "removed": account }), |_| {
                format!("account {account} is removed, its tokens are revoked")
            })
        }
    }
}

async fn create(context: &Context, name: String, service: bool, roles: &[String]) -> Result<(), Error> {
    let existing = paths::fill(paths::ACCOUNT, &[&name]);
    let kind = if service { "service" } else { "user" }.to_owned();
    let body = CreateAccount { name, kind, roles: parse(roles)? };
    catalogue::create(context, paths::ACCOUNTS, &body, &existing, |it: &Account| {
        format!("{}\nGive it a token with: stella token create PURPOSE --account {}", described(it), it.name)
    })
    .await
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
