//! What the environment says of the hub, with the names that Hugging Face's programs use.

use std::fmt;
use std::path::{Path, PathBuf};

use super::HubError;

const ENDPOINT: &str = "https://huggingface.co";

/// Where the cache is, whom to ask, and whether to.
#[derive(Clone)]
pub struct Settings {
    /// `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else below the user's cache folder.
    pub cache: PathBuf,
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`, or what is in the token file; sent to the endpoint alone.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: no socket is opened.
    pub offline: bool,
    /// Whether a proxy that the environment names is used.
    pub proxy: bool,
    /// Seconds to wait before a connection that broke off is tried again.
    pub pause_seconds: f32,
}

/// Without the token, which must not appear in any message.
impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// When no cache folder is known, or the endpoint is no address.
    pub fn from_environment() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`Settings::from_environment`], from any source of variables.
    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| set(name).map(|value| expand(&value, user.as_deref()));
        let in_user = || user.as_ref().map(|user| user.join(".cache"));
        let home = path("HF_HOME");
        let home = home.or_else(|| path("XDG_CACHE_HOME").or_else(in_user).map(|cache| cache.join("huggingface")));
        let named = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = named.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or(HubError::NoHome)?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        if !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            let what = "an address such as https://huggingface.co is needed";
            return Err(HubError::Setting { variable: "HF_ENDPOINT", value: endpoint, what });
        }
        let is_true = |name: &str| {
            set(name).is_some_and(|value| matches!(&value.to_uppercase()[..], "1" | "ON" | "YES" | "TRUE"))
        };
        let file = || {
            let path = path("HF_TOKEN_PATH").or_else(|| home.as_ref().map(|home| home.join("token")))?;
            std::fs::read_to_string(path).ok()
        };
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(file);
        // a line of the token file ends, and a header must not hold anything but printable characters
        let token = token.map(|token| token.trim().to_owned());
        let printable = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.filter(printable),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            proxy: true,
            pause_seconds: 1.0,
        })
    }
}

/// `~` at the beginning is the user's folder.
fn expand(value: &str, user: Option<&Path>) -> PathBuf {
    match (value.strip_prefix('~'), user) {
        (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with('/') => user.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(value),
    }
}
