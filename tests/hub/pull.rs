//! A pull that succeeds: the layout of the cache, what is asked for, what is not asked twice.

use std::{fs, path::Path, sync::Mutex};

use lacuna::{
    config::HubConfig,
    hub::{self, HubError, PullEvent},
};

use crate::fixture::{COMMIT, Hub, TOKEN, hash, model, weights};

#[tokio::test]
async fn a_model_lands_in_the_layout_of_hugging_faces_own_tools() {
    let hub = Hub::with_model().await;
    let pulled = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    let snapshot = hub.cached(&format!("snapshots/{COMMIT}"));
    assert_eq!((&pulled.path, pulled.commit.as_str()), (&snapshot, COMMIT));
    assert_eq!(fs::read_to_string(hub.cached("refs/main")).unwrap(), COMMIT);
    let files: [(&str, &[u8]); 3] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"a\": 1}"),
        ("model.safetensors", &weights()),
    ];
    for (name, bytes) in files {
        let blob = hash(name, bytes);
        assert_eq!(fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
        assert_eq!(fs::read(hub.cached("blobs").join(&blob)).unwrap(), bytes, "{name}");
        let link = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(blob));
    }
    for folder in [hub.cached("blobs"), snapshot] {
        assert_eq!(fs::read_dir(folder).unwrap().count(), files.len(), "nothing else came");
    }
    assert_eq!(hub::find(&hub.config(), &model("org/name")).unwrap(), pulled.path);
}

/// Pulls, and returns what came of it and what was told of a copy that is kept.
async fn pull_telling(
    config: &HubConfig,
    name: &str,
) -> (Result<hub::Pulled, HubError>, Vec<String>) {
    let told = Mutex::new(Vec::new());
    let watch = |event: PullEvent<'_>| {
        if let PullEvent::Kept { commit, error } = event {
            told.lock().unwrap().push(format!("{commit}: {error}"));
        }
    };
    let pulled = hub::pull(config, &model(name), &watch).await;
    (pulled, told.into_inner().unwrap())
}

#[tokio::test]
async fn a_model_that_is_whole_in_the_cache_is_there_when_the_hub_cannot_be_asked() {
    let hub = Hub::with_model().await;
    let first = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    hub.seen();
    let offline = HubConfig { is_offline: true, ..hub.config() };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = HubConfig { endpoint: format!("http://{free}"), num_retries: 0, ..hub.config() };
    for (config, says) in [(offline, "is on"), (away, "cannot be reached")] {
        let (pulled, told) = pull_telling(&config, "org/name").await;
        let pulled = pulled.unwrap();
        assert_eq!((&pulled.path, &*pulled.commit), (&first.path, COMMIT));
        assert_eq!(pulled.num_bytes_missing, 0);
        assert!(told.len() == 1 && told[0].contains(COMMIT) && told[0].contains(says), "{told:?}");
        // A revision that the cache never saw, and a copy that is not whole, are what they were.
        assert!(pull_telling(&config, "org/name@v9").await.0.is_err());
        let snapshot = hub.cached(&format!("snapshots/{COMMIT}/model.safetensors"));
        let link = fs::read_link(&snapshot).unwrap();
        fs::remove_file(&snapshot).unwrap();
        let (pulled, told) = pull_telling(&config, "org/name").await;
        assert!(pulled.unwrap_err().to_string().contains(says));
        assert!(told.is_empty(), "{told:?}");
        std::os::unix::fs::symlink(link, &snapshot).unwrap();
    }
    assert_eq!(hub.seen(), [], "nobody was asked");
    // Who answers and refuses is heard.
    hub.behaviour().listing = Some((401, "RepoNotFound", ""));
    assert!(pull_telling(&hub.config(), "org/name").await.0.is_err());
}

#[tokio::test]
async fn what_a_crash_left_is_in_nobodys_way() {
    let hub = Hub::with_model().await;
    // In a container every process has the same id, so that a name made of it was there before.
    let ending = format!("{}.new", std::process::id());
    let snapshot = hub.cached(&format!("snapshots/{COMMIT}"));
    for folder in [&snapshot, &hub.cached("refs")] {
        fs::create_dir_all(folder).unwrap();
        for name in ["config.json", "main"] {
            std::os::unix::fs::symlink("absent", folder.join(format!("{name}.{ending}"))).unwrap();
        }
    }
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(fs::read_to_string(hub.cached("refs/main")).unwrap(), COMMIT);
    let entries = fs::read_dir(hub.cached("")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["blobs", "refs", "snapshots"], "nothing is left beside them");
}

#[tokio::test]
async fn the_token_goes_to_the_endpoint_and_not_to_where_it_redirects() {
    let hub = Hub::with_model().await;
    hub.behaviour().is_renamed = true;
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    let seen = hub.seen();
    let bearer = format!("Bearer {TOKEN}");
    for request in &seen {
        let expected = request.is_endpoint.then_some(&bearer);
        assert_eq!(request.authorization.as_ref(), expected, "{request:?}");
    }
    assert!(seen.iter().any(|request| !request.is_endpoint));
    assert!(seen.iter().any(|request| request.path.starts_with("/api/models/org/new/")));
}

#[tokio::test]
async fn what_is_there_is_not_asked_for_again() {
    let hub = Hub::with_model().await;
    let config = hub.config();
    hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(hub.seen().len(), 5, "a listing, three files, a redirect");
    for name in ["org/name", "org/name@v1", "org/name@refs/pr/1", &format!("org/name@{COMMIT}")] {
        let pulled = hub::pull(&config, &model(name), &|_| {}).await.unwrap();
        assert_eq!(pulled.num_bytes_missing, 0, "{name}");
        assert_eq!(hub.seen().len(), 1, "{name}: the listing only");
        assert_eq!(hub::find(&config, &model(name)).unwrap(), pulled.path);
    }
    let cached = hub::list(config.cache.as_deref().unwrap()).unwrap();
    assert_eq!(cached.len(), 1);
    assert_eq!((cached[0].repository.as_str(), cached[0].num_bytes), ("org/name", 1_000_010));
    assert_eq!(cached[0].snapshots[0].revisions, ["main", "refs/pr/1", "v1"]);
    assert_eq!(cached[0].snapshots[0].files.len(), 3);
}

#[tokio::test]
async fn a_mirror_that_lists_names_only_is_asked_for_each_file() {
    let hub = Hub::with_model().await;
    hub.behaviour().lists_names_only = true;
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    let seen = hub.seen();
    let heads: Vec<_> = seen.iter().filter(|request| request.method == "HEAD").collect();
    assert_eq!(heads.len(), 3);
    assert!(
        heads.iter().all(|request| request.is_endpoint),
        "the network was not asked: {heads:?}"
    );
    assert_eq!(
        fs::read(hub.cached("blobs").join(hash("model.safetensors", &weights()))).unwrap(),
        weights()
    );
}

#[tokio::test]
async fn pulls_at_the_same_time_download_each_file_once() {
    let hub = Hub::with_model().await;
    let (config, name) = (hub.config(), model("org/name"));
    let (one, other) =
        tokio::join!(hub::pull(&config, &name, &|_| {}), hub::pull(&config, &name, &|_| {}));
    assert_eq!(one.unwrap().path, other.unwrap().path);
    let num_downloads = hub.seen().iter().filter(|request| !request.is_endpoint).count();
    assert_eq!(num_downloads, 1);
}

#[tokio::test]
async fn of_a_gguf_repository_one_model_is_pulled() {
    let hub = Hub::start(&[
        ("coder-q4_k_m.gguf", b"four bits"),
        ("large/coder-q8_0-00001-of-00002.gguf", b"eight"),
        ("large/coder-q8_0-00002-of-00002.gguf", b"bits"),
        ("README.md", b"---\nlicense: mit\n---\n"),
    ])
    .await;
    let config = hub.config();
    let error = hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("org/name:CHOICE, of coder-q4_k_m.gguf, large/"), "{message}");

    let pulled = hub::pull(&config, &model("org/name:Q4_K_M"), &|_| {}).await.unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), b"four bits");
    assert_eq!(hub::find(&config, &model("org/name")).unwrap(), pulled.path, "it is the only one");
    let error = hub::find(&config, &model("org/name:q8_0")).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");

    let pulled = hub::pull(&config, &model("org/name:q8_0"), &|_| {}).await.unwrap();
    assert!(pulled.path.ends_with("large/coder-q8_0-00001-of-00002.gguf"));
    assert_eq!(fs::read(&pulled.path).unwrap(), b"eight", "links of folders lead to blobs too");
    assert_eq!(hub::find(&config, &model("org/name:q8_0")).unwrap(), pulled.path);
    let error = hub::find(&config, &model("org/name")).unwrap_err();
    assert!(matches!(error, HubError::Choice { .. }), "{error}");
    fs::remove_file(pulled.path.with_file_name("coder-q8_0-00002-of-00002.gguf")).unwrap();
    let error = hub::find(&config, &model("org/name:q8_0")).unwrap_err();
    assert!(matches!(error, HubError::Incomplete { .. }), "{error}");
}
