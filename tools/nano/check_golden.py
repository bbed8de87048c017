#!/usr/bin/env python3
"""Compare model.py with the golden models, which an independent implementation computed.

    python3 check_golden.py GOLDEN_DIR [--device cuda]

Exact rows: every listed logit within 1e-3 and every argmax equal, in float32. The clamp set likewise. Rounded rows: at
most 1.5 % of argmax differ, median nll difference below 0.005. Exits 1 when a bound is missed. Needs PyTorch.
"""

import argparse
import dataclasses
import pathlib
import sys

import torch

import model as nano
import safetensors_io


def e8m0(scale):
    return torch.exp2(scale.float() - 127)


def dequantise(tensors, types):
    """FP8 tiles of 128 x 128 and FP4 pairs of the official storage to float32."""
    signs_exp = torch.arange(256)
    exponent, mantissa = (signs_exp >> 3) & 15, signs_exp & 7
    e4m3 = torch.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * torch.exp2((exponent - 10).float()))
    e4m3 = torch.where(signs_exp >= 128, -e4m3, e4m3)
    e2m1 = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6])
    out = {}
    for name, tensor in tensors.items():
        scale = tensors.get(name[:-len("weight")] + "scale") if name.endswith(".weight") else None
        if name.endswith(".scale") and types[name] == "F8_E8M0":
            continue
        if scale is not None and types[name] == "F8_E4M3":
            tiles = e8m0(scale).repeat_interleave(128, 0).repeat_interleave(128, 1)
            tensor = e4m3[tensor.long()] * tiles[:tensor.shape[0], :tensor.shape[1]]
        elif scale is not None:
            codes = tensor.view(torch.uint8).long()
            values = torch.stack([e2m1[codes & 15], e2m1[codes >> 4]], -1).flatten(-2)
            tensor = values * e8m0(scale).repeat_interleave(32, 1)
        out[name] = tensor.float() if tensor.is_floating_point() else tensor
    return out


def load_model(folder, device):
    config = nano.Config.load(folder / "config.json")
    tensors = dequantise(*safetensors_io.load(folder / "model.safetensors"))
    model = nano.Model(config)
    model.load_state_dict(nano.weights_from_checkpoint(tensors, config))
    return model.to(device)


def compare(model, golden, mode, device):
    ids = golden["input_ids"].long()[None].to(device)
    with torch.no_grad():
        logits = model(ids, mode)[0].float().cpu()
    worst = (logits[golden["logits_rows"].long()] - golden["logits"]).abs().amax(-1)
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:].cpu(), reduction="none")
    changed = int((logits.argmax(-1) != golden["argmax"].long()).sum())
    return worst, (nll - golden["nll"]).abs(), changed, len(golden["argmax"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("golden", type=pathlib.Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    good = True
    for folder in sorted(path.parent for path in args.golden.glob("*/config.json")):
        model = load_model(folder, args.device)
        for name, rounded in (("golden", False), ("golden-clamp", False), ("golden-official-kv", True)):
            path = folder / f"{name}.safetensors"
            if not path.exists():
                continue
            limit = model.config.swiglu_limit
            if name == "golden-clamp":
                for module in model.modules():
                    if hasattr(module, "config"):
                        module.config = dataclasses.replace(model.config, swiglu_limit=1.5)
            worst, nll, changed, count = compare(model, safetensors_io.load(path)[0], nano.Mode(rounded_kv=rounded), args.device)
            if rounded:
                ok = changed <= 0.015 * count and nll.median() < 0.005 and worst.median() < 0.02
            else:
                ok = bool(worst.max() < 1e-3) and changed == 0
            for module in model.modules():
                if hasattr(module, "config"):
                    module.config = dataclasses.replace(model.config, swiglu_limit=limit)
            good &= bool(ok)
            print(f"{folder.name:14} {name:20} logits: max {worst.max():.2e} median of rows {worst.median():.2e}  "
                  f"nll: max {nll.max():.2e} median {nll.median():.2e}  argmax changed {changed} of {count}  "
                  f"{'ok' if ok else 'BAD'}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
