//! Tests of the routes in a file: what is refused, by which key, and the way back.

use crate::config::{ConfigError, tests::load};

const MODELS: &str = "[[models]]\nsource = \"demo\"\nserved_name = \"small\"\naliases = [\"quick\"]\n\
    [[models]]\nsource = \"demo\"\nserved_name = \"large\"\n";

const ROUTE: &str = "[[routes]]\nname = \"all\"\n[[routes.targets]]\ntarget = \"small\"\n";

#[test]
fn what_is_printed_reads_back() {
    let files = [
        ROUTE.to_owned(),
        "[[routes]]\nname = \"a\"\ntasks = [\"completion\", \"generation\"]\nmodels = [\"quick\"]\n\
         languages = [\"go\"]\nusers = [\"ada\"]\ngroups = [\"7\"]\nrealms = [\"saas\"]\n\
         flags = [\"new\"]\nmin_prompt_size = \"0B\"\nmax_prompt_size = \"64KiB\"\n\
         pins = [\"user:ada=large\", \"flag:new=small\"]\nshadow = \"large=2.5%\"\n\
         [[routes.targets]]\ntarget = \"small\"\nweight = 90\nexcept = [\"group:7\", \"realm:saas\"]\n\
         [[routes.targets]]\ntarget = \"large\"\nweight = 10\n"
            .to_owned(),
        "[routing]\nhedging = true\nhedge_delay = \"20ms\"\nbreaker_failures = 3\n".to_owned(),
    ];
    for text in files {
        let config = load(&format!("{MODELS}{text}")).unwrap();
        let printed = config.to_toml().unwrap();
        assert_eq!(load(&printed).unwrap(), config, "{printed}");
    }
    let config = load(&format!("{MODELS}{ROUTE}")).unwrap();
    assert_eq!(config.routes[0].targets[0].weight, 0);
    assert_eq!(load("").unwrap().routes, []);
}

#[test]
fn what_breaks_a_rule_is_named() {
    let target = |more: &str| format!("[[routes]]\nname = \"a\"\n[[routes.targets]]\n{more}");
    let route = |more: &str| {
        format!("[[routes]]\nname = \"a\"\n{more}\n[[routes.targets]]\ntarget = \"small\"\n")
    };
    let rows = [
        ("[[routes]]\nname = \"a\"\n".to_owned(), "routes[0].targets"),
        ("[[routes]]\nname = \"a\"\ntargets = []\n".to_owned(), "routes[0].targets"),
        (format!("[[routes]]\n{}", "[[routes.targets]]\ntarget = \"small\"\n"), "routes[0].name"),
        (format!("{ROUTE}{ROUTE}"), "routes[1].name"),
        (target("target = \"other\""), "routes[0].targets[0].target"),
        (target(""), "routes[0].targets[0].target"),
        (target("target = \"small\"\nweight = 101"), "routes[0].targets[0].weight"),
        (target("target = \"small\"\nweight = -1"), "routes[0].targets[0].weight"),
        (target("target = \"small\"\nweight = 90"), "routes[0].targets"),
        (
            target("target = \"small\"\n[[routes.targets]]\ntarget = \"small\""),
            "routes[0].targets[1].target",
        ),
        (target("target = \"small\"\nexcept = [\"ada\"]"), "routes[0].targets[0].except"),
        (route("tasks = [\"chat\"]"), "routes[0].tasks"),
        (route("models = [\"other\"]"), "routes[0].models"),
        (route("models = []"), "routes[0].models"),
        (route("languages = [\"klingon\"]"), "routes[0].languages"),
        (route("realms = [\"mars\"]"), "routes[0].realms"),
        (route("users = [\"\"]"), "routes[0].users"),
        (route("min_prompt_size = \"many\""), "routes[0].min_prompt_size"),
        (
            route("min_prompt_size = \"2KiB\"\nmax_prompt_size = \"1KiB\""),
            "routes[0].max_prompt_size",
        ),
        (route("pins = [\"user:ada=large\"]"), "routes[0].pins"),
        (route("pins = [\"ada=small\"]"), "routes[0].pins"),
        (route("shadow = \"large\""), "routes[0].shadow"),
        (route("shadow = \"other=5%\""), "routes[0].shadow"),
        (route("shadow = \"large=0%\""), "routes[0].shadow"),
        ("[routing]\nbreaker_failures = 11".to_owned(), "routing.breaker_failures"),
        ("[routing]\nretry_share = 1.5".to_owned(), "routing.retry_share"),
        ("[routing]\nprobe_interval = \"1ms\"".to_owned(), "routing.probe_interval"),
    ];
    for (text, key) in rows {
        let refused = load(&format!("{MODELS}{text}"));
        let Err(ConfigError::Value { violation, .. }) = refused else {
            panic!("{text}: {refused:?}")
        };
        assert_eq!(violation.key, key, "{text}: {violation}");
    }
}

#[test]
fn an_unknown_key_and_a_wrong_type_are_refused_with_their_place() {
    let rows = [
        (format!("{ROUTE}wait = 1\n"), "wait"),
        ("[[routes]]\nnames = \"a\"\n".to_owned(), "names"),
        ("[[routes]]\nname = 1\n".to_owned(), "routes[0].name"),
        ("[routes]\nname = \"a\"\n".to_owned(), "routes"),
    ];
    for (text, word) in rows {
        let error = load(&format!("{MODELS}{text}")).unwrap_err().to_string();
        assert!(error.starts_with("lacuna.toml:") && error.contains(word), "{error}");
    }
}

#[test]
fn routes_are_read_again_from_the_file_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("lacuna.toml");
    let targets = ["small".to_owned(), "large".to_owned()];
    std::fs::write(&file, format!("{MODELS}{ROUTE}")).unwrap();
    assert_eq!(super::load_routes(&file, &targets).unwrap()[0].name, "all");
    std::fs::write(&file, format!("{MODELS}[[routes]]\nname = \"all\"\n")).unwrap();
    let error = super::load_routes(&file, &targets).unwrap_err().to_string();
    assert!(error.contains("routes[0].targets") && error.contains("lacuna.toml:8"), "{error}");
    std::fs::write(&file, "[[routes]\n").unwrap();
    assert!(matches!(super::load_routes(&file, &targets), Err(ConfigError::Syntax { .. })));
    drop(folder);
    assert!(matches!(super::load_routes(&file, &targets), Err(ConfigError::Read { .. })));
}

#[test]
fn services_elsewhere_are_targets_and_a_model_that_is_not_there_is_none() {
    let provider = "[[providers]]\nname = \"far\"\nprotocol = \"ollama\"\nurl = \"http://127.0.0.1:9\"\nmodel = \"m\"\n";
    let route = |target: &str| {
        format!("[[routes]]\nname = \"all\"\n[[routes.targets]]\ntarget = \"{target}\"\n")
    };
    let config = load(&format!("[model]\nsource = \"none\"\n{provider}{}", route("far"))).unwrap();
    assert_eq!(config.served_names(), ["far"]);
    let error =
        load(&format!("[model]\nsource = \"none\"\n{provider}{}", route("none"))).unwrap_err();
    assert!(error.to_string().contains("`routes[0].targets[0].target`"), "{error}");
    let both = load(&format!("{provider}{}", route("demo"))).unwrap();
    assert_eq!(both.served_names(), ["demo", "far"]);
}
