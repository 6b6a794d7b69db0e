"""Loads a GGUF model that qdylora wrote into transformers, by transformers' own GGUF reader, puts exported PEFT slices on it,
and compares logits with what qdylora computed in process.

    python tools/verify-gguf-peft.py REQUEST.json

REQUEST.json: {"gguf": FILE, "sequences": [[token, ...], ...],
               "slices": [{"rank", "folder", "logits": SAFETENSORS with "0", "1", ... [V], of each sequence's last token}]}
The answer goes to stdout as JSON.
"""

import importlib.util
import json
import platform
import sys
from pathlib import Path

NEEDED = ["torch", "transformers", "peft", "gguf", "safetensors", "numpy"]


def main():
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"verify-gguf-peft: this Python ({sys.executable}, {platform.python_version()}) lacks {', '.join(missing)}. "
            f"Try: pip install {' '.join(missing)}, or name another interpreter in QDYLORA_PYTHON."
        )
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file

    request = json.loads(Path(sys.argv[1]).read_text())
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    path = Path(request["gguf"])
    sequences = [torch.tensor(tokens)[None] for tokens in request["sequences"]]
    results = []

    def last_logits(model):
        with torch.no_grad():
            return torch.stack([model(input_ids=s, use_cache=False).logits[0, -1].double() for s in sequences])

    for piece in request["slices"]:
        base = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        base.eval()
        without = last_logits(base)
        model = peft.PeftModel.from_pretrained(base, piece["folder"], autocast_adapter_dtype=False).eval()
        expected = last_logits(model)
        ours = load_file(piece["logits"])
        got = torch.stack([ours[str(i)].double() for i in range(len(sequences))])
        results.append({
            "rank": piece["rank"],
            "relative": float((got - expected).norm() / expected.norm()),
            "worstRow": float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max()),
            "adapterEffect": float((expected - without).norm() / expected.norm()),
            "sameTopToken": float((got.argmax(1) == expected.argmax(1)).double().mean()),
        })
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    print(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
