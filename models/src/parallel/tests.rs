//! Ranks that fail, panic or cannot be loaded: the step ends with the reason, and nobody waits for ever.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use super::*;
use crate::{Source, read_spec};

/// What happens at the second step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The rank does its part.
    Lives,
    /// It fails before the sum that the others wait in.
    Fails,
    /// It fails behind it.
    FailsLate,
    /// It panics before the sum.
    Panics,
}

/// A model that sums its rank over the ranks.
struct Fake {
    member: Arc<Member>,
    fate: Fate,
    num_steps: usize,
    spec: DecoderSpec,
    logits: [f32; 1],
    /// Of each step that was started.
    sampled: VecDeque<u32>,
}

impl Fake {
    fn sum(&mut self) -> Result<f32, ModelError> {
        self.num_steps += 1;
        let fate = if self.num_steps == 2 { self.fate } else { Fate::Lives };
        let what = format!("number {} fell off the bus", self.member.rank());
        let error = BackendError::Device { device: "fake".to_owned(), what };
        match fate {
            Fate::Fails => return Err(error.into()),
            // Without the hook, which would print.
            Fate::Panics => resume_unwind(Box::new(())),
            Fate::Lives | Fate::FailsLate => {}
        }
        let mut values = [self.member.rank() as f32];
        self.member.all_reduce(&mut values)?;
        if fate == Fate::FailsLate { Err(error.into()) } else { Ok(values[0]) }
    }
}

impl LanguageModel for Fake {
    fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    fn backend_name(&self) -> String {
        format!("fake {}", self.member.rank())
    }

    fn num_blocks(&self) -> usize {
        7
    }

    fn block_size(&self) -> usize {
        16
    }

    fn num_adapters(&self) -> usize {
        0
    }

    fn forward(&mut self, _: &StepInput<'_>) -> Result<&mut [f32], ModelError> {
        self.logits = [self.sum()?];
        Ok(&mut self.logits)
    }

    fn has_sampler(&self) -> bool {
        true
    }

    fn start_sample(
        &mut self,
        input: &StepInput<'_>,
        num_ids: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<(), ModelError> {
        // Proof that the lists arrived: every rank sums what it was given.
        let given = input.token_ids.len() + num_ids + rows[0].bias.len() + rows[0].seen.len();
        let mut values = [given as f32];
        self.member.all_reduce(&mut values)?;
        self.sampled.push_back(values[0] as u32);
        Ok(())
    }

    fn finish_sample(&mut self) -> Result<Vec<u32>, ModelError> {
        let sampled = self.sampled.pop_front().ok_or(ModelError::NoStep)?;
        Ok(vec![sampled])
    }
}

fn input() -> StepInput<'static> {
    StepInput {
        token_ids: &[0],
        positions: &[0],
        slot_mapping: &[0],
        cu_seqlens_q: &[0, 1],
        context_lens: &[1],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &[0],
        adapters: &[],
    }
}

/// Loads three ranks, of which one has a fate.
fn load_fakes(rank: usize, fate: Fate) -> Box<dyn LanguageModel> {
    let spec = read_spec(Source::Demo).unwrap();
    let fake = |member: Member| -> Result<Box<dyn LanguageModel>, ModelError> {
        let fate = if member.rank() == rank { fate } else { Fate::Lives };
        let spec = DecoderSpec { max_position_embeddings: 48, ..spec.clone() };
        Ok(Box::new(Fake {
            member: Arc::new(member),
            fate,
            num_steps: 0,
            spec,
            logits: [0.0],
            sampled: VecDeque::new(),
        }))
    };
    load(&spec, 3, fake, fake).unwrap()
}

#[test]
fn three_ranks_are_one_model() {
    let mut model = load_fakes(0, Fate::Lives);
    assert_eq!(model.backend_name(), "fake 0 + fake 1 + fake 2");
    let whole = read_spec(Source::Demo).unwrap();
    assert_eq!(*model.spec(), DecoderSpec { max_position_embeddings: 48, ..whole });
    assert_eq!((model.num_blocks(), model.block_size()), (7, 16));
    for _ in 0..100 {
        assert_eq!(model.forward(&input()).unwrap(), [3.0]);
        let row = SampleRow { bias: &[(1, 0.5)], seen: &[(2, 3), (4, 5)], ..SampleRow::default() };
        // Two steps before the first is finished, as the engine does.
        model.start_sample(&input(), 10, &[row]).unwrap();
        model.start_sample(&input(), 20, &[row]).unwrap();
        assert_eq!(model.finish_sample().unwrap(), [3 * (1 + 10 + 1 + 2)]);
        assert_eq!(model.finish_sample().unwrap(), [3 * (1 + 20 + 1 + 2)]);
    }
}

#[test]
fn the_reason_of_the_rank_that_failed_is_the_answer() {
    for rank in 0..3 {
        for fate in [Fate::Fails, Fate::FailsLate] {
            let mut model = load_fakes(rank, fate);
            model.forward(&input()).unwrap();
            let error = model.forward(&input()).unwrap_err().to_string();
            assert_eq!(error, format!("fake: number {rank} fell off the bus"), "{fate:?}");
            let error = model.forward(&input()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("rank {rank} failed")), "{error}");
        }
    }
}

#[test]
fn a_rank_that_panics_ends_the_step() {
    for rank in [1, 2] {
        let mut model = load_fakes(rank, Fate::Panics);
        model.forward(&input()).unwrap();
        let error = model.forward(&input()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("rank {rank} failed")), "{error}");
    }
    let mut model = load_fakes(0, Fate::Panics);
    model.forward(&input()).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| model.forward(&input()).map(drop)));
    assert!(panicked.is_err());
    // Its threads wait in a sum; this must wake them and return.
    drop(model);
}

#[test]
fn a_rank_that_cannot_be_loaded_ends_the_loading() {
    let spec = read_spec(Source::Demo).unwrap();
    for rank in 0..3 {
        let fake = |member: Member| -> Result<Box<dyn LanguageModel>, ModelError> {
            if member.rank() == rank {
                let device = "cpu";
                return Err(BackendError::OutOfMemory { num_bytes: 9, device }.into());
            }
            // As a library that brings devices together would.
            member.all_reduce(&mut [0.0])?;
            panic!("the failed rank cannot have come");
        };
        let error = load(&spec, 3, fake, fake).err().unwrap().to_string();
        assert_eq!(error, "cannot allocate 9 bytes on cpu");
    }
}
