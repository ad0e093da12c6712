"""Makes tiny random checkpoints in the forms of AWQ, GPTQ and FP8, and what Hugging Face transformers computes with the weights that they stand for.

usage: make_quantized.py [--out tests/golden/quantized]
Made with the versions of requirements.txt, on a CPU. The forms are written here from their definitions, not by the tools of their makers, for none of
them runs on a CPU; transformers is given the weights that codes, scales and zero points mean, in f32, so that it answers for the model, and this
file for the forms. Scales of four bits have six bits of mantissa: a scale times a zero point is then a number of half precision, as an offset is stored.

FOLDER/config.json, model.safetensors: one layer of Llama, or of Qwen3's mixtures of experts. golden.json: prompts with all logits at their last place, as in cases.json.
"""
import argparse
import os
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_architectures import HERE, LLAMA, QWEN3_MOE, make_prompts, unstacked
from make_golden import versions, write

BASE = LLAMA | {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
                "torch_dtype": "float16"}
MIXTURE = QWEN3_MOE | {"hidden_size": 128, "num_hidden_layers": 1, "num_experts": 4, "moe_intermediate_size": 128, "mlp_only_layers": [],
                       "max_window_layers": 1, "torch_dtype": "float16"}
# The columns that lie in a word of eight, lowest nibble first.
PLAIN, AWQ = list(range(8)), [0, 2, 4, 6, 1, 3, 5, 7]
INT4 = {"bits": 4, "group_size": 32}
KEPT = ["lm_head", "model.layers.0.self_attn.o_proj"]
CASES = [
    ("awq", BASE | {"quantization_config": INT4 | {"quant_method": "awq", "version": "gemm", "zero_point": True}}),
    ("gptq", BASE | {"quantization_config": INT4 | {"quant_method": "gptq", "desc_act": False, "sym": False}}),
    ("gptq-v2-symmetric", BASE | {"quantization_config": INT4 | {"quant_method": "gptq", "desc_act": False, "sym": True, "checkpoint_format": "gptq_v2"}}),
    ("fp8-rows", BASE | {"torch_dtype": "bfloat16", "quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": KEPT}}),
    ("fp8-squares", BASE | {"torch_dtype": "bfloat16", "intermediate_size": 256, "quantization_config": {
        "quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": KEPT, "weight_block_size": [128, 128]}}),
    ("awq-mixture", MIXTURE | {"quantization_config": INT4 | {"quant_method": "awq", "version": "gemm", "zero_point": True}}),
    ("fp8-mixture", MIXTURE | {"torch_dtype": "bfloat16", "quantization_config": {
        "quant_method": "fp8", "activation_scheme": "dynamic", "modules_to_not_convert": KEPT, "weight_block_size": [128, 128]}}),
]


def pack(codes, order):
    """[n, 8 m] of 0..15 to [n, m] words of 32 bits, each of eight neighbours along the last axis."""
    eights = codes.to(torch.int64).reshape(codes.shape[0], -1, 8)
    words = sum(eights[..., column] << (4 * place) for place, column in enumerate(order))
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def quantize_int4(weight, name, settings, out):
    """Rounds [rows, cols] by groups of columns, stores the form's tensors, returns what they mean."""
    rows, cols = weight.shape
    groups = weight.reshape(rows, -1, settings["group_size"])
    symmetric = settings.get("sym", False)
    if symmetric:
        scales, zeros = groups.abs().amax(-1) / 8, torch.full(groups.shape[:2], 8)
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scales = (high - low) / 15
    mantissa, exponent = torch.frexp(scales)
    scales = torch.ldexp(torch.ceil(mantissa * 64) / 64, exponent)
    if not symmetric:
        # From 1, as GPTQ's first form stores them less one.
        zeros = torch.round(-low / scales).clamp(1, 15)
    codes = (torch.round(groups / scales[..., None]) + zeros[..., None]).clamp(0, 15)
    meant = ((codes - zeros[..., None]) * scales[..., None]).reshape(rows, cols)
    codes, zeros = codes.reshape(rows, cols).T, zeros.T
    if settings["quant_method"] == "awq":
        out[f"{name}.qweight"], out[f"{name}.qzeros"] = pack(codes, AWQ), pack(zeros, AWQ)
    else:
        out[f"{name}.qweight"] = pack(codes.T, PLAIN).T
        out[f"{name}.qzeros"] = pack(zeros - int(settings.get("checkpoint_format") != "gptq_v2"), PLAIN)
        out[f"{name}.g_idx"] = torch.arange(cols, dtype=torch.int32) // settings["group_size"]
    out[f"{name}.scales"] = scales.T.to(torch.float16)
    return meant


def quantize_fp8(weight, name, settings, out):
    rows, cols = weight.shape
    if "weight_block_size" in settings:
        squares = weight.reshape(max(rows // 128, 1), min(rows, 128), cols // 128, 128)
        scales = squares.abs().amax((1, 3)) / 448
        codes = (squares / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        out[f"{name}.weight_scale_inv"] = scales
        meant = codes.float() * scales[:, None, :, None]
    else:
        scales = (weight.abs().amax(1, keepdim=True) / 448).to(torch.bfloat16)
        codes = (weight / scales.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
        out[f"{name}.weight_scale"], out[f"{name}.input_scale"] = scales, torch.tensor([0.125])
        meant = codes.float() * scales.float()
    out[f"{name}.weight"] = codes.reshape(rows, cols)
    return meant.reshape(rows, cols)


def stored_as(form, key, value, settings, kept, stored):
    """Stores a parameter, quantised where the settings say so, and returns what it means then."""
    module = key.removesuffix(".weight")
    if not module.endswith("_proj") or module in settings.get("modules_to_not_convert", settings.get("ignore", [])):
        stored[key] = value = value.to(kept)
        return value
    return (quantize_fp8 if form.startswith("fp8") else quantize_int4)(value, module, settings, stored)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(HERE, "quantized"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    cases = []
    for name, stated in CASES:
        settings = stated["quantization_config"]
        folder = os.path.join(options.out, name)
        os.makedirs(folder, exist_ok=True)
        write(os.path.join(folder, "config.json"), stated)
        with tempfile.TemporaryDirectory() as plain:
            write(os.path.join(plain, "config.json"), {key: value for key, value in stated.items() if key != "quantization_config"})
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(plain), attn_implementation="eager").float().eval()
        stored = {}
        kept = torch.float16 if stated["torch_dtype"] == "float16" else torch.bfloat16
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                value = 1 + torch.randn_like(parameter) * 0.3 if parameter.dim() == 1 else torch.randn_like(parameter) * 0.15
                meant = [stored_as(name, part, matrix, settings, kept, stored) for part, matrix in unstacked({key: value})]
                parameter.copy_(torch.cat(meant).reshape(parameter.shape))
        save_file({key: value.contiguous() for key, value in stored.items()}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        cases.append({"name": name, "prompts": make_prompts(model, stated["vocab_size"])})
    write(os.path.join(options.out, "golden.json"), {"versions": versions(), "cases": cases})


if __name__ == "__main__":
    main()
