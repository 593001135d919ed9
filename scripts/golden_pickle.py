#!/usr/bin/env python3
"""Pickled weights as `torch.save` writes them, beside the same tensors in safetensors.

What: writes `testdata/pickles/<name>.bin` with `<name>.safetensors` beside it, and `testdata/pickles/model/`, the folder
`testdata/models/llama_bf16_sharded` as pickled shards. Why: the Rust reader of `pytorch_model.bin` is judged bit by bit on what
PyTorch itself writes: every type, views of all sorts, tied tensors, parameters, a pickle with more than 256 remembered values.
`refused_*` are files that PyTorch writes too and that are not to be read.

    pip install torch==2.15.0 safetensors==0.8.0 numpy
    python scripts/golden_pickle.py testdata

Left to others: hostile files (the Rust tests build them).
"""
import argparse, json, pathlib, shutil

import torch
from safetensors.torch import load_file, save_file


def numbers(*shape, dtype=torch.float32):
    """Values that every type but the integers holds exactly and that differ from one another."""
    count = max(1, torch.Size(shape).numel())
    return ((torch.arange(count) * 37 % 251).to(torch.float64) / 8 - 12).reshape(shape).to(dtype)


def types():
    floats = {"double": torch.float64, "single": torch.float32, "half": torch.float16, "brain": torch.bfloat16}
    tensors = {name: numbers(3, 5, dtype=dtype) for name, dtype in floats.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "one": numbers(1, 1, 6)}
    integers = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.float8_e4m3fn]
    return tensors | {f"not a weight {i}": torch.ones(4).to(dtype) for i, dtype in enumerate(integers)}


def views():
    square, long, cube = numbers(6, 4), numbers(40), numbers(2, 3, 4)
    return {
        "whole": square, "tied": square, "transposed": square.t(), "column": square[:, 2], "rows": square[2:5],
        "block": square[1:4, 1:3], "offset": long[7:19], "strided": long[3::5], "last": long[39:], "cube": cube,
        "permuted": cube.permute(2, 0, 1), "channels last": numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one row": square[3:4], "half transposed": numbers(4, 4, dtype=torch.bfloat16).t(), "added axis": long[None, 2:4, None],
        "parameter": torch.nn.Parameter(numbers(3, 2)), "transposed parameter": torch.nn.Parameter(numbers(3, 2)).t().data,
    }


def write(folder, name, tensors):
    torch.save(tensors, folder / f"{name}.bin")
    save_file({key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")


def write_model(source, folder):
    """The shards of a model, pickled; every second matrix lies transposed in its file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ["config.json", "generation_config.json"]:
        shutil.copy(source / name, folder / name)
    weight_map = {}
    for shard in sorted(source.glob("model-*.safetensors")):
        tensors = load_file(shard)
        for index, (name, tensor) in enumerate(sorted(tensors.items())):
            if tensor.dim() == 2 and index % 2:
                tensors[name] = tensor.t().contiguous().t()
        pickled = "pytorch_" + shard.with_suffix(".bin").name
        torch.save(tensors, folder / pickled)
        weight_map |= {name: pickled for name in tensors}
    index = {"metadata": {"total_size": 0}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testdata", type=pathlib.Path)
    testdata = parser.parse_args().testdata
    folder = testdata / "pickles"
    folder.mkdir(exist_ok=True)
    write(folder, "types", types())
    write(folder, "views", views())
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.nn.init.constant_(module[0].weight, 0.25)
    torch.nn.init.constant_(module[0].bias, -1.5)
    write(folder, "module", module.state_dict())
    write(folder, "many", {f"layer.{i}.weight": numbers(1) + i for i in range(70)})
    torch.save(views(), folder / "refused_legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(module, folder / "refused_module.bin")
    torch.save({"state_dict": module.state_dict(), "step": 3}, folder / "refused_nested.bin")
    torch.save({"expanded": torch.ones(1).expand(1000)}, folder / "refused_expanded.bin")
    torch.save({"conjugate": torch.ones(2, dtype=torch.complex64).conj()}, folder / "refused_complex.bin")
    write_model(testdata / "models" / "llama_bf16_sharded", folder / "model")


if __name__ == "__main__":
    main()
