"""What transformers' generation does with logits, and what it says, for test/serve/sampler.test.ts and greedy.test.ts.

Run: python tools/generation-fixtures.py        (needs torch and transformers)

Writes test/fixtures/sampling.json: per case settings, tokens so far, logits, and the probabilities that tokens are drawn by, from
the list of processors that `generate` builds for these settings. And test/fixtures/greedy.json: greedy continuations by the tiny
models of test/fixtures/parity/models, in float64 over the weights as stored, with the smallest gap between the two best scores.
"""

import itertools
import json
import pathlib
import random

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "test/fixtures"
VOCABULARY = 40
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8, "temperature": 0.5},
    {"temperature": 0.6, "top_k": 12, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.2},
    {"top_p": 0.0001},
    {"top_k": 1000},
    {"min_p": 1.0},
]


def sampling():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                                         intermediate_size=8))
    cases = []
    for i, (settings, kind) in enumerate(itertools.product(SETTINGS, ["normal", "ties"])):
        generator = torch.Generator().manual_seed(i)
        logits = 3 * torch.randn(1, VOCABULARY, generator=generator)
        if kind == "ties":
            logits = logits.round()
        tokens = torch.randint(VOCABULARY, (1, 12), generator=generator)
        defaults = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, "do_sample": True}
        config = GenerationConfig(**{**defaults, **settings})
        processors = model._get_logits_processor(generation_config=config, input_ids_seq_length=12, device="cpu")
        probabilities = processors(tokens, logits.clone()).softmax(-1)
        cases.append({"settings": settings, "ties": kind == "ties", "tokens": tokens[0].tolist(), "logits": logits[0].tolist(),
                      "probabilities": probabilities[0].tolist(), "processors": [type(p).__name__ for p in processors]})
    return cases


def greedy():
    cases = []
    for folder in sorted((FIXTURES / "parity/models").iterdir()):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
        model.generation_config.eos_token_id = None
        # Longer than the original length of the longrope model: where a text grows beyond it, transformers changes the
        # frequencies and computes the text anew, which an engine that keeps its keys does not.
        for penalty, length in ((1.0, 5), (1.3, 6)):
            chance = random.Random(f"{folder.name} {penalty}")
            # Random tiny models like to be undecided: of some prompts the one whose choices are clearest.
            runs = [continuation(model, [chance.randrange(model.config.vocab_size) for _ in range(length)], penalty)
                    for _ in range(8)]
            best = max(runs, key=lambda run: run["gap"])
            cases.append({"model": folder.name, "repetitionPenalty": penalty, **best})
    return cases


def continuation(model, prompt, penalty):
    out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20, repetition_penalty=penalty,
                         output_scores=True, return_dict_in_generate=True, pad_token_id=0)
    tops = [score[0].topk(2).values for score in out.scores]
    return {"prompt": prompt, "tokens": out.sequences[0, len(prompt):].tolist(),
            "gap": min(float(first - second) for first, second in tops)}


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
versions = {m.__name__: m.__version__ for m in (torch, transformers)}
for name, cases in (("sampling", sampling()), ("greedy", greedy())):
    (FIXTURES / f"{name}.json").write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")
    print(name, len(cases), "cases")
