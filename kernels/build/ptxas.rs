//! Reads what `ptxas -v` says about kernels: registers, shared memory, spills.

/// What a kernel takes on one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// The kernel's name in the object, which is its name in the source where it is `extern "C"`.
    pub(crate) kernel: String,
    /// Such as `sm_90a`.
    pub(crate) architecture: String,
    /// Registers of a thread.
    pub(crate) registers: u32,
    /// Static shared memory of a block, in bytes.
    pub(crate) shared_bytes: u32,
    /// Local memory of a thread, in bytes.
    pub(crate) stack_bytes: u32,
    /// Registers written to local memory because there were too few, in bytes.
    pub(crate) spill_store_bytes: u32,
    /// The same, read.
    pub(crate) spill_load_bytes: u32,
}

impl Resources {
    /// Returns whether registers were too few.
    pub(crate) fn has_spills(&self) -> bool {
        self.spill_store_bytes > 0 || self.spill_load_bytes > 0
    }
}

/// Returns what each kernel takes, in the order of the log. What functions that were not inlined spill counts for the
/// kernel before them.
pub(crate) fn parse(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((kernel, architecture)) = entry(line) {
            found.push(Resources {
                kernel,
                architecture,
                registers: 0,
                shared_bytes: 0,
                stack_bytes: 0,
                spill_store_bytes: 0,
                spill_load_bytes: 0,
            });
            continue;
        }
        let Some(last) = found.last_mut() else { continue };
        if line.contains("bytes spill stores") {
            last.stack_bytes = last.stack_bytes.max(number_before(line, " bytes stack frame"));
            last.spill_store_bytes += number_before(line, " bytes spill stores");
            last.spill_load_bytes += number_before(line, " bytes spill loads");
        } else if line.contains(": Used ") {
            last.registers = last.registers.max(number_before(line, " registers"));
            last.shared_bytes = last.shared_bytes.max(number_before(line, " bytes smem"));
        }
    }
    found
}

/// Returns name and architecture of `… Compiling entry function 'name' for 'sm_90a'`.
fn entry(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once("Compiling entry function '")?;
    let (kernel, rest) = rest.split_once("' for '")?;
    let (architecture, _) = rest.split_once('\'')?;
    Some((kernel.to_owned(), architecture.to_owned()))
}

/// Returns the number right before `what`; 0 where there is none.
fn number_before(line: &str, what: &str) -> u32 {
    let Some((head, _)) = line.split_once(what) else { return 0 };
    let digits = head.trim_end_matches(|character: char| character.is_ascii_digit()).len();
    head[digits..].parse().unwrap_or(0)
}
