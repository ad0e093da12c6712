//! A pull that succeeds: the layout of the cache, what is asked for, what is not asked twice.

use std::{fs, path::Path};

use lacuna::hub::{self, HubError};

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
