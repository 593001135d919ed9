#!/usr/bin/env python3
"""`quanta bench train` and transformers with PyTorch, alternately in one run; prints a Markdown table.

    pip install torch transformers opt_einsum
    cargo build --release
    python scripts/compare_training.py target/release/quanta --shape smollm2-135m --dtype f32 --rounds 3

PyTorch's side is what one would run instead: a Hugging Face LLaMA with random weights, QuanTA as one einsum over x and all gates (path by opt_einsum), W0 - S in the
working weight, left padding to a multiple of 8, AdamW, clipping. Both sides draw lengths from the same distribution and train five answer tokens a sample. Both are
measured at micro-batch 4 and at 1 with accumulation 4: this program at 4 against the better of PyTorch's, and memory at the same micro-batch. In bf16 this program
applies S beside T unless it is told otherwise; a row of its own has `s=folded`: S in the working weight and rounded with it, as on PyTorch's side.

Runs without an adapter, where only the lowest norm trains, say what the adapter adds to a step on either side. The share of the GEMM limit is the operations of this
program's step (linears, attention, head and adapter, as `bench train --json` counts them) over its seconds, against what `bench gemm` reaches in the same rounds on
the model's own shapes, each shape and direction weighted by its operations.
"""
import argparse
import collections
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time

SHAPES = {"tiny-288": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6, vocab_size=32000,
                           tie_word_embeddings=False, dims=(8, 6, 6)),
          "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                               tie_word_embeddings=True, dims=(9, 8, 8))}


def pytorch(arguments):
    """One measurement in a process of its own, so that peak memory is its own."""
    import opt_einsum
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    shape = dict(SHAPES[arguments.shape])
    dims = shape.pop("dims")
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **shape)).to(dtype)
    model.requires_grad_(False)
    model.config.use_cache = False

    class Circuit(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            count, letters = len(dims), list(range(len(dims)))
            terms, gates = ["..." + "".join(map(opt_einsum.get_symbol, letters))], []
            for near, far in itertools.combinations(range(-1, -count - 1, -1), 2):
                before = (letters[far], letters[near])
                letters[far] += count
                letters[near] += count
                terms.append("".join(map(opt_einsum.get_symbol, (letters[far], letters[near]) + before)))
                size = (dims[far], dims[near]) * 2
                gates.append(torch.nn.Parameter((torch.rand(size) * 2 - 1) * math.sqrt(3 / (dims[far] * dims[near]))))
            expression = ",".join(terms) + "->..." + "".join(map(opt_einsum.get_symbol, letters))
            shapes = [(100, *dims)] + [tuple(gate.shape) for gate in gates]
            self.base, self.gates = base, torch.nn.ParameterList(gates)
            self.contract = opt_einsum.contract_expression(expression, *shapes, optimize="optimal")
            with torch.no_grad():
                width = math.prod(dims)
                operator = self.contract(torch.eye(width).view(-1, *dims), *gates).reshape(width, width).T
                base.weight -= operator[:base.out_features, :base.in_features].to(base.weight.dtype)

        def forward(self, x):
            h = self.contract(x.reshape(-1, *dims), *[gate.to(x.dtype) for gate in self.gates])
            h = h.reshape(*x.shape[:-1], math.prod(dims))[..., :self.base.out_features]
            return self.base(x) + h

    for layer in model.model.layers if arguments.adapter == "quanta" else []:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Circuit(getattr(layer.self_attn, name)))
    if arguments.adapter == "none":
        model.model.layers[0].input_layernorm.weight.requires_grad_(True)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)

    def micro_batch():
        lengths = [int(min(512, max(64, math.exp(math.log(256) + 0.35 * torch.randn(1, generator=generator).item())))) for _ in range(arguments.batch)]
        width = -(-max(lengths) // 8) * 8
        ids = torch.randint(5, shape["vocab_size"], (arguments.batch, width), generator=generator)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, length in enumerate(lengths):
            mask[row, width - length:] = 1
            labels[row, -5:] = ids[row, -5:]
        return ids, mask, labels, sum(lengths)

    model.train()
    seconds, tokens = [], 0
    for step in range(1 + arguments.steps):
        data = [micro_batch() for _ in range(arguments.accumulate)]
        clock = time.perf_counter()
        for ids, mask, labels, _ in data:
            (model(input_ids=ids, attention_mask=mask, labels=labels).loss / arguments.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:
            seconds.append(time.perf_counter() - clock)
            tokens += sum(batch[3] for batch in data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"tokens_per_second": tokens / sum(seconds), "median_step_seconds": statistics.median(seconds), "peak_rss_mib": peak}))


def products(shape, tokens, labels):
    """How often a micro-batch computes each product M x N x K of the model, forward, and as often backward."""
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    narrow = hidden // heads * shape["num_key_value_heads"]
    counts = collections.Counter()
    for outputs, inputs, count in [(hidden, hidden, 2), (narrow, hidden, 2), (inner, hidden, 2), (hidden, inner, 1)]:
        counts[tokens, outputs, inputs] += count * shape["num_hidden_layers"]
    counts[labels, shape["vocab_size"], hidden] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--rounded", action="store_true", help="with bf16: this program rounds the rows of its products, too")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--adapter", choices=["quanta", "none"], default="quanta", help=argparse.SUPPRESS)
    parser.add_argument("--as-pytorch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounded and arguments.dtype != "bf16":
        parser.error("--rounded is for --dtype bf16")
    if arguments.as_pytorch:
        return pytorch(arguments)

    def lines(command):
        return [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]

    common = ["--shape", arguments.shape, "--dtype", arguments.dtype, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    rounded = ["--rounded"] * arguments.rounded
    own, other = [arguments.program, "bench", "train", "--json", *rounded], [sys.executable, __file__, arguments.program, "--as-pytorch"]
    sides = {"quanta 4x1": (own, 4, 1), "quanta 1x4": (own, 1, 4), "PyTorch 4x1": (other, 4, 1), "PyTorch 1x4": (other, 1, 4)}
    folded = "quanta 4x1, S folded"
    if arguments.dtype == "bf16":
        sides[folded] = (own, 4, 1)
    counts, results, gemm = None, {}, {}
    for _ in range(arguments.rounds):
        for (name, (command, batch, accumulate)), adapter in itertools.product(sides.items(), ["quanta", "none"]):
            size = ["--batch", str(batch), "--accumulate", str(accumulate), "--adapter", adapter]
            if name == folded:
                if adapter == "none":
                    results[name, adapter] = results["quanta 4x1", adapter]
                    continue
                size += ["--set", "s=folded"]
            results.setdefault((name, adapter), []).append(lines(command + common + size)[-1])
        # every round draws the same lengths
        counts = counts or products(SHAPES[arguments.shape], round(results["quanta 4x1", "quanta"][0]["micro_batch_tokens"]), 5 * 4)
        command = [arguments.program, "bench", "gemm", "--json", "--repeats", "3", "--dtype", arguments.dtype, "--threads", str(arguments.threads), *rounded]
        for line in lines(command + ["--shape", *("x".join(map(str, shape)) for shape in counts)]):
            gemm.setdefault((line["rows"], line["outputs"], line["inputs"]), []).append(line["forward_seconds"] + line["backward_seconds"])

    def median(name, adapter, key):
        return statistics.median(result[key] for result in results[name, adapter])

    print(f"{arguments.shape}, {'bf16, rounded rows' if rounded else arguments.dtype}, {arguments.threads} threads; median of {arguments.rounds} rounds\n")
    print("| | tokens/s | peak MiB | tokens/s without adapter | adapter adds |\n|---|---|---|---|---|")
    for name in sides:
        speed, bare = (median(name, adapter, "tokens_per_second") for adapter in ("quanta", "none"))
        print(f"| {name} | {speed:.0f} | {median(name, 'quanta', 'peak_rss_mib'):.0f} | {bare:.0f} | {100 * (bare / speed - 1):.0f} % |")
    for adapter, words in [("quanta", ""), ("none", ", both without adapter")]:
        best = max(median(name, adapter, "tokens_per_second") for name in sides if name.startswith("PyTorch"))
        print(f"\nquanta / best PyTorch{words}: {median('quanta 4x1', adapter, 'tokens_per_second') / best:.2f}")
        if adapter == "quanta" and folded in sides:
            print(f"\nquanta with S folded / best PyTorch: {median(folded, adapter, 'tokens_per_second') / best:.2f}")
    for size in ("4x1", "1x4"):
        own, other = (median(f"{side} {size}", "quanta", "peak_rss_mib") for side in ("quanta", "PyTorch"))
        print(f"\nPeak memory at {size}: {100 * own / other:.0f} % of PyTorch's")
    work = sum(4e-9 * math.prod(shape) * count for shape, count in counts.items())
    limit = work / sum(statistics.median(gemm[shape]) * count for shape, count in counts.items())
    shares = [("quanta 4x1", "quanta", ""), ("quanta 4x1", "none", ", without adapter")]
    shares += [(folded, "quanta", ", S folded")] * (folded in sides)
    for name, adapter, words in shares:
        result, rate = results[name, adapter][0], median(name, adapter, "gflops")
        print(f"\n{1e-6 * result['flops_per_token']['total']:.0f} MFLOP a token, {rate:.0f} GFLOP/s: {100 * rate / limit:.0f} % of the {limit:.0f} GFLOP/s "
              f"of the model's own products{words}")


if __name__ == "__main__":
    main()
