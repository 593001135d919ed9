//! Every method against PEFT, transformers and plain PyTorch: adapter folders read, logits, ten training steps, the adapter written again, merging.
//!
//! Reads every case of `testdata/golden/methods`, and of `methods/` below `QUANTA_GOLDEN`; `scripts/golden_methods.py` made them and says what they hold.
//! With `QUANTA_WRITTEN` the adapters written stay in that folder. The suite names no method: what a case attaches stands in its `adapter/`. All
//! differences of all cases are reported at once.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use quanta_tune::checkpoint::{AdapterFolder, Change, merge_into, save_adapters};
use quanta_tune::model::{Attachment, Decoder, StoredAs, load, read_folder_config, resolve};
use quanta_tune::ops::Batch;
use quanta_tune::tensor::{Real, Workspace};
use quanta_tune::train::{AdamW, AdamWSettings, Schedule, Shape, Step, StepSettings};
use quanta_tune::weights::TensorFiles;
use serde_json::Value;
use support::golden::{Tokens, given_golden, logits, own_golden};

/// One folder of reference values.
struct Case {
    folder: PathBuf,
    facts: Value,
    values: TensorFiles,
    tokens: Tokens,
}

impl Case {
    fn open(folder: PathBuf) -> Self {
        let facts = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        let path = folder.join("golden.safetensors");
        Self { values: TensorFiles::open_file(&path).unwrap(), tokens: Tokens::read(&path), folder, facts }
    }

    fn base(&self) -> PathBuf {
        self.folder.join(self.facts["base"].as_str().unwrap())
    }

    fn numbers(&self, key: &str) -> Vec<f64> {
        self.facts[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn integer(&self, key: &str) -> usize {
        self.facts[key].as_u64().unwrap() as usize
    }

    fn is(&self, key: &str) -> bool {
        self.facts[key].as_bool().unwrap()
    }

    /// The base model with one of the case's adapters (`adapter`, `trained`), and what was attached.
    fn model<T: Real>(&self, part: &str) -> Result<(Decoder<T>, Vec<Attachment>), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{part}: {error}");
        let base = self.base();
        let adapter = AdapterFolder::open(&self.folder.join(part)).map_err(|e| failed(&e))?;
        let attachments = adapter.attachments();
        let config = read_folder_config(&base).map_err(|e| failed(&e))?;
        let chosen = resolve(&attachments, &config)
            .map_err(|errors| errors.iter().map(|e| failed(e)).collect::<Vec<_>>().join("; "))?;
        adapter.check(&config.attachable(), &chosen).map_err(|e| failed(&e))?;
        let mut model: Decoder<T> = load(&base, StoredAs::Compute).map_err(|e| failed(&e))?;
        let fill = |entry: usize, site: &_, parameters: &mut _| adapter.fill(entry, site, parameters);
        model.attach(&attachments, &chosen, 0, fill).map_err(|e| failed(&e))?;
        Ok((model, attachments))
    }

    /// What the case's adapter makes of the base's weights.
    fn change(&self) -> Result<Change, String> {
        let adapter = AdapterFolder::open(&self.folder.join("adapter")).map_err(|error| error.to_string())?;
        let config = read_folder_config(&self.base()).map_err(|error| error.to_string())?;
        let chosen = resolve(&adapter.attachments(), &config).map_err(|errors| format!("{errors:?}"))?;
        Change::new(adapter, &config.attachable(), &chosen).map_err(|error| error.to_string())
    }

    /// Takes all steps; losses and gradient norms.
    fn train<T: Real>(&self, model: &mut Decoder<T>, recompute: bool, workspace: &Workspace<T>) -> [Vec<f64>; 2] {
        let steps = self.integer("steps");
        let schedule = Schedule {
            peak: self.facts["lr"].as_f64().unwrap(),
            warmup_steps: self.integer("warmup_steps"),
            total_steps: steps,
            shape: Shape::Linear,
        };
        let settings = StepSettings { clip: self.facts["clip_grad_norm"].as_f64(), recompute, seed: 0 };
        let mut step = Step::new(settings, AdamW::new(AdamWSettings::default(), model), model);
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for index in 0..steps {
            let batches: Vec<Batch> = (0..self.integer("accumulation")).map(|m| self.tokens.batch(index, m)).collect();
            let report = step.take(model, &batches, index, schedule.rate(index), workspace).unwrap();
            losses.push(report.loss);
            norms.push(report.gradient_norm);
        }
        [losses, norms]
    }
}

/// All cases, here and given from outside.
fn cases() -> Vec<Case> {
    let mut folders: Vec<PathBuf> = [Some(own_golden()), given_golden()]
        .into_iter()
        .flatten()
        .filter_map(|golden| std::fs::read_dir(golden.join("methods")).ok())
        .flat_map(|entries| entries.map(|entry| entry.unwrap().path()))
        .filter(|path| path.join("golden.json").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "no golden case");
    folders.into_iter().map(Case::open).collect()
}

/// What differs in one case.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    /// Relative error max|a - b| / max|b| over the tensor.
    fn compare<T: Real>(&mut self, name: &str, got: &[T], expected: &[f64], tolerance: f64) {
        if got.len() != expected.len() {
            return self.0.push(format!("{name}: {} numbers instead of {}", got.len(), expected.len()));
        }
        let scale = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let error = |at: usize| (got[at].to_f64() - expected[at]).abs();
        let differs = |at: usize| error(at) > tolerance * scale || error(at).is_nan();
        let Some(first) = (0..got.len()).find(|&at| differs(at)) else { return };
        let worst = (0..got.len()).fold(first, |most, at| if error(at) > error(most) { at } else { most });
        let (a, b, relative) = (got[worst], expected[worst], error(worst) / scale);
        self.0.push(format!("{name}: element {worst} is {a} instead of {b}, relative error {relative:.1e}"));
    }

    /// The tensors of two adapter folders, entry by entry.
    fn compare_adapters(&mut self, got: &Path, expected: &Path, tolerance: f64) {
        let parts = |folder: &Path| -> Vec<PathBuf> {
            let numbered = (0..).map(|entry| folder.join(entry.to_string())).take_while(|part| part.is_dir());
            let parts: Vec<PathBuf> = numbered.collect();
            if parts.is_empty() { vec![folder.to_owned()] } else { parts }
        };
        let (ours, theirs) = (parts(got), parts(expected));
        if ours.len() != theirs.len() {
            return self.0.push(format!("{} entries written instead of {}", ours.len(), theirs.len()));
        }
        for (entry, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let open = |part: &Path| TensorFiles::open_file(&part.join("adapter_model.safetensors")).unwrap();
            let (ours, theirs) = (open(ours), open(theirs));
            let names = |files: &TensorFiles| files.names().map(str::to_owned).collect::<Vec<_>>();
            let (mut written, mut wanted) = (names(&ours), names(&theirs));
            written.sort();
            wanted.sort();
            if written != wanted {
                self.0.push(format!("entry {entry}: {written:?} written instead of {wanted:?}"));
                continue;
            }
            for name in names(&theirs) {
                if ours.info(&name).unwrap().shape != theirs.info(&name).unwrap().shape {
                    self.0.push(format!("entry {entry}: {name} has another shape"));
                    continue;
                }
                let (a, b): (Vec<f64>, Vec<f64>) = (ours.read(&name).unwrap(), theirs.read(&name).unwrap());
                self.compare(&format!("entry {entry}, {name}"), &a, &b, tolerance);
            }
        }
    }
}

/// Runs `judge` on every case and fails with all that differs.
fn judge_all(judge: impl Fn(&Case, &mut Differences) -> Result<(), String>) {
    let (mut complaints, mut count, mut failed) = (Vec::new(), 0, 0);
    for case in cases() {
        let name = case.folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut differences = Differences::default();
        // a panic is the case's failure, not the end of the walk
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&case, &mut differences)));
        if let Err(reason) = judged.unwrap_or_else(|_| Err("panicked, see above".to_owned())) {
            differences.0.push(reason);
        }
        count += 1;
        failed += usize::from(!differences.0.is_empty());
        complaints.extend(differences.0.iter().map(|difference| format!("{name}: {difference}")));
    }
    assert!(complaints.is_empty(), "{failed} of {count} cases differ:\n{}", complaints.join("\n"));
}

/// Adam's division by the root of the second moment lets rounding grow from the losses' 1e-15 to the parameters' 1e-12; any wrong term is far above.
fn ten_steps(case: &Case, recompute: bool, differences: &mut Differences) -> Result<(), String> {
    let workspace = Workspace::<f64>::new(2).unwrap();
    let values = |name: &str| case.values.read::<f64>(name).unwrap();
    let batch = case.tokens.batch(0, 0);
    let plain: Decoder<f64> = load(&case.base(), StoredAs::Compute).map_err(|error| error.to_string())?;
    differences.compare("base logits", &logits(&plain, &batch, &workspace), &values("base_logits"), 1e-9);
    let (mut model, attachments) = case.model::<f64>("adapter")?;
    differences.compare("first logits", &logits(&model, &batch, &workspace), &values("first_logits"), 1e-9);
    let (trained, _) = case.model::<f64>("trained")?;
    differences.compare("logits of `trained`", &logits(&trained, &batch, &workspace), &values("final_logits"), 1e-9);
    // a prefix computed from other parameters trains by those, and the folder holds the result alone
    if !case.is("trains_from_adapter") {
        return Ok(());
    }
    let [losses, norms] = case.train(&mut model, recompute, &workspace);
    differences.compare("losses", &losses, &case.numbers("losses"), 1e-9);
    differences.compare("gradient norms", &norms, &case.numbers("grad_norms_before_clip"), 1e-8);
    differences.compare("final logits", &logits(&model, &batch, &workspace), &values("final_logits"), 1e-7);
    let out = tempfile::tempdir().unwrap();
    // kept where asked for, so that another program can read what this one wrote (scripts/check_peft.py)
    let kept = std::env::var_os("QUANTA_WRITTEN").map(PathBuf::from);
    let written = kept.unwrap_or_else(|| out.path().to_owned()).join(case.folder.file_name().unwrap());
    save_adapters(&written, &model, &attachments, "base").map_err(|error| error.to_string())?;
    differences.compare_adapters(&written, &case.folder.join("trained"), 1e-7);
    Ok(())
}

#[test]
fn ten_steps_equal_the_reference() {
    judge_all(|case, differences| ten_steps(case, false, differences));
}

#[test]
fn recomputing_layers_changes_nothing() {
    judge_all(|case, differences| ten_steps(case, true, differences));
}

/// The reference itself is within 2e-6 (logits) and 3e-7 (losses) of its own values in f64.
#[test]
fn in_f32_the_reference_is_met_to_rounding() {
    judge_all(|case, differences| {
        let workspace = Workspace::<f32>::new(2).unwrap();
        let (mut model, _) = case.model::<f32>("adapter")?;
        let first = case.values.read::<f64>("first_logits_f32").unwrap();
        differences.compare("first logits", &logits(&model, &case.tokens.batch(0, 0), &workspace), &first, 1e-4);
        if case.is("trains_from_adapter") {
            let [losses, _] = case.train(&mut model, false, &workspace);
            differences.compare("losses", &losses, &case.numbers("losses_f32"), 1e-3);
        }
        Ok(())
    });
}

#[test]
fn what_starts_at_the_base_starts_there() {
    judge_all(|case, differences| {
        if case.is("start") {
            let workspace = Workspace::<f64>::new(2).unwrap();
            let (model, _) = case.model::<f64>("adapter")?;
            let base = case.values.read::<f64>("base_logits").unwrap();
            differences.compare("first logits", &logits(&model, &case.tokens.batch(0, 0), &workspace), &base, 1e-12);
        }
        Ok(())
    });
}

#[test]
fn merged_weights_equal_the_reference_or_are_refused() {
    judge_all(|case, differences| {
        if !case.is("mergeable") {
            case.model::<f64>("adapter")?;
            return match case.change() {
                Ok(_) => Err("is no matrix, and was not refused".to_owned()),
                Err(_) => Ok(()),
            };
        }
        let out = tempfile::tempdir().unwrap();
        let workspace = Workspace::<f64>::new(2).unwrap();
        let change = case.change()?;
        workspace
            .run(|| merge_into(&case.base(), &[(1.0, change)], None, out.path()))
            .map_err(|error| error.to_string())?;
        let merged = TensorFiles::open_folder(out.path()).unwrap();
        let names: Vec<&str> = case.values.names().filter_map(|name| name.strip_prefix("merged.")).collect();
        if names.is_empty() {
            return Err("no merged weight in the case".to_owned());
        }
        for name in names {
            let got: Vec<f64> = merged.read(&format!("{name}.weight")).map_err(|error| error.to_string())?;
            let expected = case.values.read::<f64>(&format!("merged.{name}")).unwrap();
            differences.compare(&format!("merged {name}"), &got, &expected, 1e-9);
        }
        let batch = case.tokens.batch(0, 0);
        let plain: Decoder<f64> = load(out.path(), StoredAs::Compute).map_err(|error| error.to_string())?;
        let first = case.values.read::<f64>("first_logits").unwrap();
        differences.compare("logits of the merged model", &logits(&plain, &batch, &workspace), &first, 1e-9);
        Ok(())
    });
}
