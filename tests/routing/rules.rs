//! Which requests are routed at all, and whom a target is for.

use lacuna::{
    completion::{Asker, ChatMessage, ChatRole, CompletionRequest, Input, Task},
    config::RouteMatch,
    provider::ProviderErrorKind,
};

use crate::{
    scripted::{Play, Scripted, failure},
    world::{Plan, defaults, gap, ms, route, served_by},
};

fn instant() -> Play {
    Play::Answer(ms(1))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_route_is_for_goes_where_it_went_before() {
    let mut plan = Plan::two(Play::Stall, instant());
    plan.routes[0].when = RouteMatch { tasks: vec![Task::Generation], ..RouteMatch::default() };
    let world = plan.build();
    let mut answer = world.provider.complete(gap()).await.unwrap();
    assert!(answer.next().await.unwrap().is_ok());
    let late = tokio::time::timeout(ms(60_000), answer.next()).await;
    assert!(late.is_err(), "nobody but itself bounds it");
    assert_eq!((world.calls(), world.seen.count("start a first")), (vec![1, 0], 0));
}

#[tokio::test(start_paused = true)]
async fn a_target_is_asked_only_what_it_can() {
    let plan = Plan {
        config: defaults(),
        routes: vec![route("all", &[("chat", 0), ("b", 0)])],
        targets: vec![Scripted::new("chat", instant()), Scripted::new("b", instant())],
    };
    let mut world = plan.build();
    assert_eq!(world.ask(gap()).await.result.as_deref(), Ok("b"));
    let says = ChatMessage { role: ChatRole::User, content: "hello".to_owned() };
    let chat = CompletionRequest { input: Input::Chat(vec![says]), ..gap() };
    assert_eq!(world.ask(chat).await.result.as_deref(), Ok("chat"));
    // Ids are those of the model that was asked for, here `a`, which is no target.
    let ids = CompletionRequest { input: Input::Tokens(vec![1]), ..gap() };
    world.provider = world.router.routed("a", Scripted::new("a", instant()));
    let ended = world.ask(ids).await;
    assert_eq!(ended.result, Err(ProviderErrorKind::InvalidRequest));
    assert_eq!(world.seen.count("skip b other_tokens"), 1);
}

#[tokio::test(start_paused = true)]
async fn users_stay_where_their_share_is_and_weights_may_shift() {
    let mut plan = Plan::two(instant(), instant());
    plan.routes = vec![route("split", &[("a", 70), ("b", 30)])];
    let world = plan.build();
    let of = |user: usize| CompletionRequest {
        asker: Asker { user: Some(format!("user {user}")), ..Asker::default() },
        ..gap()
    };
    let mut first = Vec::new();
    for user in 0..200 {
        first.push(world.ask(of(user)).await.result.unwrap());
        assert_eq!(world.ask(of(user)).await.result.as_ref(), Ok(&first[user]));
    }
    let share = first.iter().filter(|name| *name == "b").count();
    assert!((40..80).contains(&share), "{share} of 200");
    world.router.set_weights("split", &[("b".to_owned(), 100)]).unwrap();
    assert_eq!(world.ask(of(0)).await.result.as_deref(), Ok("b"));
    assert!(world.router.set_weights("split", &[("b".to_owned(), 99)]).is_err());
    world.router.replace(vec![route("split", &[("a", 100), ("b", 0)])]);
    assert_eq!(world.ask(of(0)).await.result.as_deref(), Ok("a"));
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_the_same_target_as_its_model() {
    let mut plan = Plan::two(failure(ProviderErrorKind::UpstreamFailed), instant());
    plan.routes = vec![route("all", &[("alias", 0), ("b", 0)])];
    let targets = plan.targets.clone();
    let named = |name: &str, target: &std::sync::Arc<Scripted>| lacuna::routing::NamedProvider {
        name: name.to_owned(),
        provider: std::sync::Arc::<Scripted>::clone(target),
    };
    let providers =
        vec![named("a", &targets[0]), named("alias", &targets[0]), named("b", &targets[1])];
    let mut world = plan.build();
    let router = lacuna::routing::Router::new(
        &defaults(),
        vec![route("all", &[("alias", 0), ("b", 0)])],
        providers,
        std::sync::Arc::new(lacuna::routing::NoObserver),
    );
    world.provider = router.routed("alias", std::sync::Arc::<Scripted>::clone(&targets[0]));
    let all = world.ask_each(10, ms(10)).await;
    assert_eq!((served_by(&all, "b"), targets[0].num_calls()), (10, 5));
    let names: Vec<String> = router.targets().into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["a", "b"]);
}
