//! Graphs of decode steps: captured once for each layout of a step, replayed for all that follow.

use std::collections::HashMap;

use crate::cuda::step::{Demand, StepLayout};

/// Most graphs that are held; a graph of some hundred launches takes about a megabyte of the device.
const NUM_GRAPHS_MAX: usize = 64;

/// A captured step.
#[derive(Debug)]
pub(super) struct Captured<G> {
    pub(super) graph: G,
    /// What a step must satisfy before it may be replayed on it.
    pub(super) demands: Vec<Demand>,
}

/// The graphs of a backend, by the layout of their steps.
#[derive(Debug)]
pub(super) struct Graphs<G> {
    is_enabled: bool,
    captured: HashMap<StepLayout, Captured<G>>,
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

    /// Returns the graph of a layout and takes it out; it is to be put back.
    pub(super) fn take(&mut self, layout: &StepLayout) -> Option<Captured<G>> {
        self.captured.remove(layout)
    }

    pub(super) fn put(&mut self, layout: StepLayout, captured: Captured<G>) {
        if self.captured.len() >= NUM_GRAPHS_MAX {
            self.captured.clear();
        }
        self.captured.insert(layout, captured);
    }

    /// Forgets all graphs: memory that they name was given back.
    pub(super) fn clear(&mut self) {
        self.captured.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.captured.len()
    }
}
