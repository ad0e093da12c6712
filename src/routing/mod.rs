//! Where a request goes: the same answer from somewhere, within its deadline.
//!
//! The decisions are values of their arguments, the time among them: [`route`] which targets a request has and with which
//! it begins, [`split`] by weight, [`circuit_breaker`] whether a target is asked, [`decision`] in what order, [`deadline`]
//! for how long, [`retry_budget`] how often, [`latency`] what is usual. The shell around them brings the clock: `router`
//! plans, `race` tries until there is a first text, `answer` hands it on, `shadow` copies, `reload` reads
//! the routes again when their file changes.

mod answer;
mod attempt;
pub mod circuit_breaker;
mod counting;
pub mod deadline;
pub mod decision;
pub mod latency;
mod observer;
mod race;
mod reload;
pub mod retry_budget;
pub mod route;
mod router;
mod shadow;
mod span;
pub mod split;
mod target;
mod window;

pub use observer::{AttemptKind, Comparison, NoObserver, RoutingEvent, RoutingObserver};
pub use reload::RouteFile;
pub use router::{ChangeError, NamedProvider, Router};
pub use target::TargetView;
