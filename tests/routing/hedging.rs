//! A call that is slower than nineteen of twenty gets company, if the budget allows.

use crate::{
    scripted::{Play, Scripted},
    world::{Plan, World, gap, ms, quantile, served_by},
};

fn hedged(a: Play, b: Play) -> World {
    let mut plan = Plan::two(a, b);
    plan.config.hedge_delay = Some(ms(50));
    plan.build()
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_overtaken_and_let_go() {
    let world = hedged(Play::Answer(ms(100)), Play::Answer(ms(100)));
    let all = world.ask_each(100, ms(10)).await;
    assert_eq!((served_by(&all, "a"), world.calls()), (100, vec![100, 0]), "nothing was slow");
    let slow = |target: &Scripted| target.set(Play::Answer(ms(700)));
    slow(&world.targets[0]);
    let ended = world.ask(gap()).await;
    assert_eq!(ended.result.as_deref(), Ok("b"));
    // What is usual is known to a fifth.
    assert!((ms(200)..=ms(220)).contains(&ended.took), "{:?}", ended.took);
    assert_eq!((world.open(), world.seen.count("overtaken a")), (vec![0, 0], 1));
    assert_eq!((world.seen.count("start b hedge"), world.seen.count("end b hedge")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_may_still_win() {
    let world = hedged(Play::Answer(ms(100)), Play::Hang);
    world.ask_each(30, ms(10)).await;
    world.targets[0].set(Play::Answer(ms(200)));
    let ended = world.ask(gap()).await;
    assert_eq!((ended.result.as_deref(), ended.took), (Ok("a"), ms(200)));
    assert_eq!((world.calls()[1], world.open()), (1, vec![0, 0]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_it_is_known_what_is_usual() {
    let world = hedged(Play::Answer(ms(400)), Play::Answer(ms(10)));
    let all = world.ask_each(19, ms(10)).await;
    assert_eq!((served_by(&all, "a"), world.calls()[1]), (19, 0));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_always_overtaken_is_left_alone() {
    let world = hedged(Play::Answer(ms(20)), Play::Answer(ms(20)));
    world.ask_each(1000, ms(5)).await;
    world.targets[0].set(Play::Hang);
    let all = world.ask_each(400, ms(5)).await;
    assert_eq!(served_by(&all, "b"), 400);
    assert!(world.seen.count("a open") >= 1);
    assert!(quantile(&all, 0.5) <= ms(25), "{:?}", quantile(&all, 0.5));
}

#[tokio::test(start_paused = true)]
async fn hedges_stay_within_the_budget() {
    let mut plan = Plan::two(Play::Answer(ms(60)), Play::Answer(ms(60)));
    plan.config.hedge_delay = Some(ms(1));
    plan.config.breaker.slow_share = 1.0;
    let world = plan.build();
    world.ask_each(30, ms(1)).await;
    world.targets[0].set(Play::Answer(ms(110)));
    let before: usize = world.calls().iter().sum();
    let all = world.ask_each(1000, ms(1)).await;
    assert!(all.iter().all(|ended| ended.result.is_ok()));
    let calls = world.calls().iter().sum::<usize>() - before;
    assert!(calls > 1000 && calls <= 1000 + 110, "{calls}");
}
