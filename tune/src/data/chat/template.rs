//! The chat template of a model folder: a Jinja program that prints a conversation as the model was taught to read it.
//!
//! It is here because every model has its own, in its folder. The environment is the one that transformers gives such
//! programs: blocks trimmed, Python's methods, `raise_exception`, `strftime_now`, `tojson`, the special tokens. A
//! template is a stranger's program: it runs with bounded fuel and reaches no file. Which printed text is trained is
//! left to the module above.

use super::date;
use crate::data::example::Message;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use regex::Regex;
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Why a conversation cannot be printed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The folder has no template.
    #[error("no chat template in {}: add chat_template.jinja, or chat_template to tokenizer_config.json", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The template is not valid.
    #[error("the chat template cannot be read: {reason}")]
    Syntax {
        /// The parser's reason.
        reason: String,
    },
    /// The template refuses the conversation, or fails on it.
    #[error("the chat template cannot print this conversation: {reason}")]
    Render {
        /// Its reason.
        reason: String,
    },
    /// The beginning of a conversation is printed differently when more follows.
    #[error(
        "the chat template prints the conversation up to message {message} differently when more follows, so that it cannot be told which text is whose: use a template without such rules"
    )]
    NotPrefix {
        /// The message, from 1.
        message: usize,
    },
    /// A message's text does not stand in what was printed.
    #[error("the chat template does not print the text of message {message} as it is, so that it cannot be trained")]
    NotPrinted {
        /// The message, from 1.
        message: usize,
    },
}

/// A chat template, ready to print.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    special: Value,
    environment: Environment<'static>,
}

/// The moment that `strftime_now` answers unless another is set: 26 July 2024, the date that LLaMA 3.1's own template
/// falls back to. A clock would make the same run differ from day to day.
pub const DEFAULT_MOMENT: i64 = 1_721_952_000;

/// Steps that a template may take for one conversation; a long one takes some ten thousand.
const FUEL: u64 = 20_000_000;

const NAME: &str = "chat_template";

// Constant patterns that the tests compile.
static GENERATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern"));

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, a text
    /// or a list of named ones of which `default` is taken.
    ///
    /// # Errors
    /// [`ChatError`]: none there, unreadable files, a template that is not valid.
    pub fn from_folder(folder: &Path) -> Result<Self, ChatError> {
        let mut special: Vec<(String, String)> = Vec::new();
        let mut listed = None;
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            let Some(text) = read(&path)? else { continue };
            let malformed = |reason: String| ChatError::Malformed { path: path.clone(), reason };
            let object: Map<String, Json> = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
            for (key, value) in object.iter().filter(|(key, _)| key.ends_with("_token")) {
                if let Some(token) = value.get("content").unwrap_or(value).as_str()
                    && special.iter().all(|(known, _)| known != key)
                {
                    special.push((key.clone(), token.to_string()));
                }
            }
            if listed.is_none() {
                let value = object.get(NAME).filter(|value| !value.is_null());
                listed = value.map(named_default).transpose().map_err(malformed)?;
            }
        }
        let source = match read(&folder.join("chat_template.jinja"))? {
            Some(source) => source,
            None => listed.ok_or_else(|| ChatError::Missing { folder: folder.to_path_buf() })?,
        };
        Self::new(source, &special)
    }

    /// A template from its text; `special` holds the tokens that it may print, such as `bos_token`.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(source: String, special: &[(String, String)]) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        environment.set_syntax(syntax_of_transformers()?);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        // Marks what trainers of the template's authors train; what is trained here follows the roles instead.
        let plain = GENERATION.replace_all(&source, |found: &regex::Captures| {
            let word = if found.get(2).is_some() { "endif" } else { "if true" };
            format!("{{%{} {word} {}%}}", &found[1], &found[3])
        });
        let syntax = |e: Error| ChatError::Syntax { reason: reason(&e) };
        guarded(|| environment.add_template_owned(NAME, plain.into_owned()).map_err(syntax))
            .unwrap_or_else(|| Err(ChatError::Syntax { reason: "the parser gave up".to_string() }))?;
        let special = Value::from_pairs(special.iter().map(|(name, token)| (name.as_str(), token.as_str())));
        Ok(Self { source, special, environment }.at(DEFAULT_MOMENT))
    }

    /// The template with another moment for `strftime_now`, in seconds since 1970.
    pub fn at(mut self, seconds: i64) -> Self {
        let now = move |pattern: String| {
            date::format(seconds, &pattern).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
        };
        self.environment.add_function("strftime_now", now);
        self
    }

    /// The template's text, as the folder has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as the model reads it; with `add_generation_prompt` ending where the model is to answer.
    ///
    /// # Errors
    /// [`ChatError::Render`] with the template's own reason, or the engine's.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        let failed = |e: Error| ChatError::Render { reason: reason(&e) };
        let value = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let messages: Vec<Value> = messages.iter().map(value).collect();
        let own = context! { messages, add_generation_prompt, tools => Value::from(()), documents => Value::from(()) };
        let all = context! { ..own, ..self.special.clone() };
        let render = || self.environment.get_template(NAME).and_then(|template| template.render(all)).map_err(failed);
        guarded(render).unwrap_or_else(|| Err(ChatError::Render { reason: "the engine gave up".to_string() }))
    }
}

/// Blocks leave neither their line's indentation nor its end.
fn syntax_of_transformers() -> Result<SyntaxConfig, ChatError> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|e| ChatError::Syntax { reason: reason(&e) })
}

/// Runs what handles a stranger's program; `None` where it unwinds.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
}

/// The engine's reason with the template's line, in one line.
fn reason(error: &Error) -> String {
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let line = error.line().map_or(String::new(), |line| format!(" (line {line} of the template)"));
    format!("{}{line}", message.lines().collect::<Vec<_>>().join(" "))
}

/// The template that a configuration names: a text, or `default` of a list.
fn named_default(value: &Json) -> Result<String, String> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    let default = list.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str());
    default.map(str::to_string).ok_or_else(|| {
        "chat_template must be a text, or a list of names and templates with one named default".to_string()
    })
}

fn read(path: &Path) -> Result<Option<String>, ChatError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChatError::Read { path: path.to_path_buf(), source }),
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: spaces behind commas and colons, nothing escaped
/// for HTML.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    for known in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(known)?;
    }
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(64)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut bytes, pretty))
        }
        None => serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    };
    let failed = |e: String| Error::new(ErrorKind::BadSerialization, e);
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// One line, with a space behind every comma and colon.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
