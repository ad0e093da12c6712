//! All names that are served, before there are weights behind them: what can be answered elsewhere is answered at once.

use std::sync::{Arc, OnceLock};

use crate::{
    cli::{
        compose::{Composed, compose_each, service},
        providers, routes,
    },
    config::Config,
    engine::{
        Engine, EngineHandle, EngineState, EngineStats,
        histogram::{BATCH_SIZES, HistogramCounts, QUEUE_WAIT_MICROS},
        memory::free_bytes,
    },
    provider::{Pending, hosted::HostedProvider},
    routing::Router,
    service::{ServedModel, ServedModels},
    telemetry::metrics::{EngineSample, EngineSource, HistogramSample, Metrics},
};

/// What is served, the models of this machine among it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What answers to which name.
    pub models: ServedModels,
    /// What sends requests where the routes say, where there are some.
    pub router: Option<Arc<Router>>,
    /// The models of this machine, in the order of the settings.
    pub locals: Arc<[LocalModel]>,
}

/// A model of this machine: its names from the start, its engine once it is loaded.
#[derive(Debug)]
pub struct LocalModel {
    name: String,
    model: Arc<Pending>,
    adapters: Vec<Arc<Pending>>,
    engine: OnceLock<EngineHandle>,
}

impl Standing {
    /// Gives every name of the settings its place, and the routes theirs before all. Reads no weights, asks nobody.
    ///
    /// # Errors
    /// There is no name to serve.
    pub fn new(
        config: &Config,
        hosted: Vec<HostedProvider>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let (mut locals, mut served) = (Vec::new(), Vec::<ServedModel>::new());
        for alone in config.each_model() {
            let names: Vec<&str> = alone.model.adapters.iter().map(|it| it.name.as_str()).collect();
            let context = alone.model.context_tokens_max.map(u32::from);
            let local = LocalModel::new(&alone.model.served_name, &names, context);
            let adapters = local.adapters.iter().map(|it| service(&alone, it.clone())).collect();
            let service = service(&alone, Arc::clone(local.provider()) as _);
            served.push(ServedModel { service, aliases: alone.model.aliases, adapters });
            locals.push(local);
        }
        served.extend(hosted.into_iter().map(|it| providers::service(config, it).into()));
        let mut served = served.into_iter();
        let first = served.next().ok_or_else(|| anyhow::anyhow!("there is no model"))?;
        let mut models = ServedModels::new(first);
        served.for_each(|model| models.push(model));
        let (models, router) = routes::routed(config, models, Arc::new(metrics.clone()));
        Ok(Self { models, router, locals: locals.into() })
    }

    /// Returns whether every name of the models that failed can still be answered by others, those that load among them.
    pub fn goes_on(&self) -> bool {
        let failed = |name: &str| self.locals.iter().any(|it| it.name == name && it.has_failed());
        let names = self.models.names().iter();
        let mut own = names.filter(|served| failed(&served.model));
        own.all(|served| served.service.may_answer())
    }
}

impl LocalModel {
    /// Stands under the names of a model and its adapters, with the tokens of its context where they are known.
    pub fn new(name: &str, adapters: &[&str], context_tokens: Option<u32>) -> Self {
        let pending = |name| Arc::new(Pending::new(name, context_tokens));
        Self {
            name: name.to_owned(),
            model: pending(name),
            adapters: adapters.iter().map(|name| pending(name)).collect(),
            engine: OnceLock::new(),
        }
    }

    /// Returns what completes under the model's name, once it is loaded.
    pub fn provider(&self) -> &Arc<Pending> {
        &self.model
    }

    /// Returns the model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the way to its engine, once there is one.
    pub fn engine(&self) -> Option<&EngineHandle> {
        self.engine.get()
    }

    /// Returns whether it will not answer again: it did not load, or its engine died.
    pub fn has_failed(&self) -> bool {
        self.model.is_given_up() || self.is_dead()
    }

    /// Returns whether its engine died.
    pub fn is_dead(&self) -> bool {
        self.engine().is_some_and(|engine| engine.stats().state == EngineState::Dead)
    }

    /// Lets the model complete, and returns its engine for whoever ends it.
    pub fn fill(&self, composed: Composed) -> Engine {
        let Composed { engine, handle, service, adapters } = composed;
        let _ = self.engine.set(handle);
        for (adapter, service) in self.adapters.iter().zip(adapters) {
            adapter.fill(Arc::clone(service.provider()));
        }
        self.model.fill(Arc::clone(service.provider()));
        engine
    }

    /// Says that the model will not come, where it is not there yet.
    pub fn give_up(&self) {
        self.adapters.iter().chain([&self.model]).for_each(|pending| pending.give_up());
    }
}

/// Loads the models of the settings, lets each complete as soon as it is there, and hands its engine to `keep`, or why
/// there is none; goes on with the others while that returns whether to.
pub fn load(
    config: &Config,
    locals: &[LocalModel],
    mut keep: impl FnMut(&LocalModel, anyhow::Result<Engine>) -> bool,
) {
    compose_each(config, free_bytes(), &mut |index, composed| {
        let local = &locals[index];
        if composed.is_err() {
            local.give_up();
        }
        keep(local, composed.map(|composed| local.fill(composed)))
    });
}

/// Returns what shows the engines' figures when somebody asks for them.
pub fn engine_source(config: &Config, locals: Arc<[LocalModel]>) -> EngineSource {
    let samples: Vec<EngineSample> = config
        .each_model()
        .iter()
        .map(|config| EngineSample {
            model: config.model.served_name.clone(),
            adapters: config.model.adapters.iter().map(|it| it.name.clone()).collect(),
            num_queued_max: config.engine.num_queued_max,
            num_running_max: config.engine.num_seqs_max,
            block_size: config.engine.block_size,
            max_output_tokens: config.completion.max_tokens_limit,
            ..EngineSample::default()
        })
        .collect();
    let shown = move |(sample, local): (&EngineSample, &LocalModel)| {
        local.engine().map_or_else(|| sample.clone(), |engine| sampled(sample, engine))
    };
    Arc::new(move || samples.iter().zip(locals.iter()).map(shown).collect())
}

fn sampled(sample: &EngineSample, engine: &EngineHandle) -> EngineSample {
    let stats: EngineStats = engine.stats();
    EngineSample {
        is_ready: stats.state == EngineState::Running,
        max_context_tokens: engine.limits().context_tokens_max as u32,
        num_waiting: stats.num_queued + stats.num_waiting,
        num_running: stats.num_running,
        num_blocks_used: stats.num_blocks_used,
        num_blocks: stats.num_blocks,
        num_steps: stats.num_steps,
        num_prompt_tokens: stats.num_prompt_tokens,
        num_cache_hit_tokens: stats.num_cache_hit_tokens,
        num_generated_tokens: stats.num_generated_tokens,
        num_preemptions: stats.num_preemptions,
        queue_wait: counted(&QUEUE_WAIT_MICROS, &stats.queue_wait_micros, 1e6),
        batch_sizes: counted(&BATCH_SIZES, &stats.batch_sizes, 1.0),
        ..sample.clone()
    }
}

/// Returns a histogram's counts for the page, where `unit` of what was counted are one.
fn counted(borders: &[u64], counts: &HistogramCounts, unit: f64) -> HistogramSample {
    HistogramSample::new(borders, &counts.buckets, counts.sum, unit)
}
