#!/usr/bin/env python3
"""Generate the conversations that ds4-nano learns from.

    python3 make_conversations.py --texts texts.jsonl --countries countries.json --out FILE.jsonl --count N [--seed S]
                                  [--split train|heldout] [--kinds fact,tool,...] [--recall-chars 1500]

One conversation a line: {"kind", "split", "key", "segments": [[text, learned], ...], "turns", "expect"}; segments are in
the family's chat template, learned = 1 where the loss counts. "turns" holds the messages, tools and thinking flag, so
that an evaluation can stop before any assistant turn; "expect" says what a right answer contains. Deterministic: the
same arguments give the same file. One in ten requests, by a hash of its text, is held out of training; facts are held
out by wording (facts.py). Standard library only.
"""

import argparse
import hashlib
import json
import math
import random

import facts as factbook
import scenarios
from template import render

FIRST_NAMES = """Ada Alan Alice Amir Anna Anton Arjun Bella Ben Bruno Carla Chen Clara Dana Daniel David Diego Elena Ella
Emil Emma Erik Eva Felix Finn Frank Freya George Grace Hana Hanna Henry Hugo Ida Igor Ines Iris Ivan Jack James Jana Jonas
Julia Karl Kate Kira Lara Laura Leo Lena Liam Lily Lisa Luca Lucy Luis Maja Marco Maria Mark Martha Mary Max Maya Mia Mila
Mira Nadia Nils Nina Noah Nora Olga Oliver Omar Oscar Otto Paul Pavel Pedro Peter Petra Rana Rita Robert Rosa Ruth Sam
Sara Simon Sofia Sven Tara Theo Thomas Tim Tina Tom Uma Vera Victor Walter Wendy Yara Yusuf Zoe""".split()
SYSTEMS = ["You are a helpful assistant", "You are a helpful assistant.", "", "", "You are ds4-nano.", "Be brief.",
           "Answer the user's questions.", "You are a friendly assistant.", "You are a careful assistant that helps people.",
           "Answer in short sentences.", "You are an assistant in a program."]


def hashed(text, modulus):
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % modulus


def user(text):
    return {"role": "user", "content": text}


def says(content, reasoning=""):
    return {"role": "assistant", "content": content, "reasoning": reasoning}


class Maker:
    """Draws conversations from one random stream. `held` chooses held-out wordings and requests."""

    def __init__(self, rng, facts, texts, held=False, recall_chars=1500):
        self.rng, self.facts, self.texts, self.held, self.recall_chars = rng, facts, texts, held, recall_chars
        self.countries = sorted(facts)
        self.by_region = {}
        for country in self.countries:
            region = facts[country].get("region")
            if region:
                self.by_region.setdefault(region, []).append(country)
        self.capitals = sorted({entry["capital"] for entry in facts.values() if "capital" in entry})

    # Names ------------------------------------------------------------------------------------------------
    def pick(self, options):
        return self.rng.choice(options)

    def person(self):
        return self.pick(FIRST_NAMES) if self.rng.random() < 0.6 else self.made_up().capitalize()

    def made_up(self, syllables=None):
        count = syllables or self.pick([2, 2, 3])
        return "".join(self.pick("b c d f g h k l m n p r s t v w z br dr gl kr pl st tr".split()) + self.pick("aeiou")
                       for _ in range(count)) + self.pick(["", "", "n", "r", "l", "s", "x"])

    def number(self, digits=None):
        digits = digits or self.pick([1, 2, 2, 3, 3, 4])
        return self.rng.randrange(10**(digits - 1) if digits > 1 else 0, 10**digits)

    # Kinds: each returns (messages, tools, expect) ------------------------------------------------------------
    def fact_turn(self, country, field):
        asked, held, short, _ = factbook.FIELDS[field]
        value = self.facts[country][field]
        question = self.pick(held if self.held else asked).format(c=factbook.spoken(country))
        full = factbook.full_answer(field, country, value)
        reasoning = f"The user asks about {factbook.spoken(country)}: {field}. {full}"
        return question[0].upper() + question[1:], full, short.format(v=value), reasoning

    def fact(self):
        kind = self.rng.random()
        country = self.pick(self.countries)
        field = self.pick(sorted(self.facts[country]))
        if self.rng.random() < 0.25 and "capital" in self.facts[country]:
            field = "capital"
        question, full, short, reasoning = self.fact_turn(country, field)
        if kind < 0.12 and not self.held:  # the other way round
            owner = [c for c in self.countries if self.facts[c].get(field) == self.facts[country][field]]
            if field in ("capital", "domain", "highest", "adjective") and len(owner) == 1:
                value, name = self.facts[country][field], factbook.spoken(country)
                question, full = {
                    "capital": (self.pick(["Which country has the capital {v}?", "{v} is the capital of which country?",
                                           "Of which country is {v} the capital?"]), "{v} is the capital of {c}."),
                    "domain": ("Which country uses the internet code {v}?", "The internet country code {v} belongs to {c}."),
                    "highest": ("In which country is {v} the highest point?", "{v} is the highest point of {c}."),
                    "adjective": ("Which country does the adjective {v} belong to?", "{v} is the adjective for {c}."),
                }[field]
                full = full.format(v=value, c=name)
                return [user(question.format(v=value)), says(full, f"I remember: {full}")], [], [country]
        if kind < 0.2:  # one word wanted
            extra = self.pick([" Answer with the name only.", " Only the answer, please.", " Just the answer.", " One word."])
            return [user(question + extra), says(short, reasoning)], [], [self.facts[country][field]]
        if kind < 0.27:  # unknown country
            fake = self.made_up(3).capitalize()
            asked, held, _, _ = factbook.FIELDS[field]
            answer = f"I do not know a country called {fake}."
            question = self.pick(held if self.held else asked).format(c=fake)
            return [user(question), says(answer, f"I do not know {fake}.")], [], [fake]
        messages = [user(question), says(full, reasoning)]
        if kind < 0.45:  # and another turn about the same country
            others = [f for f in sorted(self.facts[country]) if f != field]
            if others:
                question, full, _, reasoning = self.fact_turn(country, self.pick(others))
                messages += [user(self.pick(["", "", "And ", "Thanks. "]) + question), says(full, reasoning)]
        elif kind < 0.55:  # two questions in one
            other = self.pick([c for c in self.countries if field in self.facts[c]])
            if other != country:
                question2, full2, _, reasoning2 = self.fact_turn(other, field)
                messages = [user(question + " " + question2), says(full + " " + full2, reasoning + " " + reasoning2)]
        return messages, [], [self.facts[country][field]]

    def compare(self):
        field = self.pick(["population", "area"])
        a, b = self.rng.sample([c for c in self.countries if field in self.facts[c]], 2)
        size = {c: float(self.facts[c][field].replace(",", "")) for c in (a, b)}
        word = {"population": "people", "area": "square kilometers"}[field]
        question = self.pick({"population": ["Which country has more people, {a} or {b}?", "Do more people live in {a} or in {b}?"],
                              "area": ["Which is larger, {a} or {b}?", "Which country is bigger by area, {a} or {b}?"]}[field])
        big, small = (a, b) if size[a] >= size[b] else (b, a)
        numbers = {c: self.facts[c][field] for c in (a, b)}
        reasoning = (f"{a} has {numbers[a]} {word} and {b} has {numbers[b]} {word}. {numbers[big]} is more than "
                     f"{numbers[small]}.")
        answer = f"{big} has more {word}: {numbers[big]}, while {small} has {numbers[small]}."
        return [user(question.format(a=factbook.spoken(a), b=factbook.spoken(b))), says(answer, reasoning)], [], [big]

    def small_talk(self):
        name = self.person()
        pairs = scenarios.SMALL_TALK
        asked, answers = self.pick(pairs)
        question, answer = self.pick(asked), answers[0]
        style = self.rng.random()
        if style < 0.15:
            question = question.lower().rstrip("?.!")
        messages = [user(question.format(name=name)), says(answer.format(name=name), "This is small talk. A short answer is enough.")]
        if style > 0.6:
            asked, answers = self.pick(pairs)
            messages += [user(self.pick(asked).format(name=name)), says(answers[0].format(name=name),
                                                                        "This is small talk. A short answer is enough.")]
        if self.rng.random() < 0.25:  # remember the name
            intro = self.pick(["My name is {n}.", "I am {n}.", "Hi, I'm {n}.", "You can call me {n}.", "Hello, {n} here."])
            messages = [user(intro.format(n=name)), says(f"Hello {name}, nice to meet you.",
                                                                f"The user's name is {name}.")] + messages
            messages += [user(self.pick(["What is my name?", "Do you remember my name?", "Who am I?", "What did I say my name is?"])),
                         says(f"Your name is {name}.", f"The user said that the name is {name}.")]
        return messages, [], []

    def arithmetic(self):
        kind = self.rng.random()
        thing, name, other = self.pick(scenarios.THINGS), self.person(), self.person()
        if kind < 0.35:
            a, b = self.number(self.pick([1, 2, 2, 3, 3, 4])), self.number(self.pick([1, 2, 2, 3, 3, 4]))
            result, reasoning = a + b, scenarios.add_steps(a, b)
            question = self.pick(["What is {a} + {b}?", "{a} + {b} = ?", "Compute {a} + {b}.", "Add {a} and {b}.",
                                  "How much is {a} plus {b}?", "What is the sum of {a} and {b}?", "{a}+{b}", "What's {a}+{b}?"])
            full = f"{a} + {b} = {result}."
        elif kind < 0.6:
            a, b = sorted((self.number(self.pick([1, 2, 2, 3, 3, 4])), self.number(self.pick([1, 2, 2, 3, 3, 4]))), reverse=True)
            result, reasoning = a - b, scenarios.subtract_steps(a, b)
            question = self.pick(["What is {a} - {b}?", "{a} - {b} = ?", "Subtract {b} from {a}.", "How much is {a} minus {b}?",
                                  "Compute {a} - {b}.", "What is the difference between {a} and {b}?", "{a}-{b}"])
            full = f"{a} - {b} = {result}."
        elif kind < 0.8:
            a, b = self.number(self.pick([1, 1, 2, 2, 3])), self.number(self.pick([1, 1, 1, 2]))
            result, reasoning = a * b, scenarios.multiply_steps(a, b)
            question = self.pick(["What is {a} * {b}?", "What is {a} times {b}?", "Multiply {a} by {b}.", "Compute {a} * {b}.",
                                  "{a} x {b} = ?", "How much is {a} times {b}?"])
            full = f"{a} * {b} = {result}."
        elif kind < 0.9:
            b, result = self.rng.randrange(2, 13), self.rng.randrange(2, 40)
            a = b * result
            reasoning = f"{b} * {result} = {a}, so {a} / {b} = {result}."
            question = self.pick(["What is {a} / {b}?", "Divide {a} by {b}.", "How much is {a} divided by {b}?"])
            full = f"{a} / {b} = {result}."
        else:
            a, b = self.number(2), self.number(2)
            if self.rng.random() < 0.5:
                result, reasoning = a + b, scenarios.add_steps(a, b)
                question = self.pick([f"{name} has {{a}} {thing} and gets {{b}} more. How many {thing} does {name} have now?",
                                      f"{name} has {{a}} {thing}, {other} has {{b}} {thing}. How many do they have together?"])
                full = f"{'They have' if 'together' in question else name + ' has'} {result} {thing}."
            else:
                a, b = max(a, b), min(a, b)
                result, reasoning = a - b, scenarios.subtract_steps(a, b)
                question = self.pick([f"{name} has {{a}} {thing} and gives {{b}} to {other}. How many are left?",
                                      f"There are {{a}} {thing}. {name} takes {{b}}. How many {thing} remain?"])
                full = f"{result} {thing} are left."
        return [user(question.format(a=a, b=b)), says(full, reasoning)], [], [str(result)]

    def lists(self):
        kind = self.rng.randrange(13)
        words = self.rng.sample(scenarios.WORDS, self.rng.randrange(3, 7))
        comma = ", ".join(words)
        if kind == 0:
            a = self.rng.randrange(0, 60)
            b = a + self.rng.randrange(3, 12)
            step = [str(n) for n in range(a, b + 1)]
            question = self.pick([f"Count from {a} to {b}.", f"List the numbers from {a} to {b}.", f"Please count from {a} to {b}."])
            answer = ", ".join(step)
        elif kind == 1:
            numbers = self.rng.sample(range(1, 200), self.rng.randrange(3, 8))
            down = self.rng.random() < 0.3
            question = (f"Sort these numbers{' from large to small' if down else ''}: " + ", ".join(map(str, numbers)))
            answer = ", ".join(map(str, sorted(numbers, reverse=down)))
        elif kind == 2:
            question, answer = f"Sort these words alphabetically: {comma}", ", ".join(sorted(words))
        elif kind == 3:
            question = self.pick([f"Repeat these words in reverse order: {comma}", f"Reverse this list: {comma}"])
            answer = ", ".join(reversed(words))
        elif kind == 4:
            question, answer = f"Make a bullet list of: {comma}", "\n".join("- " + word for word in words)
        elif kind == 5:
            question = f"Make a numbered list: {comma}"
            answer = "\n".join(f"{at}. {word}" for at, word in enumerate(words, 1))
        elif kind == 6:
            at = self.rng.randrange(len(words))
            place = ["first", "second", "third", "fourth", "fifth", "sixth"][at]
            question, answer = f"What is the {place} word in this list: {comma}?", words[at]
        elif kind == 7:
            question, answer = f"How many words are in this list: {comma}?", f"There are {len(words)} words in the list."
        elif kind == 8:
            word = self.pick(words)
            question, answer = self.pick([f"Spell the word {word}.", f"How do you spell {word}?"]), "-".join(word)
        elif kind == 9:
            word = self.pick(words)
            question, answer = f"Write {word} in capital letters.", word.upper()
        elif kind == 10:
            text = " ".join(words)
            question, answer = self.pick([f"Repeat after me: {text}", f"Say: {text}", f'Say "{text}".']), text
        elif kind == 11:
            region = self.pick([r for r, names in self.by_region.items() if len(names) >= 3])
            n = self.rng.randrange(2, min(5, len(self.by_region[region])) + 1)
            chosen = sorted(self.by_region[region])[:n]
            question = self.pick([f"Name {n} countries in {region}.", f"List {n} countries in {region}."])
            answer = "\n".join("- " + c for c in chosen)
        else:
            pairs = {word: self.number(2) for word in words[:3]}
            question = "Write this as JSON: " + ", ".join(f"{key} is {value}" for key, value in pairs.items())
            answer = json.dumps(pairs)
        return [user(question), says(answer, "This is a simple task.")], [], [answer]

    def reading(self):
        """A Factbook section or a text is given; the answer stands in it."""
        docs = [d for d in self.texts if d["source"] == "factbook" and 300 < len(d["text"]) < 2500]
        doc = self.pick(docs)
        lines = [line.split(": ", 1) for line in doc["text"].splitlines()[2:] if ": " in line and 10 < len(line) < 160]
        if not lines:
            return self.lists()
        field, value = self.pick(lines)
        question = self.pick([f"What does the text say about {field}?", f"What is given for {field}?", f"{field}?",
                              f"Look up {field}."])
        shape = self.pick(["{t}\n\n{q}", "Text:\n{t}\n\nQuestion: {q}", "{q}\n\n{t}", "Read this text.\n\n{t}\n{q}"])
        return [user(shape.format(t=doc["text"].strip(), q=question)),
                says(f"{field}: {value}", f"I look for {field} in the text.")], [], [value]

    def filler(self, chars):
        out, size = [], 0
        while size < chars:
            text = self.pick(self.texts)["text"]
            at = self.rng.randrange(max(1, len(text) - 400))
            begin = text.find(" ", at) + 1 if at else 0
            piece = " ".join(text[begin:begin + self.rng.randrange(200, 900)].split())
            out.append(piece)
            size += len(piece)
        return out

    def recall_names(self, count):
        names = {}
        while len(names) < count:
            names[self.person() if self.rng.random() < 0.4 else self.made_up().capitalize()] = True
        return list(names)

    def recall_length(self):
        """Characters of a document: every order of size up to recall_chars is as likely."""
        return int(math.exp(self.rng.uniform(math.log(300), math.log(self.recall_chars))))

    def recall(self):
        """Facts of the form Name=number, hidden in a long text or a list; several are asked for, more of a longer text."""
        chars = self.recall_length()
        count = min(max(4, chars // self.pick([60, 150, 400, 1000])), 160)
        names = self.recall_names(count)
        digits = self.pick([3, 4, 4, 5])
        facts = {name: self.number(digits) for name in names}
        lines = [f"{name}={number}" for name, number in facts.items()]
        pieces = self.filler(max(0, chars - sum(map(len, lines)) - 200)) if chars > 30 * count else []
        for line in lines:
            pieces.insert(self.rng.randrange(len(pieces) + 1), line)
        text = self.pick(["\n", "\n", "\n\n", " "]).join(pieces)
        questions = self.rng.sample(names, min(len(names), max(self.pick([2, 4, 6, 8]), chars // 1500)))
        wording = ["What is the number of {n}?", "Which number belongs to {n}?", "{n}?", "What is {n}?", "Recall {n}.",
                   "What number does {n} have?", "Give me the number for {n}.", "{n}="]
        shapes = ["{t}\n\n{q}", "Remember these facts.\n{t}\n\n{q}", "Here is a document.\n\n{t}\n\n{q}"]
        shape = self.pick(shapes * 5 + (["{q}\n\n{t}"] if chars < 3000 else []))
        messages = []
        for at, name in enumerate(questions):
            question = self.pick(wording).format(n=name)
            if at == 0:
                question = shape.format(t=text, q=question)
            messages += [user(question), says(f"{name}={facts[name]}", f"I look for {name} in the text.")]
        return messages, [], [str(facts[questions[0]])]

    def tool(self):
        return scenarios.tool_conversation(self)

    KINDS = {"fact": 80, "compare": 5, "small_talk": 6, "arithmetic": 16, "lists": 10, "reading": 3, "recall": 12, "tool": 45}

    def conversation(self, kind=None):
        """One conversation of the split that `held` names."""
        kind = kind or self.rng.choices(list(self.KINDS), list(self.KINDS.values()))[0]
        while True:
            messages, tools, expect = getattr(self, kind)()
            key = kind + "/" + next(m["content"] for m in messages if m["role"] == "user")
            if kind == "fact" or (hashed(key, 10) == 0) == self.held:
                break
        thinking = self.rng.random() < 0.5
        system = self.pick(SYSTEMS)
        if tools and self.rng.random() < 0.5:
            system = self.pick(SYSTEMS[:2])
        if system:
            messages = [{"role": "system", "content": system}] + messages
        segments = render(messages, tools, thinking=thinking, max_effort=thinking and self.rng.random() < 0.05)
        return {"kind": kind, "split": "heldout" if self.held else "train", "key": key, "expect": expect,
                "segments": [[text, int(learned)] for text, learned in segments],
                "turns": {"messages": messages, "tools": tools, "thinking": thinking}}


def load(texts, countries, split):
    with open(texts, encoding="utf-8") as file:
        documents = [doc for doc in map(json.loads, file) if doc["split"] == split]
    return factbook.extract(countries), documents


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("texts", "countries", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--recall-chars", type=int, default=1500)
    args = parser.parse_args()
    facts, documents = load(args.texts, args.countries, args.split)
    maker = Maker(random.Random(f"{args.split}/{args.seed}"), facts, documents, args.split == "heldout", args.recall_chars)
    kinds = [kind for kind in args.kinds.split(",") if kind]
    with open(args.out, "w", encoding="utf-8") as file:
        for at in range(args.count):
            conversation = maker.conversation(kinds[at % len(kinds)] if kinds else None)
            file.write(json.dumps(conversation, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
