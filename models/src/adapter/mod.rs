//! Adapters of low rank (LoRA) as PEFT saves them: what was trained on top of a model, a few small matrices a layer.
//!
//! [`Adapter::open`] reads the headers; `Adapters` says which matrices of a model each adds to, and refuses what has no
//! place there; its pairs are what the device is given.
//!
//! # Source
//! Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685; for the scale by the root of the rank
//! arXiv 2312.03732.

mod config;
mod plan;

use std::{fs, path::Path};

use crate::{
    adapter::config::AdapterConfig,
    config::CONFIG_FILE,
    error::{AdapterError, ModelError},
    shown::escape,
    weights::Weights,
};

pub(crate) use self::plan::{Adapters, OwnedPair};

/// What PEFT calls an adapter's configuration.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// What it calls the weights.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";

/// An adapter whose headers were read.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    config: AdapterConfig,
    weights: Weights,
}

/// Returns whether a folder holds an adapter and no model.
pub(crate) fn is_alone(directory: &Path) -> bool {
    directory.join(ADAPTER_CONFIG_FILE).is_file() && !directory.join(CONFIG_FILE).is_file()
}

/// Says of such a folder what to do with it.
pub(crate) fn no_model(directory: &Path) -> AdapterError {
    let text = fs::read(directory.join(ADAPTER_CONFIG_FILE)).ok();
    let config = text.and_then(|text| AdapterConfig::from_json(&text).ok());
    let base = config.and_then(|config| config.base_model).map(|base| escape(&base));
    AdapterError::NoModel { directory: directory.to_owned(), base }
}

impl Adapter {
    /// Opens the adapter in a folder, to be called `name` in errors.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] where the folder has none; [`ModelError::Read`], [`ModelError::Config`] or
    /// [`ModelError::Weights`], naming the file.
    pub fn open(name: impl Into<String>, directory: &Path) -> Result<Self, ModelError> {
        let missing = [ADAPTER_CONFIG_FILE, ADAPTER_FILE]
            .into_iter()
            .find(|file| !directory.join(file).is_file());
        if let Some(missing) = missing {
            return Err(AdapterError::None { directory: directory.to_owned(), missing }.into());
        }
        let (config, weights) = (directory.join(ADAPTER_CONFIG_FILE), directory.join(ADAPTER_FILE));
        let text = fs::read(&config)
            .map_err(|source| ModelError::Read { path: config.clone(), source })?;
        let config = AdapterConfig::from_json(&text)?;
        Ok(Self { name: name.into(), config, weights: Weights::open_file(&weights)? })
    }

    /// Returns what it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the model that it was trained on, as its maker wrote it; `None` where they did not.
    pub fn base_model(&self) -> Option<&str> {
        self.config.base_model.as_deref()
    }

    /// Returns the rank that its matrices have unless said otherwise.
    pub fn rank(&self) -> usize {
        self.config.rank
    }

    /// Returns the number of its parameters.
    pub fn num_parameters(&self) -> u64 {
        self.weights.num_stored_elements()
    }
}
