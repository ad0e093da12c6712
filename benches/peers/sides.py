"""The two sides: how each is started, measured and stopped.

Both are asked by the same client, `lacuna bench`, but for the engine alone, where each has a tool of its own. A server is started for one measurement
and is dead afterwards, whatever happens; nothing of the other side runs meanwhile.
"""

import abc
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import Kind, Measurement, Metric

START_SECONDS_MAX = 120.0
MEASURE_SECONDS_MAX = 1800.0
STOP_SECONDS_MAX = 5.0
# Repeats inside one command; the middle one is its number.
ENGINE_REPEATS = 3
# The peer's best setting where it was measured.
FLASH_ATTENTION = ("-fa", "on")
# What a failed program said last is what explains it.
LINES_SHOWN = 15

# Numbers that one command gave.
Numbers = dict[Metric, float]


class SideError(Exception):
    """One side could not be measured."""

    def __init__(self, side: str, measurement: str, reason: str) -> None:
        super().__init__(f"{side} failed at {measurement}: {reason}")


@dataclass(frozen=True)
class Setup:
    """Where both sides are, and what they share."""

    lacuna: Path
    llama_cpp: Path
    models: Path
    typed_file: Path
    num_threads: int


@dataclass(frozen=True)
class Result:
    """One measurement of one side."""

    numbers: Numbers
    # Commands as they were run, the server's first.
    commands: tuple[tuple[str, ...], ...]
    # What the tool wrote, for who wants more than one number.
    raw: Any


def last_lines(text: str) -> str:
    """Returns the end of what a program wrote."""
    return "\n".join(text.strip().splitlines()[-LINES_SHOWN:]) or "it wrote nothing"


def run_json(command: tuple[str, ...]) -> Any:
    """Runs a tool that writes JSON; its own failure is a `RuntimeError` with its last lines."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEASURE_SECONDS_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(str(error)) from error
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{last_lines(done.stderr)}")
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise RuntimeError(f"{command[0]} wrote no JSON: {error}") from error


def free_port() -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Returns whether the server says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and all that it started: politely first, then not."""
    for request in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS_MAX)
            return


@contextlib.contextmanager
def server(command: tuple[str, ...], port: int) -> Iterator[None]:
    """Runs a server while the block runs."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    state = "is not ready" if process.poll() is None else f"ended with {process.returncode}"
                    raise RuntimeError(f"{command[0]} {state}:\n{last_lines(log.read().decode(errors='replace'))}")
                time.sleep(0.05)
            yield
        finally:
            stop(process)


class Side(abc.ABC):
    """One of the two engines."""

    name: str
    dialect: str

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @abc.abstractmethod
    def engine_command(self, measurement: Measurement) -> tuple[str, ...]:
        """Returns the command that measures the engine alone."""

    @abc.abstractmethod
    def engine_numbers(self, output: Any) -> Numbers:
        """Reads what that command wrote."""

    @abc.abstractmethod
    def server_command(self, measurement: Measurement, port: int) -> tuple[str, ...]:
        """Returns the command that serves the model."""

    @abc.abstractmethod
    def client_kind(self, measurement: Measurement) -> str:
        """Returns what the client of this side knows of a prompt's order."""

    def measure(self, measurement: Measurement) -> Result:
        """Measures once."""
        try:
            if measurement.kind is Kind.ENGINE:
                command = self.engine_command(measurement)
                output = run_json(command)
                return Result(self.engine_numbers(output), (command,), output)
            return self.measure_server(measurement)
        except (RuntimeError, LookupError, TypeError, OSError) as error:
            raise SideError(self.name, measurement.name, f"{type(error).__name__}: {error}") from error

    def measure_server(self, measurement: Measurement) -> Result:
        """Measures over HTTP, on a server of its own."""
        port = free_port()
        serve = self.server_command(measurement, port)
        client = self.client_command(measurement, port)
        with server(serve, port):
            output = run_json(client)
        result = output["result"]
        if result["errors"]:
            raise RuntimeError(f"requests failed: {result['errors']}")
        if measurement.kind is Kind.SERVE:
            numbers = {Metric.THROUGHPUT: result["throughput"]["completion_tokens_per_second"]}
        else:
            numbers = {Metric.TTFT: 1000 * result["time_to_first_token_seconds"]["p50"]}
        return Result(numbers, (serve, client), output)

    def client_command(self, measurement: Measurement, port: int) -> tuple[str, ...]:
        """Returns the command that asks the server."""
        url = f"http://127.0.0.1:{port}"
        common = ("--url", url, "--dialect", self.dialect, "--format", "json")
        lacuna = str(self.setup.lacuna)
        if measurement.kind is Kind.KEYSTROKES:
            typing = ("--client", self.client_kind(measurement), "--keys", str(measurement.num_keys))
            return (lacuna, "bench", "keystrokes", *common, *typing, str(self.setup.typed_file))
        load = ("--clients", str(measurement.num_clients), "--requests", str(measurement.num_requests))
        # No two prompts share a beginning, and every answer has all its tokens.
        sizes = ("--prompt-tokens", str(measurement.prompt_tokens), "--distinct", "--max-tokens", str(measurement.new_tokens), "--ignore-eos")
        return (lacuna, "bench", "serve", *common, *load, *sizes)


class Lacuna(Side):
    """Lacuna, by its release binary."""

    name = "Lacuna"
    dialect = "openai"

    def model_arguments(self, measurement: Measurement) -> tuple[str, ...]:
        """Returns the options that name the model and how it is computed."""
        folder = measurement.model.folder
        model = folder if folder == "demo" else str(self.setup.models / folder)
        return ("--model", model, *measurement.model.lacuna_arguments, "--threads", str(self.setup.num_threads))

    def engine_command(self, measurement: Measurement) -> tuple[str, ...]:
        sizes = ("--prompt-tokens", str(measurement.prompt_tokens), "--gen-tokens", str(measurement.new_tokens))
        repeats = ("--batch", "1", "--repeat", str(ENGINE_REPEATS), "--format", "json")
        return (str(self.setup.lacuna), "bench", "engine", *self.model_arguments(measurement), *sizes, *repeats)

    def engine_numbers(self, output: Any) -> Numbers:
        batch = output["result"]["batches"][0]
        phases = {Metric.PREFILL: batch["prefill"], Metric.DECODE: batch["decode"]}
        return {metric: phase["tokens_per_second"]["median"] for metric, phase in phases.items()}

    def server_command(self, measurement: Measurement, port: int) -> tuple[str, ...]:
        listen = ("--port", str(port), "--log", "warn")
        return (str(self.setup.lacuna), "serve", *self.model_arguments(measurement), *listen)

    def client_kind(self, measurement: Measurement) -> str:
        return "plain"


class LlamaCpp(Side):
    """llama.cpp, by its server and its own bench."""

    name = "llama.cpp"
    dialect = "infill"

    def model_arguments(self, measurement: Measurement) -> tuple[str, ...]:
        """Returns the options that name the model and how it is computed."""
        return ("-m", str(self.setup.models / measurement.model.gguf), "-t", str(self.setup.num_threads))

    def engine_command(self, measurement: Measurement) -> tuple[str, ...]:
        # Each test from an empty context and behind a prompt: Lacuna decodes behind one.
        prompt = str(measurement.prompt_tokens)
        tests = ("-p", prompt, "-n", str(measurement.new_tokens), "-d", f"0,{prompt}", "-r", str(ENGINE_REPEATS))
        program = str(self.setup.llama_cpp / "llama-bench")
        return (program, *self.model_arguments(measurement), *tests, *FLASH_ATTENTION, "-o", "json")

    def engine_numbers(self, output: Any) -> Numbers:
        numbers = {}
        for row in output:
            metric = Metric.PREFILL if row["n_prompt"] else Metric.DECODE
            # The prompt into an empty context, the new tokens behind it.
            if (metric is Metric.PREFILL) == (row["n_depth"] == 0):
                numbers[metric] = statistics.median(row["samples_ts"])
        return numbers

    def server_command(self, measurement: Measurement, port: int) -> tuple[str, ...]:
        slots = ("-np", str(measurement.num_clients), "-c", str(measurement.num_clients * measurement.context_tokens))
        # The cache of prompts in main memory is for chats that come back; here it only costs copies.
        quick = (*FLASH_ATTENTION, "--cache-ram", "0", "--no-ui")
        program = str(self.setup.llama_cpp / "llama-server")
        listen = ("--host", "127.0.0.1", "--port", str(port))
        return (program, *self.model_arguments(measurement), *slots, *quick, *measurement.peer_arguments, *listen)

    def client_kind(self, measurement: Measurement) -> str:
        return measurement.peer_client
