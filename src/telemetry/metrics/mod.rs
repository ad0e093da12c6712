//! All metrics: declared here and in the files beside it, each with its help, and nowhere else.
//!
//! Names and labels of GitLab's AI Gateway where it has them, so that its dashboards and alerts go on; those of the Gateway
//! API's model-server protocol, so that routers of Kubernetes balance on them; ours begin with `lacuna_`. Values of labels
//! are of closed sets, or of sets that are bounded here: no client can make more of them than `labels` lets.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
};

use crate::telemetry::metrics::engine::EngineFamilies;

mod engine;
mod export;
mod gateway;
mod http;
mod labels;
mod process;
pub mod recent;
mod requests;
mod routing;
mod sampled;
mod store;
#[cfg(test)]
mod tests;

pub use engine::EngineSample;
pub use export::ExportFamilies;
pub use gateway::InFlight;
pub use http::HttpFamilies;
pub use labels::{client_type, realm, version};
pub use requests::{Inference, RequestFamilies, Telemetry};
pub use routing::RoutingFamilies;
pub use sampled::HistogramSample;
pub use store::{CompletionLabels, Dropped, StoreFamilies};

/// Returns what the engines are doing now.
pub type EngineSource = Arc<dyn Fn() -> Vec<EngineSample> + Send + Sync>;

/// The metrics of a process; copies are the same.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    declared: Declared,
    requests: RequestFamilies,
    engine: EngineFamilies,
    http: HttpFamilies,
    routing: RoutingFamilies,
    exports: ExportFamilies,
    store: StoreFamilies,
    source: OnceLock<EngineSource>,
}

/// What was declared so far.
struct Declared {
    registry: Registry,
    /// Names, each with its labels.
    names: Vec<(String, Vec<String>)>,
}

impl Declared {
    /// Declares a family and returns it.
    fn add<C: Collector + Clone + 'static>(&mut self, family: C) -> Result<C, prometheus::Error> {
        let named = |desc: &&Desc| (desc.fq_name.clone(), desc.variable_labels.clone());
        self.names.extend(family.desc().iter().map(named));
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &mut self,
        (name, help): (&str, &str),
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels)?)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    #[expect(
        clippy::expect_used,
        reason = "all names and labels are constants, and a test makes them"
    )]
    fn default() -> Self {
        Self::declare(Registry::new()).expect("names of metrics are distinct and well-formed")
    }
}

impl Metrics {
    /// Makes metrics of which each says in which region it was counted, where a region is named.
    pub fn in_region(region: Option<&str>) -> Self {
        let labels = region.map(|region| HashMap::from([("region".to_owned(), region.to_owned())]));
        let registry = Registry::new_custom(None, labels);
        registry.and_then(Self::declare).unwrap_or_default()
    }

    /// Declares all metrics; what fails is a mistake of this module, two that have one name or a name that is none.
    fn declare(registry: Registry) -> Result<Self, prometheus::Error> {
        let mut declared = Declared { registry, names: Vec::new() };
        process::declare(&mut declared)?;
        Ok(Self(Arc::new(Families {
            requests: RequestFamilies::new(&mut declared)?,
            engine: EngineFamilies::new(&mut declared)?,
            http: HttpFamilies::new(&mut declared)?,
            routing: RoutingFamilies::new(&mut declared)?,
            exports: ExportFamilies::new(&mut declared)?,
            store: StoreFamilies::new(&mut declared)?,
            source: OnceLock::new(),
            declared,
        })))
    }

    /// Says where the engines' figures are, once they are there.
    pub fn watch(&self, source: EngineSource) {
        let _ = self.0.source.set(source);
    }

    /// Returns what the engines are doing now; none while they load.
    pub fn engines(&self) -> Vec<EngineSample> {
        self.0.source.get().map(|source| source()).unwrap_or_default()
    }

    /// Returns the families of requests.
    pub fn requests(&self) -> &RequestFamilies {
        &self.0.requests
    }

    /// Returns the families of HTTP.
    pub fn http(&self) -> &HttpFamilies {
        &self.0.http
    }

    /// Returns the families of routing.
    pub fn routing(&self) -> &RoutingFamilies {
        &self.0.routing
    }

    /// Returns the families of exports.
    pub fn exports(&self) -> &ExportFamilies {
        &self.0.exports
    }

    /// Returns the families of the telemetry store.
    pub fn store(&self) -> &StoreFamilies {
        &self.0.store
    }

    /// Returns all values in Prometheus's text format.
    pub fn render(&self) -> String {
        self.0.engine.show(&self.engines());
        let mut text = Vec::new();
        // What was declared can be written: names and labels were checked then.
        let _ = TextEncoder::new().encode(&self.0.declared.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}
