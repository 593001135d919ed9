//! Measuring a model on rows: a prediction for each, by choosing among candidates, by generating, or by the head of an encoder, and every metric over them.

use super::choose::choose;
use super::classify::judge;
use super::generate::{GenerateError, GenerateOptions};
use super::text::{StopRule, generate_texts};
use crate::data::example::Example;
use crate::data::metric::Metric;
use crate::data::question::Question;
use crate::data::tokenizer::Tokenizer;
use crate::model::Decoder;
use crate::ops::choice::best;
use crate::ops::target::Answer;
use crate::tensor::{Real, Workspace};

/// How predictions are made.
#[derive(Clone, Debug)]
pub enum Answering {
    /// The candidate with the highest mean log-probability.
    Choose(Vec<Question>),
    /// What an encoder's head gives for each row: the candidate of the largest output, or the output itself.
    Whole(Vec<(Vec<u32>, Answer)>),
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
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// The prediction for each row.
    pub predictions: Vec<String>,
    /// For each row the value of each metric; NaN of a metric that only rows together have.
    pub values: Vec<Vec<f64>>,
    /// The metrics.
    pub metrics: Vec<&'static Metric>,
    /// Mean loss of the choices or of the head's answers; none of generated ones.
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
            Answering::Whole(rows) => {
                let (outputs, loss) = judge(model, rows, self.batch_tokens, workspace);
                let predictions =
                    outputs.iter().zip(rows).zip(&self.examples).map(|((outputs, (_, answer)), row)| match answer {
                        Answer::Class(_) => row.candidates.get(best(outputs)).cloned().unwrap_or_default(),
                        Answer::Number(_) => outputs[0].to_string(),
                    });
                (predictions.collect(), Some(loss))
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
        Ok(Examined { predictions, values, metrics: self.metrics.clone(), loss })
    }
}

impl Examined {
    /// Each metric over the rows that `chosen` picks by index; `examples` are those examined. None where it picks none.
    pub fn means(&self, examples: &[Example], chosen: impl Fn(usize) -> bool) -> Option<Vec<(&'static str, f64)>> {
        let all = self.predictions.iter().map(String::as_str).zip(examples).enumerate();
        let rows: Vec<(&str, &Example)> = all.filter(|(index, _)| chosen(*index)).map(|(_, row)| row).collect();
        let over = || self.metrics.iter().map(|metric| (metric.name, metric.over(&rows))).collect();
        (!rows.is_empty()).then(over)
    }
}
