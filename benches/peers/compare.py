"""Measures Lacuna and llama.cpp side by side on the same weights, in turns, and prints the ratios.

Every round measures each chosen measurement on both sides, one after the other: A B A B. What drifts on a machine, such as its clock or a neighbour's
load, then meets both. Numbers are compared as ratios of medians, within one run on one machine only. README.md says how to get what this needs.

usage: compare.py --lacuna target/release/lacuna --llama-cpp CACHE/bin --models MODELS [--cells decode-bf16,keys] [--rounds 5] --out run.json
"""

import argparse
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from cells import CELLS, Cell, Measurement
from results import Samples, markdown, write_json
from sides import Lacuna, LlamaCpp, Setup, Side, SideError

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS_MIN = 3
# Half a core in use by others is more than most differences that are looked for.
LOAD_MAX = 0.5
# What is typed: real code that seldom changes, cut to about 1600 tokens of Qwen's vocabulary.
TYPED_SOURCE = REPOSITORY / "tests/golden/make_golden.py"
TYPED_BYTES = 6300


def say(text: str) -> None:
    """Reports progress."""
    print(text, file=sys.stderr, flush=True)


def chosen_cells(names: str) -> list[Cell]:
    """Returns the cells of a list of names, all where it is empty."""
    known = {cell.name: cell for cell in CELLS}
    wanted = [name for name in names.split(",") if name] or list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"no cell {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def rounds(text: str) -> int:
    """Returns a number of rounds that gives a median."""
    number = int(text)
    if number < ROUNDS_MIN:
        raise argparse.ArgumentTypeError(f"must be at least {ROUNDS_MIN}, got {number}")
    return number


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Measures Lacuna and llama.cpp side by side on the same weights.")
    parser.add_argument("--lacuna", type=Path, required=True, help="Lacuna's release binary")
    parser.add_argument("--llama-cpp", type=Path, required=True, help="the folder with llama-server and llama-bench")
    parser.add_argument("--models", type=Path, required=True, help="the folder of models that README.md makes")
    parser.add_argument("--cells", type=chosen_cells, default=list(CELLS), help=f"some of {', '.join(cell.name for cell in CELLS)} (default: all)")
    parser.add_argument("--rounds", type=rounds, default=5, help="times that both sides are measured (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that compute, on both sides (default: all cores, %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write; it is brought up to date after each round")
    parser.add_argument("--markdown", type=Path, help="a file for the table as well; it is printed in any case")
    options = parser.parse_args()
    for path in (options.lacuna, options.llama_cpp / "llama-server", options.llama_cpp / "llama-bench", options.models):
        if not path.exists():
            parser.error(f"{path} is not there")
    return options


def processor() -> str:
    """Returns the processor's name, as Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def first_line(command: list[str]) -> str:
    """Returns the first line that a program writes about itself, or that it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=REPOSITORY)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return ((done.stdout + done.stderr).strip().splitlines() or ["unknown"])[0]


def circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a reader needs to judge the numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benches/peers/compare.py", *sys.argv[1:]]),
        "commit": first_line(["git", "describe", "--always", "--dirty", "--abbrev=12"]),
        "lacuna": first_line([str(options.lacuna), "--version"]),
        "llama_cpp": first_line([str(options.llama_cpp / "llama-server"), "--version"]),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average_before": os.getloadavg()[0],
    }


def measurements(cells: list[Cell]) -> list[Measurement]:
    """Returns what must be measured for the cells, each once."""
    return list(dict.fromkeys(cell.measurement for cell in cells))


def measure_once(side: Side, measurement: Measurement, all_samples: list[Samples]) -> dict[str, Any]:
    """Measures one side and files its numbers, or its failure, under the cells that want them."""
    wanted = [samples for samples in all_samples if samples.cell.measurement == measurement]
    record: dict[str, Any] = {"side": side.name, "measurement": measurement.name, "load_average": os.getloadavg()[0]}
    started = time.monotonic()
    try:
        result = side.measure(measurement)
    except SideError as error:
        say(f"  error: {error}")
        for samples in wanted:
            samples.errors.append(str(error))
        return record | {"error": str(error)}
    for samples in wanted:
        number = result.numbers.get(samples.cell.metric)
        if number is None:
            samples.errors.append(f"{side.name} gave no {samples.cell.metric.value} at {measurement.name}")
        else:
            samples.numbers[side.name].append(number)
    shown = ", ".join(f"{number:.1f} {metric.value}" for metric, number in result.numbers.items())
    say(f"  {side.name:10} {measurement.name:14} {shown}  ({time.monotonic() - started:.0f} s)")
    return record | {"commands": [shlex.join(command) for command in result.commands], "output": result.raw}


def compare(options: argparse.Namespace, typed_file: Path) -> list[Samples]:
    """Measures all rounds; a measurement that failed on one side is not tried again."""
    setup = Setup(options.lacuna.resolve(), options.llama_cpp.resolve(), options.models.resolve(), typed_file, options.threads)
    sides = (Lacuna(setup), LlamaCpp(setup))
    all_samples, runs, about = [Samples(cell) for cell in options.cells], [], circumstances(options)
    if about["load_average_before"] > LOAD_MAX:
        say(f"warning: the load average is {about['load_average_before']:.1f}; something else is running, and the numbers will show it")
    for number in range(1, options.rounds + 1):
        for measurement in measurements(options.cells):
            say(f"round {number} of {options.rounds}, {measurement.name}")
            for side in sides:
                if any(samples.errors for samples in all_samples if samples.cell.measurement == measurement):
                    break
                runs.append(measure_once(side, measurement, all_samples) | {"round": number})
        write_json(options.out, about, all_samples, runs)
    return all_samples


def stop_on_signal(signal_number: int, _frame: object) -> NoReturn:
    """Turns a signal into an exception, so that servers are stopped on the way out."""
    sys.exit(128 + signal_number)


def main() -> None:
    """Measures, writes and prints."""
    options = parse_options()
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, stop_on_signal)
    with tempfile.TemporaryDirectory() as folder:
        typed_file = Path(folder) / TYPED_SOURCE.name
        head = TYPED_SOURCE.read_text(encoding="utf-8")[:TYPED_BYTES]
        typed_file.write_text(head[: head.rfind("\n") + 1], encoding="utf-8")
        all_samples = compare(options, typed_file)
    table = markdown(all_samples)
    print(table, end="")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    failures = [error for samples in all_samples for error in samples.errors]
    if failures:
        sys.exit("compare.py: " + "\n".join(dict.fromkeys(failures)))


if __name__ == "__main__":
    main()
