//! `quanta merge`: a plain model folder from a base and its adapter, verified before it appears.

use std::path::{Path, PathBuf};

use super::source::{Source, workspace};
use super::{ModelDtype, RunError};
use crate::adapter::Pass;
use crate::checkpoint::merge_into;
use crate::model::{Decoder, StoredAs, load};
use crate::ops::Batch;
use crate::tensor::{Stream, Workspace};
use crate::weights::{Dtype, Staging, TensorFiles};

/// What merging found.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// The merged folder.
    pub out: PathBuf,
    /// Sites whose weights changed.
    pub sites: usize,
    /// Type of the changed weights.
    pub dtype: Dtype,
    /// Largest difference of merged and adapted logits, relative to the largest adapted logit.
    pub difference: f64,
    /// Largest difference of adapted and base logits, by the same measure: what the adapter does.
    pub effect: f64,
    /// Differences up to this are explained by rounding.
    pub tolerance: f64,
}

/// Tokens of the probe on which logits are compared.
const PROBE: usize = 64;

/// Merges the run or adapter in `folder` into its base and writes the result to `out`, which must not exist.
///
/// The merged folder is loaded again and its logits are compared with the adapted model's; `out` appears only when they agree.
///
/// # Errors
/// When something cannot be read or written, there is no adapter, or the logits differ by more than rounding explains.
pub fn merge(
    folder: &Path,
    base: Option<&Path>,
    out: &Path,
    dtype: Option<Dtype>,
    threads: usize,
) -> Result<MergeReport, RunError> {
    Staging::refuse_existing(out)?;
    let source = Source::open(folder, base)?;
    if source.adapter.is_none() {
        return Err(RunError::Usage(format!(
            "{} is a model without an adapter: there is nothing to merge",
            folder.display()
        )));
    }
    let workspace = workspace::<f32>(threads)?;
    let probe = probe(&source);
    let before = {
        let model = load::<f32>(&source.base, StoredAs::File)?;
        logits(&model, &probe, &workspace)
    };
    let staging = Staging::create(out)?;
    let (adapted, sites, written) = {
        let model = source.load::<f32>(StoredAs::File)?;
        let adapted = logits(&model, &probe, &workspace);
        workspace.run(|| merge_into(&source.base, &model, dtype, staging.path()))?;
        let trained = model.trained();
        let names: std::collections::BTreeSet<&str> =
            trained.iter().map(|trained| trained.site.name.as_str()).collect();
        let first = names.first().map(|name| format!("{name}.weight")).unwrap_or_default();
        let written = TensorFiles::open_folder(staging.path())?.info(&first)?.dtype;
        (adapted, names.len(), written)
    };
    let merged = {
        let model = load::<f32>(staging.path(), ModelDtype::Auto.stored_as())?;
        logits(&model, &probe, &workspace)
    };
    let (difference, effect) = (relative(&merged, &adapted), relative(&before, &adapted));
    // f32 weights: rounding of some thousand terms; narrower ones: half a unit of 2^-8 or 2^-11 a weight, grown through the layers
    let tolerance = match written {
        Dtype::F64 | Dtype::F32 => 1e-3,
        Dtype::F16 => 2e-2,
        Dtype::Bf16 => 1e-1,
    };
    // an adapter whose whole effect is below the tolerance could be lost unseen: wide types leave no such room
    let wide = matches!(written, Dtype::F64 | Dtype::F32);
    let tolerance = if wide { f64::min(tolerance, (effect / 2.0).max(1e-5)) } else { tolerance };
    if difference.is_nan() || difference > tolerance {
        return Err(RunError::MergeDiffers { difference, tolerance });
    }
    staging.commit()?;
    Ok(MergeReport { out: out.to_owned(), sites, dtype: written, difference, effect, tolerance })
}

/// Random tokens, the same for every merge of a model.
fn probe(source: &Source) -> Batch {
    let mut stream = Stream::new(0, "probe", "merge");
    let length = PROBE.min(source.config.max_length);
    let tokens: Vec<u32> = (0..length).map(|_| stream.below(source.config.vocab_size as u64) as u32).collect();
    Batch::packed(&[&tokens], Vec::new())
}

fn logits(model: &Decoder<f32>, probe: &Batch, workspace: &Workspace<f32>) -> Vec<f32> {
    let rows: Vec<usize> = (0..probe.tokens.len()).collect();
    let pass = Pass { workspace, draw: None };
    if model.config().labels.is_some() {
        return workspace.run(|| model.outputs(probe, &pass).data().to_vec());
    }
    workspace.run(|| model.logits(probe, &rows, &pass).data().to_vec())
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    let scale = b.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let difference = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    // max would drop NaN
    difference.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) / scale
}
