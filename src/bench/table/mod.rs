//! Results for people: plain text in at most 100 columns.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::bench::{
    bandwidth::{BandwidthResult, BandwidthResults},
    engine::{BatchResult, DecodeResult, EngineResult, PrefillResult},
    foreign,
    keystrokes::KeystrokesResult,
    operators::KernelsResult,
    report::Run,
    serve::{ServeResult, ServerFacts},
    statistics::{Percentiles, Spread},
};

/// Rows of cells, the first of which names the columns.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new(columns: &[&str]) -> Self {
        Self(vec![columns.iter().map(|&column| column.to_owned()).collect()])
    }

    fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// Aligns the first column to the left, being names, and numbers to the right.
    fn render(&self) -> String {
        let num_columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| {
            row.get(column).map_or(0, |cell| cell.chars().count())
        };
        let widths: Vec<usize> = (0..num_columns)
            .map(|column| self.0.iter().map(|row| cell_width(row, column)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a `String` cannot fail.
                let _ = if index == 0 {
                    write!(line, "{cell:<width$}")
                } else {
                    write!(line, "  {cell:>width$}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes the result of `lacuna bench engine`.
pub fn engine(run: &Run, result: &EngineResult) -> String {
    let mut text = head(run);
    let model = &result.model;
    let random = if model.is_random { " (random weights)" } else { "" };
    let active = if model.num_active_parameters == model.num_parameters {
        String::new()
    } else {
        format!(" ({:.1} M a token)", model.num_active_parameters as f64 / 1e6)
    };
    let _ = writeln!(
        text,
        "model    {}{random}, {}, {:.1} M parameters{active}, {} of weights",
        model.name,
        model.weight_format,
        model.num_parameters as f64 / 1e6,
        bytes(model.weight_bytes as f64),
    );
    let _ = writeln!(text, "device   {}", result.device);
    let peak = result.memory.peak_bytes.map_or_else(
        || "peak memory unknown".to_owned(),
        |peak| format!("peak memory {}", bytes(peak as f64)),
    );
    let drawn = result
        .draw_seconds
        .map_or_else(String::new, |seconds| format!(" once drawn in {seconds:.2} s"));
    let _ = writeln!(
        text,
        "loaded   in {:.2} s{drawn}, ready after {:.2} s, {peak}",
        result.load_seconds, result.ready_seconds
    );
    if let Some(memory) = &result.device_memory {
        let (used, total) = (bytes(memory.used_bytes as f64), bytes(memory.total_bytes as f64));
        let _ = writeln!(text, "on it    {used} of {total} taken");
    }
    if let Some(bandwidth) = &result.bandwidth {
        let _ = writeln!(text, "memory   {}", bandwidth_line(bandwidth));
    }
    let plan = &result.settings;
    let _ = writeln!(
        text,
        "plan     prompts of {} tokens, {} decoded, steps of {} tokens at most, repeat {}\n",
        plan.prompt_tokens, plan.gen_tokens, plan.max_num_batched_tokens, plan.repeat,
    );
    let mut table = Table::new(&[
        "batch",
        "prefill tok/s",
        "min – max",
        "decode tok/s",
        "min – max",
        "ms/step",
        "MB/step",
        "GB/s",
        "of memory",
    ]);
    for batch in &result.batches {
        table.row(batch_row(batch));
    }
    text.push_str(&table.render());
    if !result.prefills.is_empty() {
        text.push('\n');
        text.push_str(&prefills(&result.prefills));
    }
    text
}

/// Prompts by themselves, and their last tokens behind the cached others.
fn prefills(results: &[PrefillResult]) -> String {
    let mut table =
        Table::new(&["prompt", "prefill tok/s", "min – max", "cached, ms", "min – max"]);
    for PrefillResult { prompt_tokens, prefill, cached } in results {
        let speed = &prefill.tokens_per_second;
        let mut cells = vec![prompt_tokens.to_string(), rate(speed.median), ends(speed)];
        let millis = |seconds: f64| format!("{:.3}", seconds * 1e3);
        match cached.as_ref().map(|cached| &cached.step_seconds) {
            Some(Spread { median, min, max, .. }) => {
                cells.extend([millis(*median), format!("{} – {}", millis(*min), millis(*max))]);
            }
            None => cells.extend(["-".to_owned(), "-".to_owned()]),
        }
        table.row(cells);
    }
    table.render()
}

fn batch_row(batch: &BatchResult) -> Vec<String> {
    let prefill = &batch.prefill.tokens_per_second;
    let mut cells = vec![batch.batch.to_string(), rate(prefill.median), ends(prefill)];
    match &batch.decode {
        Some(decode) => cells.extend(decode_cells(decode)),
        None => cells.extend((0..6).map(|_| "-".to_owned())),
    }
    cells
}

fn decode_cells(decode: &DecodeResult) -> [String; 6] {
    let speed = &decode.phase.tokens_per_second;
    let share = decode
        .bandwidth_fraction
        .map_or_else(|| "-".to_owned(), |fraction| format!("{:.0} %", fraction * 100.0));
    [
        rate(speed.median),
        ends(speed),
        format!("{:.3}", decode.step_seconds.median * 1e3),
        format!("{:.1}", decode.bytes_per_step / 1e6),
        format!("{:.2}", decode.bytes_per_second / 1e9),
        share,
    ]
}

/// Writes the result of `lacuna bench bandwidth`.
pub fn bandwidth(run: &Run, results: &BandwidthResults) -> String {
    let mut table = Table::new(&["threads", "best GB/s", "median GB/s", "least GB/s", "MiB read"]);
    for result in &results.threads {
        let Spread { median, min, max, .. } = result.bytes_per_second;
        let threads =
            result.num_threads.map_or_else(|| "-".to_owned(), |threads| threads.to_string());
        let mut cells = vec![threads];
        cells.extend([max, median, min].map(|speed| format!("{:.2}", speed / 1e9)));
        cells.push((result.num_bytes >> 20).to_string());
        table.row(cells);
    }
    format!("{}\n{}", head(run), table.render())
}

/// Writes the result of `lacuna bench kernels`.
pub fn kernels(run: &Run, result: &KernelsResult) -> String {
    let mut text = head(run);
    let best = result.ceilings;
    let _ = writeln!(text, "shape    {}, {}", result.shape, result.weight_format);
    let _ = writeln!(text, "device   {}", result.device);
    let _ = writeln!(
        text,
        "ceilings {:.1} GB/s read, {:.1} GB/s copied, {:.2} TFLOP/s\n",
        best.read_bytes_per_second / 1e9,
        best.copy_bytes_per_second / 1e9,
        best.flops_per_second / 1e12,
    );
    let mut table = Table::new(&[
        "operator",
        "case",
        "median us",
        "least us",
        "floor us",
        "GB/s",
        "TFLOP/s",
        "of floor",
    ]);
    for it in &result.operators {
        let micros = |seconds: f64| format!("{:.1}", seconds * 1e6);
        table.row(vec![
            it.operator.to_owned(),
            it.case.clone(),
            micros(it.seconds.median),
            micros(it.seconds.min),
            micros(it.floor_seconds),
            format!("{:.1}", it.num_bytes as f64 / it.seconds.median / 1e9),
            format!("{:.3}", it.num_flops as f64 / it.seconds.median / 1e12),
            format!("{:.0} %", it.fraction * 100.0),
        ]);
    }
    text + &table.render()
}

/// Writes the result of `lacuna bench serve`.
pub fn serve(run: &Run, result: &ServeResult) -> String {
    let mut text = head(run);
    server(&mut text, &result.server);
    let settings = &result.settings;
    let load = match (settings.clients, settings.rate) {
        (Some(clients), _) => format!("{clients} clients in a closed loop"),
        (None, rate) => format!("{} requests/s by chance", rate.unwrap_or(0.0)),
    };
    let _ = writeln!(
        text,
        "load     {load}, {} requests, {} new tokens at most",
        settings.requests, settings.max_tokens
    );
    let (requests, tokens) = (result.requests, result.tokens);
    let _ = writeln!(
        text,
        "ended    {} of {} well, in {:.2} s{}",
        requests.succeeded,
        requests.ended,
        result.duration_seconds,
        errors(&result.errors),
    );
    let read = tokens.prompt.map_or_else(String::new, |prompt| {
        let cached = tokens.cached.map_or_else(String::new, |cached| format!(" ({cached} cached)"));
        format!(", {prompt} read{cached}")
    });
    let _ = writeln!(
        text,
        "tokens   {} written{read}, counted by {}",
        tokens.completion,
        if tokens.counted_by == "server" { "the server" } else { "pieces of text" },
    );
    let throughput = result.throughput;
    let _ = writeln!(
        text,
        "speed    {} tokens/s written, {} requests/s\n",
        rate(throughput.completion_tokens_per_second),
        rate(throughput.requests_per_second),
    );
    let mut table = percentile_table();
    percentile_row(&mut table, "time to first token, ms", result.time_to_first_token_seconds, 1e3);
    percentile_row(&mut table, "between texts, ms", result.inter_token_seconds, 1e3);
    percentile_row(&mut table, "per output token, ms", result.time_per_output_token_seconds, 1e3);
    percentile_row(&mut table, "whole answer, ms", result.total_seconds, 1e3);
    percentile_row(&mut table, "prompt tokens", result.prompt_tokens, 1.0);
    percentile_row(&mut table, "new tokens", result.completion_tokens, 1.0);
    text + &table.render()
}

/// Writes the result of `lacuna bench keystrokes`.
pub fn keystrokes(run: &Run, result: &KeystrokesResult) -> String {
    let mut text = head(run);
    server(&mut text, &result.server);
    let settings = &result.settings;
    let interval = match settings.interval_ms {
        0 => "as soon as the first text comes".to_owned(),
        interval => format!("every {interval} ms"),
    };
    let _ =
        writeln!(text, "typist   {} client, {} keys, {interval}", settings.client, settings.keys);
    let keys = result.keys;
    let _ = writeln!(
        text,
        "keys     {} typed: {} cancelled after their first text, {} ended, {} superseded, {} failed{}",
        keys.typed,
        keys.cancelled,
        keys.ended,
        keys.superseded,
        keys.failed,
        errors(&result.errors),
    );
    if let Some(first) = &result.first_key {
        let time = first.time_to_first_token_seconds.map_or_else(
            || "no text".to_owned(),
            |time| format!("first text after {:.1} ms", time * 1e3),
        );
        let prompt =
            first.prompt_tokens.map_or_else(String::new, |tokens| format!(", {tokens} tokens"));
        let _ = writeln!(text, "cold     the first key: {time}{prompt}; below, the others");
    }
    let mut table = percentile_table();
    // The first key has a line of its own.
    let num_others = keys.typed.saturating_sub(1);
    let time = result.time_to_first_token_seconds;
    key_row(&mut table, "time to first token, ms", time, 1e3, num_others);
    key_row(&mut table, "prompt tokens", result.prompt_tokens, 1.0, num_others);
    key_row(&mut table, "recomputed tokens", result.recomputed_tokens, 1.0, num_others);
    text + "\n" + &table.render()
}

fn head(run: &Run) -> String {
    let machine = &run.machine;
    let memory = machine.memory_bytes.map_or_else(String::new, |memory| {
        format!(", {:.1} GiB", memory as f64 / f64::from(1 << 30))
    });
    let stopped =
        if run.is_complete { "" } else { "stopped early: what was measured until then\n" };
    let (cpu, cores, simd) = (&machine.cpu, machine.num_cores, &run.simd);
    let build = format!("lacuna {} ({})", run.version, run.commit);
    format!(
        "{stopped}build    {build}, {}\nmachine  {cpu}, {cores} cores, {simd}{memory}\n",
        run.date
    )
}

fn server(text: &mut String, server: &ServerFacts) {
    let model = server.model.as_deref();
    let model = model.map_or_else(String::new, |model| format!(", {}", foreign::name(model)));
    let _ = writeln!(text, "server   {} ({}){model}", server.address, server.dialect);
}

fn errors(errors: &BTreeMap<String, usize>) -> String {
    let listed: Vec<String> =
        errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    if listed.is_empty() { String::new() } else { format!("; failed: {}", listed.join(", ")) }
}

fn percentile_table() -> Table {
    Table::new(&["", "p50", "p95", "p99", "mean", "min", "max", "count"])
}

/// Writes a row where there are samples; the percentiles tell how many.
fn percentile_row(table: &mut Table, name: &str, percentiles: Option<Percentiles>, scale: f64) {
    let Some(percentiles) = percentiles else { return };
    let count = percentiles.count.to_string();
    table.row(percentile_cells(name, Some(percentiles), scale, count));
}

/// Writes a row that says of how many keys it is, even of none: those without a text are the slow ones.
fn key_row(
    table: &mut Table,
    name: &str,
    percentiles: Option<Percentiles>,
    scale: f64,
    num_keys: usize,
) {
    let count = percentiles.map_or(0, |percentiles| percentiles.count);
    let count = format!("{count} of {num_keys} keys");
    table.row(percentile_cells(name, percentiles, scale, count));
}

fn percentile_cells(
    name: &str,
    percentiles: Option<Percentiles>,
    scale: f64,
    count: String,
) -> Vec<String> {
    let numbers = percentiles.map(|of| [of.p50, of.p95, of.p99, of.mean, of.min, of.max]);
    let shown = numbers.map(|numbers| numbers.map(|value| rate(value * scale)));
    let mut cells = vec![name.to_owned()];
    cells.extend(shown.unwrap_or_else(|| ["-"; 6].map(str::to_owned)));
    cells.push(count);
    cells
}

fn bandwidth_line(bandwidth: &BandwidthResult) -> String {
    let Spread { median, min, max, .. } = bandwidth.bytes_per_second;
    let [median, min, max] = [median, min, max].map(|speed| speed / 1e9);
    let by =
        bandwidth.num_threads.map_or_else(String::new, |threads| format!(" by {threads} threads"));
    format!("{max:.2} GB/s read{by} at best (median {median:.2}, least {min:.2})")
}

fn ends(spread: &Spread) -> String {
    format!("{} – {}", rate(spread.min), rate(spread.max))
}

/// Writes a number with as many digits as tell something.
fn rate(value: f64) -> String {
    let num_decimals = if value >= 1000.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.num_decimals$}")
}

fn bytes(value: f64) -> String {
    if value >= 1e9 { format!("{:.2} GB", value / 1e9) } else { format!("{:.1} MB", value / 1e6) }
}

#[cfg(test)]
mod tests;
