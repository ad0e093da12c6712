//! What is particular to a file: one that is full, locked, gone, or none of a database.

use std::{fs, future::poll_fn, task::Poll};

use super::*;

fn id_of(number: usize) -> String {
    format!("{number:0>120}")
}

#[test]
fn a_full_file_refuses_events_until_the_oldest_are_gone() {
    let (mut place, folder) = in_file();
    place.bytes_max = 1 << 20;
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    let tell = |round: usize| {
        let events = (0..100).map(|n| event(&id_of(100 * round + n), EventKind::Shown));
        wait(store.record_events(events.collect()))
    };
    let full = (0..200).find(|round| tell(*round).is_err()).expect("a MiB holds few of these");
    assert!(full > 5, "{full}");
    assert_eq!(sample(&metrics, &["lacuna_telemetry_store_up{"]), 0);
    assert_eq!(sample(&metrics, &["lacuna_telemetry_dropped_total{", "event"]), 100);
    let again = (0..50).find(|round| tell(1000 + round).is_ok());
    assert!(again.is_some(), "there is no room again");
    assert_eq!(sample(&metrics, &["lacuna_telemetry_store_up{"]), 1);
    wait(store.close());
    let kept = place.total()[0];
    assert!(kept >= 100 && kept < 100 * full as u64, "{kept} of the {full} hundreds");
    let size = fs::metadata(folder.path().join("telemetry.db")).unwrap().len();
    assert!(size <= place.bytes_max, "{size}");
}

#[test]
fn a_locked_file_fills_the_queue_and_nothing_that_waits_is_lost() {
    let (place, folder) = in_file();
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("telemetry.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    wait(async {
        let mut first = Box::pin(store.record_events(vec![event("first", EventKind::Shown)]));
        assert!(poll_fn(|ctx| Poll::Ready(first.as_mut().poll(ctx).is_pending())).await);
        // The writer has taken it and waits for the lock.
        while sample(&metrics, &["lacuna_telemetry_queue_length{"]) > 0 {
            tokio::task::yield_now().await;
        }
        for number in 0..QUEUE_MAX + 10 {
            store.record(completion(&number.to_string()));
        }
        let refused = store.record_events(vec![event("late", EventKind::Shown)]).await;
        assert_eq!(refused, Err(StoreRefusal::Busy));
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(first.await.unwrap().stored, 1);
        store.close().await;
    });
    assert_eq!(sample(&metrics, &["lacuna_telemetry_dropped_total{", "completion"]), 10);
    assert_eq!(sample(&metrics, &["lacuna_telemetry_dropped_total{", "event"]), 1);
    let total = place.report(None).total;
    assert_eq!((total.requests, total.shown), (QUEUE_MAX as u64, 1));
}

#[test]
fn a_file_that_was_removed_is_made_anew() {
    let (place, folder) = in_file();
    let metrics = Metrics::default();
    let store = place.try_open(&metrics).unwrap();
    let tell = || wait(store.record_events(vec![event("a", EventKind::Shown)]));
    assert_eq!(tell().unwrap().stored, 1);
    fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(tell(), Err(StoreRefusal::Unavailable));
    store.record(completion("lost"));
    assert_eq!(tell(), Err(StoreRefusal::Unavailable));
    fs::create_dir(folder.path()).unwrap();
    let mut tries = 0;
    // Empty ones make the writer look around, and cost nothing.
    while tell().is_err() {
        tries += 1;
        assert!(tries < 1_000_000, "the store does not come back");
    }
    assert_eq!(sample(&metrics, &["lacuna_telemetry_store_up{"]), 1);
    wait(store.close());
    assert_eq!(place.total(), [1, 0, 0]);
}

#[test]
fn what_is_no_store_is_refused_at_the_start() {
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "these are notes of somebody, not a database, and they stay as they are")
        .unwrap();
    let none = folder.path().join("none");
    let rows = [
        (text.clone(), format!("{} is no database of SQLite", text.display())),
        (folder.path().to_owned(), format!("{} is a folder", folder.path().display())),
        (none.join("telemetry.db"), format!("there is no folder {}", none.display())),
    ];
    for (path, why) in rows {
        let opened = Place::new(Address::Sqlite(path.clone())).try_open(&Metrics::default());
        let fault = opened.unwrap_err();
        assert!(matches!(fault, Fault::Unusable(_)), "{}: {fault}", path.display());
        assert!(fault.to_string().contains(&why), "{why} is not in: {fault}");
    }
    assert!(fs::read_to_string(text).unwrap().starts_with("these are notes"));
}

#[test]
fn what_cannot_be_read_is_not_called_empty() {
    let (place, folder) = in_file();
    wait(place.open().close());
    let at = |name: &str| folder.path().join(name);
    let mut bytes = fs::read(at("telemetry.db")).unwrap();
    // Behind the head of the file is its list of tables.
    bytes[100..512].fill(0xa5);
    fs::write(at("damaged.db"), bytes).unwrap();
    fs::write(at("notes.txt"), "these are notes of somebody, and not a database").unwrap();
    fs::write(at("nothing.db"), "").unwrap();
    let shown = |name: &str, what: &str| Fault::Unusable(format!("{}{what}", at(name).display()));
    let rows = [
        ("damaged.db", shown("damaged.db", " is damaged")),
        ("notes.txt", shown("notes.txt", " is no database of SQLite")),
        ("", shown("", " is a folder: name a file in it")),
        ("telemetri.db", Fault::Missing(at("telemetri.db").display().to_string())),
        ("nothing.db", Fault::Empty),
    ];
    for (name, fault) in rows {
        let period = Period { first: Day(0), last: Day(1) };
        assert_eq!(Report::read(&Address::Sqlite(at(name)), period, None), Err(fault), "{name}");
    }
}
