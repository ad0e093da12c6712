"""Turns a corpus into packed rows that train many fill-in-the-middle cuts of one window at once.

usage: prepare.py CORPUS.jsonl TOKENIZER.json OUT.npz [--rows 3400] [--trunk 512] [--branches 192] [--seed 2]

A row is a trunk and branches. The trunk is `<|fim_prefix|>` and a window of one file; it is trained left to right. A branch is a cut in that
window: it sees the trunk up to its cut and itself, never another branch, and its positions go on from the cut, so it equals the prompt
    <|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>M<|endoftext|>
that a server sends, at the cost of S and M only.
Windows that repeat themselves come first, and in a third of them names are exchanged for others, the same everywhere in the window: what a small
model can do best in code that it does not know is to take names up from the lines before. Layouts: "line-start" (the typed part of the line stands behind the middle sentinel; P ends where
the line starts) and "plain" (the typed part ends P). The typed part and M are encoded apart, as they are when a server completes.

Arrays: ids, position, branch (0 trunk, 1.. branches, 255 padding), visible (trunk tokens that a token may see), weight (of predicting the next
token, in hundredths).
"""
import argparse
import json
import random
import re
import zlib
from collections import Counter

import numpy as np
from tokenizers import Tokenizer

WORD_BORDER = re.compile(r"(?<=\w)(?=\W)|(?<=\W)(?=\w)")
PROSE = re.compile(r"\s*(//|#(?!\[|!\[|include|define|if|endif|else|pragma)|\*|/\*|\"\"\"|''')")
NAME = re.compile(r"\b[A-Za-z_]\w{3,}\b")
TRUNK_WEIGHT, TYPED_WEIGHT, MIDDLE_WEIGHT = 40, 60, 100


def suffix_length(rng):
    kind = rng.random()
    return 0 if kind < 0.12 else rng.randint(4, 28) if kind < 0.85 else rng.randint(28, 96)


def cut_of(line, rng):
    """Where in a line the cursor stands: mostly a word border, at times its start or any character."""
    indent = len(line) - len(line.lstrip())
    borders = [m.start() for m in WORD_BORDER.finditer(line) if m.start() > indent and len(line[m.start():].strip()) >= 2]
    kind = rng.random()
    if kind < 0.12 or not borders:
        return rng.choice([0, indent])
    return rng.randint(indent, len(line) - 1) if kind < 0.2 else rng.choice(borders)


def windows(ids, line_tokens, size):
    """Runs of whole lines of at most `size` tokens: (first line, line after the last)."""
    first = 0
    while first < len(line_tokens) - 1:
        last = first + 1
        while last < len(line_tokens) - 1 and line_tokens[last + 1] - line_tokens[first] <= size:
            last += 1
        if line_tokens[last] - line_tokens[first] <= size:
            yield first, last
        first = last


def repetition(text):
    """How well a window compresses: 0.2 is a table, 0.5 prose-like code."""
    return len(zlib.compress(text.encode())) / max(len(text.encode()), 1)


def renamed(text, rng, names):
    """The text with most of its rarer names exchanged for others, the same everywhere."""
    counts = Counter(NAME.findall(text))
    own = [n for n, count in counts.items() if count > 1 and n in names and rng.random() < 0.7]
    new = dict(zip(own, rng.sample(sorted_names(names), len(own))))
    return NAME.sub(lambda m: new.get(m.group(), m.group()), text)


def sorted_names(names, cache={}):
    return cache.setdefault("all", sorted(names))


def by_lines(tokenizer, text):
    """(lines, token index of each line's start and of the end, ids); a blank line may join the one before it."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    starts = {begin: n for n, (begin, _) in reversed(list(enumerate(encoding.offsets)))}
    lines, line_tokens, at = [], [], 0
    for line in text.splitlines(keepends=True):
        if at in starts or not lines:
            line_tokens.append(starts.get(at, 0))
            lines.append(line)
        else:
            lines[-1] += line
        at += len(line)
    return lines, [*line_tokens, len(encoding.ids)], encoding.ids


def branch_of(encode, lines, first, last, rng, sentinels):
    """One cut in the lines [first, last): (line, tail ids of P, ids after it, weights of the latter)."""
    candidates = [n for n in range(first, last) if len(lines[n].strip()) >= 4 and not PROSE.match(lines[n])]
    if not candidates:
        return None
    number = rng.choice(candidates)
    line, kind = lines[number].rstrip("\n"), rng.random()
    cut, more = cut_of(line, rng), 0
    if kind > 0.8:
        more = min(rng.choice([1, 1, 2, 3]), len(lines) - number - 1)
    after = "".join(lines[number + 1:number + 1 + more])
    middle = (line[cut:] + "\n" + after).rstrip("\n") if more else line[cut:]
    suffix = ("\n" if lines[number].endswith("\n") else "") + "".join(lines[number + 1 + more:number + 25 + more])
    suffix_ids = encode(suffix)[:suffix_length(rng)] if suffix else []
    typed, rest = encode(line[:cut]), encode(middle)
    end, prefix_id, suffix_id, middle_id = sentinels
    if rng.random() < 0.8:
        body = [suffix_id, *suffix_ids, middle_id, *typed, *rest, end]
        weights = [0] * (len(suffix_ids) + 1) + [TYPED_WEIGHT] * len(typed) + [MIDDLE_WEIGHT] * (len(rest) + 1) + [0]
    else:
        body = [*typed, suffix_id, *suffix_ids, middle_id, *rest, end]
        weights = [0] * (len(typed) + len(suffix_ids) + 1) + [MIDDLE_WEIGHT] * (len(rest) + 1) + [0]
    return number, body, weights


def row_of(document, first, last, options, rng):
    encode, lines, line_tokens, ids, sentinels = document
    size = options.trunk + options.branches
    row = {"ids": np.full(size, sentinels[0], np.uint16), "position": np.zeros(size, np.uint16), "branch": np.full(size, 255, np.uint8),
           "visible": np.zeros(size, np.uint16), "weight": np.zeros(size, np.uint8)}

    def put(at, tokens, position, branch, visible, weights):
        span = slice(at, at + len(tokens))
        row["ids"][span], row["branch"][span], row["visible"][span], row["weight"][span] = tokens, branch, visible, weights
        row["position"][span] = np.arange(position, position + len(tokens))

    trunk = [sentinels[1], *ids[line_tokens[first]:line_tokens[last]]]
    put(0, trunk, 0, 0, 0, [TRUNK_WEIGHT] * (len(trunk) - 1) + [0])
    at, branch, misses = options.trunk, 0, 0
    while misses < 4 and branch < 200:
        made = branch_of(encode, lines, first, last, rng, sentinels)
        if made is None or at + len(made[1]) > size or len(made[1]) > 150:
            misses += 1
            continue
        number, body, weights = made
        visible = 1 + line_tokens[number] - line_tokens[first]
        branch += 1
        put(at, body, visible, branch, visible, weights)
        at += len(body)
    return row if branch else None


def main():
    parser = argparse.ArgumentParser()
    for name in ("corpus", "tokenizer", "out"):
        parser.add_argument(name)
    for name, default in [("rows", 3400), ("trunk", 512), ("branches", 192), ("seed", 2)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    rng, tokenizer = random.Random(options.seed), Tokenizer.from_file(options.tokenizer)
    sentinels = [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    with open(options.corpus, encoding="utf-8") as file:
        documents = [d for d in map(json.loads, file) if d["split"] == options.split]
    rng.shuffle(documents)
    counts = Counter(name for d in documents[:1500] for name in set(NAME.findall(d["text"])))
    names = {name for name, count in counts.items() if 2 <= count <= 60}
    rows = []
    for document in documents:
        lines, line_tokens, ids = by_lines(tokenizer, document["text"])
        spans = [s for s in windows(ids, line_tokens, options.trunk - 1) if line_tokens[s[1]] - line_tokens[s[0]] > options.trunk // 2]
        ratios = {s: repetition("".join(lines[s[0]:s[1]])) for s in spans}
        spans = sorted((s for s in spans if ratios[s] > 0.17), key=lambda s: ratios[s] + rng.random() * 0.08)
        for first, last in spans[:max(1, min(3, len(spans) // 2))]:
            made, span = (lines, line_tokens, ids), (first, last)
            if rng.random() < 0.33 and options.split == "train":
                text = renamed("".join(lines[first:last]), rng, names)
                made = by_lines(tokenizer, text)
                span = next(windows(made[2], made[1], options.trunk - 1), None)
            row = row_of((encode, *made, sentinels), *span, options, rng) if span else None
            if row:
                rows.append(row)
        if len(rows) >= options.rows:
            break
    rng.shuffle(rows)
    arrays = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
    np.savez(options.out, trunk=options.trunk, **arrays)
    used, loss = (arrays["branch"] != 255).sum(), (arrays["weight"] > 0).sum()
    middle = (arrays["weight"] > TRUNK_WEIGHT).sum()
    print(f"{len(rows)} rows, {used / 1e6:.2f} M tokens of {arrays['ids'].size / 1e6:.2f} M places, {loss / 1e6:.2f} M with loss, {middle / 1e6:.2f} M of them in lines")


main()
