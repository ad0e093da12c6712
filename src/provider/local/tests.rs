//! The local provider over a scripted device: what becomes of a request's sequences.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    completion::FinishReason,
    engine::{
        self, Batch, Engine, EngineLimits, Executor, ExecutorError, SampledToken, SamplingRow,
    },
    prompt::family,
    provider::CompletionEvent,
};

/// Gives each sequence a word a step; the first sequence ends its line at once.
struct Device {
    word: u32,
    line_end: u32,
    step_time: Duration,
    tokens: Vec<SampledToken>,
}

impl Executor for Device {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let until = Instant::now() + self.step_time;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        let token = |row: &SamplingRow| {
            let is_first = row.sequence_id.0 == 0 && row.num_generated == 1;
            SampledToken { id: if is_first { self.line_end } else { self.word }, logprob: None }
        };
        self.tokens = batch.sampling_rows.iter().map(token).collect();
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        Ok(std::mem::take(&mut self.tokens))
    }
}

fn provider(step_time: Duration) -> (Engine, LocalProvider) {
    let json = include_bytes!("../../../models/demo/tokenizer.json");
    let tokenizer = Tokenizer::from_json(json).unwrap();
    let id = |text| tokenizer.encode(text).unwrap()[0];
    let device = Device { word: id("a"), line_end: id("\n"), step_time, tokens: Vec::new() };
    let limits = EngineLimits {
        num_seqs_max: 4,
        num_batched_tokens_max: 64,
        block_size: 16,
        num_blocks: 512,
        context_tokens_max: 2048,
        num_queued_max: 8,
        has_prefix_cache: true,
        vocab_size: tokenizer.num_ids(),
    };
    let (engine, handle) = engine::start(Box::new(device), limits).unwrap();
    let fim = family::fim_by_name("lacuna-demo").unwrap();
    let template =
        FimTemplate::resolve("lacuna-demo", fim, |token| tokenizer.added_token_id(token)).unwrap();
    let model = ModelInfo {
        name: "scripted".to_owned(),
        engine: "lacuna".to_owned(),
        max_context_tokens: 2048,
        has_fim: true,
        has_repo_fim: false,
        has_chat: false,
        vocab_size: tokenizer.num_ids(),
    };
    let provider = LocalProvider::new(LocalParts {
        engine: handle,
        tokenizer,
        template: Some(template),
        chat: None,
        model,
        eos_token_ids: Vec::new(),
        shares: Shares { suffix: 0.2, context: 0.3 },
        outlines: None,
        ranks_context: true,
        masks_secrets: true,
        max_tokens_default: 1000,
        max_tokens_limit: 1000,
    });
    (engine, provider)
}

fn request(num_choices: u32) -> CompletionRequest {
    CompletionRequest {
        num_choices,
        ..CompletionRequest::of(Input::Fim { prefix: "a = ".repeat(40), suffix: "\n".to_owned() })
    }
}

#[tokio::test]
async fn a_choice_that_ended_leaves_the_batch_while_another_goes_on() {
    let (_engine, provider) = provider(Duration::from_micros(200));
    let mut stream = provider.complete(request(2)).await.unwrap();
    let mut is_first_done = false;
    while let Some(event) = stream.next().await {
        let CompletionEvent::Chunk(chunk) = event.unwrap() else { break };
        is_first_done |= chunk.choice_index == 0 && chunk.finish_reason == Some(FinishReason::Stop);
        if is_first_done && provider.engine.stats().num_running == 1 {
            return;
        }
    }
    panic!("both sequences ran to the end");
}

#[tokio::test]
async fn a_choice_of_which_no_more_is_wanted_leaves_the_batch() {
    let (_engine, provider) = provider(Duration::from_micros(200));
    // Without an end of its own.
    let endless = CompletionRequest { ignores_eos: true, ..request(2) };
    let mut stream = provider.complete(endless).await.unwrap();
    let mut num_tokens = [0; 2];
    let mut is_stopped = false;
    while let Some(event) = stream.next().await {
        let CompletionEvent::Chunk(chunk) = event.unwrap() else { break };
        let index = chunk.choice_index as usize;
        num_tokens[index] = chunk.num_choice_tokens.unwrap();
        if !is_stopped && num_tokens[0] > 2 {
            is_stopped = stream.end_choice(0);
            assert!(is_stopped);
        }
    }
    assert!(num_tokens[0] < 1000, "{num_tokens:?}");
    assert_eq!(num_tokens[1], 1000);
}

#[tokio::test]
async fn a_cold_request_of_two_choices_reports_no_hit() {
    let (_engine, provider) = provider(Duration::ZERO);
    let two = CompletionRequest { max_tokens: Some(3), ..request(2) };
    let cold = provider.complete(two.clone()).await.unwrap().collect().await.unwrap();
    assert_eq!(cold.usage.num_cached_tokens, 0);
    assert_eq!(cold.choices.len(), 2);
    let warm = provider.complete(two).await.unwrap().collect().await.unwrap();
    assert!(warm.usage.num_cached_tokens > 0);
}

#[tokio::test]
async fn at_the_deadline_what_was_written_is_the_answer() {
    let (_engine, provider) = provider(Duration::from_millis(2));
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let late = CompletionRequest { deadline, ..request(2) };
    let completion = provider.complete(late).await.unwrap().collect().await.unwrap();
    let reasons: Vec<_> = completion.choices.iter().map(|choice| choice.finish_reason).collect();
    assert_eq!(reasons, [FinishReason::Stop, FinishReason::Length]);
    assert!(completion.choices[1].text.starts_with('a'));
    assert!(completion.usage.num_completion_tokens < 1000);

    let over = CompletionRequest { deadline: Some(Instant::now()), ..request(1) };
    let error = provider.complete(over).await.unwrap().collect().await.unwrap_err();
    assert_eq!(error.kind, ProviderErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn a_long_prompt_of_a_client_that_left_takes_no_place() {
    let (_engine, provider) = provider(Duration::ZERO);
    let num_places = provider.builders.available_permits() as u32;
    let suffix = "a ".repeat(20_000);
    let long = CompletionRequest {
        input: Input::Fim { prefix: String::new(), suffix },
        max_tokens: Some(1),
        ..request(1)
    };
    // All places are taken, so that these wait, and then go.
    let places = provider.builders.acquire_many(num_places).await.unwrap();
    for _ in 0..20 {
        assert!(provider.complete(long.clone()).now_or_never().is_none());
    }
    drop(places);
    let completion = provider.complete(long).await.unwrap().collect().await.unwrap();
    assert_eq!(completion.usage.num_completion_tokens, 1);
    let _all = provider.builders.acquire_many(num_places).await.unwrap();
}

#[tokio::test]
async fn the_requests_own_ends_count_and_the_familys_only_in_gaps() {
    let (_engine, provider) = provider(Duration::ZERO);
    let short = CompletionRequest { max_tokens: Some(4), ..request(1) };
    let collect =
        async |request| provider.complete(request).await.unwrap().collect().await.unwrap();
    // The first sequence of the device ends its line, which ends a gap of this family, and no plain text.
    let plain = CompletionRequest { input: Input::Text("a = ".to_owned()), ..short.clone() };
    let text = collect(plain.clone()).await.choices.remove(0).text;
    assert_eq!(text, "a\naa");
    let by_text = CompletionRequest { stop: Some(vec!["aa".to_owned()]), ..plain.clone() };
    let choice = collect(by_text).await.choices.remove(0);
    assert_eq!((choice.text.as_str(), choice.finish_reason), ("", FinishReason::Stop));
    let word = provider.asking.tokenizer.encode("a").unwrap();
    let by_token = CompletionRequest { stop_token_ids: word, ..plain };
    let choice = collect(by_token).await.choices.remove(0);
    assert_eq!((choice.text.as_str(), choice.finish_reason), ("", FinishReason::Stop));
}

#[tokio::test]
async fn nothing_of_the_models_own_ends_what_ignores_it() {
    // The first sequence of each device ends its line.
    let collect = async |request| {
        let (_engine, provider) = provider(Duration::ZERO);
        let choices = provider.complete(request).await.unwrap().collect().await.unwrap().choices;
        (choices[0].text.clone(), choices[0].finish_reason)
    };
    let short = CompletionRequest { max_tokens: Some(4), ..request(1) };
    assert_eq!(collect(short.clone()).await.1, FinishReason::Stop);
    let endless = CompletionRequest { ignores_eos: true, ..short };
    assert_eq!(collect(endless.clone()).await, ("a\naa".to_owned(), FinishReason::Length));
    let stop = Some(vec!["\n".to_owned()]);
    let named = CompletionRequest { stop, ..endless.clone() };
    assert_eq!(collect(named).await, ("a".to_owned(), FinishReason::Stop));

    let (_engine, provider) = provider(Duration::ZERO);
    let (_, prompt) = provider.asking.prompt(endless.clone()).unwrap();
    assert!(!provider.asking.stop_token_ids.is_empty());
    assert!(provider.asking.sequence(endless, prompt).stop_token_ids.is_empty());
}
