"""Has SmolLM2-135M-Instruct write the training text: short simple stories, facts, answers, dialogues.

  python generate.py --gguf FILE --wordnet DIR --out DIR --seconds 460 [--batch 4096] [--attend triton] [--compile]

Writes raw.jsonl: {"kind", "prompt", "text", "cut"}; sampling at temperature 0.9, min-p 0.05.
"""
import argparse
import json
import os
import random
import re

import torch

from sources import load_wordnet
from teacher import Teacher

SEED = 20261124
RUDE = re.compile(r"obscen|vulgar|slur|offensive|disparag|sexual|genital|prostitut|ethnic|excre|copulat|rape|fetus|suicid|terroris|nazi|racis|\bdrug|narcotic|torture|corpse|\bgun\b|kill")

NAMES = "Tom Anna Ben Lily Sam Mia Max Sue Leo Rosa Jack Emma Tim Nora Bob Lucy Dan Ella Amy Kate Joe Ruth Pete Zoe Mina Omar Ravi Aiko Sara Finn".split()
PEOPLE = "girl,boy,mother,father,teacher,farmer,baker,sailor,doctor,king,queen,old man,old woman,cat,dog,mouse,fox,bear,bird,rabbit,frog,turtle,lion,duck,horse,cow,bee,fish,owl,little robot".split(",")

TEMPLATES = [  # (kind, weight, text)
    ("story", 10, "Write a very short story for a young child about a {adj} {noun}. Use short, simple sentences."),
    ("story", 10, "Write a very short story for small children with these words: {noun}, {verb}, {adj}. Use easy words."),
    ("story", 8, "Tell a short and simple story about {name} and a {noun}."),
    ("story", 8, "Tell a short bedtime story about a {who} who finds a {noun}. Use simple words."),
    ("story", 6, "Write a short story in simple words about a {who} and a {who2}. They {verb} together."),
    ("story", 5, "Write one short paragraph about {name}, who likes to {verb}."),
    ("story", 5, "Write one short paragraph about a {who} in a {noun}."),
    ("fact", 7, "What is a {noun}? Answer in two short, simple sentences."),
    ("fact", 5, "Tell me one simple fact about {noun}."),
    ("fact", 5, "Explain the word \"{adj}\" to a child in one or two sentences."),
    ("fact", 5, "What does it mean to {verb}? Answer in simple words."),
    ("fact", 4, "Why do people {verb}? Answer in two short sentences."),
    ("fact", 4, "What is the difference between a {noun} and a {noun2}? Answer in simple words."),
    ("fact", 3, "Where can you find a {noun}? Answer briefly."),
    ("fact", 3, "What is a {noun} used for? Answer briefly."),
    ("use", 5, "Write three short sentences with the word \"{noun}\"."),
    ("use", 4, "Write three short sentences with the word \"{verb}\"."),
    ("use", 3, "Write a short sentence with the words \"{adj}\" and \"{noun}\"."),
    ("use", 3, "Describe a {adj} {noun} in two short sentences."),
    ("talk", 6, "Write a short, simple dialogue between {name} and {name2} about a {noun}."),
    ("talk", 4, "Write a short, simple conversation between a {who} and a {who2} about how to {verb}."),
    ("chat", 3, "Hello! Can you tell me about {noun}?"),
    ("chat", 2, "Please give me a short tip: how do I {verb}?"),
    ("chat", 2, "I saw a {adj} {noun} today. What do you think?"),
]


def lexicon(wordnet_dir):
    tags, synsets = load_wordnet(wordnet_dir)
    freq = {}
    bad, by_pos = set(), {"noun": set(), "verb": set(), "adj": set()}
    for pos, words, gloss, examples in synsets:
        for w in words:
            if RUDE.search(gloss):
                bad.add(w)
            if pos in by_pos and re.fullmatch(r"[a-z]{3,12}", w):
                by_pos[pos].add(w)
        for w in re.findall(r"[a-z]+", gloss + " " + " ".join(examples)):
            freq[w] = freq.get(w, 0) + 1
    out = {}
    for pos, ws in by_pos.items():
        out[pos] = sorted((w for w in ws if w not in bad and tags[w] >= 2 and freq.get(w, 0) >= 8), key=lambda w: (-tags[w], w))
    return out


def prompts(tok, wordnet_dir, seed):
    rng = random.Random(seed)
    lex = lexicon(wordnet_dir)
    weights = [w for _, w, _ in TEMPLATES]
    pick = lambda ws: ws[int(len(ws) * rng.random() ** 1.5)]  # leans to the common words
    while True:
        kind, _, text = rng.choices(TEMPLATES, weights)[0]
        q = text.format(
            noun=pick(lex["noun"]), noun2=pick(lex["noun"]), verb=pick(lex["verb"]), adj=pick(lex["adj"]),
            name=rng.choice(NAMES), name2=rng.choice(NAMES), who=rng.choice(PEOPLE), who2=rng.choice(PEOPLE),
        )
        q = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", q)
        yield (kind, q), tok.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n").ids


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--gguf", required=True)
    ap.add_argument("--wordnet", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=460)
    ap.add_argument("--batch", type=int, default=4096)
    ap.add_argument("--length", type=int, default=256)
    ap.add_argument("--attend", default="triton")
    ap.add_argument("--compile", action="store_true")
    a = ap.parse_args()
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    with torch.no_grad():
        t = Teacher(a.gguf, dev, torch.bfloat16 if dev == "cuda" else torch.float32)
        t.alloc(a.batch, a.length, 64)
        t.compile(a.compile, a.attend)
    print("ready", flush=True)
    rows = []

    def on_text(tag, p, g):
        g = g.tolist()
        cut = g[-1] not in (t.eos, t.eot)
        rows.append((tag, g if cut else g[:-1], cut))

    made, steps = t.generate(prompts(t.tok, a.wordnet, SEED), on_text, a.seconds)
    texts = t.tok.decode_batch([g for _, g, _ in rows], skip_special_tokens=True)
    with open(os.path.join(a.out, "raw.jsonl"), "w", encoding="utf8") as f:
        for (tag, _, cut), text in zip(rows, texts):
            f.write(json.dumps({"kind": tag[0], "prompt": tag[1], "text": text, "cut": cut}) + "\n")
    print(f"generated {len(rows)} texts, {made} tokens, {steps} steps of {a.batch}")


if __name__ == "__main__":
    main()
