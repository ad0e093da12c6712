//! The models of a server by the names that clients use.
//!
//! A name leads to one service, and what kind of name it is stands beside it: a model's own, another word for it, or an
//! adapter of it, whose service has the model's engine.

use std::sync::Arc;

use crate::{provider::Provider, service::CompletionService};

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A model's own name.
    Model,
    /// Another word for a model.
    Alias,
    /// An adapter of the model.
    Adapter,
}

/// A name and what it leads to.
#[derive(Clone, Debug)]
pub struct ServedName {
    /// What clients write.
    pub name: String,
    /// What it is.
    pub kind: NameKind,
    /// What answers.
    pub service: CompletionService,
    /// The own name of the model that it belongs to.
    pub model: String,
}

/// What a model answers to.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The model.
    pub service: CompletionService,
    /// Other words for it.
    pub aliases: Vec<String>,
    /// It with each of its adapters.
    pub adapters: Vec<CompletionService>,
}

impl From<CompletionService> for ServedModel {
    fn from(service: CompletionService) -> Self {
        Self { service, aliases: Vec::new(), adapters: Vec::new() }
    }
}

/// All names of a server. There is at least one, and no name is there twice: the settings see to both.
#[derive(Clone, Debug)]
pub struct ServedModels {
    first: CompletionService,
    names: Vec<ServedName>,
}

impl ServedModels {
    /// Begins with the model that answers where a request names none.
    pub fn new(first: impl Into<ServedModel>) -> Self {
        let first = first.into();
        let mut models = Self { first: first.service.clone(), names: Vec::new() };
        models.push(first);
        models
    }

    /// Adds a model behind the others.
    pub fn push(&mut self, model: impl Into<ServedModel>) {
        let ServedModel { service, aliases, adapters } = model.into();
        let model = service.model().name.clone();
        let mut name = |name, kind, service| {
            self.names.push(ServedName { name, kind, service, model: model.clone() });
        };
        name(model.clone(), NameKind::Model, service.clone());
        for alias in aliases {
            name(alias, NameKind::Alias, service.clone());
        }
        for adapter in adapters {
            name(adapter.model().name.clone(), NameKind::Adapter, adapter);
        }
    }

    /// Lets others complete under the same names: `put` is given a name and what completes under it.
    #[must_use]
    pub fn with_providers(
        mut self,
        put: impl Fn(&str, &Arc<dyn Provider>) -> Arc<dyn Provider>,
    ) -> Self {
        for served in &mut self.names {
            let provider = put(&served.name, served.service.provider());
            served.service = served.service.clone().with_provider(provider);
        }
        // The first name is that of the first model.
        if let Some(served) = self.names.first() {
            self.first = served.service.clone();
        }
        self
    }

    /// Returns the model that answers where a request names none.
    pub fn first(&self) -> &CompletionService {
        &self.first
    }

    /// Returns a name that is served.
    pub fn find(&self, name: &str) -> Option<&ServedName> {
        self.names.iter().find(|served| served.name == name)
    }

    /// Returns all names: the models in the order of the settings, each before its aliases and adapters.
    pub fn names(&self) -> &[ServedName] {
        &self.names
    }

    /// Returns whether every model would take a request now: a server that answers for some of its models only is one to
    /// replace.
    pub fn is_ready(&self) -> bool {
        self.names.iter().all(|served| served.service.is_ready())
    }
}

impl From<CompletionService> for ServedModels {
    fn from(service: CompletionService) -> Self {
        Self::new(service)
    }
}
