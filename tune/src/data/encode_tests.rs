//! Tests of the encoding rules, in a file of their own because together they would exceed the length limit.
//!
//! They fix what is trained, what is cut and what is refused, on the small tokenizer of `tokenizer`'s tests: one token
//! a character, and the merges `ab`, `\nA` and `.\n`.

use super::*;
use crate::data::example::shared_prefix;
use crate::data::tokenizer::tests::{small, template, tokenizer_json, without_bos};
use serde_json::json;

fn example(prompt: &str, completion: &str) -> Example {
    Example { prompt: prompt.to_string(), completion: completion.to_string(), line: 7, ..Example::default() }
}

fn one(prompt: &str, completion: &str, form: Form, options: &Options) -> Result<Encoded, EncodeError> {
    encode(&[example(prompt, completion)], form, &small(), options).map(|rows| rows[0].clone())
}

fn text(encoded: &Encoded) -> (String, String) {
    let (read, trained) = encoded.tokens.split_at(encoded.tokens.len() - encoded.trained_tokens());
    (small().decode(read, false).unwrap(), small().decode(trained, false).unwrap())
}

fn options(max_length: usize, truncation: Truncation) -> Options {
    Options { max_length, truncation, append_eos: true }
}

#[test]
fn exact_text_is_kept_to_the_character_with_the_end_token_behind() {
    let row = one("  Q: x \n", "  y \n ", Form::Exact, &Options::default()).unwrap();
    assert_eq!(text(&row), ("<s>  Q: x \n".to_string(), "  y \n </s>".to_string()));
    let bare = one("Q", "y", Form::Exact, &Options { append_eos: false, ..Options::default() }).unwrap();
    assert_eq!(text(&bare), ("<s>Q".to_string(), "y".to_string()));
}

#[test]
fn the_template_form_strips_spaces_but_keeps_the_final_newline() {
    let row = one("Passage: p\nAnswer:", " 42\n", Form::Template, &Options::default()).unwrap();
    assert_eq!(text(&row), ("<s>Passage: p\nAnswer:".to_string(), " 42\n".to_string()));
    let spaced = one(" \n  x:  ", " 4\n  ", Form::Template, &Options::default()).unwrap();
    // Counted before the white space in front goes: "\n  x:   4\n" has 10 tokens, "\n  x:" has 5.
    assert_eq!(spaced.trained_tokens(), 5);
    assert_eq!(text(&spaced), ("<s>x:".to_string(), "   4\n".to_string()));
}

#[test]
fn merges_across_the_boundary_are_counted_by_difference() {
    let row = one("xa", "bc", Form::Exact, &Options { append_eos: false, ..Options::default() }).unwrap();
    // x a | b c is encoded as x ab c: 4 tokens with the begin token, less 3 of the prompt.
    assert_eq!((row.tokens.len(), row.trained_tokens()), (4, 1));
    // x a | b is x ab: by difference nothing, so from the first token that differs.
    let swallowed = one("xa", "b", Form::Exact, &Options::default()).unwrap();
    assert_eq!(text(&swallowed), ("<s>x".to_string(), "ab</s>".to_string()));
}

#[test]
fn rows_without_a_trained_token_are_all_named() {
    let rows: Vec<Example> = (0..30).map(|i| example("p", if i % 10 == 3 { "x" } else { "" })).collect();
    let error = encode(&rows, Form::Exact, &small(), &Options::default()).unwrap_err();
    let printed = error.to_string();
    assert!(printed.starts_with("27 samples cannot be used\nsample 0 (line 7): "), "{printed}");
    assert!(printed.ends_with("and 7 more"), "{printed}");
    assert!(!printed.contains("sample 3 "));
    // One token in all, nothing to predict it from.
    let alone = encode(&[example("", "x")], Form::Template, &without_bos(), &Options::default()).unwrap_err();
    assert!(matches!(alone, EncodeError::Rows { .. }));
}

#[test]
fn left_truncation_keeps_the_begin_token_and_the_end() {
    let row = one("0123456789", "xy", Form::Exact, &options(6, Truncation::Left)).unwrap();
    assert_eq!(text(&row), ("<s>89".to_string(), "xy</s>".to_string()));
    assert!(row.truncated);
    let inside = one("0123", "uvwxyz", Form::Exact, &options(4, Truncation::Left)).unwrap();
    assert_eq!(text(&inside), ("<s>".to_string(), "yz</s>".to_string()));
    let fits = one("01", "xy", Form::Exact, &options(6, Truncation::Left)).unwrap();
    assert!(!fits.truncated && fits.tokens.len() == 6);
}

#[test]
fn without_a_begin_token_the_first_token_left_is_never_trained() {
    let rows = [example("0123", "uvwxyz")];
    let row = &encode(&rows, Form::Exact, &without_bos(), &options(4, Truncation::Left)).unwrap()[0];
    assert_eq!((row.tokens.len(), row.trained.clone()), (4, vec![1..4]));
}

#[test]
fn reference_truncation_keeps_the_begin_token_only_where_it_is_declared() {
    let policy = options(4, Truncation::Reference);
    let rows = [example("0123", "xy")];
    let lost = &encode(&rows, Form::Exact, &small(), &policy).unwrap()[0];
    assert_eq!(text(lost), ("3".to_string(), "xy</s>".to_string()));
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true});
    let json = tokenizer_json(template(&["<s>"], &[]));
    let declared = crate::data::tokenizer::tests::load(&json, &[("tokenizer_config.json", config)]).unwrap();
    let kept = &encode(&rows, Form::Exact, &declared, &policy).unwrap()[0];
    assert_eq!(text(kept), ("<s>".to_string(), "xy</s>".to_string()));
}

#[test]
fn right_truncation_cuts_the_completion_and_refuses_to_cut_all_of_it() {
    let row = one("01", "uvwxyz", Form::Exact, &options(5, Truncation::Right)).unwrap();
    assert_eq!(text(&row), ("<s>01".to_string(), "uv".to_string()));
    let error = one("0123", "x", Form::Exact, &options(5, Truncation::Right)).unwrap_err();
    assert!(error.to_string().contains("no trained token is left of 7 tokens at max_length 5"), "{error}");
}

#[test]
fn refusal_and_settings_that_cannot_work_are_errors() {
    let error = one("0123", "x", Form::Exact, &options(5, Truncation::Refuse)).unwrap_err();
    assert!(error.to_string().contains("7 tokens exceed max_length 5"), "{error}");
    let short = one("0", "x", Form::Exact, &options(1, Truncation::Left)).unwrap_err();
    assert!(matches!(short, EncodeError::LimitTooShort { max_length: 1 }));
    let nameless = crate::data::tokenizer::tests::load(&tokenizer_json(json!(null)), &[]).unwrap();
    let row = [example("0", "x")];
    assert!(matches!(encode(&row, Form::Exact, &nameless, &Options::default()), Err(EncodeError::NoEndToken)));
    assert!(encode(&row, Form::Template, &nameless, &Options::default()).is_ok());
}

#[test]
fn candidates_share_the_prompt_and_keep_their_own_trained_tokens() {
    let mut row = example("Is it? a", "");
    row.candidates = ["bc", " yes", " yesterday"].map(String::from).to_vec();
    let plain = Options { append_eos: false, ..Options::default() };
    let rows = encode_candidates(&[row], Form::Exact, &small(), &plain).unwrap();
    let trained: Vec<usize> = rows[0].iter().map(Encoded::trained_tokens).collect();
    assert_eq!(trained, [1, 4, 10]);
    // The boundary merge ab parts the first candidate from the others one token early.
    assert_eq!((shared_prefix(&rows[0]), shared_prefix(&rows[0][1..])), (8, 13));
}

#[test]
fn a_prompt_is_encoded_without_an_end_token_and_cut_like_a_row() {
    let (tokens, truncated) = encode_prompt(" 0123 ", Form::Template, &small(), &options(3, Truncation::Left)).unwrap();
    assert_eq!(small().decode(&tokens, false).unwrap(), "<s>23");
    assert!(truncated);
    let (tokens, _) = encode_prompt(" 0 ", Form::Exact, &small(), &Options::default()).unwrap();
    assert_eq!(small().decode(&tokens, false).unwrap(), "<s> 0 ");
}

#[test]
fn windows_cover_the_text_and_train_every_token_once() {
    let text = "0123456789";
    let rows = [Example { completion: text.to_string(), ..Example::default() }];
    for (max_length, with_bos, without) in
        [(4, vec![4, 4, 4, 2], vec![4, 4, 4]), (6, vec![6, 6], vec![6, 5]), (64, vec![11], vec![10])]
    {
        let policy = options(max_length, Truncation::Left);
        for (tokenizer, expected, untrained) in [(small(), with_bos, 0), (without_bos(), without, 1)] {
            let windows = encode(&rows, Form::Windows, &tokenizer, &policy).unwrap();
            assert_eq!(windows.iter().map(|window| window.tokens.len()).collect::<Vec<_>>(), expected);
            let trained: Vec<u32> =
                windows.iter().flat_map(|window| window.trained_positions().map(|at| window.tokens[at])).collect();
            assert_eq!(tokenizer.decode(&trained, false).unwrap(), text[untrained..]);
            assert!(windows.iter().all(|window| window.trained == [1..window.tokens.len()]));
        }
    }
    let empty = encode(&[Example::default()], Form::Windows, &small(), &Options::default());
    assert!(matches!(empty, Err(EncodeError::Rows { .. })));
}

#[test]
fn long_texts_are_cut_where_no_token_is() {
    let text = "ab.\nAb\n\n  c\nd".repeat(20);
    for size in [1, 7, 50, 10_000] {
        let pieces = chunks(&text, size);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().skip(1).all(|piece| !piece.starts_with(char::is_whitespace)));
    }
    assert_eq!(chunks("no newline at all", 3), ["no newline at all"]);
    assert_eq!(chunks("é\né", 2), ["é\n", "é"]);
}
