//! What every store must keep. A case is given a place where nothing is yet.

use std::collections::BTreeSet;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::*;

/// All of them.
pub(super) const ALL: [fn(&Place); 11] = [
    an_event_is_stored_once_and_found_again,
    any_order_and_repetition_counts_each_once,
    figures_are_those_of_the_rows,
    groups_are_those_of_the_completions,
    nobody_tells_of_anothers_completion,
    what_clients_count_adds_up,
    rows_go_when_they_are_old,
    a_newer_schema_is_refused,
    a_store_that_nobody_wrote_to_is_empty,
    metrics_count_what_is_new,
    several_writers_agree_and_share_commits,
];

fn an_event_is_stored_once_and_found_again(place: &Place) {
    let store = place.open();
    let shown = event("a", EventKind::Shown);
    let details = Event {
        elapsed_ms: Some(u32::MAX),
        accepted_chars: Some(7),
        accepted_lines: Some(0),
        user: None,
        ..event("a", EventKind::Accepted)
    };
    let twice = vec![shown.clone(), details.clone(), shown.clone()];
    let stored = wait(store.record_events(twice)).unwrap();
    assert_eq!(stored, Stored { stored: 2, duplicates: 1 });
    // Found at once, by whoever reads beside the writer.
    assert_eq!(place.total(), [1, 1, 0]);
    wait(store.close());
    assert_eq!(wait(store.record_events(vec![shown.clone()])), Err(StoreRefusal::Unavailable));
    let store = place.open();
    let later = Event { at_ms: NOW_MS - 5, ..shown };
    let stored = wait(store.record_events(vec![later, event("b", EventKind::Rejected)])).unwrap();
    assert_eq!(stored, Stored { stored: 1, duplicates: 1 });
    assert_eq!(place.total(), [1, 1, 1]);
    assert_eq!(wait(store.record_events(Vec::new())), Ok(Stored::default()));
    wait(store.close());
}

/// Ids, choices, kinds and users of few values, so that most events are told several times.
fn told() -> impl Strategy<Value = (u8, u8, usize, u8)> {
    (0u8..4, 0u8..3, 0usize..3, 0u8..2)
}

fn any_order_and_repetition_counts_each_once(place: &Place) {
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let store = place.open();
    let round = AtomicI64::new(0);
    let requests = vec(vec(told(), 0..12), 0..8);
    let outcome = runner.run(&requests, |requests| {
        // Each round has ids of its own, and what was there before stays as it was.
        let round = round.fetch_add(1, Ordering::Relaxed);
        let before = place.total();
        let (mut rows, mut choices) = (BTreeSet::new(), BTreeSet::new());
        let mut num_stored = 0;
        for request in &requests {
            let events = request.iter().map(|(id, choice, kind, user)| Event {
                choice_index: (*choice).into(),
                user: (*user > 0).then(|| format!("u{user}")),
                ..event(&format!("{round}-{id}"), EventKind::ALL[*kind])
            });
            let events: Vec<Event> = events.collect();
            num_stored += wait(store.record_events(events)).unwrap().stored;
            rows.extend(request.iter().copied());
            choices.extend(request.iter().map(|(id, choice, kind, _)| (*id, *choice, *kind)));
        }
        prop_assert_eq!(num_stored, rows.len());
        let count = |kind: usize| choices.iter().filter(|choice| choice.2 == kind).count() as u64;
        let expected = [0, 1, 2].map(|kind| before[kind] + count(kind));
        prop_assert_eq!(place.total(), expected);
        Ok(())
    });
    outcome.unwrap();
    wait(store.close());
}

fn figures_are_those_of_the_rows(place: &Place) {
    let store = place.open();
    for number in 1..=20 {
        store.record(CompletionRow {
            latency_ms: f64::from(number) * 10.0,
            ttft_ms: (number <= 10).then_some(f64::from(number)),
            user: (number > 2).then(|| format!("u{}", number % 3)),
            ..completion(&format!("ok-{number}"))
        });
    }
    // What failed says nothing of how long an answer takes, nor does what is told again.
    store.record(CompletionRow {
        outcome: "overloaded",
        latency_ms: 9e9,
        ttft_ms: None,
        ..completion("failed")
    });
    store.record(CompletionRow { latency_ms: 9e9, ..completion("ok-1") });
    // The days before and after are others.
    for (id, at_ms) in [("before", NOW_MS - 200 * DAY_MS), ("after", NOW_MS + 200 * DAY_MS)] {
        store.record(CompletionRow { at_ms, ..completion(id) });
    }
    wait(store.close());
    let Report { total, groups } = place.report(None);
    assert_eq!((total.requests, total.users), (21, 4));
    assert_eq!(total.latency_ms, [Some(100.0), Some(190.0)]);
    assert_eq!(total.ttft_ms, [Some(5.0), Some(10.0)]);
    assert_eq!((total.acceptance_rate(), groups.len()), (None, 0));
}

/// Name, requests, and what was shown, accepted and rejected.
type Parts<'a> = &'a [(&'a str, u64, [u64; 3])];

fn groups_are_those_of_the_completions(place: &Place) {
    let store = place.open();
    store.record(completion("a"));
    store.record(CompletionRow {
        model: "other".to_owned(),
        language: None,
        client: "neovim",
        prompt: Some("task/base/1.0.0".to_owned()),
        at_ms: NOW_MS - DAY_MS,
        latency_ms: 7.0,
        ..completion("b")
    });
    let events = [("a", EventKind::Shown), ("b", EventKind::Shown), ("b", EventKind::Accepted)];
    let mut events: Vec<Event> = events.map(|(id, kind)| event(id, kind)).into();
    // Told before its completion is known, and never known.
    events.push(event("c", EventKind::Shown));
    events.push(event("nowhere", EventKind::Rejected));
    wait(store.record_events(events)).unwrap();
    store.record(completion("c"));
    wait(store.close());
    let today = [3, 1, 1];
    let rows: [(By, Parts<'_>); 5] = [
        (By::Model, &[("", 0, [0, 0, 1]), ("coder", 2, [2, 0, 0]), ("other", 1, [1, 1, 0])]),
        (By::Language, &[("", 1, [1, 1, 1]), ("python", 2, [2, 0, 0])]),
        (By::Client, &[("", 0, [0, 0, 1]), ("neovim", 1, [1, 1, 0]), ("vscode", 2, [2, 0, 0])]),
        (By::Prompt, &[("", 2, [2, 0, 1]), ("task/base/1.0.0", 1, [1, 1, 0])]),
        (By::Day, &[("2026-11-21", 1, [0; 3]), ("2026-11-22", 2, today)]),
    ];
    for (by, expected) in rows {
        let report = place.report(Some(by));
        let of = |Group { name, figures: f }: &Group| {
            (name.clone(), f.requests, [f.shown, f.accepted, f.rejected])
        };
        let found: Vec<_> = report.groups.iter().map(of).collect();
        let expected: Vec<_> =
            expected.iter().map(|(name, n, of)| ((*name).to_owned(), *n, *of)).collect();
        assert_eq!(found, expected, "{by:?}");
        assert_eq!(report.total.requests, 3);
    }
    let models = place.report(Some(By::Model));
    assert_eq!(models.groups[2].figures.latency_ms, [Some(7.0), Some(7.0)]);
    assert_eq!(models.groups[2].figures.acceptance_rate(), Some(1.0));
}

fn nobody_tells_of_anothers_completion(place: &Place) {
    let store = place.open();
    store.record(completion("a"));
    let of = |user: Option<&str>, kind| Event { user: user.map(str::to_owned), ..event("a", kind) };
    let events = vec![
        of(Some("ada"), EventKind::Shown),
        of(Some("eve"), EventKind::Accepted),
        of(None, EventKind::Rejected),
    ];
    assert_eq!(wait(store.record_events(events)).unwrap().stored, 3);
    wait(store.close());
    let groups = place.report(Some(By::Model)).groups;
    let figures = |name: &str| &groups.iter().find(|group| group.name == name).unwrap().figures;
    let coder = figures("coder");
    assert_eq!([coder.shown, coder.accepted, coder.rejected], [1, 0, 1]);
    assert_eq!(figures("").accepted, 1);
}

fn what_clients_count_adds_up(place: &Place) {
    let store = place.open();
    let told = ToldRow {
        day: Day::of(NOW_MS).0,
        model: "coder".to_owned(),
        provider: "lacuna".to_owned(),
        language: "python",
        requests: 5,
        accepts: 2,
        errors: 0,
    };
    store.record_told(told.clone());
    store.record_told(told.clone());
    store.record_told(ToldRow { language: "go", errors: 1, ..told.clone() });
    wait(store.close());
    let store = place.open();
    store.record_told(ToldRow { day: told.day - 1, ..told });
    wait(store.close());
    let report = place.report(Some(By::Language));
    assert_eq!(report.total.told, [20, 8, 1]);
    let of: Vec<_> = report.groups.iter().map(|g| (g.name.as_str(), g.figures.told)).collect();
    assert_eq!(of, [("go", [5, 2, 1]), ("python", [15, 6, 0])]);
    assert_eq!(place.report(Some(By::Day)).groups.len(), 2);
    assert_eq!(place.report(Some(By::Client)).groups.len(), 0);
}

fn rows_go_when_they_are_old(place: &Place) {
    let fill = |id: &str| {
        let store = place.open();
        let now_ms = store.now_ms();
        // More than goes at once.
        for number in 0..600 {
            store.record(CompletionRow { at_ms: now_ms, ..completion(&format!("{id}-{number}")) });
        }
        let event = Event { at_ms: now_ms, ..event(id, EventKind::Shown) };
        wait(store.record_events(vec![event])).unwrap();
        store.record_told(ToldRow {
            day: Day::of(now_ms).0,
            model: String::new(),
            provider: String::new(),
            language: "",
            requests: 1,
            accepts: 0,
            errors: 0,
        });
        wait(store.close());
    };
    let counts = || {
        let total = place.report(None).total;
        (total.requests, total.shown, total.told[0])
    };
    fill("old");
    place.now_ms.fetch_add(60 * DAY_MS, Ordering::Relaxed);
    fill("young");
    assert_eq!(counts(), (1200, 2, 2));
    // The first is 90 days and a moment old now, the second 30.
    place.now_ms.store(NOW_MS + 90 * DAY_MS + 1, Ordering::Relaxed);
    let store = place.open();
    let mut rounds = 0;
    while counts() != (600, 1, 2) {
        // Each makes the writer look around.
        wait(store.record_events(Vec::new())).unwrap();
        let event = Event { at_ms: 0, ..event("tick", EventKind::Rejected) };
        wait(store.record_events(vec![event])).unwrap();
        rounds += 1;
        assert!(rounds < 100, "{:?}", counts());
    }
    wait(store.close());
    // What clients counted on the last day that is kept goes with that day.
    place.now_ms.fetch_add(DAY_MS, Ordering::Relaxed);
    wait(place.open().close());
    assert_eq!(counts(), (600, 1, 1));
}

fn a_newer_schema_is_refused(place: &Place) {
    wait(place.open().close());
    let purpose = Purpose::Write { bytes_max: place.bytes_max };
    let mut database = database::open(&place.address, purpose).unwrap();
    database.run("UPDATE lacuna_schema SET version = 7").unwrap();
    drop(database);
    let fault = place.try_open(&Metrics::default()).unwrap_err();
    assert_eq!(fault, Fault::Newer { found: 7, known: 1 });
    assert!(fault.to_string().contains("schema 7"), "{fault}");
    let period = Period { first: Day(0), last: Day(1) };
    assert_eq!(Report::read(&place.address, period, None), Err(fault));
}

fn a_store_that_nobody_wrote_to_is_empty(place: &Place) {
    let period = Period { first: Day(0), last: Day(1) };
    let nothing = match &place.address {
        Address::Sqlite(path) => Fault::Missing(path.display().to_string()),
        Address::Postgres(_) => Fault::Empty,
    };
    assert_eq!(Report::read(&place.address, period, None), Err(nothing));
    wait(place.open().close());
    let report = Report::read(&place.address, period, Some(By::Day)).unwrap();
    assert_eq!(report, Report { total: Figures::default(), groups: Vec::new() });
}

fn metrics_count_what_is_new(place: &Place) {
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    store.record(completion("a"));
    store.record(CompletionRow { user: Some("grace".to_owned()), ..completion("b") });
    store.record(CompletionRow {
        at_ms: NOW_MS - DAY_MS,
        user: Some("eve".to_owned()),
        ..completion("c")
    });
    let shown = event("a", EventKind::Shown);
    for _ in 0..3 {
        wait(store.record_events(vec![shown.clone()])).unwrap();
    }
    let accepted = event("nowhere", EventKind::Accepted);
    wait(store.record_events(vec![accepted.clone(), accepted])).unwrap();
    let events = "lacuna_suggestion_events_total{";
    let known = ["client=\"vscode\"", "language=\"python\"", "prompt=\"unknown\"", "\"coder\""];
    let of = |event: &str, labels: &[&str]| sample(&metrics, &[&[events, event], labels].concat());
    assert_eq!(of("event=\"shown\"", &known), 1);
    assert_eq!(of("event=\"accepted\"", &["model_name=\"unknown\""]), 1);
    assert_eq!(sample(&metrics, &["lacuna_telemetry_store_up{"]), 1);
    assert_eq!(sample(&metrics, &["lacuna_telemetry_queue_length{"]), 0);
    assert_eq!(sample(&metrics, &["lacuna_telemetry_commits_total{", "failed"]), 0);
    wait(store.close());
    // Users are counted at once where a store is opened.
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    wait(store.close());
    assert_eq!(sample(&metrics, &["lacuna_telemetry_users{"]), 2);
}

fn several_writers_agree_and_share_commits(place: &Place) {
    const EVENTS: usize = 64;
    let metrics = [Metrics::default(), Metrics::default()];
    let stores = [0, 1].map(|index| place.try_open(&metrics[index]).unwrap());
    let stored: usize = wait(async {
        // Both tell the same events, in opposite orders.
        let ids: Vec<usize> = (0..EVENTS).collect();
        let back: Vec<usize> = ids.iter().rev().copied().collect();
        let told = [ids, back].into_iter().zip(&stores).flat_map(|(ids, store)| {
            ids.into_iter().map(move |id| {
                let pair =
                    [id, (id + 1) % EVENTS].map(|id| event(&id.to_string(), EventKind::Shown));
                store.record_events(pair.into())
            })
        });
        let stored = futures_util::future::join_all(told).await;
        stored.into_iter().map(|stored| stored.unwrap().stored).sum()
    });
    assert_eq!(stored, EVENTS);
    assert_eq!(place.total(), [EVENTS as u64, 0, 0]);
    for (store, metrics) in stores.iter().zip(&metrics) {
        wait(store.close());
        let commits = sample(metrics, &["lacuna_telemetry_commits_total{", "ok"]);
        assert!(commits <= EVENTS / 2, "{commits} transactions for {EVENTS} requests");
    }
}
