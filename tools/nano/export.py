#!/usr/bin/env python3
"""Write trained weights as a checkpoint in the official layout, for ds4-quantize --hf.

    python3 export.py --config config.json --weights DIR --tokenizer tokenizer.json --out DIR [--mxfp4-experts]

Writes config.json, tokenizer.json and model.safetensors with the official tensor names: bfloat16 matrices and norms,
float32 for the hyper-connections, sinks, ape and biases, int64 for the tables of the hash-routed layers. --mxfp4-experts
rounds the experts to the MXFP4 grid first, as the last part of training saw them, so that converting to MXFP4 loses
nothing. Needs PyTorch (a CPU is enough) and NumPy.
"""

import argparse
import json
import pathlib
import shutil

import torch

import model as nano
import safetensors_io
from train_state import fill_hash_tables, load_weights

FLOAT32 = ("attn_sink", "ape", "gate.bias")


def official_dtype(name, tensor):
    if not tensor.is_floating_point():
        return torch.int64
    return torch.float32 if name.endswith(FLOAT32) or "hc_" in name else torch.bfloat16


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("config", "weights", "tokenizer", "out"):
        parser.add_argument("--" + name, type=pathlib.Path, required=True)
    parser.add_argument("--mxfp4-experts", action="store_true")
    args = parser.parse_args()
    config = nano.Config.load(args.config)
    model = nano.Model(config)
    fill_hash_tables(model, config)
    load_weights(model, args.weights)
    if args.mxfp4_experts:
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if name.endswith(("experts.w13", "ffn.experts.w2")):
                    tensor.copy_(nano.round_mxfp4(tensor))
    args.out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(official_dtype(name, tensor)) for name, tensor in nano.weights_to_checkpoint(model).items()}
    safetensors_io.save(args.out / "model.safetensors", tensors)
    with open(args.config, encoding="utf-8") as file:
        (args.out / "config.json").write_text(json.dumps(json.load(file), indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(args.tokenizer, args.out / "tokenizer.json")
    print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values, "
          f"{sum(t.numel() * t.element_size() for t in tensors.values())} bytes")


if __name__ == "__main__":
    main()
