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
        wire::v2::WireTelemetry,
    },
    json::{Integer, Object},
    steps,
};
use crate::auth::{Caller, Realm};
use crate::completion::{Asker, Completion, Language, Step};
use crate::prompt::registry::Place;
use crate::provider::{ModelInfo, ProviderError};
use crate::service::{Account, CompletionService};
use crate::telemetry::{
    metrics::Telemetry,
    store::{Day, ToldRow},
};

/// Items of a request that tell of earlier suggestions; more are refused later.
const TELEMETRY_ITEMS_MAX: usize = 10;
/// Most suggestions that one item can tell of: an editor tells with each request.
const COUNT_MAX: i128 = 1000;
/// The flag that asks for source text in the log.
const CONTENT_FLAG: &str = "expanded_ai_logging";
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
    /// Steps of post-processing that the request does without.
    left_out: Vec<Step>,
    /// What the endpoint calls the fields of the vocabulary.
    names: fn(&'static str) -> &'static str,
}

impl<'a> Call<'a> {
    /// Reads who calls, and what headers ask for.
    pub(super) fn open(
        state: &'a ApiState,
        account: &'a Account,
        request: &Request,
        names: fn(&'static str) -> &'static str,
    ) -> Result<Self, GitlabError> {
        let mut context = GitlabContext::of(request.headers());
        let caller = request.extensions().get::<Arc<Caller>>().map(Arc::clone);
        // What a token says goes before what headers say.
        if let Some(realm) = caller.as_ref().and_then(|caller| caller.realm) {
            context.actor.realm = Some(realm.as_label().to_owned());
            context.caller.realm.clone_from(&context.actor.realm);
        }
        account.caller(context.caller.clone());
        let flags = state.gateway().flags.in_force(&context.flags, &context.actor);
        if wants_content(state, &context, &flags) {
            account.want_content();
        }
        let mut left_out = steps::left_out(request.headers())?;
        left_out.extend(steps::left_out_by(&flags));
        let deadline = deadline::asked(request.headers());
        Ok(Self { state, account, caller, deadline, context, flags, left_out, names })
    }

    /// Counts what a client tells of its earlier suggestions, as far as it names a model that is served here.
    pub(super) fn count_telemetry(&self, told: &[Object<WireTelemetry>]) {
        let models = self.state.models();
        for Object(told) in told.iter().take(TELEMETRY_ITEMS_MAX) {
            let served = told.model_name.as_deref().and_then(|name| models.find(name));
            let Some(served) = served else { continue };
            let model = served.service.model();
            let language = Language::detect("", told.lang.as_deref()).map_or("", Language::name);
            let count = |number: Option<Integer>| {
                let Integer(number) = number.unwrap_or(Integer(0));
                number.clamp(0, COUNT_MAX) as u64
            };
            let counts = Telemetry {
                requests: count(told.requests),
                accepts: count(told.accepts),
                errors: count(told.errors),
            };
            if let Some(store) = self.state.store() {
                store.record_told(ToldRow {
                    day: Day::of(store.now_ms()).0,
                    model: model.name.clone(),
                    provider: model.engine.clone(),
                    language,
                    requests: counts.requests,
                    accepts: counts.accepts,
                    errors: counts.errors,
                });
            }
            let names = (model.engine.as_str(), model.name.as_str());
            self.state.metrics().requests().record_telemetry(counts, names, language);
        }
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
        Ok(wish.service(self.state.models()))
    }

    /// Returns what a body is translated with.
    pub(super) fn asking<'s>(&'s self, service: &'s CompletionService) -> Asking<'s> {
        Asking {
            context: &self.context,
            caller: self.caller.as_deref(),
            model: service.model(),
            limits: service.limits(),
            prompts: self.state.gateway().prompts.current(),
            flags: &self.flags,
        }
    }

    /// Takes a place among the requests in work: once it is known that the caller may, and before anything is done.
    pub(super) fn admit(&self) -> Result<Admission, GitlabError> {
        Ok(self.state.admit()?)
    }

    /// Notes what is asked, and leaves out the steps that the request does without.
    pub(super) fn noted(&self, mut asked: Asked) -> Asked {
        self.account.streaming(asked.is_streaming);
        if let Some((place, _)) = &asked.prompt {
            self.account.prompt_made_by(place.to_string());
        }
        asked.request.postprocessing.leave_out(self.left_out.iter().copied());
        asked
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
            failed_at: Vec::new(),
        };
        asked
    }

    fn failed(&self, error: ProviderError) -> GitlabError {
        ApiError::from_provider(error, self.names).into()
    }
}

/// Returns whether the caller's GitLab wants source text in the log, in one of the ways that it has: an instance with
/// models of its own by a header, GitLab's own service by a flag.
fn wants_content(state: &ApiState, context: &GitlabContext, flags: &[String]) -> bool {
    let is_saas = context.actor.realm.as_deref() == Some(Realm::Saas.as_label());
    let by_flag = is_saas && flags.iter().any(|flag| flag == CONTENT_FLAG);
    by_flag || state.gateway().config.has_custom_models && context.is_verbose
}

/// Says in an answer which prompt made it.
pub(super) fn marked(mut response: Response, place: Option<&Place>) -> Response {
    let value = place.and_then(|place| HeaderValue::from_str(&place.to_string()).ok());
    if let Some(value) = value {
        response.headers_mut().insert(X_LACUNA_PROMPT, value);
    }
    response
}
