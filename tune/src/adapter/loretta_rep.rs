//! LoRETTA_rep: a low-rank update whose two factors are tensor trains.
//!
//! Yang et al. 2024 (arXiv 2402.11417). `dW = (alpha / r) B A`; `A^T [d_in, r]` and `B^T [r, d_out]` are trains (see [`super::tensor_train`]), contracted once in
//! each forward. The authors draw all cores (`init = "reference"`); by default B's last core is zero, so that the start is the base.

use serde_json::{Map, Value, json};

use super::low_rank::{product, rank_problem, wide};
use super::method::object;
use super::tensor_train::{STARTS, Train, parts, shape_problem};
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// Settings of LoRETTA_rep.
#[derive(Clone, Debug, PartialEq)]
pub struct LorettaRep {
    /// The rank r of the update.
    pub r: usize,
    /// The rank of the trains' inner bonds.
    pub tt_rank: usize,
    /// The update is scaled by `alpha / r`.
    pub alpha: f64,
    /// Axes of A's train, whose product is `d_in r`; none: chosen for the site.
    pub tt_shape_a: Option<Vec<usize>>,
    /// Axes of B's train, whose product is `r d_out`; none: chosen for the site.
    pub tt_shape_b: Option<Vec<usize>>,
    /// Whether all cores are drawn, as the authors do.
    pub reference_start: bool,
}

impl LorettaRep {
    /// The trains of A and B at a site.
    fn trains(&self, site: &Site) -> [Train; 2] {
        let chosen = |first: usize, second: usize| [parts(first, 16), parts(second, 16)].concat();
        let a = self.tt_shape_a.clone().unwrap_or_else(|| chosen(site.d_in, self.r));
        let b = self.tt_shape_b.clone().unwrap_or_else(|| chosen(self.r, site.d_out));
        [Train::new(a, self.tt_rank), Train::new(b, self.tt_rank)]
    }
}

impl Settings for LorettaRep {
    const NAME: &'static str = "loretta-rep";
    const PEFT_TYPE: &'static str = "LORETTA";
    const VARIANT: Option<&'static str> = Some("rep");
    const FORMULA: &'static str = "W0 + (alpha/r) B A, A and B tensor trains";
    const EXTENDS_PEFT: bool = true;

    fn read(section: &mut Section) -> Self {
        let r = section.usize("r").at_least(1).or(8);
        Self {
            r,
            tt_rank: section.usize("tt_rank").at_least(1).or(8),
            alpha: section.f64("alpha").positive().or(2.0 * r as f64),
            tt_shape_a: section.usize_list("tt_shape_A").optional(),
            tt_shape_b: section.usize_list("tt_shape_B").optional(),
            reference_start: section.one_of("init", &STARTS).or(false),
        }
    }

    fn write(&self) -> Map<String, Value> {
        let mut map = object(json!({
            "r": self.r, "tt_rank": self.tt_rank, "alpha": self.alpha,
            "init": STARTS[usize::from(self.reference_start)].0,
        }));
        for (key, shape) in [("tt_shape_A", &self.tt_shape_a), ("tt_shape_B", &self.tt_shape_b)] {
            map.extend(shape.iter().map(|shape| (key.to_owned(), json!(shape))));
        }
        map
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let mut problems = Vec::new();
        let sides = [("tt_shape_A", &self.tt_shape_a, site.d_in), ("tt_shape_B", &self.tt_shape_b, site.d_out)];
        for (key, shape, side) in sides {
            problems.extend(shape.iter().filter_map(|shape| shape_problem(key, shape, side * self.r, site)));
        }
        problems.extend(rank_problem(self.r, site));
        problems
    }

    fn parameters(&self, site: &Site) -> usize {
        self.trains(site).iter().map(Train::parameters).sum()
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * (self.r * (site.d_in + site.d_out)) as u64
    }

    fn kept_per_token(&self, _: &Site) -> usize {
        self.r
    }

    fn scratch_per_token(&self, _: &Site) -> usize {
        self.r
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let flops: u64 = self.trains(site).iter().map(Train::flops).sum();
        vec![(
            "update",
            format!("B A of rank {}, trains of rank {}, {flops} operations to contract", self.r, self.tt_rank),
        )]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let [a, b] = self.trains(site);
        lay_out(a.layout("loretta_A").into_iter().chain(b.layout("loretta_B")))
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let mut stream = Stream::new(seed, "init", &format!("{}.{entry}.loretta", site.name));
        let trains = self.trains(site);
        let mut values = trains[0].start(site.d_in + self.r, false, &mut stream);
        values.extend(trains[1].start::<T>(self.r + site.d_out, !self.reference_start, &mut stream));
        let parameters = Parameters::new(self.layout(site), values, Vec::new());
        let scale = self.alpha / self.r as f64;
        Some(Box::new(Attached { r: self.r, scale, trains, widths: [site.d_in, site.d_out], parameters }))
    }
}

struct Attached<T> {
    r: usize,
    scale: f64,
    /// Of A and B.
    trains: [Train; 2],
    /// d_in and d_out.
    widths: [usize; 2],
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    /// `A^T [d_in, r]` and `B^T [r, d_out]`.
    fn factors(&self) -> [Vec<T>; 2] {
        let (a, b) = self.parameters.trainable().split_at(self.trains[0].parameters());
        [self.trains[0].contract(a), self.trains[1].contract(b)]
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
        let ([a, b], [d_in, d_out]) = (self.factors(), self.widths);
        let mut h = pass.workspace.matrix(x.rows(), self.r);
        matmul(h.view_mut(), false, x.view(), MatRef::new(&a, d_in, self.r), T::ONE);
        matmul(y.view_mut(), true, h.view(), MatRef::new(&b, self.r, d_out), T::from_f64(self.scale));
        Saved(vec![h])
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        saved: Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let ([a, b], [d_in, d_out], r) = (self.factors(), self.widths, self.r);
        let scale = T::from_f64(self.scale);
        let (mut d_a, mut d_b) = (vec![T::ZERO; a.len()], vec![T::ZERO; b.len()]);
        for h in &saved.0 {
            matmul(MatMut::new(&mut d_b, r, d_out), true, h.view().t(), dy.view(), scale);
        }
        let mut dh = pass.workspace.matrix(dy.rows(), r);
        matmul(dh.view_mut(), false, dy.view(), MatRef::new(&b, r, d_out).t(), scale);
        matmul(MatMut::new(&mut d_a, d_in, r), true, x.view().t(), dh.view(), T::ONE);
        if let Some(dx) = dx {
            matmul(dx.view_mut(), true, dh.view(), MatRef::new(&a, d_in, r).t(), T::ONE);
        }
        let first = self.trains[0].parameters();
        let (cores_a, cores_b) = self.parameters.trainable().split_at(first);
        let (grad_a, grad_b) = gradient.split_at_mut(first);
        self.trains[0].backward(cores_a, d_a, grad_a);
        self.trains[1].backward(cores_b, d_b, grad_b);
    }

    fn update(&self) -> Option<Vec<f64>> {
        let values = wide(self.parameters.trainable());
        let (a, b) = values.split_at(self.trains[0].parameters());
        let [d_in, d_out] = self.widths;
        // dW^T = (alpha / r) A^T B^T
        let transposed =
            product(&self.trains[0].contract(a), &self.trains[1].contract(b), [d_in, self.r, d_out], self.scale);
        let mut update = vec![0.0; d_in * d_out];
        for (i, row) in transposed.chunks(d_out).enumerate() {
            row.iter().enumerate().for_each(|(o, &value)| update[o * d_in + i] = value);
        }
        Some(update)
    }
}
