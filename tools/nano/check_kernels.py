#!/usr/bin/env python3
"""Compare the CUDA kernels of the training code with their plain forms, and the tokenizer with Hugging Face's.

    python3 check_kernels.py [--tokenizer tokenizer.json --texts texts.jsonl]

Needs PyTorch with CUDA and Triton; the tokenizer check needs the tokenizers package.
"""

import argparse
import json
import pathlib

import torch

import model as nano


def distance(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


def check_sinkhorn():
    torch.manual_seed(3)
    m = (torch.randn(3001, 4, 4, device="cuda") * 2).requires_grad_()
    grad = torch.randn(3001, 4, 4, device="cuda")
    plain = nano.sinkhorn(m, 1e-6, 20, fused=False)
    (want,) = torch.autograd.grad(plain, m, grad)
    fused = nano.sinkhorn(m, 1e-6, 20, fused=True)
    (got,) = torch.autograd.grad(fused, m, grad)
    print(f"sinkhorn: forward {distance(fused, plain):.1e}, gradient {distance(got, want):.1e}")
    assert distance(fused, plain) < 1e-5 and distance(got, want) < 1e-4


def check_experts():
    torch.manual_seed(4)
    config = nano.Config.load(pathlib.Path(__file__).parent / "config.json")
    moe = nano.MoE(config, hashed=False).cuda()
    x = torch.randn(2, 640, config.hidden_size, device="cuda").requires_grad_()
    ids = torch.zeros(2, 640, dtype=torch.long, device="cuda")
    grad = torch.randn_like(x)
    results = []
    for mode in (nano.Mode(), nano.Mode(compute=torch.bfloat16, fused=True)):
        out, load = moe(x, ids, mode)
        results.append((out, load, torch.autograd.grad(out, [x, moe.experts.w13, moe.experts.w2, moe.gate.weight], grad)))
    (plain, load, wanted), (fused, load2, got) = results
    errors = [distance(a, b) for a, b in zip([fused, *got], [plain, *wanted])]
    print("experts:", " ".join(f"{error:.1e}" for error in errors))
    assert torch.equal(load, load2) and max(errors) < 2e-2


def check_tokenizer(path, texts):
    import tokenizers

    from tokenizer import Tokenizer
    ours, theirs = Tokenizer(path), tokenizers.Tokenizer.from_file(path)
    count = size = 0
    samples = ["naïve  12345 \u3000x\r\n\r\n ｜ 漢字かな１２３ \u0301e \x85 ¼ don't __init__(self)\t\t\n <think>a</think>"]
    with open(texts, encoding="utf-8") as file:
        samples += [json.loads(line)["text"] for at, line in enumerate(file) if at % 97 == 0]
    for text in samples:
        a, b = ours.encode(text), theirs.encode(text, add_special_tokens=False).ids
        assert a == b, next((i, a[i:i + 5], b[i:i + 5]) for i in range(len(a)) if a[i:i + 1] != b[i:i + 1])
        assert ours.decode(a) == text
        count, size = count + len(a), size + len(text.encode())
    print(f"tokenizer: {len(samples)} texts agree, {size / count:.2f} bytes per token")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--texts", default="")
    args = parser.parse_args()
    check_sinkhorn()
    check_experts()
    if args.tokenizer:
        check_tokenizer(args.tokenizer, args.texts)


if __name__ == "__main__":
    main()
