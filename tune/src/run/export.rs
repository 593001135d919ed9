//! `quanta export`: any change of weights as a LoRA adapter, for programs that read nothing else.
//!
//! At each adapted site the change `W - W0` is cut to a low rank by its singular value decomposition. What the cut keeps is reported: a full-rank update, such
//! as a circuit's, is not a low-rank one, and how much of it survives is the user's to judge.

use std::path::{Path, PathBuf};

use super::RunError;
use super::source::{Source, workspace};
use crate::adapter::{Layers, Selection, Sites, method_named, methods};
use crate::analysis::truncate;
use crate::checkpoint::{AdapterConfig, write_adapter};
use crate::model::{Attachment, FileNames};
use crate::weights::{Staging, TensorFiles};

/// What exporting did.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportReport {
    /// The adapter's folder.
    pub out: PathBuf,
    /// Each site with its rank and the share of the change's energy, the sum of its squared entries, that is kept.
    pub sites: Vec<(String, usize, f64)>,
    /// The kept share over all sites together.
    pub kept: f64,
}

/// Writes the change of the run or adapter in `folder` as a low-rank adapter of type `method` and rank `rank` to `out`, which must not exist.
///
/// # Errors
/// When there is no adapter, it is no change of linears' weights, or something cannot be read or written.
pub fn export(
    folder: &Path,
    base: Option<&Path>,
    method: &str,
    rank: usize,
    out: &Path,
    threads: usize,
) -> Result<ExportReport, RunError> {
    Staging::refuse_existing(out)?;
    let of_factors = |ranks: &[_]| method_named(method).and_then(|info| info.of_factors(rank, ranks));
    if of_factors(&[]).is_none() {
        let known = methods().iter().filter(|info| info.of_factors(1, &[]).is_some()).map(|info| info.name);
        let known: Vec<&str> = known.collect();
        return Err(RunError::Usage(format!("no change can be exported as `{method}`: use {}", known.join(" or "))));
    }
    let source = Source::open(folder, base)?;
    let change = source.change()?;
    let files = TensorFiles::open_folder(&source.base)?;
    let names_in_files = FileNames::of(&files, &source.config);
    if let Some(site) = change.own_sites().first() {
        return Err(RunError::Usage(format!(
            "{} was trained itself, and may have changed beyond any low rank: merge instead",
            site.name
        )));
    }
    let workspace = workspace::<f32>(threads)?;
    let (mut factors, mut sites, mut energy) = (Vec::new(), Vec::new(), [0.0, 0.0]);
    for site in change.sites() {
        let name = format!("{}.weight", site.name);
        let w0: Vec<f64> = files.read(names_in_files.in_files(&name))?;
        let found = workspace.run(|| {
            let mut delta = change.apply(&name, w0.clone())?;
            delta.iter_mut().zip(&w0).for_each(|(w, w0)| *w -= w0);
            let rank = rank.min(site.d_in.min(site.d_out));
            let truncated = truncate(&delta, site.d_out, site.d_in, rank);
            let truncated =
                truncated.ok_or_else(|| RunError::Usage(format!("the change at {} is not finite", site.name)))?;
            Ok::<_, RunError>((rank, delta.iter().map(|d| d * d).sum::<f64>(), truncated))
        })?;
        let (rank, all, truncated) = found;
        energy[0] += all * truncated.kept;
        energy[1] += all;
        sites.push((site.name.clone(), rank, truncated.kept));
        let values = truncated.a.iter().chain(&truncated.b).map(|value| *value as f32).collect();
        factors.push((site.clone(), values));
    }
    let method = of_factors(&ranks(&sites, rank)).expect("a method that is made of factors at any ranks");
    // whole names, which mean these sites and no others
    let names = sites.iter().map(|(name, ..)| name.clone()).collect();
    let selection = Selection { sites: Sites::Names(names), layers: Layers::default() };
    let config = AdapterConfig {
        attachments: vec![Attachment { method, selection }],
        base: Some(source.base.display().to_string()),
        classifies: source.config.labels.is_some(),
    };
    write_adapter(out, &config, &factors)?;
    let kept = if energy[1] > 0.0 { energy[0] / energy[1] } else { 1.0 };
    Ok(ExportReport { out: out.to_owned(), sites, kept })
}

/// Sites whose smaller side is below the rank, with the rank that they have.
fn ranks(sites: &[(String, usize, f64)], rank: usize) -> Vec<(String, usize)> {
    sites.iter().filter(|(_, own, _)| *own < rank).map(|(name, own, _)| (name.clone(), *own)).collect()
}
