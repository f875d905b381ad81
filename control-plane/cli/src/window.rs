//! Which part of a long list is shown.

use std::ops::ControlFlow;

use serde::de::DeserializeOwned;
use stella_api_types::Page;

use crate::args::{Output, Window};
use crate::client::Error;
use crate::{Context, print};

/// How many things a person is shown unless more are asked for.
const SHOWN: usize = 20;

/// The part of a list that is wanted: the newest first for people; for programs all of it in the order of the ids, unless they say
/// how much they want.
pub(crate) async fn list<T>(
    context: &Context,
    path: &str,
    query: &[(&str, &str)],
    window: &Window,
    id_and_at: impl Fn(&T) -> (&str, &str),
) -> Result<Vec<T>, Error>
where
    T: DeserializeOwned + utoipa::ToSchema,
    Page<T>: DeserializeOwned,
{
    let is_bounded = window.limit.is_some() || window.since.is_some() || window.until.is_some();
    if context.output == Output::Json && !is_bounded {
        return context.client.list(path, query).await;
    }
    let limit = match window.limit {
        Some(limit) => limit,
        None if window.all || window.since.is_some() || context.output == Output::Json => usize::MAX,
        None => SHOWN,
    };
    let look = |it: &T| match id_and_at(it).1 {
        at if window.since.as_deref().is_some_and(|since| at < since) => ControlFlow::Break(()),
        at => ControlFlow::Continue(window.until.as_deref().is_none_or(|until| at < until)),
    };
    let (found, is_more) = context.client.newest(path, query, limit, |it| id_and_at(it).0, look).await?;
    if is_more && window.limit.is_none() && context.output == Output::Text {
        print::note(&format!("the newest {limit} are shown; --all shows all of them"));
    }
    Ok(found)
}
