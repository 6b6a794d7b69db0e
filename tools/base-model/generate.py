"""Has SmolLM2-135M-Instruct write the training text: short simple stories, facts, answers, dialogues.

  python generate.py --gguf FILE --wordnet DIR --out DIR --seconds 415 [--batch 4096] [--compile]

Writes raw.jsonl: {"kind", "prompt", "text", "cut"}; sampled at temperature 0.75, min-p 0.06,
repetition penalty 1.12 on what the answer already holds.
"""
import argparse
import json
import os
import random
import re

import torch

from sources import load_wordnet, senses
from teacher import Teacher

SEED = 20261124
RUDE = re.compile(r"obscen|vulgar|slur|offensive|disparag|sexual|genital|prostitut|ethnic|excre|copulat|rape|fetus|suicid|terroris|nazi|racis|\bdrug|narcotic|torture|corpse|\bgun\b|kill")

NAMES = "Tom Anna Ben Lily Sam Mia Max Sue Leo Rosa Jack Emma Tim Nora Bob Lucy Dan Ella Amy Kate Joe Ruth Pete Zoe Mina Omar Ravi Aiko Sara Finn".split()
PEOPLE = "girl,boy,mother,father,teacher,farmer,baker,sailor,doctor,king,queen,old man,old woman,cat,dog,mouse,fox,bear,bird,rabbit,frog,turtle,lion,duck,horse,cow,bee,fish,owl,little robot".split(",")

# (kind, weight, question, how the answer begins). The opening keeps the small teacher in a simple register.
TEMPLATES = [
    ("story", 8, "Write a very short story for a young child about a {adj} {noun}.", "Once upon a time, there was a {adj} {noun}."),
    ("story", 8, "Write a very short story about a {who} and a {noun}. Use short, simple sentences.", "Once there was a {who} who had a {noun}."),
    ("story", 8, "Tell a short and simple story about {name} and a {noun}.", "One day, {name} found a {adj} {noun}."),
    ("story", 8, "Tell a short and simple story about {name}.", "{name} liked to {verb}. Every day, {name}"),
    ("story", 8, "Tell a short bedtime story about a {who}. Use simple words.", "Long ago, a {adj} {who} lived in a small house near a {noun}."),
    ("story", 8, "Write a short story in simple words about a {who} and a {who2}.", "The {who} and the {who2} were good friends. One day, they"),
    ("story", 6, "Write a very short story for children about a {noun}.", "\"Look at the {noun}!\" said {name}. \"It is so {adj}.\""),
    ("story", 6, "Tell me a story about {name} and {name2}.", "{name} and {name2} went to the {place}. They saw a {adj} {noun}."),
    ("story", 6, "Write a short story with the words {noun}, {verb} and {adj}.", "It was a {weather} day. {name} wanted to {verb}"),
    ("story", 4, "Tell me a story about a {noun} and a {noun2}.", "In the {place} there was a {noun}. Next to it was a {noun2}."),
    ("story", 4, "What did {name} do today?", "Today {name} went to the {place} with a {noun}. First, {name}"),
    ("fact", 7, "What is a {noun}? Answer in two short, simple sentences.", "A {noun} is"),
    ("fact", 4, "What is a {noun} used for?", "A {noun} is used"),
    ("fact", 4, "Tell me about the {noun}.", "The {noun} is"),
    ("fact", 4, "What does \"{adj}\" mean?", "If something is {adj}, it is"),
    ("fact", 4, "What does it mean to {verb}?", "To {verb} means to"),
    ("fact", 4, "Why do people {verb}?", "People {verb} because"),
    ("fact", 3, "What is the difference between a {noun} and a {noun2}?", "A {noun} is"),
    ("fact", 3, "Where can I find a {noun}?", "You can find a {noun}"),
    ("use", 4, "Describe a {adj} {noun} in two short sentences.", "The {noun} is {adj}."),
    ("use", 3, "Use the word \"{noun}\" in a sentence.", "The {noun}"),
    ("use", 3, "Use the word \"{verb}\" in a sentence.", "I {verb}"),
    ("talk", 6, "Write a short, simple dialogue between {name} and {name2} about a {noun}.", "{name}: Hello, {name2}! Do you like my {adj} {noun}?\n{name2}:"),
    ("talk", 4, "Write a short, simple dialogue between {name} and {name2}.", "{name}: What do you want to do today?\n{name2}: I want to {verb}.\n{name}:"),
    ("chat", 3, "Hello! Can you tell me about a {noun}?", "Hello! A {noun} is"),
    ("chat", 2, "I saw a {adj} {noun} today. What do you think?", "That sounds {adj2}! A {noun}"),
    ("chat", 2, "I like to {verb}. Do you?", "Yes, I"),
    ("chat", 2, "How can I {verb}?", "To {verb}, you"),
    ("chat", 2, "I am {feel} today.", "I am"),
]
PLACES = "park,forest,farm,beach,school,garden,river,market,town,lake,hill,zoo,house,kitchen,village,sea,field,mountain,shop,barn".split(",")
WEATHER = "sunny,rainy,cold,warm,windy,snowy,quiet,bright,hot,cloudy".split(",")
FEEL = "happy,sad,tired,hungry,angry,bored,excited,sick,lonely,proud,scared,busy".split(",")
NOUN_FILES = {5, 6, 8, 13, 17, 18, 19, 20, 27}  # animals, things, body, food, objects, people, weather, plants, stuff
VERB_FILES = {29, 31, 32, 34, 35, 36, 38, 39, 40}  # body, thinking, talking, eating, touching, making, moving, seeing, having


def lexicon(wordnet_dir):
    """Common words used mostly as the one part of speech, first sense concrete; offensive senses left out."""
    _, synsets = load_wordnet(wordnet_dir)
    freq, bad = {}, set()
    for _, words, gloss, examples in synsets:
        if RUDE.search(gloss):
            bad.update(words)
        for w in re.findall(r"[a-z]+", gloss + " " + " ".join(examples)):
            freq[w] = freq.get(w, 0) + 1
    count, first = {}, {}
    for lemma, pos, lex, number, n in senses(wordnet_dir):
        pos = {1: "noun", 2: "verb", 3: "adj", 5: "adj"}.get(pos, "adv")
        count.setdefault(lemma, {}).setdefault(pos, 0)
        count[lemma][pos] += n
        if number == 1:
            first[lemma, pos] = lex
    out = {"noun": [], "verb": [], "adj": []}
    for w, c in count.items():
        pos = max(c, key=c.get)
        keep = {"noun": first.get((w, "noun")) in NOUN_FILES, "verb": first.get((w, "verb")) in VERB_FILES, "adj": True, "adv": False}[pos]
        if keep and re.fullmatch(r"[a-z]{3,10}", w) and w not in bad and not RUDE.search(w) and c[pos] >= 1 and freq.get(w, 0) >= 12:
            out[pos].append((-freq[w], w))
    return {k: [w for _, w in sorted(v)] for k, v in out.items()}


def prompts(tok, wordnet_dir, seed):
    rng = random.Random(seed)
    lex = lexicon(wordnet_dir)
    weights = [t[1] for t in TEMPLATES]
    pick = lambda ws: ws[int(len(ws) * rng.random() ** 2.2)]  # leans to the common words
    while True:
        kind, _, question, opening = rng.choices(TEMPLATES, weights)[0]
        words = dict(
            noun=pick(lex["noun"]), noun2=pick(lex["noun"]), verb=pick(lex["verb"]), adj=pick(lex["adj"]), adj2=pick(lex["adj"]),
            name=rng.choice(NAMES), name2=rng.choice(NAMES), who=rng.choice(PEOPLE), who2=rng.choice(PEOPLE),
            place=rng.choice(PLACES), weather=rng.choice(WEATHER), feel=rng.choice(FEEL),
        )
        question, opening = (re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", s.format(**words)) for s in (question, opening))
        yield (kind, question, opening), tok.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{opening}").ids


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--gguf", required=True)
    ap.add_argument("--wordnet", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=415)
    ap.add_argument("--batch", type=int, default=4096)
    ap.add_argument("--length", type=int, default=208)
    ap.add_argument("--compile", action="store_true")
    a = ap.parse_args()
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    with torch.no_grad():
        t = Teacher(a.gguf, dev, torch.bfloat16 if dev == "cuda" else torch.float32)
        t.alloc(a.batch, a.length, 64)
        t.compile(a.compile)
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
            f.write(json.dumps({"kind": tag[0], "prompt": tag[1], "text": tag[2] + text, "cut": cut}) + "\n")
    print(f"generated {len(rows)} texts, {made} tokens, {steps} steps of {a.batch}")


if __name__ == "__main__":
    main()
