//! Models that are to be loaded and are not in the cache: they are pulled first.

pub(super) mod progress;

use crate::{
    cli::{CliError, fetch::progress::PullProgress},
    config::{Config, HubModel, ModelSource},
    hub::{self, HubError, Pulled},
};

/// Pulls each model of the settings that the cache lacks; does nothing for others, and asks nobody about a model that is
/// there.
///
/// # Errors
/// [`CliError::Failed`] with what to do about it.
pub(super) async fn fetch_all(config: &Config) -> Result<(), CliError> {
    for config in config.each_model() {
        fetch(&config).await?;
    }
    Ok(())
}

/// As [`fetch_all`], for the first model alone.
///
/// # Errors
/// As [`fetch_all`].
pub(super) async fn fetch(config: &Config) -> Result<(), CliError> {
    let adapters = config.model.adapters.iter().map(|adapter| &adapter.source);
    for source in [&config.model.source].into_iter().chain(adapters) {
        fetch_source(config, source).await?;
    }
    Ok(())
}

async fn fetch_source(config: &Config, source: &ModelSource) -> Result<(), CliError> {
    let ModelSource::Hub(model) = source else { return Ok(()) };
    match hub::find(&config.hub, model) {
        Err(HubError::NotCached { .. } | HubError::Incomplete { .. }) if !config.hub.is_offline => {
            pull(config, model).await.map(|_| ())
        }
        // Whoever loads it looks it up again, and says what is wrong.
        Err(_) | Ok(_) => Ok(()),
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
