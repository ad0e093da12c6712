//! The description of the endpoints, and the pages over it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::{self, get},
    issuer::{ONE, TestClock, guard, signs_with},
    provider::sum,
};

async fn document(server: &TestServer) -> Value {
    let answer = get(server.address, "/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn describes_every_endpoint_and_nothing_that_is_not_there() {
    let server = TestServer::start(sum()).await;
    let document = document(&server).await;
    assert_eq!(document["info"]["title"], "Lacuna");
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    let expected = [
        ("/admin/routes/{name}/weights", "post"),
        ("/admin/status", "get"),
        ("/admin/targets", "get"),
        ("/admin/targets/{name}/{action}", "post"),
        ("/health", "get"),
        ("/monitoring/healthz", "get"),
        ("/monitoring/ready", "get"),
        ("/v1/chat/completions", "post"),
        ("/v1/code/user_access_token", "post"),
        ("/v1/completions", "post"),
        ("/v1/events", "post"),
        ("/v1/models", "get"),
        ("/v1/models/definitions", "get"),
        ("/v1/models/{id}", "get"),
        ("/v1/prompts/{id}", "post"),
        ("/v1/telemetry/events", "post"),
        ("/v2/code/completions", "post"),
        ("/v2/code/generations", "post"),
        ("/v2/completions", "post"),
        ("/v2/prompts/{id}", "post"),
        ("/v3/code/completions", "post"),
        ("/v4/code/suggestions", "post"),
    ];
    let mut described: Vec<(&str, &str)> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|m| (path.as_str(), m.as_str()))
        })
        .collect();
    described.sort_unstable();
    assert_eq!(described, expected);
    let mut ids = BTreeSet::new();
    for (path, method) in described {
        assert!(ids.insert(paths[path][method]["operationId"].to_string()), "{path}");
        for (status, answer) in paths[path][method]["responses"].as_object().unwrap() {
            assert!(answer["description"].is_string(), "{path} {status}");
        }
        let operation = &paths[path][method];
        assert!(operation["summary"].is_string(), "{path} has no summary");
        assert!(operation["responses"]["200"].is_object(), "{path} has no answer");
        if path.starts_with("/admin/") {
            // Only a key opens these, on a server too that is open otherwise.
            assert_eq!(get(server.address, path).await.status, 403, "{path}");
            continue;
        }
        // Whatever the endpoint makes of an empty body: it is there, and has no other method.
        let path =
            path.replace("{id}", "some/name").replace("{name}", "a").replace("{action}", "open");
        let request = client::request(&method.to_uppercase(), &path, &[], b"{}");
        assert_ne!(client::send(server.address, &request).await.status, 405, "{path}");
        let request = client::request("DELETE", &path, &[], b"");
        assert_eq!(client::send(server.address, &request).await.status, 405, "{path}");
    }
}

#[tokio::test]
async fn every_reference_leads_to_a_schema_and_every_schema_is_referred_to() {
    let server = TestServer::start(sum()).await;
    let document = document(&server).await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let known: BTreeSet<String> =
        schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
    let found: BTreeSet<String> = found.into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(found, known);
}

/// What a rule says and what the description of it says.
#[tokio::test]
async fn the_limits_are_those_that_are_checked() {
    let server = TestServer::start(sum()).await;
    let document = document(&server).await;
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let file = schema("gitlab.File");
    assert_eq!(
        file["required"],
        json!(["file_name", "content_above_cursor", "content_below_cursor"])
    );
    let max = file["properties"]["file_name"]["maxLength"].as_u64().unwrap() as usize;
    let body = |name: String| {
        json!({"current_file": {
            "file_name": name, "content_above_cursor": "a", "content_below_cursor": "",
        }})
        .to_string()
    };
    let post = async |name: String| {
        client::post(server.address, "/v2/code/completions", &body(name)).await.status
    };
    assert_eq!((post("n".repeat(max)).await, post("n".repeat(max + 1)).await), (200, 422));
    let context = &schema("gitlab.V2Request")["properties"]["context"];
    assert_eq!(context["maxItems"], 100);
    assert_eq!(schema("gitlab.V2Request")["required"], json!(["current_file"]));
}

#[tokio::test]
async fn what_the_page_fills_in_is_answered() {
    let server = TestServer::start(sum()).await;
    let document = document(&server).await;
    let mut num_completing = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        let Some(example) = content.get("example") else { continue };
        let answer = client::post(server.address, path, &example.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let mut headers = item["post"]["parameters"].as_array().into_iter().flatten();
        num_completing += usize::from(headers.any(|it| it["name"] == "X-Lacuna-Timeout-Ms"));
    }
    assert_eq!(num_completing, 7, "each endpoint that completes has an example and the header");
}

#[tokio::test]
async fn pages_show_it_to_who_is_not_known_too() {
    let server = TestServer::start_guarded(
        sum(),
        guard(&TestClock::new(), |config| signs_with(config, ONE)),
    )
    .await;
    assert_eq!(get(server.address, "/v1/models").await.status, 401);
    assert_eq!(get(server.address, "/openapi.json").await.status, 200);
    let answer = get(server.address, "/docs").await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/docs/")));
    let page = get(server.address, "/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger-ui"), "{}", page.text());
    let script = get(server.address, "/docs/swagger-initializer.js").await;
    assert!(script.text().contains("/openapi.json"), "{}", script.text());
    assert_eq!(get(server.address, "/docs/swagger-ui.css").await.status, 200);
    for path in ["/docs/..%2f..%2fetc%2fpasswd", "/docs/none.js", "/docsx"] {
        let status = get(server.address, path).await.status;
        assert!(matches!(status, 401 | 404), "{path}: {status}");
    }
}
