// `npm run verify:cuda`: the cuda backend on the GPU of this machine. Fails where there is none.

import { describe, expect, it } from "vitest";
import { type CudaBackend, openCuda } from "../../src/backends/cuda/cuda.ts";
import { conformance } from "../ops/conformance.ts";

let backend: CudaBackend | null = null;
await conformance("cuda", async () => {
  backend = await openCuda();
  return backend;
});

/** Beside the generation at hand. */
const HOPPER = "sm_90a";
const TARGETS = ["sm_80", "sm_89", HOPPER, "sm_120"];

describe("what the suite compiled", () => {
  for (const target of TARGETS)
    it(`compiles for ${target} too`, () => {
      const { modules } = backend!.device;
      const builds = modules.builds.filter(({ defines }) => target === HOPPER || !defines.includes("-DPATH=HOPPER"));
      const byFile = new Map(builds.map((build) => [build.file, build]));
      expect(byFile.size).toBeGreaterThan(20);
      for (const { file, defines } of byFile.values())
        expect(modules.compile(file, defines, target).byteLength, file).toBeGreaterThan(0);
    });
});
