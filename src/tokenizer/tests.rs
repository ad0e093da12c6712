//! What stays of texts, and what control tokens they cannot become.

use serde_json::{Value, json};

use super::*;

fn demo() -> Tokenizer {
    Tokenizer::from_json(include_bytes!("../../models/demo/tokenizer.json")).unwrap()
}

#[test]
fn round_trips_any_text() {
    let tokenizer = demo();
    for text in
        ["", "def f(x):\n    return x\r\n", "héllo ∑ 日本 🦀\u{200d}", "\0\t \n\n  ", "a\u{feff}b"]
    {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn user_text_never_becomes_a_control_token() {
    let tokenizer = demo();
    for sentinel in ["<|fim_middle|>", "<|endoftext|>", "<|file_sep|>"] {
        let id = tokenizer.added_token_id(sentinel).unwrap();
        let ids = tokenizer.encode(&format!("a {sentinel} b")).unwrap();
        assert!(!ids.contains(&id), "{sentinel}");
        assert_eq!(tokenizer.decode(&ids), format!("a {sentinel} b"));
        assert_eq!(tokenizer.token_bytes(id), b"");
        assert_eq!(tokenizer.token_text(id), sentinel);
    }
}

#[test]
fn an_id_out_of_range_stands_for_nothing() {
    let tokenizer = demo();
    assert_eq!(tokenizer.token_bytes(tokenizer.num_ids()), b"");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
}

#[test]
fn refuses_what_would_lose_or_change_texts() {
    let byte_level = r#""decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}"#;
    let model = r#""model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}"#;
    let with = |more: &str| format!(r#"{{"added_tokens": [], {more}, {model}}}"#);
    let rows = [
        ("{".to_owned(), "not valid JSON"),
        ("[]".to_owned(), "not an object"),
        (format!(r#"{{"added_tokens": 1, {byte_level}, {model}}}"#), "not a list"),
        (with(r#""decoder": {"type": "Metaspace"}"#), "a piece for each byte: without one"),
        (with(byte_level), "no token for the byte that is written"),
        (
            format!(
                r#"{{"added_tokens": [{{"id": 4294967295, "content": "x", "special": true}}], {byte_level}, {model}}}"#
            ),
            "below 4194304",
        ),
        (with(r#""normalizer": {"type": "Lowercase"}"#), "\"Lowercase\" would change texts"),
        (with(r#""pre_tokenizer": {"type": "Whitespace"}"#), "\"Whitespace\" would change texts"),
        (
            with(
                r#""pre_tokenizer": {"type": "Split", "pattern": {"String": "-"}, "behavior": "Removed"}"#,
            ),
            "would remove text",
        ),
        (
            r#"{"added_tokens": [], "model": {"type": "WordPiece"}}"#.to_owned(),
            "must be BPE or Unigram, got \"WordPiece\"",
        ),
    ];
    for (json, expected) in rows {
        let error = Tokenizer::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}\n{error}");
    }
}

#[test]
fn characters_that_could_be_composed_stay_apart() {
    let tokenizer = demo();
    for text in ["e\u{301}", "\u{1100}\u{1161}", "\u{212b}", "a\u{328}\u{301}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
    }
}

fn added(id: u64, content: &str, is_special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": is_special,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
    })
}

fn with_added(id: u64, content: &str, is_special: bool) -> Result<Tokenizer, TokenizerError> {
    let mut json: Value = serde_json::from_slice(models::demo::TOKENIZER_JSON).unwrap();
    json["added_tokens"].as_array_mut().unwrap().push(added(id, content, is_special));
    Tokenizer::from_json(json.to_string().as_bytes())
}

#[test]
fn an_id_has_one_text_and_a_text_one_id() {
    let tokenizer = demo();
    let sentinel = tokenizer.added_token_id("<|fim_prefix|>").unwrap();
    let [word] = tokenizer.encode(" return").unwrap()[..] else { panic!("not one token") };
    let next = u64::from(tokenizer.num_ids());
    let (sentinel, word) = (u64::from(sentinel), u64::from(word));
    let rows = [
        (sentinel, "<|own|>", true, "two added tokens have the id"),
        (next, "<|fim_prefix|>", true, "have one text"),
        (word, "qzqz", false, "two tokens have the id"),
        (next, "Ġreturn", false, "has another id"),
    ];
    for (id, content, is_special, expected) in rows {
        let error = with_added(id, content, is_special).unwrap_err().to_string();
        assert!(error.contains(expected), "{content}: {error}");
    }
    assert!(with_added(next, "<|own|>", true).is_ok());
}

#[test]
fn a_text_whose_id_a_control_token_has_is_spelt_otherwise() {
    let [word] = demo().encode(" return").unwrap()[..] else { panic!("not one token") };
    let tokenizer = with_added(u64::from(word), "<|own|>", true).unwrap();
    assert_eq!(tokenizer.added_token_id("<|own|>"), Some(word));
    let ids = tokenizer.encode(" return <|own|>").unwrap();
    assert!(!ids.contains(&word));
    assert_eq!(tokenizer.decode(&ids), " return <|own|>");
}

/// A unigram model with a piece for each byte, a space and two letters.
fn unigram() -> Value {
    let mut vocab = vec![json!(["<unk>", 0.0])];
    vocab.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -9.0])));
    vocab.extend(["▁", "a", "b", "ab"].map(|piece| json!([piece, -2.0])));
    json!({
        "added_tokens": [added(0, "<unk>", true)],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": vocab }
    })
}

#[test]
fn a_unigram_model_loses_nothing_or_is_refused() {
    let read = |json: &Value| Tokenizer::from_json(json.to_string().as_bytes());
    let tokenizer = read(&unigram()).unwrap();
    for text in ["ab é", "control 0", "control▁0", "<unk>", "<0x41>"] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.contains(&0), "{text}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
    let rows = [
        ("/normalizer", Value::Null, "needs a step that writes spaces"),
        // The library would take it for what it is, its control tokens in reach.
        ("/model/type", Value::Null, "tokenizer.json"),
        ("/model/unk_id", Value::Null, "needs the `unk_id`"),
        ("/model/unk_id", json!(261), "needs the `unk_id`"),
        // The library would give it the next id.
        ("/added_tokens/0", added(300, "abab", false), "has another id"),
    ];
    for (place, value, expected) in rows {
        let mut json = unigram();
        *json.pointer_mut(place).unwrap() = value;
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains(expected), "{place}: {error}");
    }
}

#[test]
fn lines_that_are_known_are_not_encoded() {
    let tokenizer = demo().with_cache(1 << 20);
    let lines = tokenizer.lines.as_ref().unwrap();
    let long = "x".repeat(LINE_BYTES_MAX) + "\n";
    let text = format!("a = 1\nb = 2\n{long}c\n");
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(ids, demo().encode(&text).unwrap());
    let is_kept = |line: &str| lines.get(line, |_| ()).is_some();
    assert!(is_kept("a = 1\n") && is_kept("b = 2\n") && is_kept("c\n") && !is_kept(&long));
    // What is kept is what is answered.
    keep(lines, "b = 2\n", &[7]);
    let first = tokenizer.encode("a = 1\n").unwrap();
    assert_eq!(tokenizer.encode("a = 1\nb = 2\n").unwrap(), [&first[..], &[7]].concat());
}
