"""The bundled base's architecture (Llama) in plain torch, its configuration, and export to transformers' layout."""
import json
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 512, "rope_theta": 10000.0, "rope_scaling": None, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "initializer_range": 0.02, "use_cache": True,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "bfloat16",
}
GENERATION = {"bos_token_id": 0, "eos_token_id": [0, 2], "pad_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.95}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, hd, f = c["hidden_size"], c["head_dim"], c["intermediate_size"]
        self.h, self.kv, self.hd, self.eps = c["num_attention_heads"], c["num_key_value_heads"], hd, c["rms_norm_eps"]
        lin = lambda i, o: nn.Linear(i, o, bias=False)
        self.q_proj, self.k_proj, self.v_proj = lin(d, self.h * hd), lin(d, self.kv * hd), lin(d, self.kv * hd)
        self.o_proj, self.gate_proj, self.up_proj, self.down_proj = lin(self.h * hd, d), lin(d, f), lin(d, f), lin(f, d)
        self.input_layernorm, self.post_attention_layernorm = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))

    def forward(self, x, cos, sin):
        B, T, d = x.shape
        norm = lambda y, w: F.rms_norm(y, (d,), w.to(y.dtype), self.eps)
        y = norm(x, self.input_layernorm)
        q, k, v = (f(y).view(B, T, -1, self.hd).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        rot = lambda t: torch.cat([t[..., : self.hd // 2] * cos - t[..., self.hd // 2 :] * sin, t[..., self.hd // 2 :] * cos + t[..., : self.hd // 2] * sin], -1)
        q, k = rot(q), rot(k)
        k, v = (t.repeat_interleave(self.h // self.kv, 1) for t in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(a.transpose(1, 2).reshape(B, T, -1))
        y = norm(x, self.post_attention_layernorm)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(c["hidden_size"]))
        inv = 1.0 / c["rope_theta"] ** (torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        ang = torch.arange(c["max_position_embeddings"]).float()[:, None] * inv
        self.register_buffer("cos", ang.cos(), persistent=False)
        self.register_buffer("sin", ang.sin(), persistent=False)
        for n, p in self.named_parameters():
            if p.dim() == 2:
                std = 0.02 if "embed" in n else p.shape[1] ** -0.5 * (0.3 if "o_proj" in n or "down_proj" in n else 1.0)
                nn.init.normal_(p, std=std)

    def hidden(self, ids):
        x = self.embed(ids).to(self.act_dtype if hasattr(self, "act_dtype") else self.embed.weight.dtype)
        T = ids.shape[1]
        cos, sin = self.cos[:T].to(x.dtype), self.sin[:T].to(x.dtype)
        for b in self.blocks:
            x = b(x, cos, sin)
        return F.rms_norm(x, (x.shape[-1],), self.norm.to(x.dtype), self.c["rms_norm_eps"])

    def forward(self, ids):
        return F.linear(self.hidden(ids), self.embed.weight)


def hf_name(n):
    if n == "embed.weight":
        return "model.embed_tokens.weight"
    if n == "norm":
        return "model.norm.weight"
    _, i, rest = n.split(".", 2)
    part = rest.split(".")[0]
    if part.endswith("layernorm"):
        return f"model.layers.{i}.{part}.weight"
    return f"model.layers.{i}.{'self_attn' if part[0] in 'qkvo' else 'mlp'}.{part}.weight"


def save(model, folder):
    os.makedirs(folder, exist_ok=True)
    weights = {hf_name(n): p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    for name, obj in (("config.json", model.c), ("generation_config.json", GENERATION)):
        with open(os.path.join(folder, name), "w", encoding="utf8") as f:
            json.dump(obj, f, indent=2)
            f.write("\n")


def load(folder, device="cpu", dtype=torch.float32):
    with open(os.path.join(folder, "config.json"), encoding="utf8") as f:
        model = Llama(json.load(f))
    w = load_file(os.path.join(folder, "model.safetensors"))
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(w[hf_name(n)].float())
    return model.to(device=device, dtype=dtype)
