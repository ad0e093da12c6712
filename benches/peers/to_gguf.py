"""Writes a Qwen2 model folder as GGUF, weight for weight, so that a peer is measured on the very same model.

bf16 matrices keep their bits; norms and biases become f32, which is what llama.cpp wants of vectors. Q8_0 is made from the result by llama.cpp's own
`llama-quantize IN.gguf OUT.gguf Q8_0`.

usage: to_gguf.py MODEL_FOLDER OUT.gguf [--type bf16|f16|f32]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from safetensors import safe_open

ARCHITECTURE = "qwen2"

# Hugging Face's name without the layer, and GGUF's.
TENSOR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}

# The sentinels of Qwen2.5-Coder, and the keys by which llama.cpp's `/infill` finds them.
FIM_KEYS = {
    "<|fim_prefix|>": "fim_pre",
    "<|fim_suffix|>": "fim_suf",
    "<|fim_middle|>": "fim_mid",
    "<|fim_pad|>": "fim_pad",
    "<|repo_name|>": "fim_rep",
    "<|file_sep|>": "fim_sep",
}


class ConversionError(Exception):
    """The folder cannot be written as GGUF."""


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def rope_theta(config: dict[str, Any]) -> float:
    """Returns the base of the rotary frequencies, wherever this version of transformers wrote it."""
    return config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta") or 10000.0


def add_hyperparameters(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Writes the sizes of the decoder."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_tokenizer(writer: GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Writes tokens, merges and the places of the special tokens."""
    num_tokens = config["vocab_size"]
    texts = [f"[unused {id}]" for id in range(num_tokens)]
    types = [TokenType.UNUSED] * num_tokens
    for text, id in tokenizer["model"]["vocab"].items():
        texts[id], types[id] = text, TokenType.NORMAL
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for text, id in special.items():
        texts[id], types[id] = text, TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    for text, key in FIM_KEYS.items():
        if text not in special:
            raise ConversionError(f"the tokenizer has no `{text}`, so that `/infill` could not be measured")
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", special[text])


def gguf_name(name: str) -> str:
    """Returns GGUF's name of a Hugging Face tensor."""
    base, kind = name.rsplit(".", 1)
    layer = ""
    if base.startswith("model.layers."):
        _, _, index, base = base.split(".", 3)
        layer = f"blk.{index}."
    if base not in TENSOR_NAMES:
        raise ConversionError(f"tensor `{name}` is none of Qwen2's")
    return f"{layer}{TENSOR_NAMES[base]}.{kind}"


def add_tensor(writer: GGUFWriter, name: str, tensor: torch.Tensor, type: str) -> None:
    """Writes one tensor; vectors are always f32."""
    if tensor.ndim == 1 or type == "f32":
        writer.add_tensor(gguf_name(name), tensor.float().numpy())
    elif type == "f16":
        writer.add_tensor(gguf_name(name), tensor.to(torch.float16).numpy())
    else:
        # numpy knows no bf16: the bytes are handed over with their type.
        raw = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint8)
        writer.add_tensor(gguf_name(name), raw, raw_shape=raw.shape, raw_dtype=GGMLQuantizationType.BF16)


def convert(folder: Path, out: Path, type: str) -> None:
    """Writes the whole file."""
    config, tokenizer = read_json(folder / "config.json"), read_json(folder / "tokenizer.json")
    if config["model_type"] != ARCHITECTURE:
        raise ConversionError(f"only {ARCHITECTURE} models can be written, {folder} has `{config['model_type']}`")
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise ConversionError(f"{folder} has no safetensors files")
    writer = GGUFWriter(out, ARCHITECTURE)
    writer.add_name(folder.resolve().name)
    add_hyperparameters(writer, config)
    add_tokenizer(writer, tokenizer, config)
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                add_tensor(writer, name, file.get_tensor(name), type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Converts one folder."""
    parser = argparse.ArgumentParser(description="Writes a Qwen2 model folder as GGUF with the very same weights.")
    parser.add_argument("folder", type=Path, help="config.json, tokenizer.json and safetensors")
    parser.add_argument("out", type=Path, help="the .gguf file to write")
    parser.add_argument("--type", choices=("bf16", "f16", "f32"), default="bf16", help="element type of the matrices (default: %(default)s)")
    options = parser.parse_args()
    try:
        convert(options.folder, options.out, options.type)
    except (ConversionError, OSError) as error:
        sys.exit(f"to_gguf.py: {error}")


if __name__ == "__main__":
    main()
