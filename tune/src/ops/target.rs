//! What a whole sequence is to give, a class or a number, and its loss over the outputs of a head.
//!
//! Cross-entropy for a class, the squared error for a number (`(z - y)^2`, no half). Losses and gradients are weighted *sums*, as those of labels are; the
//! training step divides once by the total weight.

use crate::tensor::{Matrix, Real, Workspace};

/// What counts as right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// One of the head's classes.
    Class(usize),
    /// The value of the head's single output.
    Number(f64),
}

/// The right answer for one sequence of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Index of the sequence's root segment.
    pub segment: usize,
    /// What is right.
    pub answer: Answer,
    /// Factor of its loss in the sum.
    pub weight: f64,
}

/// The loss of one sequence's outputs: `log sum_j exp z_j - z_class`, or `(z - y)^2`.
///
/// # Panics
/// When a class is not below the number of outputs, or a number has no output.
pub fn loss(outputs: &[f64], answer: Answer) -> f64 {
    match answer {
        Answer::Class(class) => log_sum(outputs.iter().copied()) - outputs[class],
        Answer::Number(number) => (outputs[0] - number).powi(2),
    }
}

/// `log sum exp`, the largest taken out first. A handful of numbers: f64 costs nothing.
fn log_sum(outputs: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = outputs.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + outputs.map(|z| (z - largest).exp()).sum::<f64>().ln()
}

/// The weighted sum of the targets' losses and its gradient with respect to `outputs [targets.len(), labels]`, whose rows belong to the targets in their
/// order: `d z = weight (softmax(z) - onehot)` for a class, `2 weight (z - y)` for a number.
///
/// # Panics
/// When there is not one row for each target, a class is not below the number of outputs, or a number has more than one output.
pub fn forward_backward<T: Real>(
    outputs: &Matrix<T>,
    targets: &[Target],
    workspace: &Workspace<T>,
) -> (f64, Matrix<T>) {
    assert_eq!(outputs.rows(), targets.len(), "a row of outputs for each target");
    let mut gradient = workspace.matrix(outputs.rows(), outputs.cols());
    let mut loss = 0.0;
    for (row, target) in targets.iter().enumerate() {
        let (outputs, gradient) = (outputs.row(row), gradient.row_mut(row));
        match target.answer {
            Answer::Class(class) => {
                assert!(class < outputs.len(), "class {class} of {}", outputs.len());
                let log_sum = log_sum(outputs.iter().map(|z| z.to_f64()));
                loss += target.weight * (log_sum - outputs[class].to_f64());
                for (index, (d, z)) in gradient.iter_mut().zip(outputs).enumerate() {
                    let right = if index == class { 1.0 } else { 0.0 };
                    *d = T::from_f64(target.weight * ((z.to_f64() - log_sum).exp() - right));
                }
            }
            Answer::Number(number) => {
                assert_eq!(outputs.len(), 1, "one output for a number");
                let error = outputs[0].to_f64() - number;
                loss += target.weight * error * error;
                gradient[0] = T::from_f64(2.0 * target.weight * error);
            }
        }
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::difference::{check, numbers};

    #[test]
    fn gradients_are_central_differences_of_the_losses() {
        let workspace = Workspace::new(1).unwrap();
        let target = |answer, weight| Target { segment: 0, answer, weight };
        let classes = [(2, 1.0), (0, 0.5), (2, 2.0)].map(|(class, weight)| target(Answer::Class(class), weight));
        let figures = [(-0.3, 1.0), (4.0, 0.25), (0.0, 3.0)].map(|(y, weight)| target(Answer::Number(y), weight));
        for (targets, labels) in [(classes, 3), (figures, 1)] {
            let values = numbers(3 * labels, "outputs");
            let run = |values: &[f64]| {
                let mut outputs = workspace.matrix(3, labels);
                outputs.copy_from(values);
                forward_backward(&outputs, &targets, &workspace)
            };
            check(&format!("{labels} outputs"), &values, run(&values).1.data(), |values| run(values).0);
        }
    }

    #[test]
    fn an_undecided_head_costs_the_logarithm_of_the_classes() {
        let workspace = Workspace::<f64>::new(1).unwrap();
        let targets = [Target { segment: 0, answer: Answer::Class(1), weight: 2.0 }];
        let (loss, gradient) = forward_backward(&workspace.zeros(1, 4), &targets, &workspace);
        assert!((loss - 2.0 * 4f64.ln()).abs() < 1e-15);
        assert_eq!(gradient.data(), [0.5, -1.5, 0.5, 0.5]);
    }
}
