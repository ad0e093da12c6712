#!/usr/bin/env python3
"""The shapes of Lacuna's engine bench in PyTorch: transformers' model, random bf16 weights, static cache, compiled decode.

    peer_torch.py --shape qwen2.5-coder-7b --batch 1,8,64 --prompt-tokens 512 --gen-tokens 64 --output FILE [--device cuda]

Measures what `lacuna bench engine` does, and writes its medians as JSON: prefill of all prompts in one call, then greedy decode with the
token kept on the device, as CUDA graphs where `torch.compile` makes them. The first decode of each batch compiles and is not counted.
"""

import argparse
import json
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
    # For a try of this script.
    "tiny": (64, 96, 2, 4, 2, 512, True),
}


def build(shape, device):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "tie_word_embeddings",
    )
    config = Qwen2Config(**dict(zip(names, SHAPES[shape])), max_position_embeddings=32768)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def wait(device):
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def run_once(model, decode, arguments, batch):
    """Returns seconds of the prefill and of the decode."""
    import torch
    from transformers import StaticCache

    device, prompt_tokens, gen_tokens = arguments.device, arguments.prompt_tokens, arguments.gen_tokens
    cache = StaticCache(config=model.config, max_cache_len=prompt_tokens + gen_tokens)
    prompts = torch.randint(0, model.config.vocab_size, (batch, prompt_tokens), device=device)
    wait(device)
    began = time.perf_counter()
    positions = torch.arange(prompt_tokens, device=device)
    output = model(prompts, past_key_values=cache, cache_position=positions, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    wait(device)
    prefilled = time.perf_counter()
    for index in range(gen_tokens):
        position = torch.tensor([prompt_tokens + index], device=device)
        token = decode(token.clone(), cache, position)
    wait(device)
    return prefilled - began, time.perf_counter() - prefilled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=sorted(SHAPES))
    parser.add_argument("--batch", default="1,8,64")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true", help="decode without torch.compile")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()

    import torch
    import transformers

    model = build(arguments.shape, arguments.device)

    def step(token, cache, position):
        output = model(token, past_key_values=cache, cache_position=position, use_cache=True)
        return output.logits[:, -1:].argmax(-1)

    decode = step if arguments.no_compile else torch.compile(step, mode="reduce-overhead", fullgraph=False)
    batches = []
    with torch.inference_mode():
        for batch in (int(number) for number in arguments.batch.split(",")):
            run_once(model, decode, arguments, batch)
            times = [run_once(model, decode, arguments, batch) for _ in range(arguments.repeat)]
            prefill, decoded = (statistics.median(column) for column in zip(*times))
            batches.append(
                {
                    "batch": batch,
                    "prefill_tokens_per_second": batch * arguments.prompt_tokens / prefill,
                    "decode_tokens_per_second": batch * arguments.gen_tokens / decoded,
                    "decode_step_seconds": decoded / arguments.gen_tokens,
                    "samples": times,
                }
            )
    result = {
        "peer": "transformers",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device,
        "shape": arguments.shape,
        "prompt_tokens": arguments.prompt_tokens,
        "gen_tokens": arguments.gen_tokens,
        "is_compiled": not arguments.no_compile,
        "batches": batches,
    }
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
