#!/usr/bin/env python3
"""What a call of run.sh came to, read from its JSON: a report for people, and the operators that lose the most time.

    summary.py report FOLDER      steps with their exit codes, then medians, each as a share of the best that was measured in the same run
    summary.py machine FOLDER     as JSON: GPU, driver, clocks, memories and processors as they are now, and the room where the folder is
    summary.py worst FILE         of `bench kernels`: names, titles and kernels of a product and of another operator of ours that lose the most time
    summary.py origin FOLDER      writes into each JSON that does not say it what it comes from, and takes the host's name out of what ncu wrote

The time that an operator loses is its median less the least that its bytes and operations allow by the ceilings: a small share of a small time is
little to win.

Shares: a decode's bytes (weights, keys and values) a second of the best reading; a prefill's operations a second of the best product, counting
two for each weight of the layers and none for attention and head. A share is missing where its ceiling was not measured in the same call.
"""

import csv
import glob
import json
import os
import re
import shutil
import subprocess
import sys

from peer_torch import NAMES, SHAPES

# What an operator's kernels are called. Products of more than 64 rows are the library's. What embeds fills the buffers of all others too, so it
# cannot be told from them by its name.
KERNELS = {
    "norm": "^(rms|layer)_norm",
    "rope_and_cache_write": "^rope",
    "sample": "^sample$",
    "linear": "^stream_",
    "linear_add": "^stream_",
    "feed_forward": "^stream_",
    "attention": "^attention_",
}
STREAM_ROWS = 64

# What takes less shows the launch and not the kernel.
LAUNCH_SECONDS = 5e-6

# What a file without a member, or with another kind of value than is looked for, leads to.
NOT_UNDERSTOOD = (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, csv.Error)

METRICS = ("Duration", "DRAM Throughput", "Memory Throughput", "Compute (SM) Throughput", "Achieved Occupancy")

# What says nothing of its origin by itself.
WITHOUT_ORIGIN = ("ceilings.json", "selftest*.json", "serve-start.json", "torch-*.json")


def load(path):
    """Returns a file's JSON; None where there is none, or it is no whole one."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def share(value, ceiling):
    return f"{100 * value / ceiling:.1f} %" if value and ceiling else "-"


def each(folder, pattern, lines):
    """Yields the lines of each file that matches, given its name and JSON; a file that is not understood costs its own only."""
    for path in sorted(glob.glob(os.path.join(folder, pattern))):
        name, found = os.path.basename(path).removesuffix(".json"), load(path)
        if found is None:
            yield f"{name}: no whole JSON"
            continue
        try:
            yield from lines(name, found)
        except NOT_UNDERSTOOD as error:
            yield f"{name}: not understood: {error!r}"


def cut_off(found):
    return "" if found["run"]["is_complete"] else ", cut off"


class Ceilings:
    """The best rates of a run, by whoever measured them."""

    def __init__(self, folder):
        self.read, self.flops = 0, 0
        parts = (("ceilings.json", self.of_torch), ("kernels*.json", self.of_kernels), ("engine-*.json", self.of_engine))
        self.lines = [line for pattern, lines in parts for line in each(folder, pattern, lines)]

    def of_torch(self, _, found):
        yield self.note("torch", found["device"], *(found[name]["best_per_second"] for name in ("read_bytes", "copy_bytes", "bf16_flops")))

    def of_kernels(self, name, found):
        best = found["result"]["ceilings"]
        rates = (best[f"{what}_per_second"] for what in ("read_bytes", "copy_bytes", "flops"))
        yield self.note(name, found["result"]["device"], *rates)

    def of_engine(self, _, found):
        bandwidth = found["result"]["bandwidth"]
        self.read = max(self.read, bandwidth["bytes_per_second"]["max"] if bandwidth else 0)
        return ()

    def note(self, name, device, read, copy, flops):
        self.read, self.flops = max(self.read, read, copy), max(self.flops, flops)
        return f"{name}: read {read / 1e9:.0f} GB/s, copy {copy / 1e9:.0f} GB/s, bf16 {flops / 1e12:.2f} TFLOP/s, {device}"


def layer_weights(shape, num_parameters):
    """Returns the weights that each token of a prompt goes through: those of all layers, where the shape is known."""
    if shape not in SHAPES:
        return num_parameters
    sizes = dict(zip(NAMES, SHAPES[shape]))
    num_tables = 1 if sizes["tie_word_embeddings"] else 2
    return num_parameters - num_tables * sizes["vocab_size"] * sizes["hidden_size"]


def selftest(name, found):
    yield f"{name}: {found['num_failed']} of {found['num_checks']} failed, {found['seconds']:.1f} s, {found['device']}"
    failed = [outcome for outcome in found["outcomes"] if not outcome["is_passed"]]
    for outcome in failed[:8]:
        yield f"  {outcome['check']} {outcome['case']}: error {outcome['error']}, limit {outcome['limit']}"


def title(operator):
    return f"{operator['operator']} {operator['case']}"


def lost_seconds(operator):
    return operator["seconds"]["median"] - operator["floor_seconds"]


def kernels(name, found):
    result = found["result"]
    columns = "share of what the ceilings allow, median, time lost; most lost first"
    yield f"{name}: {result['shape']} {result['weight_format']}{cut_off(found)}: {columns}"
    for operator in sorted(result["operators"], key=lost_seconds, reverse=True)[:14]:
        micros, lost = operator["seconds"]["median"] * 1e6, lost_seconds(operator) * 1e6
        yield f"  {share(operator['fraction'], 1):>7}  {micros:9.1f} us  {lost:9.1f} us lost  {title(operator)}"


def cached_text(cached):
    return f", {cached['num_new_tokens']} new behind a cache {cached['step_seconds']['median'] * 1e3:.2f} ms" if cached else ""


def prefill_text(name, prefill, weights, best):
    return f"{name} {prefill:.0f} tok/s = {share(2 * weights * prefill, best.flops)}"


def engine(best):
    def lines(name, found):
        result = found["result"]
        model, memory = result["model"], result["device_memory"]
        used = f", {memory['used_bytes'] / 1e9:.1f} of {memory['total_bytes'] / 1e9:.1f} GB taken" if memory else ""
        drawn = f"drawn {result['draw_seconds']:.1f} s, " if result["draw_seconds"] is not None else ""
        yield f"{name}: {model['weight_format']}, {drawn}ready {result['ready_seconds']:.1f} s{used}{cut_off(found)}, {result['device']}"
        weights = layer_weights(model["name"], model["num_active_parameters"])
        for batch in result["batches"]:
            prefill, decode = batch["prefill"]["tokens_per_second"]["median"], batch["decode"]
            line = f"  batch {batch['batch']:>2}: "
            if decode:
                line += f"decode {decode['tokens_per_second']['median']:.1f} tok/s, {decode['step_seconds']['median'] * 1e3:.3f} ms a step, "
                line += f"{decode['bytes_per_second'] / 1e9:.0f} GB/s = {share(decode['bytes_per_second'], best.read)}; "
            yield line + prefill_text("prefill", prefill, weights, best) + cached_text(batch["cached"])
        for prompt in result["prefills"]:
            prefill = prompt["prefill"]["tokens_per_second"]["median"]
            yield prefill_text(f"  prompt of {prompt['prompt_tokens']}:", prefill, weights, best) + cached_text(prompt["cached"])

    return lines


def peer(best):
    def prefills(name, measured, weights):
        """Returns the prefill with the static cache, and beside it that with a dynamic one."""
        static, dynamic = (measured[f"{kind}prefill_tokens_per_second"]["median"] for kind in ("", "dynamic_"))
        return prefill_text(name, static, weights, best) + prefill_text(", with a dynamic cache", dynamic, weights, best)

    def lines(name, found):
        versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
        whole = "" if found["is_complete"] else ", cut off"
        decode = "compiled" if found["is_compiled"] else "eager"
        yield f"{name}: {found['dtype']}, decode {decode}, prefill eager, {versions}{whole}, {found['device']}"
        sizes = dict(zip(NAMES, SHAPES[found["shape"]]))
        head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
        kv_bytes = 2 * 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * head_dim
        weights = layer_weights(found["shape"], found["num_parameters"])
        for batch in found["batches"]:
            # The same bytes as the engine's: keys and values of the mean context.
            context_tokens = found["prompt_tokens"] + (found["gen_tokens"] + 1) / 2
            num_bytes = found["step_weight_bytes"] + batch["batch"] * context_tokens * kv_bytes
            seconds = batch["decode_step_seconds"]["median"]
            line = f"  batch {batch['batch']:>2}: decode {batch['decode_tokens_per_second']['median']:.1f} tok/s, {seconds * 1e3:.3f} ms a step, "
            line += f"{num_bytes / seconds / 1e9:.0f} GB/s = {share(num_bytes / seconds, best.read)}; "
            yield line + prefills("prefill", batch, weights)
        for prompt in found["prefills"]:
            line = prefills(f"  prompt of {prompt['prompt_tokens']}:", prompt, weights)
            yield line + f", {prompt['num_new_tokens']} new behind a static cache {prompt['cached_step_seconds']['median'] * 1e3:.2f} ms"

    return lines


def percentiles(found):
    return f"p50 {found['p50'] * 1e3:.1f}, p95 {found['p95'] * 1e3:.1f} ms (of {found['count']})" if found else "-"


def start(_, found):
    yield f"serve: {found['shape']} ready {found['ready_seconds']:.1f} s after its start"


def load_test(name, found):
    result = found["result"]
    requests, speed, tokens = result["requests"], result["throughput"], result["tokens"]
    yield f"{name}: {requests['failed']} of {requests['ended']} failed, {speed['completion_tokens_per_second']:.0f} tok/s out{cut_off(found)}"
    yield f"  first token {percentiles(result['time_to_first_token_seconds'])}, between texts {percentiles(result['inter_token_seconds'])}"
    yield f"  tokens in {tokens['prompt']}, cached {tokens['cached']}, out {tokens['completion']}"


def keystrokes(name, found):
    result = found["result"]
    first = (result["first_key"] or {}).get("time_to_first_token_seconds")
    said = f"first token {percentiles(result['time_to_first_token_seconds'])}, of the first key {first} s, keys {result['keys']}"
    yield f"{name}: {said}{cut_off(found)}"


def tools(folder):
    for name in ("memcheck", "racecheck", "synccheck"):
        for line in re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY.*", text(os.path.join(folder, f"{name}.log"))):
            yield f"{name}: {line.strip('= ')}"
    for path in sorted(glob.glob(os.path.join(folder, "ncu*.csv"))):
        name = os.path.basename(path).removesuffix(".csv")
        # What it refuses, such as the device's counters, stands in its own file or among the program's messages.
        said = text(path) + "\n" + text(path.removesuffix(".csv") + ".log")
        yield from (f"{name}: {line}" for line in dict.fromkeys(re.findall(r"^==(?:ERROR|WARNING)== .*", said, re.MULTILINE)))
        try:
            yield from (f"{name}: {launch}" for launch in launches(text(path)))
        except NOT_UNDERSTOOD as error:
            yield f"{name}: not understood: {error!r}"


def launches(said):
    """Returns what ncu says of each launch that it profiled."""
    found = {}
    for row in csv.DictReader(table_of(said)):
        if row.get("Metric Name") in METRICS:
            metrics = found.setdefault((row.get("ID"), row.get("Kernel Name")), {})
            # Some metrics stand in more than one section.
            metrics[row["Metric Name"]] = f"{row['Metric Name']} {row.get('Metric Value')} {row.get('Metric Unit')}"
    return [f"{kernel}: {', '.join(metrics[metric] for metric in METRICS if metric in metrics)}" for (_, kernel), metrics in found.items()]


def table_of(said):
    """Returns the lines of a CSV that tools have put messages before and between."""
    return [line for line in said.splitlines() if line.startswith('"')]


def report(folder):
    steps = text(os.path.join(folder, "steps.txt"))
    yield steps.rstrip()
    yield json.dumps(load(os.path.join(folder, "machine.json")))
    version = text(os.path.join(folder, "start.log")).strip()
    if version:
        yield version
    missing = [line.strip() for line in text(os.path.join(folder, "libraries.log")).splitlines() if "not found" in line]
    yield from missing
    best = Ceilings(folder)
    parts = {
        "ceilings": [best.lines],
        "selftest": [each(folder, "selftest*.json", selftest)],
        "operators": [each(folder, "kernels*.json", kernels)],
        "engine": [each(folder, "engine-*.json", engine(best))],
        "peers": [each(folder, "torch-*.json", peer(best))],
        "HTTP": [each(folder, *part) for part in (("serve-start.json", start), ("serve-[0-9]*.json", load_test), ("keystrokes.json", keystrokes))],
        "tools": [tools(folder)],
    }
    for part, files in parts.items():
        lines = [line for lines in files for line in lines]
        if lines:
            yield f"\n{part}"
            yield from lines
    # The last words of what failed.
    failed = re.findall(r"^(\S+): (?:exit [1-9]|ended with [1-9]|not ready|stopped)", steps, re.MULTILINE)
    for step in dict.fromkeys(failed):
        yield f"\n{step} failed:"
        yield from text(os.path.join(folder, f"{step}.log")).strip()[-800:].splitlines()[-6:]


def write(path, content):
    """Replaces the file at once: who is killed meanwhile leaves the last whole one."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(content)
    os.replace(path + ".part", path)


def origin(folder):
    rows = [line.split("\t") for line in text(os.path.join(folder, "commands.tsv")).splitlines()]
    commands = {row[0]: row[1:] for row in rows if len(row) == 3}
    gpus = (load(os.path.join(folder, "machine.json")) or {}).get("gpus") or [{}]
    commit = text(os.path.join(folder, "commit.txt")).strip() or "unknown"
    for path in sorted(path for pattern in WITHOUT_ORIGIN for path in glob.glob(os.path.join(folder, pattern))):
        found = load(path)
        if isinstance(found, dict) and "origin" not in found:
            date, command = commands.get(os.path.basename(path).removesuffix(".json"), (None, None))
            found["origin"] = {"commit": commit, "driver": gpus[0].get("driver_version"), "date": date, "command": command}
            write(path, json.dumps(found, indent=2) + "\n")
    for path in glob.glob(os.path.join(folder, "ncu*.csv")):
        write(path, "".join(without_host(text(path))))
    # Nothing to print.
    return ()


def without_host(said):
    """Yields the lines, those of the table without the column of the host's name."""
    column = None
    for line in said.splitlines(keepends=True):
        cells = next(csv.reader([line])) if line.startswith('"') else []
        if "Host Name" in cells:
            column = cells.index("Host Name")
        if cells and column is not None and column < len(cells):
            del cells[column]
            line = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"
        yield line


def machine(folder):
    wanted = ("name", "driver_version", "memory.total", "memory.used", "clocks.max.sm", "clocks.max.mem", "clocks.sm", "clocks.mem", "power.limit")
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(wanted)}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        gpus = [dict(zip(wanted, (cell.strip() for cell in line.split(",")))) for line in said.splitlines()]
    except (OSError, subprocess.SubprocessError) as error:
        gpus = [{"error": str(error)}]
    memory = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(.*)$", text("/proc/meminfo"), re.MULTILINE))
    found = {"gpus": gpus, "memory": memory, "num_cores": os.cpu_count(), "free_disk_bytes": shutil.disk_usage(folder).free}
    yield json.dumps(found | {"python": sys.version.split()[0]}, indent=2)


def worst(path):
    found = load(path)
    candidates = {}
    for operator in found["result"]["operators"] if found else []:
        rows = re.match(r"(\d+) rows?$", operator["case"])
        kernel = KERNELS.get(operator["operator"].split(":")[0])
        of_library = kernel == "^stream_" and rows and int(rows[1]) > STREAM_ROWS
        if kernel and not of_library and operator["seconds"]["median"] > LAUNCH_SECONDS:
            name = "product" if kernel == "^stream_" else "other"
            candidates.setdefault(name, []).append((lost_seconds(operator), title(operator), kernel))
    # A decode's time is its products': one of them first.
    for name in ("product", "other"):
        if name in candidates:
            yield "\t".join((name, *max(candidates[name])[1:]))


def main():
    commands = {"report": report, "machine": machine, "worst": worst, "origin": origin}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    for line in commands[sys.argv[1]](sys.argv[2]):
        print(line)


if __name__ == "__main__":
    main()
