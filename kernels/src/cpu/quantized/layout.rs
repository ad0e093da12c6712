//! How codes lie in panels.

use crate::cpu::quantized::dot::{PANEL, STEP_CODES};
use crate::formats::{CodeKind, CodeLayout, RUN_LEN};

/// Steps of a block.
pub(crate) const STEPS: usize = RUN_LEN / STEP_CODES;

impl CodeLayout {
    /// Returns the lines of a block of a panel.
    pub(crate) fn lines_per_block(self) -> usize {
        match self.codes {
            CodeKind::Nibble => STEPS / 2,
            CodeKind::Byte => STEPS,
        }
    }

    /// Returns the memory of a block of a panel, `[PANEL, RUN_LEN]` weights.
    ///
    /// # Units
    /// bytes
    pub(crate) fn bytes_per_block(self) -> usize {
        self.lines_per_block() * PANEL * STEP_CODES + self.factors_per_run() * PANEL * 2
    }
}
