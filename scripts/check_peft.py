#!/usr/bin/env python3
"""Loads an adapter folder that quanta wrote with PEFT and compares its logits with quanta's: the other direction of exchange.

What: base folder and adapter folder (LoRA, DoRA, prefix, LoKr: whatever PEFT knows) go through PEFT's own reader, and the largest relative
difference to the given numbers is printed; every tensor of the file has to be one that PEFT asked for, or one that only resuming needs (what
re-parameterised a prefix). Why: `golden_methods.py` shows that what
PEFT writes is read here; this shows that what is written here is read there.

    python scripts/check_peft.py BASE ADAPTER NUMBERS [--dtype float32|float64] [--tolerance 1e-4]

NUMBERS is a safetensors file with `input_ids` [rows, time] (I64) and `logits` [rows, time, vocab], the golden.safetensors of a case that the Rust
test trained (`QUANTA_WRITTEN=DIR cargo test --release -p quanta-tune --test golden_methods ten_steps` keeps its adapters in DIR), or what `quanta score ADAPTER --tokens ... --json`
prints: a JSON object with `tokens` and `token_logprobs` (null first). Without --dtype the type of `logits`, or float32. In float64 transformers'
casts to f32 are undone, as in the golden files.

Left to others: adapters of this program's own types, which PEFT refuses (merge them first).
"""
import argparse, json, os, pathlib, warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from golden_methods import CONFIG, F32, F64, TENSORS, exact, load_base, relative


def read_numbers(path):
    """Token rows, and either logits or the tokens' log-probabilities."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        if "final_logits" in tensors:
            return tensors["input_ids"][0][0], tensors["final_logits"], None
        return tensors["input_ids"], tensors["logits"], None
    record = json.loads(path.read_text())
    return torch.tensor([record["tokens"]]), None, torch.tensor(record["token_logprobs"][1:], dtype=F64)


def check_tensors(model, folder):
    """Every tensor of the file stands in the model as the file has it, whatever PEFT made of its name."""
    held = {name.replace(".default", ""): value for name, value in model.state_dict().items()}
    missing = []
    resuming = {f"{layer}.{part}" for layer in ("embedding", "transform.0", "transform.2") for part in ("weight", "bias")}
    for name, value in load_file(folder / TENSORS).items():
        if name in resuming and "prompt_encoder.embedding.weight" in held:
            continue
        name = name.replace("prompt_embeddings", "prompt_encoder.embedding.weight")
        candidates = [name, name + ".weight", *(other for other in held if other.replace(".modules_to_save", "") == name)]
        if not any(c in held and held[c].shape == value.shape and relative(held[c], value) < 1e-6 for c in candidates):
            missing.append(name)
    return missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "adapter", "numbers"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--dtype", choices=["float32", "float64"])
    parser.add_argument("--tolerance", type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("error", message=".*missing adapter keys.*")
    if not (args.adapter / CONFIG).exists():
        raise SystemExit(f"{args.adapter} holds no single adapter: choose one of its sub-folders")
    input_ids, logits, logprobs = read_numbers(args.numbers)
    dtype = {"float32": F32, "float64": F64, None: F32 if logits is None else logits.dtype}[args.dtype]
    base = load_base(args.base, dtype)
    with exact(dtype), torch.no_grad():
        model = PeftModel.from_pretrained(base, args.adapter, autocast_adapter_dtype=False).eval()
        model = model.to(dtype)
        theirs = model(input_ids, use_cache=False).logits
        plain = load_base(args.base, dtype)(input_ids, use_cache=False).logits
        found = torch.log_softmax(theirs[0, :-1], -1).gather(1, input_ids[0, 1:, None])[:, 0]
    missing = check_tensors(model, args.adapter)
    if missing:
        raise SystemExit("PEFT did not take these tensors: " + ", ".join(missing))
    error = relative(logits, theirs) if logprobs is None else relative(logprobs, found)
    kind = "logits" if logprobs is None else "log-probabilities"
    moved = relative(theirs, plain)
    print(f"{kind}: largest relative difference {error:.1e} ({dtype}); the adapter moves the base's logits by {moved:.1e}")
    tolerance = args.tolerance or (1e-9 if dtype == F64 else 1e-4)
    raise SystemExit(0 if error <= tolerance else f"above {tolerance:.0e}")


if __name__ == "__main__":
    main()
