"""The cases of `golden_methods.py`: which model, which methods with which settings, whether the true start is kept.

What: three tables, of adapters that PEFT makes, of adapters in plain code, and of prefixes in this program's own folders. Why apart: the tables say what is
judged, the program how. Left to others: everything that runs.
"""
from peft import LoHaConfig, LoKrConfig, LoraConfig, MissConfig, PrefixTuningConfig

ATTENTION = ["q_proj", "v_proj"]

LORA = dict(r=4, lora_alpha=8, target_modules=ATTENTION)
LOKR = dict(r=64, alpha=64, init_weights="lycoris", target_modules=["q_proj", "v_proj", "up_proj"])
# name: (family, PEFT's settings, whether the true start is kept)
PEFT_CASES = {
    "lora_start": ("llama", LoraConfig(**LORA), True),
    "lora": ("qwen2", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), False),
    "lora_patterns": (
        "llama",
        LoraConfig(**LORA, rank_pattern={"q_proj": 6, "layers.1.self_attn.v_proj": 2}, alpha_pattern={"v_proj": 3}),
        False,
    ),
    "lora_rslora": ("qwen2", LoraConfig(**LORA, use_rslora=True), False),
    "dora_start": ("llama", LoraConfig(**LORA, use_dora=True), True),
    "dora": ("qwen2", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True), False),
    "dora_rslora": ("llama", LoraConfig(**LORA, use_dora=True, use_rslora=True), False),
    "lora_layers": ("qwen2", LoraConfig(**LORA, layers_to_transform=[1]), False),
    "lora_head_saved": ("llama", LoraConfig(**LORA, modules_to_save=["lm_head"]), False),
    "lora_norms_saved": ("llama", LoraConfig(**LORA, modules_to_save=["lm_head", "input_layernorm", "model.norm"]), False),
    "lora_regex": ("qwen2", LoraConfig(r=4, lora_alpha=8, target_modules=r"model\.layers\.\d+\.(self_attn\.[qk]|mlp\.up)_proj"), False),
    "lora_all_linear": ("llama", LoraConfig(r=2, lora_alpha=8, target_modules="all-linear"), False),
    "prefix": ("llama", PrefixTuningConfig(num_virtual_tokens=5), True),
    "prefix_grouped": ("qwen2", PrefixTuningConfig(num_virtual_tokens=5), True),
    "prefix_projection": ("qwen2", PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=12), True),
    "loha": ("qwen2", LoHaConfig(r=3, alpha=6, target_modules=["q_proj", "v_proj", "up_proj"]), False),
    "miss": ("llama", MissConfig(r=5, target_modules=["q_proj", "v_proj", "down_proj"]), False),
    "lokr_start": ("llama", LoKrConfig(**LOKR), True),
    "lokr": ("qwen2", LoKrConfig(**LOKR), False),
    "lokr_factor_4": ("llama", LoKrConfig(**LOKR, decompose_factor=4), False),
    "lokr_factor_8": ("llama", LoKrConfig(**LOKR, decompose_factor=8), False),
}


def own(kind, targets, **settings):
    """Settings of one entry, as they stand in `adapter_config.json`."""
    general = dict(base_model_name_or_path=None, bias="none", layers_to_transform=None, task_type="CAUSAL_LM", target_modules=targets)
    if kind != "LORA":
        general |= dict(quanta_format=1, dtype="float64")
    return general | settings | {"peft_type": kind}


MLP = ["gate_proj", "up_proj", "down_proj"]
ODD = ["q_proj", "v_proj", "up_proj", "down_proj"]
CIRCUIT = own("QUANTA", ["q_proj", "v_proj"], dims=[4, 4, 2], plan="4-4-2", init="uniform", dropout=0.0)
LOW_RANK = own(
    "LORA", ["q_proj", "v_proj"], r=4, lora_alpha=8, lora_dropout=0.0, fan_in_fan_out=False, init_lora_weights=True, rank_pattern={},
    alpha_pattern={}, use_rslora=False, use_dora=False, modules_to_save=None, layers_pattern=None, revision=None, inference_mode=True,
)  # fmt: skip
# name: (family, entries, whether it starts at the base's output)
OWN_CASES = {
    "series_start": ("llama", [own("SERIES", MLP, bottleneck=6, activation="tanh")], True),
    "series_mlp": ("qwen2", [own("SERIES", MLP, bottleneck=6, activation="tanh")], False),
    "series_output": ("llama", [own("SERIES", ["o_proj"], bottleneck=6, activation="relu")], False),
    "series_input": ("qwen2", [own("SERIES", ["q_proj"], bottleneck=5, activation="silu")], False),
    "parallel": ("qwen2", [own("PARALLEL", ["q_proj", "k_proj", "v_proj"], bottleneck=6, activation="tanh", scale=1.0)], False),
    "parallel_mlp": ("llama", [own("PARALLEL", ["up_proj", "down_proj"], bottleneck=5, activation="gelu", scale=4.0)], False),
    "mora_start": ("llama", [own("MORA", ATTENTION, r=3, variant="sharing")], True),
    "mora_sharing": ("llama", [own("MORA", ODD, r=5, variant="sharing")], False),
    "mora_rotation": ("llama", [own("MORA", ODD, r=5, variant="rotation")], False),
    "mora_sharing_grouped": ("qwen2", [own("MORA", ODD, r=3, variant="sharing")], False),
    "mora_rotation_grouped": ("qwen2", [own("MORA", ODD, r=3, variant="rotation")], False),
    "loretta_rep": (
        "llama",
        [own("LORETTA", ATTENTION, variant="rep", r=4, tt_rank=3, alpha=8.0, tt_shape_A=[8, 3, 4], tt_shape_B=[8, 3, 4])],
        False,
    ),
    "loretta_rep_tall": (
        "qwen2",
        [own("LORETTA", ["v_proj"], variant="rep", r=4, tt_rank=2, alpha=4.0, tt_shape_A=[2, 4, 4, 4], tt_shape_B=[4, 4, 2, 2])],
        False,
    ),
    "loretta_adp": (
        "llama",
        [
            own(
                "LORETTA", ["o_proj", "down_proj"], variant="adp", bottleneck=8, tt_rank=3, activation="tanh", tt_shape_down=[4, 6, 8],
                tt_shape_up=[4, 6, 8],
            )
        ],
        False,
    ),  # fmt: skip
    "loretta_adp_relu": (
        "qwen2",
        [
            own(
                "LORETTA", ["o_proj", "down_proj"], variant="adp", bottleneck=4, tt_rank=5, activation="relu", tt_shape_down=[8, 4, 2, 2],
                tt_shape_up=[2, 4, 8, 2],
            )
        ],
        False,
    ),  # fmt: skip
    "krona_start": ("llama", [own("KRONA", ["q_proj"], factor=[12, 8], scale=1.0)], True),
    "krona": ("llama", [own("KRONA", ["q_proj"], factor=[12, 8], scale=2.0)], False),
    "krona_wide": ("qwen2", [own("KRONA", ["up_proj"], factor=[14, 8], scale=1.0)], False),
    "magnitude_start": ("llama", [own("MAGNITUDE", ATTENTION)], True),
    "magnitude": ("qwen2", [own("MAGNITUDE", ["q_proj", "v_proj", "down_proj"])], False),
    "stack_circuit_magnitude": ("qwen2", [CIRCUIT, own("MAGNITUDE", ATTENTION)], False),
    "stack_circuit_lora": ("qwen2", [CIRCUIT, LOW_RANK], False),
    "stack_of_four": (
        "llama",
        [
            own("SERIES", ["q_proj", "o_proj"], bottleneck=4, activation="tanh"),
            LOW_RANK | {"target_modules": ["q_proj", "o_proj"]},
            own("PARALLEL", ["q_proj", "o_proj"], bottleneck=4, activation="silu", scale=2.0),
            own("MAGNITUDE", ["q_proj", "o_proj"]),
        ],
        False,
    ),
}

# PEFT saves only the result of a re-parameterised prefix; an own folder holds what trains as well. name: (family, entry, start)
OWN_PREFIX_CASES = {
    "prefix_projection_trained": (
        "qwen2",
        {
            "base_model_name_or_path": None, "dtype": "float64", "encoder_hidden_size": 12, "inference_mode": True, "init_weights": None,
            "modules_to_save": None, "num_attention_heads": None, "num_layers": None, "num_transformer_submodules": None,
            "num_virtual_tokens": 5, "peft_type": "PREFIX_TUNING", "prefix_projection": True, "quanta_format": 1, "revision": None,
            "task_type": "CAUSAL_LM", "token_dim": None,
        },
        False,
    ),
}  # fmt: skip
