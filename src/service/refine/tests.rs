//! What a request's choices become on their way through the steps, and what of the provider's work is let go of.

use futures_util::FutureExt as _;

use super::*;
use crate::{
    completion::{Asker, SamplingParams, TokenLogprob},
    postprocess::MARKERS,
    prompt::family::{FAMILIES, Family},
};

const USAGE: Usage = Usage {
    num_prompt_tokens: 9,
    num_cached_tokens: 0,
    num_context_tokens_sent: 0,
    num_context_tokens_used: 0,
    num_completion_tokens: 3,
};

fn config(steps: &[Step]) -> PostprocessConfig {
    let min_scores = vec![(None, -1.0)];
    PostprocessConfig { completion: steps.to_vec(), min_scores, ..PostprocessConfig::none() }
}

fn request(num_choices: u32) -> CompletionRequest {
    CompletionRequest {
        input: Input::Fim { prefix: "func f() {\n\t".to_owned(), suffix: String::new() },
        file_name: None,
        repository: None,
        language: Language::detect("a.go", None),
        context: Vec::new(),
        sampling: SamplingParams::greedy(),
        max_tokens: Some(64),
        stop: None,
        stop_token_ids: Vec::new(),
        ignores_eos: false,
        num_choices,
        logprobs: None,
        deadline: None,
        postprocessing: PostProcessing::Completion { without: Vec::new() },
        model: None,
        asker: Asker::default(),
        correlation_id: None,
        trace: crate::trace::Parent::default(),
    }
}

fn chunk(choice_index: u32, text: &str, finish_reason: Option<FinishReason>) -> CompletionChunk {
    let logprob = TokenLogprob { token: text.to_owned(), logprob: -2.0, top: Vec::new() };
    let (text, logprobs) = (text.to_owned(), vec![logprob]);
    let usage = Some(USAGE);
    CompletionChunk {
        choice_index,
        text,
        logprobs,
        finish_reason,
        usage,
        num_choice_tokens: Some(3),
    }
}

/// Returns the texts and finish reasons of the choices, and the usage.
async fn refine(
    request: CompletionRequest,
    steps: &[Step],
    chunks: Vec<CompletionChunk>,
) -> (Vec<(String, FinishReason)>, Usage) {
    let events = chunks.into_iter().map(|chunk| Ok(CompletionEvent::Chunk(chunk)));
    // What comes behind them fails: who has had enough does not get there.
    let error = Err(ProviderError::out_of_time());
    let events = CompletionStream::new(stream::iter(events.chain([error])));
    let account = Account::open("id", "test");
    let completion = apply(request, steps, events, &account).collect().await.unwrap();
    let choices = completion.choices.into_iter();
    (choices.map(|choice| (choice.text, choice.finish_reason)).collect(), completion.usage)
}

fn apply(
    mut request: CompletionRequest,
    steps: &[Step],
    events: CompletionStream,
    account: &Account,
) -> CompletionStream {
    let plan = Plan::of(&mut request, &config(steps), "model", false).unwrap();
    plan.apply(events, 64, account.clone(), Arc::new(Semaphore::new(1)))
}

#[tokio::test]
async fn a_choice_that_ended_early_is_stopped_while_another_goes_on() {
    let closed = |index| chunk(index, "a()\n}\n\nfunc g() {\n", None);
    let chunks = vec![
        chunk(1, "b()\n", None),
        closed(0),
        chunk(0, "\tc()\n", None),
        chunk(1, "d()", Some(FinishReason::Stop)),
    ];
    let events = chunks.into_iter().map(|chunk| Ok(CompletionEvent::Chunk(chunk)));
    let (ends, ended) = std::sync::mpsc::channel();
    let events = CompletionStream::new(stream::iter(events)).with_ends(ends);
    let account = Account::open("id", "test");
    let mut refined = apply(request(2), &[Step::Scope], events, &account);
    let mut texts = [String::new(), String::new()];
    while let Some(Ok(CompletionEvent::Chunk(chunk))) = refined.next().await {
        texts[chunk.choice_index as usize] += &chunk.text;
    }
    assert_eq!(texts, ["a()\n}", "b()\nd()"]);
    assert_eq!(ended.try_iter().collect::<Vec<_>>(), [0]);
    // Of 64 tokens three were written; the choice that ended by itself has saved none.
    assert_eq!(account.num_tokens_saved(), 61);

    // A provider that cannot stop one choice goes on with it: nothing is saved.
    let events = [closed(0), chunk(1, "d()", Some(FinishReason::Stop))];
    let events = events.into_iter().map(|chunk| Ok(CompletionEvent::Chunk(chunk)));
    let events = CompletionStream::new(stream::iter(events));
    let account = Account::open("id", "test");
    apply(request(2), &[Step::Scope], events, &account).collect().await.unwrap();
    assert_eq!(account.num_tokens_saved(), 0);
}

#[test]
fn much_syntax_is_read_off_the_async_workers() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    let runtime = runtime.unwrap();
    runtime.block_on(async {
        // The one other thread is busy until it is let go.
        let (release, busy) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || busy.recv());
        let prefixes =
            ["func f() {\n\t".to_owned(), format!("{}func f() {{\n\t", "a()\n".repeat(200))];
        let mut texts = prefixes.map(|prefix| {
            let mut asked = request(1);
            asked.input = Input::Fim { prefix, suffix: String::new() };
            Box::pin(refine(asked, &[Step::Scope], vec![chunk(0, "a()\n}\n\nfunc g() {\n", None)]))
        });
        let [small, large] = &mut texts;
        assert!(small.now_or_never().is_some());
        assert!(large.now_or_never().is_none());
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        let (choices, _) = large.await;
        assert_eq!(choices[0].0, "a()\n}");
    });
}

#[tokio::test]
async fn a_closed_scope_ends_the_providers_work() {
    let chunks =
        vec![chunk(0, "a()\n", None), chunk(0, "}\n\n", None), chunk(0, "func g() {\n", None)];
    let (choices, usage) = refine(request(1), &[Step::Scope], chunks).await;
    assert_eq!(choices, [("a()\n}".to_owned(), FinishReason::Stop)]);
    assert_eq!(usage, USAGE);
}

#[tokio::test]
async fn a_choice_that_becomes_empty_stays_one() {
    let chunks = vec![
        chunk(0, " \n", Some(FinishReason::Length)),
        chunk(1, "a", None),
        chunk(1, " ", Some(FinishReason::Stop)),
    ];
    let (choices, _) = refine(request(2), &[Step::Whitespace], chunks).await;
    let expected = [(String::new(), FinishReason::Length), ("a ".to_owned(), FinishReason::Stop)];
    assert_eq!(choices, expected);
}

#[tokio::test]
async fn the_score_is_the_mean_of_log_probabilities_that_nobody_sees() {
    let mut asked = request(1);
    let plan = Plan::of(&mut asked, &config(&[Step::MinScore]), "model", false).unwrap();
    assert_eq!((asked.logprobs, plan.hides_logprobs), (Some(0), true));
    let chunks = vec![chunk(0, "a", Some(FinishReason::Stop))];
    let (choices, _) = refine(request(1), &[Step::MinScore], chunks).await;
    assert_eq!(choices, [(String::new(), FinishReason::Stop)]);
}

#[test]
fn fences_stay_in_markdown() {
    let mut asked = request(1);
    asked.file_name = Some("README.md".to_owned());
    assert!(Plan::of(&mut asked, &config(&[Step::CodeFences]), "model", false).is_none());
    asked.file_name = Some("a.go".to_owned());
    assert!(Plan::of(&mut asked, &config(&[Step::CodeFences]), "model", false).is_some());
}

#[test]
fn nothing_is_planned_where_nothing_is_asked_or_left() {
    let mut none = request(1);
    none.postprocessing = PostProcessing::None;
    assert!(Plan::of(&mut none, &config(&[Step::Scope]), "model", false).is_none());
    let mut without = request(1);
    without.postprocessing = PostProcessing::Completion { without: vec![Step::Scope] };
    assert!(Plan::of(&mut without, &config(&[Step::Scope]), "model", false).is_none());
    // It must see the whole.
    let steps = config(&[Step::CommentOnly]);
    assert!(Plan::of(&mut request(1), &steps, "model", true).is_none());
}

#[test]
fn every_sentinel_of_a_family_is_taken_out() {
    for fim in FAMILIES.iter().filter_map(Family::fim) {
        for token in [Some(fim.prefix), Some(fim.suffix), fim.middle].into_iter().flatten() {
            let text = token.trim_start_matches('▁');
            // An index and a type's parameter are code.
            let is_word = |c: char| c.is_ascii_uppercase() || "<>[]".contains(c);
            assert_ne!(MARKERS.contains(&text), text.chars().all(is_word), "{token}");
        }
    }
}

/// Services elsewhere count at the end alone: what fails behind the last word that stays loses nothing.
#[tokio::test]
async fn what_fails_behind_an_answer_that_is_whole_is_no_failure() {
    let uncounted = |chunk| CompletionChunk { usage: None, num_choice_tokens: None, ..chunk };
    let closed = uncounted(chunk(0, "a()\n}\n\nfunc g() {\n", None));
    let (choices, usage) = refine(request(1), &[Step::Scope], vec![closed]).await;
    assert_eq!(choices, [("a()\n}".to_owned(), FinishReason::Stop)]);
    assert_eq!(usage, Usage::default());
}
