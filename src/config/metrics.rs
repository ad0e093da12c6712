//! The settings of metrics: where they are handed out.

use std::net::SocketAddr;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Violation,
    resolve::{AUTO, broken, said},
};

const OFF: &str = "off";

/// `[metrics]`: metrics for Prometheus.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Metrics")]
pub struct RawMetrics {
    /// Where metrics are handed out, beside the endpoints; auto is the server's host and port 8082, or a free one.
    #[arg(long = "metrics-address", value_name = "auto|off|ADDRESS:PORT", hide_short_help = true)]
    pub address: Option<String>,
}

impl RawMetrics {
    /// Fills in what is not said here.
    pub(super) fn or(self, lower: Self) -> Self {
        Self { address: self.address.or(lower.address) }
    }
}

/// Where metrics are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Nowhere.
    Off,
    /// At the server's host, at the usual port if it is free.
    Auto,
    /// There.
    At(SocketAddr),
}

/// Checks the settings.
///
/// # Errors
/// What is no address.
pub(super) fn resolve(raw: RawMetrics) -> Result<MetricsAddress, Violation> {
    let text = said("metrics.address", raw.address)?;
    match text.as_str() {
        OFF => Ok(MetricsAddress::Off),
        AUTO => Ok(MetricsAddress::Auto),
        text => {
            let rule = "auto, off, or an IP address and a port such as 127.0.0.1:8082";
            let address = text.parse().map_err(|_| broken("metrics.address", rule, text))?;
            Ok(MetricsAddress::At(address))
        }
    }
}

impl From<MetricsAddress> for RawMetrics {
    fn from(address: MetricsAddress) -> Self {
        let text = match address {
            MetricsAddress::Off => OFF.to_owned(),
            MetricsAddress::Auto => AUTO.to_owned(),
            MetricsAddress::At(address) => address.to_string(),
        };
        Self { address: Some(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_word_or_an_address() {
        let resolved = |text: &str| resolve(RawMetrics { address: Some(text.to_owned()) });
        for text in ["auto", "off", "127.0.0.1:9090", "[::1]:0"] {
            assert_eq!(RawMetrics::from(resolved(text).unwrap()).address.as_deref(), Some(text));
        }
        for text in ["8082", "localhost:8082", "127.0.0.1", ""] {
            assert!(resolved(text).is_err(), "{text}");
        }
    }
}
