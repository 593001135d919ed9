//! A magnitude alone: `W' = m W / |W|` row by row, W whatever the other adapters of the site make of W0.
//!
//! DoRA's second half (arXiv 2402.09353, eq. 5) as an entry of its own, so that a circuit or any other update can have one: QuanTA with DoRA's magnitude is
//! two entries on the same sites. m starts at W0's row lengths.

use std::ops::Range;

use serde_json::{Map, Value};

use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{Matrix, Real};

/// Settings of a magnitude: there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct Magnitude;

impl Settings for Magnitude {
    const NAME: &'static str = "magnitude";
    const PEFT_TYPE: &'static str = "MAGNITUDE";
    const FORMULA: &'static str = "m W / |W|, row by row, W with all other updates";
    const EXTENDS_PEFT: bool = true;
    const MAGNITUDE: bool = true;

    fn read(_: &mut Section) -> Self {
        Self
    }

    fn write(&self) -> Map<String, Value> {
        Map::new()
    }

    fn problems(&self, _: &Site) -> Vec<String> {
        Vec::new()
    }

    fn parameters(&self, site: &Site) -> usize {
        site.d_out
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        site.d_out as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        site.d_out
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        site.d_out
    }

    fn describe(&self, _: &Site) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        lay_out([("magnitude".to_owned(), vec![site.d_out], true)])
    }

    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, _: u64, _: usize) -> Option<Box<dyn Adapter<T>>> {
        let values = base.row_lengths().into_iter().map(T::from_f64).collect();
        Some(Box::new(Attached {
            cells: site.d_in * site.d_out,
            parameters: Parameters::new(self.layout(site), values, Vec::new()),
        }))
    }
}

struct Attached<T> {
    /// Elements of the site's weight.
    cells: usize,
    parameters: Parameters<T>,
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn magnitude(&self) -> Option<Range<usize>> {
        Some(0..self.parameters.trainable().len())
    }

    fn forward(&self, _: &Matrix<T>, _: &mut Matrix<T>, _: &Pass<'_, T>) -> Saved<T> {
        Saved::default()
    }

    /// The model has the magnitude's gradient; nothing else trains here.
    fn backward(
        &self,
        _: &Matrix<T>,
        _: &Matrix<T>,
        _: Saved<T>,
        _: Option<&mut Matrix<T>>,
        _: &mut [T],
        _: &Pass<'_, T>,
    ) {
    }

    fn update(&self) -> Option<Vec<f64>> {
        Some(vec![0.0; self.cells])
    }
}
