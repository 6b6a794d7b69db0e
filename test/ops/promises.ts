// Two promises that no single call shows: a smaller rank after a larger one in the same memory, and segments that do not
// see each other, to the bit.

import { describe, expect, it } from "vitest";
import type { Backend } from "../../src/backends/backend.ts";
import { adaptedLinears } from "../../src/ops/adapted-linears.ts";
import { attention, sampleAttention } from "../../src/ops/attention.ts";
import { attentionBackward } from "../../src/ops/attention-backward.ts";
import type { OpArgs } from "../../src/ops/op.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { readMatrix, writeMatrix } from "../../src/tensor/host.ts";
import { colSlice, rowSlice, type Tensor } from "../../src/tensor/tensor.ts";
import { type AnyOp, runGuarded } from "./conformance.ts";
import { sampleMaker } from "./sampling.ts";
import { DENSE, download, elementBytes, upload } from "./upload.ts";

export function itKeepsRanksAndSegmentsApart(backend: Backend, dtypes: readonly DType[]): void {
  describe("ranks and segments", () => {
    for (const dtype of dtypes) {
      if (!("unsupported" in backend.kernels.adaptedLinears))
        for (const tail of ["", ", with a tail"])
          it(`a smaller rank after a larger one gives what it gives alone${tail} (${dtype})`, () =>
            smallerRank(backend, dtype, tail));
      if (!("unsupported" in backend.kernels.attention) && !("unsupported" in backend.kernels.attentionBackward))
        for (const extras of [{}, { window: 7, softCap: 3 }])
          it(`a segment does not see the other ones (${dtype}${"window" in extras ? ", window" : ""})`, () =>
            separateSegments(backend, dtype, extras));
    }
  });
}

async function smallerRank(backend: Backend, dtype: DType, tail: string): Promise<void> {
  const sample = adaptedLinears.samples.find(({ name }) => name === `q, k, v: three widths, b = R${tail}`)!;
  const make = () => sample.make(sampleMaker(dtype, "smaller rank"));
  const small = [{ from: 0, to: 19, rank: 3, scale: 2 }];
  const alone = upload(backend, make(), DENSE);
  const after = upload(backend, make(), DENSE);
  try {
    await runGuarded(backend, adaptedLinears as AnyOp, { args: { ...alone.args, ranges: small } as OpArgs });
    await runGuarded(backend, adaptedLinears as AnyOp, after);
    const wide = await Promise.all(after.args.t.map((t) => download(backend, t!)));
    await runGuarded(backend, adaptedLinears as AnyOp, { args: { ...after.args, ranges: small } as OpArgs });
    for (const [i, y] of after.args.y.entries()) {
      expect(await bits(backend, y)).toEqual(await bits(backend, alone.args.y[i]!));
      const t = await download(backend, after.args.t[i]!);
      expect(elementBytes(colSlice(t, 3, t.cols))).toEqual(elementBytes(colSlice(wide[i]!, 3, t.cols)));
    }
  } finally {
    alone.dispose();
    after.dispose();
  }
}

/** Two segments and a tail; everything outside the second segment is changed, and its results must stay to the bit. */
async function separateSegments(
  backend: Backend,
  dtype: DType,
  extras: { readonly window?: number; readonly softCap?: number },
): Promise<void> {
  const shape = { name: "apart", n: 41, heads: 4, groups: 2, headDim: 24, starts: [0, 18, 37], ...extras };
  const results: Uint8Array[][] = [];
  for (const change of [false, true]) {
    const m = sampleMaker(dtype, "segments");
    const args = sampleAttention(m, shape);
    const { q, k } = args;
    const dO = m.normal(dtype, q.rows, q.cols);
    if (change) for (const tensor of [args.q, args.k, args.v, dO]) doubleOutside(tensor, 18, 37);
    const gradients = { dq: q, dk: k, dv: k };
    const outputs = Object.entries(gradients).map(([name, like]) => [
      name,
      m.output("out", dtype, like.rows, like.cols),
    ]);
    const loaded = upload(
      backend,
      { ...args, dO, ...(Object.fromEntries(outputs) as Record<keyof typeof gradients, Tensor>) },
      DENSE,
    );
    try {
      await runGuarded(backend, attention as AnyOp, loaded);
      await runGuarded(backend, attentionBackward as AnyOp, loaded);
      const { o, lse, dq, dk, dv } = loaded.args;
      results.push(await Promise.all([o, lse, dq, dk, dv].map((t) => bits(backend, rowSlice(t, 18, 37)))));
    } finally {
      loaded.dispose();
    }
  }
  expect(results[1]).toEqual(results[0]);
}

function doubleOutside(tensor: Tensor, from: number, to: number): void {
  const inside = (i: number) => i >= from * tensor.cols && i < to * tensor.cols;
  writeMatrix(
    tensor,
    readMatrix(tensor).map((value, i) => (inside(i) ? value : 2 * value)),
  );
}

async function bits(backend: Backend, tensor: Tensor): Promise<Uint8Array> {
  return elementBytes(await download(backend, tensor));
}
