//! What the gateway's dialect needs beside the models: prompts, flags, and what a request may bring along.

use std::sync::Arc;

use crate::config::{Config, GatewayConfig};
use crate::flags::FlagRules;
use crate::service::{Prompts, PromptsError};

/// Prompts, flags and switches of GitLab's dialect.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// How it answers.
    pub config: GatewayConfig,
    /// What models are asked with.
    pub prompts: Arc<Prompts>,
    /// Which flags hold for whom.
    pub flags: FlagRules,
}

impl Gateway {
    /// Reads the prompts and takes the settings.
    ///
    /// # Errors
    /// A folder or file of prompts that cannot be used.
    pub fn load(config: &Config) -> Result<Self, PromptsError> {
        Ok(Self {
            config: config.gateway.clone(),
            prompts: Arc::new(Prompts::load(config.prompts.folder.clone())?),
            flags: config.flags.clone().into(),
        })
    }
}
