//! How a task's rows are answered and measured under a configuration: the same for validation while training and for `quanta eval`.

use super::{RunConfig, RunError};
use crate::data::dataset::Part;
use crate::data::encode::{Options, encode_prompt};
use crate::data::metric::Metric;
use crate::data::objective::Objective;
use crate::data::question::Question;
use crate::data::task::Task;
use crate::data::tokenizer::Tokenizer;
use crate::data::whole::answered;
use crate::eval::{Answering, Examination, GenerateOptions, StopRule};
use crate::model::ModelConfig;

/// Tokens run in one batch: enough to keep the products busy.
const BATCH_TOKENS: usize = 4096;

/// How answers are generated and measured, where the task does not say.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Metrics by name; none: the task's.
    pub metrics: Option<Vec<&'static Metric>>,
    /// Most tokens of an answer; none: the task's number.
    pub max_new_tokens: Option<usize>,
    /// What ends an answer; none: the task's rule.
    pub rule: Option<StopRule>,
}

/// The examination that validates a run; none where the task has no metric or the configuration goes by the loss. An encoder is always examined: its loss is
/// that of its answers.
///
/// # Errors
/// When a prompt cannot be encoded.
pub fn examination(
    config: &RunConfig,
    model: &ModelConfig,
    part: &Part,
    tokenizer: &Tokenizer,
) -> Result<Option<Examination>, RunError> {
    let data = config.data()?;
    let mut answers = Answers { max_new_tokens: Some(data.max_new_tokens), ..data.answers.clone() };
    if config.best_by_loss {
        answers.metrics = Some(Vec::new());
    }
    build(data.task, data.objective, part, &answers, data.options, model, tokenizer)
}

/// The examination of rows: by the head of an encoder under its objectives, else by candidates where every row has some, else by generation; none without a
/// metric but for an encoder.
///
/// # Errors
/// When a prompt cannot be encoded.
pub fn build(
    task: &Task,
    objective: Objective,
    part: &Part,
    answers: &Answers,
    options: Options,
    model: &ModelConfig,
    tokenizer: &Tokenizer,
) -> Result<Option<Examination>, RunError> {
    let metrics = answers.metrics.clone().unwrap_or_else(|| task.metrics_for(&part.examples));
    if part.examples.is_empty() || (metrics.is_empty() && !objective.is_of_whole_rows()) {
        return Ok(None);
    }
    let whole = answered(&part.examples, &part.encoded, objective);
    let answering = if let Some(rows) = whole {
        Answering::Whole(rows)
    } else if has_candidates(part) {
        Answering::Choose(Question::all(&part.examples, &part.candidates))
    } else {
        let max_new_tokens = answers.max_new_tokens.unwrap_or(task.max_new_tokens);
        let room = options.max_length.min(model.max_length).saturating_sub(max_new_tokens).max(1);
        let options = Options { max_length: room, ..options };
        let encode = |row| encode_prompt(row, task.form, tokenizer, &options).map(|(tokens, _)| tokens);
        let prompts: Result<_, _> = part.examples.iter().map(|row| encode(row.prompt.as_str())).collect();
        let default = if task.stops_at_newline { StopRule::Newline } else { StopRule::None };
        let generate = GenerateOptions {
            max_new_tokens,
            end_tokens: tokenizer.end_tokens().to_vec(),
            ..GenerateOptions::default()
        };
        let rule = answers.rule.unwrap_or(default);
        Answering::Generate { prompts: prompts.map_err(RunError::Prompt)?, rule, options: generate }
    };
    Ok(Some(Examination { examples: part.examples.clone(), answering, metrics, batch_tokens: BATCH_TOKENS }))
}

fn has_candidates(part: &Part) -> bool {
    !part.candidates.is_empty() && part.candidates.iter().all(|candidates| !candidates.is_empty())
}
