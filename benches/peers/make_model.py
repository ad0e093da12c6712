"""Makes a Hugging Face folder of a true shape with random weights, to measure speed without a download.

The shapes are those of published models, the tokenizer is the family's real one, taken from a vocabulary-only GGUF file, and the weights are random
bf16, the same on every machine. What such a model writes is noise; how long it takes is not.

usage: make_model.py qwen2.5-coder-0.5b VOCAB.gguf OUT_FOLDER
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from safetensors.torch import save_file

SEED = 0
# Weights of this spread keep activations finite over all layers; it is what transformers initialises with.
INITIALIZER_RANGE = 0.02

# Qwen2.5's tokenizer.json; the vocabulary-only file has these ids as unused places.
SPECIAL_TOKENS = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151659: "<|fim_prefix|>",
    151660: "<|fim_middle|>",
    151661: "<|fim_suffix|>",
    151662: "<|fim_pad|>",
    151663: "<|repo_name|>",
    151664: "<|file_sep|>",
}
END_OF_TEXT = 151643

# How Qwen2 splits text before byte-pair encoding: digits alone, at most one character before a word.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2 decoder, as its `config.json` has them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads


# Source: config.json of Qwen/Qwen2.5-Coder-* on Hugging Face.
SHAPES = {
    "qwen2.5-coder-0.5b": Shape(896, 4864, 24, 14, 2, 151936, tied=True),
    "qwen2.5-coder-1.5b": Shape(1536, 8960, 28, 12, 2, 151936, tied=True),
    "qwen2.5-coder-3b": Shape(2048, 11008, 36, 16, 2, 151936, tied=True),
    "qwen2.5-coder-7b": Shape(3584, 18944, 28, 28, 4, 152064, tied=False),
}


def config_json(shape: Shape) -> dict[str, Any]:
    """Returns the `config.json` of a shape."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": INITIALIZER_RANGE,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": shape.layers,
        "model_type": "qwen2",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }


def random_weights(shape: Shape) -> dict[str, torch.Tensor]:
    """Returns the tensors of a shape under their Hugging Face names, in the order of the layers."""
    generator = torch.Generator().manual_seed(SEED)

    def random(*sizes: int) -> torch.Tensor:
        return (torch.randn(*sizes, generator=generator) * INITIALIZER_RANGE).to(torch.bfloat16)

    def ones() -> torch.Tensor:
        return torch.ones(shape.hidden, dtype=torch.bfloat16)

    weights = {"model.embed_tokens.weight": random(shape.vocab, shape.hidden), "model.norm.weight": ones()}
    if not shape.tied:
        weights["lm_head.weight"] = random(shape.vocab, shape.hidden)
    q_rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            weights[f"{name}.self_attn.{part}_proj.weight"] = random(rows, shape.hidden)
            weights[f"{name}.self_attn.{part}_proj.bias"] = random(rows)
        weights[f"{name}.self_attn.o_proj.weight"] = random(shape.hidden, q_rows)
        weights[f"{name}.mlp.gate_proj.weight"] = random(shape.intermediate, shape.hidden)
        weights[f"{name}.mlp.up_proj.weight"] = random(shape.intermediate, shape.hidden)
        weights[f"{name}.mlp.down_proj.weight"] = random(shape.hidden, shape.intermediate)
        weights[f"{name}.input_layernorm.weight"] = ones()
        weights[f"{name}.post_attention_layernorm.weight"] = ones()
    return weights


def read_vocabulary(path: Path) -> tuple[dict[str, int], list[str]]:
    """Returns the ordinary tokens with their ids, and the merges, of a byte-level BPE vocabulary in GGUF."""
    fields = GGUFReader(path).fields
    texts = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    vocabulary = {text: id for id, (text, type) in enumerate(zip(texts, types, strict=True)) if type == TokenType.NORMAL}
    return vocabulary, fields["tokenizer.ggml.merges"].contents()


def tokenizer_json(vocabulary: dict[str, int], merges: list[str]) -> dict[str, Any]:
    """Returns the `tokenizer.json` of Qwen2.5."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZER}, "behavior": "Isolated", "invert": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": text, **plain} for id, text in SPECIAL_TOKENS.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def tokenizer_config_json() -> dict[str, Any]:
    """Returns the `tokenizer_config.json` that transformers needs beside it."""
    return {
        "added_tokens_decoder": {str(id): {"content": text, "special": True} for id, text in SPECIAL_TOKENS.items()},
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "pad_token": SPECIAL_TOKENS[END_OF_TEXT],
        "tokenizer_class": "Qwen2Tokenizer",
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes one JSON file."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description="Makes a model folder of a true shape with random bf16 weights.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("vocabulary", type=Path, help="a vocabulary-only GGUF file, such as ggml-vocab-qwen2.gguf")
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    vocabulary, merges = read_vocabulary(options.vocabulary)
    if clash := SPECIAL_TOKENS.keys() & vocabulary.values():
        parser.error(f"{options.vocabulary} is no vocabulary of Qwen2: it has ordinary tokens at {sorted(clash)}")
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "config.json", config_json(shape))
    write_json(options.out / "generation_config.json", {"eos_token_id": END_OF_TEXT, "max_new_tokens": 2048})
    write_json(options.out / "tokenizer.json", tokenizer_json(vocabulary, merges))
    write_json(options.out / "tokenizer_config.json", tokenizer_config_json())
    weights = random_weights(shape)
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    num_bytes = sum(tensor.nbytes for tensor in weights.values())
    print(f"{options.out}: {options.shape}, {num_bytes / 1e6:.0f} MB of weights", file=sys.stderr)


if __name__ == "__main__":
    main()
