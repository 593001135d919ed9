//! Series adapters: a bottleneck in the stream of activations, `x' = x + up(f(down(x)))`.
//!
//! Houlsby et al. 2019 (arXiv 1902.00751), in the form of LLM-Adapters (arXiv 2304.01933), which the paper compares with: before a linear that reads the
//! stream (gate_proj, up_proj), at the width of its input; after one that writes to it (down_proj, o_proj), at the width of its output. tanh, no bias, no
//! scale. Not mergeable.

use serde_json::{Map, Value};

use super::bottleneck::place;
use super::dense_bottleneck::DenseBottleneck;
use super::{Adapter, Place, Settings, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of series adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct Series(pub DenseBottleneck);

fn widths(site: &Site) -> [usize; 2] {
    [place(site).1; 2]
}

impl Settings for Series {
    const NAME: &'static str = "series";
    const PEFT_TYPE: &'static str = "SERIES";
    const FORMULA: &'static str = "W0 (x + up(f(down(x)))), or after W0: y + up(f(down(y)))";
    const EXTENDS_PEFT: bool = true;
    const MERGEABLE: bool = false;

    fn read(section: &mut Section) -> Self {
        Self(DenseBottleneck::read(section, false))
    }

    fn write(&self) -> Map<String, Value> {
        self.0.write(false)
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        self.0.problems(site, widths(site))
    }

    fn parameters(&self, site: &Site) -> usize {
        self.0.parameters(widths(site))
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * self.parameters(site) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        self.0.bottleneck + place(site).1
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        3 * self.0.bottleneck + 2 * place(site).1
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let before = place(site).0 == Place::Input;
        let mut description = self.0.describe(widths(site));
        description.push(("where", if before { "before the linear" } else { "after the linear" }.into()));
        description
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        self.0.layout(widths(site))
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        Some(self.0.attach(widths(site), place(site).0, seed, &format!("{}.{entry}.series", site.name)))
    }
}
