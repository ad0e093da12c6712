//! Which tensors a model is made of: names and shapes, known from the configuration before a file is opened.

use std::{ops::Range, slice};

use crate::weights::{FeedForwardPlan, feed_forward::Role};

/// A tensor as it should be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// `[rows, cols]` or `[len]`.
    pub shape: Vec<usize>,
    /// What is to be done to it on its way to the device.
    pub stored: Stored,
    /// What of it is loaded.
    pub kept: Kept,
    /// Where it is in a stack of such tensors, whose name it then has.
    pub stack: Option<Stack>,
}

/// The place of a matrix in a stored tensor of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Its index.
    pub index: usize,
    /// How many there are.
    pub len: usize,
}

/// How the file differs from what is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Not at all.
    AsIs,
    /// A vector that lacks 1.
    LessOne,
    /// Rows of heads, or elements of their bias, of which those that are rotated against each other are neighbours; we
    /// compute with halves.
    NeighbouringPairs {
        /// Rows of a head.
        head_dim: usize,
    },
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
        let (stored, kept) = (Stored::AsIs, Kept::All);
        Self { name: name.into(), shape: vec![rows, cols], stored, kept, stack: None }
    }

    /// Describes a vector.
    pub fn vector(name: impl Into<String>, len: usize) -> Self {
        let (stored, kept) = (Stored::AsIs, Kept::All);
        Self { name: name.into(), shape: vec![len], stored, kept, stack: None }
    }

    /// Returns the shape in the file.
    pub fn stored_shape(&self) -> Vec<usize> {
        self.stack.iter().map(|stack| stack.len).chain(self.shape.iter().copied()).collect()
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

/// The tensors of a norm.
#[derive(Clone, Debug)]
pub struct NormPlan {
    /// A factor an element.
    pub weight: TensorSpec,
    /// A summand an element, of norms by mean and variance.
    pub bias: Option<TensorSpec>,
}

/// The tensors of one layer; a list is stacked by rows into one matrix or vector.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// Norm before attention.
    pub attention_norm: NormPlan,
    /// Queries, keys and values, in this order.
    pub qkv: Vec<TensorSpec>,
    /// Their biases, in the same order.
    pub qkv_bias: Option<Vec<TensorSpec>>,
    /// Norms of a head's query and key.
    pub head_norms: Option<[TensorSpec; 2]>,
    /// From the heads back to the residual stream.
    pub attention_output: TensorSpec,
    /// Its bias.
    pub attention_output_bias: Option<TensorSpec>,
    /// Norm before the feed-forward part.
    pub ffn_norm: NormPlan,
    /// The feed-forward part.
    pub ffn: FeedForwardPlan,
}

/// The tensors of a whole model.
#[derive(Clone, Debug)]
pub struct WeightPlan {
    /// A row a token.
    pub embedding: TensorSpec,
    /// First to last.
    pub layers: Vec<LayerPlan>,
    /// Norm before the head.
    pub final_norm: NormPlan,
    /// A row a token; `None` is the embedding.
    pub head: Option<TensorSpec>,
    /// Endings of the names of tensors that may be stored and have no use.
    pub ignored_suffixes: Vec<&'static str>,
}

impl WeightPlan {
    /// Returns every tensor, each once.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        let layers = self.layers.iter().flat_map(LayerPlan::tensors);
        let table = std::iter::once(&self.embedding);
        table.chain(self.final_norm.tensors()).chain(&self.head).chain(layers)
    }

    /// Returns every tensor, each once, to be changed.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorSpec> {
        let layers = self.layers.iter_mut().flat_map(LayerPlan::tensors_mut);
        let table = std::iter::once(&mut self.embedding);
        table.chain(self.final_norm.tensors_mut()).chain(&mut self.head).chain(layers)
    }

    /// Returns every norm of the residual stream, to be changed.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut NormPlan> {
        let layers = self.layers.iter_mut();
        let layers = layers.flat_map(|layer| [&mut layer.attention_norm, &mut layer.ffn_norm]);
        std::iter::once(&mut self.final_norm).chain(layers)
    }

    /// Returns every matrix, by the tensors that are stacked in it, and what it is.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&[TensorSpec], Role)> {
        let single = std::iter::once(&self.embedding).chain(&self.head).map(slice::from_ref);
        let single = single.map(|parts| (parts, Role::Plain));
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

    /// Returns the number of parameters of all experts.
    pub fn num_in_experts(&self) -> u64 {
        let experts = self.matrices().filter(|(_, role)| *role == Role::Expert);
        experts.flat_map(|(parts, _)| parts).map(|part| part.num_elements() as u64).sum()
    }
}

impl NormPlan {
    fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorSpec> {
        std::iter::once(&mut self.weight).chain(&mut self.bias)
    }
}

impl LayerPlan {
    /// Returns every matrix, by the tensors that are stacked in it, and what it is.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&[TensorSpec], Role)> {
        let attention = [&self.qkv[..], slice::from_ref(&self.attention_output)];
        attention.into_iter().map(|parts| (parts, Role::Plain)).chain(self.ffn.matrices())
    }

    fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        let norms = self.attention_norm.tensors().chain(self.ffn_norm.tensors());
        let [matrices, biases] = self.ffn.tensors();
        let products = std::iter::once(&self.attention_output).chain(matrices);
        let heads = self.qkv.iter().chain(self.qkv_bias.iter().flatten());
        let biases = self.attention_output_bias.iter().chain(biases);
        let head_norms = self.head_norms.iter().flatten();
        norms.chain(products).chain(heads).chain(biases).chain(head_norms)
    }

    fn tensors_mut(&mut self) -> impl Iterator<Item = &mut TensorSpec> {
        let norms = self.attention_norm.tensors_mut().chain(self.ffn_norm.tensors_mut());
        let [matrices, biases] = self.ffn.tensors_mut();
        let products = std::iter::once(&mut self.attention_output).chain(matrices);
        let heads = self.qkv.iter_mut().chain(self.qkv_bias.iter_mut().flatten());
        let biases = self.attention_output_bias.iter_mut().chain(biases);
        let head_norms = self.head_norms.iter_mut().flatten();
        norms.chain(products).chain(heads).chain(biases).chain(head_norms)
    }
}
