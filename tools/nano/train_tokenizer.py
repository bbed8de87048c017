#!/usr/bin/env python3
"""Train the byte-level BPE of ds4-nano and write it as a Hugging Face tokenizer.json.

    python3 train_tokenizer.py OUT.json --texts texts.jsonl --conversations conversations.jsonl [--size 4096]

Ids: 0, 1, 2 are BOS, EOS and pad; then the 256 bytes; then one token per merge; the other added tokens come last. Only
training texts are read. Digits never merge: every number is spelled digit by digit, which makes arithmetic and copying
of numbers learnable for a small model. Standard library only; about two minutes.
"""

import argparse
import collections
import heapq
import json
import re

from tokenizer import FIRST_TOKENS, LAST_TOKENS, byte_symbols, split_into_pieces

WEIGHTS = {"kjv": 0.5, "code": 0.4, "sqlite": 0.8}  # of a text's counts; 1 for the others
SPLIT = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
         r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+"]


def count_pieces(texts, conversations):
    counts = collections.Counter()
    special = re.compile("|".join(map(re.escape, FIRST_TOKENS + LAST_TOKENS)))
    with open(texts, encoding="utf-8") as file:
        for doc in map(json.loads, file):
            if doc["split"] == "train":
                weight = WEIGHTS.get(doc["source"], 1)
                for piece, n in collections.Counter(split_into_pieces(doc["text"])).items():
                    counts[piece] += n * weight
    with open(conversations, encoding="utf-8") as file:
        for conversation in map(json.loads, file):
            if conversation["split"] == "train":
                for text, _ in conversation["segments"]:
                    for part in special.split(text):
                        counts.update(split_into_pieces(part))
    return counts


def train(counts, merges_wanted):
    """Greedy BPE: merge the most frequent pair, ties to the lexically smaller, until enough or none occurs twice."""
    symbols = byte_symbols()
    words, frequency = [], []
    for piece, n in counts.items():
        if n >= 2 and not any(c.isnumeric() for c in piece):
            words.append([symbols[byte] for byte in piece.encode()])
            frequency.append(n)
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for at, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += frequency[at]
            where[pair].add(at)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges = []
    while heap and len(merges) < merges_wanted:
        n, pair = heapq.heappop(heap)
        if -n != pairs[pair]:
            if pairs[pair] > 0:
                heapq.heappush(heap, (-pairs[pair], pair))
            continue
        if -n < 2:
            break
        merges.append(pair)
        joined = pair[0] + pair[1]
        changed = set()
        for at in where.pop(pair):
            word, count = words[at], frequency[at]
            new, i = [], 0
            while i < len(word):
                if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
                    new.append(joined)
                    i += 2
                else:
                    new.append(word[i])
                    i += 1
            for old in zip(word, word[1:]):
                pairs[old] -= count
            for fresh in zip(new, new[1:]):
                pairs[fresh] += count
                where[fresh].add(at)
                changed.add(fresh)
            words[at] = new
        pairs.pop(pair, None)
        for fresh in changed:
            if pairs[fresh] > 0:
                heapq.heappush(heap, (-pairs[fresh], fresh))
    return merges


def tokenizer_json(merges):
    tokens = FIRST_TOKENS + list(byte_symbols().values()) + [a + b for a, b in merges] + LAST_TOKENS
    assert len(set(tokens)) == len(tokens)
    ids = {token: i for i, token in enumerate(tokens)}
    added = [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for token in FIRST_TOKENS + LAST_TOKENS]
    stages = [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in SPLIT]
    stages.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": stages}, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {t: i for t, i in ids.items() if t not in FIRST_TOKENS + LAST_TOKENS},
                      "merges": [f"{a} {b}" for a, b in merges]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--texts", required=True)
    parser.add_argument("--conversations", required=True)
    parser.add_argument("--size", type=int, default=4096)
    args = parser.parse_args()
    merges = train(count_pieces(args.texts, args.conversations), args.size - 256 - len(FIRST_TOKENS) - len(LAST_TOKENS))
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(tokenizer_json(merges), file, ensure_ascii=False)
    print(f"{len(merges)} merges; the last ones: {merges[-5:]}")


if __name__ == "__main__":
    main()
