//! What a table of `[[providers]]` may say: each refusal by its key, and never a secret.

use lacuna::config::Config;
use tempfile::TempDir;

use crate::support::{load, provider_of};

const BEGIN: &str = "[[providers]]\nname = \"far\"\nmodel = \"m\"\n";

/// Returns the first provider's refusal.
fn refusal(text: &str) -> String {
    let variables = [("FAR_KEY", "s3cret"), ("BAD_KEY", "two\nlines s3cret")];
    match load(text, &variables) {
        Err(error) => error.to_string(),
        Ok(config) => provider_of(&config).map(|_| ()).unwrap_err(),
    }
}

/// What follows the beginning of a table, with the names of files between braces, and how its refusal begins.
const REFUSED: &[(&str, &str)] = &[
    (
        "protocol = \"grpc\"",
        "`providers[0].protocol` must be one of openai-completions, openai-chat, mistral-fim, vertex-mistral, anthropic, vertex-anthropic, ollama, llama-cpp, got grpc",
    ),
    (
        "protocol = \"openai-chat\"",
        "`providers[0].url` must be the address of the service for openai-chat, got nothing",
    ),
    (
        "protocol = \"mistral-fim\"",
        "`providers[0].api_key_file` must be said, or `api_key_env`, for mistral-fim, got nothing",
    ),
    ("protocol = \"anthropic\"", "`providers[0].api_key_file` must be said"),
    ("protocol = \"vertex-mistral\"", "`providers[0].project` must be the project"),
    (
        "protocol = \"vertex-mistral\"\nproject = \"p\"\napi_key_env = \"FAR_KEY\"",
        "`providers[0].api_key_file` must be left out for vertex-mistral",
    ),
    ("protocol = \"vertex-mistral\"\nproject = \"../p\"", "`providers[0].project` must be letters"),
    (
        "protocol = \"vertex-mistral\"\nproject = \"p\"\ncredentials_file = \"{broken}\"",
        "`providers[0].credentials_file` must be the JSON of a service account",
    ),
    (
        "protocol = \"openai-completions\"\nurl = \"http://a\"",
        "`providers[0].family` must be the model's family, which fills gaps",
    ),
    (
        "protocol = \"openai-completions\"\nurl = \"http://a\"\nfamily = \"devstral\"",
        "`providers[0].family` must be the model's family, which fills gaps",
    ),
    (
        "protocol = \"ollama\"\nfamily = \"klingon\"",
        "`providers[0].family` must be one of qwen2.5-coder,",
    ),
    (
        "protocol = \"ollama\"\nfim = \"instruction\"",
        "`providers[0].fim` must be one of suffix, template, none for ollama, got instruction",
    ),
    (
        "protocol = \"ollama\"\nfim = \"magic\"",
        "`providers[0].fim` must be one of template, suffix, instruction, none, got magic",
    ),
    (
        "protocol = \"ollama\"\nurl = \"ftp://a\"",
        "`providers[0].url` must be an http or https address",
    ),
    (
        "protocol = \"ollama\"\nurl = \"https://ada:s3cret@a\"",
        "`providers[0].url` must be an http or https address",
    ),
    (
        "protocol = \"ollama\"\nurl = \"https://\"",
        "`providers[0].url` must be an http or https address",
    ),
    (
        "protocol = \"ollama\"\nproxy = \"socks5://a\"",
        "`providers[0].proxy` must be environment, none, or an http",
    ),
    (
        "protocol = \"ollama\"\napi_key_file = \"/no/key\"",
        "`providers[0].api_key_file` must be a file that can be read",
    ),
    (
        "protocol = \"ollama\"\napi_key_file = \"{empty}\"",
        "`providers[0].api_key_file` must be a file that holds one line",
    ),
    (
        "protocol = \"ollama\"\napi_key_file = \"{broken}\"",
        "`providers[0].api_key_file` must be a file that holds one line",
    ),
    (
        "protocol = \"ollama\"\napi_key_env = \"NO_KEY\"",
        "`providers[0].api_key_env` must be a variable that is set, got \"NO_KEY\"",
    ),
    (
        "protocol = \"ollama\"\napi_key_env = \"BAD_KEY\"",
        "`providers[0].api_key_env` must be a variable that holds one line",
    ),
    (
        "protocol = \"ollama\"\napi_key_env = \"FAR_KEY\"\napi_key_file = \"{empty}\"",
        "`providers[0].api_key_env` must be left out where `api_key_file` is said",
    ),
    (
        "protocol = \"ollama\"\nca_file = \"/no/ca\"",
        "`providers[0].ca_file` must be a file that can be read",
    ),
    (
        "protocol = \"ollama\"\nca_file = \"{broken}\"",
        "`providers[0].ca_file` must be a file of certificates in PEM",
    ),
    (
        "protocol = \"ollama\"\nca_file = \"{not_der}\"",
        "`providers[0].ca_file` must be what a TLS client can be made of",
    ),
    (
        "protocol = \"ollama\"\nclient_cert_file = \"{ca}\"",
        "`providers[0].client_key_file` must be said with `client_cert_file`",
    ),
    (
        "protocol = \"ollama\"\nclient_cert_file = \"{ca}\"\nclient_key_file = \"{ca}\"",
        "`providers[0].client_key_file` must be a file of a private key",
    ),
    (
        "protocol = \"ollama\"\nclient_cert_file = \"{ca}\"\nclient_key_file = \"{key}\"",
        "`providers[0].client_cert_file` must be what a TLS client",
    ),
    (
        "protocol = \"ollama\"\nheaders = { Authorization = \"s3cret\" }",
        "`providers[0].headers` must be values, and for what is a secret",
    ),
    (
        "protocol = \"ollama\"\nheaders = { Host = \"a\" }",
        "`providers[0].headers` must be names of headers",
    ),
    (
        "protocol = \"ollama\"\nmax_context_tokens = 3",
        "`providers[0].max_context_tokens` must be between 64",
    ),
    (
        "protocol = \"ollama\"\nmax_context_tokens = 79",
        "`providers[0].max_context_tokens` must be at least 80, for `completion.max_tokens_default`",
    ),
    (
        "protocol = \"ollama\"\nmax_concurrency = 0",
        "`providers[0].max_concurrency` must be between 1",
    ),
    (
        "protocol = \"ollama\"\nbytes_per_token = 0.5",
        "`providers[0].bytes_per_token` must be between 1 and 8, got 0.5",
    ),
    (
        "protocol = \"ollama\"\ntimeout_connect = \"5\"",
        "`providers[0].timeout_connect` must be a time between",
    ),
    (
        "protocol = \"ollama\"\nserved_as = \"demo\"",
        "`providers[0].served_as` must be a name of its own, other than that of a model",
    ),
    (
        "protocol = \"ollama\"\n{BEGIN}protocol = \"ollama\"\n",
        "`providers[1].name` must be a name of its own, other than that of `providers[0].name`",
    ),
];

#[test]
fn what_cannot_be_used_is_refused_by_its_key_without_secrets() {
    let folder = TempDir::new().unwrap();
    let not_der = "-----BEGIN CERTIFICATE-----\nczNjcmV0\n-----END CERTIFICATE-----\n";
    for (name, text) in [("empty", ""), ("broken", "s3cret\nlines"), ("not_der", not_der)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (text, expected) in REFUSED {
        let text = text
            .replace("{empty}", &file("empty"))
            .replace("{broken}", &file("broken"))
            .replace("{not_der}", &file("not_der"))
            .replace("{ca}", &format!("{keys}/tls/ca.pem"))
            .replace("{key}", &format!("{keys}/one.pem"))
            .replace("{BEGIN}", BEGIN);
        let message = refusal(&format!("{BEGIN}{text}"));
        assert!(message.starts_with(expected), "{text}\n{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn a_table_is_read_with_its_places_and_printed_without_its_secrets() {
    let place = |text: &str| load(text, &[]).unwrap_err().to_string();
    let error = place("[[providers]]\nname = \"a\"\nprotocl = \"ollama\"");
    assert!(
        error.ends_with(
            ":3:1: unknown key `providers[0].protocl`; the nearest is `providers[0].protocol`"
        ),
        "{error}"
    );
    let error = place("[[providers]]\nname = 4");
    assert!(error.contains(":2:8: `providers[0].name`: invalid type"), "{error}");
    let error = place("[[providers]]\nname = \"a b\"");
    assert!(
        error.contains("`providers[0].name` must be 1 to 64 letters") && error.contains(":2:1"),
        "{error}"
    );

    let text = format!(
        "{BEGIN}protocol = \"openai-completions\"\nurl = \"https://api.example.com/v1/\"\nfamily = \"codestral\"\nfim = \"suffix\"\napi_key_env = \"FAR_KEY\"\nmax_context_tokens = 4096\nproxy = \"http://proxy:3128\"\nserved_as = \"codestral-latest\"\n[providers.headers]\nX-Team = \"editors\"\nX-Token = {{ env = \"FAR_KEY\" }}\n[[providers]]\nname = \"near\"\nmodel = \"m\"\nprotocol = \"ollama\"\n"
    );
    let variables = [("FAR_KEY", "s3cret")];
    let config = load(&text, &variables).unwrap();
    assert_eq!(config.providers[0].url.as_deref(), Some("https://api.example.com/v1"));
    assert_eq!(config.providers[1].served_as, "near");
    for shown in [format!("{config:?}"), config.to_toml().unwrap()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    assert_eq!(load(&config.to_toml().unwrap(), &variables).unwrap(), config);
}

#[test]
fn providers_may_be_alone() {
    let near =
        format!("[model]\nsource = \"none\"\n{BEGIN}protocol = \"ollama\"\nserved_as = \"none\"\n");
    let config: Config = load(&near, &[]).unwrap();
    assert_eq!(config.each_model(), []);
    assert_eq!(load(&config.to_toml().unwrap(), &[]).unwrap(), config);
    let error = load("[model]\nsource = \"none\"", &[]).unwrap_err().to_string();
    assert!(error.starts_with("`model.source` must be a model where there is no table"), "{error}");
    let error = load("[[models]]\nsource = \"none\"", &[]).unwrap_err().to_string();
    assert!(error.starts_with("`models[0].source` must be a model, or left out"), "{error}");
}

#[test]
fn the_examples_tables_are_settings() {
    let text = include_str!("../../lacuna.example.toml");
    let tables = text.lines().skip_while(|line| *line != "# [[providers]]");
    let tables: Vec<&str> = tables.map_while(|line| line.strip_prefix('#')).collect();
    let config = load(&tables.join("\n"), &[("MISTRAL_API_KEY", "s3cret")]).unwrap();
    assert_eq!(config.providers.len(), 2);
    provider_of(&config).unwrap();
}

#[test]
fn the_page_of_providers_has_set_ups_that_work_and_all_keys() {
    let page = include_str!("../../docs/providers.md");
    let folder = TempDir::new().unwrap();
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    let pem = std::fs::read_to_string(format!("{keys}/one.pem")).unwrap();
    let account =
        serde_json::json!({"client_email": "a", "private_key": pem, "token_uri": "https://a"});
    std::fs::write(folder.path().join("account.json"), account.to_string()).unwrap();
    for name in ["fireworks.key", "anthropic.key", "mistral.key"] {
        std::fs::write(folder.path().join(name), "s3cret").unwrap();
    }
    for name in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(format!("{keys}/tls/{name}"), folder.path().join(name)).unwrap();
    }
    let variables =
        ["MISTRAL_API_KEY", "OPENAI_API_KEY", "DEEPSEEK_API_KEY"].map(|it| (it, "s3cret"));
    let mut num = 0;
    for block in page.split("```toml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let text = block.replace("/etc/lacuna", folder.path().to_str().unwrap());
        let mut config = load(&text, &variables).unwrap();
        while !config.providers.is_empty() {
            provider_of(&config).unwrap();
            num += 1;
            config.providers.remove(0);
        }
    }
    assert_eq!(num, 11);
    for name in lacuna::provider::hosted::protocol_names() {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
    for key in lacuna::config::provider_keys() {
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let mut names = rows.filter_map(|line| line.split(" | ").next());
        assert!(names.any(|names| names.contains(&format!("`{key}`"))), "{key}");
    }
}
