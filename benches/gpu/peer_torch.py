#!/usr/bin/env python3
"""The shapes of Lacuna's engine bench in PyTorch: transformers' model, random bf16 weights; decode compiled, prefill eager.

    peer_torch.py --shape qwen2.5-coder-7b --batch 1,8,64 --prompt-tokens 512 --gen-tokens 64 --output FILE [--prefill 512,2048] [--device cuda]

Measures what `lacuna bench engine` does, and writes its medians as JSON: prefill of all prompts in one call, then greedy decode with the
token kept on the device, as CUDA graphs where `torch.compile` makes them. The first run of each batch compiles and is not counted.
The prefill is never compiled. It is measured twice: into the static cache that the decode needs, where some versions of transformers give
attention a mask over the whole cache, and (`dynamic_…`) into a dynamic cache, where it needs none and takes the library's causal kernels.
`--prefill` are prompts by themselves, and behind all but their last 16 tokens those once more, with the static cache.
The file is written anew after each measurement, so that what was measured before a time limit is kept; `is_complete` is false until the end.
"""

import argparse
import json
import os
import statistics
import time

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size, tie_word_embeddings; as published.
SHAPES = {
    "qwen2.5-coder-0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "qwen2.5-coder-1.5b": (1536, 8960, 28, 12, 2, 151936, True),
    "qwen2.5-coder-3b": (2048, 11008, 36, 16, 2, 151936, True),
    "qwen2.5-coder-7b": (3584, 18944, 28, 28, 4, 152064, False),
    "qwen2.5-coder-14b": (5120, 13824, 48, 40, 8, 152064, False),
    "qwen2.5-coder-32b": (5120, 27648, 64, 40, 8, 152064, False),
    "codestral-22b": (6144, 16384, 56, 48, 8, 32768, False),
    # The embedded model, and a smaller one with a larger vocabulary: for a try of the scripts.
    "demo": (256, 768, 8, 4, 2, 8192, True),
    "tiny": (64, 96, 2, 4, 2, 8448, True),
}
NAMES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)

def device_name(text):
    """Returns a device as PyTorch names it; what is asked of CUDA here is asked of the first GPU that it shows."""
    kind, _, number = text.partition(":")
    if kind == "cuda" and number not in ("", "0"):
        raise argparse.ArgumentTypeError(f"must be cuda:0, got {text}: CUDA_VISIBLE_DEVICES={number} makes another GPU that one")
    return text


# Last tokens of a prompt that are computed again behind the others; as Lacuna's engine bench.
CHANGED_TOKENS = 16


def build(shape, device):
    import torch
    from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = dict(zip(NAMES, SHAPES[shape])) | {"max_position_embeddings": 32768}
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        if shape.startswith("codestral"):
            # Codestral's heads have 128 elements, and it looks back on everything.
            model = MistralForCausalLM(MistralConfig(**sizes, head_dim=128, sliding_window=None))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    torch.set_default_dtype(torch.float32)
    return model.eval()


def step_bytes(model):
    """Returns the bytes of the weights that a decode reads: all but an embedding that is not the head too."""
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight
    return num_bytes if model.config.tie_word_embeddings else num_bytes - embedding.numel() * embedding.element_size()


def wait(device):
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


class Runs:
    """One batch size: a static cache that all repeats share, for a new one would be captured anew."""

    def __init__(self, model, arguments, batch, num_tokens):
        from transformers import StaticCache

        self.model, self.device, self.batch = model, arguments.device, batch
        self.cache = StaticCache(config=model.config, max_cache_len=num_tokens)

    def prompts(self, num_tokens):
        import torch

        return torch.randint(0, self.model.config.vocab_size, (self.batch, num_tokens), device=self.device)

    def call(self, tokens):
        """Computes these tokens behind what is cached, and returns the token after each sequence's last one."""
        output = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1:].argmax(-1)

    def timed_call(self, tokens):
        wait(self.device)
        began = time.perf_counter()
        token = self.call(tokens)
        wait(self.device)
        return token, time.perf_counter() - began

    def dynamic_prefill(self, prompt_tokens):
        """Returns seconds of the prompts in a cache that grows: nothing is behind the last token, so no mask is made."""
        from transformers import DynamicCache

        tokens = self.prompts(prompt_tokens)
        wait(self.device)
        began = time.perf_counter()
        self.model(tokens, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
        wait(self.device)
        return time.perf_counter() - began

    def generate(self, decode, prompt_tokens, gen_tokens):
        """Returns seconds of the prefill, of one with a dynamic cache, and of the decode."""
        dynamic_seconds = self.dynamic_prefill(prompt_tokens)
        self.cache.reset()
        token, prefill_seconds = self.timed_call(self.prompts(prompt_tokens))
        began = time.perf_counter()
        for _ in range(gen_tokens):
            token = decode(token.clone(), self.cache)
        wait(self.device)
        return prefill_seconds, dynamic_seconds, time.perf_counter() - began

    def prefill(self, prompt_tokens):
        """Returns seconds of a prompt, of one with a dynamic cache, and of its end behind the rest of it."""
        dynamic_seconds = self.dynamic_prefill(prompt_tokens)
        self.cache.reset()
        _, seconds = self.timed_call(self.prompts(prompt_tokens))
        self.cache.reset()
        prompt = self.prompts(prompt_tokens)
        self.call(prompt[:, :-CHANGED_TOKENS])
        return seconds, dynamic_seconds, self.timed_call(prompt[:, -CHANGED_TOKENS:])[1]


def spread(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def compiled(model, arguments):
    """Returns a decode step that chooses the likeliest token, compiled anew: for one batch size alone, which is what serves the peer best."""
    import torch

    def step(token, cache):
        output = model(token, past_key_values=cache, use_cache=True)
        return output.logits[:, -1:].argmax(-1)

    if arguments.no_compile:
        return step
    torch._dynamo.reset()
    return torch.compile(step, mode="reduce-overhead", fullgraph=False, dynamic=False)


def measure_batch(model, arguments, batch):
    prompt_tokens, gen_tokens = arguments.prompt_tokens, arguments.gen_tokens
    decode = compiled(model, arguments)
    runs = Runs(model, arguments, batch, prompt_tokens + gen_tokens)
    runs.generate(decode, prompt_tokens, min(gen_tokens, 4))
    times = [runs.generate(decode, prompt_tokens, gen_tokens) for _ in range(arguments.repeat)]
    prefills, dynamic, decodes = (list(column) for column in zip(*times))
    return {
        "batch": batch,
        "prefill_tokens_per_second": spread([batch * prompt_tokens / seconds for seconds in prefills]),
        "dynamic_prefill_tokens_per_second": spread([batch * prompt_tokens / seconds for seconds in dynamic]),
        "decode_tokens_per_second": spread([batch * gen_tokens / seconds for seconds in decodes]),
        "decode_step_seconds": spread([seconds / gen_tokens for seconds in decodes]),
    }


def measure_prefill(model, arguments, prompt_tokens):
    runs = Runs(model, arguments, 1, prompt_tokens)
    runs.prefill(prompt_tokens)
    prefills, dynamic, cached = (list(column) for column in zip(*(runs.prefill(prompt_tokens) for _ in range(arguments.repeat))))
    return {
        "prompt_tokens": prompt_tokens,
        "prefill_tokens_per_second": spread([prompt_tokens / seconds for seconds in prefills]),
        "dynamic_prefill_tokens_per_second": spread([prompt_tokens / seconds for seconds in dynamic]),
        "num_new_tokens": CHANGED_TOKENS,
        "cached_step_seconds": spread(cached),
    }


def write(path, result):
    """Replaces the file at once: who is killed meanwhile leaves the last whole one."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")
    os.replace(path + ".part", path)


def numbers(text):
    return [int(number) for number in text.split(",") if number]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES))
    parser.add_argument("--batch", type=numbers, default=[1, 8, 64])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--prefill", type=numbers, default=[])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", type=device_name, default="cuda")
    parser.add_argument("--no-compile", action="store_true", help="decode without torch.compile")
    parser.add_argument("--output", required=True)
    return parser.parse_args()


def main():
    arguments = parse()
    import torch
    import transformers

    model = build(arguments.shape, arguments.device)
    on_gpu = arguments.device.startswith("cuda")
    result = {
        "peer": "transformers",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": torch.cuda.get_device_name() if on_gpu else arguments.device,
        "shape": arguments.shape,
        "dtype": str(next(model.parameters()).dtype),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_weight_bytes": step_bytes(model),
        "prompt_tokens": arguments.prompt_tokens,
        "gen_tokens": arguments.gen_tokens,
        "is_compiled": not arguments.no_compile,
        "is_prefill_compiled": False,
        "is_complete": False,
        "batches": [],
        "prefills": [],
    }
    with torch.inference_mode():
        for prompt_tokens in arguments.prefill:
            result["prefills"].append(measure_prefill(model, arguments, prompt_tokens))
            write(arguments.output, result)
        for batch in arguments.batch:
            result["batches"].append(measure_batch(model, arguments, batch))
            write(arguments.output, result)
    result["peak_device_bytes"] = torch.cuda.max_memory_allocated() if on_gpu else None
    result["is_complete"] = True
    write(arguments.output, result)


if __name__ == "__main__":
    main()
