#!/usr/bin/env python3
"""What a call of run.sh came to, read from its JSON: a report for people, and the operator that is furthest from what the device can do.

    summary.py report FOLDER      steps with their exit codes, then medians, each as a share of the best that was measured in the same run
    summary.py machine FOLDER     as JSON: GPU, driver, clocks, memories and processors as they are now, and the room where the folder is
    summary.py worst FILE         of `bench kernels`: the title and the kernels' names of our own operator with the least share of its ceiling

Shares: a decode's bytes (weights, keys and values) a second of the best reading; a prefill's operations a second of the best product, counting
two for each weight of the layers and none for attention and head. A share is missing where its ceiling was not measured in the same call.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys

from peer_torch import NAMES, SHAPES

# What an operator's kernels are called. Products of more than 64 rows are the library's.
KERNELS = {
    "embed": "^embed_",
    "norm": "^(rms|layer)_norm",
    "rope_and_cache_write": "^rope",
    "sample": "^sample",
    "linear": "^stream_",
    "linear_add": "^stream_",
    "feed_forward": "^stream_",
    "attention": "^attention_",
}
STREAM_ROWS = 64

# What takes less shows the launch and not the kernel.
LAUNCH_SECONDS = 5e-6


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


def results(folder, pattern):
    """Yields names and JSON of the files that match and are whole."""
    for path in sorted(glob.glob(os.path.join(folder, pattern))):
        found = load(path)
        if found is not None:
            yield os.path.basename(path).removesuffix(".json"), found


class Ceilings:
    """The best rates of a run, by whoever measured them."""

    def __init__(self, folder):
        self.lines, self.read, self.flops = [], 0, 0
        torch = load(os.path.join(folder, "ceilings.json"))
        if torch:
            self.note("torch", torch["device"], *(torch[name]["best_per_second"] for name in ("read_bytes", "copy_bytes", "bf16_flops")))
        for name, found in results(folder, "kernels*.json"):
            best = found["result"]["ceilings"]
            rates = (best[f"{what}_per_second"] for what in ("read_bytes", "copy_bytes", "flops"))
            self.note(name, found["result"]["device"], *rates)
        for _, found in results(folder, "engine-*.json"):
            bandwidth = found["result"]["bandwidth"]
            self.read = max(self.read, bandwidth["bytes_per_second"]["max"] if bandwidth else 0)

    def note(self, name, device, read, copy, flops):
        self.lines.append(f"{name}: read {read / 1e9:.0f} GB/s, copy {copy / 1e9:.0f} GB/s, bf16 {flops / 1e12:.2f} TFLOP/s, {device}")
        self.read, self.flops = max(self.read, read, copy), max(self.flops, flops)


def layer_weights(shape, num_parameters):
    """Returns the weights that each token of a prompt goes through: those of all layers, where the shape is known."""
    if shape not in SHAPES:
        return num_parameters
    sizes = dict(zip(NAMES, SHAPES[shape]))
    num_tables = 1 if sizes["tie_word_embeddings"] else 2
    return num_parameters - num_tables * sizes["vocab_size"] * sizes["hidden_size"]


def selftests(folder):
    for name, found in results(folder, "selftest*.json"):
        yield f"{name}: {found['num_failed']} of {found['num_checks']} failed, {found['seconds']:.1f} s, {found['device']}"
        failed = [outcome for outcome in found["outcomes"] if not outcome["is_passed"]]
        for outcome in failed[:8]:
            yield f"  {outcome['check']} {outcome['case']}: error {outcome['error']}, limit {outcome['limit']}"


def title(operator):
    return f"{operator['operator']} {operator['case']}"


def kernels(folder):
    for name, found in results(folder, "kernels*.json"):
        result = found["result"]
        yield f"{name}: {result['shape']} {result['weight_format']}, shares of the floor by this run's ceilings, least first"
        for operator in sorted(result["operators"], key=lambda operator: operator["fraction"])[:14]:
            micros = operator["seconds"]["median"] * 1e6
            yield f"  {share(operator['fraction'], 1):>7}  {micros:9.1f} us  {title(operator)}"


def cached_text(cached):
    return f", {cached['num_new_tokens']} new behind a cache {cached['step_seconds']['median'] * 1e3:.2f} ms" if cached else ""


def engines(folder, best):
    for name, found in results(folder, "engine-*.json"):
        result = found["result"]
        model, memory = result["model"], result["device_memory"]
        used = f", {memory['used_bytes'] / 1e9:.1f} of {memory['total_bytes'] / 1e9:.1f} GB taken" if memory else ""
        drawn = f"drawn {result['draw_seconds']:.1f} s, " if result["draw_seconds"] is not None else ""
        yield f"{name}: {model['weight_format']}, {drawn}ready {result['ready_seconds']:.1f} s{used}, {result['device']}"
        weights = layer_weights(model["name"], model["num_active_parameters"])
        for batch in result["batches"]:
            prefill, decode = batch["prefill"]["tokens_per_second"]["median"], batch["decode"]
            line = f"  batch {batch['batch']:>2}: "
            if decode:
                line += f"decode {decode['tokens_per_second']['median']:.1f} tok/s, {decode['step_seconds']['median'] * 1e3:.3f} ms a step, "
                line += f"{decode['bytes_per_second'] / 1e9:.0f} GB/s = {share(decode['bytes_per_second'], best.read)}; "
            yield line + f"prefill {prefill:.0f} tok/s = {share(2 * weights * prefill, best.flops)}{cached_text(batch['cached'])}"
        for prompt in result["prefills"]:
            prefill = prompt["prefill"]["tokens_per_second"]["median"]
            line = f"  prompt of {prompt['prompt_tokens']}: {prefill:.0f} tok/s = {share(2 * weights * prefill, best.flops)}"
            yield line + cached_text(prompt["cached"])


def peers(folder, best):
    for name, found in results(folder, "torch-*.json"):
        versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
        whole = "" if found["is_complete"] else ", cut off"
        yield f"{name}: {found['dtype']}, {'compiled' if found['is_compiled'] else 'not compiled'}, {versions}{whole}, {found['device']}"
        sizes = dict(zip(NAMES, SHAPES[found["shape"]]))
        head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
        kv_bytes = 2 * 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * head_dim
        weights = layer_weights(found["shape"], found["num_parameters"])
        for batch in found["batches"]:
            # The same bytes as the engine's: keys and values of the mean context.
            context_tokens = found["prompt_tokens"] + (found["gen_tokens"] + 1) / 2
            num_bytes = found["step_weight_bytes"] + batch["batch"] * context_tokens * kv_bytes
            seconds, prefill = batch["decode_step_seconds"]["median"], batch["prefill_tokens_per_second"]["median"]
            line = f"  batch {batch['batch']:>2}: decode {batch['decode_tokens_per_second']['median']:.1f} tok/s, {seconds * 1e3:.3f} ms a step, "
            line += f"{num_bytes / seconds / 1e9:.0f} GB/s = {share(num_bytes / seconds, best.read)}; "
            yield line + f"prefill {prefill:.0f} tok/s = {share(2 * weights * prefill, best.flops)}"
        for prompt in found["prefills"]:
            prefill, cached = prompt["prefill_tokens_per_second"]["median"], prompt["cached_step_seconds"]["median"]
            line = f"  prompt of {prompt['prompt_tokens']}: {prefill:.0f} tok/s = {share(2 * weights * prefill, best.flops)}"
            yield line + f", {prompt['num_new_tokens']} new behind a cache {cached * 1e3:.2f} ms"


def percentiles(found):
    return f"p50 {found['p50'] * 1e3:.1f}, p95 {found['p95'] * 1e3:.1f} ms (of {found['count']})" if found else "-"


def over_http(folder):
    start = load(os.path.join(folder, "serve-start.json"))
    if start:
        yield f"serve: {start['shape']} ready {start['ready_seconds']:.1f} s after its start"
    for name, found in results(folder, "serve-[0-9]*.json"):
        result = found["result"]
        requests, speed, tokens = result["requests"], result["throughput"], result["tokens"]
        yield f"{name}: {requests['failed']} of {requests['ended']} failed, {speed['completion_tokens_per_second']:.0f} tok/s out"
        yield f"  first token {percentiles(result['time_to_first_token_seconds'])}, between texts {percentiles(result['inter_token_seconds'])}"
        yield f"  tokens in {tokens['prompt']}, cached {tokens['cached']}, out {tokens['completion']}"
    for name, found in results(folder, "keystrokes.json"):
        result = found["result"]
        first = (result["first_key"] or {}).get("time_to_first_token_seconds")
        yield f"{name}: first token {percentiles(result['time_to_first_token_seconds'])}, of the first key {first} s, keys {result['keys']}"


def tools(folder):
    for name in ("memcheck", "racecheck", "synccheck"):
        for line in re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY.*", text(os.path.join(folder, f"{name}.log"))):
            yield f"{name}: {line.strip('= ')}"
    profiled = text(os.path.join(folder, "ncu.csv"))
    for metric in ("DRAM Throughput", "Memory Throughput", "Compute (SM) Throughput", "Achieved Occupancy", "Duration"):
        # Name, unit and value, quoted.
        for unit, value in re.findall(rf'"{re.escape(metric)}","([^"]*)","([^"]*)"', profiled):
            yield f"ncu: {metric} {value} {unit}"


def report(folder):
    yield text(os.path.join(folder, "steps.txt")).rstrip()
    yield json.dumps(load(os.path.join(folder, "machine.json")))
    version = text(os.path.join(folder, "start.log")).strip()
    if version:
        yield version
    missing = [line.strip() for line in text(os.path.join(folder, "libraries.log")).splitlines() if "not found" in line]
    yield from missing
    best = Ceilings(folder)
    parts = {
        "ceilings": best.lines,
        "selftest": selftests(folder),
        "operators": kernels(folder),
        "engine": engines(folder, best),
        "peers": peers(folder, best),
        "HTTP": over_http(folder),
        "tools": tools(folder),
    }
    for part, lines in parts.items():
        try:
            lines = list(lines)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            lines = [f"not understood: {error!r}"]
        if lines:
            yield f"\n{part}"
            yield from lines
    for path in sorted(glob.glob(os.path.join(folder, "*.log"))):
        # The last words of what failed.
        step = os.path.basename(path).removesuffix(".log")
        if re.search(rf"^{re.escape(step)}: exit [^0]", text(os.path.join(folder, "steps.txt")), re.MULTILINE):
            yield f"\n{step} failed:"
            yield from text(path).strip()[-800:].splitlines()[-6:]


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
    candidates = []
    for operator in found["result"]["operators"] if found else []:
        rows = re.match(r"(\d+) rows?$", operator["case"])
        kernel = KERNELS.get(operator["operator"].split(":")[0])
        of_library = kernel == "^stream_" and rows and int(rows[1]) > STREAM_ROWS
        if kernel and not of_library and operator["seconds"]["median"] > LAUNCH_SECONDS:
            candidates.append((operator["fraction"], title(operator), kernel))
    if candidates:
        yield "\t".join(min(candidates)[1:])


def main():
    commands = {"report": report, "machine": machine, "worst": worst}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    for line in commands[sys.argv[1]](sys.argv[2]):
        print(line)


if __name__ == "__main__":
    main()
