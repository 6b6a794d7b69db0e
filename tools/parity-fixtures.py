"""Makes test/fixtures/parity: what an independent implementation computes for small Llama models with LoRA adapters.

    python tools/parity-fixtures.py            write the fixtures
    python tools/parity-fixtures.py --check    write nothing; recompute, compare with the stored files

Needs torch, transformers, peft, safetensors and numpy (CPU is enough; about a minute). The versions used are in every JSON file.

What independence means here. Nothing is imported from qdylora and nothing is written after its code:
  - the model is transformers' LlamaForCausalLM (eager attention), loaded by transformers from the Hugging Face folder it
    shares with our loader, so config.json and tensor names are read twice by unrelated code;
  - the adapter at rank b is peft's own LoRA of rank b, holding the first b rows of A and columns of B; peft computes the scale;
  - the gradients are torch's autograd, the clipping is torch.nn.utils.clip_grad_norm_, the optimizer torch.optim.AdamW;
  - sequences go through one by one, without padding and without packing;
  - everything is float64. transformers casts RMSNorm and softmax to float32 for the sake of half precision; those casts are
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
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

OUT = Path(__file__).resolve().parent.parent / "test" / "fixtures" / "parity"
RANK_MAX = 8  # R
RANKS = [1, 4, 8]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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

# Standard deviation of a linear's weights times the root of its in-features.
WEIGHT_SCALE = dict(q_proj=0.6, k_proj=0.6, v_proj=0.5, o_proj=0.25, gate_proj=0.5, up_proj=0.5, down_proj=0.25)

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
    """`torch` as transformers' Llama file sees it, with `float32` naming float64."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


def float64_islands():
    """RMSNorm and softmax say torch.float32 in that file; rotary embeddings say torch.float and keep it."""
    modeling_llama.torch = _Float64Torch()


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
    shapes = {k: v.shape for k, v in LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(folder)).state_dict().items()}
    tensors = {}
    for key in sorted(shapes):
        if key == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        noise = torch.randn(shapes[key], generator=generator, dtype=torch.float64)
        if key.endswith("norm.weight"):
            value = 1 + 0.1 * noise
            # A tied head is as large as the embedding; the last norm brings the logits back to a size of 1.
            if key == "model.norm.weight" and config["tie_word_embeddings"]:
                value = value / 4
        elif key.endswith("bias"):
            value = 0.1 * noise
        elif "embed_tokens" in key:
            value = noise / math.sqrt(config["hidden_size"]) * 4
        elif "lm_head" in key:
            value = noise / math.sqrt(config["hidden_size"])
        else:
            value = noise / math.sqrt(shapes[key][1]) * WEIGHT_SCALE[key.split(".")[-2]]
        tensors[key] = value.to(dtype)
        if key.split(".")[-2] in LINEARS and key.endswith("weight"):
            tensors[key] = without_fp4_ties(tensors[key])
    save_tensors(tensors, folder / "model.safetensors")


def save_tensors(tensors, path):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def load_base(folder, base_format, double):
    """transformers' model in float64, its block linears replaced by their quantised values; and the SHA-256 of those."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    stored = load_file(folder / "model.safetensors")
    digests = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[-2] not in LINEARS or not name.endswith("weight"):
                continue
            weight = stored[name]
            if base_format in ("nf4", "fp4"):
                values = quantised_and_back(weight, base_format, double)
                parameter.copy_(torch.from_numpy(values).double())
            else:
                assert weight.dtype == {"bf16": torch.bfloat16, "f32": torch.float32}[base_format]
                values = weight.float().numpy()
            assert torch.equal(parameter, torch.from_numpy(values).double())
            digests[name] = hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
    return model, digests


def with_adapter(folder, case, rank, base_state):
    """A peft LoRA model of exactly `rank` over the given base weights; its A and B still to be filled."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    model.load_state_dict(base_state)
    config = LoraConfig(r=rank, lora_dropout=0.0, bias="none", target_modules=LINEARS, **lora_settings(case, rank))
    return get_peft_model(model, config, autocast_adapter_dtype=False).double().eval()


def adapter_parameters(model):
    """'layers.0.self_attn.q_proj' -> (A [b, K], B [M, b]), peft's own parameters."""
    pairs = {}
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            path = name.removeprefix("base_model.model.model.").split(".lora_")[0]
            pairs.setdefault(path, [None, None])[0 if ".lora_A." in name else 1] = parameter
    assert len(pairs) == 2 * len(LINEARS)
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
