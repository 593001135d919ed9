//! DoRA: a low-rank update in direction, and a magnitude for each row of the weight.
//!
//! Liu et al. 2024 (arXiv 2402.09353). `W' = m (W0 + s B A) / |W0 + s B A|`, the length taken row by row; m starts at W0's row lengths, so the start is the
//! base to rounding. As in PEFT and the paper (sec. 4.3) the length is a constant in backward, and is taken anew after every step. Dropout acts on the
//! low-rank path alone, where PEFT also feeds dropped inputs to W0's share of the change. PEFT's files hold the method as LoRA with `use_dora`.

use serde_json::{Map, Value, json};

use super::low_rank::LowRank;
use super::{Adapter, Settings, Site, Tensor};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::Real;

/// Settings of DoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct Dora(pub LowRank);

impl Settings for Dora {
    const NAME: &'static str = "dora";
    const PEFT_TYPE: &'static str = "LORA";
    const FORMULA: &'static str = "m (W0 + (alpha/r) B A) / |W0 + (alpha/r) B A|, row by row";
    const MAGNITUDE: bool = true;

    fn read(section: &mut Section) -> Self {
        Self(LowRank::read(section))
    }

    fn write(&self) -> Map<String, Value> {
        self.0.write()
    }

    fn claims(peft_type: &str, section: &Section) -> bool {
        peft_type == Self::PEFT_TYPE && section.peek("use_dora") == Some(&json!(true))
    }

    fn read_peft(section: &mut Section) -> Self {
        section.only("use_dora", &[json!(true)]);
        Self(LowRank::read_peft(section))
    }

    fn write_peft(&self) -> Map<String, Value> {
        self.0.write_peft(true)
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        self.0.problems(site)
    }

    fn parameters(&self, site: &Site) -> usize {
        self.0.parameters(site) + site.d_out
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        (2 * self.0.parameters(site) + site.d_out) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        // the product before the magnitude, too
        self.0.rank(site) + site.d_out
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        self.0.scratch_per_token(site) + site.d_out
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        self.0.describe(site)
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        self.0.layout(site, true)
    }

    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        Some(self.0.attach(site, Some(base), seed, format!("{}.{entry}.dora", site.name)))
    }
}
