//! A block table and a loop, as simple as an engine can be; and folders to load from.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use models::{
    DecoderSpec, Device, GraphMode, KvCacheSize, KvDType, LanguageModel, LoadOptions, NO_ADAPTER,
    StepInput, WeightFormat,
    config::{Activation, Biases, MixtureSpec, NormKind, Rope, RopeKind},
    load_weights, random_weights,
};

/// Both backends of the default build.
pub(crate) const DEVICES: [Device; 2] = [Device::Cpu, Device::Reference];

/// Returns limits that suit every test.
pub(crate) fn options(device: Device) -> LoadOptions {
    LoadOptions {
        device,
        weight_format: WeightFormat::Stored,
        block_size: 16,
        kv_dtype: KvDType::F32,
        kv_cache: KvCacheSize::Blocks(160),
        max_num_tokens: 2048,
        max_num_seqs: 8,
        max_num_logit_rows: 8,
        context_tokens_max: None,
        num_threads: Some(2),
        simd: None,
        graphs: GraphMode::Captured,
        adapters: Arc::default(),
        tensor_parallel_size: 1,
    }
}

/// Returns a model of two layers with odd sizes: nothing is a multiple of a register.
pub(crate) fn tiny_spec() -> DecoderSpec {
    DecoderSpec {
        architecture: "Qwen2ForCausalLM",
        vocab_size: 101,
        hidden_size: 36,
        num_layers: 2,
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: 6,
        ffn_size: 52,
        mixture: None,
        norm_eps: 1e-6,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        max_position_embeddings: 256,
        has_tied_head: true,
        norm: NormKind::Rms,
        has_head_norms: false,
        biases: Biases { qkv: true, ..Biases::NONE },
        activation: Activation::Silu,
        is_gated: true,
        embedding_scale: None,
        windows: vec![None; 2],
        dtype: kernels::backend::DType::Bf16,
        eos_token_ids: vec![100],
    }
}

/// The same with seven experts, of which a token goes through three, behind a dense layer.
pub(crate) fn mixed_spec() -> DecoderSpec {
    let mixture = MixtureSpec {
        num_experts: 7,
        experts_per_token: 3,
        expert_size: 42,
        has_normed_weights: true,
        layers: vec![false, true],
    };
    DecoderSpec { architecture: "Qwen3MoeForCausalLM", mixture: Some(mixture), ..tiny_spec() }
}

/// Loads a random model.
pub(crate) fn random_model(spec: &DecoderSpec, options: &LoadOptions) -> Runner {
    let weights = random_weights(spec, 7).unwrap();
    Runner::new(load_weights(spec.clone(), &weights, options, &mut |_| {}).unwrap())
}

/// Returns token ids without a pattern.
pub(crate) fn random_ids(len: usize, vocab_size: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % vocab_size as u64) as u32
    };
    (0..len).map(|_| draw()).collect()
}

/// Returns the index of the largest element.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap() as u32
}

/// A fresh folder for one test of one process, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("models-{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind lies in the build folder and harms nothing.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A growing text and where its keys and values live.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    /// Which of the model's, or none.
    adapter: u32,
    num_computed: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec(), adapter: NO_ADAPTER, num_computed: 0, blocks: Vec::new() }
    }

    pub(crate) fn adapted(tokens: &[u32], adapter: u32) -> Self {
        Self { adapter, ..Self::new(tokens) }
    }

    pub(crate) fn num_missing(&self) -> usize {
        self.tokens.len() - self.num_computed
    }
}

/// A model and its free blocks.
pub(crate) struct Runner {
    pub(crate) model: Box<dyn LanguageModel>,
    free_blocks: Vec<u32>,
}

impl Runner {
    /// Hands blocks out in an order that jumps about, so that nothing passes by lying contiguously.
    pub(crate) fn new(model: Box<dyn LanguageModel>) -> Self {
        let num_blocks = model.num_blocks() as u32;
        let (even, odd): (Vec<u32>, Vec<u32>) = (0..num_blocks).partition(|block| block % 2 == 0);
        Self { model, free_blocks: even.into_iter().chain(odd.into_iter().rev()).collect() }
    }

    /// Computes the next `count` tokens of each sequence in one step; returns the logits of each one's last.
    pub(crate) fn step(&mut self, parts: &mut [(&mut Sequence, usize)]) -> Vec<Vec<f32>> {
        let block_size = self.model.block_size();
        let mut step = OwnedStep { cu_seqlens_q: vec![0], ..OwnedStep::default() };
        for (sequence, count) in &mut *parts {
            let end = sequence.num_computed + *count;
            while sequence.blocks.len() * block_size < end {
                sequence.blocks.push(self.free_blocks.pop().unwrap());
            }
            for position in sequence.num_computed..end {
                let block = sequence.blocks[position / block_size];
                step.token_ids.push(sequence.tokens[position]);
                step.positions.push(position as u32);
                step.adapters.push(sequence.adapter);
                step.slot_mapping.push(block * block_size as u32 + (position % block_size) as u32);
            }
            sequence.num_computed = end;
            step.cu_seqlens_q.push(step.token_ids.len() as u32);
            step.context_lens.push(end as u32);
            step.logit_rows.push(step.token_ids.len() as u32 - 1);
        }
        let width = parts.iter().map(|(sequence, _)| sequence.blocks.len()).max().unwrap();
        for (sequence, _) in &*parts {
            let mut row = sequence.blocks.clone();
            // What lies behind a sequence's last block must not be read.
            row.resize(width, u32::MAX);
            step.block_tables.extend(row);
        }
        let vocab_size = self.model.spec().vocab_size;
        let logits = self.model.forward(&step.borrow(width)).unwrap();
        assert_eq!(logits.len(), parts.len() * vocab_size);
        logits.chunks_exact(vocab_size).map(<[f32]>::to_vec).collect()
    }

    /// Computes all that is missing of one sequence, alone.
    pub(crate) fn catch_up(&mut self, sequence: &mut Sequence) -> Vec<f32> {
        let count = sequence.num_missing();
        self.step(&mut [(sequence, count)]).remove(0)
    }

    /// Gives the blocks back.
    pub(crate) fn free(&mut self, sequence: Sequence) {
        self.free_blocks.extend(sequence.blocks);
    }
}

/// The arrays of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedStep {
    pub(crate) token_ids: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) slot_mapping: Vec<u32>,
    pub(crate) cu_seqlens_q: Vec<u32>,
    pub(crate) context_lens: Vec<u32>,
    pub(crate) block_tables: Vec<u32>,
    pub(crate) logit_rows: Vec<u32>,
    pub(crate) adapters: Vec<u32>,
}

impl OwnedStep {
    pub(crate) fn borrow(&self, max_blocks_per_seq: usize) -> StepInput<'_> {
        let is_adapted = self.adapters.iter().any(|&adapter| adapter != NO_ADAPTER);
        StepInput {
            token_ids: &self.token_ids,
            positions: &self.positions,
            slot_mapping: &self.slot_mapping,
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks_per_seq,
            logit_rows: &self.logit_rows,
            adapters: if is_adapted { &self.adapters } else { &[] },
        }
    }
}
