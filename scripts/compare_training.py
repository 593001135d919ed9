#!/usr/bin/env python3
"""`quanta bench train` and transformers with PyTorch, alternately in one run; prints a Markdown table.

    pip install torch transformers opt_einsum
    cargo build --release
    python scripts/compare_training.py target/release/quanta --shape smollm2-135m --dtype f32 --rounds 3

PyTorch's side is what one would run instead: a Hugging Face LLaMA with random weights, QuanTA as one einsum over x and all gates (path by opt_einsum), W0 - S in the
working weight, left padding to a multiple of 8, AdamW, clipping. Both sides draw lengths from the same distribution and train five answer tokens a sample. PyTorch
is tried at micro-batch 4 and at 1 with accumulation 4; the better counts.
"""
import argparse
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

    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Circuit(getattr(layer.self_attn, name)))
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--as-pytorch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_pytorch:
        return pytorch(arguments)

    def run(command):
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    common = ["--shape", arguments.shape, "--dtype", arguments.dtype, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    results = {}
    for _ in range(arguments.rounds):
        for name, batch, accumulate in [("quanta 4x1", 4, 1), ("PyTorch 4x1", 4, 1), ("PyTorch 1x4", 1, 4)]:
            size = ["--batch", str(batch), "--accumulate", str(accumulate)]
            own = [arguments.program, "bench", "train", "--json"]
            other = [sys.executable, __file__, arguments.program, "--as-pytorch"]
            results.setdefault(name, []).append(run((own if name.startswith("quanta") else other) + common + size))
    print(f"{arguments.shape}, {arguments.dtype}, {arguments.threads} threads; median of {arguments.rounds} rounds\n")
    print("| | tokens/s | peak MiB |\n|---|---|---|")
    speed = {}
    for name, list_ in results.items():
        speed[name] = statistics.median(r["tokens_per_second"] for r in list_)
        print(f"| {name} | {speed[name]:.0f} | {statistics.median(r['peak_rss_mib'] for r in list_):.0f} |")
    best = max(value for name, value in speed.items() if name.startswith("PyTorch"))
    print(f"\nquanta / best PyTorch: {speed['quanta 4x1'] / best:.2f}")


if __name__ == "__main__":
    main()
