//! `quanta inspect`: the samples a run would train on, as tokens, with what is trained marked, and their lengths.

use std::ops::Range;

use super::{DataSettings, RunConfig, RunError, samples};
use crate::data::dataset::Part;
use crate::data::example::Example;
use crate::data::objective::Outcome;
use crate::data::statistics::Statistics;
use crate::data::tokenizer::Tokenizer;
use crate::data::whole::answer;
use crate::ops::target::Answer;

/// One sample as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedSample {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Each token's text.
    pub texts: Vec<String>,
    /// Positions of the trained tokens: ascending ranges, none empty.
    pub trained: Vec<Range<usize>>,
    /// What an encoder is to answer: the name of a class, or a number; none where tokens are trained.
    pub answer: Option<String>,
    /// Whether it was cut to the length limit.
    pub truncated: bool,
}

/// One part of the data.
#[derive(Clone, Debug)]
pub struct InspectedPart {
    /// `train`, `dev` or `test`.
    pub name: &'static str,
    /// Lengths over the whole part.
    pub statistics: Statistics,
    /// The first samples.
    pub samples: Vec<InspectedSample>,
}

/// What `inspect` found.
#[derive(Clone, Debug)]
pub struct InspectReport {
    /// Parts with at least one sample.
    pub parts: Vec<InspectedPart>,
}

/// Reads and encodes the data of a configuration as training would, and keeps the first `count` samples of each part.
///
/// # Errors
/// As training: unreadable data, a sample without a trained token.
pub fn inspect(config: &RunConfig, count: usize) -> Result<InspectReport, RunError> {
    let (model, data) = (config.model_config()?, config.data()?);
    let tokenizer = Tokenizer::from_folder(&config.model)?;
    let dataset = samples::load(&samples::within(config, &model), &model, &tokenizer)?;
    let part = |name, part: &Part| InspectedPart {
        name,
        statistics: part.statistics(),
        samples: part
            .encoded
            .iter()
            .enumerate()
            .take(count)
            .map(|(index, sample)| InspectedSample {
                tokens: sample.tokens.clone(),
                texts: sample.tokens.iter().map(|&token| tokenizer.token_text(token)).collect(),
                trained: sample.trained.clone(),
                answer: part.examples.get(index).and_then(|row| named_answer(row, data)),
                truncated: sample.truncated,
            })
            .collect(),
    };
    let all = [part("train", &dataset.train), part("dev", &dataset.dev), part("test", &dataset.test)];
    Ok(InspectReport { parts: all.into_iter().filter(|part| part.statistics.sequences > 0).collect() })
}

/// What the head is to give for a row, in words.
fn named_answer(row: &Example, data: &DataSettings) -> Option<String> {
    match (answer(row, data.objective)?, data.task.outcome?) {
        (Answer::Class(class), Outcome::Classes(names)) => names.get(class).map(|name| (*name).to_owned()),
        (Answer::Number(number), _) => Some(number.to_string()),
        _ => None,
    }
}
