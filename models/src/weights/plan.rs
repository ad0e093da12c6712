//! Which tensors a model is made of: names and shapes, known from the configuration before a file is opened.

use std::{ops::Range, slice};

/// A tensor as it should be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// `[rows, cols]` or `[len]`.
    pub shape: Vec<usize>,
    /// What of it is loaded.
    pub kept: Kept,
}

/// The part of a stored tensor that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    All,
    /// Rows, or elements of a vector, one range behind the other.
    Rows(Vec<Range<usize>>),
    /// Columns of each row.
    Cols(Range<usize>),
}

impl TensorSpec {
    /// Describes a matrix.
    pub fn matrix(name: impl Into<String>, rows: usize, cols: usize) -> Self {
        Self { name: name.into(), shape: vec![rows, cols], kept: Kept::All }
    }

    /// Describes a vector.
    pub fn vector(name: impl Into<String>, len: usize) -> Self {
        Self { name: name.into(), shape: vec![len], kept: Kept::All }
    }

    /// Returns the number of stored elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the shape of what is loaded.
    pub fn kept_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        match &self.kept {
            Kept::All => {}
            Kept::Rows(ranges) => shape[0] = ranges.iter().map(ExactSizeIterator::len).sum(),
            Kept::Cols(range) => shape[1] = range.len(),
        }
        shape
    }

    /// Returns the number of elements that are loaded.
    pub fn num_kept(&self) -> usize {
        self.kept_shape().iter().product()
    }
}

/// The tensors of one layer; a list is stacked by rows into one matrix or vector.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// Norm before attention.
    pub attention_norm: TensorSpec,
    /// Queries, keys and values, in this order.
    pub qkv: Vec<TensorSpec>,
    /// Their biases, in the same order.
    pub qkv_bias: Option<Vec<TensorSpec>>,
    /// From the heads back to the residual stream.
    pub attention_output: TensorSpec,
    /// Norm before the feed-forward part.
    pub ffn_norm: TensorSpec,
    /// What opens and closes each element of the feed-forward part.
    pub gate: TensorSpec,
    /// Those elements.
    pub up: TensorSpec,
    /// From the feed-forward part back to the residual stream.
    pub down: TensorSpec,
}

/// The tensors of a whole model.
#[derive(Clone, Debug)]
pub struct WeightPlan {
    /// A row a token.
    pub embedding: TensorSpec,
    /// First to last.
    pub layers: Vec<LayerPlan>,
    /// Norm before the head.
    pub final_norm: TensorSpec,
    /// A row a token; `None` is the embedding.
    pub head: Option<TensorSpec>,
    /// Endings of the names of tensors that may be stored and have no use.
    pub ignored_suffixes: Vec<&'static str>,
}

impl WeightPlan {
    /// Returns every tensor, each once.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        let layers = self.layers.iter().flat_map(LayerPlan::tensors);
        [&self.embedding, &self.final_norm].into_iter().chain(&self.head).chain(layers)
    }

    /// Returns every tensor, each once, to be changed.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorSpec> {
        let layers = self.layers.iter_mut().flat_map(LayerPlan::tensors_mut);
        [&mut self.embedding, &mut self.final_norm].into_iter().chain(&mut self.head).chain(layers)
    }

    /// Returns every matrix, by the tensors that are stacked in it.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &[TensorSpec]> {
        let single = std::iter::once(&self.embedding).chain(&self.head).map(slice::from_ref);
        single.chain(self.layers.iter().flat_map(LayerPlan::matrices))
    }

    /// Returns whether a tensor of this name may be stored and have no use.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored_suffixes.iter().any(|suffix| name.ends_with(suffix))
    }

    /// Returns the number of parameters.
    pub fn num_parameters(&self) -> u64 {
        self.tensors().map(|tensor| tensor.num_elements() as u64).sum()
    }
}

impl LayerPlan {
    fn matrices(&self) -> [&[TensorSpec]; 5] {
        let single = [&self.attention_output, &self.gate, &self.up, &self.down];
        let [output, gate, up, down] = single.map(slice::from_ref);
        [&self.qkv, output, gate, up, down]
    }

    fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        let norms = [&self.attention_norm, &self.ffn_norm];
        let single = [&self.attention_output, &self.gate, &self.up, &self.down];
        let bias = self.qkv_bias.iter().flatten();
        norms.into_iter().chain(single).chain(&self.qkv).chain(bias)
    }

    fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorSpec> {
        let norms = [&mut self.attention_norm, &mut self.ffn_norm];
        let single = [&mut self.attention_output, &mut self.gate, &mut self.up, &mut self.down];
        let bias = self.qkv_bias.iter_mut().flatten();
        norms.into_iter().chain(single).chain(&mut self.qkv).chain(bias)
    }
}
