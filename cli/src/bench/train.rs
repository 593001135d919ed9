//! `quanta bench train`: prints what training steps on random weights take, on random tokens or on real questions.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use quanta_tune::adapter::methods;
use quanta_tune::config::{Problems, apply_overrides};
use quanta_tune::run::RunError;
use quanta_tune::run::bench::{Layout, QuestionSource, Source, TrainBench, TrainTiming, train_bench};
use serde_json::{Map, Value, json};

use super::{ENGINE, Held};
use crate::text::grouped;

/// What `quanta bench train` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// The model's shape: tiny-288, smollm2-135m or llama2-7b-2l
    #[arg(long, default_value = "smollm2-135m", value_name = "NAME")]
    shape: String,
    /// The adapter on q and v: a method's name with its defaults, or `none` for the frozen model alone
    #[arg(long, default_value = methods()[0].name, value_name = "NAME")]
    adapter: String,
    /// How the weights are held
    #[arg(long, value_enum, default_value_t = Held::F32)]
    dtype: Held,
    /// Round rows to bf16 before they meet weights held as bf16
    #[arg(long)]
    rounded: bool,
    /// Samples of a micro-batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Micro-batches of a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    accumulate: u32,
    /// Mean length of the prompts, in tokens
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    mean_length: u32,
    /// A setting of the adapter, as its entry in a configuration has it, such as s=circuit
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Rows whose logits are computed: those that predict an answer, or all of them, with the same loss
    #[arg(long, value_enum, default_value_t = Rows::Answers)]
    labels: Rows,
    /// Fill samples up to the longest, and to a multiple of 8, instead of packing them
    #[arg(long)]
    padded: bool,
    /// Candidates of each prompt: the loss is that of choosing among them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..1000), conflicts_with_all = ["labels", "padded"], group = "candidates")]
    choices: Option<u32>,
    /// Repeat the prompt for each candidate instead of sharing it
    #[arg(long, requires = "candidates")]
    separate: bool,
    /// Train on the questions of this file or folder instead of random tokens, with the loss of choosing among each question's candidates
    #[arg(long, value_name = "PATH", group = "candidates", requires_all = ["task", "tokenizer"], conflicts_with_all = ["labels", "padded", "mean_length"])]
    data: Option<PathBuf>,
    /// The task whose rows they are
    #[arg(long, value_name = "NAME", requires = "data")]
    task: Option<String>,
    /// Folder with the tokenizer that encodes them
    #[arg(long, value_name = "DIR", requires = "data")]
    tokenizer: Option<PathBuf>,
    /// Steps that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before them
    #[arg(long, default_value_t = 1)]
    warmup: u32,
    /// Threads; 0: one for each processor
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Rows that the head computes.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rows {
    Answers,
    All,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    arguments.dtype.check_rounded(arguments.rounded)?;
    let problems = Problems::new();
    let mut settings = Map::new();
    apply_overrides(&mut settings, &arguments.settings, &problems);
    problems.check("--set").map_err(RunError::Config)?;
    let bench = TrainBench {
        shape: arguments.shape.clone(),
        adapter: arguments.adapter.clone(),
        bf16: arguments.dtype == Held::Bf16,
        rounded: arguments.rounded,
        batch: arguments.batch as usize,
        accumulate: arguments.accumulate as usize,
        steps: arguments.steps as usize,
        warmup: arguments.warmup as usize,
        source: source(arguments),
        settings,
        threads: arguments.threads,
    };
    let timing = train_bench(&bench)?;
    if arguments.json { print_json(arguments, &bench, &timing) } else { print_text(arguments, &bench, &timing) }
}

fn source(arguments: &Arguments) -> Source {
    let shared = !arguments.separate;
    if let (Some(path), Some(task), Some(tokenizer)) = (&arguments.data, &arguments.task, &arguments.tokenizer) {
        let (path, task, tokenizer) = (path.clone(), task.clone(), tokenizer.clone());
        return Source::Questions(QuestionSource { path, task, tokenizer, shared });
    }
    let layout = match arguments.choices {
        Some(candidates) => Layout::Choices { candidates: candidates as usize, shared },
        None => Layout::Answers { all_rows: arguments.labels == Rows::All, padded: arguments.padded },
    };
    Source::Random { mean_length: arguments.mean_length as usize, layout }
}

fn gflops(timing: &TrainTiming) -> f64 {
    1e-9 * timing.flops.total() * timing.tokens_per_second
}

/// The mean over steps; there is at least one.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn print_json(arguments: &Arguments, bench: &TrainBench, timing: &TrainTiming) -> Result<()> {
    let flops = timing.flops;
    let mut line = json!({
        "engine": ENGINE, "shape": bench.shape, "adapter": bench.adapter, "settings": bench.settings,
        "dtype": arguments.dtype.name(), "rounded": arguments.rounded,
        "threads": timing.threads, "batch": bench.batch, "accumulate": bench.accumulate,
        "labels": if arguments.labels == Rows::All { "all" } else { "answers" }, "padded": arguments.padded,
        "choices": arguments.choices, "separate": arguments.separate, "trainable": timing.trainable,
        "median_step_seconds": timing.median_step_seconds, "tokens_per_second": timing.tokens_per_second,
        "samples_per_second": timing.samples_per_second, "micro_batch_tokens": timing.micro_batch_tokens,
        "flops_per_token": {
            "forward": flops.forward, "backward": flops.backward, "head": flops.head, "adapter": flops.adapter,
            "total": flops.total(),
        },
        "gflops": gflops(timing), "peak_rss_mib": timing.peak_resident_bytes.map(|bytes| bytes >> 20),
        "losses": timing.losses,
    });
    if let (Some(line), Some(task)) = (line.as_object_mut(), &arguments.task) {
        let of_questions = [
            ("task", json!(task)),
            ("loss", json!(mean(&timing.losses))),
            ("gradient_norm", json!(mean(&timing.gradient_norms))),
            ("gradient_norms", json!(timing.gradient_norms)),
            ("tokens_per_example", json!(timing.tokens_per_sample)),
            ("seconds_per_example", json!(1.0 / timing.samples_per_second)),
        ];
        line.extend(of_questions.map(|(key, value): (&str, Value)| (key.to_owned(), value)));
    }
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

fn print_text(arguments: &Arguments, bench: &TrainBench, timing: &TrainTiming) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let TrainBench { shape, adapter, .. } = bench;
    let dtype = if arguments.rounded { "bf16, rounded rows" } else { arguments.dtype.name() };
    writeln!(out, "{shape} {adapter} {dtype}: {} trainable", grouped(timing.trainable))?;
    let (tokens, samples) = (timing.tokens_per_second, timing.samples_per_second);
    let step = timing.median_step_seconds;
    writeln!(out, "{step:.3} s a step, {tokens:.1} tokens/s, {samples:.2} samples/s")?;
    let flops = crate::text::flops(timing.flops.total() as u64);
    writeln!(out, "{flops} a token, {:.1} GFLOP/s", gflops(timing))?;
    if let Some(bytes) = timing.peak_resident_bytes {
        writeln!(out, "{} MiB at most", bytes >> 20)?;
    }
    if arguments.data.is_some() {
        let (each, seconds) = (timing.tokens_per_sample, 1.0 / samples);
        let (loss, norm) = (mean(&timing.losses), mean(&timing.gradient_norms));
        writeln!(out, "{each:.1} tokens and {seconds:.4} s an example, loss {loss:.6}, gradient norm {norm:.6}")?;
    }
    Ok(())
}
