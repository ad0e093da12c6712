//! `lacuna bench bandwidth`.

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::{
    bench::{
        bandwidth::{self, BandwidthResults},
        table,
    },
    cli::{
        CliError,
        bench::{Output, Sink, watch::Progress},
    },
    engine::memory::free_bytes,
};

#[derive(Args, Debug)]
pub(super) struct BandwidthArgs {
    /// Numbers of threads, separated by commas; one measurement each.
    #[arg(id = "bandwidth_threads", long = "threads", value_name = "N,…", value_delimiter = ',', default_value = "1,2",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// Memory to read, in MiB; far more than the caches hold.
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    mib: u32,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &BandwidthArgs) -> Result<(), CliError> {
    let free = free_bytes();
    if u64::from(arguments.mib) << 20 > free {
        let most = free >> 20;
        return Err(CliError::Usage(anyhow!(
            "--mib must be at most {most}, the memory that is free, got {}",
            arguments.mib
        )));
    }
    let sink = Sink::open(&arguments.output)?;
    let (mut progress, _runtime) = Progress::stopped_by_signal()?;
    let mut results = BandwidthResults { threads: Vec::new() };
    for &num_threads in &arguments.threads {
        let num_bytes = (arguments.mib as usize) << 20;
        let result = bandwidth::measure(num_threads.into(), num_bytes, &mut progress);
        results.threads.extend(result.context("the measurement failed")?);
    }
    let is_complete = !crate::bench::Watch::is_stopped(&progress);
    drop(progress);
    let threads: Vec<String> = arguments.threads.iter().map(u16::to_string).collect();
    let command =
        format!("lacuna bench bandwidth --threads {} --mib {}", threads.join(","), arguments.mib);
    sink.write("bandwidth", command, (results, is_complete), table::bandwidth)
}
