// Linears whose weights are decoded in parts, as those of large models are: the same contract, with as little scratch as parts allow.

import { afterAll, beforeAll, describe, test } from "vitest";
import { type CudaBackend, openCuda } from "../../src/backends/cuda/cuda.ts";
import { OPS } from "../../src/ops/index.ts";
import { type AnyOp, conforms } from "../ops/conformance.ts";

describe("weights in parts of 128 rows and columns", () => {
  let backend: CudaBackend;
  beforeAll(async () => {
    backend = await openCuda({ decodedBytes: 1 });
  });
  afterAll(() => backend[Symbol.asyncDispose]());

  for (const name of ["adaptedLinears", "adaptedLinearsBackward"] as const)
    for (const sample of (OPS[name] as unknown as AnyOp).samples)
      for (const dtype of ["f32", "bf16"] as const)
        if (sample.dtypes.includes(dtype))
          test(`${name}, ${sample.name} (${dtype})`, () =>
            conforms(backend, OPS[name] as unknown as AnyOp, sample, dtype));
});
