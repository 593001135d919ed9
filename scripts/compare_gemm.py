#!/usr/bin/env python3
"""`quanta bench gemm` and PyTorch's linear on the same shapes, alternately in one run; prints a Markdown table.

    pip install torch
    cargo build --release
    python scripts/compare_gemm.py target/release/quanta --dtype bf16 --rounds 3

PyTorch's side is torch.nn.functional.linear with a frozen weight, and the gradient of its input by automatic differentiation. With bf16 PyTorch computes on rows in
bf16, this program on rows in f32 and weights held as bf16, or with --rounded on rows rounded to bf16, as PyTorch does. Both sides use the same number of threads and random values; each cell is the median over rounds.
Shares are of the limit that `bench gemm` measures in the same rounds, independent f32 multiply-adds; units for narrower types can exceed it.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import torch

# PyTorch's threads spin for a while after their last product, on the cores that are measured next
SETTLING = 0.5
SHAPES = ["2048x2048x2048", "512x4096x4096", "2048x576x1536", "2048x1536x576", "512x32000x768"]


def torch_side(shape, dtype, repeats):
    """Median seconds of the product and of its input's gradient."""
    rows, outputs, inputs = map(int, shape.split("x"))
    x, dy = torch.randn(rows, inputs, dtype=dtype, requires_grad=True), torch.randn(rows, outputs, dtype=dtype)
    weight, seconds = torch.randn(outputs, inputs, dtype=dtype), []
    for _ in range(repeats + 1):
        x.grad = None
        start = time.perf_counter()
        y = torch.nn.functional.linear(x, weight)
        middle = time.perf_counter()
        y.backward(dy)
        seconds.append((middle - start, time.perf_counter() - middle))
    return [statistics.median(column) for column in zip(*seconds[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="rows x output features x input features, separated by commas")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--rounded", action="store_true", help="with bf16: this program rounds its rows, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.rounded and arguments.dtype != "bf16":
        parser.error("--rounded is for --dtype bf16")
    torch.set_num_threads(arguments.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    common = ["--dtype", arguments.dtype, "--repeats", str(arguments.repeats), "--threads", str(arguments.threads), "--json"]
    common += ["--rounded"] * arguments.rounded
    name = "bf16, rounded rows" if arguments.rounded else arguments.dtype
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, {name}; GFLOP/s, medians of {arguments.rounds} rounds\n")
    print("| M x N x K | limit | y = x W^T | of limit | PyTorch | quanta / PyTorch | dx = dy W | of limit | PyTorch | quanta / PyTorch |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for shape in arguments.shapes.split(","):
        rows, outputs, inputs = map(int, shape.split("x"))
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            time.sleep(SETTLING)
            command = [arguments.program, "bench", "gemm", "--shape", shape, *common]
            line = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ours.append([line["limit_gflops"], line["forward_gflops"], line["backward_gflops"]])
            theirs.append([2e-9 * rows * outputs * inputs / seconds for seconds in torch_side(shape, dtype, arguments.repeats)])
        limit, *ours = (statistics.median(column) for column in zip(*ours))
        theirs = [statistics.median(column) for column in zip(*theirs)]
        cells = [f"{own:.0f} | {100 * own / limit:.0f} % | {other:.0f} | {own / other:.2f}" for own, other in zip(ours, theirs)]
        print(f"| {shape} | {limit:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
