//! Rows that an encoder answers as a whole: sentences joined by the tokenizer's own template, and a class or a number.
//!
//! It is here because nothing of such a row is trained token by token. The template is the tokenizer's post-processor
//! for one text or for two (RoBERTa's: `<s> a </s></s> b </s>`). A row that is too long loses tokens at the end of its
//! longer sentence until both are equally long, then of both, as transformers' `longest_first` does.

use super::encode::{EncodeError, Options, RowError, Truncation, check_limit, collect};
use super::example::{Encoded, Example};
use super::objective::Objective;
use super::tokenizer::Tokenizer;
use crate::ops::target::Answer;

/// Encodes the sentences of rows, in order; no token is trained.
///
/// # Errors
/// [`EncodeError`]: settings that cannot work, a tokenizer that runs two sentences into one, or every row that is too
/// long under [`Truncation::Refuse`] or is refused by the tokenizer.
pub fn encode_whole(
    examples: &[Example],
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Vec<Encoded>, EncodeError> {
    check_limit(options)?;
    if examples.iter().any(|row| row.sentences.len() > 1) && !tokenizer.parts_pairs() {
        return Err(EncodeError::NoPairs);
    }
    collect(examples, |row| {
        let first = row.sentences.first().map_or("", String::as_str);
        let second = row.sentences.get(1).map(String::as_str);
        let max_length = options.max_length;
        let (tokens, before) = tokenizer.encode_sentences(first, second, max_length)?;
        let refused = options.truncation == Truncation::Refuse && before > max_length;
        // what the template adds is never cut
        if refused || tokens.len() > max_length {
            return Err(RowError::TooLong { tokens: before, max_length });
        }
        Ok(Encoded { truncated: tokens.len() < before, tokens, trained: Vec::new() })
    })
}

/// What is right for a row under an objective of whole rows; none where the row has no such answer.
pub fn answer(example: &Example, objective: Objective) -> Option<Answer> {
    match objective {
        Objective::Classify => {
            let class = example.candidates.iter().position(|candidate| *candidate == example.completion);
            class.map(Answer::Class)
        }
        Objective::Regress => {
            let number = example.answers.first().and_then(|answer| answer.parse().ok());
            number.filter(|number: &f64| number.is_finite()).map(Answer::Number)
        }
        Objective::Lm | Objective::Choice => None,
    }
}

/// Tokens and answers of rows; none where a row has no answer.
pub fn answered(examples: &[Example], encoded: &[Encoded], objective: Objective) -> Option<Vec<(Vec<u32>, Answer)>> {
    let rows = examples.iter().zip(encoded);
    rows.map(|(row, encoded)| Some((encoded.tokens.clone(), answer(row, objective)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A token for each of ten letters, the template of RoBERTa around them.
    fn tokenizer(post_processor: &Value) -> Tokenizer {
        let names =
            ["<s>", "<pad>", "</s>", "<unk>"].map(String::from).into_iter().chain(('a'..='j').map(String::from));
        let vocab: serde_json::Map<String, Value> = names.enumerate().map(|(id, name)| (name, json!(id))).collect();
        let special = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        let file = json!({
            "version": "1.0", "truncation": { "direction": "Left", "max_length": 5, "strategy": "OnlySecond", "stride": 0 },
            "padding": null, "normalizer": null, "pre_tokenizer": null, "decoder": null,
            "added_tokens": [special(0, "<s>"), special(2, "</s>")], "post_processor": post_processor,
            "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": [] },
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        Tokenizer::from_folder(folder.path()).unwrap()
    }

    fn roberta() -> Value {
        json!({ "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false })
    }

    fn row(sentences: &[&str]) -> Example {
        Example { sentences: sentences.iter().map(|text| text.to_string()).collect(), line: 7, ..Example::default() }
    }

    #[test]
    fn sentences_are_joined_by_the_template_and_cut_longest_first() {
        let tokenizer = tokenizer(&roberta());
        let encode = |sentences: &[&str], max_length, truncation| {
            let options = Options { max_length, truncation, append_eos: true };
            encode_whole(&[row(sentences)], &tokenizer, &options).map(|mut rows| rows.remove(0))
        };
        let cut = |sentences: &[&str], max_length| {
            let row = encode(sentences, max_length, Truncation::LongestFirst).unwrap();
            (row.tokens, row.truncated)
        };
        assert_eq!(cut(&["abc"], 9), (vec![0, 4, 5, 6, 2], false));
        assert_eq!(cut(&["abc", "de"], 9), (vec![0, 4, 5, 6, 2, 2, 7, 8, 2], false));
        assert_eq!(cut(&["abc"], 4), (vec![0, 4, 5, 2], true));
        // the longer sentence alone while that is enough, then both to half of what is left
        assert_eq!(cut(&["abcde", "fg"], 9), (vec![0, 4, 5, 6, 2, 2, 9, 10, 2], true));
        assert_eq!(cut(&["ab", "cdefg"], 9), (vec![0, 4, 5, 2, 2, 6, 7, 8, 2], true));
        assert_eq!(cut(&["abcde", "fghij"], 9), (vec![0, 4, 5, 2, 2, 9, 10, 11, 2], true));
        assert!(encode(&["abcde", "fghij"], 14, Truncation::Refuse).is_ok());
        let message = encode(&["abcde", "fghij"], 13, Truncation::Refuse).unwrap_err().to_string();
        assert!(message.contains("(line 7): 14 tokens exceed max_length 13"), "{message}");
        assert!(encode(&["a", "b"], 3, Truncation::LongestFirst).is_err(), "the template alone is four tokens");
        assert!(encode(&["a"], 1, Truncation::LongestFirst).is_err());
    }

    #[test]
    fn a_tokenizer_that_parts_no_pairs_is_refused() {
        let whole = |processor: &Value, row: Example| encode_whole(&[row], &tokenizer(processor), &Options::default());
        let message = whole(&Value::Null, row(&["a", "b"])).unwrap_err().to_string();
        assert!(message.contains("puts nothing between two sentences"), "{message}");
        assert_eq!(whole(&Value::Null, row(&["a"])).unwrap()[0].tokens, [4]);
    }

    #[test]
    fn answers_are_places_among_candidates_or_numbers() {
        let candidates = [" no", " yes"].map(String::from).to_vec();
        let yes = Example { completion: " yes".into(), candidates, answers: vec!["2.5".into()], ..Example::default() };
        assert_eq!(answer(&yes, Objective::Classify), Some(Answer::Class(1)));
        assert_eq!(answer(&yes, Objective::Regress), Some(Answer::Number(2.5)));
        assert_eq!((answer(&yes, Objective::Lm), answer(&row(&["a"]), Objective::Classify)), (None, None));
    }
}
