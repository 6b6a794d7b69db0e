"""4-bit tensors and models made by real bitsandbytes on the CPU, for test/quant/bitsandbytes.test.ts.

Run: python tools/bnb-fixtures.py        (needs torch, transformers, accelerate and bitsandbytes from PyPI)

Writes test/fixtures/bnb/:
  linears.safetensors   per case `SHAPE.source`, the weight, and `SHAPE.FORMAT[-double].weight…`, what a Linear4bit's
                        state_dict holds for it
  linears.json          versions; per case the SHA-256 of what bitsandbytes dequantises to, as f32 and as bf16 bytes
  plain, nf4-double, fp4   one tiny model as transformers saves it: in bf16, and quantised while loading
  VARIANT               the same with other choices (VARIANTS below)
  variants.json         per variant and module, the SHA-256 of its weight as bitsandbytes dequantises it, as f32 bytes,
                        and of the head as bf16 bytes
"""

import hashlib
import json
import pathlib
import shutil

import bitsandbytes
import bitsandbytes.functional as F
import torch
import transformers
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).parent.parent / "test/fixtures/bnb"
# Whole blocks; an odd count with a short last block; more than one block of 256 scales, rows that cross blocks.
SHAPES = [("whole", (16, 64), torch.bfloat16), ("odd", (13, 37), torch.float32), ("large", (67, 250), torch.float16)]


# As on the hub: modules that stay dense, codes stored as another dtype, a model in f16, a head that is 4-bit too.
VARIANTS = {
    "nf4-skips": dict(quant_type="nf4", double=True, skip=["lm_head", "q_proj", "model.layers.1.mlp.down_proj"]),
    "nf4-in-bf16": dict(quant_type="nf4", double=False, storage="bfloat16"),
    "nf4-in-f32": dict(quant_type="nf4", double=True, storage="float32"),
    "fp4-f16-skips": dict(quant_type="fp4", double=True, dtype=torch.float16, storage="float16", skip=["lm_head", "o_proj"]),
    "nf4-head": dict(quant_type="nf4", double=True, skip=["o_proj"]),
}


def source(shape, dtype):
    weight = torch.randn(shape) * 0.05
    flat = weight.view(-1)
    flat[64:128] = 0  # a block of zeros
    flat[130] = 3.0  # an outlier: its block's other values are small against it
    return weight.to(dtype)


def sha(tensor):
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def quantised(weight, quant_type, double, storage=torch.uint8):
    codes, state = F.quantize_4bit(weight, blocksize=64, quant_type=quant_type, compress_statistics=double,
                                   quant_storage=storage)
    parts = {"weight": codes, **{f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}}
    hashes = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        state.dtype = dtype
        values = F.dequantize_4bit(codes, state)
        # FP4's code 8 comes out as -0 or as 0, depending on which of its kernels bitsandbytes takes: -0 becomes 0 here.
        hashes[name] = sha(values + 0.0 if quant_type == "fp4" else values)
    return parts, hashes


def linears():
    tensors, cases = {}, []

    def add(name, weight, shape_name, *args):
        parts, hashes = quantised(weight, *args)
        tensors.update({f"{name}.{key}": value.clone() for key, value in parts.items()})
        cases.append({"name": name, "source": f"{shape_name}.source", "format": args[0], "double": args[1], "sha256": hashes})

    for shape_name, shape, dtype in SHAPES:
        weight = source(shape, dtype)
        tensors[f"{shape_name}.source"] = weight
        for quant_type in ("nf4", "fp4"):
            for double in (False, True):
                add(f"{shape_name}.{quant_type}{'-double' if double else ''}", weight, shape_name, quant_type, double)
    add("whole.nf4-in-bf16", tensors["whole.source"], "whole", "nf4", True, torch.bfloat16)
    save_file(tensors, OUT / "linears.safetensors")
    return cases


def models():
    config = LlamaConfig(vocab_size=19, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=6, intermediate_size=37, max_position_embeddings=64)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(OUT / "plain")
    for name, quant_type, double in (("nf4-double", "nf4", True), ("fp4", "fp4", False)):
        choice = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type,
                                    bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=torch.bfloat16)
        model = LlamaForCausalLM.from_pretrained(OUT / "plain", quantization_config=choice, device_map="cpu",
                                                 dtype=torch.bfloat16)
        model.save_pretrained(OUT / name)
    hashes = {name: variant(name, **choice) for name, choice in VARIANTS.items()}
    (OUT / "variants.json").write_text(json.dumps(hashes, indent=1) + "\n")
    for extra in OUT.glob("*/generation_config.json"):
        extra.unlink()


def variant(name, quant_type, double, dtype=torch.bfloat16, storage="uint8", skip=None):
    choice = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double,
                                bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_storage=storage, llm_int8_skip_modules=skip)
    model = LlamaForCausalLM.from_pretrained(OUT / "plain", quantization_config=choice, device_map="cpu", dtype=dtype)
    model.save_pretrained(OUT / name)
    # Read back by transformers, so that what is hashed is what the file says.
    model = LlamaForCausalLM.from_pretrained(OUT / name, device_map="cpu")
    hashes = {}
    for path, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.weight.quant_state.dtype = torch.float32
            values = F.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, torch.nn.Linear):
            values = module.weight.detach().float()
        else:
            continue
        # Heads are held in bf16. FP4's zero may have either sign.
        values = values.to(torch.bfloat16) if path == "lm_head" else values
        hashes[path] = sha(values + 0.0 if quant_type == "fp4" else values)
    return hashes


torch.manual_seed(0)
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
cases = linears()
models()
versions = {m.__name__: m.__version__ for m in (bitsandbytes, torch, transformers)}
(OUT / "linears.json").write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")
print(f"{len(cases)} cases, {sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file())} bytes")
