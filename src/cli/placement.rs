//! Where models are placed: which memories their settings name, what they take of them, and how each is then loaded.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use models::{
    Adapter, DecoderSpec, Device, KvCacheSize, LoadOptions, activation_bytes, adapter_footprint,
    gpu_room_bytes, kv_bytes_per_block, own_memory, rank_spec, weight_footprint, weights::Weights,
};
use tracing::{info, warn};

use crate::{
    cli::compose::{device, device_options, graphs, kv_dtype, simd_tier, weight_format},
    config::{Config, QuantizeChoice},
    engine::{
        memory::{CacheDemand, HOST_SHARE, plan_num_blocks},
        memory_plan::{Claim, Memory, MemoryPlan},
    },
};

/// The models of a server over the memories of its machine.
#[derive(Debug)]
pub(super) struct Placement {
    plan: MemoryPlan,
    /// The place of the host's memory in the plan.
    host: usize,
    /// The places of the devices' own.
    devices: Vec<(Device, usize)>,
    models: Vec<Placed>,
}

/// A model before its cache is sized.
#[derive(Debug)]
struct Placed {
    name: String,
    /// What a rank computes.
    rank_spec: DecoderSpec,
    demand: CacheDemand,
    /// How it is loaded, but for the cache.
    options: LoadOptions,
}

/// Returns how a model is loaded that shares its memory with no other.
pub(super) fn load_options(
    config: &Config,
    spec: &DecoderSpec,
    weights: &Weights,
    host_free_bytes: u64,
) -> anyhow::Result<LoadOptions> {
    let mut placement = Placement::new(host_free_bytes);
    placement.add(config, spec, weights, &Arc::default())?;
    placement.load_options(0)
}

impl Placement {
    /// Begins on a machine with this much free memory.
    pub(super) fn new(host_free_bytes: u64) -> Self {
        let mut plan = MemoryPlan::default();
        let host = plan.add_memory(Memory {
            total_bytes: host_free_bytes,
            free_bytes: host_free_bytes,
            cache_share: HOST_SHARE,
        });
        Self { plan, host, devices: Vec::new(), models: Vec::new() }
    }

    /// Adds a model by the settings in force for it.
    pub(super) fn add(
        &mut self,
        config: &Config,
        spec: &DecoderSpec,
        weights: &Weights,
        adapters: &Arc<[Adapter]>,
    ) -> anyhow::Result<()> {
        let context_tokens = context_tokens(config, spec)?;
        let options = LoadOptions { adapters: Arc::clone(adapters), ..options(config)? };
        let (device, num_ranks) = (options.device, options.tensor_parallel_size);
        let footprint = weight_footprint(spec, weights, options.weight_format, device, num_ranks)
            .context("cannot load the model")?;
        let of_adapters = adapter_footprint(spec, weights, &options)?;
        let quantize = config.model.quantize;
        if quantize != QuantizeChoice::None && !footprint.types.contains(quantize.name()) {
            warn!(
                model = config.model.served_name,
                weights = footprint.type_names(),
                "`model.quantize` changes nothing: the file's matrices are integers already"
            );
        }
        // From here on a rank's: each has memory of its own, and a cache of its heads.
        let rank_spec = rank_spec(spec, num_ranks)?;
        let memories = self.memories(config)?;
        let is_on_host = memories.contains(&self.host);
        let demand = CacheDemand {
            kv_cache_bytes: config.engine.kv_cache_bytes,
            block_size: options.block_size,
            kv_dtype: options.kv_dtype,
            context_tokens,
            num_seqs_max: options.max_num_seqs,
            weight_bytes: footprint.loaded_bytes() + of_adapters.num_bytes,
            activation_bytes: step_bytes(&rank_spec, &options, context_tokens, is_on_host)
                + of_adapters.room_bytes,
        };
        self.plan.add(Claim {
            memories,
            used_share: if is_on_host { 1.0 } else { config.engine.gpu_memory_share },
            model_bytes: demand.model_bytes(),
            kv_cache_bytes: demand.kv_cache_bytes,
            context_bytes: demand.context_bytes(&rank_spec),
        });
        let name = config.model.served_name.clone();
        self.models.push(Placed { name, rank_spec, demand, options });
        Ok(())
    }

    /// Returns the order in which models are placed.
    pub(super) fn order(&self) -> Vec<usize> {
        self.plan.order()
    }

    /// Returns how a model is loaded; to be asked for each of them once, when all are added, in their [order](Self::order).
    pub(super) fn load_options(&mut self, index: usize) -> anyhow::Result<LoadOptions> {
        let Placed { name, rank_spec, demand, options } = &self.models[index];
        let room = self.plan.room(index);
        let planned = plan_num_blocks(rank_spec, demand, room);
        let fits_alone = || plan_num_blocks(rank_spec, demand, self.plan.room_alone(index)).is_ok();
        let num_blocks = match planned {
            Err(error) if fits_alone() => {
                return Err(error).context("no room beside the other models");
            }
            planned => planned?,
        };
        let block_bytes = kv_bytes_per_block(rank_spec, demand.block_size, demand.kv_dtype);
        info!(
            model = name,
            free_bytes = room.free_bytes,
            model_bytes = demand.model_bytes(),
            kv_cache_bytes = block_bytes * num_blocks as u64,
            "memory"
        );
        let options = LoadOptions { kv_cache: KvCacheSize::Blocks(num_blocks), ..options.clone() };
        self.plan.settle(index, block_bytes.saturating_mul(num_blocks as u64));
        Ok(options)
    }

    /// Returns the memory of each rank: the host's where it computes there.
    fn memories(&mut self, config: &Config) -> anyhow::Result<Vec<usize>> {
        let options = device_options(config)?;
        let num_ranks = config.engine.tensor_parallel_size;
        let mut memories = Vec::with_capacity(num_ranks);
        for rank in 0..num_ranks {
            let device = device(config).of_rank(rank);
            if let Some((_, known)) = self.devices.iter().find(|(known, _)| *known == device) {
                memories.push(*known);
                continue;
            }
            let memory = own_memory(device, &options).with_context(|| {
                let ranks = format!("`engine.tensor_parallel_size` asks for {num_ranks} devices");
                if num_ranks > 1 { ranks } else { "cannot use the device".to_owned() }
            })?;
            let Some(memory) = memory else {
                memories.push(self.host);
                continue;
            };
            let (total_bytes, free_bytes) = (memory.total_bytes, memory.free_bytes);
            info!(?device, total_bytes, free_bytes, "device memory");
            let place = self.plan.add_memory(Memory { total_bytes, free_bytes, cache_share: 1.0 });
            self.devices.push((device, place));
            memories.push(place);
        }
        Ok(memories)
    }
}

/// Returns the tokens of a model's longest sequence by the settings in force.
///
/// # Errors
/// More were asked for than the model has.
pub(super) fn context_tokens(config: &Config, spec: &DecoderSpec) -> anyhow::Result<usize> {
    let own = spec.max_position_embeddings;
    match config.model.context_tokens_max.map(|tokens| tokens.get() as usize) {
        Some(tokens) if tokens > own => {
            let key = config.model_key("max_context_tokens");
            bail!("`{key}` must be auto, or at most the model's own context ({own}), got {tokens}")
        }
        tokens => Ok(tokens.unwrap_or(own)),
    }
}

/// Returns how a model is loaded, but for the size of its cache.
fn options(config: &Config) -> anyhow::Result<LoadOptions> {
    let engine = &config.engine;
    Ok(LoadOptions {
        device: device(config),
        weight_format: weight_format(config),
        block_size: engine.block_size,
        kv_dtype: kv_dtype(config),
        kv_cache: KvCacheSize::Blocks(0),
        max_num_tokens: engine.num_batched_tokens_max,
        max_num_seqs: engine.num_seqs_max,
        max_num_logit_rows: engine.num_seqs_max,
        context_tokens_max: config.model.context_tokens_max.map(|tokens| tokens.get() as usize),
        num_threads: engine.num_threads,
        simd: Some(simd_tier(config)?),
        graphs: graphs(config),
        adapters: Arc::default(),
        tensor_parallel_size: engine.tensor_parallel_size,
    })
}

/// Returns what a rank's steps take.
fn step_bytes(
    rank_spec: &DecoderSpec,
    options: &LoadOptions,
    context_tokens: usize,
    is_on_host: bool,
) -> u64 {
    let (num_tokens, num_seqs) = (options.max_num_tokens, options.max_num_seqs);
    let rows = activation_bytes(rank_spec, num_tokens, num_seqs);
    if is_on_host {
        return rows;
    }
    // What NCCL takes for itself, which it does not say before; a guess that never met it.
    let ranks = if options.tensor_parallel_size > 1 { 512 << 20 } else { 0 };
    rows + gpu_room_bytes(rank_spec, num_tokens, num_seqs, context_tokens) + ranks
}

#[cfg(test)]
mod tests {
    use models::{Source, open_weights, read_spec};

    use super::*;
    use crate::config::{Environment, RawConfig};

    /// Returns the bytes of the caches of so many demo models on a host that has ten times what one of them takes.
    fn cache_bytes(num_models: usize) -> (u64, Vec<u64>) {
        let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
        let spec = read_spec(Source::Demo).unwrap();
        let weights = open_weights(Source::Demo).unwrap();
        let place = |free_bytes| {
            let mut placement = Placement::new(free_bytes);
            for _ in 0..num_models {
                placement.add(&config, &spec, &weights, &Arc::default()).unwrap();
            }
            placement
        };
        let model_bytes = place(0).models[0].demand.model_bytes();
        let mut placement = place(10 * model_bytes);
        let block_bytes = kv_bytes_per_block(&spec, 16, kv_dtype(&config));
        let mut caches = Vec::new();
        for index in placement.order() {
            let KvCacheSize::Blocks(num) = placement.load_options(index).unwrap().kv_cache else {
                panic!("the cache is counted in blocks");
            };
            caches.push(num as u64 * block_bytes);
        }
        (model_bytes, caches)
    }

    #[test]
    fn a_second_model_takes_its_weights_and_half_of_the_caches() {
        // To a block.
        let is_about = |bytes: u64, expected: u64| {
            assert!(bytes <= expected && expected - bytes < 1 << 20, "{bytes} for {expected}");
        };
        let (model_bytes, alone) = cache_bytes(1);
        is_about(alone[0], 9 * model_bytes / 2);
        let (_, two) = cache_bytes(2);
        is_about(two[0], 8 * model_bytes / 4);
        is_about(two[1], 8 * model_bytes / 4);
    }
}
