"""Measures a model on held-out places: is the rest of the line, completed greedily, exactly right?

usage: evaluate.py CORPUS.jsonl MODEL_FOLDER [--weights OTHER.safetensors] [--per-language 48] [--layouts line-start,plain] [--cut border] [--split package]

A place is in a line of code, not of comments, of a file that was never trained on, with at least three characters, blanks at the ends not counted,
behind it. `--cut` says where in the line:
    border   a word border (a letter, digit or underscore on one side, none on the other) with something before it
    inside   between two letters, digits or underscores
    start    behind the indentation, as after a line break
Files come from held-out packages; a language without one takes held-out files of other packages (marked *), as `--split file` does for all.
The prompt has at most --prefix-chars of whole lines before the line and --suffix-chars after it. Layouts:
    line-start   <|fim_prefix|>lines before<|fim_suffix|>S<|fim_middle|>typed part of the line
    plain        <|fim_prefix|>lines before, typed part of the line<|fim_suffix|>S<|fim_middle|>
    left-right   lines before, typed part of the line             (no suffix, for comparison)
Prints for each layout and language: exact (the completion up to its first line end equals the rest of the line, trailing blanks aside),
accepted (characters of the rest that the completion gets right before its first mistake, as a share), similarity (1 - edit distance / longer length).
"""
import argparse
import json
import random
import re

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

CUTS = {"border": re.compile(r"(?<=\w)(?=\W)|(?<=\W)(?=\w)"), "inside": re.compile(r"(?<=\w)(?=\w)")}
PROSE = re.compile(r"\s*(//|#(?!\[|!\[|include|define|if|endif|else|pragma)|\*|/\*|\"\"\"|''')")


def code_lines(text):
    """Numbers of the lines that are code: no comment line, nothing inside a block comment or a multi-line string."""
    numbers, inside = [], None
    for number, line in enumerate(text.split("\n")):
        if inside:
            inside = None if inside in line else inside
            continue
        for opening, closing in (('"""', '"""'), ("'''", "'''"), ("/*", "*/")):
            if line.count(opening) and closing not in line.split(opening, 1)[1]:
                inside = closing
                break
        else:
            if not PROSE.match(line):
                numbers.append(number)
    return numbers


def cuts(line, kind):
    """Where in a line of code the cursor may be."""
    if kind == "start":
        found = [len(line) - len(line.lstrip())]
    else:
        found = [m.start() for m in CUTS[kind].finditer(line) if line[:m.start()].strip()]
    return [at for at in found if len(line[at:].strip()) >= 3]


def places(documents, count, rng, options):
    """`count` places, one of a file where there are enough files."""
    documents, found, tries = sorted(documents, key=lambda d: (d["package"], d["path"])), [], 0
    rng.shuffle(documents)
    while len(found) < count and tries < 40 * count:
        document = documents[tries % len(documents)]
        tries += 1
        lines, numbers = document["text"].split("\n"), code_lines(document["text"])
        if not numbers:
            continue
        number = rng.choice(numbers)
        line = lines[number]
        possible = cuts(line, options.cut)
        if not possible:
            continue
        cut = rng.choice(possible)
        before = "".join(part + "\n" for part in lines[:number])
        if len(before) > options.prefix_chars:
            before = before[-options.prefix_chars:].split("\n", 1)[-1]
        after = ("\n" + "\n".join(lines[number + 1:]))[:options.suffix_chars]
        found.append({"language": document["language"], "before": before, "typed": line[:cut], "rest": line[cut:].rstrip(), "after": after})
    return found


def prompt_ids(tokenizer, place, layout):
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    prefix, suffix, middle = (tokenizer.convert_tokens_to_ids(f"<|fim_{n}|>") for n in ("prefix", "suffix", "middle"))
    if layout == "left-right":
        return encode(place["before"] + place["typed"])
    if layout == "plain":
        return [prefix, *encode(place["before"] + place["typed"]), suffix, *encode(place["after"]), middle]
    return [prefix, *encode(place["before"]), suffix, *encode(place["after"]), middle, *encode(place["typed"])]


@torch.no_grad()
def complete(model, tokenizer, prompts, new_tokens, ends):
    """Greedy completions of a few prompts, each up to its first line end."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    cache, outputs, texts, step = None, [[] for _ in prompts], [None] * len(prompts), ids
    for _ in range(new_tokens):
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1]:]
        result = model(step, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, best = result.past_key_values, result.logits[:, -1].argmax(-1)
        for n, token in enumerate(best.tolist()):
            if texts[n] is None:
                outputs[n] += [] if token in ends else [token]
                text = tokenizer.decode(outputs[n], skip_special_tokens=False)
                if token in ends or "\n" in text:
                    texts[n] = text.split("\n")[0]
        if all(t is not None for t in texts):
            break
        step, mask = best[:, None], torch.cat((mask, torch.ones(len(prompts), 1, dtype=mask.dtype)), 1)
    return [tokenizer.decode(o, skip_special_tokens=False).split("\n")[0] if t is None else t for o, t in zip(outputs, texts)]


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def score(place, text):
    rest, text = place["rest"], text.rstrip()
    accepted = next((n for n, (x, y) in enumerate(zip(rest, text)) if x != y), min(len(rest), len(text)))
    return {"exact": float(text == rest), "accepted": accepted / len(rest), "characters": accepted,
            "similarity": 1 - edit_distance(rest, text) / max(len(rest), len(text), 1)}


def mean(scores, name):
    return sum(s[name] for s in scores) / max(len(scores), 1)


def chosen_places(options):
    with open(options.corpus, encoding="utf-8") as file:
        documents = [d for d in map(json.loads, file) if d["split"] != "train"]
    found = []
    for language in sorted({d["language"] for d in documents}):
        own = [d for d in documents if d["language"] == language]
        wanted = [d for d in own if d["split"] == options.split]
        made = places(wanted or own, options.per_language, random.Random(options.seed), options)
        for place in made:
            place["language"] = language if wanted else language + "*"
        found += made
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("model")
    parser.add_argument("--cut", choices=["border", "inside", "start"], default="border")
    for name, default in [("weights", None), ("layouts", "line-start,plain"), ("split", "package"), ("show", "0"), ("out", None)]:
        parser.add_argument(f"--{name}", default=default)
    for name, default in [("per-language", 48), ("prefix-chars", 900), ("suffix-chars", 120), ("new-tokens", 32), ("batch", 12), ("seed", 5), ("threads", 1)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    if options.weights:
        state = {k: v.float() for k, v in load_file(options.weights).items()}
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
        model.load_state_dict(state)
    ends = {tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")}
    found, results = chosen_places(options), {}
    print(f"{len(found)} places, {options.cut} cut, {options.split} split, seed {options.seed}, at most {options.prefix_chars} + {options.suffix_chars} characters")
    for layout in options.layouts.split(","):
        prompts = [prompt_ids(tokenizer, place, layout) for place in found]
        order, texts = sorted(range(len(found)), key=lambda n: len(prompts[n])), {}
        for at in range(0, len(order), options.batch):
            part = order[at:at + options.batch]
            texts |= dict(zip(part, complete(model, tokenizer, [prompts[n] for n in part], options.new_tokens, ends)))
        scores = [score(place, texts[n]) for n, place in enumerate(found)]
        for language in [*sorted({p["language"] for p in found}), "all"]:
            own = [s for p, s in zip(found, scores) if language in ("all", p["language"])]
            print(f"{layout:11} {language:12} {len(own):4} exact {mean(own, 'exact'):6.1%}  accepted {mean(own, 'accepted'):6.1%}"
                  f"  ({mean(own, 'characters'):.1f} characters)  similarity {mean(own, 'similarity'):6.1%}", flush=True)
        results[layout] = {"exact": mean(scores, "exact"), "accepted": mean(scores, "accepted"), "similarity": mean(scores, "similarity")}
        for n in random.Random(1).sample(range(len(found)), int(options.show)):
            print(f"   {scores[n]['exact']:.0f} {found[n]['typed'].strip()[-40:]!r} wants {found[n]['rest']!r} got {texts[n]!r}")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump({"places": len(found), **results}, file, indent=1)


if __name__ == "__main__":
    main()
