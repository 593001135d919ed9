//! What a run trains for.
//!
//! It is here because a task has an objective that it trains with unless the configuration says otherwise. How a loss is
//! computed is left to the batch and to the training loop.

/// What is made likelier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The trained tokens: mean cross-entropy of each given those before it.
    Lm,
    /// The right candidate among the others: cross-entropy over the candidates of a row, a candidate's score being the
    /// mean log-probability of its trained tokens. The authors' commonsense program trains so; the paper does not say it.
    Choice,
    /// The right class of a whole row: cross-entropy over the outputs of an encoder's head.
    Classify,
    /// The number of a whole row: the squared error of the single output of an encoder's head.
    Regress,
}

impl Objective {
    /// Every objective with its name in a config.
    pub const NAMES: [(&'static str, Objective); 4] = [
        ("lm", Objective::Lm),
        ("choice", Objective::Choice),
        ("classify", Objective::Classify),
        ("regress", Objective::Regress),
    ];

    /// Its name in a config.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, objective)| *objective == self).map_or("", |(name, _)| *name)
    }

    /// Whether a row is answered as a whole, by the head of an encoder, rather than in tokens.
    pub fn is_of_whole_rows(self) -> bool {
        matches!(self, Self::Classify | Self::Regress)
    }
}

/// What a row is answered with where it is answered as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these classes, which are the row's candidates in this order.
    Classes(&'static [&'static str]),
    /// A number.
    Number,
}

impl Outcome {
    /// What an encoder trains for.
    pub fn objective(self) -> Objective {
        match self {
            Self::Classes(_) => Objective::Classify,
            Self::Number => Objective::Regress,
        }
    }

    /// Outputs of the head that gives it.
    pub fn outputs(self) -> usize {
        match self {
            Self::Classes(names) => names.len(),
            Self::Number => 1,
        }
    }
}
