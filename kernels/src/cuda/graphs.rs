//! Graphs of decode steps: captured once for each bucket, replayed for all steps of it that follow.

use std::collections::HashMap;

use crate::cuda::step::{Bucket, Demand};

/// Most graphs that are held; a graph of some hundred launches takes about a megabyte of the device. Ten numbers of
/// sequences, five widths of tables, two ends, logits or tokens, and with adapters or without, are fewer.
const NUM_GRAPHS_MAX: usize = 256;

/// A captured step.
#[derive(Debug)]
pub(super) struct Captured<G> {
    pub(super) graph: G,
    /// What a step must satisfy before it may be replayed on it.
    pub(super) demands: Vec<Demand>,
}

/// The graphs of a backend, by what their steps have in common.
#[derive(Debug)]
pub(super) struct Graphs<G> {
    is_enabled: bool,
    captured: HashMap<Bucket, Captured<G>>,
}

impl<G> Graphs<G> {
    pub(super) fn new(is_enabled: bool) -> Self {
        Self { is_enabled, captured: HashMap::new() }
    }

    /// Forgets all graphs and captures no more.
    pub(super) fn disable(&mut self) {
        self.is_enabled = false;
        self.captured.clear();
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Returns whether another graph may be captured.
    pub(super) fn has_room(&self) -> bool {
        self.captured.len() < NUM_GRAPHS_MAX
    }

    /// Returns the graph of a bucket and takes it out; it is to be put back.
    pub(super) fn take(&mut self, bucket: &Bucket) -> Option<Captured<G>> {
        self.captured.remove(bucket)
    }

    pub(super) fn put(&mut self, bucket: Bucket, captured: Captured<G>) {
        self.captured.insert(bucket, captured);
    }

    /// Forgets all graphs: memory that they name was given back.
    pub(super) fn clear(&mut self) {
        self.captured.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.captured.len()
    }
}
