//! Learning-rate schedules: a linear warm-up, then constant, linear to zero or cosine to zero.
//!
//! The definitions are those of transformers (`get_linear_schedule_with_warmup` and its siblings), which the authors use: step i, counted from zero, is
//! taken with the rate of step i, so a warm-up's first step has rate zero.

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Falls linearly to zero at the last step.
    Linear,
    /// Falls along half a cosine to zero at the last step.
    Cosine,
    /// Stays.
    Constant,
}

/// The learning rate of every step of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate at the end of the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises from zero.
    pub warmup_steps: usize,
    /// Steps of the run.
    pub total_steps: usize,
    /// What follows the warm-up.
    pub shape: Shape,
}

impl Schedule {
    /// Learning rate of step `step`, counted from zero.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        self.peak
            * match self.shape {
                Shape::Linear => 1.0 - done,
                Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                Shape::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_start_rise_and_end_as_defined() {
        let schedule = |shape| Schedule { peak: 0.01, warmup_steps: 2, total_steps: 10, shape };
        let linear = schedule(Shape::Linear);
        let rates: Vec<f64> = [0, 1, 2, 3, 9, 10, 11].map(|step| linear.rate(step)).into();
        let expected = [0.0, 0.005, 0.01, 0.00875, 0.00125, 0.0, 0.0];
        assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{rates:?}");
        let cosine = schedule(Shape::Cosine);
        assert!((cosine.rate(6) - 0.005).abs() < 1e-15 && cosine.rate(10).abs() < 1e-15);
        assert_eq!(schedule(Shape::Constant).rate(9), 0.01);
        let no_warmup = Schedule { warmup_steps: 0, ..linear };
        assert_eq!(no_warmup.rate(0), 0.01);
    }
}
