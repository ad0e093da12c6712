//! Histograms that somebody else fills: an engine counts without waiting for anybody, and is looked at when a page is made.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::telemetry::metrics::EngineSample;

/// The counts of a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSample {
    /// Upper borders of all buckets but the last, which has none.
    pub borders: Vec<f64>,
    /// Values within each border and above the one before.
    pub buckets: Vec<u64>,
    /// Sum of the values.
    pub sum: f64,
}

impl HistogramSample {
    /// Takes counts of whole units, `unit` of which are one of the metric's.
    pub fn new(borders: &[u64], buckets: &[u64], sum: u64, unit: f64) -> Self {
        let in_units = |value: u64| value as f64 / unit;
        Self {
            borders: borders.iter().map(|border| in_units(*border)).collect(),
            buckets: buckets.to_vec(),
            sum: in_units(sum),
        }
    }
}

/// What a family shows of a sample.
pub(super) type Shows = fn(&EngineSample) -> &HistogramSample;

/// A family of histograms, one a model; copies are the same.
#[derive(Clone, Debug)]
pub(super) struct SampledHistograms {
    desc: Arc<Desc>,
    shown: Arc<Mutex<Vec<Metric>>>,
}

impl SampledHistograms {
    pub(super) fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let labels = vec!["model_name".to_owned()];
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        Ok(Self { desc: Arc::new(desc), shown: Arc::default() })
    }

    /// Shows what the engines have counted, in the place of what was shown before.
    pub(super) fn show(&self, samples: &[EngineSample], shows: Shows) {
        let metrics = samples.iter().map(|sample| metric(&sample.model, shows(sample))).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }
}

fn metric(model: &str, sample: &HistogramSample) -> Metric {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(sample.borders.len());
    for (border, count) in sample.borders.iter().zip(&sample.buckets) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*border);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    // The counter of all is the sum of what was read, so that it never contradicts the buckets.
    histogram.set_sample_count(sample.buckets.iter().sum());
    histogram.set_sample_sum(sample.sum);
    histogram.set_bucket(buckets);
    let mut label = LabelPair::default();
    label.set_name("model_name".to_owned());
    label.set_value(model.to_owned());
    let mut metric = Metric::from_label(vec![label]);
    metric.set_histogram(histogram);
    metric
}

impl Collector for SampledHistograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone());
        vec![family]
    }
}
