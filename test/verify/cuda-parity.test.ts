// `npm run verify:cuda`: a whole model on the GPU against transformers + peft + torch in float64, with the bounds of the cpu
// backend: logits, losses, gradients, and ten steps.

import { itAgreesWithTorch } from "../parity/agreement.ts";
import { itFollowsTorch } from "../parity/curve.ts";
import { SETTINGS } from "../parity/lab.ts";

for (const setting of SETTINGS.filter(({ backend }) => backend === "cpu")) {
  itAgreesWithTorch({ ...setting, backend: "cuda" });
  itFollowsTorch({ ...setting, backend: "cuda" });
}
