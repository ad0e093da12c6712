"""Makes small tokenizers with the true structure of the families', and the ids that their makers' libraries give.

usage: make_tokenizers.py [--out tests/golden/tokenizers]
Made with the versions of requirements.txt. Each folder has one tokenizer in the file that the family publishes (`tokenizer.json`, `tokenizer.model` or
`tekken.json`) and a `config.json` that names its architecture; vocabularies are a few hundred pieces, trained on prompts.py.

cases.json has a row a tokenizer: `texts` with the ids of each as it stands, `fim` with the prompts that a family's own form makes of a prefix and a
suffix, and where the vocabulary is SentencePiece's, `pieces` with scores and types, for GGUF. The oracles: sentencepiece (a text as it stands is
encoded behind a character that has no piece, whose bytes are cut off again), tiktoken, and Hugging Face's tokenizers for tokenizer.json. Texts never
hold what a normaliser would change, and are encoded without their sentinels being looked for, as sentencepiece and tiktoken do by themselves.
"""
import argparse
import base64
import io
import json
import os

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

from make_golden import write
from prompts import PYTHON_LONG

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = open(os.path.join(HERE, "prompts.py"), encoding="utf-8").read()

TEXTS = [
    "", " ", "  ", "a", " a", "  a", "\n", "\t", "\r\n", "def f(x):\n    return x\n", "    if x:\n\t\treturn  1\r\n", "   \n   \n",
    "self.books = {}  # the shelf", " leading", "trailing ", "12345 + 0x1F", "don't WE'LL", "é à ü", "日本語のコード", "🦀🦀 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301 a\u0323\u0302", "\ufeffbom", "\u00a0nbsp\u2003em", "\x00\x01\x7f", "õ÷Á ý", "<0x0A> <0xE2>", "<s></s><unk>", "[PREFIX][SUFFIX][INST]", "<fim_prefix>",
    "<|fim_middle|>", "<｜fim▁hole｜>".replace("▁", "_"), "<h1>title</h1>", "x" * 40, " " * 33, "aaaaaaaaaaaaa", "=" * 17, "end", PYTHON_LONG[:1500],
]
PREFIX, SUFFIX = "def lend(self, reader):\n    ", "\n    return True\n"
FIM_TEXTS = [(PREFIX, SUFFIX), ("", ""), ("  x = [PREFIX] ", "<fim_middle> <s>"), ("a", ""), ("", " b")]


def train(kind, size, control=(), user=(), dummy_prefix=True, ids=(0, 1, 2, -1), names=("<unk>", "<s>", "</s>", "<pad>")):
    out = io.BytesIO()
    (unk, bos, eos, pad), (unk_piece, bos_piece, eos_piece, pad_piece) = ids, names
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.split("\n\n") * 2), model_writer=out, model_type=kind, vocab_size=size, byte_fallback=True, num_threads=1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=dummy_prefix, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=0.995, control_symbols=list(control), user_defined_symbols=list(user),
        unk_id=unk, bos_id=bos, eos_id=eos, pad_id=pad, unk_piece=unk_piece, bos_piece=bos_piece, eos_piece=eos_piece, pad_piece=pad_piece,
        max_sentence_length=100000, minloglevel=2, hard_vocab_limit=False)
    return out.getvalue()


def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def stand(sp):
    """Returns how a text is encoded as it stands, without the space that sentencepiece puts before the first."""
    lead = sp.encode("☺")
    assert sp.decode(lead) == "☺"

    def encode(text):
        ids = sp.encode("☺" + text)
        assert ids[:len(lead)] == lead, (text, ids)
        return ids[len(lead):]

    return encode


def pieces(sp):
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
    return [[sp.id_to_piece(i), sp.get_score(i), kind(i)] for i in range(sp.get_piece_size())]


def fast(sp, metaspace):
    """Returns the tokenizer.json of a SentencePiece model, in the form of Code Llama's or, with Metaspace, of Codestral's."""
    rows = pieces(sp)
    control = [piece for piece, _, kind in rows if kind in (2, 3)]
    vocab = {piece: index for index, (piece, _, _) in enumerate(rows)}
    merges = generate_merges(vocab, {piece: score for piece, score, kind in rows if kind == 1}, control)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    with_bos(tokenizer, "<s>")
    return tokenizer


def with_bos(tokenizer, bos):
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])


def byte_level(size, steps, special, normalizer=None, added=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens(list(added))
    return tokenizer


def hugging_face(tokenizer):
    """Returns how a text is encoded without its control tokens being looked for; tokens that are texts stay."""
    definition = json.loads(tokenizer.to_str())
    control = {token["content"] for token in definition["added_tokens"] if token["special"] or token["content"][:1] in "<["}
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] not in control]
    definition["post_processor"] = None
    plain = Tokenizer.from_str(json.dumps(definition))
    return lambda text: plain.encode(text, add_special_tokens=False).ids


def tekken(size, num_special, special):
    """Returns a tekken.json and its encoding: the ranks of a trained byte-level BPE, base64 each."""
    pattern = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
               r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    trained = byte_level(size, [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)], [])
    of_character = {character: byte for byte, character in enumerate(alphabet())}
    merged = [left + right for left, right in json.loads(trained.to_str())["model"]["merges"]]
    ranks = [bytes([byte]) for byte in range(256)] + [bytes(of_character[c] for c in token) for token in merged]
    vocab = [{"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None} for rank, token in enumerate(ranks)]
    # The published file has more than the model uses.
    vocab.append({"rank": len(ranks), "token_bytes": base64.b64encode(b"unused token").decode(), "token_str": None})
    listed = [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(special)]
    config = {"pattern": pattern, "num_vocab_tokens": len(vocab), "default_vocab_size": len(ranks) + num_special, "default_num_special_tokens": num_special, "version": "v3"}
    encoding = tiktoken.Encoding("tekken", pat_str=pattern, mergeable_ranks={token: rank for rank, token in enumerate(ranks)}, special_tokens={})
    return {"config": config, "vocab": vocab, "special_tokens": listed}, lambda text: [i + num_special for i in encoding.encode(text, disallowed_special=())]


def alphabet():
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(0x100 + unseen.index(byte)) for byte in range(256)]


def row(name, family, encode, fim, sp=None, bos=None, lead=""):
    """A case; `fim` makes a prompt of the ids of a document's beginning, and of a text."""
    texts = [{"text": text, "ids": encode(text)} for text in TEXTS]
    begin = lambda text: encode(lead + text) if text else []
    prompts = [{"prefix": prefix, "suffix": suffix, "ids": fim(begin(prefix), encode(suffix))} for prefix, suffix in FIM_TEXTS] if fim else []
    case = {"name": name, "family": family, "bos_id": bos, "lead": lead, "texts": texts, "fim": prompts}
    if sp:
        case["pieces"] = pieces(sp)
        for text in TEXTS:
            # sentencepiece itself puts the space before a document.
            assert not lead or not text or sp.encode(text) == encode(lead + text), text
    return case


def save(out, name, file, content, architecture):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, file), "wb") as opened:
        opened.write(content if isinstance(content, bytes) else content.encode())
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as opened:
        opened.write(json.dumps({"architectures": [architecture]}) + "\n")
    return os.path.join(folder, file)


def compact(text):
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) + "\n"


def of_sentencepiece(out):
    """Code Llama, Codestral and CodeGemma, each as its own file and as what Hugging Face makes of it; a unigram model."""
    sentinels = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    model = train("bpe", 440, control=sentinels)
    sp, ids = processor(model), lambda token: processor(model).piece_to_id(token)
    pre, suf, mid = (ids(token) for token in sentinels[:3])
    save(out, "codellama-model", "tokenizer.model", model, "LlamaForCausalLM")
    fim = lambda prefix, suffix: [1, pre, *prefix, suf, *suffix, mid]
    yield row("codellama-model", "codellama", stand(sp), fim, sp, 1, " ")
    save(out, "codellama", "tokenizer.json", compact(fast(sp, False).to_str()), "LlamaForCausalLM")
    yield row("codellama", "codellama", stand(sp), fim, None, 1, " ")

    control = ["[INST]", "[/INST]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"]
    model = train("bpe", 430, control=control)
    sp = processor(model)
    prefix_id, suffix_id = sp.piece_to_id("[PREFIX]"), sp.piece_to_id("[SUFFIX]")
    fim = lambda prefix, suffix: [1, suffix_id, *suffix, prefix_id, *prefix]
    save(out, "codestral-model", "tokenizer.model.v3", model, "MistralForCausalLM")
    yield row("codestral-model", "codestral", stand(sp), fim, None, 1, " ")
    save(out, "codestral", "tokenizer.json", compact(fast(sp, True).to_str()), "MistralForCausalLM")
    yield row("codestral", "codestral", stand(sp), fim, None, 1, " ")

    names = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n" * n for n in range(2, 6)] + ["▁" * n for n in range(2, 9)] + ["\t\t", "<h1>", "</h1>"]
    model = train("bpe", 470, control=names, user=runs, dummy_prefix=False, ids=(3, 2, 1, 0), names=("<unk>", "<bos>", "<eos>", "<pad>"))
    sp = processor(model)
    pre, suf, mid = (sp.piece_to_id(token) for token in names[:3])
    fim = lambda prefix, suffix: [2, pre, *prefix, suf, *suffix, mid]
    save(out, "codegemma-model", "tokenizer.model", model, "GemmaForCausalLM")
    case = row("codegemma-model", "codegemma", stand(sp), fim, sp, 2)
    for piece in case["pieces"]:
        piece[2] = 4 if piece[0] in runs else piece[2]
    yield case

    model = train("unigram", 420)
    save(out, "unigram", "tokenizer.model", model, "LlamaForCausalLM")
    yield row("unigram", None, stand(processor(model)), None, None, 1, " ")


def of_bytes(out):
    """DeepSeek-Coder, StarCoder2, Mellum and Seed-Coder as tokenizer.json, Mistral's Tekken as its own."""
    split = lambda expression: pre_tokenizers.Split(Regex(expression), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    control = ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|EOT|>"]
    steps = [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Digits(individual_digits=True), last]
    added = [AddedToken(c, special=False, normalized=True) for c in "õ÷Áý"] + [AddedToken(c, special=i > 2, normalized=False) for i, c in enumerate(control)]
    deepseek = byte_level(400, steps, [], normalizers.Sequence([]), added)
    ids = deepseek.token_to_id
    save(out, "deepseek-coder", "tokenizer.json", compact(deepseek.to_str()), "LlamaForCausalLM")
    begin, hole, end, bos = (ids(token) for token in control[:4])
    yield row("deepseek-coder", "deepseek-coder", hugging_face(deepseek), lambda p, s: [bos, begin, *p, hole, *s, end])

    special = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>", "<file_sep>"]
    starcoder2 = byte_level(390, [pre_tokenizers.Digits(individual_digits=True), gpt2], special)
    save(out, "starcoder2", "tokenizer.json", compact(starcoder2.to_str()), "Starcoder2ForCausalLM")
    yield row("starcoder2", "starcoder2", hugging_face(starcoder2), lambda p, s: [1, *p, 3, *s, 2])

    special[5:] = ["<filename>", "<gh_stars>"]
    mellum = byte_level(380, [gpt2], special)
    save(out, "mellum", "tokenizer.json", compact(mellum.to_str()), "LlamaForCausalLM")
    yield row("mellum", "mellum", hugging_face(mellum), lambda p, s: [3, *s, 1, *p, 2])

    special = ["<[begin▁of▁sentence]>", "<[PAD▁TOKEN]>", "<[end▁of▁sentence]>", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"]
    expression = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
    seed = byte_level(380, [split(expression), last], special)
    save(out, "seed-coder", "tokenizer.json", compact(seed.to_str()), "LlamaForCausalLM")
    yield row("seed-coder", "seed-coder", hugging_face(seed), lambda p, s: [4, *s, 3, *p, 5])

    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    content, encode = tekken(420, 20, special)
    save(out, "tekken", "tekken.json", compact(json.dumps(content)), "MistralForCausalLM")
    yield row("tekken", None, encode, None, None, 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=os.path.join(HERE, "tokenizers"))
    out = parser.parse_args().out
    write(os.path.join(out, "cases.json"), {"cases": [*of_sentencepiece(out), *of_bytes(out)]})


if __name__ == "__main__":
    main()
