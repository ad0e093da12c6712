//! The description of all endpoints: `GET /openapi.json`, and Swagger UI over it at `/docs`.
//!
//! Each dialect describes its endpoints where they stand, and a route is made of its description, so that there is none
//! without one. What all share is here.

use std::collections::BTreeMap;

use axum::{Json, Router, routing::get};
use utoipa::{
    OpenApi,
    openapi::{
        Components, Content, OpenApi as Document, Paths, RefOr, Required, Response,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Schema, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_swagger_ui::SwaggerUi;

use crate::api::{ApiState, openai};

mod examples;

/// Where the description is.
pub(super) const JSON_PATH: &str = "/openapi.json";
/// Where people read it; what the page is made of lies below.
const PAGES_PATH: &str = "/docs";
/// The page itself.
pub(super) const PAGE_PATH: &str = "/docs/";

const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lacuna",
        description = "Completes code: fill-in-the-middle on the models of this server, in the dialects that editors and GitLab speak."
    ),
    tags(
        (name = "OpenAI", description = "Completions of texts, gaps and conversations, as editors' plugins ask for them."),
        (name = "GitLab", description = "The code suggestions of GitLab's AI Gateway."),
        (name = "Telemetry", description = "What became of completions: shown, taken, sent away."),
        (name = "Routes", description = "Looking after the targets of routes; for keys with the scope `admin`."),
        (name = "Status", description = "How the server does; for keys with the scope `admin`, and to all at the address of metrics, as `/status` and `/status.json`."),
        (name = "Probes", description = "Is the server alive, and would it take a request.")
    )
)]
struct Head;

/// Returns what a description begins with.
pub(super) fn head() -> Document {
    let mut document = Head::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key, or a token of GitLab; an open server asks for neither."))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let known = SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, []);
    document.security = Some(vec![known, SecurityRequirement::default()]);
    document
}

/// Finishes a description: the router's wildcards are parameters to everybody else.
pub(super) fn finished(mut document: Document) -> Document {
    let mut paths = Paths::new();
    for (path, mut item) in std::mem::take(&mut document.paths.paths) {
        let path = path.replace("{*", "{");
        for (method, operation) in [("get", &mut item.get), ("post", &mut item.post)] {
            let Some(operation) = operation else { continue };
            // A handler's name is its module's own; a path is one of all.
            let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
            let words: Vec<&str> = std::iter::once(method).chain(words).collect();
            operation.operation_id = Some(words.join("_"));
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    "The answer.".clone_into(&mut response.description);
                }
            }
        }
        paths.paths.insert(path, item);
    }
    document.paths = paths;
    examples::put(&mut document);
    document
}

/// Returns the endpoints that hand a description out.
pub(super) fn routes(document: Document) -> Router<ApiState> {
    let pages: Router<ApiState> =
        SwaggerUi::new(PAGES_PATH).config(utoipa_swagger_ui::Config::from(JSON_PATH)).into();
    Router::new()
        .route(JSON_PATH, get(async || Json(document)))
        .merge(pages)
        .method_not_allowed_fallback(openai::wrong_method)
}

/// Returns whether a path is the description's or a page's over it.
pub(super) fn is_of(path: &str) -> bool {
    let of_pages = path.strip_prefix(PAGES_PATH);
    path == JSON_PATH || of_pages.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the answers of a failure a row: its status, when it comes, all with one body.
pub(super) fn failures(
    rows: &[(u16, &str)],
    body: &RefOr<Schema>,
) -> BTreeMap<String, RefOr<Response>> {
    let response = |description: &str| {
        let mut response = Response::new(description);
        let content = Content::new(Some(body.clone()));
        response.content.insert("application/json".to_owned(), RefOr::T(content));
        RefOr::T(response)
    };
    rows.iter().map(|(status, text)| (status.to_string(), response(text))).collect()
}

/// Describes a whole number of any size, or null.
pub(super) fn optional_integer() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null])).into()
}

/// Returns a header of a request for each row: its name, and what it says.
pub(super) fn headers(rows: &[(&str, &str)]) -> Vec<Parameter> {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let parameter = |(name, description): &(&str, &str)| {
        ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(*description))
            .schema(Some(text.clone()))
            .build()
    };
    rows.iter().map(parameter).collect()
}
