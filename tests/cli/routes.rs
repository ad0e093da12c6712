//! `lacuna routes`: what is listed, where a request would go, and what is refused.

use crate::{TempFile, lacuna};

const SETTINGS: &str = r#"
[[models]]
source = "demo"
served_name = "small"
aliases = ["quick"]
[[models]]
source = "demo"
served_name = "large"

[[routes]]
name = "generations"
tasks = ["generation"]
  [[routes.targets]]
  target = "large"

[[routes]]
name = "go"
models = ["small"]
languages = ["go"]
groups = ["7", "9"]
max_prompt_size = "1KiB"
pins = ["user:ada=large"]
shadow = "large=5%"
  [[routes.targets]]
  target = "small"
  weight = 100
  [[routes.targets]]
  target = "large"
  except = ["realm:saas"]
"#;

const V2: &str = r#"{"current_file": {"file_name": "a.go", "content_above_cursor": "s3cret",
  "content_below_cursor": ""}, "model_name": "quick"}"#;
const CHAT: &str = r#"{"messages": [{"role": "user", "content": "s3cret"}]}"#;

#[test]
fn routes_are_listed_in_their_order() {
    let run = lacuna(&["routes", "list"], &[]);
    assert_eq!(run.stdout, "no routes: each model is served by itself\n", "{run:?}");
    let settings = TempFile::new("routes-list.toml", SETTINGS.as_bytes());
    let run = lacuna(&["routes", "list", "--config", settings.path()], &[]);
    let expected = "\
generations  for task generation
  large  weight 0
go  for model small, language go, group 7 or 9, at most 1024 bytes
  small  weight 100
  large  weight 0  except realm:saas
  user:ada begins with large
  5% are copied to large
";
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), expected), "{run:?}");
}

#[test]
fn a_request_is_explained_without_its_text() {
    let settings = TempFile::new("routes-explain.toml", SETTINGS.as_bytes());
    let v2 = TempFile::new("routes-v2.json", V2.as_bytes());
    let chat = TempFile::new("routes-chat.json", CHAT.as_bytes());
    let explain = |more: &[&str]| {
        let mut arguments = vec!["routes", "explain", "--config", settings.path(), "--request"];
        arguments.extend(more);
        let run = lacuna(&arguments, &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(!run.stdout.contains("s3cret"), "{}", run.stdout);
        run.stdout
    };
    let passed = "route `generations` is passed over: it is for another task\n";
    let of_others = "route `go` is passed over: it is for other groups\n";
    let own = "no route is for it: `quick` itself answers\n";
    let text = explain(&[v2.path()]);
    assert!(text.ends_with(&format!("{passed}{of_others}{own}")), "{text}");
    let text = explain(&[v2.path(), "--groups", "9", "--user", "bob", "--realm", "saas"]);
    let expected = "\
task      completion
model     quick
language  go
prompt    6 bytes
route `generations` is passed over: it is for another task
route `go` is taken
  1 `small`: weight 100, and this user always falls into it
  - `large`: excepts who asks
  5% are copied to `large`
";
    assert_eq!(text, expected);
    let text = explain(&[v2.path(), "--groups", "9", "--user", "ada"]);
    assert!(text.contains("  1 `large`: user:ada is pinned to it\n  2 `small`: where"), "{text}");
    for more in [&[chat.path()][..], &[v2.path(), "--task", "generation"]] {
        let text = explain(more);
        assert!(
            text.ends_with("route `generations` is taken\n  1 `large`: the first of the route\n"),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_used_is_refused() {
    let body = TempFile::new("routes-bad.json", b"{s3cret");
    let run = lacuna(&["routes", "explain", "--request", body.path()], &[]);
    assert_eq!(run.code, Some(crate::USAGE));
    assert!(run.stderr.contains("it is no JSON") && !run.stderr.contains("s3cret"), "{run:?}");
    let empty = TempFile::new("routes-empty.json", b"{}");
    let run = lacuna(&["routes", "explain", "--request", empty.path()], &[]);
    assert!(run.stderr.contains("`prompt_components`"), "{run:?}");
    let settings = "[[routes]]\nname = \"a\"\n  [[routes.targets]]\n  target = \"hosted\"\n";
    let settings = TempFile::new("routes-bad.toml", settings.as_bytes());
    let run = lacuna(&["check-config", settings.path()], &[]);
    let message = format!(
        "`routes[0].targets[0].target` must be a name that is served, which are `demo`, got \"hosted\" (at {}:4:3)",
        settings.path()
    );
    run.is_refused_with(&message);
}
