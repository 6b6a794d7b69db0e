// A promise of the CPU backend beyond the op contract: every output of every sample has the same bits for any number of threads.

import { afterAll, describe, expect, it } from "vitest";
import type { CpuBackend } from "../../src/backends/cpu/cpu.ts";
import { OPS, type OpName } from "../../src/ops/index.ts";
import { type OpArgs, tensorsOf } from "../../src/ops/op.ts";
import { matrix } from "../../src/tensor/tensor.ts";
import { type AnyOp, type AnyRunner, isOutput } from "./conformance.ts";
import { sampleMaker } from "./sampling.ts";
import { DENSE, upload } from "./upload.ts";

/** Registers a test for every op that the backend has a kernel for. */
export async function threadsChangeNoBit(title: string, open: (threads: number) => Promise<CpuBackend>): Promise<void> {
  const one = await open(1);
  const backends = new Map([[1, Promise.resolve(one)]]);
  const outputsWith = async (threads: number, op: AnyOp, host: OpArgs) => {
    if (!backends.has(threads)) backends.set(threads, open(threads));
    return outputsOf(await backends.get(threads)!, op, host);
  };

  describe(`${title}: the number of threads changes no bit of`, () => {
    afterAll(async () => {
      for (const backend of backends.values()) await (await backend)[Symbol.asyncDispose]();
    });
    const kernels = Object.entries(one.kernels).filter(([, kernel]) => !("unsupported" in kernel));
    for (const name of kernels.map(([key]) => key as OpName)) {
      const op = OPS[name] as unknown as AnyOp;
      it(name, async () => {
        for (const sample of op.samples)
          for (const dtype of ["f32", "bf16"] as const) {
            if (!sample.dtypes.includes(dtype)) continue;
            const args = () => sample.make(sampleMaker(dtype, `${name} ${sample.name}`));
            const single = await outputsWith(1, op, args());
            expect(single.length).toBeGreaterThan(0);
            for (const threads of [2, 3]) expect(await outputsWith(threads, op, args()), sample.name).toEqual(single);
          }
      });
    }
  });
}

/** The bytes of every output after one call. */
async function outputsOf(backend: CpuBackend, op: AnyOp, host: OpArgs): Promise<Uint8Array[]> {
  const loaded = upload(backend, host, DENSE);
  const runner: AnyRunner = backend;
  const bytes = runner.scratchBytes(op.name as OpName, loaded.args);
  const scratch = bytes > 0 ? backend.alloc(bytes, "scratch") : null;
  try {
    runner.run(op.name as OpName, loaded.args, scratch && matrix(scratch, "u8", 1, bytes));
    const outputs = tensorsOf(loaded.args).filter(({ key }) => isOutput(op, key));
    return await Promise.all(outputs.map(({ tensor }) => backend.read(tensor.buffer as never, 0, tensor.buffer.bytes)));
  } finally {
    scratch?.dispose();
    loaded.dispose();
  }
}
