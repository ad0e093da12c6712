//! A server that keeps what it is sent and answers as a test says; and the spans of OTLP's requests, read by the numbers
//! of their fields.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was sent.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

type Kept = Arc<(Mutex<Vec<Heard>>, Condvar)>;

/// A server that ends with the process.
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    kept: Kept,
}

impl Collector {
    /// Answers each request with this head and body.
    pub(super) fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Kept::default();
        let of_server = Arc::clone(&kept);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let kept = Arc::clone(&of_server);
                thread::spawn(move || serve(stream.unwrap(), answer, &kept));
            }
        });
        Self { address, kept }
    }

    /// Returns what it has heard, once that is enough.
    pub(super) fn wait(&self, is_enough: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        let (kept, changed) = &*self.kept;
        let waiting =
            changed.wait_timeout_while(kept.lock().unwrap(), PATIENCE, |kept| !is_enough(kept));
        let (kept, timeout) = waiting.unwrap();
        assert!(!timeout.timed_out(), "not enough was heard: {} requests", kept.len());
        kept.clone()
    }

    /// Returns the spans that it has heard of, once there are so many.
    pub(super) fn spans(&self, num: usize) -> Vec<Span> {
        let spans =
            |heard: &[Heard]| heard.iter().flat_map(|it| spans(&it.body)).collect::<Vec<_>>();
        spans(&self.wait(|heard| spans(heard).len() >= num))
    }
}

fn serve(stream: TcpStream, answer: &str, kept: &Kept) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (mutex, changed) = &**kept;
        mutex.lock().unwrap().push(Heard { path, headers, body });
        changed.notify_all();
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A span as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) trace_id: String,
    pub(super) id: String,
    pub(super) parent_id: String,
    pub(super) name: String,
    pub(super) kind: u64,
    pub(super) times: [u64; 2],
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) events: Vec<String>,
    pub(super) is_error: bool,
}

/// What a field of a message has.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => panic!("bytes, not {number}"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(bytes) => panic!("a number, not {bytes:?}"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let mut fixed = |num: usize| {
            let (head, rest) = bytes.split_at(num);
            bytes = rest;
            head
        };
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(fixed(8).try_into().unwrap())),
            5 => Field::Number(u32::from_le_bytes(fixed(4).try_into().unwrap()).into()),
            2 => {
                let length = varint(&mut bytes) as usize;
                let (head, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(head)
            }
            other => panic!("no field of OTLP's is of type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn within(bytes: &[u8], field: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).into_iter().filter(move |(number, _)| *number == field).map(|(_, it)| it.bytes())
}

fn spans(request: &[u8]) -> Vec<Span> {
    let scopes = within(request, 1).flat_map(|resource| within(resource, 2));
    scopes.flat_map(|scope| within(scope, 2)).map(span).collect()
}

fn span(bytes: &[u8]) -> Span {
    let hex =
        |bytes: &[u8]| bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let mut span = Span {
        trace_id: String::new(),
        id: String::new(),
        parent_id: String::new(),
        name: String::new(),
        kind: 0,
        times: [0; 2],
        attributes: BTreeMap::new(),
        events: Vec::new(),
        is_error: false,
    };
    for (number, field) in fields(bytes) {
        match number {
            1 => span.trace_id = hex(field.bytes()),
            2 => span.id = hex(field.bytes()),
            4 => span.parent_id = hex(field.bytes()),
            5 => span.name = field.text(),
            6 => span.kind = field.number(),
            7 => span.times[0] = field.number(),
            8 => span.times[1] = field.number(),
            9 => span.attributes.extend([attribute(field.bytes())]),
            11 => {
                let name = fields(field.bytes()).into_iter().find(|(number, _)| *number == 2);
                span.events.push(name.unwrap().1.text());
            }
            15 => span.is_error = fields(field.bytes())[0].1.number() == 2,
            16 => assert_eq!(field.number(), 1, "only what is recorded is sent"),
            other => panic!("a span has no field {other} here"),
        }
    }
    span
}

fn attribute(bytes: &[u8]) -> (String, String) {
    let pair = fields(bytes);
    let value = fields(pair[1].1.bytes());
    let value = match &value[0] {
        (1, text) => text.text(),
        (2, flag) => (flag.number() == 1).to_string(),
        (3, number) => number.number().cast_signed().to_string(),
        (4, number) => f64::from_bits(number.number()).to_string(),
        (other, _) => panic!("no value is of kind {other} here"),
    };
    (pair[0].1.text(), value)
}
