"""What two bits cost ds4-nano, with and without an importance matrix (a part of score.py).

Both files are `ds4-quantize --recipe q2` of the checkpoint and are compared with its bfloat16 file on what no step has
seen: held-out documents, and held-out conversations of which only the answers count, each from a fresh start. The matrix
comes from documents and conversations of the training split. Standard library and NumPy.
"""

import json
import random

import numpy as np

from make_conversations import Maker, load

# Rules of the quantizer were chosen on "dev", which holds all that anyone looked at; "test" shares nothing with it.
SPLIT_CHARS = {"train": (0, 40000), "dev": (0, 100000), "test": (100000, 196000)}  # of every source's documents in a row
SPLIT_CONVERSATIONS = {"train": {"train": 400}, "dev": {"dev": 120, "test": 240}, "test": {"judge": 800}}  # {seed: count}
DRAWS = 2000


def documents_of(data, part, sources):
    """[(source, text)]: whole documents in a random order, the last one cut."""
    with open(data / "texts.jsonl", encoding="utf-8") as file:
        docs = [doc for doc in map(json.loads, file) if (doc["split"] == "train") == (part == "train")]
    rng, out = random.Random(5), []
    begin, end = SPLIT_CHARS[part]
    for source in sources:
        texts, at = sorted((doc["text"].strip() for doc in docs if doc["source"] == source)), 0
        rng.shuffle(texts)
        for text in texts:
            if text and begin <= at < end:
                out.append((source, text[:end - at]))
            at += len(text)
    return out


def conversations_of(data, part):
    """[(kind, text)] of fresh conversations in the family's template; "test" asks nothing that "dev" asks."""
    split = "train" if part == "train" else "heldout"
    facts, documents = load(data / "texts.jsonl", data / "countries.json", split)

    def made(part):
        out = []
        for seed, count in SPLIT_CONVERSATIONS[part].items():
            maker = Maker(random.Random(f"two bits/{seed}"), facts, documents, split == "heldout", 1500)
            out += [maker.conversation() for _ in range(count)]
        return out

    known = {c["key"] for c in made("dev")} if part == "test" else set()
    return [(c["kind"], "".join(text for text, _ in c["segments"])) for c in made(part) if c["key"] not in known]


def write_dataset(path, documents):
    path.write_text("".join(f"===== DS4_IMATRIX_PROMPT {name}\n{text}\n" for name, text in documents), encoding="utf-8")


def mean_interval(values, ends, block=64):
    """The mean of `values` and its 95 % bootstrap interval, drawing blocks within documents, as ds4-eval does."""
    begins = np.unique(np.concatenate([np.arange(a, b, block) for a, b in zip([0, *ends], ends)]))
    sums, counts = np.add.reduceat(values, begins), np.diff([*begins, len(values)])
    drawn = np.random.default_rng(1).integers(0, len(begins), (DRAWS, len(begins)))
    means = np.sort(sums[drawn].sum(1) / counts[drawn].sum(1))
    return {"value": float(values.mean()), "low": float(means[DRAWS // 40]), "high": float(means[-1 - DRAWS // 40])}


def read_scores(path):
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    document = rows[:, 0].astype(int)
    ends = [*(np.flatnonzero(np.diff(document)) + 1), len(rows)]
    return {"document": document, "ends": ends, "nll": rows[:, 2] - rows[:, 1], "kl": rows[:, 3]}


def summary(plain, weighted):
    """Both files' losses, and the difference token by token: a narrower interval than those of the two."""
    out = {"tokens": len(plain["kl"])}
    for key in ("kl", "nll"):
        out[key] = {"plain": mean_interval(plain[key], plain["ends"]), "imatrix": mean_interval(weighted[key], plain["ends"]),
                    "change": mean_interval(weighted[key] - plain[key], plain["ends"])}
    return out


def measure(run, data, checkpoint, exact, work, sources):
    """`run(program, *arguments)` runs a program of the build; `exact` is the bfloat16 GGUF."""
    prompts, matrix = work / "imatrix.txt", work / "imatrix.dat"
    write_dataset(prompts, documents_of(data, "train", sources) + conversations_of(data, "train"))
    run("ds4", "-m", exact, "-c", 4096, "--imatrix-dataset", prompts, "--imatrix-out", matrix)
    sets = {"text": documents_of(data, "test", sources), "answers": conversations_of(data, "test")}
    scores = {}
    for name, flags in (("plain", []), ("imatrix", ["--imatrix", matrix])):
        file = work / f"q2-{name}.gguf"
        run("ds4-quantize", "--hf", checkpoint, "--out", file, "--recipe", "q2", "--overwrite", *flags)
        for what, documents in sets.items():
            dataset, out = work / f"{what}.txt", work / f"{what}-{name}.csv"
            write_dataset(dataset, documents)
            run("ds4-eval", "compare", exact, file, "--dataset", dataset, "--chunk", 4096, "--scores", out,
                *(["--answers-only"] if what == "answers" else []))
            scores[what, name] = read_scores(out)
    return {what: {"documents": len(documents)} | summary(scores[what, "plain"], scores[what, "imatrix"])
            for what, documents in sets.items()}


def table(measured):
    def cell(estimate, digits=4):
        return f"{estimate['value']:.{digits}f} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"

    lines = ["| two bits (`--recipe q2`) against bfloat16, nats a token | no matrix | importance matrix | difference |",
             "|---|---|---|---|"]
    titles = {"text": "held-out text", "answers": "answers of held-out conversations"}
    for what, part in measured.items():
        for key, title in (("kl", "KL"), ("nll", "NLL lost")):
            lines.append(f"| {titles[what]}, {title} | " + " | ".join(cell(part[key][f]) for f in ("plain", "imatrix", "change")) + " |")
    return lines
