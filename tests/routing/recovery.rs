//! A target that comes back is used again within a probe interval, and nobody waits for finding out.

use std::time::Duration;

use lacuna::{
    completion::CompletionRequest,
    provider::ProviderErrorKind,
    routing::circuit_breaker::{Override, StateKind},
};

use crate::{
    scripted::{Play, failure},
    world::{Plan, gap, ms, quantile, served_by},
};

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_after_five_failures_and_closes_within_a_probe_interval() {
    for fault in [failure(ProviderErrorKind::UpstreamFailed), Play::Hang, Play::CutBefore] {
        let world = Plan::two(fault.clone(), Play::Answer(ms(50))).build();
        world.ask_each(5, ms(10)).await;
        assert_eq!(world.seen.count("a open"), 1, "{fault:?}");
        let kinds = ["end a first", "end b retry", "end b hedge", "end a probe"];
        assert_eq!(kinds.map(|kind| world.seen.count(kind)), [5, 5, 0, 0], "{fault:?}");
        world.ask_each(100, ms(200)).await;
        world.targets[0].set(Play::Answer(ms(50)));
        let recovered = tokio::time::Instant::now();
        while served_by(&[world.ask(gap()).await], "a") == 0 {
            tokio::time::sleep(ms(50)).await;
        }
        // The interval, the probe's own time, and the pause between requests. A probe that hangs as the target comes
        // back is on its way for the rest of its deadline.
        let took = recovered.elapsed();
        let hanging = if matches!(fault, Play::Hang) { ms(1000) } else { ms(0) };
        assert!(took <= ms(5000 + 50 + 200) + hanging, "{fault:?}: {took:?}");
        assert_eq!(world.seen.count("a closed"), 1, "{fault:?}");
        assert!(world.seen.count("end a probe") >= 1, "{fault:?}");
        let all = world.ask_each(50, ms(50)).await;
        assert_eq!(served_by(&all, "a"), 50, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_probe() {
    let world = Plan::two(Play::Hang, Play::Answer(ms(50))).build();
    world.ask_each(5, ms(10)).await;
    let all = world.ask_each(1000, ms(50)).await;
    assert_eq!(quantile(&all, 1.0), ms(50));
    assert!((10..=25).contains(&(world.calls()[0] - 5)), "{:?}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn where_nobody_else_is_left_the_request_is_the_probe() {
    let world = Plan::two(
        failure(ProviderErrorKind::UpstreamFailed),
        failure(ProviderErrorKind::UpstreamFailed),
    )
    .build();
    world.ask_each(10, ms(10)).await;
    let calls = world.calls();
    let ended = world.ask(gap()).await;
    assert_eq!(ended.result, Err(ProviderErrorKind::Unavailable));
    assert!(ended.retry_after.is_some_and(|wait| wait <= ms(5000)), "{ended:?}");
    assert_eq!(world.calls(), calls, "an open breaker costs no call");
    world.targets[1].set(Play::Answer(ms(10)));
    tokio::time::sleep(ms(5000)).await;
    assert_eq!(world.ask(gap()).await.result.as_deref(), Ok("b"));
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_too() {
    let mut plan = Plan::two(Play::Answer(ms(400)), Play::Answer(ms(50)));
    plan.config.breaker.slow_call = ms(300);
    let world = plan.build();
    let all = world.ask_each(100, ms(10)).await;
    assert_eq!((served_by(&all, "a"), served_by(&all, "b")), (20, 80));
    assert_eq!(world.router.targets()[0].state, StateKind::Open);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_becomes_slow_is_given_up_for_another() {
    let world = Plan::two(Play::Answer(ms(20)), Play::Answer(ms(20))).build();
    world.ask_each(50, ms(10)).await;
    world.targets[0].set(Play::Answer(ms(900)));
    let all = world.ask_each(20, ms(10)).await;
    assert_eq!(served_by(&all, "b"), 20);
    // Four times what is usual, but never less than a tenth of a second; what is usual grows with each that was silent.
    assert!(all[0].took <= ms(130), "{:?}", all[0]);
    assert!(quantile(&all, 1.0) <= ms(520), "{:?}", quantile(&all, 1.0));
    assert_eq!(quantile(&all, 0.7), ms(20), "the breaker is open");
    assert_eq!(world.calls(), [55, 20]);
}

#[tokio::test(start_paused = true)]
async fn who_types_on_opens_no_breaker() {
    let world = Plan::two(Play::Answer(ms(300)), Play::Answer(ms(300))).build();
    for _ in 0..100 {
        let left = tokio::time::timeout(ms(100), world.provider.complete(gap())).await;
        assert!(left.is_err());
    }
    assert_eq!(world.router.targets()[0].state, StateKind::Closed);
    assert_eq!(world.calls(), [100, 0]);
}

#[tokio::test(start_paused = true)]
async fn clients_in_a_hurry_open_no_breaker() {
    for (takes, has) in [(60, 50), (300, 520)] {
        check_hurry(ms(takes), ms(has)).await;
    }
}

async fn check_hurry(takes: Duration, has: Duration) {
    let world = Plan::two(Play::Answer(takes), Play::Answer(takes)).build();
    // What both usually take is known.
    world.ask_each(40, ms(50)).await;
    for _ in 0..100 {
        let soon = tokio::time::Instant::now() + has / 2;
        let request = CompletionRequest { deadline: Some(soon.into_std()), ..gap() };
        assert!(world.ask(request).await.result.is_err(), "{takes:?}");
    }
    for target in world.router.targets() {
        assert_eq!(target.state, StateKind::Closed, "{takes:?} in {has:?}: {target:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_may_decide_over_a_target() {
    let world = Plan::two(Play::Answer(ms(10)), Play::Answer(ms(10))).build();
    let answers = async || world.ask(gap()).await.result.unwrap();
    for (manual, name) in [
        (Override::Open, "b"),
        (Override::Auto, "a"),
        (Override::Drained, "b"),
        (Override::Closed, "a"),
    ] {
        world.router.decide("a", manual).unwrap();
        assert_eq!(answers().await, name, "{manual:?}");
    }
    world.targets[0].set(failure(ProviderErrorKind::UpstreamFailed));
    let before = world.calls()[0];
    world.ask_each(20, ms(100)).await;
    assert_eq!(world.calls()[0], before + 20, "a breaker that is held closed does not open");
    assert!(world.router.decide("c", Override::Open).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_runs_at_a_drained_target_ends() {
    let world = Plan::two(Play::Empty(ms(100)), Play::Answer(ms(10))).build();
    let (ended, ()) = tokio::join!(world.ask(gap()), async {
        tokio::time::sleep(ms(50)).await;
        world.router.decide("a", Override::Drained).unwrap();
    });
    assert_eq!(ended.result.as_deref(), Ok("a"));
    assert_eq!(world.ask(gap()).await.result.as_deref(), Ok("b"));
}
