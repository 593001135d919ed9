"""The fine-tuning methods on one linear layer, written plainly: what `golden_methods.py` trains beside PEFT's own layers.

What: every method of this project's own `peft_type` (and a low-rank update, for stacks) as a function of its settings, its tensors and the
layer's input, straight from the definitions: dense matrices, einsum, kron and loops, no fused or clever form. Why: a judge has to be
simpler than what it judges. At the end a decoder whose attention has a learned prefix, token by token. One layer may carry several entries:

    y = post(mag * (W0 pre(x) + sum of updates(pre(x))) + b) + sum of parallel(x)

Left to others: models, files and training (`golden_methods.py`); the circuit itself (`golden_train.py`).
"""
import json, math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import golden_train

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": F.gelu, "silu": F.silu}
# These write to the residual stream: a bottleneck acts behind them, and in front of all others.
OUTPUT_SIDE = ("o_proj", "down_proj")


# ---- tensors -------------------------------------------------------------------------------------------------------------------


def train_cores(name, axes, rank):
    """Shapes [r_(k-1), n_k, r_k] of a tensor train's cores."""
    ranks = [1] + [rank] * (len(axes) - 1) + [1]
    return {f"{name}.{k}": (ranks[k], n, ranks[k + 1]) for k, n in enumerate(axes)}


def mora_side(config, d_in, d_out):
    """round(sqrt((d_in + d_out) r)), halves up; rotation needs an even side."""
    side = math.floor(math.sqrt((d_in + d_out) * config["r"]) + 0.5)
    return side - side % 2 if config["variant"] == "rotation" else side


def tensor_shapes(config, d_in, d_out, output_side):
    """Names and shapes of what an entry has at a layer."""
    kind, width = config["peft_type"], d_out if output_side else d_in
    if kind == "SERIES":
        return {"adapter_down.weight": (config["bottleneck"], width), "adapter_up.weight": (width, config["bottleneck"])}
    if kind == "PARALLEL":
        return {"adapter_down.weight": (config["bottleneck"], d_in), "adapter_up.weight": (d_out, config["bottleneck"])}
    if kind == "MORA":
        side = mora_side(config, d_in, d_out)
        return {"mora_M": (side, side)}
    if kind == "LORETTA" and config["variant"] == "rep":
        assert math.prod(config["tt_shape_A"]) == d_in * config["r"] and math.prod(config["tt_shape_B"]) == d_out * config["r"]
        rank = config["tt_rank"]
        return train_cores("loretta_A", config["tt_shape_A"], rank) | train_cores("loretta_B", config["tt_shape_B"], rank)
    if kind == "LORETTA":
        assert math.prod(config["tt_shape_down"]) == math.prod(config["tt_shape_up"]) == width * config["bottleneck"]
        rank = config["tt_rank"]
        cores = train_cores("loretta_down", config["tt_shape_down"], rank) | train_cores("loretta_up", config["tt_shape_up"], rank)
        return cores | {"loretta_down.bias": (config["bottleneck"],), "loretta_up.bias": (width,)}
    if kind == "KRONA":
        a_out, a_in = config["factor"]
        return {"krona_A": (a_out, a_in), "krona_B": (d_out // a_out, d_in // a_in)}
    if kind == "MAGNITUDE":
        return {"magnitude": (d_out,)}
    if kind == "LORA":
        return {"lora_A.weight": (config["r"], d_in), "lora_B.weight": (d_out, config["r"])}
    if kind == "QUANTA":
        dims = config["dims"]
        pairs = golden_train.gate_axes(len(dims))
        shapes = [(dims[b], dims[a], dims[b], dims[a]) for a, b in pairs]
        return {f"quanta_{part}.{i}": shape for part in "TS" for i, shape in enumerate(shapes)}
    raise ValueError(kind)


def trains(name):
    """S of a circuit is frozen."""
    return not name.startswith("quanta_S")


def draw(name, shape, weight, start, generator):
    """A tensor's first value: far from zero, or, with `start`, where the method starts at the base's output."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name == "magnitude":
        norms = torch.linalg.norm(weight, dim=1)
        return norms if start else norms * (1.0 + 0.2 * noise)
    if start and name in ("adapter_up.weight", "mora_M", "krona_B", "lora_B.weight"):
        return torch.zeros_like(noise)
    if name.startswith("loretta") and len(shape) == 3:
        return 0.5 * noise
    if name.startswith("quanta"):
        return noise / math.sqrt(shape[2] * shape[3])
    return 0.2 * noise


# ---- forward -------------------------------------------------------------------------------------------------------------------


def bottleneck(config, tensors, x):
    """up(f(down(x))), no biases."""
    hidden = ACTIVATIONS[config["activation"]](F.linear(x, tensors["adapter_down.weight"]))
    return F.linear(hidden, tensors["adapter_up.weight"])


def train_matrix(tensors, name, rows):
    """The matrix whose row-major flattening is the train: cores multiplied from the left, reshaped to `rows` rows."""
    value, k = tensors[f"{name}.0"], 1
    while f"{name}.{k}" in tensors:
        value = torch.einsum("...r,rns->...ns", value, tensors[f"{name}.{k}"])
        k += 1
    return value.reshape(rows, -1)


def train_bottleneck(config, tensors, x):
    """up(f(down(x))) with biases; the trains hold down^T [width, b] and up^T [b, width]."""
    down = train_matrix(tensors, "loretta_down", x.shape[-1])
    up = train_matrix(tensors, "loretta_up", config["bottleneck"])
    hidden = ACTIVATIONS[config["activation"]](x @ down + tensors["loretta_down.bias"])
    return hidden @ up + tensors["loretta_up.bias"]


def rotated(block, position):
    """Rotary position embedding over the whole block: entry j turns with entry j + side/2 by position / 10000^(2j/side)."""
    half = block.shape[-1] // 2
    steps = torch.arange(half, dtype=block.dtype)
    angle = position * 10000.0 ** (-2.0 * steps / block.shape[-1])
    first, second = block[..., :half], block[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def mora(config, matrix, x, d_out):
    """The square matrix on blocks of x: summed and tiled (sharing), or each rotated by its number and concatenated (rotation)."""
    side, d_in = matrix.shape[0], x.shape[-1]
    count = -(-d_in // side)
    blocks = []
    for i in range(count):
        columns = [(i * side + j) % d_in for j in range(side)]
        blocks.append(x[..., columns])
    if config["variant"] == "sharing":
        pieces = [F.linear(sum(blocks), matrix)]
    else:
        pieces = [F.linear(rotated(block, i), matrix) for i, block in enumerate(blocks)]
    row = torch.cat(pieces, dim=-1)
    return torch.cat([row] * -(-d_out // row.shape[-1]), dim=-1)[..., :d_out]


def update(config, tensors, x, d_out):
    """dW x of an entry that is an update; None of one that is not."""
    kind = config["peft_type"]
    if kind == "LORA":
        return config["lora_alpha"] / config["r"] * F.linear(F.linear(x, tensors["lora_A.weight"]), tensors["lora_B.weight"])
    if kind == "MORA":
        return mora(config, tensors["mora_M"], x, d_out)
    if kind == "LORETTA" and config["variant"] == "rep":
        a, b = train_matrix(tensors, "loretta_A", x.shape[-1]), train_matrix(tensors, "loretta_B", config["r"])
        return config["alpha"] / config["r"] * (x @ a @ b)
    if kind == "KRONA":
        return config["scale"] * F.linear(x, torch.kron(tensors["krona_A"], tensors["krona_B"]))
    if kind == "QUANTA":
        count = len(golden_train.gate_axes(len(config["dims"])))
        t, s = ([tensors[f"quanta_{part}.{i}"] for i in range(count)] for part in "TS")
        apply = lambda gates: golden_train.apply_circuit(x, gates, config["dims"], d_out)
        return apply(t) - apply(s)
    return None


class StackedLinear(torch.nn.Module):
    """A frozen linear and its entries: a list of (settings, tensors by name)."""

    def __init__(self, name, linear, entries):
        super().__init__()
        self.weight, self.bias, self.entries = linear.weight, linear.bias, entries
        self.output_side = name.rsplit(".", 1)[-1] in OUTPUT_SIDE

    def matrix(self):
        """W0 plus all updates: what the updates make of unit vectors."""
        d_out, d_in = self.weight.shape
        unit = torch.eye(d_in, dtype=self.weight.dtype)
        updates = [update(config, tensors, unit, d_out) for config, tensors in self.entries]
        return sum((u.T for u in updates if u is not None), start=self.weight)

    def scale(self):
        """m / row norms, the norms taken as constants; None without a magnitude."""
        for config, tensors in self.entries:
            if config["peft_type"] == "MAGNITUDE":
                return tensors["magnitude"] / torch.linalg.norm(self.matrix(), dim=1).detach()
        return None

    def merged(self):
        """The weight of a plain linear that does the same; None where there is none."""
        kinds = {config["peft_type"] if config.get("variant") != "adp" else "ADP" for config, _ in self.entries}
        if kinds & {"SERIES", "PARALLEL", "ADP"}:
            return None
        matrix, scale = self.matrix(), self.scale()
        return matrix if scale is None else scale[:, None] * matrix

    def beside(self, config, tensors, value):
        """`value` plus what a serial bottleneck adds to it."""
        if config["peft_type"] == "SERIES":
            return value + bottleneck(config, tensors, value)
        if config["peft_type"] == "LORETTA" and config["variant"] == "adp":
            return value + train_bottleneck(config, tensors, value)
        return value

    def forward(self, x):
        inner = x
        if not self.output_side:
            for config, tensors in self.entries:
                inner = self.beside(config, tensors, inner)
        y = F.linear(inner, self.weight)
        for config, tensors in self.entries:
            change = update(config, tensors, inner, self.weight.shape[0])
            y = y if change is None else y + change
        scale = self.scale()
        y = y if scale is None else scale * y
        y = y if self.bias is None else y + self.bias
        if self.output_side:
            for config, tensors in self.entries:
                y = self.beside(config, tensors, y)
        for config, tensors in self.entries:
            if config["peft_type"] == "PARALLEL":
                y = y + config["scale"] * bottleneck(config, tensors, x)
        return y


# ---- a prefix ------------------------------------------------------------------------------------------------------------------


def prefix_attention(queries, keys, values, prefix_keys, prefix_values):
    """One head of one sequence: token t sees the whole prefix and the tokens up to itself."""
    n, rows = len(prefix_keys), []
    keys, values = torch.cat([prefix_keys, keys]), torch.cat([prefix_values, values])
    for t, query in enumerate(queries):
        scores = keys[: n + t + 1] @ query / math.sqrt(len(query))
        rows.append(torch.softmax(scores, 0) @ values[: n + t + 1])
    return torch.stack(rows)


def prefix_logits(folder, prefix, input_ids):
    """Logits of a LLaMA or Qwen2 folder (f64) behind a prefix [n, layers * 2 * kv_dim], read as [n][layer][K, V][kv_head][head_dim].

    The prefix's keys are not rotated; the tokens' positions start at n.
    """
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    heads, kv_heads, layers = config["num_attention_heads"], config["num_key_value_heads"], config["num_hidden_layers"]
    size = config["hidden_size"] // heads
    (batch, time), n = input_ids.shape, len(prefix)
    prefix = prefix.reshape(n, layers, 2, kv_heads, size)
    steps = torch.arange(size // 2, dtype=prefix.dtype)
    angle = (n + torch.arange(time, dtype=prefix.dtype))[:, None] * config["rope_parameters"]["rope_theta"] ** (-2 * steps / size)

    def rope(x):
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)

    def norm(x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weights[f"{name}.weight"]

    linear = lambda x, name: F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
    split = lambda x, count: x.reshape(batch, time, count, size).transpose(1, 2)
    x = weights["model.embed_tokens.weight"][input_ids]
    for layer in range(layers):
        path = f"model.layers.{layer}."
        attended = norm(x, path + "input_layernorm")
        q, k, v = (linear(attended, f"{path}self_attn.{name}_proj") for name in "qkv")
        q, k, v = rope(split(q, heads)), rope(split(k, kv_heads)), split(v, kv_heads)
        mixed = torch.empty(batch, time, heads, size, dtype=x.dtype)
        for row in range(batch):
            for head in range(heads):
                group = head // (heads // kv_heads)
                own = prefix[:, layer, 0, group], prefix[:, layer, 1, group]
                mixed[row, :, head] = prefix_attention(q[row, head], k[row, group], v[row, group], *own)
        x = x + linear(mixed.reshape(batch, time, -1), path + "self_attn.o_proj")
        fed = norm(x, path + "post_attention_layernorm")
        x = x + linear(F.silu(linear(fed, path + "mlp.gate_proj")) * linear(fed, path + "mlp.up_proj"), path + "mlp.down_proj")
    return norm(x, "model.norm") @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T
