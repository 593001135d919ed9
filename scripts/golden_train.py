#!/usr/bin/env python3
"""Reference values for QuanTA: single layers and ten training steps, all in f64.

What: writes (and re-computes) the files of `testdata/golden/{quanta_layer,train}` for any dims, targets, gate count, model
family, rope and head shape. Why: the Rust tests read every file of a directory (`QUANTA_GOLDEN`), so the engine can be judged on
shapes that it was not written against. The layer below is our own: one einsum over x and the gates, straight from the
definition y = W0 x + T x - S x + b; the transformer is Hugging Face's, the optimiser and the schedule are PyTorch's and
transformers' (AdamW; `get_linear_schedule_with_warmup`, so the first of two warm-up steps has a learning rate of 0).

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 opt_einsum==3.4.0 numpy
    python scripts/golden_train.py verify testdata/golden              # recompute existing files, print the largest differences
    python scripts/golden_train.py layer OUT.safetensors --dims 5-3-2 --in-features 28 --out-features 33 [--bias] [--init] [--seed N]
    python scripts/golden_train.py train OUT_DIR --family llama --dims 8-4-2 --targets q_proj,v_proj [--kv-heads 2] [--head-dim 24]
                                         [--tied] [--rope-theta 500000] [--rope-scaling llama3:8] [--bias] [--seed N]

Left to others: logits of untrained models in f32 (`golden_transformers.py`).
"""
import argparse, contextlib, itertools, json, math, pathlib

import opt_einsum as oe
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

F32, F64 = torch.float32, torch.float64
STEPS, WARMUP_STEPS, MICRO_BATCHES, BATCH, LR, CLIP = 10, 2, 2, 2, 0.01, 1.0


# ---- the layer ------------------------------------------------------------------------------------------------------------------


def gate_axes(n):
    """All pairs of axes, counted from the end, in order of application."""
    return list(itertools.combinations(range(-1, -n - 1, -1), 2))


def einsum_strings(n):
    """The apply form and the operator form; every gate moves its two axes to symbols N further on."""
    symbols, operands = list(range(n)), []
    for a, b in gate_axes(n):
        before = (symbols[b], symbols[a])
        symbols[a] += n
        symbols[b] += n
        operands.append("".join(oe.get_symbol(s) for s in (symbols[b], symbols[a], *before)))
    first, last = ("".join(oe.get_symbol(s) for s in group) for group in (range(n), symbols))
    gates = ",".join(operands)
    return f"...{first},{gates}->...{last}", f"{gates}->{last}{first}"


def draw_gates(dims, generator, scale=1.0):
    """Gates [out_b, out_a, in_b, in_a], uniform with variance scale^2 / K."""
    gates = []
    for a, b in gate_axes(len(dims)):
        shape = (dims[b], dims[a], dims[b], dims[a])
        bound = scale * math.sqrt(3.0 / (dims[a] * dims[b]))
        gates.append((torch.rand(shape, generator=generator, dtype=F64) * 2 - 1) * bound)
    return gates


def resize(x, size):
    """Zero-pads or truncates the last axis."""
    return x[..., :size] if x.shape[-1] >= size else F.pad(x, (0, size - x.shape[-1]))


def apply_circuit(x, gates, dims, out_features):
    """T x: x [..., d_in] -> [..., d_out], one einsum over all gates."""
    tensor = resize(x, math.prod(dims)).reshape(*x.shape[:-1], *dims)
    y = oe.contract(einsum_strings(len(dims))[0], tensor, *gates, optimize="greedy")
    return resize(y.reshape(*x.shape[:-1], -1), out_features)


def operator(gates, dims):
    """The full D x D matrix of T, by the operator form."""
    size = math.prod(dims)
    return oe.contract(einsum_strings(len(dims))[1], *gates, optimize="greedy").reshape(size, size)


def layer_values(dims, x, dy, base, bias, gates, frozen):
    """y, dx, dgates and the operator of one layer, the gradients by autograd."""
    x = x.clone().requires_grad_()
    gates = [g.clone().requires_grad_() for g in gates]
    out_features = base.shape[0]
    y = F.linear(x, base, bias) + apply_circuit(x, gates, dims, out_features) - apply_circuit(x, frozen, dims, out_features)
    y.backward(dy)
    values = {"y": y.detach(), "dx": x.grad, "operator_T": operator([g.detach() for g in gates], dims)}
    return values | {f"dgate.{i}": g.grad for i, g in enumerate(gates)}


def write_layer(args):
    """One file of `quanta_layer/`: random inputs and what the layer makes of them."""
    generator = torch.Generator().manual_seed(args.seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=F64)
    dims, n_in, n_out = args.dims, args.in_features, args.out_features
    tensors = {"x": draw(7, n_in), "dy": draw(7, n_out), "base_weight": draw(n_out, n_in)}
    if args.bias:
        tensors["bias"] = draw(n_out)
    frozen = draw_gates(dims, generator)
    # With `--init` the trained gates are still the frozen ones; otherwise they are unrelated, which is the harder test.
    gates = [g.clone() for g in frozen] if args.init else draw_gates(dims, generator)
    values = layer_values(dims, tensors["x"], tensors["dy"], tensors["base_weight"], tensors.get("bias"), gates, frozen)
    tensors |= values | {f"gate.{i}": g for i, g in enumerate(gates)} | {f"frozen_gate.{i}": g for i, g in enumerate(frozen)}
    apply_form, operator_form = einsum_strings(len(dims))
    metadata = {
        "dims": "-".join(map(str, dims)), "in_features": str(n_in), "out_features": str(n_out), "dtype": "f64",
        "gate_axes": json.dumps(gate_axes(len(dims))), "einsum_apply": apply_form, "einsum_operator": operator_form,
        "gate_layout": "[out_dim2,out_dim1,in_dim2,in_dim1] for axes [dim1,dim2]",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, args.out, metadata=metadata)
    print(args.out)


# ---- the model in f64 -----------------------------------------------------------------------------------------------------------


class NoF32(TorchDispatchMode):
    """Fails on the first operation that yields a tensor in less than f64: the proof that `all_f64` missed nothing."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != F64:
                raise TypeError(f"{function} computed in {leaf.dtype}")
        return result


@contextlib.contextmanager
def all_f64():
    """Inside, transformers' casts to f32 (norm, rotary tables, softmax) are casts to f64: the names they use mean f64."""
    saved = torch.float, torch.float32, torch.Tensor.float, torch.get_default_dtype()
    torch.float = torch.float32 = F64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(F64)
    try:
        yield
    finally:
        torch.float, torch.float32, torch.Tensor.float, default = saved
        torch.set_default_dtype(default)


def load_model_f64(folder):
    """The model of a folder in f64. Its rotary tables are rebuilt in f64: as loaded, they were rounded to f32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=F32, attn_implementation="eager").double().eval()
    with all_f64(), NoF32():
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    return model.requires_grad_(False)


class QuantaLinear(torch.nn.Module):
    """A frozen linear that holds W0 - S, plus the trained circuit T."""

    def __init__(self, linear, dims, gates):
        super().__init__()
        n_out, n_in = linear.weight.shape
        columns = apply_circuit(torch.eye(n_in, dtype=F64), gates, dims, n_out)
        self.weight, self.bias, self.dims = linear.weight.data - columns.T, linear.bias, dims
        self.gates = torch.nn.ParameterList(torch.nn.Parameter(g.clone()) for g in gates)

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) + apply_circuit(x, list(self.gates), self.dims, self.weight.shape[0])


def micro_batch_loss(model, input_ids, labels):
    """Mean cross-entropy; the label of a position is predicted by the position before it, -100 counts for nothing."""
    logits = model(input_ids, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def train(model, sites, input_ids, labels):
    """Ten steps; returns the losses and the gradient norms before clipping."""
    parameters = [gate for site in sites.values() for gate in site.gates]
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, len(input_ids))
    losses, norms = [], []
    for step_ids, step_labels in zip(input_ids, labels):
        optimizer.zero_grad()
        total = 0.0
        for ids, targets in zip(step_ids, step_labels):
            loss = micro_batch_loss(model, ids, targets) / len(step_ids)
            loss.backward()
            total += loss.item()
        losses.append(total)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP).item())
        optimizer.step()
        schedule.step()
    return losses, norms


def run(folder, dims, targets, init, input_ids, labels):
    """Attaches, trains and reads off everything a golden file holds. `init(site, linear)` gives a site's initial gates."""
    model = load_model_f64(folder)
    with all_f64(), NoF32():
        logits = lambda: model(input_ids[0][0], use_cache=False).logits.detach()
        tensors = {"input_ids": input_ids, "labels": labels, "base_logits": logits()}
        names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.rsplit(".", 1)[-1] in targets]
        sites = {}
        for name in names:
            parent, leaf = name.rsplit(".", 1)
            sites[name] = QuantaLinear(model.get_submodule(name), dims, init(name))
            setattr(model.get_submodule(parent), leaf, sites[name])
            tensors |= {f"{name}.init_gate.{i}": g.detach().clone() for i, g in enumerate(sites[name].gates)}
        tensors["first_logits"] = logits()
        losses, norms = train(model, sites, input_ids, labels)
        tensors["final_logits"] = logits()
        for name, site in sites.items():
            tensors |= {f"{name}.final_gate.{i}": g.detach().clone() for i, g in enumerate(site.gates)}
    return tensors, losses, norms


# ---- a model folder -------------------------------------------------------------------------------------------------------------


def model_config(args):
    """The configuration of a two-layer model of the asked shape."""
    rope = {"rope_type": "default", "rope_theta": args.rope_theta}
    if args.rope_scaling:
        kind, factor = args.rope_scaling.split(":")
        rope |= {"rope_type": kind, "factor": float(factor)}
        if kind == "llama3":
            # With theta 500000 and head size 16, one frequency is kept, one blended and the others are divided by the factor.
            rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    common = dict(
        vocab_size=args.vocab, hidden_size=args.hidden, intermediate_size=args.intermediate, num_hidden_layers=2,
        num_attention_heads=args.heads, num_key_value_heads=args.kv_heads or args.heads, max_position_embeddings=128,
        rms_norm_eps=args.rms_norm_eps, rope_parameters=rope, tie_word_embeddings=args.tied, bos_token_id=1, eos_token_id=2,
    )
    if args.family == "qwen2":
        return transformers.Qwen2Config(**common)
    return transformers.LlamaConfig(**common, attention_bias=args.bias, mlp_bias=args.bias, head_dim=args.head_dim)


def randomise(model, generator, std=0.1):
    """Weights far from their usual start: large matrices, norm weights away from 1 and biases away from 0, so that errors show."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1.0 + 0.2 * noise if "norm" in name else std * noise)


def write_train(args):
    """One folder of `train/`: a model with random weights, ten batches and what training made of them."""
    generator = torch.Generator().manual_seed(args.seed)
    config = model_config(args)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=F32)
    randomise(model, generator)
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    shape = (STEPS, MICRO_BATCHES, BATCH, args.time)
    input_ids = torch.randint(3, args.vocab, shape, generator=generator)
    labels = input_ids.clone()
    # Every row scores its last tokens only; all rows score equally many, so that a mean of means is the mean of all tokens.
    labels[..., : args.time - args.answer] = -100
    init = lambda name: draw_gates(args.dims, generator)
    tensors, losses, norms = run(args.out, args.dims, args.targets, init, input_ids, labels)
    save_file({k: v.contiguous() for k, v in tensors.items()}, args.out / "golden_train.safetensors")
    record = {
        "dims": args.dims, "targets": args.targets, "steps": STEPS, "lr": LR, "warmup_steps": WARMUP_STEPS, "schedule": "linear to zero",
        "optimizer": "AdamW betas 0.9,0.999 eps 1e-8 wd 0", "clip_grad_norm": CLIP, "accumulation": MICRO_BATCHES,
        "loss": "mean over answer tokens of a micro-batch, averaged over the micro-batches (equal token counts)",
        "losses": losses, "grad_norms_before_clip": norms, "gate_axes": gate_axes(len(args.dims)),
        "precision": "weights stored in f32; every operation incl. norm, rotary tables, softmax and loss in f64",
        "logits_of": "input_ids[0][0]",
    }
    (args.out / "golden_train.json").write_text(json.dumps(record, indent=1))
    print(f"{args.out}: losses {losses[0]:.6f} .. {losses[-1]:.6f}, gradient norms {norms[0]:.4f} .. {norms[-1]:.4f}")


# ---- verification ---------------------------------------------------------------------------------------------------------------


def relative_error(a, b):
    """max|a - b| / max|b|."""
    a, b = (torch.as_tensor(v, dtype=F64) for v in (a, b))
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()


def verify_layer(path):
    """Largest relative error of our layer against one file, and whether both einsum strings agree."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    t = load_file(path)
    dims = [int(d) for d in metadata["dims"].split("-")]
    count = len(gate_axes(len(dims)))
    gates, frozen = ([t[f"{kind}.{i}"] for i in range(count)] for kind in ("gate", "frozen_gate"))
    values = layer_values(dims, t["x"], t["dy"], t["base_weight"], t.get("bias"), gates, frozen)
    strings = einsum_strings(len(dims)) == (metadata["einsum_apply"], metadata["einsum_operator"])
    return max(relative_error(v, t[k]) for k, v in values.items()), strings


def verify_train(folder):
    """Largest relative errors of a training run against one folder, by kind of value."""
    record = json.loads((folder / "golden_train.json").read_text())
    golden = load_file(folder / "golden_train.safetensors")
    count = len(gate_axes(len(record["dims"])))
    init = lambda name: [golden[f"{name}.init_gate.{i}"] for i in range(count)]
    tensors, losses, norms = run(folder, record["dims"], record["targets"], init, golden["input_ids"], golden["labels"])
    assert set(tensors) == set(golden), set(tensors) ^ set(golden)
    errors = {"losses": relative_error(losses, record["losses"]), "norms": relative_error(norms, record["grad_norms_before_clip"])}
    for key in ("base_logits", "first_logits", "final_logits"):
        errors[key] = relative_error(tensors[key], golden[key])
    errors["final_gates"] = max(relative_error(tensors[k], golden[k]) for k in golden if ".final_gate." in k)
    return errors


def verify(args):
    """Prints the differences and fails where the worst is above 1e-9."""
    worst = 0.0
    for path in sorted(args.out.glob("quanta_layer/*.safetensors")):
        error, strings = verify_layer(path)
        worst = max(worst, error if strings else math.inf)
        print(f"{path.name}: {error:.1e}, einsum strings {'agree' if strings else 'DIFFER'}")
    for folder in sorted(p.parent for p in args.out.glob("train/*/golden_train.json")):
        errors = verify_train(folder)
        worst = max(worst, *errors.values())
        print(f"{folder.name}: " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    raise SystemExit(0 if worst < 1e-9 else f"worst relative error {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    dims = lambda text: [int(d) for d in text.split("-")]
    check = commands.add_parser("verify")
    check.set_defaults(function=verify)
    layer = commands.add_parser("layer")
    layer.add_argument("--in-features", type=int, required=True)
    layer.add_argument("--out-features", type=int, required=True)
    layer.add_argument("--init", action="store_true")
    layer.set_defaults(function=write_layer)
    model = commands.add_parser("train")
    model.add_argument("--family", choices=["llama", "qwen2"], default="llama")
    model.add_argument("--targets", type=lambda text: text.split(","), default=["q_proj", "v_proj"])
    for name, default in dict(hidden=64, intermediate=112, heads=4, kv_heads=None, head_dim=None, vocab=256, time=24, answer=8).items():
        model.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    model.add_argument("--rms-norm-eps", type=float, default=1e-6)
    model.add_argument("--rope-theta", type=float, default=10000.0)
    model.add_argument("--rope-scaling", help="llama3:FACTOR or linear:FACTOR")
    model.add_argument("--tied", action="store_true")
    model.set_defaults(function=write_train)
    for command in (check, layer, model):
        command.add_argument("out", type=pathlib.Path)
    for command in (layer, model):
        command.add_argument("--dims", type=dims, required=True)
        command.add_argument("--bias", action="store_true")
        command.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.function(args)


if __name__ == "__main__":
    main()
