//! What all operations of the document have in common, so that generated clients know it: problems, and the headers that a request may have.

use stella_api_types::problem::{MEDIA_TYPE, Problem};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, PathItem, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema as _};

use crate::submit::KEY_CHARACTERS_MAX;

/// The operations whose answer may be a feed that a client comes back to.
const FEEDS: [&str; 2] = ["events", "system_events"];

/// Notes it at each operation.
pub(crate) fn note(document: &mut OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert(Problem::name().into_owned(), Problem::schema());
    for item in document.paths.paths.values_mut() {
        let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
        for operation in [get, head, options, trace].into_iter().flatten() {
            note_all(operation);
        }
        for operation in [put, post, delete, patch].into_iter().flatten() {
            note_all(operation);
            take(operation, idempotency_key());
        }
    }
}

fn note_all(operation: &mut Operation) {
    take(operation, correlation_id());
    if operation.operation_id.as_deref().is_some_and(|id| FEEDS.contains(&id)) {
        take(operation, last_event_id());
    }
    for (status, description) in [
        ("4XX", "The request is refused: the problem says why, and what to do"),
        ("5XX", "The control plane could not do it: the problem says whether to try again"),
    ] {
        let schema = Ref::from_schema_name(Problem::name());
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let problem = ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build();
        operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(problem));
    }
}

fn take(operation: &mut Operation, parameter: Parameter) {
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}

fn idempotency_key() -> Parameter {
    let text = "Makes the request safe to repeat: with the same key it takes effect once, for 24 hours";
    header(
        "Idempotency-Key",
        text,
        ObjectBuilder::new().min_length(Some(1)).max_length(Some(KEY_CHARACTERS_MAX)),
    )
}

fn correlation_id() -> Parameter {
    let text =
        "What the caller calls the request: it comes back with the answer, and is in the log and in events";
    header("x-correlation-id", text, ObjectBuilder::new())
}

fn last_event_id() -> Parameter {
    header(
        "Last-Event-ID",
        "The last event of the feed that the client has: it goes on after that",
        ObjectBuilder::new(),
    )
}

fn header(name: &str, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema.schema_type(Type::String).build()))
        .build()
}
