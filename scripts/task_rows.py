#!/usr/bin/env python3
"""Expected values for the data room, computed by other programs.

Writes testdata/golden/tasks/<task>.json: made-up rows of every task with their prompts, completions, candidates, tokens,
trained tokens and metric values, each computed here from the published rules with Python's own strings and regular
expressions, transformers' tokenizers and chat templates, and an F1 of DROP after its paper. Nothing in the rows is taken
from a data set. `--tokenizers` first trains the two small tokenizers of testdata/tokenizers again.

    python scripts/task_rows.py [--tokenizers] testdata
"""

import argparse
import itertools
import json
import re
import string
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = """
Passage: The river Ond rises in the hills above Tarn and runs 212 miles to the sea. In 1884 a dam was built at Lisk; it
held back 40 million gallons. Three mills stood below the dam, and the last of them closed in 1931.
Question: How many miles long is the river? Answer: 212 miles
Please choose the correct answer to the question: Which animal lays eggs? Answer1: a hen Answer2: a cow Answer3: a cat
Answer format: answer1/answer2/answer3 the correct answer is answer1. the correct answer is true. the correct answer is false.
Mira has 12 boxes with 8 pears in each. She gives 20 pears away. How many pears are left? 12 * 8 = 96. 96 - 20 = 76. The
answer is 76. Answer Choices: (A) 10 (B) 12 (C) 14 (D) 16 (E) 18. The options are: A)10 B)12 C)14 D)16 E)18
<|system|> You are a careful cook. <|user|> How long do eggs boil? <|assistant|> Seven minutes, then cold water.
Yes, they do. No, they do not. What is it? It is so because the sum of both is larger.
"""
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}{%- if message.role == 'assistant' %}"
    "{% generation %}{{- message.content | trim + '<|im_end|>\\n' }}{% endgeneration %}{%- else %}"
    "{{- message.content | trim + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
BRACKETS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- ' [INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {% generation %}{{- ' ' ~ message['content'].strip() ~ eos_token }}{% endgeneration %}
    {%- else %}
        {{- raise_exception('a system message comes first: ' ~ (message | tojson)) }}
    {%- endif %}
{%- endfor %}
"""


def train_tokenizers(folder: Path) -> None:
    specials = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]

    def save(name, tokenizer, extra, template, **config):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        data = json.loads(tokenizer.to_str())
        extra(data)
        (target / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **config}
        if template is None:
            (target / "chat_template.jinja").write_text(BRACKETS)
        else:
            names["chat_template"] = template
        (target / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")

    level = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    level.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    level.train_from_iterator([CORPUS, "b.\n", ".\n\n", " 7.\n"] * 2, trainer)
    save("byte_level", level, lambda data: None, CHATML)

    meta = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    meta.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    meta.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=180, special_tokens=specials[:3], show_progress=False)
    meta.train_from_iterator([CORPUS], trainer)

    def with_bytes(data):
        vocab = data["model"]["vocab"]
        for byte in range(256):
            vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
        data["model"]["byte_fallback"] = True

    save("metaspace", meta, with_bytes, None, add_bos_token=True)


# --- the authors' rules -------------------------------------------------------------------------------------------------


def clean(text):
    stops = re.sub(r"(?<![.!?;:\s])\n+", ". ", text)
    return re.sub(r"\n+", " ", stops).strip()


def drop(row):
    answers = row["answers"] if "answers" in row else row["answers_spans"]["spans"]
    prompt = f"Passage: {row['passage']}\nQuestion: {row['question'].strip()}\nAnswer:"
    return {"prompt": prompt, "completion": f" {answers[0]}\n", "answers": answers, "candidates": []}


def commonsense(row):
    lowered = row["instruction"].lower()
    options = [option.strip() for option in re.search(r"answer format:([^\n]*)", lowered).group(1).split("/")]
    gold = row["answer"].lower()
    assert gold in options
    made = [f" the correct answer is {option}." for option in options]
    prompt = f"{clean(row['instruction'])}\nAnswer:"
    return {"prompt": prompt, "completion": made[options.index(gold)], "answers": [gold], "candidates": made}


def math(row):
    if "Body" in row:
        row = {"instruction": row["Body"] + "\n" + row["Question"], "output": "", "answer": f"{row['Answer']:g}"}
    elif "original_text" in row:
        row = {"instruction": row["original_text"], "output": "", "answer": f"{row['ans']:g}"}
    elif "options" in row:
        choices = " ".join("({}) {}".format(*(part.strip() for part in option.split(")", 1))) for option in row["options"])
        output = f"{row['rationale']}\nThe answer is {row['correct']}."
        row = {"instruction": f"{row['question']} Answer Choices: {choices}", "output": output, "answer": row["correct"]}
    elif "question" in row:
        solution, answer = row["answer"].rsplit("####", 1)
        answer = answer.strip().replace(",", "")
        output = re.sub(r"<<.*?>>", "", solution).strip() + f"\nThe answer is {answer}."
        row = {"instruction": row["question"], "output": output, "answer": answer}
    answer = row["answer"].strip()
    output = clean(row["output"]) or answer
    prompt = f"{clean(row['instruction'])}\nAnswer:"
    return {"prompt": prompt, "completion": f" {output}\n", "answers": [answer], "candidates": []}


def classes(prompt, texts, names):
    """A task of whole rows as a prompt: docs/config.md's templates; labels by number or by name."""

    def build(row):
        first = row.get("sentence1") or row.get("premise") or row.get("sentence")
        second = row.get("sentence2") or row.get("hypothesis") or ""
        label = str(row["label"])
        gold = texts[names.index(label) if label in names else int(label)]
        filled = prompt.format(first.strip(), second.strip())
        return {"prompt": filled, "completion": gold, "answers": [gold.strip()], "candidates": texts}

    return build


def similarity(row):
    first, second = row["sentence1"].strip(), row["sentence2"].strip()
    label = row["score"] if "score" in row else row["label"]
    question = "How similar are the two sentences, from 0.0 to 5.0?"
    prompt = f"Sentence 1: {first}\nSentence 2: {second}\nQuestion: {question}\nAnswer:"
    return {"prompt": prompt, "completion": f" {float(label):.1f}\n", "answers": [label if isinstance(label, str) else f"{label:g}"], "candidates": []}


PAIR = "Sentence 1: {0}\nSentence 2: {1}\nQuestion: Do both sentences mean the same thing, yes or no?\nAnswer:"
WHOLE = {
    "rte": classes("{0}\nQuestion: {1} True or False?\nAnswer:", [" True", " False"], ["entailment", "not_entailment"]),
    "sst2": classes("{0}\nQuestion: Is this sentence positive or negative?\nAnswer:", [" negative", " positive"], ["negative", "positive"]),
    "mrpc": classes(PAIR, [" no", " yes"], ["not_equivalent", "equivalent"]),
    "cola": classes("{0}\nQuestion: Is this sentence grammatically acceptable, yes or no?\nAnswer:", [" no", " yes"], ["unacceptable", "acceptable"]),
    "stsb": similarity,
}


def jsonl(row):
    return {key: row.get(key, []) for key in ("prompt", "completion", "answers", "candidates")}


def encode_template(tokenizer, prompt, completion):
    """Tokens and the number of trained ones at their end: SPEC's encoding of templates."""
    whole = (prompt + completion).strip(" ")
    count = len(tokenizer(whole).input_ids) - len(tokenizer(prompt.strip(" ")).input_ids)
    return tokenizer(whole.lstrip().strip(" ")).input_ids, count


def encode_exact(tokenizer, prompt, completion):
    whole = tokenizer(prompt + completion).input_ids
    return whole + [tokenizer.eos_token_id], len(whole) - len(tokenizer(prompt).input_ids) + 1


def cut(tokens, trained, limit):
    """Left truncation that keeps the begin token; the trained flags go with their tokens."""
    if len(tokens) > limit:
        gone = len(tokens) - limit
        tokens, trained = tokens[:1] + tokens[1 + gone :], trained[:1] + trained[1 + gone :]
    return {"tokens": tokens, "trained": [i for i, flag in enumerate(trained) if flag and i > 0]}


def encoded(tokenizer, rule, prompt, completion, limit):
    tokens, count = rule(tokenizer, prompt, completion)
    assert 0 < count < len(tokens)
    return cut(tokens, [False] * (len(tokens) - count) + [True] * count, limit)


# --- metrics ------------------------------------------------------------------------------------------------------------


def normal(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def token_f1(predicted, gold):
    predicted, gold = normal(predicted), normal(gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


def is_number(word):
    try:
        float(word)
        return True
    except ValueError:
        return False


def drop_bag(span):
    words = []
    for part in re.split(r"[ -]", span.lower()):
        if not is_number(part):
            part = "".join(c for c in part if c not in string.punctuation)
        if is_number(part):
            part = str(float(part))
        words += re.sub(r"\b(a|an|the)\b", " ", part).split()
    return set(words)


def drop_f1(prediction, answers):
    """The official F1: each answer is a list of spans, the prediction one span; spans are aligned one to one."""
    best = 0.0
    for spans in answers:
        gold, predicted = [drop_bag(span) for span in spans], [drop_bag(prediction)]

        def score(a, b):
            numbers = {word for word in a if is_number(word)}
            if numbers and not numbers & {word for word in b if is_number(word)}:
                return 0.0
            precision = len(a & b) / len(b) if b else 1.0
            recall = len(a & b) / len(a) if a else 1.0
            return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

        width = max(len(gold), len(predicted))
        padded = predicted + [None] * (width - len(predicted))
        sums = [sum(score(g, p) for g, p in zip(gold, order) if p is not None) for order in itertools.permutations(padded)]
        best = max(best, round(max(sums) / width, 2))
    return best


def last_number(text):
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return float(found[-1]) if found else None


def number(prediction, gold):
    found = last_number(prediction)
    return float(found is not None and abs(found - float(gold)) < 5e-5)


def reference_number(prediction, gold):
    found = last_number(prediction)
    return float(abs(float(gold) - (float("inf") if found is None else found) < 1e-5))


def option(prediction, gold):
    found = re.findall("[A-E]", prediction)
    return float(bool(found) and found[-1] == gold)


def reference_option(prediction, gold):
    found = re.findall("A|B|C|D|E|F|G|H|I|G|K", prediction)
    return float(bool(found) and found[0] == gold)


def measure(row, prediction):
    answers, values = row["answers"], {}
    if answers:
        values["f1"] = max(token_f1(prediction, answer) for answer in answers)
        values["em"] = float(any(normal(prediction) == normal(answer) for answer in answers))
        values["drop-f1"] = drop_f1(prediction, [[answer] for answer in answers])
    if row["candidates"]:
        values["accuracy"] = float(prediction == row["completion"])
    if len(answers) == 1 and re.fullmatch("[A-E]", answers[0]):
        values |= {"option": option(prediction, answers[0]), "reference-option": reference_option(prediction, answers[0])}
        values |= {"math": values["option"], "reference-math": values["reference-option"]}
    elif len(answers) == 1 and is_number(answers[0]):
        values |= {"number": number(prediction, answers[0]), "reference-number": reference_number(prediction, answers[0])}
        values |= {"math": values["number"], "reference-math": values["reference-number"]}
    return {"prediction": prediction, "values": values}


# --- made-up rows -------------------------------------------------------------------------------------------------------

POND = "Lake Verrin is 31.5 km long. Its 4 islands, Ara, Bel, Cor and Dun,\nhave 1,250 people; Ara has the most (about 700)."
ROWS = {
    "drop": [
        {"passage": POND, "question": " How many islands are there?\n", "answers": ["4", "4 islands"]},
        {"passage": POND, "question": "Which island has the most people?", "answers": ["Ara", "the island Ara", "ara"]},
        {"passage": POND + " ", "question": "How many people do the islands have?", "answers": ["1,250"]},
        {"passage": "  Zoë scored a 12-yard goal. Ann didn't.", "question": "Who scored?", "answers_spans": {"spans": ["Zoë", "Zoe"], "types": ["span", "span"]}},
        {"passage": "In 1901 (March 3) the bridge fell.", "question": "When did it fall?\u00a0", "answers": ["3 March 1901", "1901"]},
    ],
    "commonsense": [
        {"instruction": "Please answer the following question with true or false, question: do hens lay eggs?\n\nAnswer format: true/false", "input": "", "output": "the correct answer is true", "answer": "true"},
        {"instruction": "Please choose the correct solution to the question: To cool tea quickly,\n\nSolution1: leave the lid on\n\nSolution2: stir it with a cold spoon\n\nAnswer format: solution1/solution2", "input": "", "output": "the correct answer is solution2", "answer": "solution2"},
        {"instruction": "Please choose the correct answer to the question: Mo lent Kit a coat.\nHow does Kit feel?\n\nAnswer1: warm Answer2: cross Answer3: late\n\nAnswer format: answer1/answer2/answer3", "input": "", "output": "the correct answer is answer1", "answer": "answer1"},
        {"instruction": "Fill in the blank: The jar did not fit in the tin because the _ was too wide.\n\nOption1: jar Option2: tin Answer format: option1/option2", "input": "", "output": "the correct answer is option1", "answer": "Option1"},
        {"instruction": "Choose the ending: She opens the oven and\n\nEnding1: takes the bread out. Ending2: sails away. Ending3: is a cat. Ending4: [title] adds\nAnswer Format: Ending1 / ending2/ending3/ending4 \nthank you", "input": "", "output": "the correct answer is ending1", "answer": "ending1"},
    ],
    "math": [
        {"instruction": "Mira has 12 boxes with 8 pears in each. She gives 20 pears away. How many pears are left?\n ", "input": "", "output": "12 * 8 = 96 pears\n96 - 20 = 76 pears\n\nThe answer is 76.", "answer": "76.0"},
        {"instruction": "A rope of 7 m is cut into 3 equal parts\nHow long is each", "input": "", "output": "7 / 3 = 2.3333\n", "answer": "2.3333333333333335"},
        {"instruction": "The sum of two numbers is 1,200 and one is 200. Find the other! The options are: A)1000 B)1400 C)200 D)0 E)none", "input": "", "output": "1,200 - 200 = 1000.\n\nTherefore, the answer is A)1000.", "answer": "A"},
        {"instruction": "The bank account of Sol shows -5 dollars. What does it show after he pays in 2 dollars ?", "input": "", "output": "\nA: -5 + 2 = -3. The answer is -3.", "answer": " -3 "},
        {"instruction": "Which is prime? Answer Choices: (A) 4 (B) 6 (C) 7 (D) 8 (E) 9", "input": "", "output": "", "answer": "C"},
        {"question": "Tia bakes 3 trays of 400 rolls. How many rolls?", "answer": "She bakes 3*400 = <<3*400=1200>>1200 rolls\n#### 1,200"},
        {"question": "What is half of 10?", "options": ["A)4", "B)5", "C) 6", "D)7", "E)8"], "rationale": "10 / 2 = 5\nCorrect option - B", "correct": "B"},
        {"ID": "1", "Body": "Each net holds 9 onions", "Question": "How many onions are in 6 nets?", "Equation": "( 9.0 * 6.0 )", "Answer": 54.0, "Type": "Multiplication"},
        {"id": 2, "original_text": "Ned ran 1.5 miles and then 2.25 miles . How far did he run ?", "equation": "x=1.5+2.25", "ans": 3.75},
    ],
    "jsonl": [
        {"prompt": "Translate: the cat\n", "completion": "le chat"},
        {"prompt": "  Two spaces  ", "completion": " stay \n", "answers": ["stay", "remain"]},
        {"prompt": "Is water wet?", "completion": " yes", "candidates": [" no", " yes", " yes, it is"], "answers": ["yes"]},
        {"prompt": "", "completion": "no prompt at all.\n"},
        {"prompt": "émigré → ", "completion": "🙂 done."},
    ],
    "rte": [
        {"sentence1": "The dam at Lisk was built in 1884.", "sentence2": "Lisk has a dam.", "label": 0},
        {"sentence1": " Three mills stood below it. ", "sentence2": "No mill stood there.", "label": 1},
        {"premise": "Ara has 700 people.", "hypothesis": "Ara is empty.", "label": "not_entailment"},
        {"sentence1": "Zoë said: \"no\".", "sentence2": "Zoë spoke.", "label": "entailment"},
        {"sentence1": "It rained\tall day.", "sentence2": "It was wet", "label": "0"},
    ],
    "sst2": [
        {"sentence": "a warm , funny film ", "label": 1},
        {"sentence": "dull and far too long", "label": 0},
        {"sentence": "not bad at all", "label": "positive"},
        {"sentence": "the worst of émigré cinema", "label": "negative"},
        {"sentence": "  two spaces", "label": "1"},
    ],
    "mrpc": [
        {"sentence1": "The bridge fell in 1901.", "sentence2": "In 1901 the bridge fell.", "label": 1},
        {"sentence1": "Sol paid 2 dollars.", "sentence2": "Sol was paid 2 dollars.", "label": 0},
        {"sentence1": "Tia bakes rolls", "sentence2": "Rolls are baked by Tia", "label": "equivalent"},
        {"sentence1": "Mo lent Kit a coat.", "sentence2": "Kit lent Mo a coat.", "label": "not_equivalent"},
        {"sentence1": "One\u00a0two", "sentence2": "one two ", "label": "1"},
    ],
    "cola": [
        {"sentence": "The jar did not fit in the tin.", "label": 1},
        {"sentence": "The jar did not in the tin fit it.", "label": 0},
        {"sentence": "Which hens lays eggs?", "label": "unacceptable"},
        {"sentence": "Hens lay eggs.", "label": "acceptable"},
        {"sentence": "Ned ran 1.5 miles .", "label": "1"},
    ],
    "stsb": [
        {"sentence1": "A man plays a harp.", "sentence2": "A man plays a keyboard.", "label": 1.5},
        {"sentence1": "A cat sleeps.", "sentence2": "The cat is asleep. ", "label": 4.75},
        {"sentence1": "Rain.", "sentence2": "A boat.", "score": 0.25},
        {"sentence1": "Same", "sentence2": "Same", "label": 5.0},
        {"sentence1": "Two dogs run", "sentence2": "Dogs run fast", "label": "3.2"},
    ],
    "messages": [
        [("user", "How long do eggs boil?"), ("assistant", "Seven minutes, then cold water.")],
        [("system", "You are a careful cook."), ("user", " And rice?\n"), ("assistant", " Twelve minutes.\n"), ("user", "Thanks"), ("assistant", "You are welcome!")],
        [("user", "Yes or no?"), ("assistant", "No"), ("user", "Why?"), ("assistant", "Because\n\nit is so.")],
        [("system", ""), ("user", "é 🙂"), ("assistant", "🙂🙂 é")],
        [("user", "[INST] <s> said he"), ("assistant", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")],
    ],
}
PREDICTIONS = {
    "drop": ["4", " Four islands.", "Ara, the island", "1250 people", "1,250", "the zoë and Zoe", "march 3, 1901", "in 1901", "", "12-yard"],
    "commonsense": [" the correct answer is true.", " the correct answer is solution2.", " the correct answer is answer1.", " the correct answer is option2."],
    "math": ["The answer is 76.", "76 or 75", "2.33332", "2.3", "about 7,6.0", "so A", "Answer: C, not B", "-3.00001", "-3", "it is 1,200.0 rolls", "none", "80", "E B", "54", "3.75 miles", "b"],
    "jsonl": ["stay", "they remain", " yes", "yes!", " no"],
    "rte": [" True", " False", "true"],
    "sst2": [" positive", " negative", ""],
    "mrpc": [" yes", " no", "yes and no"],
    "cola": [" yes", " no", "No."],
    "stsb": ["1.5", " 4.75 or so", "5", "3.2", "a lot"],
}
FILES = {"drop": "jsonl", "commonsense": "json", "math": "jsonl", "jsonl": "jsonl", "messages": "jsonl", "text": "txt"} | dict.fromkeys(WHOLE, "jsonl")
LIMIT = 40


def load_tokenizer(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = config.get("chat_template") or (folder / "chat_template.jinja").read_text()
    names = {key: config[key] for key in ("bos_token", "eos_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=template, **names)


def text_task(tokenizers):
    text = CORPUS.strip() + "\n"
    rows = {}
    for name, tokenizer in tokenizers.items():
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        step = LIMIT - 1
        windows = [[tokenizer.bos_token_id] + tokens[i : i + step] for i in range(0, len(tokens), step)]
        rows[name] = [{"tokens": window, "trained": list(range(1, len(window)))} for window in windows]
    return {"task": "text", "file": "txt", "text": text, "limit": LIMIT, "windows": rows}


def messages_task(tokenizers):
    expected = []
    for row in ROWS["messages"]:
        talk = [{"role": role, "content": content} for role, content in row]
        entry = {"encoded": {}, "printed": {}, "asked": {}}
        for name, tokenizer in tokenizers.items():
            made = tokenizer.apply_chat_template(talk, return_assistant_tokens_mask=True, return_dict=True)
            entry["printed"][name] = tokenizer.apply_chat_template(talk, tokenize=False)
            entry["asked"][name] = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            entry["encoded"][name] = cut(made["input_ids"], made["assistant_masks"], 2048)
        expected.append(entry)
    rows = [{"messages": [{"role": role, "content": content} for role, content in row]} for row in ROWS["messages"]]
    return {"task": "messages", "file": "jsonl", "rows": rows, "expected": expected}


def row_task(name, tokenizers):
    build = {"drop": drop, "commonsense": commonsense, "math": math, "jsonl": jsonl, **WHOLE}[name]
    rule = encode_exact if name == "jsonl" else encode_template
    expected = []
    for raw in ROWS[name]:
        row = build(raw)
        entry = {**row, "encoded": {}, "short": {}, "candidate_tokens": {}}
        for key, tokenizer in tokenizers.items():
            entry["encoded"][key] = encoded(tokenizer, rule, row["prompt"], row["completion"], 2048)
            entry["short"][key] = encoded(tokenizer, rule, row["prompt"], row["completion"], LIMIT)
            made = [encoded(tokenizer, rule, row["prompt"], candidate, 2048) for candidate in row["candidates"]]
            entry["candidate_tokens"][key] = made
        entry["metrics"] = [measure(row, prediction) for prediction in PREDICTIONS[name]]
        expected.append(entry)
    return {"task": name, "file": FILES[name], "limit": LIMIT, "rows": ROWS[name], "expected": expected}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testdata", type=Path)
    parser.add_argument("--tokenizers", action="store_true", help="train testdata/tokenizers again")
    arguments = parser.parse_args()
    folder = arguments.testdata / "tokenizers"
    if arguments.tokenizers:
        train_tokenizers(folder)
    tokenizers = {path.name: load_tokenizer(path) for path in sorted(folder.iterdir()) if (path / "tokenizer.json").exists()}
    target = arguments.testdata / "golden" / "tasks"
    target.mkdir(parents=True, exist_ok=True)
    tasks = [row_task(name, tokenizers) for name in ("drop", "commonsense", "math", "jsonl", *WHOLE)]
    for task in [*tasks, text_task(tokenizers), messages_task(tokenizers)]:
        (target / f"{task['task']}.json").write_text(json.dumps(task, ensure_ascii=False, separators=(",", ":")) + "\n")
        print(task["task"], len(task.get("expected", task.get("windows", []))), "rows")


if __name__ == "__main__":
    main()
