"""LoRA adapters as real PEFT saves them, over the tiny model of test/fixtures/bnb/plain, for test/adapter/nested-lora.test.ts.

Run: python tools/peft-fixtures.py        (needs torch, transformers, peft and safetensors)

Writes test/fixtures/peft/NAME/: adapter_config.json, adapter_model.safetensors, and delta.safetensors with what PEFT adds to each
linear, f64 [out, in], under its module's path. `named` holds `patterns` once more, with tensors named as a model's own state
has them (….lora_A.default.weight) instead of as `save_pretrained` does.
"""

import json
import pathlib
import shutil

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "test/fixtures"
OUT = FIXTURES / "peft"
CASES = {
    "plain": LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    "patterns": LoraConfig(
        r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={"up_proj": 5, "layers.1.self_attn.q_proj": 2}, alpha_pattern={"model.layers.0.*.v_proj": 1, "v_proj": 9},
    ),
    "rslora": LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["o_proj"], layers_to_transform=[1]),
}


def make(name, config):
    model = get_peft_model(LlamaForCausalLM.from_pretrained(FIXTURES / "bnb/plain", dtype=torch.float32), config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    folder = OUT / name
    model.save_pretrained(folder)
    for extra in ["README.md"]:
        (folder / extra).unlink(missing_ok=True)
    config_file = folder / "adapter_config.json"
    saved = json.loads(config_file.read_text())
    # A path of the machine that made it.
    saved["base_model_name_or_path"] = "plain"
    config_file.write_text(json.dumps(saved, indent=1) + "\n")
    deltas = {
        path.removeprefix("base_model.model."): module.double().get_delta_weight("default").detach().contiguous()
        for path, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    save_file(deltas, folder / "delta.safetensors")


def rename():
    shutil.copytree(OUT / "patterns", OUT / "named")
    weights = load_file(OUT / "patterns/adapter_model.safetensors")
    named = {key.removeprefix("base_model.model.").replace(".weight", ".default.weight"): value for key, value in weights.items()}
    save_file(named, OUT / "named/adapter_model.safetensors")
    (OUT / "named/delta.safetensors").unlink()


torch.manual_seed(3)
shutil.rmtree(OUT, ignore_errors=True)
for name, config in CASES.items():
    make(name, config)
rename()
print({m.__name__: m.__version__ for m in (peft, torch, transformers)})
