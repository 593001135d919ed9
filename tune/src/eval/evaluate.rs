//! Measuring a model on rows: a prediction for each, by choosing among candidates or by generating, and the mean of every metric over them.

use super::choose::choose;
use super::generate::{GenerateError, GenerateOptions};
use super::text::{StopRule, generate_texts};
use crate::data::example::Example;
use crate::data::metric::Metric;
use crate::data::question::Question;
use crate::data::tokenizer::Tokenizer;
use crate::model::Decoder;
use crate::tensor::{Real, Workspace};

/// How predictions are made.
#[derive(Clone, Debug)]
pub enum Answering {
    /// The candidate with the highest mean log-probability.
    Choose(Vec<Question>),
    /// The continuation of each prompt.
    Generate {
        /// Encoded prompts.
        prompts: Vec<Vec<u32>>,
        /// What ends an answer.
        rule: StopRule,
        /// Lengths and sampling.
        options: GenerateOptions,
    },
}

/// Rows, how they are answered, and what is measured.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The rows.
    pub examples: Vec<Example>,
    /// How each is answered, in the same order.
    pub answering: Answering,
    /// What is measured.
    pub metrics: Vec<&'static Metric>,
    /// About how many tokens are run in one batch.
    pub batch_tokens: usize,
}

/// What was predicted and what it is worth.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examined {
    /// The prediction for each row.
    pub predictions: Vec<String>,
    /// For each row the value of each metric.
    pub values: Vec<Vec<f64>>,
    /// Names of the metrics.
    pub metrics: Vec<&'static str>,
    /// Mean cross-entropy over the candidates, where there are candidates.
    pub loss: Option<f64>,
}

impl Examination {
    /// Predicts and measures every row.
    ///
    /// # Errors
    /// When generation fails: a prompt that is too long, logits that are no numbers.
    pub fn run<T: Real>(
        &self,
        model: &Decoder<T>,
        tokenizer: &Tokenizer,
        workspace: &Workspace<T>,
    ) -> Result<Examined, GenerateError> {
        let (predictions, loss) = match &self.answering {
            Answering::Choose(questions) => {
                let choices = choose(model, questions, self.batch_tokens, workspace);
                let chosen = self.examples.iter().zip(&choices.chosen);
                (chosen.map(|(row, &index)| row.candidates[index].clone()).collect(), Some(choices.loss))
            }
            Answering::Generate { prompts, rule, options } => {
                let texts = generate_texts(model, tokenizer, prompts, *rule, options, workspace, |_, _| ())?;
                (texts.into_iter().map(|text| text.text).collect::<Vec<String>>(), None)
            }
        };
        let value = |(prediction, row): (&String, &Example)| {
            self.metrics.iter().map(|metric| (metric.score)(prediction, row)).collect()
        };
        let values = predictions.iter().zip(&self.examples).map(value).collect();
        Ok(Examined { predictions, values, metrics: self.metrics.iter().map(|metric| metric.name).collect(), loss })
    }
}

impl Examined {
    /// Mean of each metric over the rows that `chosen` picks by index; none where it picks none.
    pub fn means(&self, chosen: impl Fn(usize) -> bool) -> Option<Vec<(&'static str, f64)>> {
        let rows: Vec<&Vec<f64>> =
            self.values.iter().enumerate().filter(|(index, _)| chosen(*index)).map(|(_, row)| row).collect();
        let mean = |metric: usize| rows.iter().map(|row| row[metric]).sum::<f64>() / rows.len() as f64;
        let all = || self.metrics.iter().enumerate().map(|(index, name)| (*name, mean(index))).collect();
        (!rows.is_empty()).then(all)
    }
}
