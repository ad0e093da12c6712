//! Downloads that break: they go on where they were, within a pull and over several, and end right or not at all.

use std::{fs, sync::Mutex, time::Duration};

use lacuna::hub::{self, HubError, PullEvent};

use crate::fixture::{Hub, Trouble, hash, model, weights};

/// Returns the ranges that the network was asked for since the last call.
fn ranges(hub: &Hub) -> Vec<Option<String>> {
    let seen = hub.seen().into_iter();
    seen.filter(|request| !request.is_endpoint).map(|request| request.range).collect()
}

fn part(hub: &Hub) -> std::path::PathBuf {
    hub.cached(&format!("blobs/{}.incomplete", hash("model.safetensors", &weights())))
}

fn is_whole(hub: &Hub) -> bool {
    let blob = hub.cached(&format!("blobs/{}", hash("model.safetensors", &weights())));
    !part(hub).exists() && fs::read(blob).unwrap() == weights()
}

#[tokio::test]
async fn a_cut_connection_is_continued_by_range() {
    let hub = Hub::with_model().await;
    let cuts = [300_000, 200_000, 1, 1, 1, 1].map(Trouble::Cut);
    hub.trouble(cuts);
    let retries = Mutex::new(0);
    let watch = |event: PullEvent<'_>| {
        *retries.lock().unwrap() += usize::from(matches!(event, PullEvent::Retry { .. }));
    };
    hub::pull(&hub.config(), &model("org/name"), &watch).await.unwrap();
    let expected = ["300000-", "500000-", "500001-", "500002-", "500003-", "500004-"];
    let expected = expected.map(|range| Some(format!("bytes={range}")));
    assert_eq!(ranges(&hub), [&[None][..], &expected].concat());
    assert_eq!(*retries.lock().unwrap(), 6, "as long as bytes come, tries are not counted");
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn the_next_pull_goes_on_where_the_last_one_ended() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    config.num_retries = 0;
    hub.trouble([Trouble::Cut(400_000)]);
    let error = hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("stopped at 400000 of 1000000 bytes, which are kept"), "{message}");
    assert_eq!(fs::read(part(&hub)).unwrap(), weights()[..400_000]);
    let error = hub::find(&config, &model("org/name")).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "half a model is none: {error}");
    ranges(&hub);
    let pulled = hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(pulled.num_bytes_missing, 600_000);
    assert_eq!(ranges(&hub), [Some("bytes=400000-".to_owned())]);
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn an_interruption_keeps_what_came() {
    let hub = Hub::with_model().await;
    hub.trouble([Trouble::Stall(500_000)]);
    let (told, mut came) = tokio::sync::mpsc::unbounded_channel();
    let watch = |event: PullEvent<'_>| {
        if let PullEvent::Advanced { file: "model.safetensors", num_bytes } = event {
            told.send(num_bytes).unwrap();
        }
    };
    let config = hub.config();
    let name = model("org/name");
    let has_come = async { while came.recv().await.is_some_and(|num_bytes| num_bytes == 0) {} };
    tokio::select! {
        pulled = hub::pull(&config, &name, &watch) => panic!("it did not stall: {pulled:?}"),
        () = has_come => {}
    }
    let kept = fs::read(part(&hub)).unwrap();
    assert!(!kept.is_empty() && kept == weights()[..kept.len()]);
    ranges(&hub);
    hub::pull(&config, &name, &|_| {}).await.unwrap();
    assert_eq!(ranges(&hub), [Some(format!("bytes={}-", kept.len()))]);
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_again() {
    let hub = Hub::with_model().await;
    hub.trouble([Trouble::Cut(300_000), Trouble::Whole]);
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn what_does_not_go_with_what_is_kept_leaves_it_as_it_is() {
    let rows = [
        (Trouble::OtherRange, "another range came"),
        (Trouble::Place(None), "another range came"),
        (Trouble::Place(Some("bytes")), "another range came"),
        (Trouble::Place(Some("bytes 0-699999/1000000")), "another range came"),
        (Trouble::Place(Some("bytes 300000-999999/700000")), "a file of 700000 bytes, and this"),
        (Trouble::Page { has_length: true }, "a file of 25 bytes, and this one has 1000000"),
        (Trouble::Page { has_length: false }, "an answer of no known length"),
    ];
    for (trouble, says) in rows {
        let hub = Hub::with_model().await;
        hub.trouble([Trouble::Cut(300_000), trouble]);
        let error = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("HTTPS_PROXY"), "{message}");
        assert!(message.contains(part(&hub).to_str().unwrap()), "{message}");
        assert_eq!(fs::read(part(&hub)).unwrap(), weights()[..300_000], "{says}");
        ranges(&hub);
        hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
        assert_eq!(ranges(&hub), [Some("bytes=300000-".to_owned())], "{says}");
        assert!(is_whole(&hub));
    }
}

#[tokio::test]
async fn tries_that_begin_anew_each_time_come_to_an_end() {
    let hub = Hub::with_model().await;
    let cuts = [100_000, 200_000].map(Trouble::WholeCut);
    hub.trouble([Trouble::Cut(500_000)]);
    hub.trouble([&cuts[..], &cuts, &cuts, &cuts].concat());
    let error = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap_err();
    assert!(matches!(error, HubError::Stopped { .. }), "{error}");
}

#[tokio::test]
async fn a_range_of_an_unknown_whole_is_appended() {
    let hub = Hub::with_model().await;
    let place = Trouble::Place(Some("bytes 300000-999999/*"));
    hub.trouble([Trouble::Cut(300_000), place]);
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(ranges(&hub), [None, Some("bytes=300000-".to_owned())]);
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn silence_ends_a_try() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    config.idle_timeout = Duration::from_millis(300);
    hub.trouble([Trouble::Stall(1000)]);
    hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(ranges(&hub), [None, Some("bytes=1000-".to_owned())]);
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn a_busy_server_is_asked_again_as_it_says() {
    let hub = Hub::with_model().await;
    hub.trouble([
        Trouble::Status(503, None),
        Trouble::Status(429, Some(("retry-after", "0"))),
        Trouble::Status(500, None),
    ]);
    let delays = Mutex::new(Vec::new());
    let watch = |event: PullEvent<'_>| {
        if let PullEvent::Retry { delay, .. } = event {
            delays.lock().unwrap().push(delay.as_millis());
        }
    };
    hub::pull(&hub.config(), &model("org/name"), &watch).await.unwrap();
    assert_eq!(*delays.lock().unwrap(), [1, 0, 4]);

    hub.trouble([0; 4].map(|_| Trouble::Status(503, None)));
    fs::remove_dir_all(hub.cached("blobs")).unwrap();
    let error = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap_err();
    let HubError::Stopped { source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("answered 503 (a fault of the server; try again later)"));
}

#[tokio::test]
async fn a_server_that_wants_an_hour_is_away() {
    let hub = Hub::with_model().await;
    hub.trouble([Trouble::Status(429, Some(("retry-after", "3600")))]);
    let error = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap_err();
    let HubError::Stopped { source, .. } = error else { panic!("{error}") };
    assert!(matches!(*source, HubError::Status { retry_after_seconds: Some(3600), .. }));
}

#[tokio::test]
async fn what_is_not_what_was_listed_is_deleted() {
    let rows = [
        (vec![Trouble::OtherBytes], "with another hash"),
        (vec![Trouble::Cut(1000), Trouble::OtherBytes], "with another hash"),
        (vec![Trouble::Endless], "should have 1000000 bytes and the server has"),
        (vec![Trouble::Shorter], "should have 1000000 bytes and the server has 999999"),
    ];
    for (troubles, says) in rows {
        let hub = Hub::with_model().await;
        hub.trouble(troubles);
        let error = hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("download it again"), "{message}");
        assert!(!part(&hub).exists(), "{says}");
        assert!(!hub.cached("refs/main").exists(), "{says}");
        hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
        assert!(is_whole(&hub));
    }
}

#[tokio::test]
async fn a_part_that_is_too_long_begins_anew() {
    let hub = Hub::with_model().await;
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    fs::write(part(&hub), vec![1; 1_000_001]).unwrap();
    hub::pull(&hub.config(), &model("org/name"), &|_| {}).await.unwrap();
    assert_eq!(ranges(&hub), [None]);
    assert!(is_whole(&hub));
}

#[tokio::test]
async fn what_another_process_downloads_is_waited_for() {
    let hub = Hub::with_model().await;
    let name = hash("model.safetensors", &weights());
    let locks = hub.home.path().join("hub/.locks/models--org--name");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let watch = |event: PullEvent<'_>| {
        if let PullEvent::Waiting { file } = event {
            assert_eq!(file, "model.safetensors");
            // The other one is done, and has brought the file.
            fs::write(hub.cached("blobs").join(&name), weights()).unwrap();
            lock.unlock().unwrap();
        }
    };
    hub::pull(&hub.config(), &model("org/name"), &watch).await.unwrap();
    assert_eq!(ranges(&hub), [], "it was not downloaded again");
    assert!(is_whole(&hub));
}
