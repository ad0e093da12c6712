//! What fails at one target is answered by another, within the deadline, and not more is asked than needed.

use lacuna::{
    completion::{CompletionRequest, FinishReason},
    provider::{ProviderError, ProviderErrorKind},
};

use crate::{
    scripted::{Play, failure},
    world::{Plan, gap, generation, ms, quantile, served_by},
};

const NUM: usize = 2000;

/// Requests a tenth of a second apart over more than three minutes: forty probe intervals.
async fn all_are_served(fault: Play, num_faulty_at_most: usize) {
    let world = Plan::two(fault.clone(), Play::Answer(ms(100))).build();
    let all = world.ask_each(NUM, ms(100)).await;
    assert_eq!(served_by(&all, "b"), NUM, "{fault:?}");
    let calls = world.calls();
    assert_eq!(calls[1], NUM, "{fault:?}: nobody is asked twice");
    assert!(calls[0] <= num_faulty_at_most, "{fault:?}: {calls:?}");
    assert!(calls[0] * 10 <= NUM, "{fault:?}: at most a tenth more calls");
    let p99 = quantile(&all, 0.99);
    assert!(p99 <= ms(130), "{fault:?}: {p99:?} where the healthy target takes 100 ms");
    assert!(quantile(&all, 1.0) <= ms(1000), "{fault:?}: no deadline was passed");
    assert_eq!(world.open(), [0, 0], "{fault:?}");
}

#[tokio::test(start_paused = true)]
async fn every_request_that_somebody_can_serve_is_served() {
    // Two hundred milliseconds a request are 400 s: at most 80 probe intervals, and five failures before the first.
    for kind in [
        ProviderErrorKind::UpstreamFailed,
        ProviderErrorKind::UpstreamUnreachable,
        ProviderErrorKind::UpstreamMalformed,
        ProviderErrorKind::Internal,
    ] {
        all_are_served(failure(kind), 85).await;
    }
    // A key that is refused is tried once a minute.
    all_are_served(failure(ProviderErrorKind::UpstreamRefused), 12).await;
    for fault in [Play::Hang, Play::Silent, Play::CutBefore, Play::Babble] {
        all_are_served(fault, 85).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_target_could_answer_better_is_told_at_once() {
    let world = Plan::two(failure(ProviderErrorKind::InvalidRequest), Play::Answer(ms(10))).build();
    let ended = world.ask(gap()).await;
    assert_eq!(ended.result, Err(ProviderErrorKind::InvalidRequest));
    assert_eq!(world.calls(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_faults_of_clients_open_no_breaker() {
    for kind in [ProviderErrorKind::InvalidRequest, ProviderErrorKind::PromptTooLong] {
        let world = Plan::two(failure(kind), Play::Answer(ms(10))).build();
        world.ask_each(50, ms(10)).await;
        assert_eq!(world.calls()[0], 50, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_wants_to_be_asked_less_is_left_alone_for_as_long_as_it_says() {
    let refusal = ProviderError {
        retry_after: Some(ms(30_000)),
        ..ProviderError::new(ProviderErrorKind::UpstreamExhausted, "later")
    };
    let world = Plan::two(Play::Refuse(refusal), Play::Answer(ms(10))).build();
    let all = world.ask_each(29, ms(1000)).await;
    assert_eq!((served_by(&all, "b"), world.calls()), (29, vec![1, 29]));
    assert_eq!(world.seen.count("skip a exhausted"), 28);
    world.targets[0].set(Play::Answer(ms(10)));
    let all = world.ask_each(10, ms(1000)).await;
    assert!(served_by(&all, "a") >= 6, "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn after_the_first_text_nothing_is_retried() {
    let world = Plan::two(Play::CutAfter, Play::Answer(ms(10))).build();
    let ended = world.ask(gap()).await;
    assert_eq!(ended.result, Err(ProviderErrorKind::UpstreamMalformed));
    assert_eq!(world.calls(), [1, 0]);
    // Cut answers open the breaker all the same, and the others are whole.
    let all = world.ask_each(10, ms(10)).await;
    assert_eq!((served_by(&all, "b"), world.calls()[0]), (6, 5));
}

#[tokio::test(start_paused = true)]
async fn an_empty_piece_is_no_first_text() {
    let world = Plan::two(Play::CutBefore, Play::Empty(ms(20))).build();
    let ended = world.ask(gap()).await;
    assert_eq!((ended.result.as_deref(), world.calls()), (Ok("b"), vec![1, 1]));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_loading_or_full_costs_nothing() {
    let world = Plan::two(Play::Answer(ms(10)), Play::Answer(ms(10))).build();
    world.targets[0].set_ready(false);
    let all = world.ask_each(100, ms(1)).await;
    assert_eq!((served_by(&all, "b"), world.calls()), (100, vec![0, 100]));
    assert_eq!(world.seen.count("skip a not_ready"), 100);
    assert!(world.provider.is_ready(), "somebody answers");
    world.targets[0].set_ready(true);
    world.targets[0].set(failure(ProviderErrorKind::Overloaded));
    let all = world.ask_each(300, ms(1)).await;
    assert_eq!(served_by(&all, "b"), 300, "a full queue is no reason to leave it alone");
    assert_eq!(world.calls()[0], 300);
    assert_eq!(world.seen.count("spent"), 0, "and no extra work for anybody");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_too_long_is_not_joined() {
    let world = Plan::two(Play::Answer(ms(10)), Play::Answer(ms(10))).build();
    for (expected, name) in [(None, "a"), (Some(999), "a"), (Some(1000), "b"), (Some(9000), "b")] {
        world.targets[0].set_expected(expected.map(ms));
        let ended = world.ask(gap()).await;
        assert_eq!((ended.result.as_deref(), ended.took), (Ok(name), ms(10)), "{expected:?}");
    }
    // Thirty seconds are enough for a generation.
    assert_eq!(world.ask(generation()).await.result.as_deref(), Ok("a"));
    world.targets[1].set_ready(false);
    assert_eq!(world.ask(gap()).await.result.as_deref(), Ok("a"), "late is better than never");
}

#[tokio::test(start_paused = true)]
async fn no_deadline_is_passed() {
    let world = Plan::two(Play::Hang, Play::Hang).build();
    let ended = world.ask(gap()).await;
    assert_eq!(ended.result, Err(ProviderErrorKind::DeadlineExceeded));
    assert_eq!((ended.took, world.calls()), (ms(1000), vec![1, 1]));
    let soon = tokio::time::Instant::now() + ms(300);
    let request = CompletionRequest { deadline: Some(soon.into_std()), ..gap() };
    assert_eq!(world.ask(request).await.took, ms(300));
    let ended = world.ask(generation()).await;
    assert_eq!((ended.result, ended.took), (Err(ProviderErrorKind::DeadlineExceeded), ms(30_000)));
    assert_eq!(world.open(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_what_is_written_is_the_answer() {
    let world = Plan::two(Play::Stall, Play::Answer(ms(10))).build();
    let ended = world.ask(gap()).await;
    assert_eq!((ended.result.as_deref(), ended.took), (Ok("some"), ms(1000)));
    assert_eq!(ended.finish_reason, Some(FinishReason::Length));
    assert_eq!((world.calls(), world.open()), (vec![1, 0], vec![0, 0]));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_everything_along() {
    let world = Plan::two(Play::Hang, Play::Hang).shadowed("s", Play::Hang).build();
    let answer = tokio::time::timeout(ms(700), world.provider.complete(gap())).await;
    assert!(answer.is_err());
    assert_eq!((world.calls(), &world.open()[..2]), (vec![1, 1, 1], &[0, 0][..]));
    assert_eq!(world.seen.count("cancelled b"), 1);
    world.targets[0].set(Play::Stall);
    let mut answer = world.provider.complete(gap()).await.unwrap();
    assert!(answer.next().await.unwrap().is_ok());
    assert_eq!(world.open()[0], 1);
    drop(answer);
    assert_eq!(world.open()[0], 0);
    // The shadows are the router's, and go with it.
    let targets = world.targets.clone();
    drop(world);
    tokio::task::yield_now().await;
    assert_eq!(targets[2].num_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_answers_is_told_and_can_be_told_to_stop_a_choice() {
    let world = Plan::two(failure(ProviderErrorKind::UpstreamFailed), Play::Answer(ms(10))).build();
    let mut events = world.provider.complete(gap()).await.unwrap();
    assert_eq!(events.answered_by().unwrap().name, "b");
    assert!(events.end_choice(0));
    // What is wished is heard before the next event.
    drop(events);
    let ended: Vec<Vec<u32>> = world.targets.iter().map(|target| target.ended()).collect();
    assert_eq!(ended, [vec![], vec![0]]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_with_all_choices_ended_has_a_whole_answer() {
    for is_stopped in [true, false] {
        let world = Plan::two(Play::Answer(ms(10)), Play::Answer(ms(10))).build();
        let mut events = world.provider.complete(gap()).await.unwrap();
        if is_stopped {
            assert!(events.end_choice(0));
        }
        drop(events);
        let label = if is_stopped { "ok a" } else { "cancelled a" };
        assert_eq!(world.seen.count(label), 1, "{is_stopped}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_request_is_declined_for_opens_no_breaker() {
    let world =
        Plan::two(failure(ProviderErrorKind::UpstreamDeclined), Play::Answer(ms(10))).build();
    // More than open a breaker, fewer than the budget of further calls allows.
    let all = world.ask_each(9, ms(100)).await;
    assert_eq!(served_by(&all, "b"), 9);
    assert_eq!(world.calls(), [9, 9]);
}
