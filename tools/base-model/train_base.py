"""Pre-trains the bundled base on the corpus made by build_corpus.py.

  python train_base.py --corpus DIR --out DIR --seconds 240 [--rows 128] [--lr 3e-3]

The number of steps is set from the speed of the first steps so that training ends in --seconds, or by --steps.
"""
import argparse
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import model as M

SEED = 20261124


def heldout(net, path, dev, T):
    z = np.load(path)
    ids = torch.from_numpy(z["ids"].astype(np.int64)).to(dev)
    n = len(ids) // (T + 1) * (T + 1)
    rows = ids[:n].view(-1, T + 1)[:400]
    total = 0.0
    for r in rows.split(50):
        with torch.autocast(dev, torch.bfloat16):
            total += F.cross_entropy(net(r[:, :-1]).float().flatten(0, 1), r[:, 1:].flatten(), reduction="sum").item()
    loss = total / rows[:, 1:].numel()
    return loss, loss / math.log(2) * len(ids) / float(z["bytes"])


def sample(net, tok, prompt, dev, n=60, temp=0.7):
    ids = torch.tensor([tok.encode(prompt).ids], device=dev)
    g = torch.Generator(device=dev).manual_seed(1)
    for _ in range(n):
        logits = net(ids[:, -500:])[0, -1].float()
        nxt = torch.multinomial(torch.softmax(logits / temp, -1), 1, generator=g) if temp else logits.argmax()[None]
        if nxt.item() in (0, 2):
            break
        ids = torch.cat([ids, nxt[None]], 1)
    return tok.decode(ids[0].tolist(), skip_special_tokens=False)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=240)
    ap.add_argument("--steps", type=int, default=0)
    ap.add_argument("--rows", type=int, default=128)
    ap.add_argument("--length", type=int, default=512)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--compile", action="store_true")
    a = ap.parse_args()
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    z = np.load(os.path.join(a.corpus, "train.npz"))
    data = torch.from_numpy(z["ids"].astype(np.int16)).to(dev)
    starts = torch.from_numpy(z["starts"]).to(dev)
    starts = starts[starts < len(data) - a.length - 1]
    net = M.Llama().to(dev)
    net.act_dtype = torch.bfloat16
    total = sum(p.numel() for p in net.parameters())
    lin = sum(p.numel() for n, p in net.named_parameters() if "_proj" in n)
    print(f"{total} parameters, {lin / total:.1%} in block linears; {len(data)} tokens", flush=True)
    decay = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() < 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=a.lr, betas=(0.9, 0.95), fused=dev == "cuda")

    def loss_of(x, y):
        with torch.autocast(dev, torch.bfloat16):
            logits = net(x)
        return F.cross_entropy(logits.float().flatten(0, 1), y.flatten())

    step_loss = torch.compile(loss_of) if a.compile else loss_of
    ar = torch.arange(a.length + 1, device=dev)
    steps, warm = a.steps or 10**9, 200
    t0, log = None, time.time()
    began = time.time()
    i = 0
    while i < steps:
        s = starts[torch.randint(len(starts), (a.rows,), device=dev)]
        rows = data[s[:, None] + ar].long() & 0xFFFF
        done = i / steps
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (i + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, done))))
        loss = step_loss(rows[:, :-1], rows[:, 1:])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        i += 1
        if not a.steps and i == 20:
            loss.item()
            t0 = time.time()
        if not a.steps and i == 120:
            loss.item()
            per = (time.time() - t0) / 100
            steps = 120 + int((a.seconds - (time.time() - began)) / per)
            print(f"{per * 1000:.1f} ms a step, {a.rows * a.length / per:.0f} tokens/s; {steps} steps", flush=True)
        if time.time() - log > 15:
            log = time.time()
            print(f"{log - began:.0f}s step {i} loss {loss.item():.3f}", flush=True)
    M.save(net, a.out)
    net = M.load(a.out, dev, torch.float32)
    tok = Tokenizer.from_file(os.path.join(a.out, "tokenizer.json"))
    with torch.no_grad():
        print(f"steps {i}, tokens seen {i * a.rows * a.length}")
        for name in ("held_text", "held_gloss"):
            loss, bpb = heldout(net, os.path.join(a.corpus, name + ".npz"), dev, a.length)
            print(f"{name}: {loss:.4f} nats/token, {bpb:.4f} bits/byte")
        for p in (
            "Once upon a time", "The little dog", "house:", "<|im_start|>user\nWhat is a boat?<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\nTell me a short story about a cat.<|im_end|>\n<|im_start|>assistant\n", "garden:", "Copy p l a n e t\nLetters:",
            "Word w i n d o w\n", "Phonemes:", "Say t a b l e\nPhonemes:", "Back s t o n e\nLetters:",
        ):
            print("---", repr(sample(net, tok, p, dev, temp=0.0 if "Letters" in p or "Word" in p else 0.7)))


if __name__ == "__main__":
    main()
