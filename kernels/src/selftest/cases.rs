//! The grid: shapes of real models, edges of the tiles, ragged batches.

use crate::backend::{Backend, BackendError};
use crate::metadata::{AttentionShape, KvDType};
use crate::reference::ReferenceBackend;
use crate::selftest::adapters::adapters;
use crate::selftest::mixtures::mixtures;
use crate::selftest::products::products;
use crate::selftest::rig::{Random, relative_error};
use crate::selftest::rows::rows;
use crate::selftest::sampling::sampling;
use crate::selftest::world::{Outputs, World};
use crate::selftest::{OPERAND_LIMIT, Outcome, SUM_LIMIT};

/// How many shapes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// A few of each operator: seconds on the emulated device.
    Quick,
    /// All: seconds on a GPU.
    Full,
}

/// Operators that are tried together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those of a row each: embedding and its factor, norms, gather; and whether weights are numbers.
    Rows,
    /// Products with weights.
    Products,
    /// Mixtures of experts: the router's choice, and the experts' products.
    Mixtures,
    /// Adapters, and the functions of feed-forward parts by themselves.
    Adapters,
    /// Rotation, cache and attention.
    Attention,
    /// Choosing tokens, where the backend does.
    Sampling,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 6] = [
        Self::Rows,
        Self::Products,
        Self::Mixtures,
        Self::Adapters,
        Self::Attention,
        Self::Sampling,
    ];
}

/// Runs every case of a group and hands each outcome to `sink`.
///
/// # Errors
/// The backend failed or refused a case: nothing after it was tried.
pub fn run<B: Backend>(
    backend: &mut B,
    group: Group,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    match group {
        Group::Rows => rows(backend, sink),
        Group::Products => products(backend, grid, sink),
        Group::Mixtures => mixtures(backend, grid, sink),
        Group::Adapters => adapters(backend, grid, sink),
        Group::Attention => attentions(backend, grid, sink),
        Group::Sampling => sampling(backend, sink),
    }
}

fn attentions<B: Backend>(
    backend: &mut B,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let head_dims: &[usize] = match grid {
        Grid::Quick => &[64, 80],
        Grid::Full => &[16, 64, 80, 128, 256],
    };
    for &head_dim in head_dims {
        let mut cases = vec![(2, 1, 16, None), (1, 7, 16, Some(13))];
        if grid == Grid::Full {
            cases.extend([(2, 4, 8, Some(1)), (1, 24, 32, None), (1, 6, 24, Some(40))]);
        }
        for (num_kv_heads, group, block_size, window) in cases {
            let shape = AttentionShape {
                num_heads: num_kv_heads * group,
                num_kv_heads,
                head_dim,
                block_size,
                kv_dtype: KvDType::F16,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window,
            };
            attention(backend, &World::new(shape, &[41, 1, 18, 70], head_dim as u64), sink)?;
        }
    }
    // More than one split, and splits that a window cuts off.
    for window in [None, Some(300)] {
        let shape = AttentionShape {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            block_size: 16,
            kv_dtype: KvDType::F16,
            scale: 0.125,
            window,
        };
        attention(backend, &World::new(shape, &[530, 280], 9), sink)?;
    }
    if grid == Grid::Full {
        many_splits(backend, sink)?;
    }
    Ok(())
}

/// More splits than are added up at once.
fn many_splits<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let shape = AttentionShape {
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        block_size: 32,
        kv_dtype: KvDType::F16,
        scale: 0.25,
        window: None,
    };
    attention(backend, &World::new(shape, &[2100], 9), sink)
}

/// Prefills, chunks and decodes mixed against the reference; decodes and chunks together against those alone.
fn attention<B: Backend>(
    backend: &mut B,
    world: &World,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let mixed = world.mixed(&mut Random(world.shape.num_heads as u64));
    let got = world.run(backend, &mixed)?;
    let expected = world.run(&mut ReferenceBackend, &mixed)?;
    let case = format!("{:?}", world.shape);
    let all = |outputs: &[Outputs], part: fn(&Outputs) -> &Vec<f32>| {
        outputs.iter().flat_map(|outputs| part(outputs).clone()).collect::<Vec<f32>>()
    };
    let queries: fn(&Outputs) -> &Vec<f32> = |outputs| &outputs.queries;
    let out: fn(&Outputs) -> &Vec<f32> = |outputs| &outputs.out;
    for (operator, part, limit) in
        [("rope_and_cache_write", queries, SUM_LIMIT), ("attention", out, OPERAND_LIMIT)]
    {
        let error = relative_error(&all(&got, part), &all(&expected, part));
        sink(Outcome { operator, case: case.clone(), against: "reference", error, limit });
    }

    for (num_new, against) in [(1, "decodes alone"), (19, "chunks alone")] {
        let begin = |index: usize| world.len_of(index).saturating_sub(num_new);
        let last = |index: usize| (index, begin(index)..world.len_of(index));
        let num_seqs = world.qkv.len();
        let mut together: Vec<_> = (0..num_seqs).map(|i| vec![(i, 0..begin(i))]).collect();
        together.retain(|pieces| !pieces[0].1.is_empty());
        let mut apart = together.clone();
        together.push((0..num_seqs).map(last).collect());
        apart.extend((0..num_seqs).map(|index| vec![last(index)]));
        let [together, apart] = [world.run(backend, &together)?, world.run(backend, &apart)?];
        sink(Outcome {
            operator: "attention",
            case: case.clone(),
            against,
            error: relative_error(&all(&together, out), &all(&apart, out)),
            limit: 0.0,
        });
    }
    Ok(())
}
