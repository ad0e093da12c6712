//! The models of a server by the names that clients use.
//!
//! A name leads to one service. What a name is, is a kind of its own, so that an adapter over a base model can become one
//! more kind: a name whose service is its base's.

use crate::service::CompletionService;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A model's own name.
    Model,
    /// Another word for a model.
    Alias,
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
}

/// All names of a server. There is at least one, and no name is there twice: the settings see to both.
#[derive(Clone, Debug)]
pub struct ServedModels {
    first: CompletionService,
    names: Vec<ServedName>,
}

impl ServedModels {
    /// Begins with the model that answers where a request names none.
    pub fn new(first: CompletionService, aliases: &[String]) -> Self {
        let mut models = Self { first: first.clone(), names: Vec::new() };
        models.push(first, aliases);
        models
    }

    /// Adds a model behind the others.
    pub fn push(&mut self, service: CompletionService, aliases: &[String]) {
        let alias = |name: &String| ServedName {
            name: name.clone(),
            kind: NameKind::Alias,
            service: service.clone(),
        };
        let aliases: Vec<ServedName> = aliases.iter().map(alias).collect();
        let name = service.model().name.clone();
        self.names.push(ServedName { name, kind: NameKind::Model, service });
        self.names.extend(aliases);
    }

    /// Returns the model that answers where a request names none.
    pub fn first(&self) -> &CompletionService {
        &self.first
    }

    /// Returns a name that is served.
    pub fn find(&self, name: &str) -> Option<&ServedName> {
        self.names.iter().find(|served| served.name == name)
    }

    /// Returns all names: the models in the order of the settings, each before its aliases.
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
        Self::new(service, &[])
    }
}
