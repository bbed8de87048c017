"""Training rows for ds4-nano: token ids and loss masks, made by worker processes while the GPU computes.

Texts are one stream of documents per source, from which rows are cut anywhere. Conversations are generated afresh,
tokenised and packed whole into rows (a conversation that lost its beginning teaches guessing). A row is T tokens and T
mask bits; the mask says which tokens the model learns to predict.
"""

import json
import multiprocessing
import os
import pathlib
import random

import numpy as np

from make_conversations import Maker, load
from tokenizer import BOS, EOS, PAD, Tokenizer

SOURCES = ["factbook", "sqlite", "jargon", "kjv", "devil", "code"]
KIND_NAMES = [*Maker.KINDS, *SOURCES]


def text_streams(path, tokenizer, split):
    """{source: (tokens uint16, bytes of text)}: every document between BOS and EOS. Kept in a file beside the texts."""
    cache = pathlib.Path(path).with_name(f"tokens-{split}.npz")
    if cache.exists():
        kept = np.load(cache)
        return {source: (kept[source], int(kept[source + "-bytes"])) for source in SOURCES}
    tokens, size = {source: [] for source in SOURCES}, dict.fromkeys(SOURCES, 0)
    with open(path, encoding="utf-8") as file:
        documents = [doc for doc in map(json.loads, file) if doc["split"] == split]
    with multiprocessing.get_context("fork").Pool(min(8, os.cpu_count())) as pool:
        each = pool.map(tokenizer.encode_plain, [doc["text"] for doc in documents], chunksize=64)
    for doc, ids in zip(documents, each):
        tokens[doc["source"]] += [BOS, *ids, EOS]
        size[doc["source"]] += len(doc["text"].encode())
    streams = {source: (np.array(ids, np.uint16), size[source]) for source, ids in tokens.items()}
    np.savez(cache, **{source: ids for source, (ids, _) in streams.items()},
             **{source + "-bytes": count for source, (_, count) in streams.items()})
    return streams


def tokens_of(conversation, tokenizer):
    """(ids, mask) of a conversation. A segment is tokenised by itself, as the engine does with turns. The mask is a weight
    in the loss: a recalled fact is few tokens after many."""
    ids, mask, weight = [], [], 3 if conversation["kind"] == "recall" else 1
    for text, learned in conversation["segments"]:
        part = tokenizer.encode(text)
        ids += part
        mask += [learned * weight] * len(part)
    return ids, mask


class Packer:
    """Packs whole conversations into rows of `length`, filling several open rows at a time."""

    def __init__(self, length, open_rows=6):
        self.length, self.open_rows, self.rows = length, open_rows, []

    def add(self, ids, mask, kind):
        """Returns a finished row (ids, mask, kinds) or None."""
        if len(ids) > self.length:
            return None
        fitting = [row for row in self.rows if len(row[0]) + len(ids) <= self.length]
        if fitting:
            row = max(fitting, key=lambda row: len(row[0]))
        else:
            row = ([], [], [])
            self.rows.append(row)
        row[0].extend(ids)
        row[1].extend(mask)
        row[2].extend([kind] * len(ids))
        if len(self.rows) <= self.open_rows:
            return None
        fullest = max(range(len(self.rows)), key=lambda at: len(self.rows[at][0]))
        return self.finish(self.rows.pop(fullest))

    def finish(self, row):
        lack = self.length - len(row[0])
        return (np.array(row[0] + [PAD] * lack, np.uint16), np.array(row[1] + [0] * lack, np.uint8),
                np.array(row[2] + [0] * lack, np.uint8))


def conversation_rows(texts, countries, tokenizer, split, seed, length, recall_chars, weights=None):
    """Endless rows of packed conversations."""
    facts, documents = load(texts, countries, split)
    maker = Maker(random.Random(f"{split}/{seed}"), facts, documents, split == "heldout", recall_chars)
    if weights:
        maker.KINDS = weights
    packer = Packer(length)
    kind_ids = {kind: at for at, kind in enumerate(KIND_NAMES)}
    while True:
        conversation = maker.conversation()
        ids, mask = tokens_of(conversation, tokenizer)
        row = packer.add(ids, mask, kind_ids[conversation["kind"]])
        if row is not None:
            yield row


def _work(queue, texts, countries, vocabulary, seed, length, recall_chars, weights, block):
    os.nice(10)
    rows = conversation_rows(texts, countries, Tokenizer(vocabulary), "train", seed, length, recall_chars, weights)
    while True:
        queue.put([np.stack(part) for part in zip(*(next(rows) for _ in range(block)))])


class Workers:
    """Processes that keep a queue of blocks of rows full."""

    def __init__(self, texts, countries, vocabulary, seed, length, recall_chars, weights=None, processes=12, block=16):
        context = multiprocessing.get_context("spawn")
        self.queue = context.Queue(maxsize=max(4, (1 << 21) // (length * block)))
        self.processes = [context.Process(target=_work, daemon=True, args=(
            self.queue, texts, countries, vocabulary, f"{seed}.{at}", length, recall_chars, weights, block))
            for at in range(processes)]
        for process in self.processes:
            process.start()
        self.left = None

    def rows(self, count):
        """(ids, mask, kinds), each [count, length]."""
        parts, have = [], 0
        while have < count:
            block = self.left if self.left is not None else self.queue.get()
            take = min(count - have, len(block[0]))
            parts.append([part[:take] for part in block])
            self.left = [part[take:] for part in block] if take < len(block[0]) else None
            have += take
        return [np.concatenate(column) for column in zip(*parts)]

    def stop(self):
        for process in self.processes:
            process.terminate()


def text_rows(streams, rng, count, length):
    """Rows cut from the sources' streams at random places: (ids, mask, kinds). A source comes as often as it is long: what
    is seen more often than the rest is soon known by heart, and its held-out part gets worse."""
    weights = np.array([len(streams[source][0]) for source in SOURCES], float)
    ids, kinds = [], []
    for source in rng.choice(SOURCES, count, p=weights / weights.sum()):
        stream = streams[source][0]
        at = rng.integers(0, len(stream) - length)
        ids.append(stream[at:at + length])
        kinds.append(np.full(length, KIND_NAMES.index(source), np.uint8))
    ids = np.stack(ids)
    return ids, (ids != BOS).astype(np.uint8), np.stack(kinds)
