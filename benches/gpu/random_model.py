#!/usr/bin/env python3
"""Writes a model folder of a published shape with random weights, so that `lacuna serve` can be measured over HTTP where nothing can be downloaded.

    random_model.py --shape qwen2.5-coder-7b --tokenizer models/demo/tokenizer.json [--device cuda] FOLDER

The weights are random bf16, drawn on the device; the tokenizer is the embedded model's, with fillers up to the shape's vocabulary: what such a
model writes means nothing, how long it takes does. Needs PyTorch and safetensors. The shapes are those of peer_torch.py that Qwen2's architecture
has, in shards of one layer or more.
"""

import argparse
import json
import os

from peer_torch import NAMES, SHAPES, device_name

# Weights of this spread keep activations finite over all layers; it is what transformers initialises with.
SPREAD = 0.02

# Least size of a shard: what is drawn at once is held twice.
SHARD_BYTES = 2 << 30


def tensors(sizes):
    """Yields names and shapes as Qwen2's checkpoints have them; norms are those without a second axis that are no bias."""
    hidden, wide, heads, kv_heads = (sizes[name] for name in (NAMES[0], NAMES[1], NAMES[3], NAMES[4]))
    kv_rows = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (sizes["vocab_size"], hidden)
    for layer in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        for part, rows in (("q", hidden), ("k", kv_rows), ("v", kv_rows)):
            yield f"{name}self_attn.{part}_proj.weight", (rows, hidden)
            yield f"{name}self_attn.{part}_proj.bias", (rows,)
        yield f"{name}self_attn.o_proj.weight", (hidden, hidden)
        yield f"{name}mlp.gate_proj.weight", (wide, hidden)
        yield f"{name}mlp.up_proj.weight", (wide, hidden)
        yield f"{name}mlp.down_proj.weight", (hidden, wide)
        yield f"{name}input_layernorm.weight", (hidden,)
        yield f"{name}post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not sizes["tie_word_embeddings"]:
        yield "lm_head.weight", (sizes["vocab_size"], hidden)


def draw(name, shape, device):
    import torch

    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, SPREAD).cpu()


def write_weights(folder, sizes, device):
    """Writes the shards and their index, and returns the bytes of all weights."""
    from safetensors.torch import save_file

    index, shard, shard_bytes, num_shards, num_bytes = {}, {}, 0, 0, 0
    names = list(tensors(sizes))
    for number, (name, shape) in enumerate(names):
        shard[name] = draw(name, shape, device)
        shard_bytes += shard[name].nbytes
        if shard_bytes < SHARD_BYTES and number + 1 < len(names):
            continue
        file = f"model-{num_shards:05}.safetensors"
        save_file(shard, os.path.join(folder, file), metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
        num_bytes += shard_bytes
        shard, shard_bytes, num_shards = {}, 0, num_shards + 1
    write_json(folder, "model.safetensors.index.json", {"metadata": {"total_size": num_bytes}, "weight_map": index})
    return num_bytes


def filled(tokenizer, vocab_size):
    """Returns the tokenizer with tokens for all ids; the fillers stand in no merge, so no text becomes one."""
    vocabulary = tokenizer["model"]["vocab"]
    taken = set(vocabulary.values()) | {token["id"] for token in tokenizer["added_tokens"]}
    if max(taken) >= vocab_size:
        raise SystemExit(f"the tokenizer has ids up to {max(taken)}, and the shape's vocabulary is {vocab_size}")
    vocabulary.update({f"Ġf{id}": id for id in range(vocab_size) if id not in taken})
    return tokenizer


def write_json(folder, file, value):
    with open(os.path.join(folder, file), "w", encoding="utf-8") as opened:
        json.dump(value, opened, ensure_ascii=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=sorted(shape for shape in SHAPES if not shape.startswith("codestral")))
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--device", type=device_name, default="cuda")
    parser.add_argument("folder")
    arguments = parser.parse_args()
    sizes = dict(zip(NAMES, SHAPES[arguments.shape]))
    with open(arguments.tokenizer, encoding="utf-8") as file:
        tokenizer = filled(json.load(file), sizes["vocab_size"])
    end_of_text = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|endoftext|>")
    config = sizes | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }
    os.makedirs(arguments.folder, exist_ok=True)
    write_json(arguments.folder, "config.json", config)
    write_json(arguments.folder, "tokenizer.json", tokenizer)
    num_bytes = write_weights(arguments.folder, sizes, arguments.device)
    print(f"{arguments.folder}: {arguments.shape}, {num_bytes} bytes of weights")


if __name__ == "__main__":
    main()
