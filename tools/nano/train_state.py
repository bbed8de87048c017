"""What a training run starts from and leaves behind: the hash-routing tables, and the weights as files.

Weights are stored in shards below SHARD_BYTES (matrices bfloat16, vectors float32), because a machine lent for training
may hand back small files only. The tables are not stored: they follow from the config.
"""

import pathlib

import numpy as np
import torch

import gguf_io
import safetensors_io

SHARD_BYTES = 15 << 20


def fill_hash_tables(model, config):
    """Each token's experts in the hash-routed layers: a fixed pseudo-random choice, the same number of tokens to each."""
    for layer in range(config.num_hash_layers):
        rng = np.random.default_rng(1000 + layer)
        table = np.zeros((config.vocab_size, config.num_experts_per_tok), np.int64)
        order = rng.permutation(config.vocab_size)
        first = np.arange(config.vocab_size) % config.n_routed_experts
        table[order, 0] = first
        for k in range(1, config.num_experts_per_tok):
            table[order, k] = (first + k + (np.arange(config.vocab_size) // config.n_routed_experts)
                               % (config.n_routed_experts - config.num_experts_per_tok + 1)) % config.n_routed_experts
        model.layers[layer].ffn.gate.tid2eid.copy_(torch.from_numpy(table))


def save_weights(model, folder):
    """bfloat16 for what training changes in matrices, float32 for biases; shards below SHARD_BYTES."""
    shard, size, number = {}, 0, 0
    for name, tensor in model.state_dict().items():
        if name.endswith("tid2eid"):
            continue
        tensor = tensor.float() if tensor.dim() == 1 else tensor.bfloat16()
        if shard and size + tensor.numel() * tensor.element_size() > SHARD_BYTES:
            safetensors_io.save(folder / f"weights-{number}.safetensors", shard)
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor
        size += tensor.numel() * tensor.element_size()
    safetensors_io.save(folder / f"weights-{number}.safetensors", shard)


def load_weights(model, source):
    """From a folder of shards, or from a GGUF file (rounded, as a start for more training)."""
    source, state = pathlib.Path(source), {}
    if source.is_file():
        state = gguf_io.state_dict(source)
    for path in sorted(source.glob("weights-*.safetensors")):
        state.update(safetensors_io.load(path)[0])
    lacking = model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    assert not lacking.unexpected_keys and all(name.endswith("tid2eid") for name in lacking.missing_keys), lacking
