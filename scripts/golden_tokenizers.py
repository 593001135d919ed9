#!/usr/bin/env python3
"""Vocabulary files without tokenizer.json, and the tokens that Hugging Face's converters make of hard texts.

What: `tiny` writes `testdata/tokenizers/vocabularies/<name>/`, each a folder with vocabulary files (a SentencePiece model, ranked
byte strings, or vocab.json and merges.txt), the settings beside them, and `golden.json`: `texts`, the tokens with what the
template puts around them (`template`) and without (`bare`). `real` does the same for published tokenizers, for a check by hand:
their files are too large to be kept. Why: the Rust readers have to give the same tokens as a converted tokenizer.json would. Where the
library that a format comes from is at hand (SentencePiece, tiktoken), plain texts are compared with it too, and differences are printed.

    pip install torch==2.15.0 transformers==5.23.0 sentencepiece==0.2.3 protobuf tiktoken==0.14.0
    python scripts/golden_tokenizers.py tiny testdata
    python scripts/golden_tokenizers.py real SHARED OUT     # then: QUANTA_VOCABULARIES=OUT cargo test --release --test vocabularies

Left to others: tokenizer.json itself and chat templates (`task_rows.py`).
"""
import argparse, base64, importlib, itertools, json, pathlib, shutil, types

import sentencepiece
import tiktoken
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

# transformers offers a function of the same name in its place
convert = importlib.import_module("transformers.convert_slow_tokenizer")

PAGE = """The ovens of Paris were hot. They baked 12 pies, 6 cakes and 1,048 rolls; who ate them? "Nobody", said Ivo, "isn't it sad?"
def f(x):\n    return x ** 2  # squared\n\nif __name__ == "__main__":\n\tprint(f(3.14), f(-1e-5))
Ünïcödé strings, naïve café, Straße, Москва, 東京の空は青い。你好，世界！ 안녕하세요 שלום مرحبا ไทย हिन्दी
a    b  c   d\n\n\n\ne\t\tf  \r\n g https://example.org/a?b=c&d=%20e user@example.org 2024-06-01 50% $3.50 I'll we've they're
"""
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|begin_of_text|>", "<|eot_id|>", "[INST]"]
TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "a", " a", "  a", "a ", "a  ", " a b ", "a  b   c    d     e", "\u2581", "a\u2581b", "\u2581\u2581 a",
    "Hello, world!", "Hello,  world! ", "HELLO hello HeLLo", "I'll don't WE'VE they'Re 's", "1", "12", "123", "1234567890", "3.14159 -1e-5 1,000,000", "50% $3.50",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A:\n\tpass\n", "{\"key\": [1, 2, {\"a\": null}]}", "<html><body class='x'>&amp;</body></html>",
    "x = y\n\n\n\n   z", "   leading", "trailing   ", "tabs\t\tand\t spaces", "line\rcarriage\r\nboth", "a\n b\n  c\n   d",
    "caf\u00e9 cafe\u0301 \u00c5 \u212b A\u030a", "\ufb01 \uff21\uff22\uff43 \u2460 \u00bd", "Stra\u00dfe \u1e9e \u0130 i\u0307", "\u041c\u043e\u0441\u043a\u0432\u0430 \u0393\u03b5\u03b9\u03ac",
    "\u6771\u4eac\u306e\u7a7a\u306f\u9752\u3044\u3002\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\uc548\ub155\ud558\uc138\uc694 \u110b\u1161\u11ab", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd", "\u0000", "a\u0000b\u0001\u0007\u001b\u007f\u0085", "\u00a0nbsp\u00a0\u2003em\u3000wide\u200bzero\ufeff",
    "\ud7ff\ue000\ufffd\U0010ffff", "zz\u0308\u0308\u0308\u0308", "\u0660\u0661\u0662 \u0967\u0968 \u2163", "a" * 100, " " * 50, "\n" * 33, "ab" * 60, "=" * 40, "- - - - -", "...!!!???", "\"'`\u2018\u2019\u201c\u201d\u2014\u2026",
    "http://example.org/a/b?c=d&e=%20f#g", "The quick brown fox jumps over the lazy dog. " * 4, "newline at end\n", "\n begin", "\u00e9", "\u00e9 ", " \u00e9",
    "<s>", "</s>", "<s> a", "<s>a</s>", " <s> ", "a<s>b</s>c", "a <s> b </s> c", "<s><s>", "text <|endoftext|> text", "<|endoftext|><|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "[INST] hi [/INST]", "[INST]hi[/INST]", "a <mask> b", "a<mask>b", "  <mask>  ", "<unk>", "a<unk>b", "<0x0A>", "a<0x41>b", "<pad>",
    "<|reserved_special_token_0|> <|finetune_right_pad_id|>", "<|nothing|>", "< s>", "<S>", "Question: What is 2+2?\nAnswer: 4\n",
]


def plain(text):
    return not any(special in text for special in [*SPECIALS, "<|", "[/INST]", "<0x"])


def write_golden(folder, encode, texts):
    record = {"texts": texts, "template": [encode(text, True) for text in texts], "bare": [encode(text, False) for text in texts]}
    (folder / "golden.json").write_text(json.dumps(record, ensure_ascii=True, separators=(",", ":")).replace("],[", "],\n[") + "\n")
    print(f"{folder.name}: {len(texts)} texts, {sum(map(len, record['bare']))} tokens")


def of_tokenizer(tokenizer):
    return lambda text, template: tokenizer.encode(text, add_special_tokens=template).ids


def compare(name, tokenizer, own, texts):
    """How often the library that a format comes from gives other tokens for a plain text."""
    different = [text for text in texts if plain(text) and tokenizer.encode(text, add_special_tokens=False).ids != own(text)]
    print(f"  {name} differs on {len(different)} plain texts", [text[:30] for text in different[:8]])


# ---- SentencePiece ----------------------------------------------------------------------------------------------------------------


def spm_tokenizer(path, legacy, roles):
    """What LlamaConverter makes of a model, with special tokens and template as the fast LLaMA tokenizer adds them."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    stub = types.SimpleNamespace(vocab_file=str(path), legacy=legacy, add_prefix_space=True, convert_ids_to_tokens=model.id_to_piece)

    class Extractor(convert.SentencePieceExtractor):
        """With the order of pairs that the published tokenizer.json files of LLaMA have: by score, then by the numbers of the parts."""

        def extract(self, scores, **_):
            numbers = {piece: i for i, (piece, _) in enumerate(scores)}
            cuts = lambda piece: [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in numbers and piece[i:] in numbers]
            ordered = [(score, sorted(cuts(piece), key=lambda cut: (numbers[cut[0]], numbers[cut[1]]))) for piece, score in scores]
            ordered.sort(key=lambda entry: entry[0], reverse=True)
            return scores, [cut for _, own in ordered for cut in own]

    class Converter(convert.LlamaConverter):
        SpmExtractor = Extractor

        def unk_id(self, proto):
            return model.unk_id()

    tokenizer = Converter(stub).converted()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in roles])
    begin = roles[1]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin}:0 $A:0", pair=f"{begin}:0 $A:0 {begin}:1 $B:1", special_tokens=[(begin, tokenizer.token_to_id(begin))])
    return tokenizer, model


def spm_folder(folder, path, legacy, texts, own=False, roles=("<unk>", "<s>", "</s>")):
    folder.mkdir(parents=True, exist_ok=True)
    if path.parent != folder:
        shutil.copy(path, folder / "tokenizer.model")
        path = folder / "tokenizer.model"
    names = dict(zip(["unk_token", "bos_token", "eos_token"], roles))
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True, "add_eos_token": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    tokenizer, model = spm_tokenizer(path, legacy, roles)
    compare("SentencePiece", tokenizer, model.encode, texts)
    if own:
        # transformers' converter drops the file's rules for characters and spaces: SentencePiece itself is the judge
        texts = [text for text in texts if plain(text)]
        write_golden(folder, lambda text, template: [model.bos_id()] * template + model.encode(text), texts)
    else:
        write_golden(folder, of_tokenizer(tokenizer), texts)


def train_spm(folder, kind, **options):
    folder.mkdir(parents=True, exist_ok=True)
    common = dict(model_prefix=str(folder / "tokenizer"), model_type=kind, character_coverage=0.98, num_threads=1, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(PAGE.splitlines() * 4), **common, **options)
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


# ---- byte strings -----------------------------------------------------------------------------------------------------------------


def ranks_tokenizer(path, specials):
    tokenizer = convert.TikTokenConverter(vocab_file=str(path), extra_special_tokens=specials).converted()
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin}:0 $A:0", pair=f"{begin}:0 $A:0 {begin}:1 $B:1", special_tokens=[(begin, tokenizer.token_to_id(begin))])
    return tokenizer


def llama3_specials():
    """LLaMA 3.1's 256 special tokens."""
    meant = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>"}
    reserved = itertools.count()
    return [meant.get(place) or f"<|reserved_special_token_{next(reserved)}|>" for place in range(256)]


def ranks_folder(folder, path, texts):
    folder.mkdir(parents=True, exist_ok=True)
    if path.parent != folder:
        shutil.copy(path, folder / "tokenizer.model")
    tokenizer = ranks_tokenizer(path, llama3_specials())
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in path.read_text().splitlines()}
    own = tiktoken.Encoding("own", pat_str=convert.TikTokenConverter().pattern, mergeable_ranks=ranks, special_tokens={})
    compare("tiktoken", tokenizer, own.encode_ordinary, texts)
    write_golden(folder, of_tokenizer(tokenizer), texts)


def byte_level(kind, vocab, merges, settings):
    """What the converters make of vocab.json and merges.txt."""
    stub = types.SimpleNamespace(encoder=vocab, bpe_ranks={pair: i for i, pair in enumerate(merges)}, add_prefix_space=False, **settings)
    converter = {"GPT2Tokenizer": convert.GPT2Converter, "Qwen2Tokenizer": convert.Qwen2Converter, "RobertaTokenizer": convert.RobertaConverter}[kind]
    return converter(stub).converted()


def pair_folder(folder, kind, vocab, merges, config, texts, judge=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **config}, indent=1) + "\n")
    if judge is None:
        roles = dict(sep_token="</s>", cls_token="<s>", sep_token_id=vocab.get("</s>"), cls_token_id=vocab.get("<s>"))
        judge = byte_level(kind, vocab, merges, roles)
        listed = [AddedToken(**token) for _, token in sorted(config.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0]))]
        judge.add_tokens(listed or [AddedToken(config.get("eos_token", "</s>"), special=True, normalized=False)])
        if kind == "RobertaTokenizer":
            judge.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    write_golden(folder, of_tokenizer(judge), texts)


def train_bytes(size):
    """A byte-level vocabulary without special tokens: numbers follow bytes, then pairs."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(PAGE.splitlines(keepends=True) * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def tiny(args):
    out = args.testdata / "tokenizers" / "vocabularies"
    shutil.rmtree(out, ignore_errors=True)
    llama = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True)
    bpe = train_spm(out / "sentencepiece_bpe", "bpe", vocab_size=520, user_defined_symbols=["[INST]"], **llama)
    spm_folder(out / "sentencepiece_bpe", bpe, True, TEXTS)
    spm_folder(out / "sentencepiece_bpe_first", bpe, False, TEXTS)
    unigram = train_spm(out / "sentencepiece_unigram", "unigram", vocab_size=380, control_symbols=["[INST]"], **llama)
    spm_folder(out / "sentencepiece_unigram", unigram, True, TEXTS)
    rules = args.testdata / "rules.tsv"
    rules.write_text("FB01\t66 69\nFF21\t41\nFF22\t42\n3000\t20\nA0\t20\n65 301\tE9\n")
    normalised = train_spm(out / "sentencepiece_rules", "unigram", vocab_size=380, byte_fallback=True, normalization_rule_tsv=str(rules))
    rules.unlink()
    spm_folder(out / "sentencepiece_rules", normalised, True, TEXTS, own=True)

    vocab, merges = train_bytes(420)
    back = {character: byte for byte, character in convert.bytes_to_unicode().items()}
    strings = sorted(vocab, key=vocab.get)
    ranks = out / "ranks" / "tokenizer.model"
    ranks.parent.mkdir(parents=True)
    lines = [f"{base64.b64encode(bytes(back[c] for c in token)).decode()} {rank}\n" for rank, token in enumerate(strings)]
    ranks.write_text("".join(lines))
    ranks_folder(out / "ranks", ranks, TEXTS)
    with_end = vocab | {"<|endoftext|>": len(vocab)}
    pair_folder(out / "gpt2", "GPT2Tokenizer", with_end, merges, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}, TEXTS)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    token = lambda content: dict(content=content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    listed = {str(len(vocab) + i): token(name) for i, name in enumerate(names)}
    pair_folder(out / "qwen2", "Qwen2TokenizerFast", vocab, merges, {"added_tokens_decoder": listed, "eos_token": "<|im_end|>"}, TEXTS,
                judge=with_tokens(byte_level("Qwen2Tokenizer", vocab, merges, {}), listed))
    encoder = {name: i for i, name in enumerate(["<s>", "<pad>", "</s>", "<unk>"])} | {name: i + 4 for name, i in vocab.items()}
    encoder["<mask>"] = len(encoder)
    pair_folder(out / "roberta", "RobertaTokenizer", encoder, merges, {}, TEXTS)


def with_tokens(tokenizer, listed):
    tokenizer.add_tokens([AddedToken(**listed[key]) for key in sorted(listed, key=int)])
    return tokenizer


def real_texts(shared):
    rows = [json.loads(line) for path in sorted(shared.glob("data/gsm8k/*.jsonl")) for line in path.read_text().splitlines()]
    texts = [text for row in rows for text in (row["question"], row["answer"])]
    for path in sorted(shared.glob("data/drop/*.json*")):
        text = path.read_text()
        rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        texts += sorted({row["passage"] for row in rows}) + [row["question"] for row in rows]
    return texts


def real(args):
    shared, out = args.shared, args.out
    source = shared / "data" / "tokenizers"
    texts = TEXTS + real_texts(shared)
    spm_folder(out / "llama2", source / "llama2" / "tokenizer.model", True, texts)
    tokenizer = tokenizers.Tokenizer.from_file(str(source / "tinyllama" / "tokenizer.json"))
    write_golden(out / "llama2", of_tokenizer(tokenizer), texts)
    spm_folder(out / "llama2_first", source / "llama2" / "tokenizer.model", False, texts)
    spm_folder(out / "mistral_v3", source / "mistral_v3" / "tokenizer.model", True, texts)
    ranks_folder(out / "llama3", source / "llama3" / "tokenizer.model", texts)
    read_pairs = lambda path: [tuple(line.split(" ")) for line in path.read_text().split("\n") if line and not line.startswith("#version")]
    gpt2 = json.loads((source / "gpt2" / "vocab.json").read_text())
    pair_folder(out / "gpt2", "GPT2Tokenizer", gpt2, read_pairs(source / "gpt2" / "merges.txt"), {"eos_token": "<|endoftext|>"}, texts)
    config = json.loads((source / "qwen2.5" / "tokenizer_config.json").read_text())
    kind = config.pop("tokenizer_class")
    qwen = json.loads((source / "qwen2.5" / "vocab.json").read_text())
    pair_folder(out / "qwen2.5", kind, qwen, read_pairs(source / "qwen2.5" / "merges.txt"), config, texts)
    roberta = json.loads((source / "roberta-base" / "tokenizer.json").read_text())["model"]
    judge = tokenizers.Tokenizer.from_file(str(source / "roberta-base" / "tokenizer.json"))
    judge.no_truncation()
    pairs = [tuple(pair.split(" ")) for pair in roberta["merges"]]
    pair_folder(out / "roberta", "RobertaTokenizer", roberta["vocab"], pairs, {}, texts, judge=judge)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("tiny")
    command.add_argument("testdata", type=pathlib.Path)
    command.set_defaults(function=tiny)
    command = commands.add_parser("real")
    command.add_argument("shared", type=pathlib.Path)
    command.add_argument("out", type=pathlib.Path)
    command.set_defaults(function=real)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
