#!/usr/bin/env python3
"""Measure ds4-nano and write the tables of its model card.

    python3 score.py --data DIR --checkpoint CHECKPOINT --gguf FILE --bin build/release/bin --work DIR [--card models/README.md]

DIR of --data holds texts.jsonl, countries.json and tokenizer.json; CHECKPOINT is what export.py wrote. Everything that
was measured stays in --work as JSON, and is not measured again. The tables are printed, and with --card put between the
card's marks. Needs PyTorch and NumPy (a CPU is enough) and the programs of the build.

  text      bits per byte of held-out text: the model through the engine, xz -9, a 5-gram model (ngram.py)
  skills    ds4-eval nano
  drafts    the MTP block's first drafts on the model's own greedy answers, in PyTorch
  agreement the engine and PyTorch: logits in float32, and greedy answers
  rows      recall with the indexer's choice, and with random rows in its place, in PyTorch
  q2        what two bits cost, with and without an importance matrix (two_bits.py)
"""

import argparse
import json
import lzma
import math
import pathlib
import subprocess

import numpy as np
import torch

import gguf_io
import model as nano
import ngram
import safetensors_io
import two_bits
from data import SOURCES, text_streams
from tokenizer import Tokenizer

NAMES = {"factbook": "World Factbook", "sqlite": "SQLite manual", "jargon": "Jargon File", "kjv": "King James Bible",
         "devil": "Devil's Dictionary", "code": "C++ headers"}
ITEMS = pathlib.Path(__file__).parents[2] / "models/ds4-nano.eval.jsonl"
TEXT_TOKENS = 16384  # of each source


class Scores:
    def __init__(self, args):
        self.args = args
        self.tokenizer = Tokenizer(args.data / "tokenizer.json")
        self.config = nano.Config.load(args.checkpoint / "config.json")
        args.work.mkdir(parents=True, exist_ok=True)

    def run(self, program, *arguments):
        command = [str(self.args.bin / program), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def made(self, name, *arguments):
        """A GGUF of the checkpoint."""
        path = self.args.work / name
        if not path.exists():
            self.run("ds4-quantize", "--hf", self.args.checkpoint, "--out", path, *arguments)
        return path

    def kept(self, name, measure):
        path = self.args.work / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def network(self, exact):
        """The checkpoint, or what the shipped file holds."""
        network = nano.Model(self.config)
        if exact:
            tensors = safetensors_io.load(self.args.checkpoint / "model.safetensors")[0]
            tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
            network.load_state_dict(nano.weights_from_checkpoint(tensors, self.config))
        else:
            network.load_state_dict(gguf_io.state_dict(self.args.gguf))
        return network

    # Text -------------------------------------------------------------------------------------------------
    def text(self):
        texts, out = str(self.args.data / "texts.jsonl"), {}
        train, held = (text_streams(texts, self.tokenizer, split) for split in ("train", "heldout"))
        grams = ngram.KneserNey([train[source][0] for source in SOURCES], self.config.vocab_size)
        whole = {source: "" for source in SOURCES}
        with open(texts, encoding="utf-8") as file:
            for doc in map(json.loads, file):
                if doc["split"] == "heldout":
                    whole[doc["source"]] += doc["text"]
        plain = self.made("bf16.gguf", "--type", "bf16")
        for source in SOURCES:
            ids = held[source][0][:TEXT_TOKENS].astype(np.int64)
            path = self.args.work / f"{source}.ids"
            path.write_text(" ".join(map(str, ids)), encoding="utf-8")
            result = json.loads(self.run("ds4-eval", "compare", plain, self.args.gguf, "--tokens-file", path, "--chunk", 2048, "--json"))
            bytes_per_token = sum(len(self.tokenizer.bytes[i]) for i in ids.tolist() if i > 2) / len(ids)
            data = whole[source].encode()
            out[source] = {"tokens": len(ids), "bytes": round(bytes_per_token * len(ids)), "compare": result,
                           "model": result["nll_b"]["value"] / math.log(2) / bytes_per_token,
                           "xz": 8 * len(lzma.compress(data, preset=9)) / len(data),
                           "grams": float(grams.nats(ids).mean()) / math.log(2) / bytes_per_token}
        return out

    # Answers ----------------------------------------------------------------------------------------------
    def skills(self):
        return json.loads(self.run("ds4-eval", "nano", "-m", self.args.gguf, "--items", ITEMS, "--json",
                                   "--transcript", self.args.work / "answers.jsonl"))

    def answers(self, longest, count, skills=None):
        """Prompts with answers of the engine, spread over the skills."""
        lines = [json.loads(line) for line in open(self.args.work / "answers.jsonl", encoding="utf-8")]
        lines = [a for a in lines if len(a["prompt"]) + len(a["output"]) <= longest and a["stopped"] and
                 (skills is None or a["skill"] in skills)]
        return lines[::max(1, len(lines) // count)][:count]

    @torch.no_grad()
    def forward(self, network, answer, mode, drafts=False):
        """The most probable tokens where the engine wrote its answer (and the end), and the drafts there."""
        ids = torch.tensor([answer["prompt"] + answer["output"]])
        length, begin = ids.shape[1], len(answer["prompt"])
        padded = torch.nn.functional.pad(ids, (0, -length % 128))
        x, _, _ = network.streams(padded, mode)
        best = network.logits(network.hidden(x[:, :length], mode), mode)[0].argmax(-1)[begin - 1:]
        draft = None
        if drafts:
            following = torch.nn.functional.pad(padded[:, 1:], (0, 1))
            hidden, _, _ = network.mtp_hidden(x, following, mode)
            draft = network.logits(hidden[:, begin - 1:length - 1], mode)[0].argmax(-1).tolist()
        return best.tolist(), draft

    def drafts(self):
        """A draft is of the answer's token j + 1, made when its token j is known."""
        network, mode, total, right = self.network(False), nano.Mode(rounded_kv=True), {}, {}
        same, asked = 0, self.answers(1000, 60, {"fact", "tool", "arithmetic", "lists", "name", "unknown"})
        for answer in asked:
            best, draft = self.forward(network, answer, mode, drafts=True)
            output = answer["output"] + [1]
            same += best == output
            for at, token in enumerate(output[1:]):
                total[answer["skill"]] = total.get(answer["skill"], 0) + 1
                right[answer["skill"]] = right.get(answer["skill"], 0) + (draft[at] == token)
        return {"prompts": len(asked), "same_answer": same, "drafts": sum(total.values()), "accepted": sum(right.values()),
                "skills": {skill: right[skill] / total[skill] for skill in total}}

    # Agreement --------------------------------------------------------------------------------------------
    @torch.no_grad()
    def agreement(self):
        exact, f32 = self.network(True), self.made("f32.gguf", "--type", "f32")
        worst, count, asked = [], 0, self.answers(800, 6)
        for answer in asked:
            ids, path = answer["prompt"] + answer["output"], self.args.work / "prompt.ids"
            path.write_text(" ".join(map(str, ids)), encoding="utf-8")
            dump = self.args.work / "logits.f32"
            self.run("ds4", "-m", f32, "--kv", "f32", "--tokens-file", path, "--dump-logits", dump)
            engine = np.fromfile(dump, np.float32).reshape(len(ids), -1)
            ours = exact(torch.tensor([ids]), nano.Mode())[0].numpy()
            worst.append(float(np.abs(engine - ours).max()))
            count += len(ids)
        greedy, same = self.answers(800, 20), 0
        for answer in greedy:
            path = self.args.work / "prompt.ids"
            path.write_text(" ".join(map(str, answer["prompt"])), encoding="utf-8")
            said = self.run("ds4", "-m", f32, "--kv", "f32", "--tokens-file", path, "--print-tokens", "--temp", 0, "-n", 200)
            said = [int(token) for token in said.split()]
            said = said[:said.index(1)] if 1 in said else said
            best, _ = self.forward(exact, {"prompt": answer["prompt"], "output": said}, nano.Mode())
            same += best[:len(said)] == said
        return {"logits": {"texts": len(asked), "tokens": count, "largest": max(worst)}, "greedy": {"prompts": len(greedy), "same": same}}

    def rows(self):
        network, out = self.network(False), {}
        for skill, count in (("recall 1K", 6), ("recall 4K", 3)):
            asked = self.answers(1 << 15, count, {skill})
            out[skill] = {"asked": len(asked)}
            for name, random_rows in (("indexer", False), ("random", True)):
                torch.manual_seed(1)
                mode = nano.Mode(rounded_kv=True, random_rows=random_rows, gathered=True)
                out[skill][name] = sum(self.forward(network, answer, mode)[0] == answer["output"] + [1] for answer in asked)
        return out

    # Two bits ---------------------------------------------------------------------------------------------
    def q2(self):
        return two_bits.measure(self.run, self.args.data, self.args.checkpoint, self.made("bf16.gguf", "--type", "bf16"),
                                self.args.work, SOURCES)


def tables(text, skills, drafts, agreement, rows, q2):
    lines = ["| text, bits per byte | ds4-nano | 5-gram | `xz -9` |", "|---|---|---|---|"]
    for source, s in text.items():
        lines.append(f"| {NAMES[source]} | {s['model']:.2f} | {s['grams']:.2f} | {s['xz']:.2f} |")
    total = sum(s["bytes"] for s in text.values())
    lines.append("| all of these | " + " | ".join(f"{sum(s[key] * s['bytes'] for s in text.values()) / total:.2f}"
                                                 for key in ("model", "grams", "xz")) + " |")
    lines += ["", "| held-out skill | right | 95 % | aim |", "|---|---|---|---|"]
    for s in skills["skills"]:
        aim = f"{100 * s['aim']:.0f} %" + (" (missed)" if s["share"]["value"] < s["aim"] else "") if "aim" in s else "–"
        lines.append(f"| {s['title']} | {s['right']} of {s['total']} = {100 * s['share']['value']:.1f} % | "
                     f"{100 * s['share']['low']:.1f} to {100 * s['share']['high']:.1f} % | {aim} |")
    kl = sum(s["compare"]["kl"]["value"] * s["tokens"] for s in text.values()) / sum(s["tokens"] for s in text.values())
    first = sum(s["compare"]["same_first"]["value"] * s["tokens"] for s in text.values()) / sum(s["tokens"] for s in text.values())
    lines += ["", "| other | |", "|---|---|",
              f"| first MTP draft accepted, own greedy answers | {100 * drafts['accepted'] / drafts['drafts']:.1f} % of "
              f"{drafts['drafts']} (aim 60 %) |",
              f"| engine against PyTorch, float32 | largest logit difference {agreement['logits']['largest']:.1e} over "
              f"{agreement['logits']['tokens']} tokens (aim 1e-2) |",
              f"| greedy answers the same, float32 | {agreement['greedy']['same']} of {agreement['greedy']['prompts']} |",
              f"| greedy answers the same, as shipped | {drafts['same_answer']} of {drafts['prompts']} |",
              f"| this file against the same weights in bfloat16 | KL {kl:.5f} nats a token, first choice equal {100 * first:.2f} % |"]
    for skill, r in rows.items():
        lines.append(f"| {skill}: rows of the indexer, random rows | {r['indexer']} and {r['random']} of {r['asked']} answers |")
    lines += ["", *two_bits.table(q2)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "checkpoint", "gguf", "bin", "work"):
        parser.add_argument("--" + name, type=pathlib.Path, required=True)
    parser.add_argument("--card", type=pathlib.Path)
    args = parser.parse_args()
    scores = Scores(args)
    measured = {name: scores.kept(name, getattr(scores, name)) for name in ("skills", "drafts", "rows", "agreement", "text", "q2")}
    result = tables(**measured)
    print(result)
    if args.card:
        card, begin, end = args.card.read_text(encoding="utf-8"), "<!-- scores -->\n", "<!-- end of scores -->"
        head, tail = card[:card.index(begin) + len(begin)], card[card.index(end):]
        args.card.write_text(head + result + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
