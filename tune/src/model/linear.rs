//! A linear with whatever is attached to it, or one whose own W and b train:
//!
//! ```text
//! y = post(m / |W| * (W pre(x) + sum_i delta_i(pre(x))) + b) + sum_j beside_j(x)
//! ```
//!
//! The only place where a model calls an adapter. The weight is the working copy: the file's W0 plus what attached adapters fold into it. |W|, the row lengths
//! of W0 and all updates, is a constant of a pass; [`Linear::prepare`] takes it anew after parameters moved.

use super::trained::{Unfrozen, linear_gradient};
use crate::adapter::{Adapter, Circuits, Gradients, Pass, Place, Saved as AdapterSaved, Site, add_each};
use crate::ops::{Weight, row_lengths};
use crate::tensor::{Matrix, Real, RoundedRows, Workspace};

/// An adapter at a site and the slot of its gradient.
pub struct Attached<T: Real> {
    /// The adapter.
    pub adapter: Box<dyn Adapter<T>>,
    /// Index of its gradient in [`Gradients`].
    pub slot: usize,
    /// Index of the entry of the configuration that attached it.
    pub entry: usize,
}

/// A linear layer of the model.
pub struct Linear<T: Real> {
    site: Site,
    weight: Weight<T>,
    bias: Option<Vec<T>>,
    attached: Vec<Attached<T>>,
    /// `1 / |W|` of each row where an adapter has a magnitude, else empty.
    inverse_lengths: Vec<T>,
    unfrozen: Option<Unfrozen>,
}

/// What backward needs besides the input.
#[derive(Default)]
pub struct Saved<T: Real> {
    /// One for each attached adapter.
    adapters: Vec<AdapterSaved<T>>,
    /// What the adapters before the linear made of the input, one after another; the last is the linear's own input.
    inputs: Vec<Matrix<T>>,
    /// The product before the magnitude, where there is one.
    product: Option<Matrix<T>>,
    /// What the adapters behind the linear read, one after another.
    outputs: Vec<Matrix<T>>,
}

impl<T: Real> Saved<T> {
    /// Bytes held until backward.
    pub fn bytes(&self) -> usize {
        let matrices = self.inputs.iter().chain(&self.product).chain(&self.outputs);
        matrices.map(Matrix::bytes).sum::<usize>() + self.adapters.iter().map(AdapterSaved::bytes).sum::<usize>()
    }
}

/// Where a linear's input gradient goes.
pub enum InputGradient<'a, T: Real> {
    /// Nowhere: nothing below trains.
    None,
    /// Over what is there.
    Write(&'a mut Matrix<T>),
    /// Added to what is there.
    Add(&'a mut Matrix<T>),
}

impl<T: Real> Linear<T> {
    /// A bare linear at `site`.
    pub fn new(site: Site, weight: Weight<T>, bias: Option<Vec<T>>) -> Self {
        Self { site, weight, bias, attached: Vec::new(), inverse_lengths: Vec::new(), unfrozen: None }
    }

    /// Its name and shape.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its frozen weight (the working copy once something is attached).
    pub fn weight(&self) -> &Weight<T> {
        &self.weight
    }

    /// What is attached, in the order of attachment.
    pub fn attached(&self) -> &[Attached<T>] {
        &self.attached
    }

    /// What is attached, to be changed by the optimiser.
    pub fn attached_mut(&mut self) -> &mut [Attached<T>] {
        &mut self.attached
    }

    /// Adds to the weight, rounded once, what the attached adapters ask to have folded.
    pub fn fold(&mut self) {
        if let Some(total) = self.folds() {
            self.weight = self.weight.plus(&total);
        }
        if self.attached.iter().any(|attached| attached.adapter.folds_to_bf16()) {
            self.weight = self.weight.rounded_to_bf16();
        }
    }

    /// The sum of all folds, row-major in f64.
    fn folds(&self) -> Option<Vec<f64>> {
        let folds = self.attached.iter().filter_map(|attached| attached.adapter.fold());
        folds.reduce(|mut total, fold| {
            total.iter_mut().zip(fold).for_each(|(total, fold)| *total += fold);
            total
        })
    }

    /// Brings what follows from the parameters up to date: the row lengths of the adapted weight, where a magnitude replaces them. After folding, after loading
    /// and after every step.
    pub fn prepare(&mut self) {
        if self.magnitude().is_none() {
            return;
        }
        let mut weight = self.weight.to_f64();
        self.add_each(&mut weight, |adapter| adapter.applied());
        let inverse = |length: f64| T::from_f64(if length > 0.0 { 1.0 / length } else { 0.0 });
        self.inverse_lengths = row_lengths(&weight, self.weight.cols()).into_iter().map(inverse).collect();
    }

    /// Adds what `matrix` says of every adapter, where that is a matrix, whatever stands before it; whether all of them are.
    fn add_each(&self, weight: &mut [f64], matrix: impl Fn(&dyn Adapter<T>) -> Option<Vec<f64>>) -> bool {
        let mut all = true;
        for attached in &self.attached {
            match matrix(attached.adapter.as_ref()) {
                Some(matrix) => weight.iter_mut().zip(matrix).for_each(|(w, d)| *w += d),
                None => all = false,
            }
        }
        all
    }

    /// The adapted weight as one matrix, in f64, from the file's W0: all updates, then the magnitude. None when an adapter is no matrix.
    pub fn merged(&self, mut w0: Vec<f64>) -> Option<Vec<f64>> {
        if !self.add_each(&mut w0, |adapter| adapter.update()) {
            return None;
        }
        self.set_lengths(&mut w0);
        Some(w0)
    }

    /// Gives the rows of the adapted weight the lengths of the magnitude, where there is one.
    fn set_lengths(&self, weight: &mut [f64]) {
        let Some((_, m)) = self.magnitude() else { return };
        let lengths = row_lengths(weight, self.site.d_in);
        for ((row, m), length) in weight.chunks_mut(self.site.d_in).zip(m).zip(lengths) {
            let factor = if length > 0.0 { m.to_f64() / length } else { 0.0 };
            row.iter_mut().for_each(|w| *w *= factor);
        }
    }

    /// Merges what is attached into the weight, for passes that only run forward: the working copy and what the adapters apply beside it, formed in f64 and rounded
    /// once to the compute type; then nothing is attached any more. Whether it was done: a site stays as it is where an adapter is no matrix, and
    /// where the weight is held as bf16, which would lose the sum's lower bits, or take twice the memory.
    pub fn merge(&mut self) -> bool {
        // the test of places costs nothing: what stands outside the weight is no matrix
        let beside = |attached: &Attached<T>| attached.adapter.place() == Place::Delta;
        if self.attached.is_empty() || self.weight.is_bf16() || !self.attached.iter().all(beside) {
            return false;
        }
        let mut weight = self.weight.to_f64();
        if !self.add_each(&mut weight, |adapter| adapter.applied()) {
            return false;
        }
        self.set_lengths(&mut weight);
        self.weight.set(&weight);
        self.attached.clear();
        self.inverse_lengths = Vec::new();
        true
    }

    /// The adapter that has a magnitude, and its values.
    fn magnitude(&self) -> Option<(&Attached<T>, &[T])> {
        self.attached.iter().find_map(|attached| {
            let range = attached.adapter.magnitude()?;
            Some((attached, &attached.adapter.parameters().trainable()[range]))
        })
    }

    /// Attaches an adapter; [`Self::fold`] and [`Self::prepare`] follow once when all are attached.
    pub fn attach(&mut self, adapter: Box<dyn Adapter<T>>, slot: usize, entry: usize) {
        self.attached.push(Attached { adapter, slot, entry });
    }

    /// Lets its own weight and bias train; nothing else is attached then.
    pub(super) fn unfreeze(&mut self, unfrozen: Unfrozen) {
        self.weight.thaw();
        self.unfrozen = Some(unfrozen);
    }

    /// Where its own parameters train, if they do.
    pub fn unfrozen(&self) -> Option<Unfrozen> {
        self.unfrozen
    }

    /// Its own parameters: the weight while it is held in the compute type, and the bias.
    pub(super) fn own(&self) -> Vec<&[T]> {
        self.weight.elements().into_iter().chain(self.bias.as_deref()).collect()
    }

    /// As [`Self::own`], to be changed.
    pub(super) fn own_mut(&mut self) -> Vec<&mut [T]> {
        self.weight.elements_mut().into_iter().chain(self.bias.as_deref_mut()).collect()
    }

    /// Whether anything here trains.
    pub fn trains(&self) -> bool {
        !self.attached.is_empty() || self.unfrozen.is_some()
    }

    /// Attached adapters of a place with their index.
    fn at(&self, place: Place) -> impl DoubleEndedIterator<Item = (usize, &Attached<T>)> {
        self.attached.iter().enumerate().filter(move |(_, attached)| attached.adapter.place() == place)
    }

    /// `x [n, d_in]` to `y [n, d_out]`, and what backward needs.
    pub fn forward(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let [result] = Self::forward_each([self], x, pass);
        result
    }

    /// [`Self::forward`] of several linears that read the same `x`: products are made together, and it is read once for the circuits that stand first at each.
    pub fn forward_each<const N: usize>(
        linears: [&Self; N],
        x: &Matrix<T>,
        pass: &Pass<'_, T>,
    ) -> [(Matrix<T>, Saved<T>); N] {
        let mut products = Self::products(linears, x, pass);
        let (mut together, mut added) = (Vec::with_capacity(N), [0; N]);
        for ((linear, (y, _)), added) in linears.into_iter().zip(&mut products).zip(&mut added) {
            if let Some(circuits) = linear.first_circuits(x.rows(), pass) {
                together.push((circuits, y));
                *added = 1;
            }
        }
        add_each(x, together);
        let mut products = products.into_iter().zip(added);
        linears.map(|linear| {
            let ((y, saved), added) = products.next().expect("one for each linear");
            linear.finish(x, y, saved, added, pass)
        })
    }

    /// The circuits of the adapter that stands first beside the product, where it has some and `x` itself is their input.
    fn first_circuits(&self, rows: usize, pass: &Pass<'_, T>) -> Option<Circuits<'_, T>> {
        let (_, first) = self.at(Place::Delta).next().filter(|_| self.at(Place::Input).next().is_none())?;
        first.adapter.circuits(rows, pass)
    }

    /// The product of each with its weight, and what stands before it has kept: together, where `x` itself meets all weights.
    fn products<const N: usize>(linears: [&Self; N], x: &Matrix<T>, pass: &Pass<'_, T>) -> [(Matrix<T>, Saved<T>); N] {
        if linears.iter().any(|linear| linear.at(Place::Input).next().is_some()) {
            return linears.map(|linear| linear.product(x, pass));
        }
        let mut ys = Weight::forward_each(linears.map(|linear| &linear.weight), x, pass.workspace).into_iter();
        linears.map(|linear| (ys.next().expect("one for each linear"), linear.saving()))
    }

    /// Room for what each adapter keeps.
    fn saving(&self) -> Saved<T> {
        let mut saved = Saved::default();
        saved.adapters.resize_with(self.attached.len(), AdapterSaved::default);
        saved
    }

    /// The product with the weight, and what stands before it has kept.
    fn product(&self, x: &Matrix<T>, pass: &Pass<'_, T>) -> (Matrix<T>, Saved<T>) {
        let mut saved = self.saving();
        for (index, attached) in self.at(Place::Input) {
            let source = saved.inputs.last().unwrap_or(x);
            let mut next = copy(source, pass);
            saved.adapters[index] = attached.adapter.forward(source, &mut next, pass);
            saved.inputs.push(next);
        }
        let y = self.weight.forward(saved.inputs.last().unwrap_or(x), pass.workspace);
        (y, saved)
    }

    /// Everything that follows the product and the first `added` adapters beside it.
    fn finish(
        &self,
        x: &Matrix<T>,
        mut y: Matrix<T>,
        mut saved: Saved<T>,
        added: usize,
        pass: &Pass<'_, T>,
    ) -> (Matrix<T>, Saved<T>) {
        let input = saved.inputs.last().unwrap_or(x);
        for (index, attached) in self.at(Place::Delta).skip(added) {
            saved.adapters[index] = attached.adapter.forward(input, &mut y, pass);
        }
        if let Some((_, m)) = self.magnitude() {
            saved.product = Some(copy(&y, pass));
            self.scale_rows(&mut y, m);
        }
        self.add_bias(&mut y);
        for (index, attached) in self.at(Place::Output) {
            let mut next = copy(&y, pass);
            saved.adapters[index] = attached.adapter.forward(&y, &mut next, pass);
            saved.outputs.push(std::mem::replace(&mut y, next));
        }
        for (index, attached) in self.at(Place::Beside) {
            saved.adapters[index] = attached.adapter.forward(x, &mut y, pass);
        }
        (y, saved)
    }

    fn add_bias(&self, y: &mut Matrix<T>) {
        if let Some(bias) = &self.bias {
            for row in y.data_mut().chunks_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
    }

    /// Whether nothing but products reads its rows, of so many, and rounds them: whoever makes them may round them.
    pub(super) fn takes_rounded(&self, rows: usize, workspace: &Workspace<T>) -> bool {
        !self.trains() && self.weight.takes_rounded(rows, workspace)
    }

    /// [`Self::forward`] of rounded rows; nothing is kept.
    ///
    /// # Panics
    /// When something here trains, the shapes do not fit, or the weight is not held as bf16.
    pub(super) fn forward_rounded(&self, x: &RoundedRows<T>, workspace: &Workspace<T>) -> Matrix<T> {
        assert!(!self.trains(), "what is attached reads rows that are not rounded");
        let mut y = self.weight.forward_rounded(x, workspace);
        self.add_bias(&mut y);
        y
    }

    /// [`Self::backward`] of rounded rows.
    ///
    /// # Panics
    /// As [`Self::forward_rounded`].
    pub(super) fn backward_rounded(&self, dy: &RoundedRows<T>, dx: InputGradient<'_, T>, workspace: &Workspace<T>) {
        assert!(!self.trains(), "what is attached reads rows that are not rounded");
        match dx {
            InputGradient::None => {}
            InputGradient::Write(dx) => self.weight.backward_rounded(dy, dx, false, workspace),
            InputGradient::Add(dx) => self.weight.backward_rounded(dy, dx, true, workspace),
        }
    }

    /// Multiplies feature i by `m_i / |W_i|`.
    fn scale_rows(&self, y: &mut Matrix<T>, m: &[T]) {
        for row in y.data_mut().chunks_mut(m.len()) {
            for ((y, &m), &inverse) in row.iter_mut().zip(m).zip(&self.inverse_lengths) {
                *y *= m * inverse;
            }
        }
    }

    /// From `dy [n, d_out]`: the adapters' gradients, and the input's where it is wanted. `x` is the input of forward; it may be left out where nothing
    /// trains.
    ///
    /// # Panics
    /// When something trains and `x` is left out.
    pub fn backward(
        &self,
        x: Option<&Matrix<T>>,
        dy: &Matrix<T>,
        mut saved: Saved<T>,
        dx: InputGradient<'_, T>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) {
        let dz = self.above(dy, &mut saved, gradients, pass);
        let dz = dz.as_ref().unwrap_or(dy);
        let mut dx = match dx {
            InputGradient::None => None,
            InputGradient::Write(dx) if self.at(Place::Input).next().is_none() => {
                self.weight.backward(dz, dx, false, pass.workspace);
                Some(dx)
            }
            InputGradient::Add(dx) if self.at(Place::Input).next().is_none() => {
                self.weight.backward(dz, dx, true, pass.workspace);
                Some(dx)
            }
            // what stands before the linear turns the gradient of its input into that of the site's
            InputGradient::Write(dx) => {
                dx.data_mut().fill(T::ZERO);
                Some(dx)
            }
            InputGradient::Add(dx) => Some(dx),
        };
        if let Some(Unfrozen { slot, .. }) = self.unfrozen {
            linear_gradient(self, x.expect("the input of a linear that trains"), dz, gradients.slot_mut(slot));
        }
        if self.attached.is_empty() {
            return;
        }
        let x = x.expect("the input of a linear that trains");
        if !saved.inputs.is_empty() {
            self.through_inputs(x, dz, &mut saved, dx.as_deref_mut(), gradients, pass);
        } else {
            for (index, attached) in self.at(Place::Delta) {
                let kept = std::mem::take(&mut saved.adapters[index]);
                let gradient = gradients.slot_mut(attached.slot);
                attached.adapter.backward(x, dz, kept, dx.as_deref_mut(), gradient, pass);
            }
        }
        for (index, attached) in self.at(Place::Beside) {
            let kept = std::mem::take(&mut saved.adapters[index]);
            let gradient = gradients.slot_mut(attached.slot);
            attached.adapter.backward(x, dy, kept, dx.as_deref_mut(), gradient, pass);
        }
    }

    /// Backward through what stands behind the product: from `dy` to the gradient of `W x + sum of deltas`; none where that is `dy` itself.
    fn above(
        &self,
        dy: &Matrix<T>,
        saved: &mut Saved<T>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) -> Option<Matrix<T>> {
        let mut dz: Option<Matrix<T>> = None;
        for (index, attached) in self.at(Place::Output).rev() {
            let from = dz.as_ref().unwrap_or(dy);
            let source = saved.outputs.pop().expect("what each adapter behind the linear read");
            let mut below = copy(from, pass);
            let kept = std::mem::take(&mut saved.adapters[index]);
            let gradient = gradients.slot_mut(attached.slot);
            attached.adapter.backward(&source, from, kept, Some(&mut below), gradient, pass);
            dz = Some(below);
        }
        if let (Some((attached, m)), Some(product)) = (self.magnitude(), saved.product.take()) {
            let mut below = dz.unwrap_or_else(|| copy(dy, pass));
            let range = attached.adapter.magnitude().unwrap_or_default();
            let d_m = &mut gradients.slot_mut(attached.slot)[range];
            for (d, z) in below.data().chunks(m.len()).zip(product.data().chunks(m.len())) {
                for (((sum, &d), &z), &inverse) in d_m.iter_mut().zip(d).zip(z).zip(&self.inverse_lengths) {
                    *sum += d * z * inverse;
                }
            }
            self.scale_rows(&mut below, m);
            dz = Some(below);
        }
        dz
    }

    /// Backward through the weight, its deltas and what stands before the linear; adds to `dx`.
    fn through_inputs(
        &self,
        x: &Matrix<T>,
        dz: &Matrix<T>,
        saved: &mut Saved<T>,
        dx: Option<&mut Matrix<T>>,
        gradients: &mut Gradients<T>,
        pass: &Pass<'_, T>,
    ) {
        let input = saved.inputs.pop().expect("an adapter before the linear made an input");
        let mut d = pass.workspace.matrix(x.rows(), x.cols());
        self.weight.backward(dz, &mut d, false, pass.workspace);
        for (index, attached) in self.at(Place::Delta) {
            let kept = std::mem::take(&mut saved.adapters[index]);
            attached.adapter.backward(&input, dz, kept, Some(&mut d), gradients.slot_mut(attached.slot), pass);
        }
        drop(input);
        for (index, attached) in self.at(Place::Input).rev() {
            let source = saved.inputs.pop();
            let mut below = copy(&d, pass);
            let kept = std::mem::take(&mut saved.adapters[index]);
            let gradient = gradients.slot_mut(attached.slot);
            attached.adapter.backward(source.as_ref().unwrap_or(x), &d, kept, Some(&mut below), gradient, pass);
            d = below;
        }
        if let Some(dx) = dx {
            dx.add(&d);
        }
    }
}

fn copy<T: Real>(matrix: &Matrix<T>, pass: &Pass<'_, T>) -> Matrix<T> {
    let mut copy = pass.workspace.matrix(matrix.rows(), matrix.cols());
    copy.copy_from(matrix.data());
    copy
}
