//! A toy method for the law suite: `y += d * x`, which needs nothing but its own file.

use quanta_tune::adapter::{Adapter, Parameters, Pass, Saved, lay_out};
use quanta_tune::tensor::Matrix;

/// A method that the table does not know: `y += d * x`, d a vector. What a new method has to bring, and that the seam needs nothing else.
pub struct Diagonal(Parameters<f64>);

impl Diagonal {
    /// With these values.
    pub fn new(values: Vec<f64>) -> Self {
        let tensors = lay_out([("diagonal".to_owned(), vec![values.len()], true)]);
        Self(Parameters::new(tensors, values, Vec::new()))
    }
}

impl Adapter<f64> for Diagonal {
    fn parameters(&self) -> &Parameters<f64> {
        &self.0
    }

    fn parameters_mut(&mut self) -> &mut Parameters<f64> {
        &mut self.0
    }

    fn forward(&self, x: &Matrix<f64>, y: &mut Matrix<f64>, _: &Pass<'_, f64>) -> Saved<f64> {
        let d = self.0.trainable().iter().cycle();
        y.data_mut().iter_mut().zip(x.data()).zip(d).for_each(|((y, x), d)| *y += d * x);
        Saved::default()
    }

    fn backward(
        &self,
        x: &Matrix<f64>,
        dy: &Matrix<f64>,
        _: Saved<f64>,
        dx: Option<&mut Matrix<f64>>,
        gradient: &mut [f64],
        _: &Pass<'_, f64>,
    ) {
        for (x, dy) in x.data().chunks(gradient.len()).zip(dy.data().chunks(gradient.len())) {
            gradient.iter_mut().zip(x.iter().zip(dy)).for_each(|(sum, (x, dy))| *sum += x * dy);
        }
        if let Some(dx) = dx {
            let d = self.0.trainable().iter().cycle();
            dx.data_mut().iter_mut().zip(dy.data()).zip(d).for_each(|((dx, dy), d)| *dx += d * dy);
        }
    }

    fn update(&self) -> Option<Vec<f64>> {
        let d = self.0.trainable();
        let mut update = vec![0.0; d.len() * d.len()];
        d.iter().enumerate().for_each(|(i, d)| update[i * self.0.trainable().len() + i] = *d);
        Some(update)
    }
}
