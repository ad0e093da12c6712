//! What every endpoint of the dialect does with a request: who calls, which model answers, what is noted of it.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    response::Response,
};

use crate::api::{
    Admission, ApiState,
    access::routed_user,
    clock::unix_seconds,
    deadline,
    error::{ApiError, ApiErrorKind},
    gitlab::{
        context::GitlabContext,
        convert::{Asked, Asking, ModelWish, answer::Said},
        error::GitlabError,
        texts::Texts,
    },
};
use crate::auth::Caller;
use crate::completion::{Asker, Completion, Language};
use crate::prompt::registry::Place;
use crate::provider::{ModelInfo, ProviderError};
use crate::service::{Account, CompletionService};

/// Says which prompt made an answer.
const X_LACUNA_PROMPT: HeaderName = HeaderName::from_static("x-lacuna-prompt");

/// A request of the dialect.
pub(super) struct Call<'a> {
    state: &'a ApiState,
    account: &'a Account,
    /// Who was let in.
    caller: Option<Arc<Caller>>,
    /// When the client no longer waits.
    deadline: Option<Instant>,
    context: GitlabContext,
    flags: Vec<String>,
    /// What the endpoint calls the fields of the vocabulary.
    names: fn(&'static str) -> &'static str,
}

impl<'a> Call<'a> {
    /// Reads who calls.
    pub(super) fn open(
        state: &'a ApiState,
        account: &'a Account,
        request: &Request,
        names: fn(&'static str) -> &'static str,
    ) -> Self {
        let mut context = GitlabContext::of(request.headers());
        let caller = request.extensions().get::<Arc<Caller>>().map(Arc::clone);
        // What a token says goes before what headers say.
        if let Some(realm) = caller.as_ref().and_then(|caller| caller.realm) {
            context.actor.realm = Some(realm.as_label().to_owned());
        }
        account.caller(context.caller.clone());
        let flags = state.gateway().flags.in_force(&context.flags, &context.actor);
        let deadline = deadline::asked(request.headers());
        Self { state, account, caller, deadline, context, flags, names }
    }

    /// Refuses a caller without a unit primitive, where only the body tells which is needed.
    pub(super) fn authorise(&self, scope: &str, refusal: &'static str) -> Result<(), GitlabError> {
        if self.caller.as_ref().is_some_and(|caller| caller.may(scope)) {
            return Ok(());
        }
        Err(ApiError::new(ApiErrorKind::Unauthorised, refusal).into())
    }

    /// Returns what answers.
    pub(super) fn service(&self, wish: &ModelWish) -> Result<&'a CompletionService, GitlabError> {
        wish.check(self.state.gateway().config.has_custom_models)?;
        Ok(wish.service(self.state.models()?))
    }

    /// Returns what a body is translated with.
    pub(super) fn asking<'s>(&'s self, service: &'s CompletionService) -> Asking<'s> {
        Asking {
            context: &self.context,
            caller: self.caller.as_deref(),
            model: service.model(),
            limits: service.limits(),
            steps: service.postprocess(),
            prompts: self.state.gateway().prompts.current(),
            flags: &self.flags,
        }
    }

    /// Notes what is asked and takes a place among the requests in work.
    pub(super) fn admit(&self, asked: &Asked) -> Result<Admission, GitlabError> {
        self.account.streaming(asked.is_streaming);
        if let Some((place, _)) = &asked.prompt {
            self.account.prompt_made_by(place.to_string());
        }
        Ok(self.state.admit()?)
    }

    /// Waits for the whole answer.
    pub(super) async fn whole(
        &self,
        service: &CompletionService,
        asked: Asked,
    ) -> Result<Completion, GitlabError> {
        let asked = self.signed(asked);
        let events = service.complete(asked.request, self.account.clone()).await;
        let events = events.map_err(|error| self.failed(error))?;
        events.collect().await.map_err(|error| self.failed(error))
    }

    /// Waits for the first text of the answer.
    pub(super) async fn texts(
        &self,
        service: &CompletionService,
        asked: Asked,
        admission: Admission,
    ) -> Result<Texts, GitlabError> {
        let asked = self.signed(asked);
        let texts = Texts::open(service, asked, self.account, admission).await;
        texts.map_err(|error| self.failed(error))
    }

    /// Returns what an answer says beside its text.
    pub(super) fn said<'s>(&'s self, model: &'s ModelInfo, language: Option<Language>) -> Said<'s> {
        let config = &self.state.gateway().config;
        Said { model, language, flags: &self.flags, config, created: unix_seconds() }
    }

    /// Returns the flags in force.
    pub(super) fn flags(&self) -> &[String] {
        &self.flags
    }

    /// Says in a request who asks, which decides where it goes, and how long they wait.
    fn signed(&self, mut asked: Asked) -> Asked {
        let actor = &self.context.actor;
        asked.request.deadline = self.deadline;
        let task = asked.request.asker.task;
        asked.request.asker = Asker {
            task,
            user: actor.user.clone().or_else(|| routed_user(self.caller.as_deref())),
            groups: actor.groups.clone(),
            realm: actor.realm.clone(),
            flags: self.flags.clone(),
        };
        asked
    }

    fn failed(&self, error: ProviderError) -> GitlabError {
        ApiError::from_provider(error, self.names).into()
    }
}

/// Says in an answer which prompt made it.
pub(super) fn marked(mut response: Response, place: Option<&Place>) -> Response {
    let value = place.and_then(|place| HeaderValue::from_str(&place.to_string()).ok());
    if let Some(value) = value {
        response.headers_mut().insert(X_LACUNA_PROMPT, value);
    }
    response
}
