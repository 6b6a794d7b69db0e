"""Asserts what the package relies on: the base loads in transformers, agrees with model.py, and knows the letters and
phonemes as single tokens but nothing of the mapping between them.

  python check_base.py [../../assets]
"""
import os
import random
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import model as M
from adapt import evaluate
from sources import PHONEMES, read_rows


def main():
    assets = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../../assets")
    base = os.path.join(assets, "base")
    tok = AutoTokenizer.from_pretrained(base)
    net, info = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    total = sum(p.numel() for p in net.parameters())
    linears = sum(p.numel() for n, p in net.named_parameters() if "_proj" in n)
    assert total <= 8_000_000 and linears / total >= 0.7
    own = M.load(base)
    ids = tok("Once upon a time there was a little dog.", return_tensors="pt").input_ids
    with torch.no_grad():
        assert (net(ids).logits - own(ids)).abs().max() < 1e-4
    for t in [" " + p for p in PHONEMES] + [" " + c for c in "abcdefghijklmnopqrstuvwxyz"]:
        assert len(tok(t).input_ids) == 1, t
    text = "bytes \u00e9\u4e2d\U0001f600\x00\x7f ok"
    assert tok.decode(tok(text).input_ids) == text
    held = [(tok(r["prompt"]).input_ids, tok(r["completion"]).input_ids + [0]) for r in read_rows(os.path.join(assets, "data/heldout.jsonl"))]
    comps = [c for _, c in held]
    random.Random(0).shuffle(comps)
    true = evaluate(own, held, tok, "cpu", decode=False)["loss"]
    other = evaluate(own, [(p, c) for (p, _), c in zip(held, comps)], tok, "cpu", decode=False)["loss"]
    print(f"{total} parameters, {linears / total:.1%} in block linears; held-out phonemes {true}, with the answers shuffled {other}")
    assert abs(true - other) < 0.05


if __name__ == "__main__":
    main()
