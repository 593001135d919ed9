//! A bottleneck of two stored matrices: the adapter behind the series and the parallel method, which differ in where it stands.
//!
//! `adapter_down.weight [b, width_in]`, `adapter_up.weight [width_out, b]`, no biases, as in LLM-Adapters (Hu et al. 2023, arXiv 2304.01933).

use serde_json::{Map, Value, json};

use super::bottleneck::Bottleneck;
use super::low_rank::kaiming;
use super::method::object;
use super::{Adapter, Parameters, Pass, Place, Saved, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Activation;
use crate::tensor::{MatMut, MatRef, Matrix, Real, Stream, matmul};

/// How a bottleneck's matrices start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BottleneckStart {
    /// The lower matrix kaiming-uniform, the upper one zero: the base's output.
    ZeroUp,
    /// Both N(0, 0.02), as LLM-Adapters does by default.
    Reference,
}

/// Settings of both methods.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseBottleneck {
    /// The bottleneck's width b.
    pub bottleneck: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// The factor s.
    pub scale: f64,
    /// Initial values.
    pub init: BottleneckStart,
}

const STARTS: [(&str, BottleneckStart); 2] =
    [("zero-up", BottleneckStart::ZeroUp), ("reference", BottleneckStart::Reference)];

impl DenseBottleneck {
    /// From a config entry or an `adapter_config.json`, where the keys are the same; `scaled`: whether the method has a factor.
    pub(super) fn read(section: &mut Section, scaled: bool) -> Self {
        Self {
            bottleneck: section.usize("bottleneck").at_least(1).or(64),
            activation: section.one_of("activation", &Activation::NAMES).or(Activation::Tanh),
            scale: if scaled { section.f64("scale").positive().or(1.0) } else { 1.0 },
            init: section.one_of("init", &STARTS).or(BottleneckStart::ZeroUp),
        }
    }

    pub(super) fn write(&self, scaled: bool) -> Map<String, Value> {
        let init = STARTS.iter().find(|(_, start)| *start == self.init).map(|(name, _)| name);
        let mut map =
            object(json!({ "bottleneck": self.bottleneck, "activation": self.activation.name(), "init": init }));
        if scaled {
            map.insert("scale".to_owned(), json!(self.scale));
        }
        map
    }

    /// Why it does not fit between sides of these widths.
    pub(super) fn problems(&self, site: &Site, [width_in, width_out]: [usize; 2]) -> Vec<String> {
        let most = width_in.min(width_out);
        if self.bottleneck <= most {
            return Vec::new();
        }
        vec![format!(
            "a bottleneck of {} is wider than {} at {}: choose up to {most}",
            self.bottleneck, most, site.name
        )]
    }

    pub(super) fn parameters(&self, [width_in, width_out]: [usize; 2]) -> usize {
        self.bottleneck * (width_in + width_out)
    }

    pub(super) fn layout(&self, [width_in, width_out]: [usize; 2]) -> Vec<Tensor> {
        lay_out([
            ("adapter_down.weight".to_owned(), vec![self.bottleneck, width_in], true),
            ("adapter_up.weight".to_owned(), vec![width_out, self.bottleneck], true),
        ])
    }

    pub(super) fn describe(&self, [width_in, width_out]: [usize; 2]) -> Vec<(&'static str, String)> {
        let (b, act) = (self.bottleneck, self.activation.name());
        vec![("adds", format!("{} up({act}(down(x))), down [{b}, {width_in}], up [{width_out}, {b}]", self.scale))]
    }

    pub(super) fn attach<T: Real>(
        &self,
        widths: [usize; 2],
        place: Place,
        seed: u64,
        owner: &str,
    ) -> Box<dyn Adapter<T>> {
        let (down, total) = (self.bottleneck * widths[0], self.parameters(widths));
        let values = match self.init {
            BottleneckStart::ZeroUp => {
                let mut values = kaiming(down, widths[0], seed, owner);
                values.resize(total, T::ZERO);
                values
            }
            BottleneckStart::Reference => {
                let mut stream = Stream::new(seed, "init", owner);
                (0..total).map(|_| T::from_f64(0.02 * stream.normal())).collect()
            }
        };
        let parameters = Parameters::new(self.layout(widths), values, Vec::new());
        Box::new(Attached { settings: self.clone(), widths, place, parameters })
    }
}

struct Attached<T> {
    settings: DenseBottleneck,
    widths: [usize; 2],
    place: Place,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    fn bottleneck(&self) -> Bottleneck<'_, T> {
        let ([width_in, width_out], b) = (self.widths, self.settings.bottleneck);
        let (down, up) = self.parameters.trainable().split_at(b * width_in);
        Bottleneck {
            down: MatRef::new(down, b, width_in).t(),
            down_bias: &[],
            up: MatRef::new(up, width_out, b).t(),
            up_bias: &[],
            activation: self.settings.activation,
            scale: T::from_f64(self.settings.scale),
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
        self.bottleneck().forward(self.settings.bottleneck, x, y, pass.workspace)
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
        let ([width_in, width_out], b) = (self.widths, self.settings.bottleneck);
        let bottleneck = self.bottleneck();
        let inner = bottleneck.backward(dy, saved, dx, pass.workspace);
        let (down, up) = gradient.split_at_mut(b * width_in);
        matmul(MatMut::new(down, b, width_in), true, inner.dh.view().t(), x.view(), T::ONE);
        matmul(MatMut::new(up, width_out, b), true, dy.view().t(), inner.a.view(), bottleneck.scale);
    }

    /// Its non-linearity is no matrix.
    fn update(&self) -> Option<Vec<f64>> {
        None
    }
}
