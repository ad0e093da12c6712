//! Adapters of low rank (LoRA): what a fine-tuning adds to a product, `B A x`, chosen for each token of a step.
//!
//! A [`Lora`] is a backend's room for that and its operators, one for all layers. Adapters of a product are brought to one
//! rank with zeros, so that those of all tokens are computed together, each read once a step; a token without an adapter
//! takes no part.

use std::fmt::Debug;

use crate::backend::{Backend, BackendError, DType, MatrixData};
use crate::checks::Check;

/// In [`StepInput::adapters`](crate::metadata::StepInput::adapters): the token has none.
pub const NO_ADAPTER: u32 = u32::MAX;

/// Ranks are multiples of this: a GPU reads eight columns at a time.
pub const RANK_MULTIPLE: usize = 8;

/// The largest sizes of the products that adapters add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraShape {
    /// Adapters that a token can have.
    pub num_adapters: usize,
    /// Columns of the widest `A`: what the product reads.
    pub max_cols: usize,
    /// Rows of the tallest `A`: ranks of all that is stacked in a product.
    pub max_rank: usize,
    /// Rows of the tallest `B`: what the product writes.
    pub max_rows: usize,
}

/// What an adapter adds to a product.
#[derive(Clone, Copy, Debug)]
pub struct LoraPair<'a> {
    /// `A`: `[rank, cols]`, f32.
    pub down: MatrixData<'a>,
    /// `B` with its scale: `[rows, rank]`, f32.
    pub up: MatrixData<'a>,
}

/// A backend's operators of adapters, and the room that they need beside their buffers.
pub trait Lora<B: Backend>: Send + Debug + Sized {
    /// What all adapters add to a product.
    type Pairs: Send + Debug;

    /// Allocates room for steps of at most so many tokens.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn new(backend: &mut B, shape: &LoraShape, max_num_tokens: usize)
    -> Result<Self, BackendError>;

    /// Stores what each adapter adds to a product, all of one shape. To be called before [`Backend::reserve`].
    ///
    /// # Errors
    /// [`BackendError::Shape`] where a pair does not fit the others or the room; [`BackendError::OutOfMemory`].
    fn pairs(&self, backend: &mut B, pairs: &[LoraPair<'_>]) -> Result<Self::Pairs, BackendError>;

    /// Finds which tokens of a loaded step have which adapter. To be asked for in each step before the first layer.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the step has no adapters, or one that is not there.
    fn group(&mut self, backend: &mut B, step: &B::Step) -> Result<(), BackendError>;

    /// `out += x Aᵀ Bᵀ` with each token's own pair, as they were grouped last; `x` `[num_tokens, cols]`, an operand, `out`
    /// `[num_tokens, rows]`. What is added to a token does not depend on who shares the step.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn add(
        &mut self,
        backend: &mut B,
        x: &B::Buffer,
        pairs: &Self::Pairs,
        out: &mut B::Buffer,
    ) -> Result<(), BackendError>;
}

/// The shape of the pairs of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PairShape {
    pub(crate) rank: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl LoraShape {
    /// A pair must be there for each adapter, all of one shape that fits the room. Returns the shape.
    pub(crate) fn check_pairs(&self, pairs: &[LoraPair<'_>]) -> Result<PairShape, BackendError> {
        let check = Check("adapters");
        check.equal("pairs of a product", pairs.len(), self.num_adapters)?;
        let Some(first) = pairs.first() else {
            return check.refuse("a product must have at least one pair, got 0".to_owned());
        };
        let shape = PairShape { rank: first.down.rows, rows: first.up.rows, cols: first.down.cols };
        for pair in pairs {
            check.equal("rows of each A", pair.down.rows, shape.rank)?;
            check.equal("columns of each A", pair.down.cols, shape.cols)?;
            check.equal("rows of each B", pair.up.rows, shape.rows)?;
            check.equal("columns of each B", pair.up.cols, shape.rank)?;
            for part in [&pair.down, &pair.up] {
                if part.dtype != DType::F32 {
                    let name = part.dtype.name();
                    return check.refuse(format!("adapters must be f32, got {name}"));
                }
            }
        }
        check.at_most("rank of a product", shape.rank, self.max_rank)?;
        check.at_most("rows of a product", shape.rows, self.max_rows)?;
        check.at_most("columns of a product", shape.cols, self.max_cols)?;
        if shape.rank == 0 || !shape.rank.is_multiple_of(RANK_MULTIPLE) {
            let rank = shape.rank;
            return check.refuse(format!(
                "the rank of a product must be a multiple of {RANK_MULTIPLE} and not 0, got {rank}"
            ));
        }
        Ok(shape)
    }
}
