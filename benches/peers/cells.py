"""The comparison as data: what is measured, which number of it is compared, and how far ahead Lacuna must be.

A measurement is one command on each side; several cells may read different numbers from the same one.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Kind(Enum):
    """Which command of each side measures."""

    # `lacuna bench engine` and `llama-bench`: no HTTP.
    ENGINE = "engine"
    # `lacuna bench serve` against both servers: tokens of all answers together, by the wall clock.
    SERVE = "serve"
    # `lacuna bench keystrokes` against both servers: time to the first token while somebody types.
    KEYSTROKES = "keystrokes"


class Metric(Enum):
    """The number that is compared, with its unit."""

    PREFILL = "tok/s prefill"
    DECODE = "tok/s decode"
    THROUGHPUT = "tok/s"
    TTFT = "ms to first token"

    @property
    def is_time(self) -> bool:
        """Whether less is better."""
        return self is Metric.TTFT


@dataclass(frozen=True)
class Model:
    """The same weights for both sides; paths are relative to the folder of models."""

    name: str
    # A folder that `lacuna --model` takes; "demo" is the model inside the binary.
    folder: str
    # What `to_gguf.py`, and for Q8_0 `llama-quantize`, made of it.
    gguf: str
    lacuna_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One command on each side."""

    name: str
    kind: Kind
    model: Model
    num_clients: int = 1
    num_requests: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    # Tokens of the server's context for one client.
    context_tokens: int = 512
    num_keys: int = 0
    # What the client of the peer knows, as `lacuna bench keystrokes --client` has it; that of Lacuna knows nothing.
    peer_client: str = "plain"
    # Options of the peer's server.
    peer_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    name: str
    title: str
    measurement: Measurement
    metric: Metric
    at_least: float
    aim: float


DEMO = Model("demo", "demo", "demo.gguf")
BF16 = Model("0.5 B bf16", "qwen-0.5b", "qwen-0.5b.gguf")
INT8 = Model("0.5 B int8", "qwen-0.5b", "qwen-0.5b-q8_0.gguf", ("--quantize", "int8"))

ENGINE_BF16 = Measurement("engine-bf16", Kind.ENGINE, BF16, prompt_tokens=512, new_tokens=64)
ENGINE_INT8 = Measurement("engine-int8", Kind.ENGINE, INT8, prompt_tokens=512, new_tokens=64)
DEMO_1 = Measurement("serve-demo-1", Kind.SERVE, DEMO, num_clients=1, num_requests=40, prompt_tokens=240, new_tokens=48)
DEMO_8 = Measurement("serve-demo-8", Kind.SERVE, DEMO, num_clients=8, num_requests=160, prompt_tokens=240, new_tokens=48)
BF16_8 = Measurement("serve-bf16-8", Kind.SERVE, BF16, num_clients=8, num_requests=16, prompt_tokens=233, new_tokens=48)
# The typed file is about 1600 tokens, three quarters of them before the cursor.
KEYS = Measurement("keys", Kind.KEYSTROKES, BF16, num_keys=12, context_tokens=4096)
KEYS_PROMPT = replace(KEYS, name="keys-prompt", peer_client="line-start")
KEYS_SUFFIX_FIRST = replace(KEYS, name="keys-suffix-first", peer_arguments=("--spm-infill",))

CELLS = (
    Cell("decode-bf16", "0.5 B bf16, decode, 1 sequence", ENGINE_BF16, Metric.DECODE, 1.0, 1.0),
    Cell("prefill-bf16", "0.5 B bf16, prefill 512", ENGINE_BF16, Metric.PREFILL, 1.1, 1.4),
    Cell("decode-int8", "0.5 B int8, decode, 1 sequence", ENGINE_INT8, Metric.DECODE, 1.0, 1.05),
    Cell("prefill-int8", "0.5 B int8, prefill 512", ENGINE_INT8, Metric.PREFILL, 1.6, 2.5),
    Cell("demo-1", "demo model, 1 client, 48 new after 240", DEMO_1, Metric.THROUGHPUT, 1.3, 2.0),
    Cell("demo-8", "demo model, 8 clients, 48 new after 240", DEMO_8, Metric.THROUGHPUT, 2.0, 4.0),
    Cell("bf16-8", "0.5 B bf16, 8 clients, 48 new after 233", BF16_8, Metric.THROUGHPUT, 1.2, 1.5),
    Cell("keys", "keystroke in 1600 tokens, 0.5 B bf16", KEYS, Metric.TTFT, 8.0, 20.0),
    Cell("keys-prompt", "the same, the peer's client sends the line in `prompt`", KEYS_PROMPT, Metric.TTFT, 1.0, 1.3),
    # `prompt` goes to the end of the prefix, so that the peer computes the suffix again all the same. With the suffix first it need not: this is its
    # best case, in an order that Qwen2.5-Coder was not trained for.
    Cell("keys-suffix-first", "the same, the peer with `--spm-infill`", KEYS_SUFFIX_FIRST, Metric.TTFT, 1.0, 1.3),
)
