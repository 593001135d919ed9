//! Requests to the hub: what a repository holds, what a file is called and how large it is, and its bytes.
//!
//! Redirects are followed here and not by the HTTP client, because the token belongs to the endpoint alone: large files lie with another host, whose address
//! is signed by itself. A proxy that the environment names is used.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::name::is_commit;
use super::{HubError, HubModel, Settings};

/// Redirects followed for one file.
const REDIRECTS: usize = 10;
/// Largest listing read, in bytes.
const LARGEST_LISTING: u64 = 64 << 20;
/// Seconds without a connection, or without a byte, after which an attempt is given up.
const PATIENCE_SECONDS: u64 = 30;

/// What a repository holds at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeSet<String>,
}

/// What the hub says of a file before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Names its contents: a SHA-256 for large files.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

/// The way to the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    pub(super) pause: Duration,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let patience = Some(Duration::from_secs(PATIENCE_SECONDS));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .user_agent(concat!("quanta/", env!("CARGO_PKG_VERSION")));
        let config = if settings.proxy { config } else { config.proxy(None) };
        Self {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: Duration::try_from_secs_f32(settings.pause_seconds).unwrap_or_default(),
        }
    }

    /// The commit that a revision is at, and the files of the repository there.
    pub(super) fn listing(&self, model: &HubModel) -> Result<Listing, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, model.repository, one_part(&model.revision));
        let mut response = self.follow(false, &url, 0, |_| false)?.1;
        self.check(response.status().as_u16(), &url, model, || format!("revision `{}`", model.revision))?;
        let wrong = |what: String| HubError::Answer { url: url.clone(), what };
        let text = response.body_mut().with_config().limit(LARGEST_LISTING).read_to_vec();
        let text = text.map_err(|error| network(&url, &error))?;
        let answer: Answer = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(wrong(format!("{:?} as a commit", answer.sha.chars().take(80).collect::<String>())));
        }
        Ok(Listing { commit: answer.sha, files: answer.siblings.into_iter().map(|file| file.rfilename).collect() })
    }

    /// What the hub says of a file.
    pub(super) fn head(&self, model: &HubModel, file: &str) -> Result<Head, HubError> {
        let url = self.address(model, file);
        // the hub's own answer names the contents, also where the bytes lie elsewhere
        let (_, response) = self.follow(true, &url, 0, |headers| headers.contains_key("x-linked-etag"))?;
        let status = response.status().as_u16();
        if !(300..400).contains(&status) {
            self.check(status, &url, model, || format!("file {file}"))?;
        }
        let headers = response.headers();
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag")).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_owned();
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if etag.is_empty() || etag.len() > 128 || etag.starts_with('.') || !etag.chars().all(known) {
            return Err(HubError::Answer { url, what: "no ETag that names the file's contents".to_owned() });
        }
        let redirected = (300..400).contains(&status);
        let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length").filter(|_| !redirected));
        Ok(Head { etag, size: size.and_then(|size| size.parse().ok()) })
    }

    /// A file's bytes from `start` on: the status, the answer's headers and the bytes.
    pub(super) fn get(&self, model: &HubModel, file: &str, start: u64) -> Result<Response<Body>, HubError> {
        let url = self.address(model, file);
        let (_, response) = self.follow(false, &url, start, |_| false)?;
        let status = response.status().as_u16();
        if status != 416 {
            self.check(status, &url, model, || format!("file {file}"))?;
        }
        Ok(response)
    }

    /// Where a file of a repository is.
    pub(super) fn address(&self, model: &HubModel, file: &str) -> String {
        format!("{}/{}/resolve/{}/{file}", self.endpoint, model.repository, one_part(&model.revision))
    }

    /// Sends a request and follows redirects until one is not or `enough` says so of its headers; the token goes to the endpoint alone.
    fn follow(
        &self,
        head: bool,
        url: &str,
        start: u64,
        enough: impl Fn(&HeaderMap) -> bool,
    ) -> Result<(String, Response<Body>), HubError> {
        let mut at = url.to_owned();
        for _ in 0..=REDIRECTS {
            let request = if head { self.agent.head(&at) } else { self.agent.get(&at) };
            // the size of a compressed answer would say nothing
            let mut request = request.header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| origin(&at) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            let response = request.call().map_err(|error| network(&at, &error))?;
            let moved = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !moved || enough(response.headers()) {
                return Ok((at, response));
            }
            at = self.target(&at, response.headers())?;
        }
        Err(HubError::Answer { url: url.to_owned(), what: format!("more than {REDIRECTS} redirects") })
    }

    /// Where a redirect leads.
    fn target(&self, from: &str, headers: &HeaderMap) -> Result<String, HubError> {
        let wrong = |what: &str| HubError::Answer { url: from.to_owned(), what: what.to_owned() };
        let location = text(headers, "location").ok_or_else(|| wrong("a redirect to nowhere"))?;
        let to = match (location.starts_with('/') && !location.starts_with("//"), origin(from)) {
            (true, Some((scheme, host))) => format!("{scheme}://{host}{location}"),
            _ => location.to_owned(),
        };
        match origin(&to) {
            None => Err(wrong("a redirect to no address")),
            Some((scheme, _)) if from.starts_with("https:") && scheme != "https" => {
                Err(wrong("a redirect to an address without encryption"))
            }
            Some(_) => Ok(to),
        }
    }

    fn check(&self, status: u16, url: &str, model: &HubModel, what: impl Fn() -> String) -> Result<(), HubError> {
        match status {
            200..=299 => Ok(()),
            401 | 403 => Err(HubError::Refused { model: model.clone(), status, token: self.token.is_some() }),
            404 => Err(HubError::NotFound { model: model.clone(), what: what() }),
            _ => Err(HubError::Status { url: url.to_owned(), status }),
        }
    }
}

/// Scheme and host with port, lower case.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    Some((scheme.to_owned(), uri.authority()?.as_str().to_lowercase()))
}

/// A revision as one part of a path.
fn one_part(revision: &str) -> String {
    revision.replace('/', "%2F")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn network(url: &str, error: &ureq::Error) -> HubError {
    // a signed address is as good as a password for as long as it is valid
    let url = url.split('?').next().unwrap_or(url).to_owned();
    HubError::Network { url, reason: error.to_string() }
}
