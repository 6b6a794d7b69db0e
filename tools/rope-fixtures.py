"""Inverse rope frequencies as transformers computes them, as f32 bits, for test/formats/rope-frequencies.test.ts.

Run: python tools/rope-fixtures.py            (needs torch and transformers; versions are recorded in the file)
"""

import json
import pathlib

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

OUT = pathlib.Path(__file__).parent.parent / "test/fixtures/rope-frequencies.json"

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
HEADS = [(64, 10000.0), (128, 500000.0), (48, 130000.0)]
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
    {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 256},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256, "beta_fast": 8, "beta_slow": 2,
     "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False},
    {"rope_type": "dynamic", "factor": 3.0},
    {"rope_type": "longrope", "original_max_position_embeddings": 4096},
    {"rope_type": "longrope", "original_max_position_embeddings": 4096, "attention_factor": 1.3},
]
# Tokens of the longest sequence: below and above what the two scalings that depend on it were made for.
LONGEST = {"dynamic": [1000, 200000], "longrope": [4096, 4097]}
MAX_POSITIONS = 131072


def case(head_dim, theta, scaling, longest):
    parameters = {**scaling, "rope_theta": theta}
    if scaling["rope_type"] == "longrope":
        parameters["short_factor"] = [1 + i / 10 for i in range(head_dim // 2)]
        parameters["long_factor"] = [1.5 + i * i / 7 for i in range(head_dim // 2)]
    config = LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
                         max_position_embeddings=MAX_POSITIONS, rope_parameters=dict(parameters))
    rotary = LlamaRotaryEmbedding(config)
    rotary(torch.zeros(1), torch.tensor([[longest - 1]]))
    bits = rotary.inv_freq.view(torch.int32).tolist()
    return {"head_dim": head_dim, "rope_parameters": parameters, "longest": longest,
            "magnitude": float(rotary.attention_scaling), "bits": bits}


cases = [
    case(head_dim, theta, scaling, longest)
    for head_dim, theta in HEADS
    for scaling in SCALINGS
    for longest in LONGEST.get(scaling["rope_type"], [100])
]
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
OUT.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")
print(f"{OUT.name}: {len(cases)} cases")
