#!/usr/bin/env python3
"""Write the held-out items that `ds4-eval nano` asks: models/ds4-nano.eval.jsonl.

    python3 make_eval.py --texts texts.jsonl --countries countries.json --tokenizer tokenizer.json --out FILE.jsonl

Requests, wordings and texts are of the held-out tenth; snippets of text come from the public-domain sources only. One
JSON value a line:

  {"kind": "tools", "tools": {name: schema}}       the catalogue that items name tools of
  {"kind": "snippets", "texts": [...]}             filler that recall items number
  {"kind": "chat", "skill", "thinking", "tools": [name or schema], "messages": [...], "checks": [...]}
      a check {"at": n, ...} asks for the assistant's message n given those before it, and says what is right:
      "calls" [{"name", "arguments"}] (empty: no call), "contains" [text, ...]
  {"kind": "recall", "tokens", "join", "before", "pieces": [snippet number or text, ...], "questions": [{"ask", "contains"}]}

Deterministic. Standard library only.
"""

import argparse
import json
import random

import scenarios
from make_conversations import Maker, load
from tokenizer import Tokenizer

COUNTS = {"fact": 200, "tool": 130, "arithmetic": 60, "lists": 40, "small_talk": 20}
RECALL = [(1024, 12, 10, 8), (4096, 24, 8, 10), (16384, 40, 5, 16)]  # tokens, facts, documents, questions each
WORDINGS = ["What is the number of {n}?", "Which number belongs to {n}?", "{n}?", "What is {n}?", "Recall {n}.",
            "What number does {n} have?", "Give me the number for {n}.", "{n}="]


def texts_of(value):
    """The values inside a result or an argument, as an answer would spell them."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts_of(each)]
    if isinstance(value, list):
        return [scenarios.spoken(value)]
    return [] if isinstance(value, bool) else [str(value)]


def quoted(answer, results, calls):
    """What of the results stands in the right answer; of the arguments, when a result is a mere acknowledgement."""
    found = []
    for result, call in zip(results, calls):
        try:
            values = texts_of(json.loads(result))
        except ValueError:
            values = [result]
        inside = [text for text in values if text and text in answer]
        found += inside or [text for text in texts_of(call["arguments"]) if text in answer]
    return found


def tool_item(turns):
    messages, checks = turns["messages"], []
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        calls = message.get("calls", [])
        if calls:
            checks.append({"at": at, "calls": [{"name": c["name"], "arguments": c["arguments"]} for c in calls]})
        elif message["content"] == scenarios.MISSING:
            checks.append({"at": at, "calls": [], "contains": [scenarios.MISSING]})
        elif messages[at - 1]["role"] == "tool":
            before = max(i for i in range(at) if messages[i].get("calls"))
            results = {m["call_id"]: m["content"] for m in messages[before:at] if m["role"] == "tool"}
            calls = messages[before]["calls"]
            contains = quoted(message["content"], [results[c["id"]] for c in calls], calls)
            if contains:
                checks.append({"at": at, "calls": [], "contains": contains})
    return checks


def chat_items(maker):
    for kind, count in COUNTS.items():
        for _ in range(count):
            while True:
                conversation = maker.conversation(kind)
                turns, expect = conversation["turns"], conversation["expect"]
                messages = turns["messages"]
                if kind == "tool":
                    checks = tool_item(turns)
                else:
                    first = next(at for at, m in enumerate(messages) if m["role"] == "assistant")
                    answer = messages[first]["content"]
                    unknown = answer.startswith("I do not know a country")
                    checks = [{"at": first, "contains": expect if kind == "fact" and not unknown else [answer]}]
                    if kind == "small_talk":  # what the user said earlier is what can be checked
                        last = len(messages) - 1
                        checks = [{"at": last, "contains": [messages[last]["content"].split()[-1].strip(".")]}]
                        if not messages[last]["content"].startswith("Your name is"):
                            continue
                if checks:
                    break
            catalogue = scenarios.pretty(scenarios.CATALOGUE)
            tools = [tool["name"] if tool in catalogue else tool for tool in turns["tools"]]
            yield {"kind": "chat", "skill": {"small_talk": "name"}.get(kind, "unknown" if kind == "fact" and unknown else kind), "thinking": turns["thinking"], "tools": tools,
                   "messages": messages[:1 + max(check["at"] for check in checks)], "checks": checks}


def snippets_of(documents, rng, count):
    texts = []
    documents = [doc for doc in documents if doc["source"] in ("kjv", "jargon", "devil", "sqlite", "factbook")]
    while len(texts) < count:
        text = rng.choice(documents)["text"]
        begin = text.find(" ", rng.randrange(max(1, len(text) - 500))) + 1
        piece = " ".join(text[begin:begin + rng.randrange(250, 550)].split()[:-1])
        if len(piece) > 150 and "=" not in piece:
            texts.append(piece)
    return texts


def recall_items(maker, rng, snippets, tokenizer):
    size = [len(tokenizer.encode_plain(text)) + 1 for text in snippets]
    for tokens, count, documents, asked in RECALL:
        for _ in range(documents):
            names = maker.recall_names(count)
            facts = [f"{name}={maker.number(4)}" for name in names]
            left = tokens - sum(len(tokenizer.encode_plain(fact)) + 1 for fact in facts) - 60
            order, pieces = rng.sample(range(len(snippets)), len(snippets)), []
            while order and left > size[order[-1]]:
                left -= size[order[-1]]
                pieces.append(order.pop())
            for fact in facts:
                pieces.insert(rng.randrange(len(pieces) + 1), fact)
            chosen = rng.sample(range(count), min(asked, count))
            yield {"kind": "recall", "tokens": tokens, "before": rng.choice(["", "Remember these facts.\n", "Here is a document.\n\n"]),
                   "join": "\n", "pieces": pieces,
                   "questions": [{"ask": rng.choice(WORDINGS).format(n=names[at]), "contains": [facts[at]]} for at in chosen]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("texts", "countries", "tokenizer", "out"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    facts, documents = load(args.texts, args.countries, "heldout")
    documents = [doc for doc in documents if doc["source"] != "code"]
    maker = Maker(random.Random("heldout/items"), facts, documents, held=True)
    rng = random.Random("recall items")
    snippets = snippets_of(documents, rng, 150)
    with open(args.out, "w", encoding="utf-8") as file:
        def line(value):
            file.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
        line({"kind": "tools", "tools": {tool["name"]: tool for tool in scenarios.pretty(scenarios.CATALOGUE)}})
        line({"kind": "snippets", "texts": snippets})
        for item in chat_items(maker):
            line(item)
        for item in recall_items(maker, rng, snippets, Tokenizer(args.tokenizer)):
            line(item)


if __name__ == "__main__":
    main()
