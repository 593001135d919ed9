//! LoRETTA_adp: bottleneck adapters whose matrices are tensor trains.
//!
//! Yang et al. 2024 (arXiv 2402.11417). As a series adapter (see [`super::Series`]) with biases: behind a linear that writes to the residual stream,
//! `y' = y + up(act(down(y) + c)) + e`, before any other. `down^T [d, b]` and `up^T [b, d]` are trains over the same axes, contracted once in each forward. The
//! paper's axes are used for the widths that it gives; others are cut into parts up to 16 and 4. The authors draw all cores and the biases
//! (`init = "reference"`); by default the upper matrix and the biases are zero, so that the start is the base. Not mergeable.

use serde_json::{Map, Value, json};

use super::bottleneck::{Bottleneck, bias_gradient, place};
use super::method::object;
use super::tensor_train::{STARTS, Train, parts, shape_problem};
use super::{Adapter, Parameters, Pass, Place, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Activation;
use crate::ops::Weight;
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// Settings of LoRETTA_adp.
#[derive(Clone, Debug, PartialEq)]
pub struct LorettaAdp {
    /// The bottleneck's width b.
    pub bottleneck: usize,
    /// The rank of the trains' inner bonds.
    pub tt_rank: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Axes of the lower matrix's train, whose product is `d b`; none: chosen for the site.
    pub tt_shape_down: Option<Vec<usize>>,
    /// Axes of the upper matrix's train; none: those of the lower one.
    pub tt_shape_up: Option<Vec<usize>>,
    /// Whether all cores are drawn, as the authors do.
    pub reference_start: bool,
}

/// Axes that the authors use for a width and a bottleneck of 64.
fn published(width: usize, bottleneck: usize) -> Option<&'static [usize]> {
    match (width, bottleneck) {
        (4096, 64) => Some(&[16, 16, 16, 4, 4, 4]),
        (5120, 64) => Some(&[5, 8, 8, 16, 8, 8]),
        (8192, 64) => Some(&[16, 16, 16, 8, 4, 4]),
        _ => None,
    }
}

impl LorettaAdp {
    /// The lower and the upper train at a site.
    fn trains(&self, site: &Site) -> [Train; 2] {
        let (width, b) = (place(site).1, self.bottleneck);
        let chosen = || match published(width, b) {
            Some(axes) => axes.to_vec(),
            None => [parts(width, 16), parts(b, 4)].concat(),
        };
        let down = self.tt_shape_down.clone().unwrap_or_else(chosen);
        let up = self.tt_shape_up.clone().unwrap_or_else(|| down.clone());
        [Train::new(down, self.tt_rank), Train::new(up, self.tt_rank)]
    }
}

impl Settings for LorettaAdp {
    const NAME: &'static str = "loretta-adp";
    const PEFT_TYPE: &'static str = "LORETTA";
    const VARIANT: Option<&'static str> = Some("adp");
    const FORMULA: &'static str = "y + up(f(down(y))), up and down tensor trains";
    const EXTENDS_PEFT: bool = true;
    const MERGEABLE: bool = false;

    fn read(section: &mut Section) -> Self {
        Self {
            bottleneck: section.usize("bottleneck").at_least(1).or(64),
            tt_rank: section.usize("tt_rank").at_least(1).or(8),
            activation: section.one_of("activation", &Activation::NAMES).or(Activation::Relu),
            tt_shape_down: section.usize_list("tt_shape_down").optional(),
            tt_shape_up: section.usize_list("tt_shape_up").optional(),
            reference_start: section.one_of("init", &STARTS).or(false),
        }
    }

    fn write(&self) -> Map<String, Value> {
        let mut map = object(json!({
            "bottleneck": self.bottleneck, "tt_rank": self.tt_rank, "activation": self.activation.name(),
            "init": STARTS[usize::from(self.reference_start)].0,
        }));
        for (key, shape) in [("tt_shape_down", &self.tt_shape_down), ("tt_shape_up", &self.tt_shape_up)] {
            map.extend(shape.iter().map(|shape| (key.to_owned(), json!(shape))));
        }
        map
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let (width, b) = (place(site).1, self.bottleneck);
        let shapes = [("tt_shape_down", &self.tt_shape_down), ("tt_shape_up", &self.tt_shape_up)];
        let wrong = shapes.into_iter().flat_map(|(key, shape)| shape.iter().map(move |shape| (key, shape)));
        let mut problems: Vec<String> =
            wrong.filter_map(|(key, shape)| shape_problem(key, shape, width * b, site)).collect();
        if b > width {
            problems.push(format!("a bottleneck of {b} is wider than {width} at {}: choose up to {width}", site.name));
        }
        problems
    }

    fn parameters(&self, site: &Site) -> usize {
        self.trains(site).iter().map(Train::parameters).sum::<usize>() + self.bottleneck + place(site).1
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        4 * (self.bottleneck * place(site).1) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        self.bottleneck + place(site).1
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        3 * self.bottleneck + 2 * place(site).1
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let flops: u64 = self.trains(site).iter().map(Train::flops).sum();
        let (act, b) = (self.activation.name(), self.bottleneck);
        vec![(
            "adds",
            format!(
                "up({act}(down(x))), bottleneck {b}, trains of rank {}, {flops} operations to contract",
                self.tt_rank
            ),
        )]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        let [down, up] = self.trains(site);
        let biases = [("loretta_down.bias", self.bottleneck), ("loretta_up.bias", place(site).1)];
        let biases = biases.map(|(name, len)| (name.to_owned(), vec![len], true));
        lay_out(down.layout("loretta_down").into_iter().chain(up.layout("loretta_up")).chain(biases))
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, seed: u64, entry: usize) -> Option<Box<dyn Adapter<T>>> {
        let mut stream = Stream::new(seed, "init", &format!("{}.{entry}.loretta", site.name));
        let ((place, width), b, trains) = (place(site), self.bottleneck, self.trains(site));
        let mut values = trains[0].start(width + b, false, &mut stream);
        values.extend(trains[1].start::<T>(width + b, !self.reference_start, &mut stream));
        // PyTorch's bias of a linear with so many outputs
        let bias = |outputs: usize, uniform: f64| (2.0 * uniform - 1.0) / (outputs as f64).sqrt();
        for outputs in [b, width].into_iter().flat_map(|outputs| std::iter::repeat_n(outputs, outputs)) {
            let drawn = if self.reference_start { bias(outputs, stream.uniform()) } else { 0.0 };
            values.push(T::from_f64(drawn));
        }
        let parameters = Parameters::new(self.layout(site), values, Vec::new());
        Some(Box::new(Attached { settings: self.clone(), place, width, trains, parameters }))
    }
}

struct Attached<T> {
    settings: LorettaAdp,
    place: Place,
    width: usize,
    /// The lower and the upper one.
    trains: [Train; 2],
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    /// Cores of the lower train, of the upper train, lower bias, upper bias.
    fn cut<'a>(&self, flat: &'a [T]) -> [&'a [T]; 4] {
        let (down, rest) = flat.split_at(self.trains[0].parameters());
        let (up, rest) = rest.split_at(self.trains[1].parameters());
        let (down_bias, up_bias) = rest.split_at(self.settings.bottleneck);
        [down, up, down_bias, up_bias]
    }

    /// `down^T [width, b]` and `up^T [b, width]`.
    fn matrices(&self) -> [Vec<T>; 2] {
        let [down, up, ..] = self.cut(self.parameters.trainable());
        [self.trains[0].contract(down), self.trains[1].contract(up)]
    }

    fn bottleneck<'a>(&'a self, matrices: &'a [Vec<T>; 2]) -> Bottleneck<'a, T> {
        let [.., down_bias, up_bias] = self.cut(self.parameters.trainable());
        let (width, b) = (self.width, self.settings.bottleneck);
        Bottleneck {
            down: MatRef::new(&matrices[0], width, b),
            down_bias,
            up: MatRef::new(&matrices[1], b, width),
            up_bias,
            activation: self.settings.activation,
            scale: T::ONE,
        }
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn place(&self) -> Place {
        self.place
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        self.bottleneck(&self.matrices()).forward(self.settings.bottleneck, x, y, pass.workspace)
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
        let (matrices, width, b) = (self.matrices(), self.width, self.settings.bottleneck);
        let inner = self.bottleneck(&matrices).backward(dy, saved, dx, pass.workspace);
        let [mut d_down, mut d_up] = [vec![T::ZERO; width * b], vec![T::ZERO; width * b]];
        matmul(MatMut::new(&mut d_down, width, b), false, x.view().t(), inner.dh.view(), T::ONE);
        matmul(MatMut::new(&mut d_up, b, width), false, inner.a.view().t(), dy.view(), T::ONE);
        let [down, up, ..] = self.cut(self.parameters.trainable());
        let (grad_down, rest) = gradient.split_at_mut(down.len());
        let (grad_up, rest) = rest.split_at_mut(up.len());
        self.trains[0].backward(down, d_down, grad_down);
        self.trains[1].backward(up, d_up, grad_up);
        let (down_bias, up_bias) = rest.split_at_mut(b);
        bias_gradient(&inner.dh, T::ONE, down_bias);
        bias_gradient(dy, T::ONE, up_bias);
    }

    /// Its non-linearity is no matrix.
    fn update(&self) -> Option<Vec<f64>> {
        None
    }
}
