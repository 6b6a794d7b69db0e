"""One-token attention over a static KV cache, each row at its own position (Triton)."""
import torch
import triton
import triton.language as tl


@triton.jit
def _kernel(q, k, v, pos, o, H: tl.constexpr, KV: tl.constexpr, T: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BLOCKS: tl.constexpr):
    b, h = tl.program_id(0), tl.program_id(1)
    G: tl.constexpr = H // KV
    n = tl.load(pos + b) + 1
    d = tl.arange(0, D)
    g = tl.arange(0, 4)
    t = tl.arange(0, BT)
    qv = tl.load(q + b * H * D + (h * G + g[:, None]) * D + d[None, :], mask=(g < G)[:, None], other=0.0).to(tl.float32) * (D**-0.5)
    m = tl.full((4,), -1e30, tl.float32)
    l = tl.zeros((4,), tl.float32)
    acc = tl.zeros((4, D), tl.float32)
    base = (b * KV + h).to(tl.int64) * T * D
    for i in range(BLOCKS):
        if i * BT < n:
            tt = i * BT + t
            off = base + tt[:, None] * D + d[None, :]
            live = tt < n
            kk = tl.load(k + off, mask=live[:, None], other=0.0).to(tl.float32)
            s = tl.sum(qv[:, None, :] * kk[None, :, :], 2)
            s = tl.where(live[None, :], s, -1e30)
            m2 = tl.maximum(m, tl.max(s, 1))
            p = tl.exp(s - m2[:, None])
            r = tl.exp(m - m2)
            vv = tl.load(v + off, mask=live[:, None], other=0.0).to(tl.float32)
            acc = acc * r[:, None] + tl.sum(p[:, :, None] * vv[None, :, :], 1)
            l = l * r + tl.sum(p, 1)
            m = m2
    tl.store(o + b * H * D + (h * G + g[:, None]) * D + d[None, :], (acc / l[:, None]).to(o.dtype.element_ty), mask=(g < G)[:, None])


def decode_attention(q, k, v, pos):
    B, H, D = q.shape
    KV, T = k.shape[1], k.shape[2]
    q = q.contiguous()
    o = torch.empty(B, H * D, device=q.device, dtype=q.dtype)
    BT = 32
    _kernel[(B, KV)](q, k, v, pos, o, H, KV, T, D, BT, triton.cdiv(T, BT), num_warps=4)
    return o
