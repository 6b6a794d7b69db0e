"""How well the base learns the bundled task: plain LoRA and (Q)DyLoRA over an NF4 base, measured on held-out words.

  python adapt.py --base ../../assets/base --data ../../assets/data --out results.jsonl [--only NAME,...] [--shard i/n]

Per token NLL, phoneme error rate (PER) and exact match are taken on held-out words, at each rank asked for.
AdamW keeps its moments and step counts per adapter row, and touches only the rows below the sampled rank.
"""
import argparse
import json
import math
import os
import random
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import model as M
from sources import read_rows

RANKS = [1, 2, 4, 8, 16, 32]
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def nf4(w, block=64):
    """Quantise and dequantise in blocks of 64 (absmax; the scales themselves are left in float)."""
    code = torch.tensor(NF4, device=w.device)
    b = w.float().reshape(-1, block)
    s = b.abs().amax(1, keepdim=True).clamp_min(1e-12)
    idx = torch.bucketize((b / s).contiguous(), (code[1:] + code[:-1]) / 2)
    return (code[idx] * s).reshape(w.shape).to(w.dtype)


def scale_of(rule, alpha, b, R):
    return {"alpha/b": alpha / b, "alpha/sqrt(b)": alpha / math.sqrt(b), "alpha/R": alpha / R, "one": 1.0}[rule]


class Adapter(torch.nn.Module):
    def __init__(self, lin, R, state, gen):
        super().__init__()
        o, i = lin.weight.shape
        self.weight = lin.weight
        bound = 1 / math.sqrt(i)
        self.A = torch.nn.Parameter(((torch.rand(R, i, generator=gen) * 2 - 1) * bound).to(lin.weight.device))
        self.B = torch.nn.Parameter(torch.zeros(o, R, device=lin.weight.device))
        self.state = state

    def forward(self, x):
        y = F.linear(x, self.weight)
        b, s = self.state["b"], self.state["s"]
        if b:
            y = y + F.linear(F.linear(x, self.A[:b]), self.B[:, :b]) * s
        return y


class RowAdamW:
    def __init__(self, adapters, R, lr, wd=0.0, b1=0.9, b2=0.999, eps=1e-8, per_row=True):
        self.A = [a.A for a in adapters]
        self.B = [a.B for a in adapters]
        self.ps = self.A + self.B
        self.m = [torch.zeros_like(p) for p in self.ps]
        self.v = [torch.zeros_like(p) for p in self.ps]
        self.t = [0] * R
        self.lr, self.wd, self.b1, self.b2, self.eps, self.per_row = lr, wd, b1, b2, eps, per_row
        self.n = 0
        self.R = R

    @torch.no_grad()
    def step(self, b, lr, clip=1.0):
        self.n += 1
        for r in range(b):
            self.t[r] += 1
        dev = self.ps[0].device
        t = torch.tensor(self.t[:b] if self.per_row else [self.n] * b, device=dev, dtype=torch.float32)
        c1, c2 = 1 - self.b1**t, 1 - self.b2**t
        cut = lambda xs: [x[:b] for x in xs[: len(self.A)]] + [x[:, :b] for x in xs[len(self.A) :]]
        g, p, m, v = cut([p.grad for p in self.ps]), cut(self.ps), cut(self.m), cut(self.v)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g)))
        g = torch._foreach_mul(g, (clip / (norm + 1e-6)).clamp(max=1.0))
        torch._foreach_lerp_(m, g, 1 - self.b1)
        torch._foreach_mul_(v, self.b2)
        torch._foreach_addcmul_(v, g, g, 1 - self.b2)
        n = len(self.A)
        k = [c1[:, None]] * n + [c1[None]] * n
        k2 = [c2[:, None].sqrt()] * n + [c2[None].sqrt()] * n
        den = torch._foreach_div(torch._foreach_sqrt(v), k2)
        torch._foreach_add_(den, self.eps)
        upd = torch._foreach_div(torch._foreach_div(m, k), den)
        if self.wd:
            torch._foreach_mul_(p, 1 - lr * self.wd)
        torch._foreach_add_(p, upd, alpha=-lr)


def batches(rows, n, seed, batch):
    rng = random.Random(seed)
    order = []
    for _ in range(n):
        if len(order) < batch:
            order += rng.sample(range(len(rows)), len(rows))
        take, order = order[:batch], order[batch:]
        yield [rows[i] for i in take]


def pad(seqs, value, dev):
    T = max(map(len, seqs))
    return torch.tensor([s + [value] * (T - len(s)) for s in seqs], device=dev)


def edit(a, b):
    d = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        prev, d[0] = d[0], i
        for j, y in enumerate(b, 1):
            prev, d[j] = d[j], min(d[j] + 1, d[j - 1] + 1, prev + (x != y))
    return d[-1]


@torch.no_grad()
def evaluate(net, rows, tok, dev, decode=True):
    """NLL per completion token (phonemes and the end token), PER and exact match by greedy decoding."""
    nll = n = errs = total = exact = 0
    by_len = {}
    for p, c in rows:
        by_len.setdefault(len(p), []).append((p, c))
    for group in by_len.values():
        full = pad([p + c for p, c in group], 0, dev)
        mask = pad([[0] * (len(p) - 1) + [1] * len(c) for p, c in group], 0, dev)
        logp = torch.log_softmax(net(full[:, :-1]).float(), -1).gather(-1, full[:, 1:, None])[..., 0]
        nll -= (logp * mask).sum().item()
        n += mask.sum().item()
        if not decode:
            continue
        ids = torch.tensor([p for p, _ in group], device=dev)
        P = ids.shape[1]
        for _ in range(16):
            ids = torch.cat([ids, net(ids)[:, -1].argmax(-1)[:, None]], 1)
        for out, (_, c) in zip(ids[:, P:].tolist(), group):
            out = out[: out.index(0)] if 0 in out else out
            e = edit(out, c[:-1])
            errs, total, exact = errs + e, total + len(c) - 1, exact + (e == 0)
    r = {"loss": round(nll / n, 4)}
    if decode:
        r.update(per=round(errs / total, 4), exact=round(exact / len(rows), 4))
    return r


def run(cfg, args, tok, train, held, dev):
    c = dict(mode="dylora", R=32, lr=3e-3, batch=64, samples=36000, rule="alpha/sqrt(b)", alpha=1.0, dist="pow2", eval=RANKS, warm=20, seed=1, shuffled=False,
             per_row=True, floor=0.0, targets="all", tokens=0)
    c.update(cfg)
    torch.manual_seed(c["seed"])
    gen = torch.Generator().manual_seed(c["seed"])
    net = M.load(args.base, dev, torch.float32)
    for p in net.parameters():
        p.requires_grad_(False)
    state = {"b": 0, "s": 0.0}
    ads = []
    for blk in net.blocks:
        for n in M.LINEARS:
            lin = getattr(blk, n)
            lin.weight.data = nf4(lin.weight.data)
            ad = Adapter(lin, c["R"], state, gen)
            setattr(blk, n, ad)
            ads.append(ad)
    if c["shuffled"]:
        comps = [r[1] for r in train]
        random.Random(7).shuffle(comps)
        train = [(p, comp) for (p, _), comp in zip(train, comps)]
    opt = RowAdamW(ads, c["R"], c["lr"], per_row=c["per_row"])
    steps = c["samples"] // c["batch"]
    rng = random.Random(c["seed"] + 100)
    began = time.time()
    toks = 0
    for i, rows in enumerate(batches(train, steps, c["seed"], c["batch"])):
        R = c["R"]
        if c["mode"] == "lora":
            b = R
        elif c["dist"] == "pow2":
            b = rng.choice([r for r in RANKS if r <= R])
        elif c["dist"] == "uniform":
            b = rng.randint(1, R)
        elif c["dist"] == "mix":  # half powers of two, half uniform
            b = rng.choice([r for r in RANKS if r <= R]) if rng.random() < 0.5 else rng.randint(1, R)
        elif c["dist"] == "loguniform":
            b = min(R, int(2 ** (rng.random() * (math.log2(R) + 1))))
        state["b"], state["s"] = b, scale_of(c["rule"], c["alpha"], b, R)
        lr = c["lr"] * min(1, (i + 1) / c["warm"]) * (c["floor"] + (1 - c["floor"]) * (1 - i / steps))
        full = pad([p + q for p, q in rows], 0, dev)
        labels = pad([[-100] * (len(p) - 1) + q for p, q in rows], -100, dev)
        toks += sum(len(p) + len(q) for p, q in rows)
        h = net.hidden(full[:, :-1])
        keep = labels >= 0
        loss = F.cross_entropy(F.linear(h[keep], net.embed.weight), labels[keep])
        for p in opt.ps:
            p.grad = None
        loss.backward()
        opt.step(b, lr)
    res = {}
    for b in c["eval"]:
        state["b"], state["s"] = b, scale_of(c["rule"], c["alpha"], max(b, 1), c["R"])
        res[b] = evaluate(net, held, tok, dev, decode=b == 0 or b in RANKS)
    return {"name": cfg["name"], "cfg": cfg, "steps": steps, "tokens": toks, "seconds": round(time.time() - began, 1), "ranks": res}


def settings():
    """The study in docs/base-model.md."""
    out = [dict(name="base", mode="none", samples=0, eval=[0])]
    for R in (2, 4, 32):
        for lr in (2e-3, 5e-3, 1e-2, 2e-2):
            out.append(dict(name=f"lora-r{R}-lr{lr}", mode="lora", R=R, rule="one", lr=lr, eval=[R]))
    for b in (16, 32):
        for lr in (2e-3, 5e-3, 1e-2):
            out.append(dict(name=f"lora-r32-b{b}-lr{lr}", mode="lora", rule="one", lr=lr, batch=b, eval=[32]))
    out.append(dict(name="lora-r32-lr0.005-shuffled", mode="lora", rule="one", lr=5e-3, eval=[32], shuffled=True))
    out.append(dict(name="lora-r2-lr0.01-shuffled", mode="lora", R=2, rule="one", lr=1e-2, eval=[2], shuffled=True))
    between = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 28, 32]
    for rule, alphas in (("alpha/b", (2.0, 8.0, 32.0)), ("alpha/sqrt(b)", (2.0, 4.0, 8.0)), ("alpha/R", (64.0,)), ("one", (1.0,))):
        for alpha in alphas:
            for lr in (2e-3, 5e-3, 1e-2):
                out.append(dict(name=f"dy-{rule}-a{alpha}-lr{lr}", rule=rule, alpha=alpha, lr=lr, eval=between))
    for dist in ("uniform", "mix", "loguniform"):
        out.append(dict(name=f"dy-{dist}-alpha/sqrt(b)-a4.0-lr0.01", dist=dist, rule="alpha/sqrt(b)", alpha=4.0, lr=1e-2, eval=between))
    out.append(dict(name="dy-alpha/sqrt(b)-a4.0-lr0.01-shuffled", rule="alpha/sqrt(b)", alpha=4.0, lr=1e-2, shuffled=True))
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--base", required=True)
    ap.add_argument("--data", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--only", default="")
    ap.add_argument("--settings", default="", help="a JSON file with a list of settings in place of the built-in ones")
    ap.add_argument("--shard", default="0/1")
    ap.add_argument("--samples", type=int, default=0)
    a = ap.parse_args()
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(2 if dev == "cpu" else 1)
    torch.set_float32_matmul_precision("high")
    tok = Tokenizer.from_file(os.path.join(a.base, "tokenizer.json"))
    enc = lambda rows: [(tok.encode(r["prompt"]).ids, tok.encode(r["completion"]).ids + [0]) for r in rows]
    train, held = (enc(read_rows(os.path.join(a.data, n + ".jsonl"))) for n in ("train", "heldout"))
    todo = json.load(open(a.settings)) if a.settings else settings()
    only = [n for n in a.only.split(",") if n]
    todo = [c for c in todo if not only or any(c["name"].startswith(n) for n in only)]
    i, n = map(int, a.shard.split("/"))
    for cfg in todo[i::n]:
        if a.samples:
            cfg = dict(cfg, samples=min(a.samples, cfg.get("samples", a.samples)))
        r = run(cfg, a, tok, train, held, dev)
        with open(a.out, "a", encoding="utf8") as f:
            f.write(json.dumps(r) + "\n")
        print(r["name"], r["seconds"], {k: tuple(v.values()) for k, v in r["ranks"].items()}, flush=True)


if __name__ == "__main__":
    main()
