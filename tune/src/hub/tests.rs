//! A hub of two loopback servers, and everything that may go wrong between it and the cache.
//!
//! The first server answers as the hub does: listings, small files, and redirects of large ones to the second, which stands for the host that has the bytes. Both
//! keep a log of requests. Nothing leaves this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request's first line and headers, in lower case but for the path.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// After how many bytes of the body the connection ends.
    cut: Option<usize>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A server of one thread; it ends with the process.
struct Server {
    address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = log.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                let mut words = first.split(' ').map(str::to_owned);
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                let headers = lines.take_while(|line| !line.is_empty());
                let headers =
                    headers.filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_owned())));
                let request = Request { method, path, headers: headers.collect() };
                let number = seen.lock().unwrap().len();
                seen.lock().unwrap().push(request.clone());
                let reply = answer(&request, number);
                let mut text = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", reply.status);
                if !reply.headers.iter().any(|(name, _)| name == "content-length") {
                    text += &format!("content-length: {}\r\n", reply.body.len());
                }
                reply.headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
                let _ = stream.write_all(format!("{text}\r\n").as_bytes());
                if request.method == "GET" {
                    let _ =
                        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())]);
                }
            }
        });
        Self { address, log }
    }

    fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weights() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect()
}

/// What the second server does with the weights.
#[derive(Clone, Copy, PartialEq)]
enum Bytes {
    Whole,
    /// The first request ends early.
    Cut,
    /// As `Cut`, and parts are not given.
    CutWithoutParts,
    /// Every request ends before its first byte.
    Never,
    Wrong,
}

fn serve(request: &Request, number: usize, bytes: Bytes) -> Reply {
    let mut body = weights();
    if bytes == Bytes::Wrong {
        body[5] ^= 1;
    }
    let start: usize = request
        .headers
        .get("range")
        .map_or(0, |range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let size = body.len();
    let mut reply = match start {
        0 => Reply::new(200, body),
        _ if bytes == Bytes::CutWithoutParts => Reply::new(200, body),
        _ => Reply::new(206, &body[start..]).with("content-range", format!("bytes {start}-{}/{size}", size - 1)),
    };
    reply.cut = match (bytes, number) {
        (Bytes::Cut | Bytes::CutWithoutParts, 0) => Some(100_000),
        (Bytes::Never, _) => Some(0),
        _ => None,
    };
    reply
}

/// The two servers.
struct Hub {
    hub: Server,
    storage: Server,
}

impl Hub {
    fn start(bytes: Bytes) -> Self {
        let storage = Server::start(move |request, number| serve(request, number, bytes));
        let target = storage.address.clone();
        let hub = Server::start(move |request, _| Self::answer(request, &target));
        Self { hub, storage }
    }

    fn answer(request: &Request, storage: &str) -> Reply {
        let files = ["config.json", "tokenizer.json", "model.safetensors", "modeling.py", "README.md"];
        if let Some(name) = request.path.strip_prefix("/api/models/") {
            return match name {
                "org/tiny/revision/main" | "org/tiny/revision/refs%2Fpr%2F1" => {
                    let siblings: Vec<_> = files.map(|file| serde_json::json!({ "rfilename": file })).into();
                    Reply::new(200, serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string())
                }
                "org/gated/revision/main" => Reply::new(403, "{}"),
                "org/private/revision/main" => Reply::new(401, "{}"),
                "org/strange/revision/main" => Reply::new(200, r#"{"sha":"../../x","siblings":[]}"#),
                "org/busy/revision/main" => Reply::new(503, ""),
                _ => Reply::new(404, "{}"),
            };
        }
        let reply = match request.path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")) {
            // as for a repository that was renamed
            Some("config.json") => Reply::new(307, "").with("location", "/org/renamed/config.json"),
            Some("tokenizer.json") => Reply::new(200, "{\"t\":1}").with("etag", "\"tokenizer-etag\""),
            Some("model.safetensors") => Reply::new(302, "")
                .with("location", format!("{storage}/bucket/file?signature=secret"))
                .with("x-linked-etag", format!("\"{}\"", sha256(&weights())))
                .with("x-linked-size", weights().len())
                .with("etag", "\"of the redirect\""),
            _ if request.path == "/org/renamed/config.json" => Reply::new(200, "{}").with("etag", "W/\"config-etag\""),
            _ => Reply::new(404, ""),
        };
        reply.with("x-repo-commit", COMMIT)
    }

    fn settings(&self, cache: &Path) -> Settings {
        Settings {
            cache: cache.to_owned(),
            endpoint: self.hub.address.clone(),
            token: Some("secret".to_owned()),
            offline: false,
            proxy: false,
            pause_seconds: 0.0,
        }
    }
}

fn model(text: &str) -> HubModel {
    text.parse().unwrap()
}

fn get(name: &str, settings: &Settings) -> Result<Snapshot, HubError> {
    fetch(&model(name), Need::Weights, settings, &mut |_| {})
}

#[test]
fn a_model_is_fetched_into_the_layout_of_hugging_face() {
    let (hub, cache) = (Hub::start(Bytes::Whole), tempfile::tempdir().unwrap());
    let mut seen = Vec::new();
    let settings = hub.settings(cache.path());
    let snapshot =
        fetch(&model("org/tiny"), Need::Weights, &settings, &mut |progress| seen.push(progress.clone())).unwrap();
    let repository = cache.path().join("models--org--tiny");
    assert_eq!(snapshot.folder, repository.join("snapshots").join(COMMIT));
    assert_eq!(snapshot.model.to_string(), format!("hub:org/tiny@{COMMIT}"));
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights());
    for (file, etag) in [("config.json", "config-etag".to_owned()), ("model.safetensors", sha256(&weights()))] {
        assert!(repository.join("blobs").join(&etag).is_file());
        #[cfg(unix)]
        assert_eq!(std::fs::read_link(snapshot.folder.join(file)).unwrap(), Path::new("../../blobs").join(&etag));
    }
    for file in ["modeling.py", "README.md"] {
        assert!(!snapshot.folder.join(file).exists(), "{file} was fetched");
    }
    let absent = repository.join(".no_exist").join(COMMIT);
    assert!(absent.join("generation_config.json").exists() && !absent.join("tokenizer.model").exists());
    let last = seen.last().unwrap();
    assert_eq!((&last.file[..], last.done, last.size), ("model.safetensors", 300_000, Some(300_000)));

    // the token goes to the hub, also after a redirect within it, and to nobody else
    assert!(hub.hub.requests().iter().all(|request| request.headers["authorization"] == "Bearer secret"));
    assert!(!hub.storage.requests().is_empty());
    assert!(hub.storage.requests().iter().all(|request| !request.headers.contains_key("authorization")));

    // what is complete is used without a request; another revision of the same commit shares the files
    let before = hub.hub.requests().len();
    assert_eq!(get("org/tiny", &settings).unwrap(), snapshot);
    assert_eq!(get(&format!("org/tiny@{COMMIT}"), &settings).unwrap(), snapshot);
    assert_eq!(hub.hub.requests().len(), before);
    assert_eq!(get("org/tiny@refs/pr/1", &settings).unwrap(), snapshot);
    assert_eq!(hub.hub.requests().len(), before + 1);
    assert_eq!(cached(&model("org/tiny"), &settings), Some(snapshot));
}

#[test]
fn a_description_is_fetched_without_the_weights() {
    let (hub, cache) = (Hub::start(Bytes::Whole), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let snapshot = fetch(&model("org/tiny"), Need::Description, &settings, &mut |_| {}).unwrap();
    assert!(snapshot.folder.join("tokenizer.json").exists() && !snapshot.folder.join("model.safetensors").exists());
    assert!(hub.storage.requests().is_empty());
    assert_eq!(cached(&model("org/tiny"), &settings), None);
    assert!(get("org/tiny", &settings).unwrap().folder.join("model.safetensors").exists());
}

#[test]
fn a_connection_that_breaks_off_is_continued_where_it_ended() {
    for (bytes, second) in [(Bytes::Cut, Some("bytes=100000-")), (Bytes::CutWithoutParts, Some("bytes=100000-"))] {
        let (hub, cache) = (Hub::start(bytes), tempfile::tempdir().unwrap());
        let snapshot = get("org/tiny", &hub.settings(cache.path())).unwrap();
        assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights());
        let requests = hub.storage.requests();
        assert_eq!(requests[1].headers.get("range").map(String::as_str), second);
        assert_eq!(requests.len(), 2);
    }
    // and so is what an earlier run left
    let (hub, cache) = (Hub::start(Bytes::Whole), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&weights()))), &weights()[..7]).unwrap();
    let snapshot = get("org/tiny", &hub.settings(cache.path())).unwrap();
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(hub.storage.requests()[0].headers["range"], "bytes=7-");
}

#[test]
fn damaged_and_missing_bytes_never_become_a_model() {
    let (hub, cache) = (Hub::start(Bytes::Wrong), tempfile::tempdir().unwrap());
    let error = get("org/tiny", &hub.settings(cache.path())).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("SHA-256"), "{error}");
    let blobs = cache.path().join("models--org--tiny/blobs");
    let names: Vec<_> = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_string_lossy().ends_with("-etag")), "{names:?}");
    assert!(!cache.path().join("models--org--tiny/refs/main").exists());

    let (hub, cache) = (Hub::start(Bytes::Never), tempfile::tempdir().unwrap());
    let error = get("org/tiny", &hub.settings(cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    assert!(!error.to_string().contains("signature"), "{error}");
}

#[test]
fn refusals_say_what_to_change() {
    let (hub, cache) = (Hub::start(Bytes::Whole), tempfile::tempdir().unwrap());
    let mut settings = hub.settings(cache.path());
    let message = |name: &str, settings: &Settings| get(name, settings).unwrap_err().to_string();
    assert!(message("org/gated", &settings).contains("accept its terms"));
    assert!(message("org/gated", &settings).contains("the token in HF_TOKEN"));
    settings.token = None;
    assert!(message("org/private", &settings).contains("set HF_TOKEN to a token"));
    let unknown = message("org/nothing@v1", &settings);
    assert!(unknown.contains("hub:org/nothing@v1") && unknown.contains("revision `v1`"), "{unknown}");
    assert!(message("org/strange", &settings).contains("as a commit"));
    assert!(message("org/busy", &settings).contains("503"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    settings.endpoint = format!("http://{closed}");
    assert!(message("org/tiny", &settings).contains("check the network"));
}

#[test]
fn offline_no_socket_is_opened() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (hub, cache) = (Hub::start(Bytes::Whole), tempfile::tempdir().unwrap());
    let online = hub.settings(cache.path());
    let mut offline = Settings { offline: true, ..online.clone() };
    offline.endpoint = format!("http://{}", listener.local_addr().unwrap());
    let error = get("org/tiny", &offline).unwrap_err().to_string();
    assert!(
        error.contains("HF_HUB_OFFLINE") && error.contains("config.json, model.safetensors are missing"),
        "{error}"
    );
    fetch(&model("org/tiny"), Need::Description, &online, &mut |_| {}).unwrap();
    let error = get("org/tiny", &offline).unwrap_err().to_string();
    assert!(error.contains(": model.safetensors is missing"), "{error}");
    let snapshot = get("org/tiny", &online).unwrap();
    assert_eq!(get("org/tiny", &offline).unwrap(), snapshot);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[cfg(unix)]
#[test]
fn a_cache_of_huggingface_hub_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--sharded");
    let snapshot = repository.join("snapshots").join(COMMIT);
    for folder in ["blobs", "refs"] {
        std::fs::create_dir_all(repository.join(folder)).unwrap();
    }
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
    let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let add = |file: &str, content: &str| {
        std::fs::write(repository.join("blobs").join(sha256(file.as_bytes())), content).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(sha256(file.as_bytes())), snapshot.join(file))
            .unwrap();
    };
    add("config.json", "{}");
    add("model.safetensors.index.json", index);
    add("model-00001-of-00002.safetensors", "");
    let settings = Settings {
        offline: true,
        ..Settings::from_variables(|name| match name {
            "HF_HUB_CACHE" => Some(cache.path().display().to_string()),
            _ => None,
        })
        .unwrap()
    };
    let error = get("org/sharded", &settings).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors is missing"), "{error}");
    add("model-00002-of-00002.safetensors", "");
    assert_eq!(get("org/sharded", &settings).unwrap().folder, snapshot);
    // online, only what nothing says anything of is asked for, and where nobody answers the model is used as it is
    let server = Server::start(|_, _| Reply::new(404, ""));
    let mut online = Settings { offline: false, proxy: false, endpoint: server.address.clone(), ..settings.clone() };
    assert!(matches!(get("org/sharded", &online), Err(HubError::NotFound { .. })));
    std::fs::create_dir_all(repository.join("trees")).unwrap();
    let tree = r#"{"format_version":1,"files":{"config.json":{"size":2},"model.safetensors.index.json":{}}}"#;
    std::fs::write(repository.join("trees").join(format!("{COMMIT}.json")), tree).unwrap();
    assert_eq!((get("org/sharded", &online).unwrap().folder, server.requests().len()), (snapshot.clone(), 1));
    std::fs::remove_dir_all(repository.join("trees")).unwrap();
    online.endpoint = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(get("org/sharded", &online).unwrap().folder, snapshot);
    // a blob that was removed is missing, and an index that leads elsewhere is refused
    std::fs::remove_file(repository.join("blobs").join(sha256(b"model-00002-of-00002.safetensors"))).unwrap();
    assert!(get("org/sharded", &settings).is_err());
    std::fs::write(
        repository.join("blobs").join(sha256(b"model.safetensors.index.json")),
        index.replace("model-00001", "../x"),
    )
    .unwrap();
    assert!(get("org/sharded", &settings).unwrap_err().to_string().contains("as the name of a shard"));
    // nor may a reference lead elsewhere
    std::fs::write(repository.join("refs/main"), "../../../etc").unwrap();
    assert!(matches!(get("org/sharded", &settings), Err(HubError::Offline { .. })));
}

#[test]
fn names_and_variables_are_read_as_hugging_face_does() {
    let read =
        |text: &str| HubModel::from_path(text).map(|model| model.map(|model| (model.repository, model.revision)));
    assert!(read("models/x").is_none() && read("org/name").is_none());
    assert_eq!(read("hub:gpt2").unwrap().unwrap(), ("gpt2".to_owned(), "main".to_owned()));
    assert_eq!(
        read("hub:o-rg/na.me_2@refs/pr/7").unwrap().unwrap(),
        ("o-rg/na.me_2".to_owned(), "refs/pr/7".to_owned())
    );
    for text in [
        "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a--b/c", "a b", "a@", "a@../b", "a@/b", "a@b//c", "a%2Fb",
        "a?b", "-a/b",
    ] {
        assert!(read(&format!("hub:{text}")).unwrap().is_err(), "{text}");
    }
    let settings = |pairs: &[(&str, &str)]| {
        Settings::from_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let cache = |pairs: &[(&str, &str)]| settings(pairs).unwrap().cache.display().to_string();
    assert_eq!(cache(&[("HOME", "/u")]), "/u/.cache/huggingface/hub");
    assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c")]), "/c/huggingface/hub");
    assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/hf")]), "/u/hf/hub");
    assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/x")]), "/x");
    assert!(matches!(settings(&[]), Err(HubError::NoHome)));
    assert!(settings(&[("HOME", "/u"), ("HF_ENDPOINT", "ftp://x")]).is_err());
    let mirror = settings(&[
        ("HOME", "/u"),
        ("HF_ENDPOINT", "https://mirror.example/"),
        ("HF_HUB_OFFLINE", "true"),
        ("HF_TOKEN", " hf_x\n"),
    ]);
    let mirror = mirror.unwrap();
    assert_eq!(
        (&mirror.endpoint[..], mirror.offline, mirror.token.as_deref()),
        ("https://mirror.example", true, Some("hf_x"))
    );
    assert!(!format!("{mirror:?}").contains("hf_x"));
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "from_file\n").unwrap();
    let file = settings(&[("HF_HOME", home.path().to_str().unwrap())]).unwrap();
    assert_eq!((file.token.as_deref(), file.offline), (Some("from_file"), false));
}
