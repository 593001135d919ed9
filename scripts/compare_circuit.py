#!/usr/bin/env python3
"""`quanta bench circuit` and PyTorch's contraction of the same circuit, alternately in one run; prints a Markdown table.

    pip install torch numpy opt_einsum
    cargo build --release
    python scripts/compare_circuit.py target/release/quanta --tokens 64,512,2048 --rounds 3

PyTorch's side is what the authors' layer computes: one expression over x and all gates, its path chosen once by opt_einsum, and automatic differentiation.
"circuit" computes the tensors between the gates again in backward, "kept" keeps them, as automatic differentiation does.
Both sides use the same number of threads, f32, and random values; each cell is the median over rounds.
"""
import argparse
import itertools
import json
import math
import statistics
import subprocess
import time

import opt_einsum
import torch

from compare_gemm import SETTLING

SITES = [("16-8-8-4", 4096, 4096), ("16-16-16", 4096, 4096), ("8-8-8-8", 4096, 4096), ("16-16-4-4", 4096, 4096),
         ("16-8-8-5", 5120, 5120), ("16-8-8-8", 8192, 1024), ("9-8-8", 576, 576)]


def circuit(dims):
    """The all-pairs expression of `dims`, and its gates."""
    count, letters = len(dims), list(range(len(dims)))
    terms, gates = ["..." + "".join(map(opt_einsum.get_symbol, letters))], []
    for near, far in itertools.combinations(range(-1, -count - 1, -1), 2):
        before = (letters[far], letters[near])
        letters[far] += count
        letters[near] += count
        terms.append("".join(map(opt_einsum.get_symbol, (letters[far], letters[near]) + before)))
        shape = (dims[far], dims[near]) * 2
        gates.append((torch.rand(shape) * 2 - 1) * math.sqrt(3 / (dims[far] * dims[near])))
    expression = ",".join(terms) + "->..." + "".join(map(opt_einsum.get_symbol, letters))
    shapes = [(100, *dims)] + [tuple(gate.shape) for gate in gates]
    effort = "optimal" if count <= 4 else "branch-all"
    return opt_einsum.contract_expression(expression, *shapes, optimize=effort), [gate.requires_grad_() for gate in gates]


def torch_side(dims, d_in, d_out, tokens, repeats):
    """Median seconds of forward + backward: of the frozen linear, and of the circuit."""
    size, (contract, gates) = math.prod(dims), circuit(dims)
    x, dy = torch.randn(tokens, d_in, requires_grad=True), torch.randn(tokens, d_out)
    weight = torch.randn(d_out, d_in)
    frozen = lambda: torch.nn.functional.linear(x, weight)
    adapted = lambda: contract(torch.nn.functional.pad(x, (0, size - d_in)).view(-1, *dims), *gates).reshape(tokens, size)[:, :d_out]

    def seconds(forward):
        for tensor in (x, *gates):
            tensor.grad = None
        start = time.perf_counter()
        forward().backward(dy)
        return time.perf_counter() - start

    return [statistics.median([seconds(forward) for _ in range(repeats + 1)][1:]) for forward in (frozen, adapted)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quanta")
    parser.add_argument("--tokens", default="64,512,2048")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=0, help="measurements of a round; 0: the more, the smaller the site")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, f32; milliseconds of forward + backward\n")
    print("| dims, site | tokens | frozen | circuit | share | kept | einsum order | PyTorch frozen | PyTorch circuit | share | PyTorch / circuit | PyTorch / kept |")
    print("|" + 12 * "---|")
    for (text, d_in, d_out), tokens in itertools.product(SITES, map(int, arguments.tokens.split(","))):
        dims, ours, theirs = tuple(map(int, text.split("-"))), [], []
        repeats = arguments.repeats or max(3, min(200, 10**10 // (d_in * d_out * tokens)))
        command = [arguments.quanta, "bench", "circuit", "--dims", text, "--in-features", d_in, "--out-features", d_out, "--tokens", tokens,
                   "--repeats", repeats, "--threads", arguments.threads, "--json"]
        for _ in range(arguments.rounds):
            time.sleep(SETTLING)
            line = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
            ours.append([line[f"{key}_forward_backward_seconds"] for key in ("frozen", "circuit", "kept", "einsum")])
            theirs.append(torch_side(dims, d_in, d_out, tokens, repeats))
        frozen, fast, kept, plain = (1e3 * statistics.median(column) for column in zip(*ours))
        torch_frozen, torch_circuit = (1e3 * statistics.median(column) for column in zip(*theirs))
        site = f"{text}, {d_in}" if d_in == d_out else f"{text}, {d_in} to {d_out}"
        print(f"| {site} | {tokens} | {frozen:.1f} | {fast:.1f} | {100 * fast / frozen:.0f} % | {kept:.1f} | {plain:.1f} | {torch_frozen:.1f} | {torch_circuit:.1f} "
              f"| {100 * torch_circuit / torch_frozen:.0f} % | {torch_circuit / fast:.2f} | {torch_circuit / kept:.2f} |", flush=True)


if __name__ == "__main__":
    main()
