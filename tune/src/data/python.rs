//! What Python calls white space, lines and words, which the authors' templates and metrics are defined by.
//!
//! It is here because Rust draws the lines elsewhere: Python counts the four ASCII separators U+001C to U+001F as white
//! space.

/// Whether Python's `str.isspace` holds.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.lstrip()`.
pub fn strip_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// `str.split()`.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_count_as_white_space() {
        let text = "\u{1c} a\u{1f}b\u{a0}c\u{200b}\u{1e}";
        assert_eq!(strip(text), "a\u{1f}b\u{a0}c\u{200b}");
        assert_eq!(strip_start(text), "a\u{1f}b\u{a0}c\u{200b}\u{1e}");
        assert_eq!(words(text).collect::<Vec<_>>(), ["a", "b", "c\u{200b}"]);
    }
}
