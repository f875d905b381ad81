//! Tokens of the API.

use stella_api_types::paths;
use stella_api_types::token::{ApiToken, ApiTokenCreated, CreateApiToken};

use crate::args::{Output, Token};
use crate::client::Error;
use crate::{Context, print, when};

pub(crate) async fn token(context: &Context, command: Token) -> Result<(), Error> {
    match command {
        Token::Create { name, account, expires_in, quiet } => {
            let body = CreateApiToken { name, account, expires_in_seconds: expires_in };
            let created: ApiTokenCreated = context.client.post(paths::API_TOKENS, &body, None).await?;
            let token = created.token.clone().unwrap_or_default();
            if quiet && context.output == Output::Text {
                print::line(&token);
                return Ok(());
            }
            print::result(context.output, &created, |created| {
                format!(
                    "{token}\n\nToken {} for {}, {}. It is shown only now.",
                    created.details.id,
                    created.details.name,
                    whose(&created.details)
                )
            })
        }
        Token::List => {
            let tokens: Vec<ApiToken> = context.client.list(paths::API_TOKENS, &[]).await?;
            print::list(
                context.output,
                &tokens,
                &["ID", "NAME", "OF", "CREATED", "EXPIRES", "USED HERE"],
                |token| {
                    let yours = if token.is_yours { "yes" } else { "" };
                    let of =
                        token.account.as_ref().map_or_else(|| "-".to_owned(), |account| account.name.clone());
                    let expires = token.expires_at.as_deref().map_or_else(|| "never".to_owned(), when::ago);
                    let (id, name, created) =
                        (token.id.clone(), token.name.clone(), when::ago(&token.created_at));
                    vec![id, name, of, created, expires, yours.to_owned()]
                },
            )
        }
        Token::Revoke { token } => {
            context.client.delete(&paths::fill(paths::API_TOKEN, &[&token])).await?;
            print::result(context.output, &serde_json::json!({ "revoked": token }), |_| {
                format!("token {token} is revoked")
            })
        }
    }
}

/// Whose a token is, as a part of a sentence.
fn whose(token: &ApiToken) -> String {
    let account = token.account.as_ref();
    account.map_or_else(|| "which may do everything".to_owned(), |it| format!("of account {}", it.name))
}
