//! QuanTA: a full-rank update by a tensor circuit, `dW = T - S`.
//!
//! Paper, section 5, Eq. 8: before, `y = W0 x`; attached, `y = W0 x + T(dropout(x)) - S(x)` with T a circuit of trainable gates and S a frozen copy of its
//! initial gates, so that the start is the base model. There is no alpha. Where S is applied is a choice by name: `folded` subtracts its operator once from
//! the working copy of the weight (Eq. 9; the paper prints a plus there, the authors' program subtracts), `circuit` applies it beside T, which makes the
//! start bit-exact. With every gate the identity, S(x) = x costs one subtraction.

use quanta_circuit::{self as circuit, Plan};
use serde_json::{Map, Value, json};

use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::{Weight, dropout};
use crate::tensor::{Matrix, Real, Stream};

/// Where the frozen copy S of the initial circuit is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// In the working copy of the weight, `W0 - S`, rounded once to the weight's type.
    Folded,
    /// As a circuit beside T: a bit-exact start, forward and input gradient of the circuit cost twice.
    Circuit,
}

/// The initial value of the gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// U(-sqrt(3/K), sqrt(3/K)), K the gate's columns: the paper's.
    Uniform,
    /// Every gate the identity.
    Identity,
}

/// Settings of QuanTA.
#[derive(Clone, Debug, PartialEq)]
pub struct Quanta {
    /// Sizes of the axes the hidden vector is viewed with.
    pub dims: Vec<usize>,
    /// Axes of the gates in order of application, counted from the end; none: every pair once, in the paper's order.
    pub gates: Option<Vec<Vec<isize>>>,
    /// Where S is applied; none: `circuit` on a bf16 base, `folded` otherwise.
    pub s: Option<Frozen>,
    /// Initial value of the gates.
    pub init: Initial,
    /// Probability with which an input element of T is zeroed while training.
    pub dropout: f64,
    plan: Plan,
}

impl Quanta {
    /// Settings with the paper's plan and initialisation.
    ///
    /// # Errors
    /// When the axes make no circuit.
    pub fn new(dims: &[usize]) -> Result<Self, circuit::PlanError> {
        let plan = Plan::all_pairs(dims)?;
        Ok(Self { dims: dims.to_vec(), gates: None, s: None, init: Initial::Uniform, dropout: 0.0, plan })
    }

    /// The circuit's plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn read_shared(section: &mut Section) -> Self {
        let dims = section.usize_list("dims").optional();
        let gates = section.value("gates").map(|value| serde_json::from_value::<Vec<Vec<isize>>>(value));
        let s = section.one_of("s", &[("folded", Frozen::Folded), ("circuit", Frozen::Circuit)]).optional();
        let init =
            section.one_of("init", &[("uniform", Initial::Uniform), ("identity", Initial::Identity)]).or(Initial::Uniform);
        let dropout = section.f64("dropout").at_least(0.0).at_most(0.99).or(0.0);
        let fallback = Self::new(&[2, 2]).expect("two axes of size two make a circuit");
        let Some(dims) = dims else {
            section.problem("dims", "is missing: the sizes of the axes, such as [16, 8, 8, 4], whose product is the hidden size");
            return fallback;
        };
        let gates = match gates {
            Some(Err(_)) => {
                section.problem("gates", "is a list of axis pairs counted from the end, such as [[-1, -2], [-1, -3]]");
                None
            }
            other => other.and_then(Result::ok),
        };
        let plan = match &gates {
            Some(gates) => Plan::free(&dims, gates),
            None => Plan::all_pairs(&dims),
        };
        match plan {
            Ok(plan) => Self { dims, gates, s, init, dropout, plan },
            Err(error) => {
                section.problem("dims", error.to_string());
                fallback
            }
        }
    }

    fn written(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("dims".into(), json!(self.dims));
        if let Some(gates) = &self.gates {
            map.insert("gates".into(), json!(gates));
        }
        if let Some(s) = self.s {
            map.insert("s".into(), json!(if s == Frozen::Folded { "folded" } else { "circuit" }));
        }
        map.insert("init".into(), json!(if self.init == Initial::Uniform { "uniform" } else { "identity" }));
        map.insert("dropout".into(), json!(self.dropout));
        map
    }
}

impl Settings for Quanta {
    const NAME: &'static str = "quanta";
    const PEFT_TYPE: &'static str = "QUANTA";
    const EXTENDS_PEFT: bool = true;
    const FORMULA: &'static str = "W0 + T - S, T a circuit of gates on pairs of axes";

    fn read(section: &mut Section) -> Self {
        Self::read_shared(section)
    }

    fn write(&self) -> Map<String, Value> {
        self.written()
    }

    fn read_peft(section: &mut Section) -> Self {
        Self::read_shared(section)
    }

    fn write_peft(&self) -> Map<String, Value> {
        self.written()
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let (size, small, large) = (self.plan.in_len(), site.d_in.min(site.d_out), site.d_in.max(site.d_out));
        // padding and truncation bridge small differences; a circuit that misses most of the site, or is mostly padding, is a slip in dims
        if (small..=2 * large).contains(&size) {
            return Vec::new();
        }
        vec![format!(
            "dims {:?} multiply to {size}, which does not fit {} [{}, {}]: choose axes whose product is {large}",
            self.dims, site.name, site.d_out, site.d_in
        )]
    }

    fn parameters(&self, _: &Site) -> usize {
        self.plan.parameters()
    }

    fn flops_per_token(&self, _: &Site) -> u64 {
        self.plan.flops_per_token()
    }

    fn describe(&self, _: &Site) -> Vec<(&'static str, String)> {
        let gates: Vec<String> = self
            .plan
            .gates()
            .iter()
            .map(|gate| {
                let axes: Vec<String> = gate.axes().iter().map(isize::to_string).collect();
                format!("({}) {}x{}", axes.join(","), gate.rows(), gate.cols())
            })
            .collect();
        let axes: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        vec![
            ("axes", format!("{} = {}", axes.join(" x "), self.plan.in_len())),
            ("gates", gates.join(", ")),
            ("einsum", self.plan.einsum_apply()),
        ]
    }

    fn layout(&self, _: &Site) -> Vec<Tensor> {
        let gates = |letter: char, trainable: bool| {
            let gates = self.plan.gates().iter().enumerate();
            gates.map(move |(index, gate)| (format!("quanta_{letter}.{index}"), gate.shape(), trainable))
        };
        lay_out(gates('T', true).chain(gates('S', false)))
    }

    fn attach<T: Real>(&self, site: &Site, base: &Weight<T>, seed: u64) -> Box<dyn Adapter<T>> {
        let mut stream = Stream::new(seed, "init", &format!("{}.quanta_T", site.name));
        let gates: Vec<T> = match self.init {
            Initial::Uniform => circuit::init::uniform(&self.plan, &mut || stream.uniform()),
            // plans of this method are square, and only a rectangular gate has no identity
            Initial::Identity => circuit::init::identity(&self.plan).expect("square gates have an identity"),
        };
        let parameters = Parameters::new(self.layout(site), gates.clone(), gates);
        let frozen = self.s.unwrap_or(if base.is_bf16() { Frozen::Circuit } else { Frozen::Folded });
        Box::new(Attached { settings: self.clone(), frozen, site: site.clone(), parameters })
    }
}

struct Attached<T> {
    settings: Quanta,
    frozen: Frozen,
    site: Site,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    fn stream(&self, pass: &Pass<'_, T>) -> Option<Stream> {
        pass.draw.filter(|_| self.settings.dropout > 0.0).map(|draw| draw.dropout(&format!("{}.quanta", self.site.name)))
    }

    fn dropped(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> Option<Matrix<T>> {
        self.stream(pass).map(|stream| dropout::forward(x, self.settings.dropout, stream, pass.workspace))
    }

    /// The operator of `gates` as the site sees it, `[d_out, d_in]` in f64: cut or zero-padded on both sides.
    fn operator(&self, gates: &[T]) -> Vec<f64> {
        let wide: Vec<f64> = gates.iter().map(|v| v.to_f64()).collect();
        let (plan, Site { d_in, d_out, .. }) = (&self.settings.plan, &self.site);
        let full = circuit::operator(plan, &wide);
        let mut out = vec![0.0; d_out * d_in];
        let cols = plan.in_len().min(*d_in);
        for row in 0..plan.out_len().min(*d_out) {
            out[row * d_in..][..cols].copy_from_slice(&full[row * plan.in_len()..][..cols]);
        }
        out
    }

    /// Number of leading features that the identity circuit passes through.
    fn passed(&self) -> usize {
        self.settings.plan.in_len().min(self.site.d_in).min(self.site.d_out)
    }
}

impl<T: Real> Adapter<T> for Attached<T> {
    fn parameters(&self) -> &Parameters<T> {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters<T> {
        &mut self.parameters
    }

    fn fold(&self) -> Option<Vec<f64>> {
        (self.frozen == Frozen::Folded).then(|| self.operator(self.parameters.frozen()).into_iter().map(|v| -v).collect())
    }

    fn forward(&self, x: &Matrix<T>, y: &mut Matrix<T>, pass: &Pass<'_, T>) -> Saved<T> {
        let (plan, Site { d_in, d_out, .. }) = (&self.settings.plan, &self.site);
        let unfolded = self.frozen == Frozen::Circuit;
        if unfolded {
            // T - S is formed before W0 x joins, so that equal circuits cancel exactly
            let mut difference = pass.workspace.zeros(y.rows(), y.cols());
            let dropped = self.dropped(x, pass);
            let input = dropped.as_ref().unwrap_or(x).data();
            circuit::apply(plan, self.parameters.trainable(), input, *d_in, difference.data_mut(), *d_out, T::ONE);
            if self.settings.init == Initial::Identity {
                for row in 0..x.rows() {
                    let passed = self.passed();
                    let out = &mut difference.row_mut(row)[..passed];
                    out.iter_mut().zip(x.row(row)).for_each(|(out, &x)| *out -= x);
                }
            } else {
                circuit::apply(plan, self.parameters.frozen(), x.data(), *d_in, difference.data_mut(), *d_out, -T::ONE);
            }
            y.add(&difference);
        } else {
            let dropped = self.dropped(x, pass);
            let input = dropped.as_ref().unwrap_or(x).data();
            circuit::apply(plan, self.parameters.trainable(), input, *d_in, y.data_mut(), *d_out, T::ONE);
        }
        Saved::default()
    }

    fn backward(
        &self,
        x: &Matrix<T>,
        dy: &Matrix<T>,
        _saved: Saved<T>,
        mut dx: Option<&mut Matrix<T>>,
        gradient: &mut [T],
        pass: &Pass<'_, T>,
    ) {
        let (plan, Site { d_in, d_out, .. }) = (&self.settings.plan, &self.site);
        let gates = self.parameters.trainable();
        match (self.stream(pass), &mut dx) {
            (Some(stream), Some(dx)) => {
                let dropped = dropout::forward(x, self.settings.dropout, stream.clone(), pass.workspace);
                let mut part = pass.workspace.zeros(dx.rows(), dx.cols());
                let input = dropped.data();
                circuit::backward(
                    plan, gates, input, *d_in, dy.data(), *d_out, T::ONE, Some(part.data_mut()), Some(gradient),
                );
                dropout::mask(&mut part, self.settings.dropout, stream);
                dx.add(&part);
            }
            (_, dx) => {
                let dropped = self.dropped(x, pass);
                let input = dropped.as_ref().unwrap_or(x).data();
                let dx = dx.as_mut().map(|dx| dx.data_mut());
                circuit::backward(plan, gates, input, *d_in, dy.data(), *d_out, T::ONE, dx, Some(gradient));
            }
        }
        let Some(dx) = dx.filter(|_| self.frozen == Frozen::Circuit) else { return };
        if self.settings.init == Initial::Identity {
            for row in 0..x.rows() {
                let passed = self.passed();
                let out = &mut dx.row_mut(row)[..passed];
                out.iter_mut().zip(dy.row(row)).for_each(|(out, &dy)| *out -= dy);
            }
        } else {
            let gates = self.parameters.frozen();
            let dx = Some(dx.data_mut());
            circuit::backward(plan, gates, x.data(), *d_in, dy.data(), *d_out, -T::ONE, dx, None);
        }
    }

    fn update(&self) -> Vec<f64> {
        let mut update = self.operator(self.parameters.trainable());
        for (t, s) in update.iter_mut().zip(self.operator(self.parameters.frozen())) {
            *t -= s;
        }
        update
    }
}
