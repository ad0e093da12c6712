"""Makes tiny random checkpoints of each architecture, and what Hugging Face transformers computes with them in f32.

usage: make_architectures.py [--out tests/golden/architectures]
Made with the versions of requirements.txt, on a CPU: bf16 weights widened to f32, eager attention.

WEIGHTS.safetensors: two layers with all that the architecture has, no two sizes alike, norms and biases other than one and nought.
cases.json: a case names its weights; `config` is config.json as the makers of such models publish it, `saved_config` what this version of
transformers writes for the same. Its prompts have all logits at their last place, and the longest has `greedy_ids` that follow it, where at each step
the best two logits are further apart than MARGIN. A case with other positions or another function than the one before is checked to differ from it.
"""
import argparse
import json
import os
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_golden import versions, write

MARGIN = 0.02
NEW_TOKENS = 12
LENGTHS = (1, 9, 40)
HERE = os.path.dirname(os.path.abspath(__file__))

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"}
LLAMA = SIZES | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                 "rope_scaling": None, "tie_word_embeddings": False, "attention_bias": False, "head_dim": 16}
MISTRAL = SIZES | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5,
                   "rope_theta": 1000000.0, "sliding_window": 5, "tie_word_embeddings": False, "head_dim": 16}
QWEN3 = SIZES | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000,
                 "rope_scaling": None, "tie_word_embeddings": True, "attention_bias": False, "head_dim": 16, "sliding_window": None,
                 "use_sliding_window": False, "max_window_layers": 2}
STARCODER2 = SIZES | {"architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2", "hidden_act": "gelu_pytorch_tanh", "mlp_type": "default",
                      "norm_type": "layer_norm", "norm_epsilon": 1e-5, "use_bias": True, "rope_theta": 999999.4420358813, "sliding_window": 6,
                      "num_attention_heads": 2, "num_key_value_heads": 1}
GEMMA = SIZES | {"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
                 "rope_scaling": None, "head_dim": 16, "num_key_value_heads": 1, "attention_bias": False}
# Three layers, the middle one dense.
QWEN3_MOE = QWEN3 | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 24, "num_hidden_layers": 3, "num_experts": 8,
                     "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [1],
                     "rope_theta": 10000000, "max_window_layers": 3}

# Name, weights, config. The first case of some weights makes them.
CASES = [
    ("llama", "llama", LLAMA),
    ("llama-linear", "llama", LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("llama-dynamic", "llama", LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ("llama-yarn", "llama", LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
    ("llama-yarn-mscale", "llama", LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 8,
                                                             "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False}}),
    ("llama-llama3", "llama", LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                        "original_max_position_embeddings": 16}}),
    ("granite", "granite", LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    ("mistral", "mistral", MISTRAL),
    ("mistral-no-window", "mistral", MISTRAL | {"sliding_window": None}),
    ("qwen3", "qwen3", QWEN3),
    ("starcoder2", "starcoder2", STARCODER2),
    ("starcoder2-erf", "starcoder2", STARCODER2 | {"hidden_act": "gelu"}),
    ("gemma", "gemma", GEMMA),
    ("gemma-later-spelling", "gemma", GEMMA | {"hidden_activation": "gelu_pytorch_tanh"}),
    ("qwen3-moe", "qwen3-moe", QWEN3_MOE),
    ("qwen3-moe-not-normed", "qwen3-moe", QWEN3_MOE | {"norm_topk_prob": False}),
]
# Cases that mean the same as the one before with their weights.
SAME = {"llama-dynamic": "llama", "gemma-later-spelling": "gemma"}


def make_weights(config, path):
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn_like(parameter) * 0.25)
            elif name.endswith("bias") or config.model_type == "gemma":
                parameter.copy_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(1 + torch.randn_like(parameter) * 0.3)
    state = {name: value.to(torch.bfloat16).contiguous() for name, value in unstacked(model.state_dict())}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, path, metadata={"format": "pt"})


def unstacked(state):
    """Matrices of experts by themselves, as files have them: transformers 5 stacks them in memory, gates and ups in one."""
    for name, value in state.items():
        before, stack, _ = name.partition("experts.")
        if not stack:
            yield name, value
            continue
        for index, expert in enumerate(value):
            parts = {"gate_proj": expert.chunk(2)[0], "up_proj": expert.chunk(2)[1]} if "gate_up" in name else {"down_proj": expert}
            for part, matrix in parts.items():
                yield f"{before}experts.{index}.{part}.weight", matrix


def load(folder, weights, stated):
    """The model of a folder with this config.json and these weights."""
    write(os.path.join(folder, "config.json"), stated)
    link = os.path.join(folder, "model.safetensors")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(os.path.abspath(weights), link)
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@torch.no_grad()
def last_logits(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def greedy(model, prompt):
    """The tokens that follow, or None where two are as good."""
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW_TOKENS:
        best = last_logits(model, ids).topk(2)
        if float(best.values[0] - best.values[1]) < MARGIN:
            return None
        ids.append(int(best.indices[0]))
    return ids[len(prompt):]


def make_prompts(model, vocab_size):
    prompts, seed = [], 0
    for length in LENGTHS:
        while True:
            ids = torch.randint(0, vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
            seed += 1
            prompt = {"prompt_ids": ids, "logits": [round(v, 6) for v in last_logits(model, ids).tolist()]}
            if length < max(LENGTHS):
                break
            prompt["greedy_ids"] = greedy(model, ids)
            if prompt["greedy_ids"] is not None:
                break
        prompts.append(prompt)
    return prompts


def saved(model, folder):
    model.config.save_pretrained(folder)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(HERE, "architectures"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    os.makedirs(options.out, exist_ok=True)
    cases, first = [], {}
    for name, weights, stated in CASES:
        path = os.path.join(options.out, f"{weights}.safetensors")
        with tempfile.TemporaryDirectory() as folder:
            if weights not in first:
                write(os.path.join(folder, "config.json"), stated)
                make_weights(AutoConfig.from_pretrained(folder), path)
            model = load(folder, path, stated)
            prompts = make_prompts(model, stated["vocab_size"])
            saved_config = saved(model, folder)
        base = first.setdefault(weights, (name, prompts[-1]))
        if name != base[0]:
            logits = torch.tensor(prompts[-1]["logits"]) if prompts[-1]["prompt_ids"] == base[1]["prompt_ids"] else last_logits(
                model, base[1]["prompt_ids"])
            difference = float((logits - torch.tensor(base[1]["logits"])).abs().max())
            assert (difference < 1e-4) == (SAME.get(name) == base[0]), f"{name} differs from {base[0]} by {difference}"
        cases.append({"name": name, "weights": weights, "config": stated, "saved_config": saved_config, "prompts": prompts})
    write(os.path.join(options.out, "cases.json"), {"versions": versions(), "margin": MARGIN, "cases": cases})
    print(f"{len(cases)} cases, {sum(os.path.getsize(os.path.join(options.out, file)) for file in os.listdir(options.out))} bytes")


if __name__ == "__main__":
    main()
