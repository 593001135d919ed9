//! `train.batch_tokens`: a step's samples packed by their lengths give the loss and the gradients of micro-batches counted by samples, in f64, under both
//! objectives of a decoder and both weightings; with dropout the same settings give the same bits.

mod support;

use quanta_tune::adapter::{Draw, Gradients, Pass};
use quanta_tune::data::batch::Weighting;
use quanta_tune::data::example::Encoded;
use quanta_tune::data::question::Question;
use quanta_tune::data::samples::Samples;
use quanta_tune::model::{Decoder, StoredAs, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Stream, Workspace};
use quanta_tune::train::{AdamWSettings, FitSettings, Length, Shape};
use quanta_tune::weights::Dtype;
use serde_json::json;
use support::{assert_close, assert_same_bits, attach, attachment, llama_config, method, perturb, random_folder};

fn settings(batch_tokens: Option<usize>, weighting: Weighting) -> FitSettings {
    FitSettings {
        batch: 3,
        accumulate: 4,
        batch_tokens,
        length: Length::Epochs(1.0),
        lr: 1e-3,
        warmup_steps: 0,
        schedule: Shape::Constant,
        eval_every: None,
        checkpoint_every: None,
        patience: None,
        weighting,
        adamw: AdamWSettings::default(),
        clip: None,
        recompute: false,
        seed: 3,
    }
}

fn model(dropout: f64) -> Decoder<f64> {
    let folder = random_folder(&llama_config(), Dtype::F64);
    let mut model = load(folder.path(), StoredAs::Compute).unwrap();
    let circuit = method("quanta", &json!({ "dims": [4, 3, 2], "dropout": dropout }));
    let lora = method("lora", &json!({ "r": 2, "dropout": dropout }));
    attach(&mut model, &[attachment(circuit, &["q_proj", "v_proj"], None), attachment(lora, &["up_proj"], None)], 7);
    perturb(&mut model, 0.2, |_| true);
    model
}

/// Sequences of 2 to 40 tokens, and questions whose candidates share that much.
fn samples() -> [Samples; 2] {
    let mut stream = Stream::new(11, "test", "samples");
    let tokens =
        |stream: &mut Stream, count: u64| -> Vec<u32> { (0..count).map(|_| stream.below(29) as u32).collect() };
    let prompts: Vec<Vec<u32>> = (0..29)
        .map(|_| {
            let length = 1 + stream.below(39);
            tokens(&mut stream, length)
        })
        .collect();
    let behind = |stream: &mut Stream, prompt: &Vec<u32>| {
        let length = 1 + stream.below(3);
        let own = tokens(stream, length);
        Encoded::with_tail([prompt.clone(), own.clone()].concat(), own.len(), false)
    };
    let sequences = prompts.iter().map(|prompt| behind(&mut stream, prompt)).collect();
    let question = |(gold, prompt): (usize, &Vec<u32>)| Question {
        candidates: (0..3).map(|_| behind(&mut stream, prompt)).collect(),
        gold: gold % 3,
    };
    [Samples::Sequences(sequences), Samples::Questions(prompts.iter().enumerate().map(question).collect())]
}

/// Loss and gradients of a step, divided once.
fn step(model: &Decoder<f64>, batches: &[Batch], draw: bool) -> (f64, Gradients<f64>) {
    let workspace = Workspace::new(2).unwrap();
    let mut gradients = model.gradients();
    let mut loss = 0.0;
    for (micro_batch, batch) in batches.iter().enumerate() {
        let draw = draw.then_some(Draw { seed: 3, step: 1, micro_batch });
        let pass = Pass { workspace: &workspace, draw };
        loss += workspace.run(|| model.train(batch, false, &mut gradients, &pass)).loss;
    }
    let weight: f64 = batches.iter().map(Batch::weight).sum();
    gradients.scale(1.0 / weight);
    (loss / weight, gradients)
}

#[test]
fn a_step_is_the_same_however_its_samples_are_packed() {
    let model = model(0.0);
    for samples in samples() {
        for weighting in [Weighting::Token, Weighting::Sample] {
            let plain = settings(None, weighting);
            for index in 0..plain.steps_per_epoch(samples.len()) {
                let order = plain.order(&samples, index);
                let batches = plain.micro_batches(&samples, &order, index);
                let (loss, gradients) = step(&model, &batches, false);
                for budget in [1, 45, 130, 100_000] {
                    let by_tokens = settings(Some(budget), weighting);
                    assert_eq!(by_tokens.order(&samples, index), order);
                    let packed = by_tokens.micro_batches(&samples, &order, index);
                    let label = format!("{weighting:?}, {budget} tokens, step {index}");
                    check(&samples, &by_tokens, &batches, &packed, &label);
                    let (same, sums) = step(&model, &packed, false);
                    assert_close(&label, &[same], &[loss], 1e-12);
                    for slot in 0..sums.slots() {
                        assert_close(&label, sums.slot(slot), gradients.slot(slot), 1e-12);
                    }
                }
            }
        }
    }
}

/// As many tokens and samples, within the budget, and within what memory is counted for.
fn check(samples: &Samples, settings: &FitSettings, plain: &[Batch], packed: &[Batch], label: &str) {
    let all = |batches: &[Batch], of: fn(&Batch) -> usize| batches.iter().map(of).sum::<usize>();
    assert_eq!(all(packed, |batch| batch.tokens.len()), all(plain, |batch| batch.tokens.len()), "{label}");
    assert_eq!(all(packed, roots), all(plain, roots), "{label}");
    assert_eq!(all(packed, |batch| batch.labels.len()), all(plain, |batch| batch.labels.len()), "{label}");
    let (most, budget) = (settings.largest_micro_batch(samples), settings.batch_tokens.unwrap());
    for batch in packed {
        assert!(batch.tokens.len() <= budget || roots(batch) == 1, "{label}: {} tokens", batch.tokens.len());
        assert!(batch.tokens.len() <= most.tokens && batch.labels.len() <= most.labels, "{label}: {most:?}");
    }
    assert!(packed.len() <= roots_of(plain) && (budget < 100_000 || packed.len() == 1), "{label}");
}

/// Samples of a batch: each begins at position 0 once.
fn roots(batch: &Batch) -> usize {
    batch.segments.positions().iter().filter(|&&position| position == 0).count()
}

fn roots_of(batches: &[Batch]) -> usize {
    batches.iter().map(roots).sum()
}

#[test]
fn dropout_draws_the_same_bits_for_the_same_settings() {
    let model = model(0.3);
    for samples in samples() {
        let take = |budget| {
            let settings = settings(Some(budget), Weighting::Token);
            step(&model, &settings.micro_batches(&samples, &settings.order(&samples, 1), 1), true)
        };
        let ((loss, gradients), (again, same)) = (take(60), take(60));
        assert_eq!(loss.to_bits(), again.to_bits());
        for slot in 0..same.slots() {
            assert_same_bits("gradients", same.slot(slot), gradients.slot(slot));
        }
        assert!(take(61).0.is_finite() && loss.is_finite());
    }
}
