//! A hub on two free ports: the endpoint, and the network that it hands large files out from.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use lacuna::config::{HubConfig, HubModel, Proxies, Secret};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

pub(crate) const REPOSITORY: &str = "org/name";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Part of every address of the second port; no message may hold it.
pub(crate) const SIGNATURE: &str = "signature=s3cr3t";
pub(crate) const TOKEN: &str = "hf_t0k3n";

/// What goes wrong with one request for a file's content, once.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The connection breaks behind so many bytes.
    Cut(usize),
    /// So many bytes come, and then nothing.
    Stall(usize),
    /// A status with a header.
    Status(u16, Option<(&'static str, &'static str)>),
    /// The range that was asked for is passed over, and all is sent.
    Whole,
    /// A byte later than was asked for.
    OtherRange,
    /// The rest that was asked for, and these words of where it belongs; none where there are none.
    Place(Option<&'static str>),
    /// A page of a proxy, with or without its length.
    Page { has_length: bool },
    /// All is sent, whatever was asked for, and the connection breaks behind so many bytes.
    WholeCut(usize),
    /// All is sent, whatever was asked for, with more behind it that never ends, and no length.
    Endless,
    /// Other bytes, as many.
    OtherBytes,
    /// One byte less than the listing says, in a whole answer.
    Shorter,
}

/// How the hub behaves.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// The answer to whoever asks for a listing; the real one where there is none.
    pub(crate) listing: Option<(u16, &'static str, &'static str)>,
    /// The same for a file.
    pub(crate) file: Option<(u16, &'static str, &'static str)>,
    /// Whether the listing has names only, as mirrors may have it.
    pub(crate) lists_names_only: bool,
    /// A name more in the listing.
    pub(crate) further_name: Option<&'static str>,
    /// How many files more it has.
    pub(crate) num_further: usize,
    /// A size that the listing claims of weights.
    pub(crate) claimed_size: Option<u64>,
    /// The repository has another name now.
    pub(crate) is_renamed: bool,
    /// Before an answer with content, of large files.
    pub(crate) troubles: VecDeque<Trouble>,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) is_endpoint: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    network: SocketAddr,
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Seen>>,
}

/// A running hub with one repository, and a cache of its own.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    pub(crate) home: tempfile::TempDir,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Hub {
    pub(crate) async fn start(files: &[(&str, &[u8])]) -> Self {
        let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()));
        let shared = Arc::new(Shared {
            files: files.collect(),
            network: network.local_addr().unwrap(),
            behaviour: Mutex::default(),
            seen: Mutex::default(),
        });
        let address = endpoint.local_addr().unwrap();
        let serve = |listener, router: Router| {
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
        };
        let of_endpoint = Router::new().fallback(answer_endpoint).with_state(Arc::clone(&shared));
        let of_network = Router::new().fallback(answer_network).with_state(Arc::clone(&shared));
        Self {
            endpoint: format!("http://{address}"),
            home: tempfile::tempdir().unwrap(),
            shared,
            tasks: [serve(endpoint, of_endpoint), serve(network, of_network)],
        }
    }

    /// Starts with a model in transformers' layout whose weights have a megabyte, and with what nobody wants.
    pub(crate) async fn with_model() -> Self {
        Self::start(&[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"a\": 1}"),
            ("model.safetensors", &weights()),
            ("pytorch_model.bin", b"pickle"),
            ("onnx/model.onnx", b"onnx"),
        ])
        .await
    }

    pub(crate) fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.shared.behaviour.lock().unwrap()
    }

    pub(crate) fn trouble(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.behaviour().troubles.extend(troubles);
    }

    /// Returns the requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// Returns settings that ask this hub, and lose no time.
    pub(crate) fn config(&self) -> HubConfig {
        HubConfig {
            cache: Some(self.home.path().join("hub")),
            endpoint: self.endpoint.clone(),
            is_offline: false,
            ..offline_config()
        }
    }

    /// Returns a path in the repository's folder of the cache.
    pub(crate) fn cached(&self, path: &str) -> PathBuf {
        self.home.path().join("hub/models--org--name").join(path)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Returns settings that ask nobody.
pub(crate) fn offline_config() -> HubConfig {
    HubConfig {
        cache: None,
        endpoint: "http://127.0.0.1:1".to_owned(),
        is_offline: true,
        num_parallel_files: 4,
        idle_timeout: Duration::from_secs(20),
        num_retries: 3,
        retry_delay: Duration::from_millis(1),
        token: Some(Secret::from(TOKEN)),
        proxies: Proxies::default(),
    }
}

/// Returns a megabyte of weights that differ from place to place, so that what is put together wrongly shows.
pub(crate) fn weights() -> Vec<u8> {
    (0..1_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub(crate) fn model(text: &str) -> HubModel {
    let (name, file) = text.split_once(':').map_or((text, None), |(name, file)| (name, Some(file)));
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    HubModel {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
        file: file.map(ToOwned::to_owned),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Large files have the hash of their bytes, small ones Git's.
pub(crate) fn hash(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        return hex(digest(&SHA256, bytes).as_ref());
    }
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".gguf", ".bin"].iter().any(|ending| name.ends_with(ending))
}

impl Shared {
    fn note(&self, is_endpoint: bool, request: &Request) {
        let text = |name| {
            let value = request.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        self.seen.lock().unwrap().push(Seen {
            is_endpoint,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            range: text(header::RANGE),
            authorization: text(header::AUTHORIZATION),
        });
    }

    fn listing(&self, behaviour: &Behaviour) -> Value {
        let mut siblings: Vec<Value> = self
            .files
            .iter()
            .map(|(name, bytes)| {
                let hash = hash(name, bytes);
                let claimed = behaviour.claimed_size.filter(|_| name == "model.safetensors");
                let size = claimed.unwrap_or(bytes.len() as u64);
                match (behaviour.lists_names_only, is_large(name)) {
                    (true, _) => json!({ "rfilename": name }),
                    (false, false) => json!({ "rfilename": name, "size": size, "blobId": hash }),
                    (false, true) => json!({
                        "rfilename": name, "size": size, "blobId": "0".repeat(40),
                        "lfs": { "sha256": hash, "size": size, "pointerSize": 134 },
                    }),
                }
            })
            .collect();
        siblings.extend(behaviour.further_name.map(|name| json!({ "rfilename": name })));
        let further =
            (0..behaviour.num_further).map(|index| json!({ "rfilename": index.to_string() }));
        siblings.extend(further);
        json!({ "id": REPOSITORY, "sha": COMMIT, "siblings": siblings })
    }
}

fn refusal((status, code, message): (u16, &'static str, &'static str)) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("x-error-code", code), ("x-error-message", message)]).into_response()
}

async fn answer_endpoint(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.note(true, &request);
    let behaviour = shared.behaviour.lock().unwrap();
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/api/models/") {
        if let Some(refused) = behaviour.listing {
            return refusal(refused);
        }
        if behaviour.is_renamed && rest.starts_with("org/name/") {
            let query = request.uri().query().unwrap_or_default();
            let there = format!("{}?{query}", path.replace("org/name", "org/new"));
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, there)]).into_response();
        }
        let revision = rest.split_once("/revision/").map(|(_, revision)| revision);
        return match revision {
            Some("main" | "v1" | "refs%2Fpr%2F1" | COMMIT) => {
                axum::Json(shared.listing(&behaviour)).into_response()
            }
            _ => refusal((404, "RevisionNotFound", "Invalid rev id")),
        };
    }
    if let Some(refused) = behaviour.file {
        return refusal(refused);
    }
    let name = path.strip_prefix(&format!("/{REPOSITORY}/resolve/{COMMIT}/"));
    let Some((name, bytes)) = name.and_then(|name| shared.files.get_key_value(name)) else {
        return refusal((404, "EntryNotFound", "Entry not found"));
    };
    let tag = format!("\"{}\"", hash(name, bytes));
    let commit = ("x-repo-commit", COMMIT.to_owned());
    if !is_large(name) {
        return ([commit, ("etag", tag)], bytes.clone()).into_response();
    }
    let location = format!("http://{}/{}?{SIGNATURE}", shared.network, hash(name, bytes));
    let linked = [
        commit,
        ("x-linked-etag", tag),
        ("x-linked-size", bytes.len().to_string()),
        ("location", location),
    ];
    (StatusCode::FOUND, linked).into_response()
}

async fn answer_network(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.note(false, &request);
    let wanted = request.uri().path().trim_start_matches('/');
    let mut files = shared.files.iter();
    let Some((_, bytes)) = files.find(|(name, bytes)| hash(name, bytes) == wanted) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let trouble = shared.behaviour.lock().unwrap().troubles.pop_front();
    if let Some(Trouble::Status(status, head)) = trouble {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = head {
            headers.insert(name, value.parse().unwrap());
        }
        return (StatusCode::from_u16(status).unwrap(), headers).into_response();
    }
    if let Some(Trouble::Page { has_length }) = trouble {
        let page = Bytes::from_static(b"<html>Who are you?</html>");
        let pieces = stream::iter([Ok::<_, std::io::Error>(page.clone())]);
        let body = if has_length { Body::from(page) } else { Body::from_stream(pieces) };
        return body.into_response();
    }
    let mut range = range_of(request.headers(), bytes.len());
    if matches!(trouble, Some(Trouble::Whole | Trouble::WholeCut(_) | Trouble::Endless)) {
        range = None;
    }
    if matches!(trouble, Some(Trouble::OtherRange)) {
        range = range.map(|(start, end)| (start + 1, end));
    }
    let (start, end) = range.unwrap_or((0, bytes.len()));
    let mut sent = bytes[start..end].to_vec();
    match trouble {
        Some(Trouble::OtherBytes) => sent.fill(7),
        Some(Trouble::Shorter) => sent.truncate(sent.len() - 1),
        _ => {}
    }
    let mut response = Response::builder().header("etag", "\"of-this-machine\"");
    if !matches!(trouble, Some(Trouble::Endless)) {
        response = response.header(header::CONTENT_LENGTH, sent.len());
    }
    if range.is_some() {
        let place = format!("bytes {start}-{}/{}", end - 1, bytes.len());
        let place = match trouble {
            Some(Trouble::Place(said)) => said.map(ToOwned::to_owned),
            _ => Some(place),
        };
        response = response.status(206);
        if let Some(place) = place {
            response = response.header(header::CONTENT_RANGE, place);
        }
    }
    response.body(body(sent, trouble.as_ref())).unwrap()
}

/// Sends the bytes, but for what is to go wrong behind some of them.
fn body(bytes: Vec<u8>, trouble: Option<&Trouble>) -> Body {
    let piece = |len: usize| Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes[..len]));
    match *trouble.unwrap_or(&Trouble::Whole) {
        Trouble::Cut(len) | Trouble::WholeCut(len) => {
            let broken = stream::once(async {
                // What came before is to leave first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(stream::iter([piece(len)]).chain(broken))
        }
        Trouble::Stall(len) => {
            Body::from_stream(stream::iter([piece(len)]).chain(stream::pending()))
        }
        Trouble::Endless => {
            let more = stream::repeat_with(|| Ok(Bytes::from(vec![0; 1 << 16])));
            Body::from_stream(stream::iter([piece(bytes.len())]).chain(more))
        }
        _ => Body::from(bytes),
    }
}

fn range_of(headers: &HeaderMap, len: usize) -> Option<(usize, usize)> {
    let range = headers.get(header::RANGE)?.to_str().unwrap().strip_prefix("bytes=")?;
    let (start, end) = range.split_once('-')?;
    let end = end.parse().map_or(len, |end: usize| (end + 1).min(len));
    Some((start.parse().unwrap(), end))
}
