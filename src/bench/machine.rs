//! What a result was measured on: processor, memory, and how much of it this process took.

use std::{fs, num::NonZero};

use serde::Serialize;

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor, as the system calls it.
    pub cpu: String,
    /// Cores that this process may use.
    pub num_cores: usize,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Operating system.
    pub os: &'static str,
    /// Instruction set.
    pub architecture: &'static str,
}

impl Machine {
    /// Returns the machine that this process runs on.
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok();
        let memory = fs::read_to_string("/proc/meminfo").ok();
        Self {
            cpu: cpu.as_deref().and_then(cpu_model).unwrap_or("unknown").to_owned(),
            num_cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            memory_bytes: memory.as_deref().and_then(|text| kib_line(text, "MemTotal:")),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        }
    }
}

/// Memory that a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// Most so far, or since [`forget_peak`], files that are mapped included.
    pub peak_bytes: Option<u64>,
    /// Now.
    pub resident_bytes: Option<u64>,
}

impl ProcessMemory {
    /// Returns what this process takes; nothing where the system does not tell.
    pub fn here() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            peak_bytes: kib_line(&status, "VmHWM:"),
            resident_bytes: kib_line(&status, "VmRSS:"),
        }
    }
}

/// Lets the peak begin anew, at what this process takes now; where the system cannot, it stays.
pub fn forget_peak() {
    // Linux's word for "reset the peak resident set size".
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start().strip_prefix(':')?.trim())
}

/// Returns the bytes of a line such as `MemTotal:  24689660 kB`.
fn kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_system_says() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC: 7R13\nflags\t: fpu\n";
        assert_eq!(cpu_model(cpuinfo), Some("AMD EPYC: 7R13"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
        let meminfo = "MemTotal:       24689660 kB\nMemFree: many kB\n";
        assert_eq!(kib_line(meminfo, "MemTotal:"), Some(24_689_660 * 1024));
        assert_eq!(kib_line(meminfo, "MemFree:"), None);
        assert_eq!(kib_line(meminfo, "Swap:"), None);
    }

    #[test]
    fn this_machine_has_cores() {
        let machine = Machine::here();
        assert!(machine.num_cores > 0 && !machine.cpu.is_empty());
        if cfg!(target_os = "linux") {
            let memory = ProcessMemory::here();
            assert!(memory.peak_bytes.unwrap() >= memory.resident_bytes.unwrap());
            let large = std::hint::black_box(vec![1_u8; 256 << 20]);
            let peak = ProcessMemory::here().peak_bytes.unwrap();
            drop(large);
            forget_peak();
            assert!(ProcessMemory::here().peak_bytes.unwrap() < peak - (128 << 20));
        }
    }
}
