#!/usr/bin/env python3
"""Runs the benchmarks and writes what they print to record/YYYY-MM-DD-COMMIT.md; record/README.md says what a record holds.

    python scripts/record.py --pytorch python

Needs only Python's standard library; the comparisons run in the Python that --pytorch names.
"""
import argparse
import datetime
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = "target/release/quanta"

# what training saves: the command without it, beside the one with it
LADDER = [("S folded into the weight", [], ["--set", "s=circuit"]),
          ("logits of rows that predict an answer", [], ["--labels", "all"]),
          ("packed samples", [], ["--padded"]),
          ("candidates share their prompt", ["--choices", "4"], ["--choices", "4", "--separate"])]


def output(command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()


def ladder(shape, steps, rounds, threads):
    """A table of the savings, each measured alternately with and without; the losses must agree."""
    rows = ["| saving | with, samples/s | without, samples/s | gain | losses differ by |", "|---|---|---|---|---|"]
    for name, kept, left in LADDER:
        speeds, losses = ([], []), ([], [])
        for _ in range(rounds):
            for side, options in enumerate((kept, left)):
                command = [PROGRAM, "bench", "train", "--json", "--shape", shape, "--steps", str(steps), "--threads", str(threads), *options]
                line = json.loads(output(command))
                speeds[side].append(line["samples_per_second"])
                losses[side].append(line["losses"])
        fast, slow = map(statistics.median, speeds)
        apart = max(abs(a - b) / abs(b) for a, b in zip(losses[0][0], losses[1][0]))
        rows.append(f"| {name} (`{' '.join(left)}`) | {fast:.2f} | {slow:.2f} | {fast / slow:.2f} | {apart:.1e} |")
    return "\n".join(rows)


def commonsense(rows, tokenizer, shape, steps, rounds, threads):
    """A table of the questions of a file, with their prompts shared and repeated, alternately; loss and gradient must agree."""
    lines = []
    for layout in ([], ["--separate"]) * rounds:
        command = [PROGRAM, "bench", "train", "--json", "--shape", shape, "--batch", "16", "--steps", str(steps), "--threads", str(threads),
                   "--data", str(rows), "--task", "commonsense", "--tokenizer", str(tokenizer), *layout]
        lines.append(json.loads(output(command)))
    table = ["| prompts | tokens an example | s an example | loss | gradient norm |", "|---|---|---|---|---|"]
    for line in lines:
        name = "repeated" if line["separate"] else "shared"
        table.append(f"| {name} | {line['tokens_per_example']:.1f} | {line['seconds_per_example']:.4f} | {line['loss']:.7f} | {line['gradient_norm']:.7f} |")
    shared, repeated = (statistics.median(line["seconds_per_example"] for line in lines if line["separate"] == side) for side in (False, True))
    fewer = lines[1]["tokens_per_example"] / lines[0]["tokens_per_example"]
    return "\n".join(table) + f"\n\nShared, an example has {fewer:.2f} times fewer tokens and takes {repeated / shared:.2f} times less time (medians)."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytorch", metavar="PYTHON", help="a Python with torch, transformers and opt_einsum, to compare with")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what is measured alternately")
    parser.add_argument("--short", action="store_true", help="small sizes, to try the script; needs --out, and allows a busy machine and changes")
    parser.add_argument("--out", type=pathlib.Path, help="the file, instead of one in record/")
    parser.add_argument("--commonsense", type=pathlib.Path, metavar="FILE", help="rows of the task commonsense, to train on with and without shared prompts")
    parser.add_argument("--tokenizer", type=pathlib.Path, metavar="FOLDER", help="the tokenizer that encodes them")
    arguments = parser.parse_args()
    if (arguments.commonsense is None) != (arguments.tokenizer is None):
        parser.error("--commonsense and --tokenizer go together")
    if arguments.short and not arguments.out:
        parser.error("--short makes no record: say with --out where its file goes")
    changes, load = output(["git", "status", "--porcelain"]), os.getloadavg()[0]
    if changes and not arguments.short:
        sys.exit(f"the tree has changes, and a record names a commit: commit or stash them first\n{changes}")
    if load > 0.25 * os.cpu_count() and not arguments.short:
        sys.exit(f"the machine is busy, its load is {load:.2f}: record when nothing else runs")
    commit, now = output(["git", "rev-parse", "--short=9", "HEAD"]), datetime.datetime.now(datetime.timezone.utc)
    out = arguments.out or ROOT / "record" / f"{now:%Y-%m-%d}-{commit}.md"
    if out.exists():
        sys.exit(f"{out} exists, and records are not overwritten")
    # the same folder whatever the environment says
    subprocess.run(["cargo", "build", "--release", "--target-dir", "target"], cwd=ROOT, check=True)
    info = json.loads(output([PROGRAM, "info", "--json"]))
    memory = f"{info['memory_bytes'] / 2**30:.1f} GiB" if info["memory_bytes"] else "unknown"
    text = [f"# {now:%Y-%m-%d}, {commit}\n", "| | |\n|---|---|",
            f"| commit | {output(['git', 'rev-parse', 'HEAD'])}, {output(['git', 'log', '-1', '--format=%s'])} |",
            f"| date | {now:%Y-%m-%d %H:%M} UTC |", f"| processor | {info['processor'] or 'unknown'}, {info['architecture']}, {info['system']} |",
            f"| instruction sets | {' '.join(info['instruction_sets']) or 'none known'} |", f"| threads | {arguments.threads} of {info['threads']} |",
            f"| memory | {memory} |", f"| kernels | circuits {info['circuit_kernel']}, products {info['product_kernel']} |",
            f"| load before | {load:.2f} |", f"| rustc | {output(['rustc', '--version'])} |\n"]

    def record(title, command, fenced=True):
        # where this machine keeps its Python is nobody's business
        shown = shlex.join("python" if part == arguments.pytorch else part for part in command)
        print(shown, file=sys.stderr, flush=True)
        printed = output(command)
        text.append(f"## {title}\n\n    {shown}\n\n" + (f"```text\n{printed}\n```\n" if fenced else f"{printed}\n"))

    threads, short, rounds = ["--threads", str(arguments.threads)], arguments.short, str(1 if arguments.short else arguments.rounds)
    shapes = ["tiny-288"] if short else ["smollm2-135m"]
    # rounded rows where the processor multiplies pairs of bf16 numbers
    dtypes = {"f32": ["--dtype", "f32"], "bf16": ["--dtype", "bf16"]}
    if "avx512bf16" in info["instruction_sets"] or not info["amx_unused"]:
        dtypes["bf16, rounded rows"] = ["--dtype", "bf16", "--rounded"]
    for name, dtype in dtypes.items():
        some = ["--shape", "64x64x64", "--repeats", "1"] if short else []
        record(f"Frozen product, {name}", [PROGRAM, "bench", "gemm", *dtype, *some, *threads])
    for dims in ["8-6-6"] if short else ["16-8-8-4", "16-16-16", "9-8-8"]:
        record(f"Circuit {dims}", [PROGRAM, "bench", "circuit", "--dims", dims, *threads])
    steps = ["--steps", "1" if short else "9"]
    for shape in shapes if short else [*shapes, "llama2-7b-2l"]:
        for name, dtype in dtypes.items():
            record(f"Training, {shape}, {name}", [PROGRAM, "bench", "train", "--shape", shape, *dtype, *steps, *threads])
    for rows in ["1", "8"]:
        for dtype in ["f32", "bf16"]:
            some = ["--prompt", "8", "--tokens", "3", "--repeats", "1"] if short else []
            record(f"Generation, {rows} rows, {dtype}", [PROGRAM, "bench", "decode", "--shape", shapes[0], "--dtype", dtype, "--rows", rows, *some, *threads])
    table = ladder(shapes[0], 1 if short else 5, int(rounds), arguments.threads)
    text.append(f"## The ladder, {shapes[0]}, f32\n\nEach saving alternately with and without, median of {rounds} rounds.\n\n{table}\n")
    if arguments.commonsense:
        rows, tokenizer = (path.resolve() for path in (arguments.commonsense, arguments.tokenizer))
        table = commonsense(rows, tokenizer, shapes[0], 1 if short else 3, int(rounds), arguments.threads)
        # where this machine keeps its data is nobody's business either
        text.append(f"## Questions that share their prompt, {shapes[0]}, f32\n\n`bench train --batch 16 --data {rows.parent.name}/{rows.name} --task commonsense "
                    f"--tokenizer {tokenizer.name}`, without and with `--separate` alternately.\n\n{table}\n")
    if arguments.pytorch:
        common = [PROGRAM, "--rounds", rounds, *threads]
        for name, dtype in dtypes.items():
            some = ["--shapes", "64x64x64"] if short else []
            record(f"Products beside PyTorch, {name}", [arguments.pytorch, "scripts/compare_gemm.py", *common, *dtype, *some], fenced=False)
        some = ["--tokens", "16"] if short else []
        record("Circuits beside PyTorch", [arguments.pytorch, "scripts/compare_circuit.py", *common, *some], fenced=False)
        for name, dtype in dtypes.items():
            command = [arguments.pytorch, "scripts/compare_training.py", *common, "--shape", shapes[0], *dtype]
            record(f"Training beside PyTorch, {name}", [*command, *(["--steps", "1"] if short else [])], fenced=False)
    out.write_text("\n".join(text))
    print(out)


if __name__ == "__main__":
    main()
