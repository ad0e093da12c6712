//! Where a request goes: the same answer from somewhere, within its deadline.
//!
//! The decisions are values of their arguments, the time among them: [`route`] which targets a request has and with which
//! it begins, [`split`] by weight, [`circuit_breaker`] whether a target is asked, [`decision`] in what order, [`deadline`]
//! for how long, [`retry_budget`] how often, [`latency`] what is usual. The shell around them brings the clock.

pub mod circuit_breaker;
pub mod deadline;
pub mod decision;
pub mod latency;
pub mod retry_budget;
pub mod route;
pub mod split;
mod window;
