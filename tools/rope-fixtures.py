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
]


def case(head_dim, theta, scaling):
    parameters = {**scaling, "rope_theta": theta}
    config = LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
                         max_position_embeddings=131072, rope_parameters=parameters)
    bits = LlamaRotaryEmbedding(config).inv_freq.view(torch.int32).tolist()
    return {"head_dim": head_dim, "rope_parameters": parameters, "bits": bits}


cases = [case(head_dim, theta, scaling) for head_dim, theta in HEADS for scaling in SCALINGS]
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
OUT.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")
print(f"{OUT.name}: {len(cases)} cases")
