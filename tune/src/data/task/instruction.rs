//! Rows of an instruction and an output, the form of the LLM-Adapters collections, and how the authors' program cleans
//! their text.
//!
//! It is here because two tasks share it. What the prompt looks like, and what counts as right, is left to them.

use super::rows::Fields;
use crate::data::python::{is_space, strip};

/// An instruction whose `input`, which the authors' program drops, is empty.
pub(super) fn instruction(row: &mut Fields) -> String {
    let instruction = row.text("instruction");
    if row.optional_text("input").is_some_and(|input| !strip(&input).is_empty()) {
        row.problem("`input` is not part of the prompt here: put its text into `instruction` and leave it empty");
    }
    if strip(&instruction).is_empty() && row.is_fine() {
        row.problem("`instruction` is empty");
    }
    instruction
}

/// Cleans a text: a run of newlines that no `.`, `!`, `?`, `;`, `:` or white space stands before becomes `. `, any
/// other run one space; then white space at the ends goes.
///
/// A run at the very start has nothing before it and becomes `. ` too, as in the authors' program.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len() + 8);
    let mut before = None;
    let mut rest = text;
    while let Some(at) = rest.find('\n') {
        let (line, after) = rest.split_at(at);
        cleaned.push_str(line);
        before = line.chars().next_back().or(before);
        let ends = before.is_some_and(|c| matches!(c, '.' | '!' | '?' | ';' | ':') || is_space(c));
        cleaned.push_str(if ends { " " } else { ". " });
        before = Some('\n');
        rest = after.trim_start_matches('\n');
    }
    cleaned.push_str(rest);
    strip(&cleaned).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newline_runs_become_stops_or_spaces() {
        for (text, cleaned) in [
            ("a\nb", "a. b"),
            ("a\n\n\nb", "a. b"),
            ("a.\n\nb?\nc!\nd;\ne:\nf", "a. b? c! d; e: f"),
            ("a \nb", "a  b"),
            ("a\n \nb", "a.   b"),
            ("a\r\nb", "a\r b"),
            ("a\u{1f}\nb\u{a0}\nc", "a\u{1f} b\u{a0} c"),
            (" a,\n", "a,."),
            ("\na", ". a"),
            ("\n", "."),
            ("", ""),
            (" a b\t", "a b"),
            ("é\né", "é. é"),
        ] {
            assert_eq!(clean(text), cleaned, "{text:?}");
        }
    }
}
