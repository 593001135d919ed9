//! MoRA: a square matrix M instead of two thin ones, between a compression of the input and an expansion of the output that have no parameters.
//!
//! Jiang et al. 2024 (arXiv 2405.12130). M has side `c = round(sqrt((d_in + d_out) r))`, as many parameters as LoRA of rank r, and starts at zero; there is no
//! scale. The input, continued by wrapping around, is cut into blocks of c.
//!
//! - `sharing` (type 1 there): `u = sum of the blocks`, `v = M u`, repeated until d_out numbers are there. Rank at most c.
//! - `rotation` (type 6): block i, rotated as RoPE rotates position i in c dimensions (theta 10000, halves), goes through M by itself; the results one after
//!   another, repeated until d_out numbers are there. Block-diagonal up to the rotation, rank up to d. c is even.

use serde_json::{Map, Value, json};

use super::low_rank::wide;
use super::method::object;
use super::{Adapter, Parameters, Pass, Saved, Settings, Site, Tensor, lay_out};
use crate::config::Section;
use crate::ops::Weight;
use crate::tensor::{MatMut, MatRef, Matrix, Real, matmul};

/// How the input is compressed and the output expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoraVariant {
    /// Blocks are added up.
    Sharing,
    /// Blocks are rotated and go through M one by one.
    Rotation,
}

const VARIANTS: [(&str, MoraVariant); 2] = [("sharing", MoraVariant::Sharing), ("rotation", MoraVariant::Rotation)];

/// Settings of MoRA.
#[derive(Clone, Debug, PartialEq)]
pub struct Mora {
    /// The rank of the LoRA update with as many parameters.
    pub r: usize,
    /// How it compresses and expands.
    pub variant: MoraVariant,
}

impl Mora {
    /// Side c of the square matrix at a site.
    fn side(&self, site: &Site) -> usize {
        let side = (((site.d_in + site.d_out) * self.r) as f64).sqrt().round() as usize;
        match self.variant {
            MoraVariant::Sharing => side,
            MoraVariant::Rotation => side / 2 * 2,
        }
    }

    /// Blocks of the input that reach the output.
    fn blocks(&self, site: &Site) -> usize {
        let side = self.side(site).max(1);
        match self.variant {
            MoraVariant::Sharing => 1,
            MoraVariant::Rotation => site.d_in.div_ceil(side).min(site.d_out.div_ceil(side)),
        }
    }
}

impl Settings for Mora {
    const NAME: &'static str = "mora";
    const PEFT_TYPE: &'static str = "MORA";
    const FORMULA: &'static str = "W0 + expand M compress, M square";
    const EXTENDS_PEFT: bool = true;

    fn read(section: &mut Section) -> Self {
        Self {
            r: section.usize("r").at_least(1).at_most(1 << 20).or(8),
            variant: section.one_of("variant", &VARIANTS).or(MoraVariant::Rotation),
        }
    }

    fn write(&self) -> Map<String, Value> {
        let variant = VARIANTS.iter().find(|(_, variant)| *variant == self.variant).map(|(name, _)| name);
        object(json!({ "r": self.r, "variant": variant }))
    }

    fn problems(&self, site: &Site) -> Vec<String> {
        let (side, most) = (self.side(site), site.d_in.max(site.d_out));
        if (1..=most).contains(&side) {
            return Vec::new();
        }
        let Site { name, d_in, d_out, .. } = site;
        vec![format!("r = {} makes a matrix of side {side} at {name} [{d_out}, {d_in}]: choose another r", self.r)]
    }

    fn parameters(&self, site: &Site) -> usize {
        self.side(site).pow(2)
    }

    fn flops_per_token(&self, site: &Site) -> u64 {
        2 * (self.parameters(site) * self.blocks(site)) as u64
    }

    fn kept_per_token(&self, site: &Site) -> usize {
        self.side(site) * self.blocks(site)
    }

    fn scratch_per_token(&self, site: &Site) -> usize {
        2 * self.side(site) * self.blocks(site)
    }

    fn describe(&self, site: &Site) -> Vec<(&'static str, String)> {
        let c = self.side(site);
        vec![("update", format!("M [{c}, {c}] on {} blocks", site.d_in.div_ceil(c.max(1))))]
    }

    fn layout(&self, site: &Site) -> Vec<Tensor> {
        lay_out([("mora_M".to_owned(), vec![self.side(site); 2], true)])
    }

    fn attach<T: Real>(&self, site: &Site, _: &Weight<T>, _: u64, _: usize) -> Option<Box<dyn Adapter<T>>> {
        let parameters = Parameters::new(self.layout(site), vec![T::ZERO; self.parameters(site)], Vec::new());
        let (side, blocks) = (self.side(site), self.blocks(site));
        let half = side / 2;
        let angle = |at: usize| (at / half) as f64 * 10_000f64.powf(-((at % half) as f64) / half as f64);
        let rotates = self.variant == MoraVariant::Rotation;
        let turns = if rotates { (0..blocks * half).map(|at| angle(at).sin_cos()).collect() } else { Vec::new() };
        Some(Box::new(Attached { side, blocks, turns, site: site.clone(), parameters }))
    }
}

struct Attached<T> {
    side: usize,
    /// Rows of M's input for each token.
    blocks: usize,
    /// `(sin, cos)` of each block and half-dimension; empty where blocks are shared.
    turns: Vec<(f64, f64)>,
    site: Site,
    parameters: Parameters<T>,
}

impl<T: Real> Attached<T> {
    fn matrix(&self) -> MatRef<'_, T> {
        MatRef::new(self.parameters.trainable(), self.side, self.side)
    }

    /// The places of the wrapped input that reach the output: `(place in the compressed row, input feature)`.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let (d_in, width) = (self.site.d_in, self.blocks * self.side);
        let length = if self.turns.is_empty() { d_in.next_multiple_of(self.side) } else { width };
        (0..length).map(move |at| (at % width, at % d_in))
    }

    /// Rotates `row [blocks * side]` in place, or back.
    fn rotate(&self, row: &mut [T], back: bool) {
        let half = self.side / 2;
        if self.turns.is_empty() {
            return;
        }
        for (block, turns) in row.chunks_mut(self.side).zip(self.turns.chunks(half)) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), &(sin, cos)) in low.iter_mut().zip(high).zip(turns) {
                let (sin, cos) = (T::from_f64(if back { -sin } else { sin }), T::from_f64(cos));
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// Rows of M's input, `[n * blocks, side]`.
    fn compress(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> Matrix<T> {
        let mut u = pass.workspace.zeros(x.rows() * self.blocks, self.side);
        for (row, x) in u.data_mut().chunks_mut(self.blocks * self.side).zip(x.data().chunks(self.site.d_in)) {
            self.places().for_each(|(to, from)| row[to] += x[from]);
            self.rotate(row, false);
        }
        u
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
        let u = self.compress(x, pass);
        let mut v = pass.workspace.matrix(u.rows(), self.side);
        matmul(v.view_mut(), false, u.view(), self.matrix().t(), T::ONE);
        for (y, v) in y.data_mut().chunks_mut(self.site.d_out).zip(v.data().chunks(self.blocks * self.side)) {
            y.iter_mut().zip(v.iter().cycle()).for_each(|(y, &v)| *y += v);
        }
        Saved(vec![u])
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
        let width = self.blocks * self.side;
        let mut dv = pass.workspace.zeros(dy.rows() * self.blocks, self.side);
        for (dv, dy) in dv.data_mut().chunks_mut(width).zip(dy.data().chunks(self.site.d_out)) {
            for piece in dy.chunks(width) {
                dv.iter_mut().zip(piece).for_each(|(sum, &d)| *sum += d);
            }
        }
        for u in &saved.0 {
            matmul(MatMut::new(gradient, self.side, self.side), true, dv.view().t(), u.view(), T::ONE);
        }
        let Some(dx) = dx else { return };
        let mut du = pass.workspace.matrix(dv.rows(), self.side);
        matmul(du.view_mut(), false, dv.view(), self.matrix(), T::ONE);
        for (row, dx) in du.data_mut().chunks_mut(width).zip(dx.data_mut().chunks_mut(self.site.d_in)) {
            self.rotate(row, true);
            self.places().for_each(|(from, to)| dx[to] += row[from]);
        }
    }

    fn update(&self) -> Option<Vec<f64>> {
        let (Site { d_in, d_out, .. }, side) = (&self.site, self.side);
        let m = wide(self.parameters.trainable());
        let mut update = vec![0.0; d_out * d_in];
        for row in 0..*d_out {
            let at = row % (self.blocks * side);
            let (block, row_of_m) = (at / side, &m[at % side * side..][..side]);
            // row of M times the block's rotation
            let mut turned = row_of_m.to_vec();
            if !self.turns.is_empty() {
                let half = side / 2;
                for (i, (sin, cos)) in self.turns[block * half..][..half].iter().enumerate() {
                    let (a, b) = (row_of_m[i], row_of_m[half + i]);
                    (turned[i], turned[half + i]) = (a * cos + b * sin, b * cos - a * sin);
                }
            }
            for (to, from) in self.places().filter(|(to, _)| to / side == block) {
                update[row * d_in + from] += turned[to % side];
            }
        }
        Some(update)
    }
}
