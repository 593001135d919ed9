#!/usr/bin/env python3
"""Tiny random RoBERTa folders, the outputs of their heads, and ten steps of training them, all computed by transformers in f64.

What: writes `testdata/encoders/<name>/`, each a Hugging Face model folder (config, f32 weights, no tokenizer) plus `golden.safetensors`:
`input_ids` [tokens] (I64, sequences one after the other), `lengths` [n], `outputs` [n, labels] (F64), each sequence run by itself without
padding; `targets` [n] (F64: classes or numbers), and `losses` [10] of full fine-tuning, before each update. Why: the Rust encoder must read
such folders, agree with transformers and train as PyTorch does. `roberta_bare` (no head, names without `roberta.`) and `roberta_masked` (the
head for masked tokens instead) hold the encoder of `roberta_2`; they have no numbers of their own. `adapter` is what PEFT saves of LoRA and
of a head with three outputs on `roberta_masked`, with `outputs` for the sequences of `roberta_2`.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy
    python scripts/golden_encoders.py testdata/encoders

A step: the mean loss over all sequences (cross-entropy, or the squared error of a number), the gradient clipped to norm 1, AdamW (0.9, 0.999,
1e-8, no decay) with a learning rate of 0.01 on every parameter. Dropouts stand in the configurations and are off here.
"""
import argparse, pathlib

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

LENGTHS = [9, 1, 33, 14, 70, 5]
STEPS, LR, CLIP = 10, 0.01, 1.0
SHAPE = dict(
    vocab_size=60, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=74,
    type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2, hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1)
# `roberta_2` with another number of token types and another norm epsilon; the others with three classes, and with a number.
CASES = {
    "roberta_2": dict(SHAPE, num_labels=2, type_vocab_size=2, layer_norm_eps=1e-3),
    "roberta_3": dict(SHAPE, num_labels=3),
    "roberta_regression": dict(SHAPE, num_labels=1),
}


def randomise(model, generator):
    """Weights far from their usual start, so that errors show."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1.0 + 0.2 * noise if name.endswith("LayerNorm.weight") else 0.25 * noise)


def outputs(model, sequences):
    return torch.cat([model(sequence[None]).logits for sequence in sequences])


def train(model, sequences, targets):
    """The losses of ten steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        z = outputs(model, sequences)
        if z.shape[1] == 1:
            loss = torch.nn.functional.mse_loss(z[:, 0], targets)
        else:
            loss = torch.nn.functional.cross_entropy(z, targets.long())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses


def write_case(root, name, settings, seed):
    generator = torch.Generator().manual_seed(seed)
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**settings))
    randomise(model, generator)
    folder = root / name
    model.save_pretrained(folder)
    model = transformers.RobertaForSequenceClassification.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    # no padding tokens: transformers would count positions without them
    input_ids = torch.randint(3, settings["vocab_size"], (sum(LENGTHS),), generator=generator)
    sequences = input_ids.split(LENGTHS)
    labels = settings["num_labels"]
    targets = torch.randn(len(LENGTHS), generator=generator) if labels == 1 else torch.randint(0, labels, (len(LENGTHS),), generator=generator)
    targets = targets.double()
    with torch.no_grad():
        z = outputs(model, sequences)
    losses = train(model, sequences, targets)
    tensors = {
        "input_ids": input_ids, "lengths": torch.tensor(LENGTHS), "outputs": z.contiguous(), "targets": targets,
        "losses": torch.tensor(losses, dtype=torch.float64),
    }
    save_file(tensors, folder / "golden.safetensors")
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{folder}: {size / 1024:.0f} KiB, outputs {z[:3].tolist()}, losses {losses[0]:.4f} to {losses[-1]:.4f}")


def write_without_head(root, name, kind, source):
    """The encoder of `source` in a folder of another class."""
    config = transformers.RobertaConfig.from_pretrained(root / source)
    del config.id2label, config.label2id
    model = kind(config)
    held = load_file(root / source / "model.safetensors")
    prefix = "" if "roberta" in dict(model.named_children()) else "roberta."
    for key, parameter in model.named_parameters():
        if prefix + key in held:
            parameter.data.copy_(held[prefix + key])
    model.save_pretrained(root / name)
    print(root / name, sorted(load_file(root / name / "model.safetensors"))[:3])


def write_adapter(root, name, base, sequences_of):
    """LoRA and the head that PEFT saves with it, as PEFT writes them."""
    generator = torch.Generator().manual_seed(301)
    model = transformers.RobertaForSequenceClassification.from_pretrained(root / base, num_labels=3, dtype=torch.float64, attn_implementation="eager")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=3, target_modules=["query", "value"])).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.peft_config["default"].base_model_name_or_path = "../" + base
    model.save_pretrained(root / name)
    (root / name / "README.md").unlink(missing_ok=True)
    golden = load_file(root / sequences_of / "golden.safetensors")
    with torch.no_grad():
        z = outputs(model, golden["input_ids"].split(golden["lengths"].tolist()))
    save_file({"outputs": z.contiguous()}, root / name / "golden.safetensors")
    print(root / name, sorted(p.name for p in (root / name).iterdir()), z[0].tolist())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=pathlib.Path)
    root = parser.parse_args().root
    torch.set_num_threads(1)
    for seed, (name, settings) in enumerate(CASES.items(), start=201):
        write_case(root, name, settings, seed)
    torch.manual_seed(1)
    write_without_head(root, "roberta_bare", transformers.RobertaModel, "roberta_2")
    write_without_head(root, "roberta_masked", transformers.RobertaForMaskedLM, "roberta_2")
    write_adapter(root, "adapter", "roberta_masked", "roberta_2")


if __name__ == "__main__":
    main()
