"""Makes adapters (LoRA) of the tiny random models of make_architectures.py, and what PEFT computes with them in f32.

usage: make_adapters.py [--architectures tests/golden/architectures] [--out tests/golden/adapters]
Made with the versions of requirements.txt, on a CPU: the models' bf16 weights widened to f32, eager attention, adapters in f32 beside them.

FOLDER/adapter_config.json, adapter_model.safetensors: as PEFT saves them, with both matrices random and large enough to change what follows.
cases.json: a case names the architecture's case and its adapters; each adapter has prompts as in architectures/cases.json. Every adapter is checked to
move the logits of its longest prompt by more than MOVED.
"""
import argparse
import json
import os
import tempfile

import torch
from peft import LoraConfig, get_peft_model

from make_architectures import HERE, last_logits, load, make_prompts
from make_golden import versions, write

MOVED = 0.1
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LLAMA = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

# The architecture's case, and its adapters: folder, settings.
CASES = [
    ("llama", [
        ("llama-all", {"r": 4, "lora_alpha": 6, "target_modules": LLAMA}),
        ("llama-two", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "use_rslora": True,
                       "rank_pattern": {"layers.1.self_attn.v_proj": 11}, "alpha_pattern": {"q_proj": 2}}),
        ("llama-second-layer", {"r": 9, "lora_alpha": 9, "target_modules": LLAMA, "layers_to_transform": [1]}),
    ]),
    ("granite", [("granite-all", {"r": 4, "lora_alpha": 4, "target_modules": LLAMA})]),
    ("starcoder2", [
        ("starcoder2-all", {"r": 2, "lora_alpha": 3, "target_modules": [*ATTENTION, "c_fc", "c_proj"]}),
        ("starcoder2-up", {"r": 6, "lora_alpha": 6, "target_modules": ["c_fc"]}),
    ]),
    ("gemma", [("gemma-gate", {"r": 4, "lora_alpha": 4, "target_modules": ["gate_proj", "down_proj"]})]),
    ("qwen3-moe", [("qwen3-moe-attention", {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION})]),
]


def adapted(model, settings):
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--architectures", default=os.path.join(HERE, "architectures"))
    parser.add_argument("--out", default=os.path.join(HERE, "adapters"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    with open(os.path.join(options.architectures, "cases.json"), encoding="utf-8") as file:
        architectures = {case["name"]: case for case in json.load(file)["cases"]}
    cases = []
    for name, adapters in CASES:
        stated, weights = architectures[name]["config"], architectures[name]["weights"]
        rows = []
        for folder, settings in adapters:
            with tempfile.TemporaryDirectory() as base:
                plain = load(base, os.path.join(options.architectures, f"{weights}.safetensors"), stated)
                longest = architectures[name]["prompts"][-1]
                model = adapted(plain, settings)
                model.peft_config["default"].base_model_name_or_path = f"tiny/{name}"
                out = os.path.join(options.out, folder)
                model.save_pretrained(out)
                os.remove(os.path.join(out, "README.md"))
                os.chmod(os.path.join(out, "adapter_model.safetensors"), 0o644)
                prompts = make_prompts(model, stated["vocab_size"])
                moved = float((last_logits(model, longest["prompt_ids"]) - torch.tensor(longest["logits"])).abs().max())
                assert moved > MOVED, f"{folder} moves logits by {moved}"
            rows.append({"folder": folder, "prompts": prompts})
        cases.append({"name": name, "adapters": rows})
    write(os.path.join(options.out, "cases.json"), {"versions": versions(), "cases": cases})


if __name__ == "__main__":
    main()
