//! Tokens of the API.

use stella_api_types::paths;
use stella_api_types::token::{ApiToken, ApiTokenCreated, CreateApiToken};

use crate::args::{Output, Token};
use crate::client::Error;
use crate::{Context, print};

pub(crate) async fn token(context: &Context, command: Token) -> Result<(), Error> {
    match command {
        Token::Create { name, quiet } => {
            let body = CreateApiToken { name };
            let created: ApiTokenCreated = context.client.post(paths::API_TOKENS, &body, None).await?;
            let token = created.token.clone().unwrap_or_default();
            if quiet && context.output == Output::Text {
                print::line(&token);
                return Ok(());
            }
            print::result(context.output, &created, |created| {
                format!(
                    "{token}\n\nToken {} for {}. It is shown only now.",
                    created.details.id, created.details.name
                )
            })
        }
        Token::List => {
            let tokens: Vec<ApiToken> = context.client.list(paths::API_TOKENS, &[]).await?;
            print::list(context.output, &tokens, &["ID", "NAME", "CREATED", ""], |token| {
                let yours = if token.is_yours { "yours" } else { "" };
                vec![token.id.clone(), token.name.clone(), token.created_at.clone(), yours.to_owned()]
            })
        }
        Token::Revoke { token } => {
            context.client.delete(&paths::fill(paths::API_TOKEN, &[&token])).await?;
            print::result(context.output, &serde_json::json!({ "revoked": token }), |_| {
                format!("token {token} is revoked")
            })
        }
    }
}
