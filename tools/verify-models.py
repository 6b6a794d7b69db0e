"""Loads model folders and adapters that qdylora wrote into real transformers, bitsandbytes and peft, for `npm run verify:peft`.

    python tools/verify-models.py make-lora BASE OUT     a LoRA by real peft with ranks and alphas by pattern, B not zero
    python tools/verify-models.py compare REQUEST.json   one JSON object on stdout

REQUEST.json: {"sequences": [[token, ...], ...],
               "models": [{"name", "folder", "logits": SAFETENSORS with "0", "1", ... [T, V] per sequence}],
               "adapters": [{"name", "base", "folder", "original"}]}
A 4-bit model is read by bitsandbytes and compared twice: with its own kernels in bf16, and with its own dequantised values in
float64. Dense models are compared in float64. Of adapters both are loaded over the same base, and their logits compared.
"""

import copy
import importlib.util
import json
import pathlib
import platform
import sys

NEEDED = ["torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors"]


def main():
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"verify-models: this Python ({sys.executable}, {platform.python_version()}) lacks {', '.join(missing)}. "
            f"Try: pip install {' '.join(missing)}, or name another interpreter in QDYLORA_PYTHON."
        )
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    if sys.argv[1] == "make-lora":
        make_lora(*sys.argv[2:])
        return
    request = json.loads(pathlib.Path(sys.argv[2]).read_text())
    sequences = [torch.tensor(tokens)[None] for tokens in request["sequences"]]
    results = [line for model in request["models"] for line in compare_model(model, sequences)]
    results += [compare_adapters(adapter, sequences) for adapter in request["adapters"]]
    print(json.dumps({"versions": versions(), "results": results}))


def versions():
    import importlib.metadata as metadata

    return {"Python": platform.python_version(), **{name: metadata.version(name) for name in NEEDED}}


def make_lora(base, out):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    config = LoraConfig(r=6, lora_alpha=12, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
                        rank_pattern={"up_proj": 9, "layers.0.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(out)


def logits_of(model, sequences):
    import torch

    with torch.no_grad():
        return torch.cat([model(input_ids=s, use_cache=False).logits[0].double() for s in sequences])


def distances(name, got, expected):
    return {
        "name": name,
        "rows": len(expected),
        "relative": float((got - expected).norm() / expected.norm()),
        "worstRow": float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max()),
        "sameTopToken": float((got.argmax(1) == expected.argmax(1)).double().mean()),
    }


def compare_model(model, sequences):
    import bitsandbytes
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    ours = load_file(model["logits"])
    got = torch.cat([ours[str(i)].double() for i in range(len(sequences))])
    loaded = AutoModelForCausalLM.from_pretrained(model["folder"], attn_implementation="eager", device_map="cpu").eval()
    linears = [(path, m) for path, m in loaded.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if linears:
        # Its CPU kernels lay the codes out anew when they first run: values are taken before.
        dense = {path: dequantised(module) for path, module in linears}
        yield {"dtype": "4-bit kernels", **distances(model["name"], got, logits_of(loaded, sequences))}
        for path, module in dense.items():
            parent, _, child = path.rpartition(".")
            setattr(loaded.get_submodule(parent), child, module)
        loaded = strip_quantisation(loaded)
    stored = "4-bit" if linears else str(loaded.dtype).removeprefix("torch.")
    yield {"dtype": stored, **distances(model["name"], got, logits_of(loaded.double(), sequences))}


def dequantised(module):
    """A dense linear with the values of a 4-bit one, by bitsandbytes."""
    import bitsandbytes
    import torch

    state = copy.copy(module.weight.quant_state)
    state.dtype = torch.float32
    dense = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    dense.weight.data = bitsandbytes.functional.dequantize_4bit(module.weight.data, state)
    if module.bias is not None:
        dense.bias.data = module.bias.data
    return dense


def strip_quantisation(model):
    """transformers refuses to change the dtype of a model that it takes for quantised."""
    model.is_quantized = model.is_loaded_in_4bit = False
    model.quantization_method = None
    return model


def compare_adapters(adapter, sequences):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(folder):
        base = AutoModelForCausalLM.from_pretrained(adapter["base"], dtype=torch.float64, attn_implementation="eager")
        return PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False).double().eval()

    base = AutoModelForCausalLM.from_pretrained(adapter["base"], dtype=torch.float64, attn_implementation="eager").eval()
    expected = logits_of(load(adapter["original"]), sequences)
    effect = float((expected - logits_of(base, sequences)).norm() / expected.norm())
    return {"dtype": "float64", "effect": effect,
            **distances(adapter["name"], logits_of(load(adapter["folder"]), sequences), expected)}


if __name__ == "__main__":
    main()
