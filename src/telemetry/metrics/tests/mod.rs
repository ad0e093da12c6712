//! What the page says after requests of known figures.

use std::{collections::BTreeMap, time::Duration};

use super::*;

mod deployed;

/// Returns the samples of a page, strictly: each below the help and the type of its family, none twice.
fn samples(page: &str) -> BTreeMap<String, String> {
    let mut samples = BTreeMap::new();
    let mut family = String::new();
    let mut has_type = false;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            family = name.to_owned();
            has_type = false;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            has_type = true;
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            let suffix =
                bare.strip_prefix(&family).unwrap_or_else(|| panic!("{line} below {family}"));
            assert!(has_type && ["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            assert!(samples.insert(name.to_owned(), value.to_owned()).is_none(), "{line}");
        }
    }
    samples
}

fn inference() -> Inference<'static> {
    Inference {
        endpoint: "gitlab.completions",
        model: Some(("lacuna", "coder")),
        task: "completion",
        outcome: "ok",
        finish_reason: Some("stop"),
        is_streaming: false,
        language: Some("python"),
        prompt: None,
        client_type: Some("ide"),
        client: "vscode",
        language_server: Some("7.17.1"),
        gitlab_version: Some("17.5.0"),
        realm: Some("saas"),
        prompt_tokens: 100,
        cached_tokens: 60,
        completion_tokens: 11,
        saved_tokens: 5,
        time_to_first_token: Some(Duration::from_millis(120)),
        total_time: Duration::from_millis(220),
        postprocessing: Duration::from_micros(200),
    }
}

#[test]
fn a_request_is_counted_under_the_gateways_names_and_ours() {
    let metrics = Metrics::default();
    let under_way = metrics.requests().begin("gitlab.completions");
    assert_eq!(
        samples(&metrics.render())["model_inferences_in_flight{endpoint=\"gitlab.completions\"}"],
        "1"
    );
    drop(under_way);
    metrics.requests().record(&inference());
    metrics.requests().record(&Inference { outcome: "overloaded", ..inference() });
    metrics.requests().record(&Inference { outcome: "unknown_model", model: None, ..inference() });
    let page = metrics.render();
    let samples = samples(&page);
    let labels = |error: &str, kind: &str| {
        format!(
            "client_type=\"ide\",error=\"{error}\",error_type=\"{kind}\",feature_category=\"code_suggestions\",finish_reason=\"stop\",gitlab_realm=\"saas\",gitlab_version=\"17.5.0\",is_gitlab_team_member=\"unknown\",lsp_version=\"7.17.1\",model_engine=\"lacuna\",model_name=\"coder\",streaming=\"no\",unit_primitive=\"complete_code\""
        )
    };
    let of = |name: &str, labels: &str| samples[&format!("{name}{{{labels}}}")].as_str();
    assert_eq!(of("model_inferences_total", &labels("no", "none")), "1");
    assert_eq!(of("model_inferences_total", &labels("yes", "overloaded")), "1");
    assert_eq!(of("inference_total_tokens_total", &labels("no", "none")), "111");
    assert_eq!(of("inference_request_duration_seconds_sum", &labels("no", "none")), "0.22");
    assert_eq!(samples["model_inferences_in_flight{endpoint=\"gitlab.completions\"}"], "0");
    let own = "client_type=\"ide\",language=\"python\",model_name=\"coder\",provider=\"lacuna\",task=\"completion\"";
    assert_eq!(of("lacuna_time_to_first_token_seconds_bucket", &format!("{own},le=\"0.15\"")), "2");
    assert!(
        (of("lacuna_inter_token_latency_seconds_sum", own).parse::<f64>().unwrap() - 0.02).abs()
            < 1e-9
    );
    assert_eq!(of("lacuna_tokens_total", "kind=\"saved\",model_name=\"coder\""), "10");
    let unknown =
        "endpoint=\"gitlab.completions\",model_name=\"unknown\",outcome=\"unknown_model\"";
    assert_eq!(of("lacuna_requests_total", unknown), "1");
}

#[test]
fn engines_are_shown_as_they_are_when_asked() {
    let metrics = Metrics::default();
    let calls = std::sync::atomic::AtomicU64::new(0);
    metrics.watch(Arc::new(move || {
        let calls = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vec![EngineSample {
            model: "coder".to_owned(),
            adapters: vec!["a".to_owned(), "b".to_owned()],
            is_ready: true,
            num_waiting: 3,
            num_running: 2,
            num_running_max: 8,
            block_size: 16,
            num_blocks_used: 25,
            num_blocks: 100,
            max_context_tokens: 4096,
            max_output_tokens: 256,
            num_generated_tokens: 10 + 5 * calls,
            num_queued_max: 64,
            queue_wait: HistogramSample::new(&[1000, 500_000], &[2, 1, 1], 2_700_000, 1e6),
            ..EngineSample::default()
        }]
    }));
    metrics.render();
    let samples = samples(&metrics.render());
    for (name, value) in [
        ("vllm:num_requests_waiting{model_name=\"coder\"}", "3"),
        ("vllm:num_requests_running{model_name=\"coder\"}", "2"),
        ("vllm:kv_cache_usage_perc{model_name=\"coder\"}", "0.25"),
        ("vllm:generation_tokens_total{model_name=\"coder\"}", "15"),
        (
            "vllm:lora_requests_info{max_lora=\"2\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"\"}",
            "1",
        ),
        (
            "vllm:cache_config_info{block_size=\"16\",model_name=\"coder\",num_gpu_blocks=\"100\"}",
            "1",
        ),
        ("model_max_output_tokens{model_engine=\"lacuna\",model_name=\"coder\"}", "256"),
        ("lacuna_engine_ready{model_name=\"coder\"}", "1"),
        ("lacuna_engine_queue_limit{model_name=\"coder\"}", "64"),
        ("lacuna_engine_queue_wait_seconds_bucket{model_name=\"coder\",le=\"0.001\"}", "2"),
        ("lacuna_engine_queue_wait_seconds_bucket{model_name=\"coder\",le=\"0.5\"}", "3"),
        ("lacuna_engine_queue_wait_seconds_bucket{model_name=\"coder\",le=\"+Inf\"}", "4"),
        ("lacuna_engine_queue_wait_seconds_sum{model_name=\"coder\"}", "2.7"),
        ("lacuna_engine_queue_wait_seconds_count{model_name=\"coder\"}", "4"),
    ] {
        assert_eq!(samples[name], value, "{name}");
    }
}

#[test]
fn a_region_is_a_label_of_all_samples() {
    let metrics = Metrics::in_region(Some("eu-west-1"));
    metrics.requests().record(&inference());
    let page = metrics.render();
    let samples = samples(&page);
    assert!(samples.len() > 50 && samples.keys().all(|name| name.contains("region=\"eu-west-1\"")));
    assert!(!Metrics::in_region(None).render().contains("region=\""));
}

#[test]
fn what_was_recent_is_there_for_who_looks() {
    let metrics = Metrics::default();
    metrics.requests().record(&inference());
    metrics.requests().record(&Inference { outcome: "unknown_model", model: None, ..inference() });
    let stream = Inference {
        task: "generation",
        is_streaming: true,
        total_time: Duration::from_secs(9),
        ..inference()
    };
    metrics.requests().record(&stream);
    let recent = metrics.requests().recent();
    let found: Vec<_> =
        recent.iter().map(|it| (it.model.as_str(), it.task, it.apdex, it.outcomes.len())).collect();
    // A stream is there when it begins.
    let expected = [
        ("coder", "completion", Some(1.0), 1),
        ("coder", "generation", Some(1.0), 1),
        ("unknown", "completion", None, 1),
    ];
    assert_eq!(found, expected);
    assert!(recent[1].answer_time.unwrap()[0] < Duration::from_millis(200), "{recent:?}");
}

#[test]
fn what_clients_say_makes_boundedly_many_series() {
    let metrics = Metrics::default();
    for n in 0..500 {
        let text = format!("9.{n}");
        let hostile = format!("\"}} 1\n{n}");
        metrics.requests().record(&Inference {
            language_server: Some(&text),
            gitlab_version: Some(&hostile),
            client_type: Some(&hostile),
            realm: Some(&hostile),
            ..inference()
        });
    }
    let samples = samples(&metrics.render());
    let series = samples.keys().filter(|name| name.starts_with("model_inferences_total"));
    assert_eq!(series.count(), 65);
}

#[test]
fn the_page_of_metrics_has_each_and_no_other() {
    let page = include_str!("../../../../docs/metrics.md");
    // Rows of metrics have four columns; those of labels' values have two.
    let rows = page.lines().filter(|line| line.matches('|').count() == 5);
    let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut told: Vec<&str> = rows.collect();
    let metrics = Metrics::default();
    let mut declared: Vec<&str> =
        metrics.0.declared.names.iter().map(|(name, _)| name.as_str()).collect();
    told.sort_unstable();
    declared.sort_unstable();
    assert_eq!(told, declared);
}
