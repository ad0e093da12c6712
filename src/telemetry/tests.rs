//! What the tests of logs share: the lines that something writes; and what is told of a panic.

use std::{
    io,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::{
    telemetry::{Arrival, Exchange, GitlabFacts, HttpFacts, logs},
    trace::{Span, with_request},
};

/// Keeps what is written to it.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Page {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Returns the lines that `write` logs at `filter`.
pub(super) fn lines(filter: &str, write: impl FnOnce()) -> Vec<serde_json::Value> {
    let page = Page::default();
    let subscriber = logs::json(filter, page.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, write);
    let bytes = page.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Tells of panics as the server does, for as long as it lives.
struct Told(Option<Hook>);

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

impl Told {
    fn begin() -> Self {
        let before = panic::take_hook();
        logs::hide_panic_messages();
        Self(Some(before))
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            panic::set_hook(before);
        }
    }
}

#[test]
fn a_panic_is_told_with_its_request_without_what_it_quotes() {
    let id: Arc<str> = "r-1".into();
    let lines = lines("info", || {
        let _told = Told::begin();
        let work = || {
            let _exchange = Exchange::open(Arrival {
                correlation_id: Arc::clone(&id),
                http: HttpFacts::default(),
                gitlab: GitlabFacts::default(),
                span: Span::default(),
                has_line: true,
            });
            let quoted = "m4rk3r".to_owned();
            panic!("cannot slice {quoted}");
        };
        let work = AssertUnwindSafe(work);
        assert!(with_request(&id, || panic::catch_unwind(work)).is_err());
    });
    let [told, request] = lines.as_slice() else { panic!("{lines:#?}") };
    assert_eq!((&told["message"], &told["level"]), (&"panic".into(), &"ERROR".into()));
    assert_eq!(
        (&told["correlation_id"], &request["correlation_id"]),
        (&"r-1".into(), &"r-1".into())
    );
    assert!(told["place"].as_str().unwrap().contains("src/telemetry/tests.rs:"), "{told}");
    assert_eq!(
        (&request["message"], &request["exception_class"]),
        (&"request".into(), &"panic".into())
    );
    assert!(!format!("{lines:?}").contains("m4rk3r"), "{lines:#?}");
}
