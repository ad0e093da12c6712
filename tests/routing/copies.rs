//! Shadows: copies that users never wait for.

use lacuna::{config::ShadowConfig, provider::ProviderErrorKind, routing::Comparison};

use crate::{
    scripted::{Play, failure},
    world::{Plan, gap, ms, quantile, served_by},
};

#[tokio::test(start_paused = true)]
async fn a_shadow_delays_nobody_and_is_compared() {
    for (play, word) in [
        (Play::Answer(ms(10)), "other_first_line"),
        (Play::Answer(ms(600)), "other_first_line"),
        (Play::Hang, "shadow_failed"),
        (Play::CutBefore, "shadow_failed"),
        (Play::CutAfter, "shadow_failed"),
    ] {
        let mut plan = Plan::two(Play::Answer(ms(50)), Play::Answer(ms(50)));
        plan.config.num_shadows_max = 100;
        let world = plan.shadowed("s", play.clone()).build();
        let all = world.ask_each(4, ms(10)).await;
        assert_eq!((served_by(&all, "a"), quantile(&all, 1.0)), (4, ms(50)), "{play:?}");
        tokio::time::sleep(ms(3000)).await;
        assert_eq!((world.calls(), world.seen.count(word)), (vec![4, 0, 4], 4), "{play:?}");
        assert_eq!(world.open(), [0, 0, 0], "{play:?}");
        assert_eq!(world.seen.count("end s shadow"), 4, "{play:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_compared_with_itself() {
    for (first, word) in [(Play::CutBefore, "no_answer"), (Play::Answer(ms(5)), "other_first_line")]
    {
        let mut plan = Plan::two(first.clone(), Play::Answer(ms(5)));
        plan.routes[0].shadow = Some(ShadowConfig { target: "b".to_owned(), percent: 100.0 });
        let world = plan.build();
        assert!(world.ask(gap()).await.result.is_ok());
        tokio::time::sleep(ms(2000)).await;
        assert_eq!(world.seen.count(word), 1, "{first:?}");
        assert_eq!(world.seen.count("same_first_line"), 0, "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_compared_is_the_first_line_and_the_length() {
    let plan = Plan::two(Play::Answer(ms(5)), Play::Answer(ms(5)));
    let world = plan.shadowed("shadow", Play::Answer(ms(5))).build();
    world.ask(gap()).await;
    tokio::time::sleep(ms(10)).await;
    let expected =
        Comparison::Both { has_same_first_line: false, num_bytes: 1, num_shadow_bytes: 6 };
    assert_eq!(world.seen.compared(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn shadows_are_bounded_and_open_breakers_are_respected() {
    let mut plan = Plan::two(Play::Answer(ms(5)), Play::Answer(ms(5)));
    plan.config.num_shadows_max = 2;
    let world = plan.shadowed("s", Play::Hang).build();
    let all = world.ask_each(10, ms(5)).await;
    assert_eq!((served_by(&all, "a"), world.calls()[2]), (10, 2));
    assert_eq!(world.seen.count("left_out"), 8);
    world.targets[2].set(failure(ProviderErrorKind::UpstreamFailed));
    tokio::time::sleep(ms(3000)).await;
    world.ask_each(50, ms(50)).await;
    // Two that hung, and three that failed, open it.
    assert_eq!(world.calls()[2], 5);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_failed_is_compared_with_nothing() {
    let plan = Plan::two(Play::CutAfter, Play::Answer(ms(5)));
    let world = plan.shadowed("s", Play::Answer(ms(5))).build();
    assert!(world.ask(gap()).await.result.is_err());
    tokio::time::sleep(ms(2000)).await;
    assert_eq!(world.seen.compared(), [Comparison::NoAnswer]);
}
