//! Text on its way into a page: escaped, shortened, and numbers as people read them.
//!
//! Everything a page shows was written by someone else: names of folders, data, a model's answers. It is escaped here and nowhere else.

use std::fmt::Write;

/// Text that may stand between tags and inside quoted attributes, of HTML and of SVG.
///
/// Control characters but tab and newline, which neither format allows, become the replacement character; carriage returns go.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\r' => {}
            '\t' | '\n' => out.push(character),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// At most `limit` characters from the start, with an ellipsis where some are missing.
pub fn beginning(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// At most `limit` characters up to the end, from the start of a word where one is near, with an ellipsis where some are missing.
pub fn ending(text: &str, limit: usize) -> String {
    let Some(surplus) = text.chars().count().checked_sub(limit).filter(|&surplus| surplus > 0) else {
        return text.to_owned();
    };
    let kept: String = text.chars().skip(surplus + 1).collect();
    let word = kept.find(char::is_whitespace).filter(|&at| at <= 24).map_or(0, |at| at);
    format!("…{}", &kept[word..])
}

/// `1,234,567`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in at most `digits` digits, `-` where it is none.
pub fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let mut out = String::new();
    let size = value.abs();
    // writing to a text cannot fail
    let _ = if size != 0.0 && !(1e-3..1e6).contains(&size) {
        write!(out, "{value:.*e}", digits.saturating_sub(1))
    } else {
        let whole = if size < 1.0 { 1 } else { size.log10() as usize + 1 };
        write!(out, "{value:.*}", digits.saturating_sub(whole))
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes() {
        assert_eq!(escaped("<b onclick='x'>&amp;\"</b>"), "&lt;b onclick=&#39;x&#39;&gt;&amp;amp;&quot;&lt;/b&gt;");
        assert_eq!(escaped("a\tb\r\nc\0\u{1b}[31m\u{85}é漢"), "a\tb\nc\u{fffd}\u{fffd}[31m\u{fffd}é漢");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!((beginning("漢字漢字", 4), beginning("漢字漢字", 3)), ("漢字漢字".into(), "漢字…".into()));
        assert_eq!((ending("漢字漢字", 4), ending("漢字漢字", 3)), ("漢字漢字".into(), "…漢字".into()));
        assert_eq!(ending("one two three four", 12), "… three four");
        assert_eq!(ending("", 0), "");
    }

    #[test]
    fn numbers_have_the_digits_asked_for() {
        let texts = [(3.568_54, 5), (11.838, 5), (0.003, 3), (1e-5, 3), (0.0, 3), (123_456.0, 5), (2.5e7, 3)];
        assert_eq!(
            texts.map(|(value, digits)| number(value, digits)),
            ["3.5685", "11.838", "0.00", "1.00e-5", "0.00", "123456", "2.50e7"]
        );
        assert_eq!((number(f64::NAN, 3), grouped(1_234_567)), ("-".into(), "1,234,567".into()));
    }
}
