//! The outline of a model: headers without weights.

use std::fs;

use lacuna::hub;

use crate::fixture::{Hub, Trouble, model};

/// Returns safetensors with a header of so many bytes, and a hundred kilobytes of weights.
fn safetensors(header_bytes: usize) -> Vec<u8> {
    let mut bytes = (header_bytes as u64).to_le_bytes().to_vec();
    bytes.resize(8 + header_bytes, b' ');
    bytes.resize(8 + header_bytes + 100_000, 1);
    bytes
}

#[tokio::test]
async fn of_weights_only_the_header_is_fetched() {
    for (header_bytes, num_requests) in [(1000, 1), (200_000, 2)] {
        let weights = safetensors(header_bytes);
        let files: [(&str, &[u8]); 3] =
            [("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", &weights)];
        let hub = Hub::start(&files).await;
        let outline = hub::outline(&hub.config(), &model("org/name"), 0, &|_| {}).await.unwrap();
        let found = fs::read(outline.path.join("model.safetensors")).unwrap();
        assert_eq!(found.len(), weights.len(), "the file has its size");
        assert_eq!(found[..8 + header_bytes], weights[..8 + header_bytes]);
        assert_eq!(found[found.len() - 1], 0, "and not its weights");
        let ranges: Vec<_> =
            hub.seen().into_iter().filter(|request| !request.is_endpoint).collect();
        assert_eq!(ranges.len(), num_requests);
        assert!(ranges.iter().all(|request| request.range.is_some()), "{ranges:?}");
        let folder = outline.path.clone();
        drop(outline);
        assert!(!folder.exists());
        assert!(!hub.cached("").exists(), "the cache was left alone");
    }
}

#[tokio::test]
async fn no_more_is_read_than_was_asked_for_and_nothing_else() {
    let weights = safetensors(1000);
    let files: [(&str, &[u8]); 3] =
        [("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", &weights)];
    let hub = Hub::start(&files).await;
    hub.trouble([Trouble::Endless]);
    let outline = hub::outline(&hub.config(), &model("org/name"), 0, &|_| {}).await.unwrap();
    let found = fs::read(outline.path.join("model.safetensors")).unwrap();
    assert_eq!(found[..1008], weights[..1008]);
    for trouble in [Trouble::OtherRange, Trouble::Place(None)] {
        hub.trouble([trouble]);
        let outline = hub::outline(&hub.config(), &model("org/name"), 0, &|_| {}).await;
        let message = outline.unwrap_err().to_string();
        assert!(message.contains("another range than was asked for"), "{message}");
    }
}

#[tokio::test]
async fn a_header_that_cannot_be_is_refused() {
    let mut weights = safetensors(100);
    weights[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", &weights),
    ])
    .await;
    let error = hub::outline(&hub.config(), &model("org/name"), 0, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("has a header of 18446744073709551615 bytes"), "{error}");
}

#[tokio::test]
async fn of_gguf_files_the_beginning_is_fetched() {
    let bytes = vec![3; 5000];
    let hub = Hub::start(&[("a-q4_0.gguf", &bytes), ("a-q8_0.gguf", &bytes)]).await;
    let outline =
        hub::outline(&hub.config(), &model("org/name:q8_0"), 1000, &|_| {}).await.unwrap();
    assert!(outline.path.ends_with("a-q8_0.gguf"));
    let found = fs::read(&outline.path).unwrap();
    assert_eq!((found.len(), found[999], found[1000]), (5000, 3, 0));
}
