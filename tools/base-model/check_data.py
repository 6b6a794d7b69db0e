"""Asserts that no held-out word shares a word, stem, six-letter prefix or phoneme string with a training word.

  python check_data.py [../../assets/data]
"""
import os
import re
import sys

from make_data import base_forms, related, without_kin
from sources import PHONEMES, prompt_for, read_rows, word_of


def main():
    data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../../assets/data")
    train, held = (read_rows(os.path.join(data, n + ".jsonl")) for n in ("train", "heldout"))
    for r in train + held:
        w = word_of(r)
        assert prompt_for(w) == r["prompt"] and re.fullmatch(r"[a-z]{3,10}", w), r
        assert r["completion"].startswith(" ") and all(p in PHONEMES for p in r["completion"].split()), r
    tw, hw = [word_of(r) for r in train], [word_of(r) for r in held]
    assert len(set(tw)) == len(tw) and len(set(hw)) == len(hw) and len(hw) >= 600
    ts, hs = set(tw), set(hw)
    assert not ts & hs
    assert not {w[:6] for w in ts} & {w[:6] for w in hs}, "shared six-letter prefix"
    for a_set, b_set in ((ts, hs), (hs, ts)):
        stems = {b for w in b_set for b in base_forms(w)}
        for w in a_set:
            assert w not in stems, ("a base form of a word across the split", w)
            shared = {r for r in related(w, b_set) if not r.startswith("^")}
            assert not shared, ("shared stem", w, shared)
    assert without_kin(hw, tw) == hw, ("shared headword", sorted(hs - set(without_kin(hw, tw))))
    assert not {r["completion"] for r in train} & {r["completion"] for r in held}, "shared phoneme string"
    print("ok:", len(train), "training rows,", len(held), "held-out rows")


if __name__ == "__main__":
    main()
