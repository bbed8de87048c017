"""The tokenizer of ds4-nano: byte-level BPE with the family's three-stage split. Standard library only.

Tokenizer reads a Hugging Face tokenizer.json (model.vocab, model.merges, added_tokens). encode matches added tokens in
the text; encode_plain does not. split_into_pieces is the pre-tokenizer: three stages, each cutting the pieces left by the
one before, matches and gaps alike:
  1. \\p{N}{1,3}
  2. [\\u4E00-\\u9FA5\\u3040-\\u309F\\u30A0-\\u30FF]+
  3. [!-/:-@\\[-`{-~][A-Za-z]+ | [^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+ | " "?[\\p{P}\\p{S}]+[\\r\\n]* | \\s*[\\r\\n]+ | \\s+(?!\\S) | \\s+
"""

import json
import re
import sys
import unicodedata

WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# The added tokens, spelled as in the family's tokenizer. The first three have the ids 0, 1, 2; the others come last.
FIRST_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
LAST_TOKENS = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>", "<｜action｜>",
               "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜title｜>", "<｜extracted_url｜>", "<｜read_url｜>",
               "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<|EOT|>"]
BOS, EOS, PAD = 0, 1, 2


def _category_class(letters):
    """The inside of a regex [...] with every code point whose general category starts with one of `letters`."""
    ranges, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] in letters
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)


_N, _L, _M, _PS = (_category_class(letters) for letters in ("N", "L", "M", "PS"))
_DIGITS = re.compile(f"[{_N}]{{1,3}}")
_CJK = re.compile("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+")
_REST = re.compile("|".join([
    r"[!-/:-@\[-`{-~][A-Za-z]+",
    rf"[^\r\n{_L}{_PS}]?[{_L}{_M}]+",
    rf" ?[{_PS}]+[\r\n]*",
    rf"[{WHITE_SPACE}]*[\r\n]+",
    rf"[{WHITE_SPACE}]+(?![^{WHITE_SPACE}])",
    rf"[{WHITE_SPACE}]+"]))


def _cut(pieces, pattern):
    for piece in pieces:
        end = 0
        for match in pattern.finditer(piece):
            if match.start() > end:
                yield piece[end:match.start()]
            yield match[0]
            end = match.end()
        if end < len(piece):
            yield piece[end:]


def split_into_pieces(text):
    return _cut(_cut(_cut([text], _DIGITS), _CJK), _REST)


def byte_symbols():
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, spare = {}, 256
    for byte in range(256):
        symbols[byte] = chr(byte) if byte in plain else chr(spare)
        spare += byte not in plain
    return symbols


class Tokenizer:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        self.vocab = data["model"]["vocab"]
        merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in data["model"]["merges"]]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.added = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
        longest_first = sorted(self.added, key=len, reverse=True)
        self.special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.symbols = byte_symbols()
        bytes_of = {symbol: byte for byte, symbol in self.symbols.items()}
        self.bytes = {i: bytes(bytes_of[c] for c in token) for token, i in self.vocab.items() if token not in self.added}
        self.bytes.update({i: token.encode() for token, i in self.added.items()})
        self.size = 1 + max(self.bytes)
        self.cache = {}

    def _piece(self, piece):
        parts = [self.symbols[byte] for byte in piece.encode()]
        while len(parts) > 1:
            ranked = [(self.ranks.get(pair, 1 << 30), at) for at, pair in enumerate(zip(parts, parts[1:]))]
            rank, at = min(ranked)
            if rank == 1 << 30:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.vocab[part] for part in parts]

    def encode_plain(self, text):
        out, cache = [], self.cache
        for piece in split_into_pieces(text):
            ids = cache.get(piece)
            if ids is None:
                ids = cache[piece] = self._piece(piece)
            out += ids
        return out

    def encode(self, text):
        out = []
        for at, part in enumerate(self.special.split(text)):
            out += [self.added[part]] if at % 2 else self.encode_plain(part)
        return out

    def decode(self, ids):
        return b"".join(self.bytes.get(int(i), b"") for i in ids).decode(errors="replace")
