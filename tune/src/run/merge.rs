//! `quanta merge`: a plain model folder from a base and its adapters, verified before it appears.

use std::path::{Path, PathBuf};

use super::source::{Source, workspace};
use super::{ModelDtype, RunError};
use crate::adapter::Pass;
use crate::checkpoint::{Change, merge_into};
use crate::model::{Decoder, FileNames, ModelConfig, StoredAs, WantedHead, load, load_with_head};
use crate::ops::{Batch, Storage, Weight};
use crate::tensor::{Stream, Workspace};
use crate::weights::{Dtype, Staging, TensorFiles};

/// What merging found.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// The merged folder.
    pub out: PathBuf,
    /// Modules whose weights changed.
    pub sites: usize,
    /// Type of the changed weights.
    pub dtype: Dtype,
    /// What was compared: logits of one adapter, or each site's output of several.
    pub compared: &'static str,
    /// Largest difference between merged and adapted, relative to the largest adapted value.
    pub difference: f64,
    /// Largest difference of adapted and base, by the same measure: what the adapters do.
    pub effect: f64,
    /// Differences up to this are explained by rounding.
    pub tolerance: f64,
}

/// Tokens of the probe on which logits, or outputs of sites, are compared.
const PROBE: usize = 64;

/// Merges the runs or adapters in `folders`, each times its factor, into their base and writes the result to `out`, which must not exist.
///
/// The merged folder is read again and compared with the adapters beside the base: for one adapter the model's logits, for several each site's output, in which
/// every adapter's forward pass counts by its factor. `out` appears only when they agree.
///
/// # Errors
/// When something cannot be read or written, there is no adapter, adapters have different bases, or more differs than rounding explains.
pub fn merge(
    folders: &[(PathBuf, f64)],
    base: Option<&Path>,
    out: &Path,
    dtype: Option<Dtype>,
    threads: usize,
) -> Result<MergeReport, RunError> {
    Staging::refuse_existing(out)?;
    let sources = open(folders, base)?;
    let Some(first) = sources.first() else {
        return Err(RunError::Usage("name at least one run or adapter to merge".to_owned()));
    };
    let (base, workspace) = (&first.base, workspace::<f32>(threads)?);
    let changes: Vec<(f64, Change)> = sources
        .iter()
        .zip(folders)
        .map(|(source, (_, factor))| Ok((*factor, source.change()?)))
        .collect::<Result<_, RunError>>()?;
    let staging = Staging::create(out)?;
    workspace.run(|| merge_into(base, &changes, dtype, staging.path()))?;
    let files = TensorFiles::open_folder(staging.path())?;
    let touched = files.files().iter().flat_map(|file| &file.tensors);
    let touched = touched.clone().find(|name| changes.iter().any(|(_, change)| change.touches(name)));
    let written = touched.map_or(Ok(Dtype::F32), |name| files.info(name).map(|info| info.dtype))?;
    let single = matches!(folders, [(_, factor)] if *factor == 1.0);
    let [difference, effect] = match single {
        true => by_logits(first, staging.path(), &workspace)?,
        false => workspace.run(|| by_sites(base, &first.config, &files, &changes))?,
    };
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
    drop(files);
    staging.commit()?;
    let sites = changes.iter().map(|(_, change)| change.modules()).max().unwrap_or(0);
    let compared = if single { "logits" } else { "outputs of sites" };
    Ok(MergeReport { out: out.to_owned(), sites, dtype: written, compared, difference, effect, tolerance })
}

/// Opens all folders; their bases have to be one.
fn open(folders: &[(PathBuf, f64)], base: Option<&Path>) -> Result<Vec<Source>, RunError> {
    let mut sources: Vec<Source> = Vec::new();
    for (folder, _) in folders {
        let source = Source::open(folder, base)?;
        if source.adapter.is_none() {
            return Err(RunError::Usage(format!(
                "{} is a model without an adapter: there is nothing to merge",
                folder.display()
            )));
        }
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(first) = sources.first()
            && real(&first.base) != real(&source.base)
        {
            return Err(RunError::Usage(format!(
                "{} was trained on {}, and {} on {}: merge adapters of one base, or name it with --base",
                folders[0].0.display(),
                first.base.display(),
                folder.display(),
                source.base.display()
            )));
        }
        sources.push(source);
    }
    Ok(sources)
}

/// `[merged against adapted, base against adapted]`, by the logits of a probe.
fn by_logits(source: &Source, merged: &Path, workspace: &Workspace<f32>) -> Result<[f64; 2], RunError> {
    let probe = probe(source);
    let head = source.config.labels.map(|labels| WantedHead { labels, seed: 0 });
    let before = logits(&load_with_head::<f32>(&source.base, StoredAs::File, head)?, &probe, workspace);
    let adapted = logits(&source.load::<f32>(StoredAs::File)?, &probe, workspace);
    let merged = logits(&load::<f32>(merged, ModelDtype::Auto.stored_as())?, &probe, workspace);
    Ok([relative(&merged, &adapted), relative(&before, &adapted)])
}

/// The same, by the outputs of every adapted site: `W x` of the merged file against `W0 x + sum of c_i (site_i(x) - W0 x)`.
fn by_sites(
    base: &Path,
    config: &ModelConfig,
    merged: &TensorFiles,
    changes: &[(f64, Change)],
) -> Result<[f64; 2], RunError> {
    let (files, workspace) = (TensorFiles::open_folder(base)?, Workspace::<f64>::new(1).map_err(threads_error)?);
    let names = FileNames::of(&files, config);
    let pass = Pass { workspace: &workspace, draw: None };
    let mut worst = [0.0f64; 2];
    let sites = changes.iter().flat_map(|(_, change)| change.sites());
    for site in sites {
        let name = format!("{}.weight", site.name);
        let mut stream = Stream::new(0, "probe", &site.name);
        let mut x = workspace.matrix(4, site.d_in);
        x.data_mut().iter_mut().for_each(|x| *x = stream.normal());
        let w0: Vec<f64> = files.read(names.in_files(&name))?;
        let product = |w: Vec<f64>| Weight::new(Storage::Dense(w), site.d_out, site.d_in).forward(&x, &workspace);
        let before = product(w0.clone());
        let mut expected = before.data().to_vec();
        for (factor, change) in changes {
            let Some(mut linear) = change.linear(&name, w0.clone())? else { continue };
            linear.fold();
            linear.prepare();
            let (y, _) = linear.forward(&x, &pass);
            let both = y.data().iter().zip(before.data());
            expected.iter_mut().zip(both).for_each(|(sum, (y, base))| *sum += factor * (y - base));
        }
        let got = product(merged.read(&name)?);
        let found = [relative(got.data(), &expected), relative(before.data(), &expected)];
        worst
            .iter_mut()
            .zip(found)
            .for_each(|(worst, found)| *worst = if found.is_nan() { found } else { worst.max(found) });
    }
    Ok(worst)
}

fn threads_error(error: impl std::fmt::Display) -> RunError {
    RunError::Threads { threads: 1, reason: error.to_string() }
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

/// max|a - b| / max|b|.
fn relative<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let scale = b.iter().fold(0.0f64, |m, &v| m.max(v.into().abs()));
    let difference = a.iter().zip(b).map(|(&a, &b)| (a.into() - b.into()).abs());
    // max would drop NaN
    difference.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m }) / scale
}
