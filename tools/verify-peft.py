"""Loads exported adapter slices into real peft + transformers and compares logits with what qdylora computed in process.

    python tools/verify-peft.py REQUEST.json

`npm run verify:peft` (test/verify/peft.test.ts) writes the request and reads the answer: one JSON object on stdout. The base
in peft is transformers' own model in float64 whose block linears hold the 4-bit values that tools/parity-fixtures.py
computes from the stored weights, so nothing but the exported files comes from qdylora.

REQUEST.json: {"cases": [{"name", "base": FOLDER, "baseFormat", "doubleQuant", "sequences": [[token, ...], ...],
               "slices": [{"rank", "folder", "logits": SAFETENSORS with "0", "1", ... [T, V] per sequence}]}]}
"""

import importlib.util
import json
import platform
import sys
from pathlib import Path

NEEDED = ["torch", "transformers", "peft", "safetensors", "numpy"]


def main():
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"verify-peft: this Python ({sys.executable}, {platform.python_version()}) lacks {', '.join(missing)}. "
            f"Try: pip install {' '.join(missing)}, or name another interpreter in QDYLORA_PYTHON."
        )
    fixtures = load_fixture_maker()
    request = json.loads(Path(sys.argv[1]).read_text())
    fixtures.transformers.logging.disable_progress_bar()
    fixtures.torch.set_num_threads(1)
    fixtures.float64_islands()
    results = [result for case in request["cases"] for result in verify_case(fixtures, case)]
    print(json.dumps({"versions": fixtures.versions(), "results": results}))


def load_fixture_maker():
    """tools/parity-fixtures.py as a module: the independent quantiser and model live there."""
    path = Path(__file__).resolve().parent / "parity-fixtures.py"
    spec = importlib.util.spec_from_file_location("parity_fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def verify_case(fixtures, case):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    base, _ = fixtures.load_base(Path(case["base"]), case["baseFormat"], case["doubleQuant"])
    sequences = [torch.tensor(tokens)[None] for tokens in case["sequences"]]
    with torch.no_grad():
        of_base = [base(input_ids=s, use_cache=False).logits[0] for s in sequences]
    for piece in case["slices"]:
        model, _ = fixtures.load_base(Path(case["base"]), case["baseFormat"], case["doubleQuant"])
        model = PeftModel.from_pretrained(model, piece["folder"], autocast_adapter_dtype=False).double().eval()
        ranks = {m.r["default"] for m in model.modules() if hasattr(m, "lora_A")}
        ours = load_file(piece["logits"])
        with torch.no_grad():
            theirs = [model(input_ids=s, use_cache=False).logits[0] for s in sequences]
        got = torch.cat([ours[str(i)].double() for i in range(len(sequences))])
        expected, without = torch.cat(theirs), torch.cat(of_base)
        yield {
            "case": case["name"],
            "rank": piece["rank"],
            "ranksInPeft": sorted(ranks),
            "rows": len(expected),
            # Norms relative to the expected row; the last says how much the adapter changes at all.
            "relative": float((got - expected).norm() / expected.norm()),
            "worstRow": float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max()),
            "adapterEffect": float((expected - without).norm() / expected.norm()),
            "sameTopToken": float((got.argmax(1) == expected.argmax(1)).double().mean()),
        }


if __name__ == "__main__":
    main()
