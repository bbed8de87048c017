#!/usr/bin/env python3
"""Make the weights of a training piece smaller for the way to the next machine, without loss.

    python3 pack_weights.py pack PIECE PACKED      python3 pack_weights.py unpack PACKED PIECE

A bfloat16's high byte (sign and most of the exponent) compresses well, its low byte does not: the two are kept apart,
and the high bytes go through xz. 36 MB become about 26. Standard library only.
"""

import lzma
import pathlib
import sys


def pack(source, target):
    for path in sorted(source.glob("weights-*.safetensors")):
        data = path.read_bytes()
        (target / (path.name + ".lo")).write_bytes(data[0::2])
        (target / (path.name + ".hi.xz")).write_bytes(lzma.compress(data[1::2], preset=1))


def unpack(source, target):
    for path in sorted(source.glob("*.lo")):
        low, high = path.read_bytes(), lzma.decompress(path.with_suffix(".hi.xz").read_bytes())
        data = bytearray(len(low) + len(high))
        data[0::2], data[1::2] = low, high
        (target / path.stem).write_bytes(data)


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("pack", "unpack"):
        sys.exit(__doc__)
    source, target = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    target.mkdir(parents=True, exist_ok=True)
    (pack if sys.argv[1] == "pack" else unpack)(source, target)


if __name__ == "__main__":
    main()
