//! The routes' file is read again: what is good is put in force, what is not changes nothing.

use std::sync::Arc;

use lacuna::routing::RouteFile;

use crate::{
    scripted::Play,
    world::{Plan, gap, ms},
};

fn settings(name: &str, target: &str) -> String {
    format!("[[routes]]\nname = \"{name}\"\n  [[routes.targets]]\n  target = \"{target}\"\n")
}

fn targets() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_leaves_the_routes_before() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("lacuna.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write(&settings("all", "a"));
    let plan = Plan::two(Play::Answer(ms(1)), Play::Answer(ms(1)));
    let routes = lacuna::config::load_routes(&path, &targets()).unwrap();
    let world = Plan { routes: routes.clone(), ..plan }.build();
    let file = RouteFile::new(path.clone(), targets(), routes, Arc::clone(&world.router));
    let answers = async || world.ask(gap()).await.result.unwrap();

    assert!(!file.reload().unwrap(), "it says what is in force");
    write(&settings("other", "b"));
    assert!(file.reload().unwrap());
    assert_eq!(answers().await, "b");
    assert!(!file.reload().unwrap());
    for (text, word) in [
        (settings("third", "none"), "routes[0].targets[0].target"),
        ("[[routes]]\nname = \"none at all\"\n".to_owned(), "routes[0].name"),
        ("[[routes]\n".to_owned(), "lacuna.toml:1"),
        (format!("{}[server]\nport = -1x\n", settings("a", "a")), "lacuna.toml:6"),
    ] {
        write(&text);
        let error = file.reload().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(answers().await, "b");
        assert!(!file.reload().unwrap(), "it is told of once");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(!file.reload().unwrap(), "it is being replaced");
    write("# no routes any more\n");
    assert!(file.reload().unwrap());
    assert_eq!(world.router.table().routes().count(), 0);
    assert_eq!(answers().await, "a", "each model is served by itself");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_noticed_while_serving() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("lacuna.toml");
    std::fs::write(&path, settings("all", "a")).unwrap();
    let world = Plan::two(Play::Answer(ms(1)), Play::Answer(ms(1))).build();
    let file = Arc::new(RouteFile::new(path.clone(), targets(), Vec::new(), world.router.clone()));
    let name = || world.router.table().routes().next().map(|route| route.name.clone());
    let noticed = async {
        while name().as_deref() != Some("changed") {
            tokio::time::sleep(ms(500)).await;
            std::fs::write(&path, settings("changed", "b")).unwrap();
        }
    };
    tokio::select! {
        never = file.watch() => match never {},
        () = noticed => {}
    }
    assert_eq!(world.ask(gap()).await.result.as_deref(), Ok("b"));
}
