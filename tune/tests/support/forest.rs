//! Packed batches with trees for the whole-model suites, and the same predictions as separate sequences.
//!
//! A forest is written down once, as pieces with parents. [`Forest::batch`] packs it; [`Forest::sequences`] unrolls every path from a root to a leaf into a
//! sequence of its own, where a label on tokens that several paths share is counted on one of them only.

use quanta_tune::ops::loss::Label;
use quanta_tune::ops::{Batch, Segments};

/// Tokens that continue their parent's path.
struct Piece {
    parent: Option<usize>,
    tokens: Vec<u32>,
}

/// A prediction of token `index` of piece `piece` from the token before it on the path.
#[derive(Clone, Copy)]
struct Prediction {
    piece: usize,
    index: usize,
    weight: f64,
}

/// A batch as a person would draw it.
pub struct Forest {
    pieces: Vec<Piece>,
    predictions: Vec<Prediction>,
}

impl Forest {
    /// Two trees and a plain root, tokens below `vocabulary` (at least 20): a root with four children of different length of which one is a prefix of
    /// another, grandchildren, a root whose child has a child of one token. Three of four tokens are labelled, with different weights.
    pub fn new(vocabulary: u32) -> Self {
        let shape: [(Option<usize>, &[u32]); 11] = [
            (None, &[3, 17, 5, 5, 9]),
            (Some(0), &[11, 2, 14]),
            (Some(1), &[6, 19]),
            (Some(1), &[1, 6, 0, 12]),
            // the first two tokens of piece 1
            (Some(0), &[11, 2]),
            (Some(0), &[7]),
            (None, &[8, 8, 13, 2, 4, 0, 16]),
            (None, &[15, 10, 3]),
            (Some(7), &[18, 1, 1, 9, 5, 2]),
            (Some(8), &[4]),
            (Some(7), &[3, 12]),
        ];
        let piece = |(parent, tokens): (Option<usize>, &[u32])| {
            let tokens: Vec<u32> = tokens.iter().map(|token| token % vocabulary).collect();
            Piece { parent, tokens }
        };
        let pieces: Vec<Piece> = shape.into_iter().map(piece).collect();
        let mut predictions = Vec::new();
        for (piece, Piece { parent, tokens }) in pieces.iter().enumerate() {
            for index in 0..tokens.len() {
                let number = predictions.len() + piece;
                // a first token has something to predict it only below a parent; there it is always labelled
                let first = index == 0;
                if (first && parent.is_some()) || (!first && number % 4 != 3) {
                    predictions.push(Prediction { piece, index, weight: [1.0, 0.5, 2.0][number % 3] });
                }
            }
        }
        Self { pieces, predictions }
    }

    /// The packed batch.
    pub fn batch(&self) -> Batch {
        let lengths: Vec<_> = self.pieces.iter().map(|piece| (piece.tokens.len(), piece.parent)).collect();
        let segments = Segments::new(&lengths).unwrap();
        let row = |&Prediction { piece, index, .. }: &Prediction| match (index, self.pieces[piece].parent) {
            (0, Some(parent)) => segments.list()[parent].end - 1,
            _ => segments.list()[piece].start + index - 1,
        };
        let labels = self.predictions.iter().map(|prediction| self.label(prediction, row(prediction))).collect();
        let tokens = self.pieces.iter().flat_map(|piece| piece.tokens.clone()).collect();
        Batch { tokens, segments, labels, choices: Vec::new(), targets: Vec::new() }
    }

    /// One batch for each path from a root to a leaf. Where a label lies on several paths, `choose(number of paths)` says which one counts it.
    pub fn sequences(&self, mut choose: impl FnMut(usize) -> usize) -> Vec<Batch> {
        let has_child = |piece: usize| self.pieces.iter().any(|other| other.parent == Some(piece));
        let paths: Vec<Vec<usize>> =
            (0..self.pieces.len()).filter(|&piece| !has_child(piece)).map(|leaf| self.path(leaf)).collect();
        let mut labels = vec![Vec::new(); paths.len()];
        for prediction in &self.predictions {
            let on: Vec<usize> = (0..paths.len()).filter(|&path| paths[path].contains(&prediction.piece)).collect();
            let path = on[choose(on.len())];
            let before = paths[path].iter().take_while(|&&piece| piece != prediction.piece);
            let before: usize = before.map(|&piece| self.pieces[piece].tokens.len()).sum();
            labels[path].push(self.label(prediction, before + prediction.index - 1));
        }
        let tokens = |path: &[usize]| path.iter().flat_map(|&p| self.pieces[p].tokens.clone()).collect::<Vec<_>>();
        paths.iter().zip(labels).map(|(path, labels)| Batch::packed(&[&tokens(path)], labels)).collect()
    }

    /// A piece and its ancestors, root first.
    fn path(&self, piece: usize) -> Vec<usize> {
        let mut path = self.pieces[piece].parent.map_or_else(Vec::new, |parent| self.path(parent));
        path.push(piece);
        path
    }

    fn label(&self, prediction: &Prediction, row: usize) -> Label {
        Label { row, target: self.pieces[prediction.piece].tokens[prediction.index], weight: prediction.weight }
    }
}

/// All batches as one, root after root.
pub fn packed(batches: &[Batch]) -> Batch {
    let tokens: Vec<&[u32]> = batches.iter().map(|batch| &batch.tokens[..]).collect();
    let mut labels = Vec::new();
    let mut offset = 0;
    for batch in batches {
        labels.extend(batch.labels.iter().map(|label| Label { row: offset + label.row, ..*label }));
        offset += batch.tokens.len();
    }
    Batch::packed(&tokens, labels)
}
