//! The task `messages`: conversations, rendered by the model's own chat template.
//!
//! Rows hold `messages`, a list of `role` and `content`, or `conversations`, a list of `from` and `value` (the ShareGPT
//! form, whose `human` and `gpt` become `user` and `assistant`). How a conversation becomes text and tokens is left to
//! `chat`; which roles are trained, to the configuration.

use super::files::load_splits;
use super::rows::{EXTENSIONS, Fields, load_rows};
use super::{Splits, Task, TaskError};
use crate::data::encode::Form;
use crate::data::example::{Example, Message};
use crate::data::objective::Objective;
use serde_json::Value;
use std::path::Path;

pub(super) const TASK: Task = Task {
    name: "messages",
    summary: "conversations in the model's chat template: `messages` of role and content, or ShareGPT's `conversations`",
    form: Form::Chat,
    extensions: EXTENSIONS,
    objective: Objective::Lm,
    outcome: None,
    metrics: &[],
    generates: false,
    // A chat model's answer is prose, not a phrase.
    max_new_tokens: 256,
    stops_at_newline: false,
    load,
};

fn load(path: &Path) -> Result<Splits, TaskError> {
    load_splits(path, EXTENSIONS, |file| load_rows(file, read))
}

fn read(row: &mut Fields) -> Example {
    let (key, role, content) = match row.has("messages") {
        true => ("messages", "role", "content"),
        false if row.has("conversations") => ("conversations", "from", "value"),
        false => {
            row.problem("`messages` is missing");
            return Example::default();
        }
    };
    let Some(Value::Array(list)) = row.value(key) else {
        row.problem(format!("`{key}` must be a list of messages"));
        return Example::default();
    };
    if list.is_empty() {
        row.problem(format!("`{key}` is empty"));
    }
    let mut messages = Vec::with_capacity(list.len());
    for (i, message) in list.into_iter().enumerate() {
        match read_message(message, role, content) {
            Ok(message) => messages.push(message),
            Err(problem) => row.problem(format!("message {}: {problem}", i + 1)),
        }
    }
    Example { messages, ..Example::default() }
}

fn read_message(message: Value, role: &str, content: &str) -> Result<Message, String> {
    let Value::Object(map) = message else { return Err("expected an object in braces".to_string()) };
    let mut fields = Fields::new(map);
    for key in ["tool_calls", "function_call", "tool_call_id"] {
        if fields.value(key).is_some_and(|value| value.as_array().is_none_or(|calls| !calls.is_empty())) {
            fields.problem(format!("`{key}` is not read: write the call as text into the content"));
        }
    }
    let mut speaker = fields.text(role);
    if role == "from" {
        speaker = match speaker.as_str() {
            "human" | "user" => "user",
            "gpt" | "assistant" => "assistant",
            "system" => "system",
            "" => "",
            other => {
                fields.problem(format!("`from` is `{other}`: it must be human, gpt or system"));
                ""
            }
        }
        .to_string();
    }
    let content = match fields.value(content) {
        Some(Value::String(text)) => text,
        Some(parts) if parts.is_array() => text_of_parts(parts).unwrap_or_else(|problem| {
            fields.problem(problem);
            String::new()
        }),
        Some(_) => {
            fields.problem(format!("`{content}` must be a text in quotes"));
            String::new()
        }
        None => {
            fields.problem(format!("`{content}` is missing"));
            String::new()
        }
    };
    fields.finish().map(|()| Message { role: speaker, content })
}

/// The text of a content that is a list of parts, each of the type `text`.
fn text_of_parts(parts: Value) -> Result<String, String> {
    let parts = parts.as_array().map_or(&[][..], Vec::as_slice);
    let is_text = |part: &&Value| part["type"] == "text" && part["text"].is_string();
    let texts: Vec<&str> = parts.iter().filter(is_text).filter_map(|part| part["text"].as_str()).collect();
    (texts.len() == parts.len())
        .then(|| texts.concat())
        .ok_or_else(|| "`content` may have parts of the type text only".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_lines(text: &str) -> Result<Vec<Example>, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, text).unwrap();
        load(&path).map(|splits| splits.train)
    }

    #[test]
    fn both_forms_are_the_same_messages() {
        let rows = read_lines(
            "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \" u\"}, \
             {\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}], \"tool_calls\": null}]}\n\
             {\"conversations\": [{\"from\": \"system\", \"value\": \"s\"}, {\"from\": \"human\", \"value\": \" u\"}, \
             {\"from\": \"gpt\", \"value\": \"a\", \"weight\": 1}]}\n",
        )
        .unwrap();
        let message = |role: &str, content: &str| Message { role: role.to_string(), content: content.to_string() };
        let expected = [message("system", "s"), message("user", " u"), message("assistant", "a")];
        assert_eq!((rows[0].messages.as_slice(), rows[1].messages.as_slice()), (&expected[..], &expected[..]));
        assert_eq!(rows[1].line, 2);
    }

    #[test]
    fn what_is_no_conversation_is_named() {
        let error = read_lines(
            "{\"messages\": []}\n{\"prompt\": \"p\"}\n{\"messages\": \"m\"}\n{\"messages\": [3, {\"role\": 1}]}\n\
             {\"conversations\": [{\"from\": \"bot\", \"value\": null}]}\n\
             {\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{}]}]}\n\
             {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}\n",
        )
        .unwrap_err()
        .to_string();
        for needle in [
            "line 1: `messages` is empty",
            "line 2: `messages` is missing",
            "line 3: `messages` must be a list of messages",
            "line 4: message 1: expected an object in braces, message 2: `role` must be a text in quotes, `content` is missing",
            "line 5: message 1: `from` is `bot`: it must be human, gpt or system, `value` is missing",
            "line 6: message 1: `tool_calls` is not read",
            "line 7: message 1: `content` may have parts of the type text only",
        ] {
            assert!(error.contains(needle), "{needle} not in {error}");
        }
    }
}
