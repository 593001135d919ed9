#!/usr/bin/env python3
"""A checkpoint in the layout of the paper's authors, and the logits of the model it stands for.

What: writes `testdata/import/authors/pytorch_model.bin`, the whole model of `testdata/golden/train/llama_mha` in bf16 with gates on
two kinds of sites (other axes on each), and `testdata/import/golden.safetensors` with `input_ids` [n, t] and `logits` [n, t, vocab]
in f64 of W0 + T - S, W0 from the base folder. Why: `quanta import` must find axes and order from names and shapes alone, accept the
roundings of that program and take nothing else from the file. What their program does is imitated, not copied: gates in f32,
S = the gates at the start, a site's weight round(W0 - S) with S formed from rounded gates, T added and taken away again at each of
a few evaluations, flags `merged` and `frozen_merged`. `merged.bin` beside it is the same saved during an evaluation.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 opt_einsum==3.4.0 numpy
    python scripts/golden_import.py testdata

Left to others: the layer and the model in f64 (`golden_train.py`).
"""
import argparse, pathlib

import torch
from safetensors.torch import load_file, save_file

from golden_train import F32, F64, all_f64, apply_circuit, draw_gates, gate_axes, load_model_f64, operator

SITES = {"q_proj": [4, 8, 2], "v_proj": [4, 4, 4], "down_proj": [4, 4, 8]}
EVALUATIONS, LAYERS = 5, 2


def full(gates, dims, shape, dtype):
    """The circuit's matrix as a site of this shape sees it, computed in `dtype` throughout."""
    matrix, padded = operator([g.to(dtype) for g in gates], dims), torch.zeros(shape, dtype=dtype)
    rows, columns = min(matrix.shape[0], shape[0]), min(matrix.shape[1], shape[1])
    padded[:rows, :columns] = matrix[:rows, :columns]
    return padded


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testdata", type=pathlib.Path)
    testdata = parser.parse_args().testdata
    base = testdata / "golden" / "train" / "llama_mha"
    folder = testdata / "import"
    (folder / "authors").mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(17)
    weights, state, merged, sites = load_file(base / "model.safetensors"), {}, {}, {}
    for name, weight in weights.items():
        path, _, leaf = name.rpartition(".")
        key, stored = f"base_model.model.{name}", weight.to(torch.bfloat16)
        dims = SITES.get(path.rpartition(".")[2]) if leaf == "weight" else None
        state[key] = stored
        if dims is None:
            continue
        start = [g.to(F32) for g in draw_gates(dims, generator)]
        trained = [(g + 0.05 * torch.randn(g.shape, generator=generator)).to(F32) for g in start]
        sites[path] = (dims, [g.to(F64) for g in trained], [g.to(F64) for g in start])
        stored = stored - full(start, dims, weight.shape, torch.bfloat16)
        update = full(trained, dims, weight.shape, torch.bfloat16)
        for _ in range(EVALUATIONS):
            stored = (stored + update) - update
        state[key], merged[key] = stored, stored + update
        for (a, b), t, s in zip(gate_axes(len(dims)), trained, start):
            state[f"base_model.model.{path}.quanta_weights.{a} {b}"] = torch.nn.Parameter(t)
            state[f"base_model.model.{path}.quanta_weights2.{a} {b}"] = s
        state[f"base_model.model.{path}.merged.merged"] = torch.tensor(False)
        state[f"base_model.model.{path}.frozen_merged.merged"] = torch.tensor(True)
    torch.save(state, folder / "authors" / "pytorch_model.bin")
    # the other weights are not needed to see that it is refused
    flags = {key: torch.tensor(True) for key in state if key.endswith("merged.merged")}
    gates = {key: value for key, value in state.items() if ".quanta_weights" in key and ".layers.0.self_attn.q_proj." in key}
    torch.save(gates | flags, folder / "merged.bin")

    model = load_model_f64(base)
    with all_f64(), torch.no_grad():
        for path, (dims, trained, start) in sites.items():
            linear = model.get_submodule(path)
            eye = torch.eye(linear.weight.shape[1], dtype=F64)
            update = apply_circuit(eye, trained, dims, linear.weight.shape[0]) - apply_circuit(eye, start, dims, linear.weight.shape[0])
            linear.weight.data += update.T
        input_ids = torch.randint(3, model.config.vocab_size, (2, 24), generator=generator)
        logits = model(input_ids, use_cache=False).logits
    save_file({"input_ids": input_ids, "logits": logits}, folder / "golden.safetensors")
    print(f"{len(sites)} sites, {len(state)} tensors")


if __name__ == "__main__":
    main()
