//! Tests of spans and of their names across processes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::trace::{
    FinishedSpan, SpanContext, SpanKind, SpanSink, Tracer, Value, current_request, in_request,
    with_request,
};

/// Keeps spans that have ended.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<FinishedSpan>>>);

impl SpanSink for Kept {
    fn take(&self, span: FinishedSpan) {
        self.0.lock().unwrap().push(span);
    }
}

impl Kept {
    pub(crate) fn tracer(&self, ratio: f64) -> Tracer {
        Tracer::new(Box::new(self.clone()), ratio)
    }

    pub(crate) fn spans(&self) -> Vec<FinishedSpan> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn a_traceparent_is_read_as_w3c_writes_it() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let zeros = "00000000000000000000000000000000";
    let span = "b7ad6b7169203331";
    let rows = [
        (format!("00-{trace}-{span}-01"), Some(true)),
        (format!(" 00-{trace}-{span}-00 "), Some(false)),
        (format!("00-{trace}-{span}-03"), Some(true)),
        // A version to come may have more behind; the known parts count.
        (format!("01-{trace}-{span}-01"), Some(true)),
        (format!("cc-{trace}-{span}-01-what-else"), Some(true)),
        (format!("cc-{trace}-{span}-01.what"), None),
        (format!("00-{trace}-{span}-01-what"), None),
        (format!("ff-{trace}-{span}-01"), None),
        (format!("00-{zeros}-{span}-01"), None),
        (format!("00-{trace}-{}-01", &zeros[..16]), None),
        (format!("00-{}-{span}-01", trace.to_uppercase()), None),
        (format!("00-{trace}-{span}-1"), None),
        (format!("00-{trace}-{span}"), None),
        (format!("00_{trace}_{span}_01"), None),
        (format!("00-+{}-{span}-01", &trace[1..]), None),
        ("\u{e9}".repeat(60), None),
        (String::new(), None),
    ];
    for (text, expected) in rows {
        let parsed = SpanContext::parse(&text);
        assert_eq!(parsed.map(|context| context.is_sampled), expected, "{text}");
        if let Some(context) = parsed {
            assert_eq!(format!("{:032x}", context.trace_id), trace);
            let written = format!("00-{trace}-{span}-0{}", u8::from(context.is_sampled));
            assert_eq!(context.to_string(), written);
        }
    }
}

#[test]
fn spans_know_their_parents_and_end_when_they_are_dropped() {
    let kept = Kept::default();
    let mut root = kept.tracer(1.0).begin("GET", None);
    root.set("number", 7_u32);
    let mut child = root.parent().child("child", SpanKind::Client);
    child.event("moment", &[("why", "so".into())]);
    child.fail("broken");
    drop(child);
    assert_eq!(kept.spans().len(), 1, "the root goes on");
    root.rename("GET /a");
    drop(root);
    let [child, root] = kept.spans().try_into().unwrap();
    assert_eq!((root.parent_id, child.parent_id), (None, Some(root.context.span_id)));
    assert_eq!(root.context.trace_id, child.context.trace_id);
    assert_ne!(root.context.span_id, child.context.span_id);
    assert_eq!((root.name.as_ref(), root.kind, root.is_error), ("GET /a", SpanKind::Server, false));
    assert_eq!(root.attributes, [("number", Value::Integer(7))]);
    assert!(child.is_error && child.attributes == [("error.type", "broken".into())]);
    assert_eq!(child.events[0].attributes, [("why", "so".into())]);
    assert!(root.began <= child.began && child.ended <= root.ended);
    assert!(child.began <= child.events[0].at && child.events[0].at <= child.ended);
}

#[test]
fn a_share_of_traces_is_recorded_and_who_sends_one_decides_for_it() {
    let incoming = |is_sampled| SpanContext { trace_id: 5, span_id: 6, is_sampled };
    let rows = [
        (0.0, None, false),
        (1.0, None, true),
        (0.0, Some(incoming(true)), true),
        (1.0, Some(incoming(false)), false),
    ];
    for (ratio, sent, is_recorded) in rows {
        let kept = Kept::default();
        let root = kept.tracer(ratio).begin("root", sent);
        let parent = root.parent();
        assert_eq!(parent.is_recorded(), is_recorded, "{ratio} {sent:?}");
        let context = parent.context().unwrap();
        assert_eq!(context.is_sampled, is_recorded, "what is asked elsewhere is told");
        assert_eq!(context.trace_id == 5, sent.is_some());
        drop((parent.child("child", SpanKind::Internal), root));
        assert_eq!(kept.spans().len(), if is_recorded { 2 } else { 0 }, "{ratio} {sent:?}");
        let parents = kept.spans().last().and_then(|root| root.parent_id);
        assert_eq!(parents, sent.filter(|_| is_recorded).map(|sent| sent.span_id));
    }
    let kept = Kept::default();
    let tracer = kept.tracer(0.25);
    (0..4000).for_each(|_| drop(tracer.begin("root", None)));
    assert!((800..1200).contains(&kept.spans().len()), "{}", kept.spans().len());
}

#[test]
fn without_a_tracer_a_span_is_nothing() {
    let mut root = Tracer::default()
        .begin("root", Some(SpanContext { trace_id: 1, span_id: 1, is_sampled: true }));
    root.set("a", 1_u32);
    assert_eq!(root.parent().child("b", SpanKind::Internal).parent().context(), None);
    assert!(!root.is_recorded());
}

#[test]
fn what_has_been_done_already_keeps_its_time_and_all_is_bounded() {
    let kept = Kept::default();
    let mut root = kept.tracer(1.0).begin("root", None);
    let now = Instant::now();
    let began = now.checked_sub(Duration::from_millis(50)).unwrap();
    drop(root.parent().past("past", began, began + Duration::from_millis(20)));
    (0..100).for_each(|_| root.set("key", "x".repeat(1000)));
    (0..100).for_each(|_| root.event("event", &[]));
    drop(root);
    let [past, root] = kept.spans().try_into().unwrap();
    assert_eq!(past.ended.duration_since(past.began).unwrap(), Duration::from_millis(20));
    assert_eq!((root.attributes.len(), root.events.len()), (32, 32));
    assert!(matches!(&root.attributes[0].1, Value::Text(text) if text.len() == 256));
}

#[tokio::test]
async fn a_task_knows_its_request_while_it_works_on_it() {
    let named = |name: &str| Some(Arc::<str>::from(name));
    assert_eq!(current_request(), None);
    let other: Arc<str> = "other".into();
    in_request("one".into(), async {
        assert_eq!(current_request(), named("one"));
        with_request(&other, || assert_eq!(current_request(), named("other")));
        tokio::task::yield_now().await;
        assert_eq!(current_request(), named("one"));
    })
    .await;
    assert_eq!(current_request(), None);
}
