//! Drops a completion that the model thought unlikely: the mean log-probability of its tokens is below the least.
//!
//! A completion of unknown score is kept, and so is one of just the least.

use crate::postprocess::{Ending, Gap};

pub(super) fn apply(gap: &Gap, ending: &mut Ending, text: &mut String) {
    if let (Some(score), Some(min)) = (ending.mean_logprob, gap.min_score)
        && score < min
    {
        text.clear();
    }
}
