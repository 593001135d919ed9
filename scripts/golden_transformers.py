#!/usr/bin/env python3
"""Tiny random models and the logits that Hugging Face transformers computes from them in f32.

What: writes `testdata/models/<name>/`, each a Hugging Face model folder (config, weights, no tokenizer) plus
`golden_logits.safetensors` with `input_ids` [n, t] (I64) and `logits` [n, t, vocab] (F32, eager attention, no padding, positions from
0). Ragged cases hold their sequences one after the other, `input_ids` [tokens], `lengths` [n] and `logits` [tokens, vocab]. Why: the Rust models must read such folders and agree with transformers; each folder covers what the others do not (see CASES).
Every folder is loaded again from disk before its logits are computed, so they are what transformers makes of the files.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 opt_einsum==3.4.0 numpy
    python scripts/golden_transformers.py testdata/models [name ...]

Left to others: training and f64 (`golden_train.py`, from which the random weights come).
"""
import argparse, json, pathlib

import torch
import transformers
from safetensors.torch import save_file

from golden_train import randomise

SEQUENCES, TIME = 2, 40
COMMON = dict(num_hidden_layers=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
# Wavelengths 6.3 | 32 | 167 ...: with this original length one frequency is kept, one blended, the others divided by the factor.
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def default_rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


CASES = {
    # Every query head has its own key head; separate output matrix.
    "llama": transformers.LlamaConfig(
        **COMMON, vocab_size=160, hidden_size=64, intermediate_size=80, num_attention_heads=4, num_key_value_heads=4,
        rms_norm_eps=1e-6, rope_parameters=default_rope(10000.0), tie_word_embeddings=False),
    # Scaled rotary tables, three query heads to a key head, tied embeddings.
    "llama3": transformers.LlamaConfig(
        **COMMON, vocab_size=256, hidden_size=48, intermediate_size=112, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
        rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    # Linear scaling, biases everywhere, and the config keys of older releases (see `write_old_keys`).
    "llama_linear": transformers.LlamaConfig(
        **COMMON, vocab_size=160, hidden_size=48, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    # Biases on q, k and v only.
    "qwen2": transformers.Qwen2Config(
        **COMMON, vocab_size=160, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-6, rope_parameters=default_rope(1000000.0), tie_word_embeddings=False),
    # Weights in bf16, in several files with an index.
    "llama_bf16_sharded": transformers.LlamaConfig(
        **COMMON, vocab_size=192, hidden_size=56, intermediate_size=88, num_attention_heads=4, num_key_value_heads=2,
        rms_norm_eps=1e-5, rope_parameters=default_rope(10000.0), tie_word_embeddings=False),
}

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
LENGTHS = [41, 1, 17, 8, 26]
# Sequences of different lengths, run one by one: the Rust side packs them into one batch.
RAGGED_CASES = {
    # As LLaMA 3.2: a tied head, and positions far beyond the length before stretching.
    "llama3_tied": (transformers.LlamaConfig(
        **SMALL, num_hidden_layers=2, max_position_embeddings=128, rms_norm_eps=1e-5, head_dim=16, tie_word_embeddings=True,
        rope_parameters=dict(LLAMA3_ROPE, original_max_position_embeddings=8)), LENGTHS),
    # A window of 7 tokens in every layer, and a head size that is not the hidden size over the heads.
    "mistral": (transformers.MistralConfig(
        **SMALL, num_hidden_layers=3, max_position_embeddings=64, sliding_window=7, head_dim=12, rms_norm_eps=1e-5,
        rope_parameters=default_rope(10000.0)), LENGTHS),
    # More tokens than a block of queries, and a window that is longer than one.
    "mistral_long": (transformers.MistralConfig(
        **SMALL, num_hidden_layers=2, max_position_embeddings=256, sliding_window=70, rms_norm_eps=1e-5,
        rope_parameters=default_rope(10000.0)), [150, 3, 71]),
    # Norms on queries and keys.
    "qwen3": (transformers.Qwen3Config(
        **SMALL, num_hidden_layers=2, max_position_embeddings=64, head_dim=16, rope_parameters=default_rope(1000000.0),
        tie_word_embeddings=True), LENGTHS),
    # The window switched on, in the last of three layers.
    "qwen3_windows": (transformers.Qwen3Config(
        **SMALL, num_hidden_layers=3, max_position_embeddings=64, head_dim=8, rope_parameters=default_rope(10000.0),
        use_sliding_window=True, sliding_window=5, max_window_layers=2, attention_bias=True), LENGTHS),
    # Soft caps small enough to bend, a window in every other layer, scores scaled by another number than the head size.
    "gemma2": (transformers.Gemma2Config(
        **SMALL, num_hidden_layers=3, max_position_embeddings=64, head_dim=8, sliding_window=6, query_pre_attn_scalar=10,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, pad_token_id=0), LENGTHS),
    # Two rotary embeddings, the wide one stretched; one layer of four without a window.
    "gemma3_text": (transformers.Gemma3TextConfig(
        **SMALL, num_hidden_layers=4, max_position_embeddings=64, head_dim=8, sliding_window=6, query_pre_attn_scalar=10,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"], pad_token_id=0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        }), LENGTHS),
}


def write_old_keys(folder):
    """Spells the config as releases before 5 did: `rope_theta`, `rope_scaling` and `torch_dtype`, no `head_dim`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    assert config.pop("head_dim") == config["hidden_size"] // config["num_attention_heads"]
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.36.0"
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")


def write_case(root, name, config, seed):
    """One folder: weights by `randomise`, then the logits of the files as transformers reads them back."""
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, generator, std=0.15)
    folder = root / name
    if name == "llama_bf16_sharded":
        model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    else:
        model.save_pretrained(folder)
    if name == "llama_linear":
        write_old_keys(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    input_ids = torch.randint(0, config.vocab_size, (SEQUENCES, TIME), generator=generator)
    with torch.no_grad():
        logits = model(input_ids, use_cache=False).logits
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    save_file({"input_ids": input_ids, "logits": logits.contiguous()}, folder / "golden_logits.safetensors")
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{folder}: {size / 1024:.0f} KiB, logits within {logits.abs().max():.2f}, {sorted(p.name for p in folder.iterdir())}")


def write_ragged_case(root, name, config, lengths, seed):
    """One folder whose sequences differ in length."""
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, generator, std=0.2)
    if config.model_type.startswith("gemma"):
        # these store a norm's weight less one
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.data -= 1.0
    folder = root / name
    model.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    input_ids = torch.randint(0, config.vocab_size, (sum(lengths),), generator=generator)
    with torch.no_grad():
        logits = torch.cat([model(part[None], use_cache=False).logits[0] for part in input_ids.split(lengths)])
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    tensors = {"input_ids": input_ids, "lengths": torch.tensor(lengths), "logits": logits.contiguous()}
    save_file(tensors, folder / "golden_logits.safetensors")
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{folder}: {size / 1024:.0f} KiB, logits within {logits.abs().max():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="only these folders")
    arguments = parser.parse_args()
    root, wanted = arguments.root, lambda name: not arguments.names or name in arguments.names
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(CASES.items(), start=1):
        if wanted(name):
            write_case(root, name, config, seed)
    for seed, (name, (config, lengths)) in enumerate(RAGGED_CASES.items(), start=101):
        if wanted(name):
            write_ragged_case(root, name, config, lengths, seed)


if __name__ == "__main__":
    main()
