"""Makes the golden completions that the Rust engine is compared with, by Hugging Face transformers in f32.

usage: make_golden.py [--model models/demo] [--out tests/golden/demo.json] [--tiny]
Made with Python 3.11, torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6 (requirements.txt); on a CPU, bf16 weights
widened to f32, eager attention.

demo.json: greedy completions of the prompts in prompts.py, up to 48 tokens. `output_ids` has no end-of-text token; `finish` says why it ends: "eos"
(the model's next token is an end token), "length" (48 tokens), or "margin" (at the next step the two best logits are closer than MARGIN, so a
correct engine may differ there, and the case stops before). A case with fewer than four tokens before such a step is dropped, unless it ended.
`min_margin` is the smallest gap between the two best logits over the kept steps, the one that chose the end token included.
A case in the line-start layout has "typed": text behind the middle sentinel, encoded apart. Each prompt of one file that ends within a line
is asked in both layouts.
`last_logits_of_prompt` has the eight best logits at the prompt's last place.

--tiny also makes tests/golden/tiny-untied/ (a random two-layer Qwen2 with an untied head, in two shards) and tests/golden/tiny.json.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from prompts import PROMPTS  # noqa: E402

MARGIN = 0.02
NEW_TOKENS = 48
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def encode(tokenizer, text):
    """Text as ids, `<|repo_name|>` and `<|file_sep|>` spliced as ids; no other special token is read in it."""
    ids = []
    for part in re.split(r"(<\|repo_name\|>|<\|file_sep\|>)", text):
        if part.startswith("<|"):
            ids.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def fim_prompt(tokenizer, prefix, suffix, typed):
    sentinel = {name: tokenizer.convert_tokens_to_ids(f"<|fim_{name}|>") for name in ("prefix", "suffix", "middle")}
    return [sentinel["prefix"], *encode(tokenizer, prefix), sentinel["suffix"], *encode(tokenizer, suffix), sentinel["middle"],
            *encode(tokenizer, typed)]


@torch.no_grad()
def greedy(model, prompt, ends):
    """(output ids, why it ended, smallest margin, last logits of the prompt)."""
    cache, ids, output, smallest, first = None, torch.tensor([prompt]), [], float("inf"), None
    while True:
        result = model(ids, past_key_values=cache, use_cache=True)
        cache, logits = result.past_key_values, result.logits[0, -1].float()
        first = logits if first is None else first
        if len(output) == NEW_TOKENS:
            return output, "length", smallest, first
        best = logits.topk(2)
        margin = float(best.values[0] - best.values[1])
        if margin < MARGIN:
            return output, "margin", smallest, first
        smallest = min(smallest, margin)
        if int(best.indices[0]) in ends:
            return output, "eos", smallest, first
        output.append(int(best.indices[0]))
        ids = best.indices[:1][None]


def top_logits(logits):
    best = logits.topk(8)
    return {"top_ids": best.indices.tolist(), "top_logits": [round(v, 5) for v in best.values.tolist()]}


def versions():
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "python": platform.python_version()}


def both_layouts(prompts):
    """Yields the prompts, and behind each plain one its line-start form, where the cursor's line has text."""
    for prompt in prompts:
        yield prompt
        name, language, prefix, suffix, *typed = prompt
        before, line = prefix[:prefix.rfind("\n") + 1], prefix[prefix.rfind("\n") + 1:]
        if line and not typed and "<|file_sep|>" not in prefix:
            yield f"{name}-line-start", language, before, suffix, line


def make_demo(model_folder, out):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="eager").eval()
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    cases, dropped = [], []
    for name, language, prefix, suffix, *typed in both_layouts(PROMPTS):
        prompt = fim_prompt(tokenizer, prefix, suffix, typed[0] if typed else "")
        output, finish, margin, logits = greedy(model, prompt, ends)
        if finish == "margin" and len(output) < 4:
            dropped.append(name)
            continue
        case = {"name": name, "language": language, "prefix": prefix, "suffix": suffix}
        if typed:
            case["typed"] = typed[0]
        case |= {"prompt_ids": prompt, "output_ids": output, "output_text": tokenizer.decode(output, skip_special_tokens=False), "finish": finish,
                 "min_margin": round(margin, 5), "last_logits_of_prompt": top_logits(logits)}
        cases.append(case)
    with open(os.path.join(model_folder, "model.safetensors"), "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    write(out, {"model_sha256": digest, "versions": versions(), "margin": MARGIN, "cases": cases})
    lengths = [len(c["prompt_ids"]) for c in cases]
    print(f"{len(cases)} cases, prompts of {min(lengths)} to {max(lengths)} tokens, dropped: {', '.join(dropped) or 'none'}")


def make_tiny(folder, out):
    torch.manual_seed(7)
    config = Qwen2Config(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, rope_theta=10000.0, rms_norm_eps=1e-6, tie_word_embeddings=False, initializer_range=0.08,
                         bos_token_id=0, eos_token_id=0)
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms and biases other than one and nought, so that each is seen
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            parameter.copy_(parameter.to(torch.bfloat16).float())
    os.makedirs(folder, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    names, places = list(state), {}
    for number, shard in enumerate((names[:len(names) // 2], names[len(names) // 2:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({n: state[n] for n in shard}, os.path.join(folder, file), metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    size = sum(v.numel() * 2 for v in state.values())
    write(os.path.join(folder, "model.safetensors.index.json"), {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})
    stated = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rope_theta": 10000.0,
              "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "use_sliding_window": False, "torch_dtype": "bfloat16",
              "bos_token_id": 0, "eos_token_id": 0}
    write(os.path.join(folder, "config.json"), stated)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    cases, generator = [], torch.Generator().manual_seed(11)
    for length in (1, 2, 7, 33, 100):
        prompt = torch.randint(0, 512, (length,), generator=generator)
        with torch.no_grad():
            logits = loaded(prompt[None]).logits[0, -1]
            assert torch.equal(logits, loaded(prompt[None]).logits[0, -1]) and torch.allclose(logits, model(prompt[None]).logits[0, -1], atol=1e-4)
        cases.append({"prompt_ids": prompt.tolist(), "logits": [round(v, 6) for v in logits.tolist()]})
    write(out, {"versions": versions(), "cases": cases})
    print(f"tiny: {len(cases)} cases, {size} bytes of weights")


def write(path, value):
    """JSON with a line for each case and each field of one."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    parser.add_argument("--out", default=os.path.join(HERE, "demo.json"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_demo(options.model, options.out)
    if options.tiny:
        make_tiny(os.path.join(HERE, "tiny-untied"), os.path.join(HERE, "tiny.json"))


if __name__ == "__main__":
    main()
