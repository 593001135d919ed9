//! Keys and values kept between passes, so that a token costs one row of every linear however long the text before it is.
//!
//! [`Decoder::prefill`] runs a packed batch once and keeps each layer's rotated keys and values: a [`Prefix`]. A [`Continuation`] is one sequence that goes
//! on behind the path of one of its segments, with tokens of its own; any number may go on behind the same segment, whose tokens are held once.
//! [`Decoder::step`] gives every live continuation its next token, all of them in one pass over the linears. Continuations are plain values: one that is
//! finished is dropped from the list, and a prefix goes with its last continuation. Which tokens follow is left to the caller.

use std::ops::Range;
use std::sync::Arc;

use super::config::ModelConfig;
use super::decoder::{Decoder, distinct};
use super::layer::Shared;
use crate::adapter::Pass;
use crate::ops::decode::{self, Paths, Run};
use crate::ops::{Batch, Segments};
use crate::tensor::{Buffer, Matrix, Real, Workspace};

/// Tokens by which a continuation's memory grows.
const PAGE: usize = 16;

/// Keys and values of a packed batch. Cheap to clone: clones share them.
#[derive(Clone)]
pub struct Prefix<T: Real>(Arc<Forest<T>>);

struct Forest<T: Real> {
    segments: Segments,
    /// Keys and values of each layer, head-major `[kv_heads * tokens, head_dim]`.
    layers: Vec<[Matrix<T>; 2]>,
}

impl<T: Real> Prefix<T> {
    /// A sequence that goes on behind the last token of `segment`, with no token of its own yet.
    ///
    /// # Panics
    /// When the batch has no such segment.
    pub fn continuation(&self, segment: usize) -> Continuation<T> {
        let segments = &self.0.segments;
        let mut path = segments.ancestors(segment);
        path.push(segments.list()[segment].range());
        let inherited = path.iter().map(Range::len).sum();
        Continuation { forest: Arc::clone(&self.0), path, inherited, own: 0, pages: Vec::new() }
    }

    /// Rotated keys and values of each layer, head-major `[kv_heads * tokens, head_dim]`; virtual tokens behind the others.
    pub fn layers(&self) -> &[[Matrix<T>; 2]] {
        &self.0.layers
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.0.layers.iter().flatten().map(Matrix::bytes).sum()
    }
}

/// A sequence behind a prefix: its path through the prefix, and keys and values of the tokens it was given since.
pub struct Continuation<T: Real> {
    forest: Arc<Forest<T>>,
    path: Vec<Range<usize>>,
    /// Tokens of the path.
    inherited: usize,
    /// Tokens given since.
    own: usize,
    /// Own keys and values, [`PAGE`] tokens a page: `[layers][keys, values][kv_heads][PAGE, head_dim]`.
    pages: Vec<Buffer<T>>,
}

impl<T: Real> Continuation<T> {
    /// Tokens so far: the path's and its own.
    pub fn tokens(&self) -> usize {
        self.inherited + self.own
    }

    /// Bytes of its own keys and values; the prefix's are shared.
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.len() * size_of::<T>()).sum()
    }

    /// Makes room for one more token.
    fn grow(&mut self, config: &ModelConfig, workspace: &Workspace<T>) {
        if self.own.is_multiple_of(PAGE) {
            self.pages.push(workspace.buffer(config.layers * 2 * block(config)));
        }
        self.own += 1;
    }

    /// Keeps keys and values of the newest token, which is row `row` of `sequences`.
    fn keep(&mut self, layer: usize, row: usize, sequences: usize, new: [&Matrix<T>; 2], config: &ModelConfig) {
        let (dim, slot) = (config.head_dim, (self.own - 1) % PAGE);
        let page = &mut self.pages[(self.own - 1) / PAGE];
        for (kind, new) in new.into_iter().enumerate() {
            for head in 0..config.kv_heads {
                let at = (layer * 2 + kind) * block(config) + (head * PAGE + slot) * dim;
                page[at..at + dim].copy_from_slice(new.row(head * sequences + row));
            }
        }
    }

    /// Keys and values of a layer, from the root to the newest token.
    fn runs(&self, layer: usize, config: &ModelConfig) -> impl Iterator<Item = Run<'_, T>> {
        let (dim, block) = (config.head_dim, block(config));
        let [keys, values] = &self.forest.layers[layer];
        let stride = self.forest.segments.keys() * dim;
        let shared = self.path.iter().map(move |range| {
            let at = range.start * dim;
            Run { keys: &keys.data()[at..], values: &values.data()[at..], stride, tokens: 0..range.len() }
        });
        let own = self.pages.iter().enumerate().map(move |(index, page)| {
            let (keys, values) = page[layer * 2 * block..(layer + 1) * 2 * block].split_at(block);
            Run { keys, values, stride: PAGE * dim, tokens: 0..PAGE.min(self.own - index * PAGE) }
        });
        shared.chain(own)
    }
}

/// Elements of the keys of one layer in a page.
fn block(config: &ModelConfig) -> usize {
    config.kv_heads * PAGE * config.head_dim
}

/// Bytes of keys and values for `prefilled` tokens of prefixes and `sequences` continuations that are given up to `own` tokens each.
pub fn cache_bytes(config: &ModelConfig, prefilled: usize, sequences: usize, own: usize, number_bytes: usize) -> u64 {
    let token = (config.layers * 2 * config.kv_heads * config.head_dim * number_bytes) as u64;
    let tokens = (own as u64).next_multiple_of(PAGE as u64).saturating_mul(sequences as u64);
    tokens.saturating_add(prefilled as u64).saturating_mul(token)
}

impl<T: Real> Decoder<T> {
    /// Runs a packed batch and keeps its keys and values; with them the logits of the given token rows, `[rows.len(), vocab]`. The batch's labels are not
    /// looked at.
    ///
    /// # Panics
    /// When a token id is not below the vocabulary size, or the model is no decoder.
    pub fn prefill(&self, batch: &Batch, rows: &[usize], pass: &Pass<'_, T>) -> (Prefix<T>, Matrix<T>) {
        let (learned, segments) = self.virtual_tokens(batch, pass);
        let ropes = self.ropes(segments.positions(), pass);
        let shared = Shared { segments: &segments, ropes: &ropes, learned: learned.as_ref(), pass };
        let mut x = self.embedding.forward(batch, pass).0;
        assert!(self.config.attention.causal, "only a decoder goes on");
        let (distinct, places) = distinct(rows);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let (output, kept) = layer.prefill(&x, self.is_last(index).then_some(distinct.as_slice()), shared);
            x = output;
            layers.push(kept);
        }
        let logits = self.project(&x, &places, pass);
        (Prefix(Arc::new(Forest { segments: segments.into_owned(), layers })), logits)
    }

    /// Gives each of `live` its next token and returns the logits behind it, `[live.len(), vocab]`: what [`Decoder::logits`] gives for the last row of the
    /// whole sequence, to rounding.
    ///
    /// Cost: one row of every linear a sequence, and attention over its path.
    ///
    /// # Panics
    /// When `live` is empty, there is not one token for each of it, or a token id is not below the vocabulary size.
    pub fn step(&self, live: &mut [Continuation<T>], tokens: &[u32], pass: &Pass<'_, T>) -> Matrix<T> {
        assert!(!live.is_empty() && live.len() == tokens.len(), "one token for each sequence");
        let (config, workspace) = (&self.config, pass.workspace);
        let positions: Vec<usize> = live.iter().map(Continuation::tokens).collect();
        let ropes = self.ropes(&positions, pass);
        live.iter_mut().for_each(|sequence| sequence.grow(config, workspace));
        let mut x = self.embedding.infer(tokens, &positions, pass);
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.step(&x, &ropes, pass, |[q, k, v]| {
                for (row, sequence) in live.iter_mut().enumerate() {
                    sequence.keep(index, row, tokens.len(), [k, v], config);
                }
                let (mut paths, rule) = (Paths::default(), layer.attention.rule);
                live.iter().for_each(|sequence| paths.push(sequence.runs(index, config), rule.window));
                decode::forward(q, layer.attention.groups(), &paths, rule, workspace)
            });
        }
        let rows: Vec<usize> = (0..tokens.len()).collect();
        self.project(&x, &rows, pass)
    }
}
