//! What every protocol must get right, over all rows: answers, refusals, what is broken, what has no end, who leaves.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lacuna::{
    completion::{CompletionRequest, FinishReason},
    provider::{
        Provider as _, ProviderErrorKind as Kind,
        hosted::{HostedProvider, protocol_names},
    },
};
use serde_json::json;

use crate::{
    rows::{ROWS, Row},
    stub::{Act, Asked, Stub, Then},
    support::{begin, chat, complete, gap, next, provider, texts, within},
};

/// Starts a server that gives Google's tokens, and answers what else is asked by `act`.
async fn stub(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Stub {
    Stub::start(move |asked| {
        if asked.path.starts_with("/computeMetadata/") {
            return Act::json(&json!({"access_token": "ya29", "expires_in": 3600}));
        }
        act(asked)
    })
    .await
}

/// Starts a server that answers each time by `act`, and a provider there.
async fn far(row: &Row, act: Act, more: &str) -> (Stub, HostedProvider) {
    let stub = stub(move |_| act.clone()).await;
    let provider = provider(row, &stub, more);
    (stub, provider)
}

fn request() -> CompletionRequest {
    gap("def add(a, b):\n    return ", "\n")
}

fn streamed(row: &Row, parts: Vec<Vec<u8>>, then: Then) -> Act {
    Act::stream(row.content_type, parts, then)
}

#[track_caller]
fn is_sum(row: &Row, completion: &lacuna::completion::Completion, num_choices: usize) {
    let expected = vec![("a + b", FinishReason::Stop); num_choices];
    assert_eq!(texts(completion), expected, "{}", row.protocol);
}

#[test]
fn every_protocol_has_a_row() {
    let rows: BTreeSet<&str> = ROWS.iter().map(|row| row.protocol).collect();
    assert_eq!(rows, protocol_names().collect());
}

#[tokio::test]
async fn an_answer_comes_whole() {
    for row in ROWS {
        let (stub, far) = far(row, Act::json(&(row.whole)(1)), "streaming = false").await;
        let completion = complete(&far, request()).await.unwrap();
        is_sum(row, &completion, 1);
        let usage = completion.usage;
        assert_eq!(
            (usage.num_prompt_tokens, usage.num_completion_tokens),
            (8, 3),
            "{}",
            row.protocol
        );
        let cached = if row.protocol == "ollama" { 0 } else { 5 };
        assert_eq!(usage.num_cached_tokens, cached, "{}", row.protocol);
        let asked = stub.asked().pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", row.paths.0));
        assert!(matches!(asked.body()["stream"].as_bool(), None | Some(false)), "{}", asked.text);
    }
}

#[tokio::test]
async fn an_answer_comes_in_pieces_over_a_connection_that_stays() {
    for row in ROWS {
        let (stub, far) = far(row, streamed(row, row.parts(1), Then::End), "").await;
        for _ in 0..2 {
            let mut stream = begin(&far, request()).await;
            let (mut pieces, mut shown) = (0, String::new());
            while let Ok(text) = next(&mut stream).await {
                pieces += usize::from(!text.is_empty());
                shown.push_str(&text);
            }
            assert_eq!((pieces, shown.as_str()), (2, "a + b"), "{}", row.protocol);
        }
        let completion = complete(&far, request()).await.unwrap();
        is_sum(row, &completion, 1);
        let usage = completion.usage;
        assert_eq!(
            (usage.num_prompt_tokens, usage.num_completion_tokens),
            (8, 3),
            "{}",
            row.protocol
        );
        let asked = stub.asked().pop().unwrap();
        assert_eq!(asked.path, row.paths.1);
        let is_google = row.protocol.starts_with("vertex");
        assert_eq!(stub.num_connections(), 1 + usize::from(is_google), "{}", row.protocol);
        assert_eq!(asked.body()["stream"], true, "{}", row.protocol);
    }
}

#[tokio::test]
async fn a_service_that_answers_whole_whatever_it_is_asked_is_understood() {
    for row in ROWS {
        let (_stub, far) = far(row, Act::json(&(row.whole)(1)), "").await;
        is_sum(row, &complete(&far, request()).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn several_choices_are_one_call_or_several() {
    for row in ROWS {
        for is_streaming in [true, false] {
            let (pieces, whole) = (row.parts(3), (row.whole)(3));
            let (one, one_whole) = (row.parts(1), (row.whole)(1));
            let (has_choices, content_type) = (row.has_choices, row.content_type);
            let stub = stub(move |_| match (is_streaming, has_choices) {
                (true, true) => Act::stream(content_type, pieces.clone(), Then::End),
                (true, false) => Act::stream(content_type, one.clone(), Then::End),
                (false, true) => Act::json(&whole),
                (false, false) => Act::json(&one_whole),
            })
            .await;
            let far = provider(row, &stub, &format!("streaming = {is_streaming}"));
            let three = CompletionRequest { num_choices: 3, ..request() };
            let completion = complete(&far, three).await.unwrap();
            is_sum(row, &completion, 3);
            let calls: Vec<Asked> =
                stub.asked().into_iter().filter(|asked| asked.method == "POST").collect();
            let num_calls = if row.has_choices { 1 } else { 3 };
            assert_eq!(calls.len(), num_calls, "{}", row.protocol);
            assert_eq!(completion.usage.num_completion_tokens as usize, 3 * num_calls);
            let bodies: BTreeSet<&str> = calls.iter().map(|call| call.text.as_str()).collect();
            let has_seed = !row.protocol.contains("anthropic");
            assert_eq!(bodies.len(), if has_seed { num_calls } else { 1 }, "{}", row.protocol);
        }
    }
}

#[tokio::test]
async fn refusals_have_their_kinds_and_pauses_and_no_words_of_the_service() {
    let rows = [
        (401, None, Kind::UpstreamRefused, None),
        (403, None, Kind::UpstreamRefused, None),
        (404, None, Kind::UpstreamRefused, None),
        (413, None, Kind::PromptTooLong, None),
        (429, Some(("retry-after", "3")), Kind::UpstreamExhausted, Some(3000)),
        (429, Some(("retry-after-ms", "250")), Kind::UpstreamExhausted, Some(250)),
        (429, None, Kind::UpstreamExhausted, None),
        (500, None, Kind::UpstreamFailed, None),
        (503, Some(("retry-after", "1")), Kind::UpstreamFailed, Some(1000)),
        (529, None, Kind::UpstreamFailed, None),
    ];
    for row in ROWS {
        for (status, header, kind, pause) in rows {
            let body = r#"{"error":{"type":"api_error","message":"the prompt def add is s3cret"}}"#;
            let mut act = Act::whole(status, "application/json", body);
            if let Some((name, value)) = header {
                act = act.header(name, value);
            }
            let (_stub, far) = far(row, act, "").await;
            let error = complete(&far, request()).await.unwrap_err();
            assert_eq!(error.kind, kind, "{} {status}", row.protocol);
            assert_eq!(error.retry_after, pause.map(Duration::from_millis), "{status}");
            let message = format!("the provider `far` answered with status {status} (api_error)");
            assert_eq!(error.message, message);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for row in ROWS {
        let other = Stub::start(|_| Act::whole(200, "text/plain", "")).await;
        let act = Act::whole(307, "text/plain", "").header("location", &other.url());
        let (_stub, far) = far(row, act, "").await;
        let error = complete(&far, request()).await.unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamRefused, "{}", row.protocol);
        assert_eq!(other.num_connections(), 0, "{}", row.protocol);
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_who_hangs_up_is_malformed() {
    for row in ROWS {
        let (gone, far) = far(row, Act::Leave, "").await;
        let error = complete(&far, request()).await.unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamMalformed, "{}", row.protocol);
        drop(gone);
    }
    let far = provider(&ROWS[0], &Stub::gone(), "");
    let error = complete(&far, request()).await.unwrap_err();
    assert_eq!(error.kind, Kind::UpstreamUnreachable);
    assert_eq!(error.message, "the provider `far` cannot be reached");
}

#[tokio::test]
async fn what_is_malformed_is_told_after_what_was_good() {
    for row in ROWS {
        let first = || vec![row.open.as_bytes().to_vec(), row.frame("a ")];
        let with = |bytes: &[u8]| {
            let mut parts = first();
            parts.push(bytes.to_vec());
            parts.retain(|part| !part.is_empty());
            parts
        };
        let is_lines = row.content_type != "text/event-stream";
        let raw = |bytes: &[u8]| {
            let (start, end): (&[u8], &[u8]) =
                if is_lines { (b"", b"\n") } else { (b"data: ", b"\n\n") };
            [start, bytes, end].concat()
        };
        let acts = [
            ("no JSON", streamed(row, with(&raw(b"{nonsense")), Then::Hang)),
            ("another shape", streamed(row, with(&raw(b"{\"nonsense\":1}")), Then::Hang)),
            ("not UTF-8", streamed(row, with(&raw(b"\"\xff\xfe\"")), Then::Hang)),
            ("cut", streamed(row, with(b""), Then::Cut)),
            ("an early end", streamed(row, with(b""), Then::End)),
        ];
        for (what, act) in acts {
            let (stub, far) = far(row, act, "").await;
            let mut stream = begin(&far, request()).await;
            assert_eq!(next(&mut stream).await, Ok("a ".to_owned()), "{} {what}", row.protocol);
            let error = next(&mut stream).await.unwrap_err();
            let error = error.unwrap_or_else(|| panic!("{} {what}: no error", row.protocol));
            assert_eq!(error.kind, Kind::UpstreamMalformed, "{} {what}", row.protocol);
            assert_eq!(next(&mut stream).await, Err(None));
            drop(far);
            stub.left(stub.num_connections()).await;
        }
        let acts = [
            Act::whole(200, "application/json", "{nonsense"),
            Act::whole(200, "application/json", "{}"),
            Act::stream("application/json", vec![b"\"\xff\"".to_vec()], Then::End),
            Act::stream("application/json", vec![b"{".to_vec()], Then::Cut),
        ];
        for act in acts {
            let (_stub, far) = far(row, act, "streaming = false").await;
            let error = complete(&far, request()).await.unwrap_err();
            assert_eq!(error.kind, Kind::UpstreamMalformed, "{} {error}", row.protocol);
        }
        // Such as the page of a proxy that asks people to log in.
        let page = Act::whole(200, "text/html", "<html>\n<p>Who are you?</p>\n</html>");
        let (_stub, far) = far(row, page, "").await;
        let error = complete(&far, request()).await.unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamMalformed, "{} {error}", row.protocol);
        assert!(!error.message.contains("cut off"), "{} {error}", row.protocol);
    }
}

#[tokio::test]
async fn an_error_within_an_answer_is_a_failure() {
    for row in ROWS {
        let error =
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "s3cret"}});
        let parts = vec![row.frame("a "), row.framed(&error)];
        let (_stub, far) = far(row, streamed(row, parts, Then::Hang), "").await;
        let error = complete(&far, request()).await.unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamFailed, "{}", row.protocol);
        assert!(!error.message.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn what_has_no_end_is_cut_within_bounds() {
    for row in ROWS {
        let text = vec![b'x'; 64 << 10];
        let acts = [
            (
                "it has more text than was asked for",
                streamed(row, Vec::new(), Then::Forever(row.frame("x = 1\n"))),
            ),
            (
                "a piece has more than 262144 bytes",
                streamed(row, Vec::new(), Then::Forever(text.clone())),
            ),
            ("it has more than ", streamed(row, Vec::new(), Then::Forever(vec![b'\n'; 64 << 10]))),
            (
                "it has more than 4194304 bytes",
                Act::stream("application/json", Vec::new(), Then::Forever(text)),
            ),
        ];
        for (what, act) in acts {
            let (stub, far) = far(row, act, "").await;
            let unbounded = CompletionRequest { stop: None, ignores_eos: true, ..request() };
            let error = complete(&far, unbounded).await.unwrap_err();
            assert_eq!(error.kind, Kind::UpstreamMalformed, "{} {what}", row.protocol);
            assert!(error.message.contains(what), "{} {error}", row.protocol);
            drop(far);
            stub.left(stub.num_connections()).await;
            // What is under way in both machines' buffers was sent too.
            assert!(stub.num_bytes_sent() < 64 << 20, "{what}: {}", stub.num_bytes_sent());
        }
    }
}

#[tokio::test]
async fn a_slow_first_word_ends_at_the_deadline_and_so_does_a_slow_answer() {
    let within = |time| Some(Instant::now() + Duration::from_millis(time));
    let checks = ROWS.iter().map(async |row| {
        let (stub, silent) = far(row, Act::Silence, "").await;
        let asked = CompletionRequest { deadline: within(100), ..request() };
        let error = complete(&silent, asked).await.unwrap_err();
        assert_eq!(error.kind, Kind::DeadlineExceeded, "{}", row.protocol);
        drop(silent);
        stub.left(stub.num_connections()).await;
        // Long enough for the first word on a busy machine.
        let (_stub, slow) = far(row, streamed(row, vec![row.frame("a ")], Then::Hang), "").await;
        let asked = CompletionRequest { deadline: within(2000), ..request() };
        let completion = complete(&slow, asked).await.unwrap();
        assert_eq!(texts(&completion), [("a ", FinishReason::Length)], "{}", row.protocol);
        assert!(completion.usage.num_completion_tokens > 0, "an estimate");
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn dropping_a_completion_closes_its_connections() {
    for row in ROWS {
        let two =
            CompletionRequest { num_choices: if row.has_choices { 1 } else { 2 }, ..request() };
        let (stub, far) = far(row, streamed(row, vec![row.frame("a ")], Then::Hang), "").await;
        let mut stream = begin(&far, two.clone()).await;
        assert_eq!(next(&mut stream).await, Ok("a ".to_owned()), "{}", row.protocol);
        drop(stream);
        let is_google = row.protocol.starts_with("vertex");
        let num = two.num_choices as usize;
        stub.left(num).await;
        drop(far);
        assert_eq!(stub.num_connections(), num + usize::from(is_google));
        // While nothing has come at all, too.
        let (stub, silent) = self::far(row, Act::Silence, "").await;
        let asking = silent.complete(request());
        let asked = async {
            stub.was_asked(1 + usize::from(is_google)).await;
        };
        tokio::select! {
            _ = asking => panic!("{}: an answer", row.protocol),
            () = asked => {}
        }
        stub.left(1).await;
    }
}

#[tokio::test]
async fn a_stop_text_ends_it_here_and_there() {
    for row in ROWS {
        let parts = vec![row.frame("a\n"), row.frame("\nb")];
        let (stub, far) = far(row, streamed(row, parts, Then::Hang), "").await;
        let completion = complete(&far, request()).await.unwrap();
        assert_eq!(texts(&completion), [("a", FinishReason::Stop)], "{}", row.protocol);
        stub.left(1).await;
    }
}

#[tokio::test]
async fn conversations_are_had_or_refused() {
    for row in ROWS {
        let (stub, far) = far(row, Act::json(&(row.whole)(1)), "").await;
        assert_eq!(far.model().has_chat, row.has_chat, "{}", row.protocol);
        let answer = complete(&far, chat()).await;
        if row.has_chat {
            is_sum(row, &answer.unwrap(), 1);
        } else {
            let error = answer.unwrap_err();
            assert_eq!((error.kind, error.field), (Kind::InvalidRequest, Some("messages")));
            assert_eq!(error.message, "the provider `far` knows no conversations");
            assert_eq!(stub.num_connections(), 0);
        }
    }
}

#[tokio::test]
async fn a_call_beyond_the_last_place_is_refused_at_once() {
    for row in ROWS {
        let (stub, far) = far(row, Act::Silence, "max_concurrency = 1").await;
        let first = tokio::spawn({
            let far = far.clone();
            async move { far.complete(request()).await.map(drop) }
        });
        stub.was_asked(1).await;
        let error = complete(&far, request()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry_after),
            (Kind::Overloaded, Some(Duration::from_secs(1)))
        );
        first.abort();
        let ended = within("the end of a call", first).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "{}", row.protocol);
        let two = CompletionRequest { num_choices: 2, ..request() };
        if !row.has_choices {
            let error = complete(&far, two).await.unwrap_err();
            assert_eq!(error.field, Some("num_choices"), "{}", row.protocol);
        }
    }
}

/// Whoever has enough of a choice says so, and need not wait for what the service would still say.
#[tokio::test]
async fn a_choice_of_which_no_more_is_wanted_is_let_go_of() {
    for row in ROWS {
        let parts = vec![row.open.as_bytes().to_vec(), row.frame("a ")];
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let (stub, far) = far(row, streamed(row, parts, Then::Hang), "").await;
        let mut stream = far.complete(request()).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), "a ", "{}", row.protocol);
        assert!(stream.end_choice(0), "{}", row.protocol);
        let whole = tokio::time::timeout(Duration::from_secs(20), stream.collect());
        let whole = whole.await.unwrap().unwrap();
        assert_eq!(whole.choices[0].text, "", "{}", row.protocol);
        assert!(whole.usage.num_completion_tokens > 0, "{}", row.protocol);
        stub.left(1).await;
    }
}
