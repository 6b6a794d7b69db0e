"""Makes test/fixtures/parity: what an independent implementation computes for small models with LoRA adapters.

    python tools/parity-fixtures.py            write the fixtures
    python tools/parity-fixtures.py --check    write nothing; recompute, compare with the stored files

Needs torch, transformers, peft, safetensors and numpy (CPU is enough; about a minute). The versions used are in every JSON file.

What independence means here. Nothing is imported from qdylora and nothing is written after its code:
  - the model is transformers' own class for the family (eager attention), loaded by transformers from the Hugging Face folder
    it shares with our loader, so config.json and tensor names are read twice by unrelated code;
  - the adapter at rank b is peft's own LoRA of rank b, holding the first b rows of A and columns of B; peft computes the scale;
  - the gradients are torch's autograd, the clipping is torch.nn.utils.clip_grad_norm_, the optimizer torch.optim.AdamW;
  - sequences go through one by one, without padding and without packing;
  - everything is float64. transformers casts norms and softmax to float32 for the sake of half precision; those casts are
    lifted (see `float64_islands`). Rotary angles stay in float32: there the contract is the float32 angle.
  - 4-bit quantisation is this file's own numpy, after the description in QLoRA (arXiv 2305.14314 section 3) and bitsandbytes:
    the stored weights are the ORIGINAL ones, and our loader has to arrive at the same dequantised values by itself.

Each case is checked before it is written: autograd against a central difference along a random direction.
"""

import argparse
import hashlib
import json
import math
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.falcon import modeling_falcon
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.phi3 import modeling_phi3
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

OUT = Path(__file__).resolve().parent.parent / "test" / "fixtures" / "parity"
RANK_MAX = 8  # R
RANKS = [1, 4, 8]


# ---------------------------------------------------------------------------------------------------------------- models
# name -> (config.json, dtype of the stored weights, seed). Odd sizes on purpose: in-features that 64 does not divide, a
# row that starts in the middle of a byte (in-features 111), weights whose last block is short, heads that share a kv head.

BASE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS = {
    # llama3 rope in the older spelling of config.json; wavelengths on both sides of and inside the smooth band.
    "tied-llama3": (
        {
            **BASE_CONFIG,
            "vocab_size": 97,
            "hidden_size": 80,
            "num_key_value_heads": 2,
            "intermediate_size": 111,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        torch.bfloat16,
        11,
    ),
    # head_dim is not hidden/heads; biases everywhere; linear rope in the newer spelling; more than 256 blocks in a weight, so
    # that double quantisation has two second-level blocks.
    "biased-linear": (
        {
            **BASE_CONFIG,
            "vocab_size": 101,
            "hidden_size": 96,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "intermediate_size": 172,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        },
        torch.bfloat16,
        12,
    ),
    # One kv head for four query heads (MQA), no rope scaling.
    "plain-bf16": (
        {
            **BASE_CONFIG,
            "vocab_size": 89,
            "hidden_size": 64,
            "num_key_value_heads": 1,
            "intermediate_size": 112,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "rope_theta": 10000.0,
        },
        torch.bfloat16,
        13,
    ),
    "plain-f32": (
        {
            **BASE_CONFIG,
            "vocab_size": 67,
            "hidden_size": 56,
            "num_key_value_heads": 2,
            "intermediate_size": 92,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": False,
            "rope_theta": 10000.0,
        },
        torch.float32,
        14,
    ),
}

FALCON = {
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "alibi": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# The families: small, and each switch that changes what is computed at least once.
MODELS |= {
    # A group per key/value head in the fused linear, a norm for each side, tied head.
    "falcon-40b": (
        {
            **FALCON,
            "vocab_size": 61,
            "hidden_size": 48,
            "num_attention_heads": 6,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
        torch.bfloat16,
        21,
    ),
    # One key/value head, one norm for both sides.
    "falcon-7b": (
        {
            **FALCON,
            "vocab_size": 53,
            "hidden_size": 56,
            "num_attention_heads": 7,
            "new_decoder_architecture": False,
            "multi_query": True,
            "parallel_attn": True,
            "ffn_hidden_size": 100,
        },
        torch.bfloat16,
        22,
    ),
    # One norm with the new architecture, untied head, another base of the wavelengths.
    "falcon-11b": (
        {
            **FALCON,
            "vocab_size": 53,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 90,
            "tie_word_embeddings": False,
            "rope_theta": 500042.0,
        },
        torch.bfloat16,
        23,
    ),
    # Attention before the feed-forward, q, k and v of every head side by side, biases.
    "falcon-rw": (
        {
            **FALCON,
            "vocab_size": 53,
            "hidden_size": 40,
            "num_attention_heads": 4,
            "new_decoder_architecture": False,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
        },
        torch.bfloat16,
        24,
    ),
}

SMALL = {
    "vocab_size": 53,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS |= {
    "llama-yarn": (
        {
            **SMALL,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4},
        },
        torch.bfloat16,
        31,
    ),
    # The window is shorter than the sequences.
    "mistral": (
        {
            **SMALL,
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "head_dim": 12,
            "sliding_window": 6,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        torch.bfloat16,
        32,
    ),
    # Biases on q, k and v; a window in the second layer only; tied head.
    "qwen2": (
        {
            **SMALL,
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
        torch.bfloat16,
        33,
    ),
    # Norms of q and k heads, a head dim unlike hidden/heads, biases, a window that is named but not used.
    "qwen3": (
        {
            **SMALL,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "head_dim": 14,
            "attention_bias": True,
            "use_sliding_window": False,
            "sliding_window": 5,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
        torch.bfloat16,
        34,
    ),
    # Fused linears, three quarters of a head rotated, a window. All sequences are longer than the 4 positions of the short factors.
    "phi3": (
        {
            **SMALL,
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": 64,
            "sliding_window": 9,
            "original_max_position_embeddings": 4,
            "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                "long_factor": [1.0, 1.3, 1.9, 2.8, 4.0, 7.5],
            },
            "tie_word_embeddings": False,
            "pad_token_id": 0,
        },
        torch.bfloat16,
        35,
    ),
    # A quarter of a head rotated, both sides from the same stream with norms of their own, biases.
    "gpt-neox": (
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "vocab_size": 53,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 100,
            "max_position_embeddings": 64,
            "hidden_act": "gelu",
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        torch.bfloat16,
        36,
    ),
    # Learned positions, weights stored [in, out] under the bare model's names, GELU by tanh.
    "gpt2": (
        {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": 53,
            "n_embd": 40,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 90,
            "n_positions": 32,
            "activation_function": "gelu_new",
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        torch.bfloat16,
        37,
    ),
    # Caps on scores and logits that bite, windows in every second layer, norms on both ends of both sides, head dim unlike
    # hidden/heads, a scale that is not its root.
    "gemma2": (
        {
            **SMALL,
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "head_dim": 12,
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 6,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 4.0,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        },
        torch.bfloat16,
        38,
    ),
    # A layer with a window, one without, one with; a rotary embedding for each kind, one of them scaled.
    "gemma3": (
        {
            **SMALL,
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "num_hidden_layers": 3,
            "hidden_size": 32,
            "intermediate_size": 56,
            "head_dim": 10,
            "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 6,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 8,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "tie_word_embeddings": True,
        },
        torch.bfloat16,
        39,
    ),
}

# The linears of a block by model_type, as peft names its targets; standard deviation of the weights times the root of their
# in-features.
LLAMA_LINEARS = dict(q_proj=0.6, k_proj=0.6, v_proj=0.5, o_proj=0.25, gate_proj=0.5, up_proj=0.5, down_proj=0.25)
LINEARS = {
    "llama": LLAMA_LINEARS,
    "falcon": dict(query_key_value=0.6, dense=0.25, dense_h_to_4h=0.5, dense_4h_to_h=0.25),
    "mistral": LLAMA_LINEARS,
    "qwen2": LLAMA_LINEARS,
    "qwen3": LLAMA_LINEARS,
    "gemma2": LLAMA_LINEARS,
    "gemma3_text": LLAMA_LINEARS,
    "phi3": dict(qkv_proj=0.6, o_proj=0.25, gate_up_proj=0.5, down_proj=0.25),
    "gpt_neox": dict(query_key_value=0.6, dense=0.25, dense_h_to_4h=0.5, dense_4h_to_h=0.25),
    "gpt2": dict(c_attn=0.6, c_proj=0.25, c_fc=0.5),
}
EMBEDDINGS = ("embed_tokens", "word_embeddings", "embed_in", "wte", "wpe")


def linears_of(config):
    """Scale of the weights by the name of the linear."""
    return LINEARS[config["model_type"]]


def is_linear(config, key):
    return key.endswith(".weight") and key.split(".")[-2] in linears_of(config)


# ----------------------------------------------------------------------------------------------------------------- cases

OPTIMIZER = {"learningRate": 2e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weightDecay": 0.1, "maxGradNorm": 0.6, "loraPlusRatio": 1.0}

# Ranks of ten steps. Rows rest for several steps at a time, and most are first met at a later step than row 0. They are the
# draws of our own generator (uniform over 1..8) for this seed, so that our training loop can be run as it is; here they are
# only a list.
CURVE_SEED = 998
CURVE_RANKS = [2, 4, 8, 1, 8, 3, 1, 8, 7, 8]

CASES = {
    "nf4": {
        "model": "tied-llama3",
        "baseFormat": "nf4",
        "doubleQuant": False,
        "scaleRule": "alpha/b",
        "alpha": 4.0,
        "curves": ["nested", "dense", "frozen"],
    },
    "nf4-double": {
        "model": "biased-linear",
        "baseFormat": "nf4",
        "doubleQuant": True,
        "scaleRule": "alpha/b",
        "alpha": 6.0,
        "curves": ["nested"],
    },
    "fp4": {
        "model": "plain-bf16",
        "baseFormat": "fp4",
        "doubleQuant": False,
        "scaleRule": "alpha/R",
        "alpha": 12.0,
        "curves": [],
    },
    "bf16": {
        "model": "plain-bf16",
        "baseFormat": "bf16",
        "doubleQuant": False,
        "scaleRule": "alpha/sqrt(b)",
        "alpha": 3.0,
        "curves": ["nested"],
        "optimizer": {"loraPlusRatio": 4.0},
    },
    "f32": {
        "model": "plain-f32",
        "baseFormat": "f32",
        "doubleQuant": False,
        "scaleRule": "one",
        "alpha": 1.0,
        "curves": [],
    },
}

# One case for each model of the families: name -> base format and whether scales are quantised too. No ten steps: the loop and
# the optimizer do not depend on the family.
FAMILY_CASES = {
    "falcon-40b": ("nf4", True),
    "falcon-7b": ("nf4", False),
    "falcon-11b": ("bf16", False),
    "falcon-rw": ("bf16", False),
    "llama-yarn": ("bf16", False),
    "mistral": ("nf4", False),
    "qwen2": ("nf4", True),
    "qwen3": ("bf16", False),
    "gemma2": ("nf4", True),
    "gemma3": ("bf16", False),
    "phi3": ("nf4", False),
    "gpt-neox": ("bf16", False),
    "gpt2": ("nf4", True),
}
CASES |= {
    name: {
        "model": name,
        "baseFormat": base_format,
        "doubleQuant": double,
        "scaleRule": "alpha/b",
        "alpha": 4.0,
        "curves": [],
    }
    for name, (base_format, double) in FAMILY_CASES.items()
}


def lora_settings(case, rank):
    """peft's own settings that make its scale equal our s(b)."""
    alpha = case["alpha"]
    return {
        "alpha/b": {"lora_alpha": alpha},
        "alpha/R": {"lora_alpha": alpha * rank / RANK_MAX},
        "alpha/sqrt(b)": {"lora_alpha": alpha, "use_rslora": True},
        "one": {"lora_alpha": rank},
    }[case["scaleRule"]]


# ------------------------------------------------------------------------------------------------------- 4-bit quantisation

# fmt: off
NF4 = np.array([0xBF800000, 0xBF3239B1, 0xBF066B30, 0xBECA32A0, 0xBE91A24D, 0xBE3D353F, 0xBDBA7871, 0x00000000,
                0x3DA2FAFF, 0x3E24CAE3, 0x3E7C04DD, 0x3EAD033A, 0x3EE1A4B8, 0x3F1007AB, 0x3F3913B3, 0x3F800000],
               dtype=np.uint32).view(np.float32)
# fmt: on
FP4_MAGNITUDES = (np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], dtype=np.float64) / 12).astype(np.float32)  # by code
BLOCK, SCALE_BLOCK = 64, 256


def blocks_of(values, size):
    """[n] -> [ceil(n/size), size], the last block filled with zeros (they cannot be its largest magnitude unless all are)."""
    count = -(-len(values) // size)
    padded = np.zeros(count * size, dtype=np.float32)
    padded[: len(values)] = values
    return padded.reshape(count, size)


def normalised(flat):
    """Blocks of 64 divided by their largest magnitude (times its float32 reciprocal), and those magnitudes."""
    blocks = blocks_of(flat, BLOCK)
    absmax = np.abs(blocks).max(axis=1)
    return blocks * (np.float32(1) / absmax)[:, None], absmax


def fp4_levels():
    """Magnitudes in ascending order, and the float32 middles between them."""
    levels = np.sort(FP4_MAGNITUDES)
    return levels, (levels[:-1] + levels[1:]) / np.float32(2)


def nearest_levels(x, fmt):
    """The code-book value next to each x in [-1, 1]; an nf4 tie goes to the lower level. (No fixture has an fp4 tie.)"""
    if fmt == "nf4":
        middles = (NF4[:-1] + NF4[1:]) / np.float32(2)
        return NF4[np.searchsorted(middles, x, side="left")]
    levels, middles = fp4_levels()
    return np.copysign(levels[np.searchsorted(middles, np.abs(x), side="left")], x)


def without_fp4_ties(weight):
    """Moves the weights that sit on an fp4 tie by 1/64 of themselves.

    The middles of fp4 are fractions such as 7/24, which a bf16 weight over a bf16 maximum hits about once in 2000 times;
    which way a tie goes then depends on the last bit of the reciprocal, and a fixture must not.
    """
    for _ in range(4):
        flat = weight.float().numpy().reshape(-1)
        x = normalised(flat)[0].reshape(-1)[: len(flat)]
        ties = np.abs(np.abs(x)[:, None] - fp4_levels()[1][None, :]).min(axis=1) < 1e-6
        if not ties.any():
            return weight
        weight = torch.where(torch.from_numpy(ties).reshape(weight.shape), weight * (1 - 1 / 64), weight).to(weight.dtype)
    raise AssertionError("fp4 ties remain")


def dynamic_map():
    """The signed 8-bit dynamic map: 256 values, denser near zero. Their last bits are those of torch.linspace."""
    values = [0.0, 1.0]
    for e in range(7):
        edges = torch.linspace(0.1, 1, 2**e + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2
        scaled = (10.0 ** (e - 6) * middles).tolist()
        values += scaled + [-v for v in scaled]
    assert len(values) == 256
    return np.array(sorted(values), dtype=np.float32)


def double_quantised(absmax):
    """Block scales after double quantisation. The offset is the mean of ALL scales of the tensor."""
    table = dynamic_map()
    offset = np.float32(absmax.astype(np.float64).mean())
    centred = blocks_of(absmax - offset, SCALE_BLOCK)
    absmax2 = np.abs(centred).max(axis=1, keepdims=True)
    x = (centred / absmax2).reshape(-1)[: len(absmax)]
    middles = (table[:-1].astype(np.float64) + table[1:]) / 2
    codes = np.searchsorted(middles, x.astype(np.float64), side="left")
    per_block = np.repeat(absmax2.reshape(-1), SCALE_BLOCK)[: len(absmax)]
    return table[codes] * per_block + offset


def quantised_and_back(weight, fmt, double):
    """float32 values of a weight after 4-bit quantisation, all arithmetic in float32. Blocks run across rows."""
    flat = weight.to(torch.float32).numpy().reshape(-1)
    x, absmax = normalised(flat)
    levels = nearest_levels(x, fmt)
    scales = double_quantised(absmax) if double else absmax
    return (levels * scales[:, None]).reshape(-1)[: len(flat)].reshape(weight.shape)


# ---------------------------------------------------------------------------------------------------------- the other model


class _Float64Torch:
    """`torch` as transformers' modelling files see it, with `float32` naming float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def float64_islands():
    """Norms and softmax say torch.float32 in those files; rotary embeddings say torch.float and keep it."""
    for modeling in (
        modeling_llama, modeling_falcon, modeling_mistral, modeling_qwen2, modeling_qwen3, modeling_phi3,
        modeling_gemma2, modeling_gemma3, modeling_gpt2, modeling_gpt_neox,
    ):  # fmt: skip
        modeling.torch = _Float64Torch()
    # Gemma's norms say x.float().
    for norm in (modeling_gemma2.Gemma2RMSNorm, modeling_gemma3.Gemma3RMSNorm):
        norm.forward = lambda self, x: self._norm(x) * (1.0 + self.weight)


def make_model_folder(name, folder):
    """config.json and model.safetensors of one model, in the Hugging Face layout.

    Random weights, with branches that are small beside the residual stream, as in models that were trained. (With variance
    1/K everywhere the gradients are so ill-conditioned that torch's own bf16 is 2 to 7 % off; the exact comparison in f32
    does not care.)
    """
    config, dtype, seed = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n")
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    tied = made.config.tie_word_embeddings
    shapes = {key: value.shape for key, value in made.state_dict().items()}
    tensors = {}
    for key in sorted(shapes):
        if key == "lm_head.weight" and tied:
            continue
        noise = torch.randn(shapes[key], generator=generator, dtype=torch.float64)
        if key.endswith("bias"):
            value = 0.1 * noise
        elif len(shapes[key]) == 1:
            value = 1 + 0.1 * noise
            # A tied head is as large as the embedding; the last norm brings the logits back to a size of 1.
            if "layers" not in key and ".h." not in key and tied:
                value = value / 4
            if "gemma" in config["model_type"]:
                # The norms behind attention and feed-forward say how large the branches are.
                if key.split(".")[-2] in ("post_attention_layernorm", "post_feedforward_layernorm"):
                    value = value / 4
                value = value - 1
        elif key.split(".")[-2] in EMBEDDINGS:
            value = noise / math.sqrt(shapes[key][1]) * 4
            if "gemma" in config["model_type"]:
                value = value / math.sqrt(shapes[key][1])
        elif key.split(".")[-2] == "lm_head":
            value = noise / math.sqrt(shapes[key][1])
        else:
            value = noise / math.sqrt(shapes[key][0 if config["model_type"] == "gpt2" else 1]) * linears_of(config)[key.split(".")[-2]]
        tensors[key] = value.to(dtype)
        if is_linear(config, key):
            tensors[key] = without_fp4_ties(tensors[key])
    # Names as on the hub: those of the bare model, or of an older class, which transformers renames.
    if config["model_type"] == "gpt2":
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    if config["model_type"] == "gpt_neox":
        tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    save_tensors(tensors, folder / "model.safetensors")


def save_tensors(tensors, path):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def load_base(folder, base_format, double):
    """transformers' model in float64, its block linears replaced by their quantised values; and the SHA-256 of those."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    config = json.loads((folder / "config.json").read_text())
    stored = load_file(folder / "model.safetensors")
    digests = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not is_linear(config, name):
                continue
            # Conv1D keeps [in, out]; what is quantised is [out, in] everywhere.
            flipped = config["model_type"] == "gpt2"
            weight = stored[name.removeprefix("transformer.")].T.contiguous() if flipped else stored[name]
            if base_format in ("nf4", "fp4"):
                values = quantised_and_back(weight, base_format, double)
                parameter.copy_(torch.from_numpy(values.T if flipped else values).double())
            else:
                assert weight.dtype == {"bf16": torch.bfloat16, "f32": torch.float32}[base_format]
                values = weight.float().numpy()
            assert torch.equal(parameter.T if flipped else parameter, torch.from_numpy(values).double())
            digests[name] = hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
    return model, digests


def with_adapter(folder, case, rank, base_state):
    """A peft LoRA model of exactly `rank` over the given base weights; its A and B still to be filled."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    model.load_state_dict(base_state)
    model_config = json.loads((folder / "config.json").read_text())
    config = LoraConfig(
        r=rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(linears_of(model_config)),
        fan_in_fan_out=model_config["model_type"] == "gpt2",
        **lora_settings(case, rank),
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False).double().eval()


def adapter_parameters(model):
    """'layers.0.self_attn.q_proj' -> (A [b, K], B [M, b]), peft's own parameters, by their path (without a leading 'model.')."""
    pairs = {}
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            path = name.removeprefix("base_model.model.").removeprefix("model.").split(".lora_")[0]
            pairs.setdefault(path, [None, None])[0 if ".lora_A." in name else 1] = parameter
    assert len(pairs) >= 8 and all(a is not None and b is not None for a, b in pairs.values())
    return pairs


def fill(model, master, rank):
    """The first `rank` rows of the master A [R, K] and columns of the master B [M, R]."""
    with torch.no_grad():
        for path, (a, b) in adapter_parameters(model).items():
            a.copy_(master[path][0][:rank])
            b.copy_(master[path][1][:, :rank])


# ---------------------------------------------------------------------------------------------------------- data and losses


def make_sequence(length, vocabulary, generator):
    """Tokens, and which of them the loss looks at: never the first, a run at the end and a few before it."""
    tokens = torch.randint(3, vocabulary, (length,), generator=generator)
    supervised = torch.rand(length, generator=generator) < 0.3
    supervised[length - max(1, length // 3) :] = True
    supervised[0] = False
    return {"tokens": tokens, "supervised": supervised}


def targets_of(sequence):
    """What position n predicts: token n+1 where it is supervised, else -1; the last position predicts nothing."""
    shifted = torch.where(sequence["supervised"][1:], sequence["tokens"][1:], -1)
    return torch.cat([shifted, torch.tensor([-1])])


def losses_of(model, sequence):
    """Logits [T, V] and the cross-entropy of every position [T], 0 where there is no target."""
    logits = model(input_ids=sequence["tokens"][None], use_cache=False).logits[0]
    assert logits.dtype == torch.float64
    return logits, torch.nn.functional.cross_entropy(logits, targets_of(sequence), ignore_index=-1, reduction="none")


def loss_of(model, sequences):
    """Sum of cross-entropies over all sequences, divided by the number of supervised tokens of all of them."""
    count = sum(int(s["supervised"].sum()) for s in sequences)
    return sum(losses_of(model, s)[1].sum() for s in sequences) / count


# -------------------------------------------------------------------------------------------------------------- what is dumped


def check_gradient(model, sequences, generator):
    """Autograd against (loss(p+hd) - loss(p-hd)) / 2h along one random direction of all adapter parameters."""
    parameters = [p for pair in adapter_parameters(model).values() for p in pair]
    model.zero_grad()
    loss_of(model, sequences).backward()
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    analytic = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions))
    values = []
    h = 1e-6
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in zip(parameters, directions):
                p.add_(d, alpha=sign * h)
            values.append(float(loss_of(model, sequences)))
            for p, d in zip(parameters, directions):
                p.sub_(d, alpha=sign * h)
    numeric = (values[0] - values[1]) / (2 * h)
    # The derivative along a random direction has the size of the gradient's norm, but may be small by chance.
    error = abs(numeric - analytic) / math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
    assert error < 1e-7, f"finite difference {numeric} against autograd {analytic}"
    return error


def evaluate_rank(model, master, rank, sequences, tensors, generator):
    """Logits, losses and every adapter gradient at one rank, into `tensors`."""
    fill(model, master, rank)
    error = check_gradient(model, sequences, generator)
    model.zero_grad()
    outputs = [losses_of(model, s) for s in sequences]
    loss = loss_of(model, sequences)
    loss.backward()
    tensors[f"rank{rank}.logits"] = torch.cat([o[0] for o in outputs]).detach().float()
    tensors[f"rank{rank}.losses"] = torch.cat([o[1] for o in outputs]).detach().float()
    for path, (a, b) in adapter_parameters(model).items():
        tensors[f"rank{rank}.grad.{path}.a"] = a.grad.float()
        tensors[f"rank{rank}.grad.{path}.b"] = b.grad.float()
    print(f"  rank {rank}: loss {loss.item():.6f}, finite difference agrees to {error:.1e}")
    return {"rank": rank, "scale": scale_of(model), "loss": loss.item()}


def scale_of(model):
    """The one scale peft computed for all linears."""
    scales = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert len(scales) == 1
    return scales.pop()


def train_curve(kind, models, master, steps, optimizer):
    """Ten steps of torch.optim.AdamW with a scripted rank per step.

    Every row of A and every column of B is a torch parameter of its own. torch.optim.AdamW leaves a parameter without a
    gradient alone (value, moments, step counter), which is exactly what a row window has to do:
      nested: rows < b have a gradient; frozen: only row b-1; dense: rows >= b have a gradient of zeros, as when A is one
      parameter that was sliced (DyLoRA's reference code), so that momentum and decay go on moving them.
    """
    rows = {
        path: ([torch.nn.Parameter(r.clone()) for r in a], [torch.nn.Parameter(c.clone()) for c in b.T])
        for path, (a, b) in master.items()
    }
    rate = optimizer["learningRate"]
    adam = torch.optim.AdamW(
        [
            {"params": [p for a, _ in rows.values() for p in a], "lr": rate},
            {"params": [p for _, b in rows.values() for p in b], "lr": rate * optimizer["loraPlusRatio"]},
        ],
        betas=(optimizer["beta1"], optimizer["beta2"]),
        eps=optimizer["epsilon"],
        weight_decay=optimizer["weightDecay"],
    )
    curve = []
    for step in steps:
        rank = step["rank"]
        model = models[rank]
        fill(model, {path: (torch.stack(list(a)), torch.stack(list(b)).T) for path, (a, b) in rows.items()}, rank)
        model.zero_grad()
        loss = loss_of(model, [s for micro in step["microBatches"] for s in micro])
        loss.backward()
        adam.zero_grad(set_to_none=True)
        for path, (a, b) in adapter_parameters(model).items():
            for row in range(rank - 1 if kind == "frozen" else 0, rank):
                rows[path][0][row].grad = a.grad[row].clone()
                rows[path][1][row].grad = b.grad[:, row].clone()
            if kind == "dense":
                for row in range(rank, RANK_MAX):
                    for p in (rows[path][0][row], rows[path][1][row]):
                        p.grad = torch.zeros_like(p)
        everything = [p for a, b in rows.values() for p in (*a, *b)]
        norm = float(torch.nn.utils.clip_grad_norm_([p for p in everything if p.grad is not None], optimizer["maxGradNorm"]))
        adam.step()
        curve.append({"rank": rank, "loss": loss.item(), "gradNorm": norm})
    over = {c["gradNorm"] > optimizer["maxGradNorm"] for c in curve}
    assert over == {True, False}, f"clipping has to be active in some steps and not in others: {curve}"
    final = {path: (torch.stack(list(a)).detach(), torch.stack(list(b)).T.detach().contiguous()) for path, (a, b) in rows.items()}
    return curve, final


def make_case(name, folder, tensors):
    case = {**CASES[name]}
    config, dtype, model_seed = MODELS[case["model"]]
    seed = 1000 + list(CASES).index(name)
    generator = torch.Generator().manual_seed(seed)
    base, digests = load_base(folder, case["baseFormat"], case["doubleQuant"])
    base_state = {k: v.clone() for k, v in base.state_dict().items()}

    optimizer = {**OPTIMIZER, **case.pop("optimizer", {})}
    models = {r: with_adapter(folder, case, r, base_state) for r in sorted({*RANKS, *(CURVE_RANKS if case["curves"] else [])})}

    # A as in training (uniform within 1/sqrt K); B not zero, or A would have no gradient. Both to float32, as they are stored.
    master = {}
    for path, (a, b) in adapter_parameters(models[RANK_MAX]).items():
        bound = 1 / math.sqrt(a.shape[1])
        a0 = ((torch.rand(a.shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound).float()
        b0 = (torch.randn(b.shape, generator=generator, dtype=torch.float64) * 0.05).float()
        tensors[f"adapter.{path}.a"], tensors[f"adapter.{path}.b"] = a0, b0
        master[path] = (a0.double(), b0.double())

    sequences = [make_sequence(length, config["vocab_size"], generator) for length in (13, 7, 29)]
    ranks = [evaluate_rank(models[r], master, r, sequences, tensors, generator) for r in RANKS]

    # A small pool that comes round again, so that ten steps visibly learn. 2 or 3 micro-batches of unequal lengths a step.
    pool = [make_sequence(length, config["vocab_size"], generator) for length in (11, 5, 19, 9, 14)]
    layout = [[[0, 1], [2]], [[3], [4], [0]], [[1, 2], [3, 4]], [[4], [0, 3], [2]]]
    steps = [
        {"rank": rank, "microBatches": [[pool[i] for i in micro] for micro in layout[n % len(layout)]]}
        for n, rank in enumerate(CURVE_RANKS)
    ]
    curves = {}
    for kind in case["curves"]:
        curve, final = train_curve(kind, models, master, steps, optimizer)
        # The kinds must not be mistaken for one another by a test with a bound of a thousandth of the loss.
        for other in curves.values():
            assert max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, other)) > 0.02
        print(f"  {kind} curve: " + " ".join(f"{c['loss']:.3f}" for c in curve))
        curves[kind] = curve
        for path, (a, b) in final.items():
            tensors[f"curve.{kind}.{path}.a"], tensors[f"curve.{kind}.{path}.b"] = a.float(), b.float()

    plain = lambda s: {"tokens": s["tokens"].tolist(), "supervised": s["supervised"].int().tolist(), "targets": targets_of(s).tolist()}
    return {
        "madeBy": "tools/parity-fixtures.py",
        "versions": versions(),
        "seeds": {"model": model_seed, "case": seed},
        "case": name,
        **{k: v for k, v in case.items() if k != "curves"},
        "rankMax": RANK_MAX,
        "dequantizedSha256": digests,
        "sequences": [plain(s) for s in sequences],
        "ranks": ranks,
        "optimizer": optimizer,
        "curveSeed": CURVE_SEED,
        "pool": [plain(s) for s in pool] if curves else [],
        "steps": [{"rank": r, "microBatches": layout[n % len(layout)]} for n, r in enumerate(CURVE_RANKS)] if curves else [],
        "curves": curves,
    }


def versions():
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
    }


def dumps(value):
    """JSON with one line per list of numbers."""
    text = json.dumps(value, indent=1)
    out, depth_of_list = [], False
    for line in text.split("\n"):
        stripped = line.strip()
        number = stripped.rstrip(",").lstrip("-").replace(".", "", 1).isdigit()
        if number and out:
            out[-1] += stripped if out[-1].endswith("[") else " " + stripped
            depth_of_list = True
        elif depth_of_list and stripped.startswith("]"):
            out[-1] += stripped
            depth_of_list = False
        else:
            out.append(line)
    joined = "\n".join(out) + "\n"
    assert json.loads(joined) == value
    return joined


def compare(made, stored):
    """Names of what differs by more than rounding between two runs of this script."""
    wrong = []
    for path in sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file()):
        if not (stored / path).exists():
            wrong.append(f"{path}: missing")
        elif path.suffix == ".safetensors":
            ours, theirs = load_file(made / path), load_file(stored / path)
            if ours.keys() != theirs.keys():
                wrong.append(f"{path}: other tensors")
            wrong += [
                f"{path}: {key}"
                for key in ours.keys() & theirs.keys()
                if not torch.allclose(ours[key].double(), theirs[key].double(), rtol=1e-6, atol=1e-7)
            ]
        else:
            ours, theirs = (json.loads((root / path).read_text()) for root in (made, stored))
            for record in (ours, theirs):
                record.pop("versions", None)
            flat = lambda v: [x for k in sorted(v) for x in flat(v[k])] if isinstance(v, dict) else [x for i in v for x in flat(i)] if isinstance(v, list) else [v]
            pairs = list(zip(flat(ours), flat(theirs), strict=True))
            if any(abs(a - b) > 1e-9 * max(1, abs(a)) if isinstance(a, float) else a != b for a, b in pairs):
                wrong.append(f"{path}: other values")
    return wrong


def write_all(out):
    out.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        make_model_folder(name, out / "models" / name)
    for name, case in CASES.items():
        print(name)
        tensors = {}
        record = make_case(name, out / "models" / case["model"], tensors)
        save_tensors(tensors, out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(dumps(record))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="recompute and compare with the stored files; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    float64_islands()
    if not options.check:
        write_all(OUT)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder))
        wrong = compare(Path(folder), OUT)
    if wrong:
        sys.exit("the stored fixtures differ from what this machine computes:\n  " + "\n  ".join(wrong))
    print("the stored fixtures are what this script computes")


if __name__ == "__main__":
    main()
