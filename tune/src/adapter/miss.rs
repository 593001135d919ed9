//! MiSS: every shard of the weight's input gets the same small update, `dW[o, i] = M[i mod r, o]`.
//!
//! Kang and Yin 2024 (arXiv 2409.15371, called Bone there first), in the form that PEFT takes by default. The input is folded into its shards of r
//! elements, the last one filled with zeros; their sum h `[n, r]` meets one matrix: `y += h M`, M `[r, d_out]`. M starts at zero, so the start is the base.
//! As many parameters as half a LoRA of rank r at a square site, and a rank of at most r. PEFT's name is `miss_block`.

use serde_json::{Map, Value, json};

use super::method::object;
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::{Weight, dropout};
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// Settings of MiSS.
#[derive(Clone, Debug, PartialEq)]
pub struct Miss {
    /// The length r of a shard, and the most the update's rank can be.
    pub r: usize,
    /// Probability with which an input element of the adapter is zeroed while training.
    pub dropout: f64,
}

impl Settings for Miss {
    const NAME: &'static str = "miss";
    const PEFT_TYPE: &'static str = "MISS";
    const FORMULA: &'static str = "W0 + (M M ... M)^T, M [r, d_out] once for every r inputs";

    fn read(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(16);
        Self { r, dropout: section.f64("dropout").at_least(0.0).at_most(0.99).or(0.0) }
    }

    fn write(&self) -> Map<String, Value> {
        object(json!({ "r": self.r, "dropout": self.dropout }))
    }

    fn read_peft(section: &mut Section) -> Self {
        // `bat` and `mini` are other updates
        section.only("init_weights", &[json!(true), json!(false)]);
        // counts for `mini` only
        section.ignore(&["mini_r"]);
        let r = section.usize("r").at_least(1).or(64);
        Self { r, dropout: section.f64("miss_dropout").at_least(0.0).at_most(0.99).or(0.0) }
    }

    fn write_peft(&self) -> Map<String, Value> {
        object(json!({ "r": self.r, "miss_dropout": self.dropout, "init_weights": true }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let Site { name, d_in, d_out, .. } = site;
        if self.r <= *d_in {
            return Vec::new();
        }
        vec![format!("r = {} is more than the inputs of {name} [{d_out}, {d_in}]: choose r up to {d_in}", self.r)]
    }

    fn parameters(&self, site: &Site) -> usize {
        self.r * site.d_out
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        (site.d_in + 2 * self.r * site.d_out) as u64
    }

    fn kept_per_token(&self, _: &Site) -> usize {
        self.r
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        self.r + if self.dropout > 0.0 { 2 * site.d_in } else { site.d_in }
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let shards = site.d_in.div_ceil(self.r);
        vec![("update", format!("M [{}, {}] for each of {shards} shards", self.r, site.d_out))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        lay_out([("miss_block".to_owned(), vec![self.r, site.d_out], true)])
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, _: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        // nothing is drawn at the start; dropout's stream is named by the owner alone
        let parameters = Parameters::new(self.layout(site), vec![T::ZERO; self.parameters(site)], Vec::new());
        let owner = format!("{}.{entry}.miss", site.name);
        Some(Box::new(Attached { settings: self.clone(), site: site.clone(), owner, parameters }))
    }
}

struct Attached<T> {
    settings: Miss,
    site: Site,
    /// Names its random streams.
    owner: String,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    /// M.
    fn block(&self) -> MatRef<'_, T> {
        MatRef::new(self.parameters.trainable(), self.settings.r, self.site.d_out)
    }

    fn stream(&self, pass: &Pass<'_, T>) -> Option<Stream> {
        pass.draw.filter(|_| self.settings.dropout > 0.0).map(|draw| draw.dropout(&self.owner))
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        let dropped =
            self.stream(pass).map(|stream| dropout::forward(x, self.settings.dropout, stream, pass.workspace));
        let x = dropped.as_ref().unwrap_or(x);
        let mut h = pass.workspace.matrix(x.rows(), self.settings.r);
        h.data_mut().fill(T::ZERO);
        for row in 0..x.rows() {
            let sum = h.row_mut(row);
            for shard in x.row(row).chunks(self.settings.r) {
                sum.iter_mut().zip(shard).for_each(|(sum, &x)| *sum += x);
            }
        }
        matmul(y.view_mut(), true, h.view(), self.block(), T::ONE);
        Saved(vec![h])
    }

    fn backward(
        &self,
        _: &Matrix<T>,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let (r, d_out) = (self.settings.r, self.site.d_out);
        for h in &saved.0 {
            matmul(MatMut::new(gradient, r, d_out), true, h.view().t(), dy.view(), T::ONE);
        }
        let Some(dx) = dx else { return };
        let mut dh = pass.workspace.matrix(dy.rows(), r);
        matmul(dh.view_mut(), false, dy.view(), self.block().t(), T::ONE);
        let mut part = pass.workspace.matrix(dx.rows(), dx.cols());
        for row in 0..dx.rows() {
            for shard in part.row_mut(row).chunks_mut(r) {
                shard.copy_from_slice(&dh.row(row)[..shard.len()]);
            }
        }
        if let Some(stream) = self.stream(pass) {
            dropout::mask(&mut part, self.settings.dropout, stream);
        }
        dx.add(&part);
    }

    fn update(&self) -> Option<Vec<f64>> {
        let (r, Site { d_in, d_out, .. }) = (self.settings.r, &self.site);
        let block = self.parameters.trainable();
        let element = |at: usize| block[(at % d_in) % r * d_out + at / d_in].to_f64();
        Some((0..d_out * d_in).map(element).collect())
    }
}
