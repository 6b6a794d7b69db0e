"""A QLoRA training step of SmolLM2-135M's shape with PyTorch + transformers + peft + bitsandbytes on the CPU.

The other side of tools/compare-peer-cpu.mjs: random weights of the true shape, NF4 with double quantisation, bf16 compute,
LoRA of rank 64 on all seven linears, every token supervised; forward, backward, clipping and AdamW timed, median of many.

  python tools/bench-peer-cpu.py --folder peer --seconds 10        prints one JSON object

Two recipes: `plain` is the fastest that was found (nothing recomputed, frozen weights as loaded); `prepared` is what
QLoRA guides do, peft.prepare_model_for_kbit_training at its defaults: gradient checkpointing, unquantised weights in f32.
"""
import argparse
import json
import statistics
import time

import bitsandbytes
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM


def build(folder, rank, recipe):
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, head_dim=64, tie_word_embeddings=True, rope_theta=100000.0, max_position_embeddings=2048,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu", attn_implementation="sdpa"
    )
    if recipe == "prepared":
        model = prepare_model_for_kbit_training(model)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=rank, lora_alpha=16, target_modules=targets, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--recipe", choices=["plain", "prepared"], default="plain")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = build(args.folder, args.rank, args.recipe).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    tokens = torch.randint(0, 49152, (args.batch, args.seq + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        return loss.item()

    step()
    times = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < args.seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    print(json.dumps({
        "tokensPerSecond": args.batch * args.seq / median, "stepMs": 1000 * median, "steps": len(times),
        "threads": torch.get_num_threads(), "recipe": args.recipe,
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)},
    }))


if __name__ == "__main__":
    main()
