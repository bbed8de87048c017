#!/usr/bin/env python3
"""Tables of a step's kernels from a trace (src/backend/cuda/trace.cuh).

    cmake -S . -B build/trace -G Ninja -DCMAKE_BUILD_TYPE=Release -DDS4_CORE_ONLY=ON -DDS4_CUDA=ON -DDS4_CUDA_TRACE=ON
    ninja -C build/trace ds4-bench
    DS4_CUDA_TRACE_OUT=trace.txt build/trace/bin/ds4-bench --device cuda --synthetic flash:43 --fill 2K --gen-tokens 16
    bench/phases.py trace.txt [--from KERNEL] [--least N]

The trace is cut where the kernel of --from begins [sums_kernel: a sub-layer]. Pieces of the same kernels are one table:
how many there were, their median length, and for each kernel in the order in which it had what it waited for the median
time of that since the piece began, the time since the kernel before, when its first block came, and its blocks. Times are
in microseconds; of two kernels that were ready in the same 32 ns one is missing, so a rare table may be an incomplete one.
"""

import argparse
import collections
import pathlib
import re
import signal
import statistics

SOURCES = pathlib.Path(__file__).parents[1] / "src/backend/cuda"


def name_hash(name):
    value = 0
    for c in name:
        value = (value * 31 + ord(c)) & 0xFFFFFFFF
    return value


def kernel_at(path, line):
    """The last function that begins at or before the line, or the file's name and the line in a header."""
    if path.suffix == ".cuh":
        return f"{path.stem}:{line}"
    name = None
    for text in path.read_text(encoding="utf-8").split("\n")[:line]:
        if found := re.search(r"\b(\w+_kernel)\(", text):
            name = found[1]
    return name or f"{path.stem}:{line}"


def read(path):
    files = {name_hash(p.name): p for p in SOURCES.iterdir()}
    names = {}
    entries = []
    with open(path, encoding="utf-8") as trace:
        for text in trace:
            ready, came, file, line, blocks = map(int, text.split())
            if (file, line) not in names:
                names[file, line] = kernel_at(files[file], line) if file in files else f"?:{line}"
            entries.append((ready, came, names[file, line], blocks))
    return sorted(entries)


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--from", dest="first", default="sums_kernel", metavar="KERNEL", help="what a piece begins with")
    parser.add_argument("--least", type=int, default=10, metavar="N", help="tables of fewer pieces are left out [10]")
    args = parser.parse_args()

    entries = read(args.trace)
    cuts = [i for i, entry in enumerate(entries) if entry[2] == args.first]
    if len(cuts) < 2:
        parser.error(f"{args.trace}: expected kernel {args.first} twice or more, found it {len(cuts)} times among "
                     + (", ".join(sorted({entry[2] for entry in entries})) or "no entries"))
    tables = collections.defaultdict(list)
    for begin, end in zip(cuts, cuts[1:]):
        piece = entries[begin:end]
        kernels = collections.Counter((name, blocks) for _, _, name, blocks in piece)
        tables[frozenset(kernels.items())].append((piece, entries[end][0]))

    for pieces in sorted(tables.values(), key=len, reverse=True):
        if len(pieces) < args.least:
            break
        length = statistics.median(end - piece[0][0] for piece, end in pieces) / 1000
        print(f"{len(pieces)} times {length:.1f} us")
        ready = collections.defaultdict(list)
        came = collections.defaultdict(list)
        for piece, _ in pieces:
            seen = collections.Counter()
            for at, arrived, name, blocks in piece:
                key = name, blocks, seen[name, blocks]
                seen[name, blocks] += 1
                ready[key].append((at - piece[0][0]) / 1000)
                came[key].append((arrived - piece[0][0]) / 1000)
        before = 0.0
        for key in sorted(ready, key=lambda k: statistics.median(ready[k])):
            at = statistics.median(ready[key])
            print(f"  {at:8.2f}  +{at - before:6.2f}  came {statistics.median(came[key]):8.2f}  {key[0]} of {key[1]} blocks")
            before = at
        print()


if __name__ == "__main__":
    main()
