//! The batches of `quanta bench train`: random tokens with the lengths of real prompts, as training lays them out or as it would without one of its savings; or
//! the questions of real data, which `questions` reads.
//!
//! Every layout draws the same tokens in the same order, so that two layouts of the same samples give the same losses, to rounding.

use super::questions::{QuestionSource, Questions};
use crate::data::batch::{Weighting, pack};
use crate::data::example::Encoded;
use crate::data::question::{Question, pack_questions};
use crate::ops::Batch;
use crate::ops::loss::{Label, rows};
use crate::tensor::Stream;

/// What a sample is, and how samples lie in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A prompt and an answer; the loss is on the answer.
    Answers {
        /// Whether the head computes logits of every row, those without an answer counting nothing, instead of those that predict one; what the last layer
        /// computes besides keys and values follows.
        all_rows: bool,
        /// Whether samples are filled up to the longest, and to a multiple of 8, instead of packed.
        padded: bool,
    },
    /// A prompt and candidates, one of them right; the loss is the choice's.
    Choices {
        /// Candidates of each prompt.
        candidates: usize,
        /// Whether they share their prompt's tokens instead of each repeating it.
        shared: bool,
    },
}

/// Where the samples come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Random tokens.
    Random {
        /// Mean length of the prompts, in tokens.
        mean_length: usize,
        /// How samples lie in a batch.
        layout: Layout,
    },
    /// Rows of real data with candidates.
    Questions(QuestionSource),
}

impl Default for Layout {
    /// As training does.
    fn default() -> Self {
        Self::Answers { all_rows: false, padded: false }
    }
}

/// Most and least tokens of a sample.
const LENGTHS: (f64, f64) = (64.0, 512.0);
/// Standard deviation of the logarithm of a length.
const SPREAD: f64 = 0.35;
/// Trained tokens of a sample.
const ANSWER: usize = 5;

/// Samples of a micro-batch.
pub(super) struct Samples {
    /// How many.
    pub(super) batch: usize,
    /// Mean length in tokens.
    pub(super) mean_length: usize,
    /// Tokens of the model.
    pub(super) vocab: u64,
    /// How they lie in the batch.
    pub(super) layout: Layout,
}

/// The micro-batches of a measurement, one after the other.
pub(super) enum Batches {
    /// Of random tokens.
    Random(Samples, Box<Stream>),
    /// Of real data.
    Questions(Questions),
}

impl Batches {
    /// Most tokens of a micro-batch, and of a sample.
    pub(super) fn most_tokens(&self) -> (usize, usize) {
        match self {
            Self::Random(samples, _) => samples.most_tokens(),
            Self::Questions(questions) => questions.most_tokens(),
        }
    }

    /// Most labelled rows of a micro-batch.
    pub(super) fn most_labels(&self) -> usize {
        match self {
            Self::Random(samples, _) => samples.most_labels(),
            Self::Questions(questions) => questions.most_labels(),
        }
    }

    /// The next micro-batch, and what it adds to `work`.
    pub(super) fn draw(&mut self, work: &mut Work) -> Batch {
        match self {
            Self::Random(samples, stream) => samples.draw(stream, work),
            Self::Questions(questions) => questions.draw(work),
        }
    }
}

/// Passes of the head over the rows of a choice, forward and backward together as one: the candidates' probabilities first, then the gradient that follows from
/// them, so that it runs forward twice.
pub(super) const CHOICE_HEAD: f64 = 1.5;

/// What a pass over some batches computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    /// Tokens that are computed, padding among them.
    pub(super) computed: usize,
    /// Tokens without padding.
    pub(super) tokens: usize,
    /// Tokens that attention sees, summed over tokens.
    pub(super) seen: usize,
    /// Tokens whose state the head reads: of the last layer all but keys and values is computed for these alone.
    pub(super) read: usize,
    /// Rows of the head, forward and backward; rows that are only run forward count half.
    pub(super) head_rows: f64,
}

impl Work {
    /// Adds other work.
    pub(super) fn add(&mut self, other: Self) {
        self.computed += other.computed;
        self.tokens += other.tokens;
        self.seen += other.seen;
        self.read += other.read;
        self.head_rows += other.head_rows;
    }

    /// Adds a batch of which `tokens` are no padding, and over whose rows the head passes `head` times.
    pub(super) fn take(&mut self, batch: &Batch, tokens: usize, head: f64) {
        self.computed += batch.tokens.len();
        self.tokens += tokens;
        self.seen += batch.segments.positions().iter().map(|position| position + 1).sum::<usize>();
        let read = rows(&batch.labels).len();
        self.read += read;
        self.head_rows += head * read as f64;
    }
}

impl Samples {
    /// Most tokens of a micro-batch, and of a sample.
    pub(super) fn most_tokens(&self) -> (usize, usize) {
        let longest = LENGTHS.1 as usize;
        let each = match self.layout {
            Layout::Answers { .. } => longest,
            Layout::Choices { candidates, shared: true } => longest + candidates.saturating_mul(ANSWER),
            Layout::Choices { candidates, shared: false } => longest.saturating_mul(candidates),
        };
        (each.saturating_mul(self.batch), longest)
    }

    /// Most labelled rows of a micro-batch.
    pub(super) fn most_labels(&self) -> usize {
        match self.layout {
            Layout::Answers { all_rows: true, .. } => self.most_tokens().0,
            Layout::Answers { .. } => ANSWER * self.batch,
            Layout::Choices { candidates, .. } => candidates.saturating_mul(ANSWER * self.batch),
        }
    }

    /// The next micro-batch, and what it adds to `work`.
    pub(super) fn draw(&self, stream: &mut Stream, work: &mut Work) -> Batch {
        let mut samples: Vec<Encoded> = (0..self.batch).map(|_| self.sample(stream)).collect();
        let tokens: usize = samples.iter().map(|sample| sample.tokens.len()).sum();
        let (batch, head) = match self.layout {
            Layout::Answers { all_rows, padded } => {
                if padded {
                    let longest = samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0);
                    samples.iter_mut().for_each(|sample| sample.tokens.resize(longest.next_multiple_of(8), 0));
                }
                let mut batch = pack(&samples.iter().collect::<Vec<_>>(), Weighting::Token);
                if all_rows {
                    label_all(&mut batch);
                }
                (batch, 1.0)
            }
            Layout::Choices { candidates, shared } => {
                let question = |sample| self.question(sample, candidates, stream);
                let questions: Vec<Question> = samples.into_iter().map(question).collect();
                (pack_questions(&questions.iter().collect::<Vec<_>>(), shared), CHOICE_HEAD)
            }
        };
        let padding = matches!(self.layout, Layout::Answers { padded: true, .. });
        work.take(&batch, if padding { tokens } else { batch.tokens.len() }, head);
        batch
    }

    fn sample(&self, stream: &mut Stream) -> Encoded {
        let length = ((self.mean_length as f64).ln() + SPREAD * stream.normal()).exp().clamp(LENGTHS.0, LENGTHS.1);
        let tokens = (0..length as usize).map(|_| self.token(stream)).collect();
        Encoded::with_tail(tokens, ANSWER, false)
    }

    /// The sample as the right candidate, and others that end otherwise.
    fn question(&self, sample: Encoded, candidates: usize, stream: &mut Stream) -> Question {
        let prompt = sample.tokens.len() - ANSWER;
        let other = |_| {
            let answer = (0..ANSWER).map(|_| self.token(stream));
            Encoded::with_tail(sample.tokens[..prompt].iter().copied().chain(answer).collect(), ANSWER, false)
        };
        let others: Vec<Encoded> = (1..candidates).map(other).collect();
        Question { candidates: std::iter::once(sample).chain(others).collect(), gold: 0 }
    }

    fn token(&self, stream: &mut Stream) -> u32 {
        5 + stream.below(self.vocab - 5) as u32
    }
}

/// Gives rows without a label one that counts nothing, so that the head computes them all.
fn label_all(batch: &mut Batch) {
    let mut labelled = vec![false; batch.tokens.len()];
    batch.labels.iter().for_each(|label| labelled[label.row] = true);
    let others = (0..labelled.len()).filter(|&row| !labelled[row]);
    batch.labels.extend(others.map(|row| Label { row, target: 0, weight: 0.0 }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(layout: Layout) -> (Batch, Work) {
        let (samples, mut work) = (Samples { batch: 3, mean_length: 80, vocab: 50, layout }, Work::default());
        let batch = samples.draw(&mut Stream::new(1, "test", "samples"), &mut work);
        assert!(batch.tokens.len() <= samples.most_tokens().0 && rows(&batch.labels).len() <= samples.most_labels());
        (batch, work)
    }

    #[test]
    fn layouts_hold_the_same_samples() {
        let (packed, work) = draw(Layout::default());
        assert_eq!((packed.labels.len(), packed.weight(), work.head_rows), (15, 15.0, 15.0));
        assert_eq!((work.tokens, work.computed), (packed.tokens.len(), packed.tokens.len()));
        let targets = |batch: &Batch| -> Vec<u32> {
            let labels = batch.labels.iter().filter(|label| label.weight > 0.0);
            labels.map(|label| label.target).collect()
        };
        let (all, all_work) = draw(Layout::Answers { all_rows: true, padded: false });
        assert_eq!((&all.tokens, targets(&all), all.weight()), (&packed.tokens, targets(&packed), 15.0));
        let every = all.tokens.len();
        assert_eq!(all_work, Work { read: every, head_rows: every as f64, ..work });
        let (padded, padded_work) = draw(Layout::Answers { all_rows: false, padded: true });
        assert_eq!(targets(&padded), targets(&packed));
        assert_eq!((padded_work.tokens, padded.tokens.len() % 24), (work.tokens, 0));
        assert!(padded_work.computed > work.computed && padded_work.seen > work.seen);
    }

    #[test]
    fn candidates_are_the_same_with_and_without_their_prompt() {
        let (shared, work) = draw(Layout::Choices { candidates: 4, shared: true });
        let (separate, all) = draw(Layout::Choices { candidates: 4, shared: false });
        let targets = |batch: &Batch| batch.labels.iter().map(|label| label.target).collect::<Vec<_>>();
        assert_eq!((targets(&shared), &shared.choices), (targets(&separate), &separate.choices));
        assert_eq!((shared.choices.len(), shared.labels.len()), (3, 60));
        assert!(work.tokens < all.tokens && work.head_rows < all.head_rows && all.head_rows == 90.0);
    }
}
