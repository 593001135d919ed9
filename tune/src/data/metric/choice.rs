//! Accuracy of a choice among candidates.
//!
//! How the candidate is chosen is left to scoring; here the chosen text is compared with the right one.

use super::{Metric, Needs, value};
use crate::data::python::strip;

/// Whether the candidate chosen is the right one.
pub const ACCURACY: Metric = Metric {
    name: "accuracy",
    summary: "whether the chosen candidate is the row's completion",
    needs: Needs::Candidates,
    together: None,
    score: |prediction, example| value(strip(prediction) == strip(&example.completion)),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::example::Example;

    #[test]
    fn only_the_completion_itself_is_right() {
        let candidates = [" yes.", " no."].map(String::from).to_vec();
        let row = Example { completion: " no.".to_string(), candidates, ..Example::default() };
        let score = ACCURACY.score;
        assert_eq!(
            (score(" no.", &row), score("no.", &row), score(" yes.", &row), score(" No.", &row)),
            (1., 1., 0., 0.)
        );
        assert!(ACCURACY.suits(&row) && !ACCURACY.suits(&Example::default()));
    }
}
