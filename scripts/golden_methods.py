#!/usr/bin/env python3
"""Reference values for every fine-tuning method: adapter folders, logits and ten training steps, in f64 and in f32.

What: writes (and re-computes) the folders of `testdata/golden/methods`. LoRA and its variants, prefix tuning and LoKr are PEFT's own layers,
read and saved by PEFT itself; every other method is the plain code of `method_layers.py`. The model is Hugging Face's, optimiser and
schedule are those of `golden_train.py`. Why: `tune/tests/golden_methods.rs` reads every folder, so each method is judged by a program that shares
nothing with it, and PEFT's files are read as PEFT wrote them.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 opt_einsum==3.4.0
    PYTHONHASHSEED=0 python scripts/golden_methods.py write testdata/golden/methods [--only NAME]   # PEFT writes lists in hash order
    python scripts/golden_methods.py verify testdata/golden/methods                                 # recompute, print the largest differences

A folder `base/FAMILY` is a model in f64. A case is a folder with
    adapter/              the adapter before the first step, as any adapter folder (two entries: sub-folders 0 and 1)
    trained/              the same after ten steps
    golden.json           base (path from this folder), steps, lr, warmup_steps, clip_grad_norm, accumulation as in golden_train.json; losses and
                          grad_norms_before_clip; losses_f32; start (its first output is the base's), trains_from_adapter (false: what trains
                          is more than adapter/ holds), mergeable
    golden.safetensors    input_ids, labels [step, micro-batch, row, time]; base_logits, first_logits, final_logits of input_ids[0][0] (f64);
                          first_logits_f32; merged.MODULE, the merged weight of every module that `adapter/` changes, but for those of
                          layer 0; for a re-parameterised prefix encoder.NAME and trained_encoder.NAME, what trains in place of the
                          saved tensor

In f64 every operation is, rotary tables included (`golden_train.all_f64` proves it). In f32 the same base and adapter are rounded once and the
ten steps are run as anybody would run them.

`verify` also computes PEFT's cases once more in plain code: LoRA, DoRA and LoKr as stacks of the layers of `method_layers.py`, a prefix in a
decoder of its own.

Left to others: QuanTA alone (`golden_train.py`), adapters that this program wrote (`check_peft.py`).
"""
import argparse, contextlib, copy, json, math, os, pathlib, re, shutil, types, warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
from peft import PeftConfig, PrefixTuningConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

import golden_train as steps
import method_layers
from method_cases import OWN_CASES, OWN_PREFIX_CASES, PEFT_CASES, own

F32, F64 = torch.float32, torch.float64
VOCAB, TIME, ANSWER = 64, 12, 5
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ALL_CASES = PEFT_CASES | OWN_CASES | OWN_PREFIX_CASES

# ---- models ---------------------------------------------------------------------------------------------------------------------


def write_base(folder, family):
    """A two-layer model with random f64 weights."""
    shapes = {"llama": (24, 40, 3, None), "qwen2": (32, 56, 4, 2)}
    hidden, intermediate, heads, kv_heads = shapes[family]
    args = types.SimpleNamespace(
        family=family, vocab=VOCAB, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=kv_heads, head_dim=None, bias=False,
        tied=family == "qwen2", rope_theta=10000.0, rope_scaling=None, rms_norm_eps=1e-6,
    )  # fmt: skip
    torch.set_default_dtype(F64)
    model = transformers.AutoModelForCausalLM.from_config(steps.model_config(args), dtype=F64)
    steps.randomise(model, torch.Generator().manual_seed(len(family)), std=0.2)
    torch.set_default_dtype(F32)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def load_base(folder, dtype):
    """The frozen model of a folder in `dtype`, its rotary tables computed in that type."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    if dtype == F64:
        with exact(dtype):
            model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.requires_grad_(False)


@contextlib.contextmanager
def exact(dtype):
    """For f64: casts to f32 mean f64, and nothing below f64 passes. For f32: nothing."""
    if dtype == F64:
        with steps.all_f64(), steps.NoF32():
            yield
    else:
        yield


# ---- adapters in PEFT -----------------------------------------------------------------------------------------------------------


class PeftCase:
    """A model that PEFT adapted: its settings and values come from an adapter folder by PEFT's own readers."""

    def __init__(self, model, folder, encoder, dtype):
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode, self.base_name = False, config.base_model_name_or_path
        with exact(dtype):
            self.model = get_peft_model(model, config)
        values = {name: value.to(dtype) for name, value in load_file(folder / TENSORS).items()}
        if encoder:
            self.encoder().load_state_dict({name: value.to(dtype) for name, value in encoder.items()})
        else:
            result = set_peft_model_state_dict(self.model, values)
            # a prefix is reported as unexpected though it is read
            assert set(result.unexpected_keys) <= {"prompt_embeddings"}, result.unexpected_keys
        # reading back what was read: nothing of the file may be lost
        saved = peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        assert set(saved) == set(values), set(saved) ^ set(values)
        assert all(relative(saved[name], values[name]) < (1e-5 if encoder else 1e-300) for name in saved)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def encoder(self):
        """The module behind a prefix's tensor."""
        return self.model.prompt_encoder["default"]

    def encoder_state(self):
        """What trains where the saved tensor is computed from it; empty otherwise."""
        projected = getattr(self.model.peft_config["default"], "prefix_projection", False)
        return {k: v.detach().clone() for k, v in self.encoder().state_dict().items()} if projected else {}

    def save(self, folder):
        """PEFT's own files, without its page for a hub."""
        # PEFT puts the path it loaded from there
        self.model.peft_config["default"].base_model_name_or_path = self.base_name
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

    def merged(self):
        """The weights of all adapted modules as PEFT merges them; None where it cannot."""
        if self.model.active_peft_config.is_prompt_learning:
            return None
        names = peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        modules = {re.split(r"\.lora_|\.lokr_|\.hada_|\.miss_|\.weight", name.removeprefix(PREFIX))[0] for name in names}
        after = copy.deepcopy(self.model).merge_and_unload()
        return {name: after.get_submodule(name).weight for name in sorted(modules)}


class OwnPrefixCase(PeftCase):
    """A re-parameterised prefix that PEFT computes, in a folder that also holds what trains."""

    def __init__(self, model, config, dtype):
        self.config = config
        settings = {key: config[key] for key in ("num_virtual_tokens", "prefix_projection", "encoder_hidden_size")}
        with exact(dtype):
            self.model = get_peft_model(model, PrefixTuningConfig(**settings, task_type="CAUSAL_LM"))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def read(self, folder, dtype):
        values = {name: value.to(dtype) for name, value in load_file(folder / TENSORS).items() if name != "prompt_embeddings"}
        self.encoder().load_state_dict(values)
        return self

    def encoder_state(self):
        return {}

    def save(self, folder):
        result = peft.get_peft_model_state_dict(self.model, save_embedding_layers=False)
        write_own_adapter(folder, [self.config], [result | {k: v.detach() for k, v in self.encoder().state_dict().items()}])


def write_own_prefix(folder, base, base_name, config, start, generator):
    """A re-parameterised prefix as PEFT starts it."""
    torch.manual_seed(int(torch.randint(1 << 30, (1,), generator=generator)))
    OwnPrefixCase(load_base(base, F64), config | {"base_model_name_or_path": base_name}, F64).save(folder)


def write_peft_adapter(folder, base, base_name, config, start, generator):
    """An adapter folder by PEFT, its values moved away from the start unless `start`; what else trains."""
    torch.manual_seed(int(torch.randint(1 << 30, (1,), generator=generator)))
    config = copy.deepcopy(config)
    config.task_type = "CAUSAL_LM"
    with exact(F64):
        model = get_peft_model(load_base(base, F64), config)
    case = types.SimpleNamespace(model=model, base_name=base_name, encoder=lambda: model.prompt_encoder["default"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            scale = 0.0 if start else 0.2 * parameter.abs().mean() if "magnitude" in name or "modules_to_save" in name else 0.1
            parameter.data += scale * noise
    PeftCase.save(case, folder)
    return PeftCase.encoder_state(case)


# ---- adapters in plain code -----------------------------------------------------------------------------------------------------


class OwnCase:
    """A model whose linears were replaced by plain layers; values come from an adapter folder."""

    def __init__(self, model, folder, dtype):
        self.folders = [folder] if (folder / CONFIG).exists() else sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
        self.configs = [json.loads((part / CONFIG).read_text()) for part in self.folders]
        self.values = [{k: v.to(dtype) for k, v in load_file(part / TENSORS).items()} for part in self.folders]
        self.parameters = []
        for values in self.values:
            for name in sorted(values):
                if method_layers.trains(name.rsplit("_proj.", 1)[1]):
                    values[name] = torch.nn.Parameter(values[name])
                    self.parameters.append(values[name])
        self.model, self.layers = model, {}
        for name, linear in sites(model, self.configs):
            within = lambda values: {k.removeprefix(f"{PREFIX}{name}."): v for k, v in values.items() if f".{name}." in k}
            entries = [(config, within(values)) for config, values in zip(self.configs, self.values)]
            self.layers[name] = method_layers.StackedLinear(name, linear, [entry for entry in entries if entry[1]])
            parent, leaf = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), leaf, self.layers[name])

    def encoder_state(self):
        return {}

    def save(self, folder):
        write_own_adapter(folder, self.configs, [{k: v.detach() for k, v in values.items()} for values in self.values])

    def merged(self):
        found = {name: layer.merged() for name, layer in self.layers.items()}
        return None if None in found.values() else found


def sites(model, configs):
    """Names and modules of the linears that some entry adapts."""
    targets = {target for config in configs for target in config["target_modules"]}
    return [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.rsplit(".", 1)[-1] in targets]


def write_own_adapter(folder, configs, values):
    """The files of one entry, or of several in numbered sub-folders."""
    for i, (config, tensors) in enumerate(zip(configs, values)):
        part = folder if len(configs) == 1 else folder / str(i)
        part.mkdir(parents=True, exist_ok=True)
        (part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        save_file({k: v.contiguous() for k, v in tensors.items()}, part / TENSORS, metadata={"format": "pt"})


def draw_own_adapter(folder, base, base_name, configs, start, generator):
    """An adapter folder with drawn values."""
    model = load_base(base, F64)
    configs = [config | {"base_model_name_or_path": base_name} for config in configs]
    values = []
    for config in configs:
        tensors = {}
        for name, linear in sites(model, [config]):
            output_side = name.rsplit(".", 1)[-1] in method_layers.OUTPUT_SIDE
            shapes = method_layers.tensor_shapes(config, linear.in_features, linear.out_features, output_side)
            for tensor, shape in shapes.items():
                tensors[f"{PREFIX}{name}.{tensor}"] = method_layers.draw(tensor, shape, linear.weight, start, generator)
        values.append(tensors)
    write_own_adapter(folder, configs, values)


# ---- running, writing, verifying ------------------------------------------------------------------------------------------------


def relative(a, b):
    """max|a - b| / max|b|."""
    a, b = torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64)
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()


def open_case(base, adapter, encoder, dtype):
    """The model with its adapter, and its trained parameters."""
    model = load_base(base, dtype)
    if not (adapter / CONFIG).exists():
        return OwnCase(model, adapter, dtype)
    config = json.loads((adapter / CONFIG).read_text())
    if config.get("quanta_format") and config["peft_type"] == "PREFIX_TUNING":
        return OwnPrefixCase(model, config, dtype).read(adapter, dtype)
    if config.get("quanta_format"):
        return OwnCase(model, adapter, dtype)
    return PeftCase(model, adapter, encoder, dtype)


def run(folder, base, encoder, input_ids, labels, trained):
    """Everything a case's golden files hold, from its `adapter/`; the adapter after training goes to `trained`."""
    tensors, record = {"input_ids": input_ids, "labels": labels}, {}
    for dtype in (F64, F32):
        plain = load_base(base, dtype)
        case = open_case(base, folder / "adapter", encoder, dtype)
        logits = lambda model: model(input_ids[0][0], use_cache=False).logits.detach()
        with exact(dtype):
            base_logits, first_logits = logits(plain), logits(case.model)
            merged = case.merged() if dtype == F64 else None
            losses, norms = steps.train(case.model, {"all": types.SimpleNamespace(gates=case.parameters)}, input_ids, labels)
            final_logits = logits(case.model)
        if dtype == F32:
            tensors["first_logits_f32"], record["losses_f32"] = first_logits, losses
            continue
        tensors |= {"base_logits": base_logits, "first_logits": first_logits, "final_logits": final_logits}
        sample = {name: value for name, value in (merged or {}).items() if ".layers.0." not in name}
        tensors |= {f"merged.{name}": value.detach().clone() for name, value in sample.items()}
        tensors |= {f"encoder.{k}": v for k, v in encoder.items()}
        tensors |= {f"trained_encoder.{k}": v for k, v in case.encoder_state().items()}
        record |= {"losses": losses, "grad_norms_before_clip": norms, "mergeable": merged is not None, "trains_from_adapter": not encoder}
        record["start"] = relative(first_logits, base_logits) < 1e-12
        case.save(trained)
    return tensors, record


def write_case(out, name):
    """One case folder."""
    folder, generator = out / name, torch.Generator().manual_seed(sum(name.encode()))
    shutil.rmtree(folder, ignore_errors=True)
    family, settings, start = ALL_CASES[name]
    base, base_name = out / "base" / family, f"../../base/{family}"
    draw = write_peft_adapter if name in PEFT_CASES else write_own_prefix if name in OWN_PREFIX_CASES else draw_own_adapter
    encoder = draw(folder / "adapter", base, base_name, settings, start, generator) or {}
    input_ids = torch.randint(3, VOCAB, (steps.STEPS, steps.MICRO_BATCHES, steps.BATCH, TIME), generator=generator)
    labels = input_ids.clone()
    labels[..., : TIME - ANSWER] = -100
    tensors, record = run(folder, base, encoder, input_ids, labels, folder / "trained")
    record = {
        "base": f"../base/{family}", "steps": steps.STEPS, "lr": steps.LR, "warmup_steps": steps.WARMUP_STEPS, "schedule": "linear to zero",
        "optimizer": "AdamW betas 0.9,0.999 eps 1e-8 wd 0", "clip_grad_norm": steps.CLIP, "accumulation": steps.MICRO_BATCHES,
        "loss": "mean over answer tokens of a micro-batch, averaged over the micro-batches (equal token counts)", **record,
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__},
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(record, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{name}: {size // 1024} KB, losses {record['losses'][0]:.3f} to {record['losses'][-1]:.3f}, start {record['start']}", flush=True)


def write(args):
    """All cases, or one."""
    for family in ("llama", "qwen2"):
        if not args.only or not (args.out / "base" / family).exists():
            write_base(args.out / "base" / family, family)
    for name in [args.only] if args.only else ALL_CASES:
        write_case(args.out, name)


def adapter_tensors(folder):
    """All tensors of an adapter folder by sub-folder and name."""
    return {f"{path.parent.name}/{k}": v for path in sorted(folder.rglob(TENSORS)) for k, v in load_file(path).items()}


def plain_twin(folder, scratch):
    """A PEFT case once more in plain code: an adapter folder at `scratch`; False where the plain code has no such thing."""
    config, values = json.loads((folder / "adapter" / CONFIG).read_text()), load_file(folder / "adapter" / TENSORS)
    kind = config["peft_type"]
    if kind not in ("LORA", "LOKR") or config.get("rank_pattern") or config["modules_to_save"]:
        return False
    targets = sorted({re.search(r"\.(\w+_proj)\.", name)[1] for name in values})
    renamed = lambda old, new: {k.replace(old, new): v for k, v in values.items() if old in k}
    if kind == "LOKR":
        configs, parts = [own("KRONA", targets, scale=1.0)], [renamed("lokr_w1", "krona_A") | renamed("lokr_w2", "krona_B")]
    else:
        alpha = config["lora_alpha"] * (math.sqrt(config["r"]) if config["use_rslora"] else 1.0)
        low_rank = own("LORA", targets, r=config["r"], lora_alpha=alpha, quanta_format=1)
        configs, parts = [low_rank], [renamed("lora_A", "lora_A") | renamed("lora_B", "lora_B")]
        if config["use_dora"]:
            configs, parts = [*configs, own("MAGNITUDE", targets)], [*parts, renamed("lora_magnitude_vector", "magnitude")]
    shutil.rmtree(scratch, ignore_errors=True)
    write_own_adapter(scratch / "adapter", configs, parts)
    return True


def plain_error(folder, base, golden, record, scratch):
    """How far a PEFT case is from the plain code: all of a run, or for a prefix the logits before and after; None where there is none."""
    tokens = golden["input_ids"], golden["labels"]
    if not (folder / "adapter" / CONFIG).exists():
        return None
    if plain_twin(folder, scratch):
        tensors, again = run(scratch, base, {}, *tokens, scratch / "trained")
        errors = [relative(v, golden[k]) for k, v in tensors.items() if not k.endswith("_f32")]
        return max(*errors, relative(again["losses"], record["losses"]))
    prefixes = [adapter_tensors(folder / part).get(f"{part}/prompt_embeddings") for part in ("adapter", "trained")]
    if prefixes[0] is None:
        return None
    logits = [method_layers.prefix_logits(base, prefix, tokens[0][0][0]) for prefix in prefixes]
    return max(relative(logits[0], golden["first_logits"]), relative(logits[1], golden["final_logits"]))


def verify(args):
    """Prints the differences; fails above 1e-9 (f64) or 1e-4 (f32)."""
    worst = {"f64": 0.0, "f32": 0.0, "plain": 0.0}
    for folder in sorted(path.parent for path in args.out.glob("*/golden.json")):
        record, golden = json.loads((folder / "golden.json").read_text()), load_file(folder / "golden.safetensors")
        encoder = {k.removeprefix("encoder."): v for k, v in golden.items() if k.startswith("encoder.")}
        scratch, base = args.scratch / folder.name, folder / record["base"]
        tensors, again = run(folder, base, encoder, golden["input_ids"], golden["labels"], scratch / "trained")
        assert set(tensors) == set(golden), set(tensors) ^ set(golden)
        theirs, ours = adapter_tensors(folder / "trained"), adapter_tensors(scratch / "trained")
        assert set(theirs) == set(ours), set(theirs) ^ set(ours)
        errors = {k: relative(v, golden[k]) for k, v in tensors.items()} | {k: relative(v, theirs[k]) for k, v in ours.items()}
        errors |= {k: relative(v, record[k]) for k, v in again.items() if isinstance(v, list)}
        assert all(again[k] == record[k] for k in ("start", "mergeable", "trains_from_adapter"))
        found = {
            "f64": max(v for k, v in errors.items() if not k.endswith("_f32")),
            "f32": max(v for k, v in errors.items() if k.endswith("_f32")),
            "plain": plain_error(folder, base, golden, record, scratch / "plain"),
        }
        worst = {k: max(v, found[k] or 0.0) for k, v in worst.items()}
        print(f"{folder.name}: " + ", ".join(f"{k} {v:.1e}" for k, v in found.items() if v is not None), flush=True)
    print("worst: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    raise SystemExit(0 if max(worst["f64"], worst["plain"]) < 1e-9 and worst["f32"] < 1e-4 else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("write", write), ("verify", verify)):
        command = commands.add_parser(name)
        command.add_argument("out", type=pathlib.Path)
        command.set_defaults(function=function)
    commands.choices["write"].add_argument("--only", choices=sorted(ALL_CASES), metavar="NAME")
    commands.choices["verify"].add_argument("--scratch", type=pathlib.Path, default=pathlib.Path("target/golden_methods"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*|.*is_gradient_checkpointing.*")
    args.function(args)


if __name__ == "__main__":
    main()
