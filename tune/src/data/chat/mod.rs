//! Conversations: printed by the model's template, encoded as one text, trained on the messages of chosen roles.
//!
//! It is here because a template prints a conversation as one text and does not say which of it is whose. That is found
//! by printing the conversation's beginnings: what a message adds stands between the print of all before it (with the
//! prompt that asks the assistant to speak, where it is the assistant's) and the print up to its end, the marker that
//! ends a turn included. The text is encoded as it is printed: a begin token only where the template prints one.

mod date;
mod template;

pub use template::{ChatError, ChatTemplate, DEFAULT_MOMENT};

use super::encode::{EncodeError, Options, RowError, check_limit, collect, cut};
use super::example::{Encoded, Example, Message};
use super::python::strip;
use super::tokenizer::Tokenizer;
use std::ops::Range;

/// How conversations become samples.
#[derive(Debug, Clone)]
pub struct Chat {
    /// The model's template.
    pub template: ChatTemplate,
    /// Whose messages are trained.
    pub roles: Vec<String>,
}

/// The role for which a template has a generation prompt.
const ASSISTANT: &str = "assistant";

/// Encodes conversations, in order.
///
/// # Errors
/// [`EncodeError`]: settings that cannot work, or every row that the template refuses, that has no message of the
/// roles, or that is too long under [`Truncation::Refuse`](super::encode::Truncation::Refuse).
pub fn encode_chat(
    examples: &[Example],
    chat: &Chat,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Vec<Encoded>, EncodeError> {
    check_limit(options)?;
    collect(examples, |example| encode_row(&example.messages, chat, tokenizer, options))
}

fn encode_row(
    messages: &[Message],
    chat: &Chat,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Encoded, RowError> {
    let text = chat.template.render(messages, false)?;
    let spoken = spoken(messages, chat, &text)?;
    if spoken.is_empty() {
        return Err(RowError::NoTrainedRole { roles: chat.roles.join(", ") });
    }
    let (mut tokens, places): (Vec<u32>, Vec<Range<usize>>) = tokenizer.encode_placed(&text)?.into_iter().unzip();
    // A token across a border belongs to the message that it holds a part of: its prediction says part of it.
    let is_trained = |place: &Range<usize>| spoken.iter().any(|span| place.start < span.end && span.start < place.end);
    let mut trained: Vec<bool> = places.iter().map(is_trained).collect();
    let before = tokens.len();
    let removed = cut(&tokens, tokenizer, options)?;
    tokens.drain(removed.clone());
    trained.drain(removed.clone());
    if let Some(first) = trained.first_mut() {
        *first = false;
    }
    let trained = spans(&trained);
    match (trained.is_empty(), removed.is_empty()) {
        (true, true) => Err(RowError::NoTrainedToken),
        (true, false) => Err(RowError::AllCut { tokens: before, max_length: options.max_length }),
        _ => Ok(Encoded { tokens, trained, truncated: !removed.is_empty() }),
    }
}

/// The bytes of the printed text that the roles' messages add, in order.
fn spoken(messages: &[Message], chat: &Chat, text: &str) -> Result<Vec<Range<usize>>, ChatError> {
    let printed = |count: usize, asks: bool| {
        let beginning = chat.template.render(&messages[..count], asks)?;
        if text.starts_with(&beginning) { Ok(beginning.len()) } else { Err(ChatError::NotPrefix { message: count }) }
    };
    let mut spans = Vec::new();
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| chat.roles.contains(&message.role)) {
        let end = if i + 1 == messages.len() { text.len() } else { printed(i + 1, false)? };
        let start = if message.role == ASSISTANT && i > 0 {
            printed(i, true)?
        } else {
            // No template prints a prompt for other roles (and few print an empty conversation): the message begins
            // with its text.
            let before = if i == 0 { 0 } else { printed(i, false)? };
            let found = text.get(before..end).and_then(|added| added.find(strip(&message.content)));
            before + found.ok_or(ChatError::NotPrinted { message: i + 1 })?
        };
        if start > end {
            return Err(ChatError::NotPrefix { message: i + 1 });
        }
        spans.push(start..end);
    }
    Ok(spans.into_iter().filter(|span| !span.is_empty()).collect())
}

/// Ranges of the true flags.
fn spans(flags: &[bool]) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for at in (0..flags.len()).filter(|at| flags[*at]) {
        match spans.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => spans.push(at..at + 1),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::encode::Truncation;
    use crate::data::tokenizer::tests::small;

    const CHATML: &str = "{{ bos_token }}{% for m in messages %}({{ m.role }}\n{{ m.content | trim }})\n{% endfor %}\
        {% if add_generation_prompt %}(assistant\n{% endif %}";

    fn chat(source: &str, roles: &[&str]) -> Chat {
        let special = [("bos_token".to_string(), "<s>".to_string())];
        let template = ChatTemplate::new(source.to_string(), &special).unwrap();
        Chat { template, roles: roles.iter().map(|role| role.to_string()).collect() }
    }

    fn row(texts: &[(&str, &str)]) -> Example {
        let message = |(role, content): &(&str, &str)| Message { role: role.to_string(), content: content.to_string() };
        Example { messages: texts.iter().map(message).collect(), line: 3, ..Example::default() }
    }

    const TALK: &[(&str, &str)] =
        &[("system", "x"), ("user", " hi "), ("assistant", "ab"), ("user", "y"), ("assistant", "")];

    fn options(max_length: usize, truncation: Truncation) -> Options {
        Options { max_length, truncation, append_eos: true }
    }

    /// What is read, and the texts of the trained spans.
    fn encoded(texts: &[(&str, &str)], chat: &Chat, options: &Options) -> Result<(String, Vec<String>), EncodeError> {
        let row = encode_chat(&[row(texts)], chat, &small(), options)?.remove(0);
        let text = |range: Range<usize>| small().decode(&row.tokens[range], false).unwrap();
        let trained = row.trained.iter().cloned().map(text).collect();
        Ok((text(0..row.tokens.len()), trained))
    }

    #[test]
    fn the_roles_messages_are_trained_with_the_marker_behind_them() {
        let all = "<s>(system\nx)\n(user\nhi)\n(assistant\nab)\n(user\ny)\n(assistant\n)\n";
        let (text, trained) = encoded(TALK, &chat(CHATML, &["assistant"]), &Options::default()).unwrap();
        assert_eq!((text.as_str(), trained), (all, vec!["ab)\n".to_string(), ")\n".to_string()]));
        let (_, trained) = encoded(TALK, &chat(CHATML, &["user", "system"]), &Options::default()).unwrap();
        assert_eq!(trained, ["x)\n", "hi)\n", "y)\n"]);
    }

    #[test]
    fn no_begin_token_is_added_to_what_the_template_prints() {
        let plain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        let (text, trained) = encoded(&TALK[2..3], &chat(plain, &["assistant"]), &Options::default()).unwrap();
        assert_eq!((text.as_str(), trained), ("[ab]", vec!["ab]".to_string()]));
    }

    #[test]
    fn the_first_token_is_never_trained_and_a_token_across_the_border_is() {
        let bare = "{% for m in messages %}{{ m.content }}{% endfor %}";
        let talk = [("user", "xa"), ("assistant", "b"), ("user", "c")];
        let (_, trained) = encoded(&talk, &chat(bare, &["assistant"]), &Options::default()).unwrap();
        assert_eq!(trained, ["ab"]);
        let (_, trained) = encoded(&talk, &chat(bare, &["user"]), &Options::default()).unwrap();
        assert_eq!(trained, ["abc"], "x is the first token");
    }

    #[test]
    fn cutting_keeps_the_spans_on_their_tokens() {
        let chat = chat(CHATML, &["assistant"]);
        let (text, trained) = encoded(TALK, &chat, &options(25, Truncation::Left)).unwrap();
        assert_eq!(
            (text.as_str(), trained),
            ("<s>)\n(user\ny)\n(assistant\n)\n", vec![")\n".to_string(), ")\n".to_string()])
        );
        let (_, trained) = encoded(TALK, &chat, &options(36, Truncation::Right)).unwrap();
        assert_eq!(trained, ["ab)\n"]);
        let error = encoded(TALK, &chat, &options(12, Truncation::Right)).unwrap_err().to_string();
        assert!(error.contains("no trained token is left of"), "{error}");
        assert!(encoded(TALK, &chat, &options(12, Truncation::Refuse)).unwrap_err().to_string().contains("exceed"));
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        let error = |source: &str, roles: &[&str]| {
            encoded(TALK, &chat(source, roles), &Options::default()).unwrap_err().to_string()
        };
        let last = "{% for m in messages %}{% if loop.last %}!{% endif %}{{ m.content }};{% endfor %}";
        assert!(error(last, &["assistant"]).contains("up to message 3 differently when more follows"));
        let upper = "{% for m in messages %}{{ m.content | upper }};{% endfor %}";
        assert!(error(upper, &["system"]).contains("does not print the text of message 1"));
        let none = error(CHATML, &["tool"]);
        assert!(none.contains("sample 0 (line 3): no message of the roles tool"), "{none}");
        let refused = error("{{ raise_exception('no') }}", &["user"]);
        assert!(refused.contains("cannot print this conversation: no"), "{refused}");
    }
}
