"""Weights of a ds4 GGUF file as a state dict of model.Model: what a training piece may start from without its checkpoint.

Reads F32, F16, BF16, I32, Q8_0 and MXFP4. Needs PyTorch and NumPy.
"""

import re
import struct

import numpy as np
import torch

FP4 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCK = {0: (1, 4), 1: (1, 2), 8: (32, 34), 26: (1, 4), 30: (1, 2), 39: (32, 17)}  # type: (elements, bytes)
GLOBAL = {"token_embd.weight": "embed.weight", "output_hc_fn.weight": "hc_head_fn", "output_hc_base.weight": "hc_head_base",
          "output_hc_scale.weight": "hc_head_scale", "output_norm.weight": "norm.weight", "output.weight": "head.weight"}
PART = {"attn_q_a": "attn.wq_a", "attn_q_a_norm": "attn.q_norm", "attn_q_b": "attn.wq_b", "attn_kv": "attn.wkv",
        "attn_kv_a_norm": "attn.kv_norm", "attn_output_a": "attn.wo_a", "attn_output_b": "attn.wo_b",
        "indexer.attn_q_b": "attn.indexer.wq_b", "indexer.proj": "attn.indexer.weights_proj", "ffn_gate_inp": "ffn.gate",
        "ffn_gate_shexp": "ffn.shared_experts.w1", "ffn_up_shexp": "ffn.shared_experts.w3",
        "ffn_down_shexp": "ffn.shared_experts.w2"}
PART |= {f"{to}_{part}": f"{of}.compressor.{name}" for to, of in (("attn_compressor", "attn"), ("indexer_compressor", "attn.indexer"))
         for part, name in (("kv", "wkv"), ("gate", "wgate"), ("norm", "norm"))}
BARE = {"attn_sinks": "attn.attn_sink", "attn_compressor_ape": "attn.compressor.ape", "ffn_gate_tid2eid": "ffn.gate.tid2eid",
        "indexer_compressor_ape": "attn.indexer.compressor.ape"}


class Reader:
    SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, code):
        size = struct.calcsize(code)
        self.at += size
        return struct.unpack("<" + code, self.data[self.at - size:self.at])[0]

    def text(self):
        size = self.number("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(self.SIZES[kind])


def values_of(kind, raw):
    if kind == 0:
        return raw.view(np.float32)
    if kind == 1:
        return raw.view(np.float16).astype(np.float32)
    if kind == 26:
        return raw.view(np.int32)
    if kind == 30:
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind == 8:
        blocks = raw.reshape(-1, 34)
        return (blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].view(np.int8)).ravel()
    blocks = raw.reshape(-1, 17)
    codes = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], 1)
    return (FP4[codes] * np.exp2(blocks[:, :1].astype(np.float32) - 127)).ravel()


def read(path):
    """(metadata, {tensor name: array in NumPy's order of dimensions})."""
    data = open(path, "rb").read()
    reader = Reader(data)
    assert data[:4] == b"GGUF", path
    reader.at = 4
    reader.number("I")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    metadata = {}
    for _ in range(pairs):
        key = reader.text()
        metadata[key] = reader.value(reader.number("I"))
    infos = []
    for _ in range(tensors):
        name = reader.text()
        dims = [reader.number("Q") for _ in range(reader.number("I"))]
        infos.append((name, dims, reader.number("I"), reader.number("Q")))
    align = metadata.get("general.alignment", 32)
    base = -(-reader.at // align) * align
    out = {}
    for name, dims, kind, offset in infos:
        elements, size = BLOCK[kind]
        count = int(np.prod(dims))
        raw = np.frombuffer(data, np.uint8, count // elements * size, base + offset)
        out[name] = values_of(kind, raw).reshape(dims[::-1])
    return metadata, out


def official(part):
    """The checkpoint's name of a tensor inside a block."""
    if part == "exp_probs_b.bias":
        return "ffn.gate.bias"
    stem = part.removesuffix(".weight")
    return BARE.get(stem) or (PART[stem] + ".weight" if stem in PART else stem + ("" if stem.startswith("hc_") else ".weight"))


def state_dict(path):
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in read(path)[1].items()}
    out = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(blk|mtp)\.(\d+)\.(.*)", name)
        if not block:
            out[GLOBAL[name]] = tensor
            continue
        prefix = f"{'layers' if block[1] == 'blk' else 'mtp'}.{block[2]}."
        if block[3] == "ffn_gate_exps.weight":
            up = tensors[name.replace("gate", "up")]
            out[prefix + "ffn.experts.w13"] = torch.cat([tensor, up], 1)
        elif block[3] == "ffn_down_exps.weight":
            out[prefix + "ffn.experts.w2"] = tensor
        elif block[3] != "ffn_up_exps.weight":
            part = official(block[3])
            out[prefix + part] = tensor.long() if part.endswith("tid2eid") else tensor.float()
    return out
