//! Models that are to be loaded and are not in the cache: they are pulled first.

pub(super) mod progress;

use crate::{
    cli::{CliError, fetch::progress::PullProgress},
    config::{Config, HubModel, ModelSource},
    hub::{self, HubError, Pulled},
};

/// Pulls each model of the settings that the cache lacks; does nothing for others, and asks nobody about a model that is
/// there. Of several that lack all are asked about before the first is pulled: a name that is wrong is told at once, not
/// after the gigabytes of another.
///
/// # Errors
/// [`CliError::Failed`] with what to do about it.
pub(super) async fn fetch_all(config: &Config) -> Result<(), CliError> {
    let configs = config.each_model();
    let lacking: Vec<_> = configs.iter().flat_map(lacking).collect();
    // The first pull begins by asking about the first.
    for model in lacking.iter().skip(1) {
        hub::check(&config.hub, model).await.map_err(|error| CliError::Failed(error.into()))?;
    }
    for model in lacking {
        pull(config, model).await?;
    }
    Ok(())
}

/// As [`fetch_all`], for the first model alone.
///
/// # Errors
/// As [`fetch_all`].
pub(super) async fn fetch(config: &Config) -> Result<(), CliError> {
    for model in lacking(config) {
        pull(config, model).await?;
    }
    Ok(())
}

/// Returns what is to be pulled of the first model and its adapters.
fn lacking(config: &Config) -> Vec<&HubModel> {
    let adapters = config.model.adapters.iter().map(|adapter| &adapter.source);
    // The small ones first: what is wrong with one is told before gigabytes have come.
    let sources = adapters.chain([&config.model.source]);
    sources.filter_map(|source| lacking_source(config, source)).collect()
}

fn lacking_source<'a>(config: &Config, source: &'a ModelSource) -> Option<&'a HubModel> {
    let ModelSource::Hub(model) = source else { return None };
    match hub::find(&config.hub, model) {
        Err(HubError::NotCached { .. } | HubError::Incomplete { .. }) if !config.hub.is_offline => {
            Some(model)
        }
        // Whoever loads it looks it up again, and says what is wrong.
        Err(_) | Ok(_) => None,
    }
}

/// Pulls `model`, and shows how it goes.
///
/// # Errors
/// [`CliError::Failed`] with what to do about it.
pub(super) async fn pull(config: &Config, model: &HubModel) -> Result<Pulled, CliError> {
    let progress = PullProgress::new(model);
    let pulled = hub::pull(&config.hub, model, &|event| progress.show(&event)).await;
    pulled.map_err(|error| CliError::Failed(error.into()))
}
