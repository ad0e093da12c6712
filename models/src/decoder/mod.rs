//! The layer loop, written once over a [`Backend`].
//!
//! All memory is taken when a [`Decoder`] is made; a step allocates nothing. Prefill, a chunk of a prefill and decode are
//! the same call with other numbers.

mod activations;
mod feed_forward;
mod layer;

use std::{collections::VecDeque, slice::from_ref, sync::Arc};

use kernels::{
    allocate,
    backend::{Backend, BackendError, Vocabulary},
    group::Member,
    lora::Lora,
    metadata::{KvDType, SampleRow, StepInput},
};

use crate::{
    LanguageModel,
    config::DecoderSpec,
    decoder::{
        activations::Activations,
        layer::{Layer, NormWeights, Pass},
    },
    error::ModelError,
    kv_cache,
    weights::{WeightPlan, WeightReader},
};

/// What the buffers of a decoder are sized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Elements of the cache.
    pub kv_dtype: KvDType,
    /// Cache blocks.
    pub num_blocks: usize,
    /// Most tokens of a step.
    pub max_num_tokens: usize,
    /// Most sequences of a step.
    pub max_num_seqs: usize,
    /// Most rows of logits of a step.
    pub max_num_logit_rows: usize,
}

/// A decoder on a device.
#[derive(Debug)]
pub struct Decoder<B: Backend> {
    spec: DecoderSpec,
    limits: DecoderLimits,
    backend: B,
    /// The rank whose shard this is; `None` where it is the whole model.
    member: Option<Arc<Member>>,
    embedding: B::Matrix,
    layers: Vec<Layer<B>>,
    final_norm: NormWeights<B>,
    /// `None` where the head is the embedding, which is stored once.
    head: Option<B::Matrix>,
    rope: B::RopeTable,
    step: B::Step,
    activations: Activations<B>,
    num_adapters: usize,
    /// Whether a token of the step that is loaded has an adapter.
    is_adapted: bool,
    /// `[max_num_logit_rows, vocab_size]`, on the host.
    logits: Vec<f32>,
    /// Tokens of each step whose tokens were not taken yet.
    num_sampled: VecDeque<usize>,
}

impl<B: Backend> Decoder<B> {
    /// Brings weights to the device and allocates every buffer; of a shard, the spec and the plan are the rank's.
    pub(crate) fn new(
        mut backend: B,
        spec: DecoderSpec,
        plan: &WeightPlan,
        reader: &mut WeightReader<'_>,
        limits: DecoderLimits,
        member: Option<Arc<Member>>,
    ) -> Result<Self, ModelError> {
        check_limits(&limits)?;
        // Buffers come before the weights: where memory is short, it shows in a moment and not after a long read.
        let adapters = reader.lora_sizes(plan);
        let activations = Activations::new(&mut backend, &spec, &limits, adapters.as_ref())?;
        let max_blocks_per_seq = spec.max_position_embeddings.div_ceil(limits.block_size);
        let step = backend.step(limits.max_num_tokens, limits.max_num_seqs, max_blocks_per_seq)?;
        let rope = backend.rope_table(
            &spec.rope.inv_freq(spec.head_dim),
            spec.max_position_embeddings,
            spec.rope.amplitude(),
        )?;
        let logits = allocate::zeroed(limits.max_num_logit_rows * spec.vocab_size, "the host")?;
        let caches = kv_cache::allocate(
            &backend,
            &spec,
            limits.block_size,
            limits.kv_dtype,
            limits.num_blocks,
        )?;

        let embedding = reader.matrix(&mut backend, from_ref(&plan.embedding))?;
        let mut layers = Vec::with_capacity(spec.num_layers);
        for (layer, cache) in plan.layers.iter().zip(caches) {
            layers.push(Layer::new(&mut backend, layer, reader, cache, &activations)?);
        }
        let final_norm = NormWeights::new(&backend, &plan.final_norm, reader)?;
        let head = match &plan.head {
            Some(head) => Some(reader.matrix(&mut backend, from_ref(head))?),
            None => None,
        };
        backend.reserve(limits.max_num_tokens)?;
        Ok(Self {
            spec,
            limits,
            backend,
            member,
            embedding,
            layers,
            final_norm,
            head,
            rope,
            step,
            activations,
            num_adapters: adapters.map_or(0, |(shape, _)| shape.num_adapters),
            is_adapted: false,
            logits,
            num_sampled: VecDeque::new(),
        })
    }

    /// Brings a step's metadata to the device.
    fn load_step(&mut self, input: &StepInput<'_>) -> Result<(), ModelError> {
        let (rows, max) = (input.logit_rows.len(), self.limits.max_num_logit_rows);
        if rows > max {
            return Err(ModelError::LogitRows { rows, max });
        }
        self.is_adapted = !input.adapters.is_empty();
        if self.is_adapted && self.activations.lora.is_none() {
            return Err(ModelError::NoAdapters);
        }
        Ok(self.backend.load_step(input, &mut self.step)?)
    }

    /// Asks for everything between a step's token ids and its logits, which stay on the device; and for its tokens, where
    /// they are sampled there.
    fn run(&mut self, is_sampled: bool) -> Result<(), BackendError> {
        let Self {
            backend,
            spec,
            member,
            embedding,
            layers,
            final_norm,
            head,
            rope,
            step,
            activations,
            is_adapted,
            ..
        } = self;
        let rows = B::rows(step);
        let (member, num_tokens) = (member.as_deref(), rows.num_tokens);
        let pass = Pass { spec, member, rope, step, num_tokens, is_adapted: *is_adapted };
        backend.run(step, &mut |backend| {
            let x = &mut *activations;
            if let Some(room) = x.lora.as_mut().filter(|_| pass.is_adapted) {
                room.lora.group(backend, step)?;
            }
            // hidden [num_tokens, hidden_size]
            backend.embed(step, embedding, &mut x.hidden)?;
            if let Some(factor) = spec.embedding_scale {
                backend.scale(rows.num_tokens, spec.hidden_size, factor, &mut x.hidden)?;
            }
            if let Some(member) = pass.member {
                // Only the first rank's tokens count: one that a rank has sampled by itself may be another where sums over
                // many rows differ in their last bits.
                if member.rank() > 0 {
                    backend.scale(rows.num_tokens, spec.hidden_size, 0.0, &mut x.hidden)?;
                }
                backend.all_reduce(member, rows.num_tokens, spec.hidden_size, &mut x.hidden)?;
            }
            for layer in &mut *layers {
                layer.forward(backend, &pass, x)?;
            }
            let num_rows = rows.num_logit_rows;
            if num_rows == 0 {
                return Ok(());
            }
            // Gathered before the norm and the head, the widest product of all: a prefill needs one row of many.
            // hidden [num_tokens, hidden_size] -> gathered [num_logit_rows, hidden_size]
            backend.gather_logit_rows(step, spec.hidden_size, &x.hidden, &mut x.gathered)?;
            backend.norm(
                num_rows,
                &x.gathered,
                final_norm.with_eps(spec.norm_eps),
                &mut x.normed,
            )?;
            let head = head.as_ref().unwrap_or(embedding);
            // normed [num_logit_rows, hidden_size] -> logits [num_logit_rows, vocab_size]
            backend.linear(num_rows, &x.normed, head, None, &mut x.logits)?;
            if is_sampled { backend.sample(step, &mut x.logits) } else { Ok(()) }
        })
    }
}

impl<B: Backend> LanguageModel for Decoder<B> {
    fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    fn backend_name(&self) -> String {
        self.backend.name()
    }

    fn num_blocks(&self) -> usize {
        self.limits.num_blocks
    }

    fn block_size(&self) -> usize {
        self.limits.block_size
    }

    fn num_adapters(&self) -> usize {
        self.num_adapters
    }

    fn forward(&mut self, input: &StepInput<'_>) -> Result<&mut [f32], ModelError> {
        self.load_step(input)?;
        self.run(false)?;
        let rows = input.logit_rows.len();
        let logits = &mut self.logits[..rows * self.spec.vocab_size];
        if rows > 0 {
            self.backend.read(&self.activations.logits, logits)?;
        }
        Ok(logits)
    }

    fn has_sampler(&self) -> bool {
        B::has_sampler()
    }

    fn start_sample(
        &mut self,
        input: &StepInput<'_>,
        num_ids: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<(), ModelError> {
        self.load_step(input)?;
        let is_sampled = !rows.is_empty();
        if is_sampled {
            let vocabulary = Vocabulary { size: self.spec.vocab_size, num_ids };
            self.backend.load_sampling(&mut self.step, vocabulary, rows)?;
        }
        self.run(is_sampled)?;
        if is_sampled {
            self.backend.send_sampled(&self.step)?;
        }
        self.num_sampled.push_back(rows.len());
        Ok(())
    }

    fn finish_sample(&mut self) -> Result<Vec<u32>, ModelError> {
        let mut tokens = vec![0; self.num_sampled.pop_front().ok_or(ModelError::NoStep)?];
        if !tokens.is_empty() {
            self.backend.receive_sampled(&mut tokens)?;
        }
        Ok(tokens)
    }
}

fn check_limits(limits: &DecoderLimits) -> Result<(), ModelError> {
    // The upper bound keeps products with a checked spec's widths far from overflow.
    const ROWS_MAX: usize = 1 << 20;
    for (option, value) in [
        ("max_num_tokens", limits.max_num_tokens),
        ("max_num_seqs", limits.max_num_seqs),
        ("max_num_logit_rows", limits.max_num_logit_rows),
    ] {
        if !(1..=ROWS_MAX).contains(&value) {
            let rule = format!("from 1 to {ROWS_MAX}");
            return Err(ModelError::Option { option, rule, value: value as u64 });
        }
    }
    Ok(())
}
