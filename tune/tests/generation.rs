//! Generation against its definition: the whole sequence run again for every token by `Decoder::logits`, each prompt alone.
//!
//! Covers kept keys and values behind trees and across pages, adapters, batches that sequences enter and leave, shared beginnings, sampling, threads, and
//! why sequences end.

mod support;

use quanta_tune::adapter::Pass;
use quanta_tune::eval::{Finish, GenerateError, GenerateOptions, Generated, Sampling, generate};
use quanta_tune::model::{Continuation, Decoder, StoredAs, cache_bytes, load};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Real, Stream, Workspace};
use quanta_tune::weights::Dtype;
use serde_json::{Value, json};
use support::forest::Forest;
use support::{
    assert_close, assert_same_bits, attach, attachment, decoder_configs, llama_config, logits, method, mistral_config,
    perturb, qwen2_config,
};

/// A random model with both methods attached and moved away from their start.
fn model<T: Real>(config: &Value) -> Decoder<T> {
    let folder = support::random_folder(config, Dtype::F64);
    let mut model: Decoder<T> = load(folder.path(), StoredAs::Compute).unwrap();
    let dims = if model.config().hidden_size == 96 { [8, 4, 3] } else { [4, 3, 2] };
    let entries = [
        attachment(method("quanta", &json!({ "dims": dims, "s": "circuit" })), &["q_proj", "v_proj"], None),
        attachment(method("lora", &json!({ "r": 2 })), &["k_proj", "down_proj", "v_proj"], None),
    ];
    attach(&mut model, &entries, 7);
    perturb(&mut model, 0.2, |_| true);
    model
}

/// Logits behind the last token of a sequence that is run whole.
fn last_logits<T: Real>(model: &Decoder<T>, tokens: &[u32], workspace: &Workspace<T>) -> Vec<T> {
    let batch = Batch::packed(&[tokens], Vec::new());
    let pass = Pass { workspace, draw: None };
    workspace.run(|| model.logits(&batch, &[tokens.len() - 1], &pass).data().to_vec())
}

fn random_tokens(count: usize, vocabulary: usize, name: &str) -> Vec<u32> {
    let mut stream = Stream::new(8, "test", name);
    (0..count).map(|_| stream.below(vocabulary as u64) as u32).collect()
}

/// The tokens on the path to a segment.
fn path(batch: &Batch, segment: usize) -> Vec<u32> {
    let own = batch.segments.list()[segment].range();
    batch.segments.ancestors(segment).into_iter().chain([own]).flat_map(|range| batch.tokens[range].to_vec()).collect()
}

#[test]
fn kept_keys_and_values_give_the_logits_of_the_whole_sequence() {
    for config in decoder_configs() {
        let (model, workspace) = (model::<f64>(&config), Workspace::new(2).unwrap());
        let (pass, vocabulary) = (Pass { workspace: &workspace, draw: None }, model.config().vocab_size);
        let batch = Forest::new(vocabulary as u32).batch();
        let rows: Vec<usize> = (0..batch.tokens.len()).collect();
        let (prefix, first) = workspace.run(|| model.prefill(&batch, &rows, &pass));
        assert_close("prefill", first.data(), &logits(&model, &batch, &workspace), 1e-12);

        // leaves, inner segments, a root, and two sequences behind the same segment
        let segments = [2, 3, 3, 4, 1, 6, 9, 0];
        let mut texts: Vec<Vec<u32>> = segments.iter().map(|&segment| path(&batch, segment)).collect();
        let mut live: Vec<_> = segments.iter().map(|&segment| prefix.continuation(segment)).collect();
        for step in 0..36 {
            // finished sequences leave from the front, the middle and the end
            if let Some(index) = [(5, 0), (17, 3), (18, 5)].iter().find(|(at, _)| *at == step).map(|(_, index)| *index)
            {
                texts.remove(index);
                live.remove(index);
            }
            let next = random_tokens(live.len(), vocabulary, &format!("step {step}"));
            texts.iter_mut().zip(&next).for_each(|(text, &token)| text.push(token));
            let got = workspace.run(|| model.step(&mut live, &next, &pass));
            assert_eq!((got.rows(), got.cols()), (live.len(), vocabulary));
            for (row, text) in texts.iter().enumerate() {
                let name = format!("step {step}, sequence {row}");
                assert_close(&name, got.row(row), &last_logits(&model, text, &workspace), 1e-12);
            }
        }
        assert!(live.iter().zip(&texts).all(|(live, text)| live.tokens() == text.len()));
        let held = prefix.bytes() + live.iter().map(Continuation::bytes).sum::<usize>();
        assert_eq!(cache_bytes(model.config(), batch.tokens.len(), live.len(), 36, 8), held as u64);
    }
}

/// Every prompt alone, every token from the whole sequence.
fn by_definition<T: Real>(
    model: &Decoder<T>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    workspace: &Workspace<T>,
    stop: impl Fn(usize, &[u32]) -> bool,
) -> Vec<Generated> {
    let one = |(index, prompt): (usize, &Vec<u32>)| {
        let (mut text, mut tokens) = (prompt.clone(), Vec::new());
        while tokens.len() < options.max_new_tokens && text.len() < model.config().max_length {
            let logits = last_logits(model, &text, workspace);
            let token = options.sampling.choose(&logits, index, tokens.len()).unwrap();
            if options.end_tokens.contains(&token) {
                return Generated { tokens, finish: Finish::Eos };
            }
            tokens.push(token);
            text.push(token);
            if stop(index, &tokens) {
                return Generated { tokens, finish: Finish::Stop };
            }
        }
        Generated { tokens, finish: Finish::Length }
    };
    prompts.iter().enumerate().map(one).collect()
}

/// Prompts of many lengths: alone, with a common beginning, equal, one the beginning of another, one as long as the model allows.
fn prompts(vocabulary: usize) -> Vec<Vec<u32>> {
    let tokens = |count, name: &str| random_tokens(count, vocabulary, name);
    let passage = tokens(25, "passage");
    let question = |name: &str, count| [&passage[..], &tokens(count, name)].concat();
    let mut prompts = vec![tokens(1, "one"), tokens(9, "nine"), question("a", 5), question("b", 17), passage.clone()];
    prompts.extend([question("c", 1), question("c", 1), [question("b", 17), tokens(3, "more")].concat()]);
    prompts.extend([tokens(60, "long"), tokens(64, "full"), tokens(2, "two"), question("d", 2)]);
    prompts
}

fn sampled() -> Sampling {
    Sampling { temperature: 1.3, top_k: Some(12), top_p: 0.95, seed: 4 }
}

#[test]
fn batches_with_shared_beginnings_say_what_each_prompt_says_alone() {
    for config in [llama_config(), qwen2_config(), mistral_config()] {
        let (model, workspace) = (model::<f64>(&config), Workspace::new(2).unwrap());
        let prompts = prompts(model.config().vocab_size);
        for sampling in [Sampling::default(), sampled()] {
            let base = GenerateOptions { max_new_tokens: 20, sampling, end_tokens: vec![4, 11], ..Default::default() };
            let stop = |_: usize, tokens: &[u32]| tokens.ends_with(&[2]);
            let expected = by_definition(&model, &prompts, &base, &workspace, stop);
            for (sequences, prompt_tokens) in [(64, 8192), (64, 1), (3, 40), (1, 8192), (5, 100)] {
                let options = GenerateOptions { sequences, prompt_tokens, ..base.clone() };
                let got = generate(&model, &prompts, &options, &workspace, stop).unwrap();
                assert_eq!(got, expected, "{sequences} sequences, {prompt_tokens} prompt tokens");
            }
            assert_eq!((&expected[9].tokens, expected[9].finish), (&Vec::new(), Finish::Length), "there is no room");
            assert!(expected[8].tokens.len() <= 4, "four tokens fill the model's length");
            let of = |finish| expected.iter().filter(|generated| generated.finish == finish).count();
            if sampling == sampled() {
                assert!(of(Finish::Eos) > 0 && of(Finish::Stop) > 0 && of(Finish::Length) > 1, "{expected:?}");
            }
        }
    }
}

#[test]
fn the_stop_rule_sees_every_new_token_once() {
    let (model, workspace) = (model::<f64>(&llama_config()), Workspace::new(1).unwrap());
    let prompts = prompts(29);
    let options = GenerateOptions { max_new_tokens: 6, sequences: 4, ..Default::default() };
    let mut seen: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let got = generate(&model, &prompts, &options, &workspace, |sequence, tokens| {
        assert_eq!(tokens.len(), seen[sequence].len() + 1);
        seen[sequence].push(tokens[tokens.len() - 1]);
        tokens.len() == 1 + sequence % 5
    });
    let got = got.unwrap();
    assert!(got.iter().zip(&seen).all(|(got, seen)| got.tokens == *seen));
    for (sequence, got) in got.iter().enumerate().filter(|(sequence, _)| ![8, 9].contains(sequence)) {
        assert_eq!((got.tokens.len(), got.finish), (1 + sequence % 5, Finish::Stop));
    }
}

#[test]
fn seeds_name_what_is_drawn() {
    let (model, workspace) = (model::<f32>(&llama_config()), Workspace::new(2).unwrap());
    let prompts = vec![random_tokens(5, 29, "same"); 6];
    let run = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Default::default() };
        let options = GenerateOptions { max_new_tokens: 12, sampling, ..Default::default() };
        generate(&model, &prompts, &options, &workspace, |_, _| false).unwrap()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    assert!(first[1..].iter().all(|other| *other != first[0]), "equal prompts draw for themselves");
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let config = json!({
        "model_type": "llama", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 1200, "rms_norm_eps": 1e-5, "max_position_embeddings": 512,
    });
    let model = model::<f32>(&config);
    let prompts: Vec<Vec<u32>> = (0..40).map(|i| random_tokens(3 + 7 * i, 1200, &format!("{i}"))).collect();
    let run = |threads: usize| {
        let workspace = Workspace::new(threads).unwrap();
        let pass = Pass { workspace: &workspace, draw: None };
        let slices: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let logits = workspace.run(|| {
            let batch = Batch::packed(&slices, Vec::new());
            let (prefix, _) = model.prefill(&batch, &[0], &pass);
            let mut live: Vec<_> = (0..prompts.len()).map(|segment| prefix.continuation(segment)).collect();
            let mut steps = (0..3).map(|_| model.step(&mut live, &vec![17; prompts.len()], &pass).data().to_vec());
            [steps.next().unwrap(), steps.next().unwrap(), steps.next().unwrap()].concat()
        });
        let options = GenerateOptions { max_new_tokens: 20, sampling: sampled(), sequences: 16, ..Default::default() };
        (logits, generate(&model, &prompts, &options, &workspace, |_, _| false).unwrap())
    };
    let (logits, texts) = run(1);
    for threads in [2, 3, 4] {
        let (other, other_texts) = run(threads);
        assert_same_bits(&format!("{threads} threads"), &other, &logits);
        assert_eq!(other_texts, texts, "{threads} threads");
    }
}

#[test]
fn settings_and_prompts_that_mean_nothing_are_refused() {
    let (model, workspace) = (model::<f32>(&llama_config()), Workspace::new(1).unwrap());
    let refuse = |options: GenerateOptions, prompt: &[u32]| {
        let prompts = [vec![1, 2], prompt.to_vec()];
        generate(&model, &prompts, &options, &workspace, |_, _| false).unwrap_err()
    };
    let plain = GenerateOptions::default();
    let with = |sampling| GenerateOptions { sampling, ..plain.clone() };
    for temperature in [-0.1, f64::NAN, f64::INFINITY] {
        let error = refuse(with(Sampling { temperature, ..Sampling::default() }), &[1]);
        assert!(matches!(error, GenerateError::Temperature { .. }) && error.is_usage());
    }
    for top_p in [0.0, 1.1, f64::NAN] {
        let error = refuse(with(Sampling { top_p, ..Sampling::default() }), &[1]);
        assert!(matches!(error, GenerateError::TopP { .. }) && error.is_usage());
    }
    let zeros = [
        with(Sampling { top_k: Some(0), ..Sampling::default() }),
        GenerateOptions { max_new_tokens: 0, ..plain.clone() },
        GenerateOptions { sequences: 0, ..plain.clone() },
    ];
    for options in zeros {
        assert!(matches!(refuse(options, &[1]), GenerateError::Zero { .. }));
    }
    assert!(matches!(refuse(plain.clone(), &[]), GenerateError::Empty { prompt: 2 }));
    assert!(matches!(refuse(plain.clone(), &[28, 29]), GenerateError::Vocabulary { prompt: 2, token: 29, .. }));
    assert!(matches!(refuse(plain, &[1; 65]), GenerateError::TooLong { prompt: 2, tokens: 65, max_length: 64 }));
}

#[test]
fn a_model_without_numbers_is_an_error() {
    let folder = support::random_folder(&llama_config(), Dtype::F32);
    let mut model: Decoder<f32> = load(folder.path(), StoredAs::Compute).unwrap();
    attach(&mut model, &[attachment(method("lora", &json!({ "r": 1 })), &["q_proj"], Some(&[0]))], 1);
    for linear in model.linears_mut() {
        linear.attached_mut().iter_mut().for_each(|a| a.adapter.parameters_mut().trainable_mut().fill(f32::NAN));
    }
    let workspace = Workspace::new(1).unwrap();
    let error = generate(&model, &[vec![1, 2]], &GenerateOptions::default(), &workspace, |_, _| false).unwrap_err();
    assert!(matches!(error, GenerateError::NotFinite { prompt: 1, position: 0 }) && !error.is_usage());
}
