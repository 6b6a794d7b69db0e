"""Makes assets/data/{train,heldout}.jsonl: spelled English words -> ARPAbet phonemes.

  python make_data.py --cmu DIR --wordnet DIR --out ../../assets/data

Words are grouped so that everything that shares a stem (WordNet lemma, regular
inflection, six-letter prefix) is on one side of the split.
"""
import argparse
import json
import os
import random
import re
from collections import Counter, defaultdict

from lemminflect import getAllLemmas

from sources import load_cmu, load_wordnet, prompt_for

SEED = 20261124
TRAIN_MAX = 11800
HELDOUT = 800
SUFFIXES = (
    "s es ed d ing er r ers rs est st ly y ier iest ies ied ily e ness less ful en n ish able ment "
    "or ors ist ism ize ise ic al ous ity ty ion ation ive ant ent ance ence age ery ry hood ship dom let ling man men"
).split()


def base_forms(word):
    """Regular English de-inflection candidates (WordNet's morphy rules and consonant doubling)."""
    out = set()
    for end, new in (
        ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
        ("ies", "y"), ("ied", "y"), ("ier", "y"), ("iest", "y"), ("ily", "y"), ("es", "e"), ("es", ""),
        ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""), ("er", "e"), ("est", ""), ("est", "e"), ("ly", ""),
        ("ves", "f"), ("ves", "fe"),
    ):
        if word.endswith(end) and len(word) - len(end) + len(new) >= 3:
            stem = word[: len(word) - len(end)] + new
            out.add(stem)
            if new == "" and len(stem) > 3 and stem[-1] == stem[-2]:
                out.add(stem[:-1])
    return out


def related(word, pool):
    """Words of pool that share a stem with word: used to join groups, and by check_data.py."""
    for b in base_forms(word):
        if b in pool:
            yield b
    for suf in SUFFIXES:
        for stem in {word, word[:-1] if word[-1] in "ey" else word, word + word[-1]}:
            if len(stem) >= 3 and stem + suf != word and stem + suf in pool:
                yield stem + suf
    if len(word) >= 6:
        yield "^" + word[:6]


def headwords(word):
    """The word, its lemmas (irregular ones too: "ran" -> "run"), and a stem whose y became i ("merciless" -> "mercy")."""
    out = {word}
    for lemmas in getAllLemmas(word).values():
        out.update(lemmas)
    for suf in SUFFIXES:
        if word.endswith("i" + suf):
            out.add(word[: -len(suf) - 1] + "y")
    return out


def without_kin(held, train):
    """Held-out words that share no headword with a training word."""
    taken = {h for w in train for h in headwords(w)}
    return [w for w in held if not headwords(w) & taken]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--cmu", required=True)
    ap.add_argument("--wordnet", required=True)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()

    cmu = load_cmu(a.cmu)
    tags, synsets = load_wordnet(a.wordnet)
    lemmas, proper, freq = set(), set(), Counter()
    for _, words, gloss, examples in synsets:
        for w in words:
            (lemmas if w.islower() else proper).add(w.lower())
        freq.update(re.findall(r"[a-z]+", " ".join([gloss] + examples)))
    for w, n in tags.items():
        freq[w] += n

    words = []
    for w, prons in sorted(cmu.items()):
        if not re.fullmatch(r"[a-z]{3,10}", w) or len(prons) != 1 or not re.search(r"[aeiouy]", w):
            continue
        if not (w in lemmas or base_forms(w) & lemmas) or (w in proper and w not in lemmas):
            continue
        ph = prons[0]
        if not 0.5 <= len(ph) / len(w) <= 1.25:
            continue
        if freq[w] >= 2:
            words.append(w)
    # The most frequent words: counts in WordNet's glosses and examples and its sense-tag counts.
    words = sorted(words, key=lambda w: (-freq[w], w))[: TRAIN_MAX + HELDOUT]
    pool = set(words)

    parent = {}

    def find(x):
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for w in words:
        find(w)
        for r in related(w, pool):
            parent[find(w)] = find(r)
        # Inflections whose base form is not itself in the pool still share it.
        for b in base_forms(w) & lemmas:
            parent[find(w)] = find("^" + b if len(b) < 6 else "^" + b[:6])
            if b in pool:
                parent[find(w)] = find(b)
    # A word may be its own sibling's base form ("walk", "walked"): join it to the key its siblings use.
    for w in words:
        if "^" + w in parent:
            parent[find(w)] = find("^" + w)
    groups = defaultdict(list)
    for w in words:
        groups[find(w)].append(w)
    order = sorted(groups.values(), key=lambda g: min(g))
    rng = random.Random(SEED)
    rng.shuffle(order)
    held, train = [], []
    for g in order:
        if len(held) < HELDOUT and len(g) <= 6:
            held += g
        else:
            train += g
    # A held-out word must not have a training word's phonemes either ("meet" / "meat").
    seen = {tuple(cmu[w][0]) for w in train}
    held = [w for w in held if tuple(cmu[w][0]) not in seen]
    held = without_kin(held, train)
    rng.shuffle(train)
    rng.shuffle(held)
    for name, ws in (("train", train), ("heldout", held)):
        with open(os.path.join(a.out, name + ".jsonl"), "w", encoding="utf8") as f:
            for w in ws:
                row = {"prompt": prompt_for(w), "completion": " " + " ".join(cmu[w][0])}
                f.write(json.dumps(row) + "\n")
    sizes = Counter(len(g) for g in order)
    print(len(words), "words,", len(order), "groups; largest", max(sizes), "; train", len(train), "heldout", len(held))
    print("min freq", freq[words[-1]])


if __name__ == "__main__":
    main()
