//! The settings of routing: when a target is asked and for how long, `[routing]`. Which targets there are for whom is in
//! [`routes`], the tables of `[[routes]]`.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Violation,
    resolve::{broken, integer, said, time},
    scalar::{integer as integer_text, number as number_text},
    units::format_time,
};

mod routes;
#[cfg(test)]
mod tests;

pub(super) use routes::{RawRoute, raw_routes, resolve_routes};
pub use routes::{RouteConfig, RouteMatch, RouteTarget, ShadowConfig, Who, load_routes};

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// `[routing]`: where requests go that match one of `[[routes]]`.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Routing")]
pub struct RawRouting {
    /// Longest time of a completion that is routed.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub completion_deadline: Option<String>,
    /// Longest time of a generation or chat that is routed.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub generation_deadline: Option<String>,
    /// Failures in a row after which a target is left alone.
    #[arg(long, value_name = "N", value_parser = integer_text, allow_negative_numbers = true, hide_short_help = true)]
    pub breaker_failures: Option<i64>,
    /// Share of failed calls above which a target is left alone.
    #[arg(long, value_name = "SHARE", value_parser = number_text, allow_negative_numbers = true, hide_short_help = true)]
    pub breaker_error_share: Option<f64>,
    /// Time to the first text above which a call is slow.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub breaker_slow_call: Option<String>,
    /// Share of slow calls above which a target is left alone.
    #[arg(long, value_name = "SHARE", value_parser = number_text, allow_negative_numbers = true, hide_short_help = true)]
    pub breaker_slow_share: Option<f64>,
    /// Calls below which shares say nothing.
    #[arg(long, value_name = "N", value_parser = integer_text, allow_negative_numbers = true, hide_short_help = true)]
    pub breaker_min_calls: Option<i64>,
    /// Time over which shares are taken.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub breaker_window: Option<String>,
    /// Time after which a target that was left alone is tried again.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub probe_interval: Option<String>,
    /// Requests that try it at once.
    #[arg(long, value_name = "N", value_parser = integer_text, allow_negative_numbers = true, hide_short_help = true)]
    pub probes: Option<i64>,
    /// Longest time that a target's own Retry-After is heeded.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub exhausted_limit: Option<String>,
    /// Time after which a target that refuses our key or model is tried again.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub refused_pause: Option<String>,
    /// Further calls, after failures or beside slow calls, as a share of the requests.
    #[arg(long, value_name = "SHARE", value_parser = number_text, allow_negative_numbers = true, hide_short_help = true)]
    pub retry_share: Option<f64>,
    /// Further calls that are always allowed within the window.
    #[arg(long, value_name = "N", value_parser = integer_text, allow_negative_numbers = true, hide_short_help = true)]
    pub retry_floor: Option<i64>,
    /// Time over which further calls are counted.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub retry_window: Option<String>,
    /// Whether a call that is slower than nineteen of twenty is made elsewhere too; the first answer counts.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true, hide_short_help = true)]
    pub hedging: Option<bool>,
    /// Shortest time before that.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub hedge_delay: Option<String>,
    /// Copies of requests to shadow targets under way at once; more are left out.
    #[arg(long, value_name = "N", value_parser = integer_text, allow_negative_numbers = true, hide_short_help = true)]
    pub max_shadows: Option<i64>,
}

/// When a target is asked and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingConfig {
    /// Longest time of a completion.
    pub completion_deadline: Duration,
    /// Longest time of a generation.
    pub generation_deadline: Duration,
    /// When targets are left alone.
    pub breaker: BreakerConfig,
    /// Further calls, as a share of the requests.
    pub retry_share: f64,
    /// Further calls that are always allowed.
    pub retry_floor: u32,
    /// Time over which both are counted.
    pub retry_window: Duration,
    /// Shortest time before a slow call is made elsewhere too; `None` never does.
    pub hedge_delay: Option<Duration>,
    /// What stands there while hedging is off, so that it prints as it was typed.
    pub hedge_delay_typed: Duration,
    /// Copies of requests under way at once.
    pub num_shadows_max: usize,
}

/// When a target is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row that open it, those that were overtaken among them.
    pub failures: u32,
    /// Share of failed calls in the window above which it opens.
    pub error_share: f64,
    /// Time to the first text above which a call is slow.
    pub slow_call: Duration,
    /// Share of slow calls in the window above which it opens.
    pub slow_share: f64,
    /// Calls in the window below which shares say nothing.
    pub calls_min: u32,
    /// Time over which shares are taken.
    pub window: Duration,
    /// Time before a probe.
    pub probe_interval: Duration,
    /// Probes at once.
    pub probes: u32,
    /// Longest `Retry-After` that is heeded.
    pub exhausted_max: Duration,
    /// Time before a probe where our key or model was refused: only a person mends that.
    pub refused_pause: Duration,
}

impl RawRouting {
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            completion_deadline: self.completion_deadline.or(lower.completion_deadline),
            generation_deadline: self.generation_deadline.or(lower.generation_deadline),
            breaker_failures: self.breaker_failures.or(lower.breaker_failures),
            breaker_error_share: self.breaker_error_share.or(lower.breaker_error_share),
            breaker_slow_call: self.breaker_slow_call.or(lower.breaker_slow_call),
            breaker_slow_share: self.breaker_slow_share.or(lower.breaker_slow_share),
            breaker_min_calls: self.breaker_min_calls.or(lower.breaker_min_calls),
            breaker_window: self.breaker_window.or(lower.breaker_window),
            probe_interval: self.probe_interval.or(lower.probe_interval),
            probes: self.probes.or(lower.probes),
            exhausted_limit: self.exhausted_limit.or(lower.exhausted_limit),
            refused_pause: self.refused_pause.or(lower.refused_pause),
            retry_share: self.retry_share.or(lower.retry_share),
            retry_floor: self.retry_floor.or(lower.retry_floor),
            retry_window: self.retry_window.or(lower.retry_window),
            hedging: self.hedging.or(lower.hedging),
            hedge_delay: self.hedge_delay.or(lower.hedge_delay),
            max_shadows: self.max_shadows.or(lower.max_shadows),
        }
    }
}

/// Checks `[routing]`.
pub(super) fn resolve(raw: RawRouting) -> Result<RoutingConfig, Violation> {
    let hedge_delay = time("routing.hedge_delay", raw.hedge_delay, MILLISECOND..=MINUTE)?;
    let is_hedging = said("routing.hedging", raw.hedging)?;
    Ok(RoutingConfig {
        completion_deadline: time(
            "routing.completion_deadline",
            raw.completion_deadline,
            10 * MILLISECOND..=HOUR,
        )?,
        generation_deadline: time(
            "routing.generation_deadline",
            raw.generation_deadline,
            10 * MILLISECOND..=DAY,
        )?,
        breaker: BreakerConfig {
            // More than ten would let an outage go on for longer than anybody should wait.
            failures: integer("routing.breaker_failures", raw.breaker_failures, 1..=10)?,
            error_share: share("routing.breaker_error_share", raw.breaker_error_share)?,
            slow_call: time(
                "routing.breaker_slow_call",
                raw.breaker_slow_call,
                MILLISECOND..=HOUR,
            )?,
            slow_share: share("routing.breaker_slow_share", raw.breaker_slow_share)?,
            calls_min: integer("routing.breaker_min_calls", raw.breaker_min_calls, 1..=100_000)?,
            window: time("routing.breaker_window", raw.breaker_window, 100 * MILLISECOND..=HOUR)?,
            probe_interval: time(
                "routing.probe_interval",
                raw.probe_interval,
                100 * MILLISECOND..=HOUR,
            )?,
            probes: integer("routing.probes", raw.probes, 1..=100)?,
            exhausted_max: time(
                "routing.exhausted_limit",
                raw.exhausted_limit,
                1000 * MILLISECOND..=DAY,
            )?,
            refused_pause: time(
                "routing.refused_pause",
                raw.refused_pause,
                100 * MILLISECOND..=DAY,
            )?,
        },
        retry_share: share("routing.retry_share", raw.retry_share)?,
        retry_floor: integer("routing.retry_floor", raw.retry_floor, 0..=10_000)?,
        retry_window: time("routing.retry_window", raw.retry_window, 100 * MILLISECOND..=HOUR)?,
        hedge_delay: is_hedging.then_some(hedge_delay),
        hedge_delay_typed: hedge_delay,
        num_shadows_max: integer("routing.max_shadows", raw.max_shadows, 0..=1024)?,
    })
}

fn share(key: &'static str, value: Option<f64>) -> Result<f64, Violation> {
    let share = said(key, value)?;
    let is_share = (0.0..=1.0).contains(&share);
    is_share.then_some(share).ok_or_else(|| broken(key, "from 0 to 1", share))
}

impl From<&RoutingConfig> for RawRouting {
    fn from(config: &RoutingConfig) -> Self {
        let RoutingConfig { breaker, .. } = config;
        let time = |time| Some(format_time(time));
        Self {
            completion_deadline: time(config.completion_deadline),
            generation_deadline: time(config.generation_deadline),
            breaker_failures: Some(breaker.failures.into()),
            breaker_error_share: Some(breaker.error_share),
            breaker_slow_call: time(breaker.slow_call),
            breaker_slow_share: Some(breaker.slow_share),
            breaker_min_calls: Some(breaker.calls_min.into()),
            breaker_window: time(breaker.window),
            probe_interval: time(breaker.probe_interval),
            probes: Some(breaker.probes.into()),
            exhausted_limit: time(breaker.exhausted_max),
            refused_pause: time(breaker.refused_pause),
            retry_share: Some(config.retry_share),
            retry_floor: Some(config.retry_floor.into()),
            retry_window: time(config.retry_window),
            hedging: Some(config.hedge_delay.is_some()),
            hedge_delay: time(config.hedge_delay_typed),
            max_shadows: i64::try_from(config.num_shadows_max).ok(),
        }
    }
}
