//! Failover does not amplify an outage.

use lacuna::{provider::ProviderErrorKind, routing::circuit_breaker::Override};

use crate::{
    scripted::{Play, failure},
    world::{Plan, ms, served_by},
};

const NUM: u32 = 2000;

#[tokio::test(start_paused = true)]
async fn an_outage_of_all_is_at_most_a_tenth_more_calls() {
    for fault in [failure(ProviderErrorKind::UpstreamFailed), Play::Hang, Play::CutBefore] {
        for manual in [Override::Auto, Override::Closed] {
            let world = Plan::two(fault.clone(), fault.clone()).build();
            // Held closed, the breakers help nobody: the budget alone must.
            world.router.decide("a", manual).unwrap();
            world.router.decide("b", manual).unwrap();
            let all = world.ask_abreast(NUM, ms(10)).await;
            assert!(all.iter().all(|ended| ended.result.is_err()));
            let calls: usize = world.calls().iter().sum();
            let num = NUM as usize;
            assert!(calls * 10 <= num * 11, "{fault:?} {manual:?}: {calls} calls");
            if manual == Override::Closed {
                assert!(calls >= num, "{fault:?}: each is tried once");
            } else {
                // Those that hang do so for a second before it is known.
                assert!(calls * 5 <= num, "{fault:?}: open breakers cost nothing, {calls} calls");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_at_a_dead_target_is_served_as_far_as_the_budget_goes() {
    let world = Plan::two(failure(ProviderErrorKind::UpstreamFailed), Play::Answer(ms(50))).build();
    // A minute's traffic before the outage has earned its share.
    world.targets[0].set(Play::Answer(ms(1)));
    world.ask_each(1000, ms(9)).await;
    world.targets[0].set(Play::CutBefore);
    let burst = (0..100).map(|_| world.ask(crate::world::gap()));
    let all = futures_util::future::join_all(burst).await;
    assert_eq!(served_by(&all, "b"), 100, "{:?}", world.calls());
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_a_request_waits_where_it_is() {
    let mut plan = Plan::two(Play::Answer(ms(800)), Play::Answer(ms(10)));
    plan.config.retry_share = 0.0;
    plan.config.retry_floor = 0;
    let world = plan.build();
    let all = world.ask_each(10, ms(10)).await;
    assert_eq!((served_by(&all, "a"), world.calls()), (10, vec![10, 0]));
    assert!(world.seen.count("spent") >= 10);
}
