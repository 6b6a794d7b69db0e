"""Turns the generated texts, WordNet's glosses, spelling games and bare phoneme strings into the training corpus.

  python build_corpus.py --raw raw.jsonl --wordnet DIR --cmu DIR --data ../../assets/data --out DIR [--vocab 2048]

Writes OUT/base/{tokenizer,tokenizer_config}.json and OUT/{train,held_text,held_gloss}.npz (token ids, document starts).
No document holds both a word's letters and its phonemes: phoneme documents hold phonemes only, and they come from
CMU words that are in neither split of the task, and have no held-out word's phonemes.
"""
import argparse
import json
import os
import random
import re

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sources import PHONEMES, load_cmu, load_wordnet, read_rows, word_of

SEED = 20261124
RUDE = re.compile(r"\b(sex|rape|kill|murder|drunk|naked|nude|suicid|porn|drug|nazi|slave|gun|weapon|terroris|bomb|shit|fuck|damn|whore|bitch|racis|breast|erotic|blood|corpse|abuse)", re.I)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_SHARE = 0.3
SPELL_SHARE, PHONEME_SHARE = 0.17, 0.035  # of all tokens


def clean(text, cut):
    """ASCII, no markdown, whole sentences; None for texts that loop or are too short."""
    text = text.translate(str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u00e9": "e"}))
    text = text.replace("\u2026", "...").replace("**", "").replace("\r", "")
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"\s*\n\s*", "\n", text).strip()
    if cut:
        end = max(text.rfind(c) for c in ".!?")
        text = text[: end + 1 + (text[end + 1 : end + 2] == '"')] if end > 0 else ""
    if len(text) < 12 or not text.isascii() or re.search(r"[{}\\<>|#_=@~^]|http|AI language|language model|SmolLM", text) or RUDE.search(text):
        return None
    words = re.findall(r"[a-z']+", text.lower())
    if len(words) < 3:
        return None
    tri = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    if tri and len(set(tri)) / len(tri) < 0.8:
        return None
    return text


def chat(question, answer):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def spelling(rng, words):
    """One spelling game: letters <-> words, copies, reversals, shifts. Never a phoneme."""
    w = rng.choice(words)
    if rng.random() < 0.25:
        w = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 9)))
    s = " ".join(w)
    shift = lambda c: chr((ord(c) - 96) % 26 + 97)
    vowels = [c for c in w if c in "aeiou"] or ["none"]
    cons = [c for c in w if c not in "aeiou"] or ["none"]
    game = rng.randrange(12)
    if game < 2:
        return f"{w}: {s}"
    if game < 4:
        return f"Word {s}\n{w}"
    return [
        f"Spell {w}: {s}",
        f"Copy {s}\nLetters: {s}",
        f"Copy {s}\nLetters: {s}",
        f"Back {s}\nLetters: {' '.join(w[::-1])}",
        f"Next {s}\nLetters: {' '.join(map(shift, w))}",
        f"Twice {s}\nLetters: {' '.join(c + ' ' + c for c in w)}",
        f"Vowels {s}\nLetters: {' '.join(vowels)}",
        f"Others {s}\nLetters: {' '.join(cons)}",
    ][game - 4]


def train_tokenizer(texts, spelled, vocab):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    # Every letter and every phoneme (with its space) must come out as one token, so each is shown often enough.
    forced = ["Phonemes: " + " ".join(PHONEMES) + "\nSay\nLetters a b c d e f g h i j k l m n o p q r s t u v w x y z"]
    forced *= max(200, len(texts) // 20)
    tok.train_from_iterator(forced + texts + spelled, trainer)
    for t in [" " + p for p in PHONEMES] + [" " + c for c in "abcdefghijklmnopqrstuvwxyz"] + ["Phonemes", "Say", "\n", ":"]:
        assert len(tok.encode(t).ids) == 1, t
    return tok


def encode(tok, docs):
    ids, starts, n = [], [], 0
    eot = tok.token_to_id(SPECIAL[0])
    for i in range(0, len(docs), 100000):
        for e in tok.encode_batch(docs[i : i + 100000]):
            starts.append(n)
            ids.append(np.array(e.ids + [eot], dtype=np.uint16))
            n += len(e.ids) + 1
    return np.concatenate(ids), np.array(starts, dtype=np.int64)


def main():
    ap = argparse.ArgumentParser()
    for n in ("raw", "wordnet", "cmu", "data", "out"):
        ap.add_argument("--" + n, required=True)
    ap.add_argument("--vocab", type=int, default=2048)
    a = ap.parse_args()
    rng = random.Random(SEED)
    base_dir = os.path.join(a.out, "base")
    os.makedirs(base_dir, exist_ok=True)

    texts, dropped = [], 0
    for r in read_rows(a.raw):
        text = clean(r["text"], r["cut"])
        if text is None:
            dropped += 1
            continue
        texts.append(chat(r["prompt"], text) if r["kind"] == "chat" or rng.random() < CHAT_SHARE else text)
    rng.shuffle(texts)
    _, synsets = load_wordnet(a.wordnet)
    glosses, lemmas = [], set()
    for _, words, gloss, examples in synsets:
        lemmas.update(w for w in words if re.fullmatch(r"[a-z]{2,12}", w))
        if words[0].isascii() and gloss.isascii() and len(gloss) > 3:
            doc = f"{words[0]}: {gloss}." + "".join(f" {e[0].upper()}{e[1:]}." for e in examples if e.isascii() and len(e) > 1 and e[-1] not in ".?!")
            glosses.append(doc)
    rng.shuffle(glosses)
    n_held = max(20, len(texts) // 250)
    held_text, texts = texts[:n_held], texts[n_held:]
    held_gloss, glosses = glosses[:2000], glosses[2000:]
    lemmas = sorted(lemmas)
    print(f"{len(texts)} texts ({dropped} dropped), {len(glosses)} glosses, held out {n_held} and {len(held_gloss)}")

    spelled = [spelling(rng, lemmas) for _ in range(20000)]
    sample = texts[:150000]
    plain = [re.sub(r"<\|\w+\|>", "", t) for t in sample]
    tok = train_tokenizer(plain + glosses[: len(plain) // 20 + 10], spelled, a.vocab)
    tok.save(os.path.join(base_dir, "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "pad_token": SPECIAL[0], "unk_token": None,
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "model_max_length": 512, "additional_special_tokens": SPECIAL[1:], "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for i, t in enumerate(SPECIAL)
        },
    }
    with open(os.path.join(base_dir, "tokenizer_config.json"), "w", encoding="utf8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")

    cmu = load_cmu(a.cmu)
    rows = read_rows(os.path.join(a.data, "train.jsonl")) + (held_rows := read_rows(os.path.join(a.data, "heldout.jsonl")))
    task = {word_of(r) for r in rows}
    held_strings = {r["completion"].strip() for r in held_rows}
    strings = sorted({" ".join(p) for w, ps in cmu.items() if w not in task and w.split("'")[0] not in task for p in ps if 2 <= len(p) <= 11} - held_strings)
    assert not held_strings & set(strings)

    body = texts + glosses + glosses
    n_body = sum(len(e.ids) for i in range(0, len(body), len(body) // 200 + 1) for e in [tok.encode(body[i])]) / len(range(0, len(body), len(body) // 200 + 1)) * len(body)
    total = n_body / (1 - SPELL_SHARE - PHONEME_SHARE)
    games = [spelling(rng, lemmas) for _ in range(int(total * SPELL_SHARE / 21))]
    phones, n = [], 0
    while n < total * PHONEME_SHARE:
        lines = [rng.choice(strings) for _ in range(1 if rng.random() < 0.75 else rng.randint(2, 6))]
        phones.append("\n".join("Phonemes: " + s for s in lines))
        n += sum(len(s.split()) + 3 for s in lines)
    docs = body + games + phones
    rng.shuffle(docs)
    for name, ds in (("train", docs), ("held_text", held_text), ("held_gloss", held_gloss)):
        ids, starts = encode(tok, ds)
        np.savez(os.path.join(a.out, name + ".npz"), ids=ids, starts=starts, bytes=sum(len(d.encode()) for d in ds))
        print(f"{name}: {len(ds)} documents, {len(ids)} tokens")
    print(f"games {len(games)}, phoneme documents {len(phones)} from {len(strings)} strings, texts+glosses ~{n_body:.0f} tokens")
    with open(os.path.join(a.out, "sample.txt"), "w", encoding="utf8") as f:
        f.write("\n<|endoftext|>\n".join(docs[:3000]))


if __name__ == "__main__":
    main()
