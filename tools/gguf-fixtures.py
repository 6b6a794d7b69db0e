#!/usr/bin/env python3
"""Fixtures for reading GGUF, made by other programs: the `gguf` package of llama.cpp (block types and their values) and
llama.cpp's own converter (a tiny random model of each architecture, whose weights must come back as transformers has them).

    pip install gguf torch transformers safetensors
    python tools/gguf-fixtures.py LLAMA_CPP_FOLDER        # the folder that holds convert_hf_to_gguf.py

Writes test/fixtures/gguf.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "test/fixtures/gguf"
TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL".split()
SHAPE = (2, 256)
# Bytes of a block at which an f16 scale lies. Random bytes there could be NaN.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,)}


def random_blocks(rng: np.random.Generator, name: str) -> np.ndarray:
    """Rows of raw bytes of the type: quantised where the package can, else random codes under sane scales."""
    kind = gguf.GGMLQuantizationType[name]
    values = rng.standard_normal(SHAPE).astype(np.float32)
    if name not in SCALES:
        return gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (SHAPE[0] * SHAPE[1] // block, size), dtype=np.uint8)
    for at in SCALES[name]:
        scales = rng.standard_normal(len(raw)).astype(np.float16)
        raw[:, at : at + 2] = scales.reshape(-1, 1).view(np.uint8)
    return raw.reshape(SHAPE[0], -1)


def write_blocks() -> None:
    rng = np.random.default_rng(20240917)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    writer.add_array("test.flags", [True, False, True])
    writer.add_float64("test.f64", 0.1)
    writer.add_int64("test.i64", -(2**40))
    writer.add_uint64("test.u64", 2**63)
    writer.add_int8("test.i8", -5)
    writer.add_array("test.words", ["Ω", "", "b c"])
    writer.add_array("test.numbers", [1, 2, 300])
    expected = []
    for name in TYPES:
        raw = random_blocks(rng, name)
        kind = gguf.GGMLQuantizationType[name]
        expected.append(gguf.quants.dequantize(raw, kind).astype(np.float32).ravel())
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (OUT / "blocks.json").write_text(json.dumps({"types": TYPES, "shape": SHAPE}))
    np.concatenate(expected).tofile(OUT / "blocks.f32")


COMMON = dict(
    vocab_size=384,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
)


def models(transformers) -> dict:
    llama3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=8192, rope_theta=500000.0)
    return {
        "llama-tied": transformers.LlamaConfig(**COMMON, tie_word_embeddings=True, rms_norm_eps=1e-5),
        "llama3-rope": transformers.LlamaConfig(**COMMON, head_dim=16, rope_parameters=llama3),
        "qwen2": transformers.Qwen2Config(**COMMON, tie_word_embeddings=False),
        "gemma2": transformers.Gemma2Config(**COMMON, head_dim=16, sliding_window=24, query_pre_attn_scalar=16),
        # Its converter cuts rows that no token has.
        "gemma3": transformers.Gemma3TextConfig(**{**COMMON, "vocab_size": 344}, head_dim=16, sliding_window=24, query_pre_attn_scalar=16),
        "qwen3": transformers.Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=True),
    }


def write_models(llama_cpp: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file


    for name, config in models(transformers).items():
        if ONLY and name not in ONLY:
            continue
        torch.manual_seed(7)
        # Gemma's norms get 1 added in the dtype that they are stored in: f16 would lose bits.
        dtype = torch.float32 if name.startswith("gemma") else torch.float16
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter, dtype=torch.float32).to(torch.float16))
        with tempfile.TemporaryDirectory() as folder:
            # The converter takes the model's name from its folder.
            source = Path(folder) / name
            source.mkdir()
            model.save_pretrained(source)
            shutil.copy(ROOT / "test/fixtures/tokenizer-tiny/byte-level.json", source / "tokenizer.json")
            (source / "tokenizer_config.json").write_text(json.dumps({
                "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}))
            convert(llama_cpp, source, OUT / f"{name}.gguf")
            state = {k: v.contiguous() for k, v in model.state_dict().items()
                     if not (config.tie_word_embeddings and k == "lm_head.weight")}
            save_file(state, OUT / f"{name}.safetensors")
            (OUT / f"{name}.config.json").write_text((source / "config.json").read_text())
            if name == "llama-tied":
                write_adapter(llama_cpp, model, source)


def write_adapter(llama_cpp: Path, model, base: Path) -> None:
    """A random LoRA adapter of all linears as PEFT saves it, and as llama.cpp converts it."""
    import torch
    from peft import LoraConfig, get_peft_model

    targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    adapted = get_peft_model(model.float(), LoraConfig(r=3, lora_alpha=7, target_modules=targets))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    adapted.save_pretrained(OUT / "adapter")
    (OUT / "adapter/README.md").unlink(missing_ok=True)
    subprocess.run([sys.executable, llama_cpp / "convert_lora_to_gguf.py", "--base", base, "--outfile",
                    OUT / "adapter.gguf", OUT / "adapter"], check=True)


def convert(llama_cpp: Path, source: Path, out: Path) -> None:
    # The converter knows a pre-tokenizer by a hash of what it yields; a tiny vocabulary has none.
    run = ("import sys; sys.path.insert(0, sys.argv[1]); sys.argv = ['convert', sys.argv[2], '--outfile', sys.argv[3],"
           " '--outtype', 'f16'];\n"
           "from conversion.base import TextModel\n"
           "TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2'\n"
           # Gemma's converters ask for a tokenizer.model; the fixtures' tokenizer is byte-level for all.
           "TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2\n"
           "import convert_hf_to_gguf; convert_hf_to_gguf.main()")
    subprocess.run([sys.executable, "-c", run, str(llama_cpp), str(source), str(out)], check=True)


# Further arguments: names of the models to write, none for all.
ONLY = sys.argv[2:]

if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_blocks()
    if len(sys.argv) < 2:
        sys.exit("give the folder of llama.cpp")
    write_models(Path(sys.argv[1]))
